"""A picture edited without being inverted: a jump for the difference of two captions.

At each level the given picture is noised anew, x_src = alpha_t x_0 + sigma_t n, and the model is asked twice:
with the picture's own caption, and with another one about x_src + Delta_t, where Delta_t is how far the edit
has gone. The difference takes jump.py's own step,

    Delta_s = a Delta_t + b (D_target(x_src + Delta_t) - D_source(x_src))

from Delta = 0 at the top; at sigma 0 the edited picture is x_0 + Delta. With all of a (eta 0) this is
FlowEdit (Kulikov et al., arXiv 2412.08629, algorithm 1), there for flow models; with a = 0 (full renoise at
eta 1) it is the DDCM sampling of InfEdit (Xu et al., arXiv 2312.04965, algorithm 2), there for consistency
models.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from .calls import Denoise
from .solve import check_finite, jumps


@dataclass
class Edit:
    """An edited batch of B pictures.

    picture  x_0 + Delta / alpha at the last level, (B, ...)
    mask     how much of each step was taken in the end, (B, 1, ...), 0 to 1
    calls    model calls
    """

    picture: torch.Tensor
    mask: torch.Tensor
    calls: int


def edit(
    source: Denoise,
    target: Denoise,
    picture: torch.Tensor,
    alphas: list[float],
    sigmas: list[float],
    noise: Callable[[int, int], torch.Tensor],
    *,
    eta: float = 0.0,
    averages: int = 1,
    softness: float = 0.0,
) -> Edit:
    """Edit x_0 = picture (B, C, ...) over falling sigmas, with 2 * averages model calls at each.

    source and target answer with either caption; noise(i, k) -> the k-th n ~ N(0, I) of sigmas[i]. The
    difference is the mean over the averages. softness above 0 takes the step in full only where the
    difference is large (see `soft_mask`); elsewhere Delta / alpha stays as it is. Raises FloatingPointError
    that names the first step that stopped being finite.
    """
    delta, energy, sums = torch.zeros_like(picture), 0.0, []
    mask = torch.ones_like(picture[:, :1])
    for i, (a, b, _) in enumerate(jumps(alphas, sigmas, eta, "full renoise")):
        difference = torch.zeros_like(picture)
        for k in range(averages):
            x_src = alphas[i] * picture + sigmas[i] * noise(i, k)
            difference += (target(x_src + delta, i) - source(x_src, i)) / averages
        if softness > 0:
            energy = energy + difference.square().mean(1, keepdim=True)
            mask = soft_mask(energy, softness)
        stays = alphas[i + 1] / alphas[i] * delta if alphas[i] > 0 else delta
        delta = torch.lerp(stays, a * delta + b * difference, mask.expand_as(delta))
        sums.append(delta.sum())
    check_finite(sums, sigmas)
    return Edit(picture + delta / alphas[-1], mask, 2 * averages * len(sums))


def soft_mask(energy: torch.Tensor, softness: float) -> torch.Tensor:
    """e / (e + softness * mean e) of each picture: near 1 where the captions differ most, near 0 where they
    differ less than on the whole. energy: (B, 1, ...), sum of the squared differences so far."""
    mean = energy.flatten(1).mean(1).view(-1, *[1] * (energy.ndim - 1))
    return energy / (energy + softness * mean).clamp_min(torch.finfo(energy.dtype).tiny)
