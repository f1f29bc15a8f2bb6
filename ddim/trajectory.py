"""The model's own trajectory, recorded once: the error of any schedule near it then costs no model call.

Along a deterministic run every model obeys  dx/dsigma = d(x, sigma) = (x - x0_hat) / sigma  (eps_hat where alpha = 1, the
velocity on flow models), and a DDIM jump is one Euler step of it. One reference run over a fine grid records the slopes d.
Everything that a schedule does near that run is then a weighted sum of the recorded slopes, so its error follows from their
inner products, whatever the size of the latent.
"""

import torch

BETWEEN = 16  # positions that a schedule may take from one probed level to the next


def reference_run(probe, x, sigmas):
    """Run x down sigmas (floats > 0), one model call a level, second order: Adams-Bashforth, then a trapezoid without a new call.

    probe(x, sigma) -> x0_hat; probe.kept(slope) of every level is appended to probe.slopes.
    """
    guess, before = x, None
    for i, sigma in enumerate(sigmas):
        slope = (guess - probe(guess, sigma)) / sigma
        probe.slopes.append(probe.kept(slope))
        if i > 0:
            x = x + last / 2 * (slope + before)
        if i + 1 < len(sigmas):
            step = sigmas[i + 1] - sigma
            guess = x + step * slope if i == 0 else x + step * (slope + step / (2 * last) * (slope - before))
            before, last = slope, step


class Reference:
    """A recorded run, and the levels that a schedule may visit: `positions` 0 (sigma_max) to M - 1 (sigma_min).

    fine: M floats, strictly falling, M = (N - 1) BETWEEN + 1. slopes: (N, B, E) at fine[::BETWEEN], of B pictures, E elements
    each. start: (B, E), the noise that the run began with. Raises FloatingPointError where the slopes are not finite.
    """

    def __init__(self, fine, slopes, start):
        if not slopes.isfinite().all():
            raise FloatingPointError("the reference run became NaN or infinite: the model returned values that are not finite")
        self.sigmas = torch.tensor(fine, dtype=torch.float64)
        self.slopes, self.start = slopes, start
        self.value = cubic_weights(len(slopes))  # (M, N): the slope at each position, from the recorded ones
        steps = self.sigmas.diff()[:, None] * (self.value[1:] + self.value[:-1]) / 2
        self.integral = torch.cat([torch.zeros_like(steps[:1]), steps.cumsum(0)])  # (M, N): x there, less the start
        self.end = self.integral[-1] - self.sigmas[-1] * self.value[-1]  # (N,): x at sigma 0, which is x0_hat at sigma_min
        self.gram = sum(d.double() @ d.double().T for d in slopes.unbind(1)) / slopes[0].numel()  # (N, N) mean products
        spread = torch.stack([self._spread(self.integral[k * BETWEEN]) for k in range(len(slopes))])
        self.spread_end = float(self._spread(self.end))
        self.spread = (self.value @ spread.log()).exp()  # (M,)
        # How fast a small difference grows: that of pictures from each other, until a run measures its own.
        self.growth = torch.gradient(self.spread.log(), spacing=(self.sigmas,))[0]

    def state(self, weights):
        """x where weights are a row of integral or end: (B, E)."""
        return self.start + self.slope(weights)

    def slope(self, weights):
        return torch.tensordot(weights.to(self.slopes), self.slopes, 1)

    def set_growth(self, seen):
        """Growths that a true run saw, [(position, growth), ...]: sigma times growth is interpolated between them."""
        at = torch.tensor([position for position, _ in seen], dtype=torch.float64)
        seen = torch.tensor([float(self.sigmas[position]) * growth for position, growth in seen], dtype=torch.float64)
        everywhere = torch.arange(len(self.sigmas), dtype=torch.float64)
        if len(at) > 1:
            right = torch.searchsorted(at, everywhere).clamp(1, len(at) - 1)
            part = ((everywhere - at[right - 1]) / (at[right] - at[right - 1])).clamp(0, 1)
            seen = torch.lerp(seen[right - 1], seen[right], part)
        self.growth = seen / self.sigmas

    def _spread(self, weights):
        x = self.state(weights).double()
        return (x - x.mean(0) if len(x) > 1 else x - x.mean()).pow(2).mean().sqrt().clamp(min=1e-12)

    def defect(self, error):
        """What rmse needs to add an error (B, E) that is no sum of slopes: mean products with each slope (N,), and mean square."""
        error = error.double()
        return torch.stack([(slope.double() * error).mean() for slope in self.slopes]), error.pow(2).mean()

    def rmse(self, weights, defect=None):
        """Root mean square of sums of slopes: (..., N) -> (...); with a defect, of those and its error together."""
        square = ((weights @ self.gram) * weights).sum(-1)
        if defect is not None:
            products, own = defect
            square = square + 2 * weights @ products + own
        return square.clamp(min=0).sqrt()

    def positions(self, sigmas):
        """The positions nearest to a schedule's sigmas (without its closing 0), or None where two fall together."""
        near = [int((self.sigmas - float(sigma)).abs().argmin()) for sigma in sigmas]
        near[0] = 0
        return near if all(a < b for a, b in zip(near, near[1:])) else None


def cubic_weights(count):
    """Weights (M, count) that interpolate values at 0 .. count - 1 by cubics through the four nearest, BETWEEN to a unit."""
    rows = torch.zeros((count - 1) * BETWEEN + 1, count, dtype=torch.float64)
    nodes = min(4, count)
    for m in range(len(rows)):
        u = m / BETWEEN
        first = min(max(int(u) - 1, 0), count - nodes)
        near = range(first, first + nodes)
        for a in near:
            rows[m, a] = torch.tensor([(u - b) / (a - b) for b in near if b != a], dtype=torch.float64).prod()
    return rows
