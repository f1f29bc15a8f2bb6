"""The model's own run over a fine grid, recorded once: what every step of a schedule should have reached.

A deterministic run obeys  dx/dsigma = d(x, sigma) = (x - x0_hat) / sigma,  and a DDIM jump is one Euler step
of it. The recorded x and d give x at every sigma, so the error of any jump along the run costs no model call.
"""

from collections.abc import Callable
from math import exp, log, prod

import torch

from ..calls import Model

Seen = Callable[[torch.Tensor], torch.Tensor]  # (B, ...) -> (B, E)

GAUSS = ((-(0.6**0.5), 5 / 9), (0.0, 8 / 9), (0.6**0.5, 5 / 9))  # places in -1 .. 1, and weights


class Reference:
    """A recorded run of B pictures, E elements each.

    sigmas (N,), falling; x (N, B, E) and slopes (N, B, E) there; end (B, E): x at sigma 0, which is x0_hat at
    the last level. On the CPU, float32; sigmas in float64.
    """

    def __init__(self, sigmas: list[float], x: list[torch.Tensor], slopes: list[torch.Tensor]):
        self.sigmas = torch.tensor(sigmas, dtype=torch.float64)
        self.x, self.slopes = torch.stack(x), torch.stack(slopes)
        self.end = self.x[-1] - sigmas[-1] * self.slopes[-1]
        if not self.end.isfinite().all():
            raise FloatingPointError(
                "the reference run became NaN or infinite: the model returned values that are not finite"
            )

    def at(self, sigma: float) -> tuple[torch.Tensor, torch.Tensor]:
        """x and its slope at sigma: the cubic through x and slope of the two levels around it (Hermite's)."""
        if sigma == 0:
            return self.end, self.slopes[-1]
        i = int(torch.searchsorted(-self.sigmas, -sigma)) - 1
        i = min(max(i, 0), len(self.sigmas) - 2)
        step = float(self.sigmas[i + 1] - self.sigmas[i])
        u = min(max((sigma - float(self.sigmas[i])) / step, 0.0), 1.0)
        gone, before, after = self.x[i + 1] - self.x[i], step * self.slopes[i], step * self.slopes[i + 1]
        bend, twist = 3 * gone - 2 * before - after, before + after - 2 * gone
        x = self.x[i] + u * (before + u * (bend + u * twist))
        return x, (before + u * (2 * bend + 3 * u * twist)) / step

    def survives(self, sigma: float) -> float:
        """What remains at sigma 0 of an error there, taken to shrink as the pictures' spread does."""
        spread, ends = (
            x.sub(x.mean(0) if len(x) > 1 else x.mean()).square().mean().sqrt().clamp(min=1e-12)
            for x in (self.at(sigma)[0], self.end)
        )
        return float(ends / spread)


def reference_run(model: Model, x: torch.Tensor, sigmas: list[float], seen: Seen) -> Reference:
    """Run x down the levels sigmas (> 0), one model call each.

    The slope is a polynomial in log sigma through the last levels: two to predict x, then, with the new slope
    among them, three to correct it, as Adams' methods of third order do.
    """
    states, recorded, slopes, guess = [], [], [], x
    for i, sigma in enumerate(sigmas):
        slopes = [*slopes[-2:], (guess - model(guess, sigma)) / sigma]
        if i > 0:
            x = moved(x, slopes, sigmas[: i + 1], sigmas[i - 1], sigma)
        states.append(seen(x))
        recorded.append(seen(slopes[-1]))
        if i + 1 < len(sigmas):
            guess = moved(x, slopes[-2:], sigmas[: i + 1], sigma, sigmas[i + 1])
    return Reference(sigmas, states, recorded)


def moved(
    x: torch.Tensor, slopes: list[torch.Tensor], sigmas: list[float], start: float, stop: float
) -> torch.Tensor:
    """x after going from sigma start to stop, with slopes at the last of sigmas."""
    for slope, weight in zip(slopes, integrals(sigmas[-len(slopes) :], start, stop), strict=True):
        x = x + weight * slope
    return x


def integrals(nodes: list[float], start: float, stop: float) -> list[float]:
    """Integrals over sigma of the Lagrange polynomials in log sigma of the nodes, by Gauss's three points."""
    logs = [log(node) for node in nodes]
    middle, half = log(start * stop) / 2, log(stop / start) / 2
    points = [(middle + part * half, weight * half) for part, weight in GAUSS]
    return [
        sum(weight * exp(at) * prod((at - b) / (a - b) for b in logs if b != a) for at, weight in points)
        for a in logs
    ]
