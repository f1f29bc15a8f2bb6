"""Sampling: DDIM, and every multistep sampler of multistep.py, as one loop over the jump of jump.py."""

import itertools
from collections.abc import Sequence

import torch

from .calls import Callback, Clip, Denoise, Noise
from .jump import coefficients, in_places
from .multistep import PLMS, Solver


def jumps(
    alphas: Sequence[float],
    sigmas: Sequence[float],
    eta: float | Sequence[float] = 0.0,
    variance: str = "posterior",
) -> list[tuple[float, float, float]]:
    """Coefficients (a, b, c) of every jump between neighbours of a schedule; all on the host, before the
    loop. eta is one for all jumps, or one for each."""
    pairs = list(itertools.pairwise(zip(alphas, sigmas, strict=True)))
    etas = [eta] * len(pairs) if isinstance(eta, (int, float)) else eta
    return [coefficients(*t, *s, each, variance) for (t, s), each in zip(pairs, etas, strict=True)]


def sample(
    denoise: Denoise,
    x: torch.Tensor,
    alphas: Sequence[float],
    sigmas: Sequence[float],
    *,
    solver: Solver | None = None,
    eta: float | Sequence[float] = 0.0,
    variance: str = "posterior",
    noise: Noise | None = None,
    mask: torch.Tensor | None = None,
    clip: Clip | None = None,
    callback: Callback | None = None,
) -> torch.Tensor:
    """Run x from sigmas[0] down to sigmas[-1]: len(sigmas) - 1 model calls.

    The functions are those of calls.py. The state keeps x's dtype whatever x0_hat's is. solver: of
    multistep.py, DDIM without one. noise is called only where c > 0. eta is one number, or one for each jump;
    mask (0 to 1, of a shape that goes with x's) scales it in each place.
    Never waits for the GPU inside the loop. Raises FloatingPointError that names the first step at which the
    state stopped being finite, ValueError for a bad schedule, eta or variance.
    """
    towards = (solver or PLMS()).begin(sigmas)
    sums = []
    for i, (a, b, c) in enumerate(jumps(alphas, sigmas, eta, variance)):
        x0 = denoise(x, i).to(x.dtype)
        if clip is not None:
            x0 = clip(x0)
        if callback is not None:
            callback(i, x, x0)
        x0 = towards(i, x, x0)
        if c == 0:
            x = torch.mul(x0, b).add_(x, alpha=a)
        elif mask is None:
            x = torch.mul(x0, b).add_(x, alpha=a).add_(noise(i), alpha=c)
        else:
            a, b, c = in_places(a, c, (alphas[i], sigmas[i]), (alphas[i + 1], sigmas[i + 1]), mask)
            x = a * x + b * x0 + c * noise(i)
        sums.append(x.sum())  # one read; a NaN or infinity anywhere shows in it
    check_finite(sums, sigmas)
    return x


def check_finite(sums: list[torch.Tensor], sigmas: Sequence[float]) -> None:
    """Raise FloatingPointError at the first step whose sum is not finite; one wait for the device, at the
    end."""
    if not sums:
        return
    finite = torch.stack(sums).isfinite().tolist()
    if not all(finite):
        step = finite.index(False)
        raise FloatingPointError(
            f"the sample became NaN or infinite at step {step + 1} of {len(finite)} (sigma {sigmas[step]:.6g}"
            f" -> {sigmas[step + 1]:.6g}): the model returned values that are not finite, or its input"
            " already held some"
        )


def clamp(x0: torch.Tensor, limit: float) -> torch.Tensor:
    """Clip x0_hat to [-limit, limit], as DDPM does for pixels."""
    return x0.clamp(-limit, limit)


def dynamic_threshold(x0: torch.Tensor, limit: float, fraction: float = 0.995) -> torch.Tensor:
    """Clip each image at its own quantile and scale it back to limit: Saharia et al., arXiv 2205.11487,
    section 2.3."""
    flat = x0.flatten(1)
    quantile = flat.abs().kthvalue(max(1, round(fraction * flat.shape[1])), dim=1).values.clamp(min=limit)
    quantile = quantile.view(-1, *[1] * (x0.ndim - 1))
    return x0.clamp(-quantile, quantile) * (limit / quantile)


CLIPS = {"none": None, "clamp": clamp, "dynamic": dynamic_threshold}
