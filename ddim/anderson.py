"""Anderson acceleration: x <- x + f(x), with the last steps combined so that they cancel best.

Type II of Walker and Ni, "Anderson Acceleration for Fixed-Point Iterations" (SIAM J. Numer. Anal. 49, 2011).
Pan et al., "Effective Real Image Editing with Accelerated Iterative Diffusion Inversion" (arXiv 2309.04907),
use it to invert DDIM.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

WINDOW = 3  # steps that are combined
PATIENCE = 8  # fruitless steps after which a picture is given up: low-precision models stop improving
RANK = 1e-5  # directions of the window weaker than this are noise


@dataclass
class Root:
    """What `solve` found, for a batch of B pictures.

    x      (B, ...)  the solution; where it was not reached, the best iterate
    error  (B,)      the least measured error of each picture, Python floats
    kept   (B, ...)  what `evaluate` gave beside it
    calls  evaluations that were spent
    stalled          whether a picture was given up because nothing made it better
    """

    x: torch.Tensor
    error: list[float]
    kept: torch.Tensor
    calls: int
    stalled: bool


def solve(
    evaluate: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor, torch.Tensor]],
    x: torch.Tensor,
    tolerance: float,
    max_iterations: int,
) -> Root:
    """Solve f(x) = 0 for each picture of the batch on its own, starting at x (B, ...).

    evaluate(x) -> (f, error, kept): the plain correction (B, ...), its size (B,), and a tensor (B, ...) to
    hand back. A picture rests once its error is at most tolerance, so batch mates do not change its result.
    It then takes the step it has already paid for, which brings the true error well below the measured one,
    unless f hardly answers to x there (beside a fold it can grow a few times).
    """
    pictures, memory = x.shape[0], Memory()
    is_open, stale, error = [True] * pictures, [0] * pictures, [math.inf] * pictures
    best, best_kept, calls = x, None, 0
    for _ in range(max_iterations):
        calls += 1
        f, measured, kept = evaluate(x)
        ahead = memory.advance(x, f)
        improved, converged = [False] * pictures, [False] * pictures
        for k, now in enumerate(measured.tolist()):
            improved[k] = is_open[k] and now < error[k]  # never true of NaN
            converged[k] = improved[k] and now <= tolerance
            error[k] = now if improved[k] else error[k]
            stale[k] = 0 if improved[k] else stale[k] + 1
            is_open[k] = is_open[k] and not converged[k] and math.isfinite(now) and stale[k] < PATIENCE
        best = choose(improved, choose(converged, ahead, x), best)
        best_kept = kept if best_kept is None else choose(improved, kept, best_kept)
        if not any(is_open):
            break
        x = choose(is_open, ahead, best)
    given_up = (e > tolerance and n >= PATIENCE for e, n in zip(error, stale, strict=True))
    return Root(best, error, best_kept, calls, any(given_up))


class Memory:
    """The last steps of an iteration, flat, in float64 on the CPU: nothing next to a model call, and not
    every device has float64."""

    def __init__(self):
        self.x, self.f = [], []

    def advance(self, x: torch.Tensor, f: torch.Tensor) -> torch.Tensor:
        """The accelerated successor of x, of its shape, dtype and device."""
        self.x.append(self.flat(x))
        self.f.append(self.flat(f))
        del self.x[: -WINDOW - 1], self.f[: -WINDOW - 1]
        step = self.f[-1]
        if len(self.x) > 1:
            dx, df = (
                torch.stack([later - earlier for earlier, later in itertools.pairwise(many)], dim=2)
                for many in (self.x, self.f)
            )
            size = df.norm(dim=1, keepdim=True).clamp_min(1e-300)
            dx, df = dx / size, df / size
            # The combination of past changes that comes closest to the present f; what it leaves over is the
            # step.
            weights = torch.linalg.lstsq(df, step[:, :, None], rcond=RANK, driver="gelsd").solution
            step = step - ((dx + df) @ weights)[:, :, 0]
        return (self.x[-1] + step).to(x).view_as(x)

    @staticmethod
    def flat(x: torch.Tensor) -> torch.Tensor:
        return x.detach().flatten(1).cpu().double().nan_to_num(0.0, 0.0, 0.0)


def choose(which: Sequence[bool], a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a's pictures where `which` (B booleans) says so, else b's."""
    if all(which):
        return a
    return torch.where(torch.tensor(which, device=a.device).view(-1, *[1] * (a.ndim - 1)), a, b)
