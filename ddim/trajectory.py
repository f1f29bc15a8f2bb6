"""The model's own trajectory, recorded once: the error of any schedule near it then costs no model call.

Along a deterministic run every model obeys  dx/dsigma = d(x, sigma) = (x - x0_hat) / sigma  (eps_hat where
                                             alpha = 1, the
velocity on flow models), and a DDIM jump is one Euler step of it. One reference run over a fine grid records
the slopes d. Everything that a schedule does near that run is then a weighted sum of the recorded slopes, so
its error follows from their inner products, whatever the size of the latent.
"""

import numpy as np
import torch

BETWEEN = 16  # positions that a schedule may take from one probed level to the next


def reference_run(probe, x, fine):
    """Run x down every BETWEEN-th of the falling levels fine (> 0), one model call each.

    Multistep, predicted through the last two slopes and corrected through the last three, the new one among
    them, as Adams-Moulton methods do. probe(x, sigma) -> x0_hat; probe.kept(slope) of every level is appended
    to probe.slopes.
    """
    guess, slopes = x, []
    for i, sigma in enumerate(fine[::BETWEEN]):
        slopes = [*slopes[-2:], (guess - probe(guess, sigma)) / sigma]
        probe.slopes.append(probe.kept(slopes[-1]))
        if i > 0:
            x = advanced(x, slopes, fine[(i - 1) * BETWEEN : i * BETWEEN + 1], len(slopes) - 2)
        if (i + 1) * BETWEEN < len(fine):
            guess = advanced(x, slopes[-2:], fine[i * BETWEEN : (i + 1) * BETWEEN + 1], min(i, 1))


def advanced(x, slopes, sigmas, node):
    """x after the levels sigmas, from one probed level to the next: their slopes are a polynomial through
    those given.

    The first of sigmas is the level of slopes[node].
    """
    places = node + torch.arange(BETWEEN + 1, dtype=torch.float64) / BETWEEN
    value = lagrange(places, range(len(slopes)))
    step = torch.tensor(sigmas, dtype=torch.float64).diff()[:, None]
    for weight, slope in zip((step * (value[1:] + value[:-1]) / 2).sum(0).tolist(), slopes, strict=True):
        x = x + weight * slope
    return x


class Reference:
    """A recorded run, and the levels that a schedule may visit: `positions` 0 (sigma_max) to M - 1
    (sigma_min).

    fine: M floats, strictly falling, M = (N - 1) BETWEEN + 1. slopes: (N, B, E) at fine[::BETWEEN], of B
    pictures, E elements each. start: (B, E), the noise that the run began with. Raises FloatingPointError
    where the slopes are not finite.
    """

    def __init__(self, fine, slopes, start):
        if not slopes.isfinite().all():
            raise FloatingPointError(
                "the reference run became NaN or infinite: the model returned values that are not finite"
            )
        self.sigmas = torch.tensor(fine, dtype=torch.float64)
        self.slopes, self.start = slopes, start
        self.value = cubic_weights(len(slopes))  # (M, N): the slope at each position, from the recorded ones
        steps = self.sigmas.diff()[:, None] * (self.value[1:] + self.value[:-1]) / 2
        self.integral = torch.cat(
            [torch.zeros_like(steps[:1]), steps.cumsum(0)]
        )  # (M, N): x there, less the start
        self.end = (
            self.integral[-1] - self.sigmas[-1] * self.value[-1]
        )  # (N,): x at sigma 0, which is x0_hat at sigma_min
        self.grams = products(slopes)  # (B, N, N)
        self.gram = self.grams.mean(0)
        spread = torch.stack([self._spread(self.integral[k * BETWEEN]) for k in range(len(slopes))])
        self.spread_end = float(self._spread(self.end))
        self.spread = (self.value @ spread.log()).exp()  # (M,)
        # How fast a small difference grows, for want of better: as the pictures part from each other.
        self.growth = torch.gradient(self.spread.log(), spacing=(self.sigmas,))[0]

    def state(self, weights):
        """x where weights are a row of integral or end: (B, E)."""
        return self.start + self.slope(weights)

    def slope(self, weights):
        return torch.tensordot(weights.to(self.slopes), self.slopes, 1)

    def _spread(self, weights):
        x = self.state(weights).double()
        return (x - x.mean(0) if len(x) > 1 else x - x.mean()).pow(2).mean().sqrt().clamp(min=1e-12)

    def rmse(self, weights):
        """Root mean square of sums of slopes: (..., N) -> (...)."""
        return root_mean_square(weights, self.gram)

    def positions(self, sigmas):
        """Where a schedule's sigmas (without its closing 0) lie, begun at sigma_max: (K,) floats."""
        at = np.interp(-np.array(sigmas), -self.sigmas.numpy(), np.arange(len(self.sigmas)))
        at[0] = 0
        return torch.tensor(at)


def interpolated(rows, positions):
    """Rows (M, ...) at positions that need not be whole."""
    left = positions.long().clamp(max=max(len(rows) - 2, 0))
    part = (positions - left).view(*positions.shape, *[1] * (rows.ndim - 1))
    return torch.lerp(rows[left], rows[(left + 1).clamp(max=len(rows) - 1)], part)


def products(fields):
    """Mean products of fields (N, B, E) with each other, of each picture: (B, N, N)."""
    return torch.stack([field.double() @ field.double().T / field.shape[1] for field in fields.unbind(1)])


def root_mean_square(weights, gram):
    """Of sums of fields with mean products gram (..., N, N), with weights (..., N)."""
    return ((weights @ gram) * weights).sum(-1).clamp(min=0).sqrt()


def cubic_weights(count):
    """Weights (M, count) that interpolate values at 0 .. count - 1 by cubics through the four nearest,
    BETWEEN to a unit."""
    places = torch.arange((count - 1) * BETWEEN + 1, dtype=torch.float64) / BETWEEN
    rows = torch.zeros(len(places), count, dtype=torch.float64)
    nodes = min(4, count)
    for k in range(count):
        first = min(max(k - 1, 0), count - nodes)
        after = slice(k * BETWEEN, (k + 1) * BETWEEN)
        rows[after, first : first + nodes] = lagrange(places[after], range(first, first + nodes))
    return rows


def lagrange(places, nodes):
    """Weights (..., n) of values at n nodes in the polynomial through them, at places (...)."""
    factors = [[(places - b) / (a - b) for b in nodes if b != a] for a in nodes]
    return torch.stack([torch.stack([torch.ones_like(places), *row]).prod(0) for row in factors], -1)
