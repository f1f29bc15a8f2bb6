"""Interpolation and arithmetic of noise that keep it noise.

A Gaussian in n dimensions lies near the sphere of radius sqrt(n). Two of them are nearly at right angles,
so the straight line between them cuts through the sphere (71 % of the radius half way), where the model
has never seen its input. The great circle stays on it: Song, Meng, Ermon, Denoising Diffusion Implicit
Models, arXiv 2010.02502, section 5.3 and appendix D.5.

Every function takes the noise of one picture, of any shape, and returns its shape and dtype.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

_PARALLEL = 1e-6  # sine below which float32 noises leave their plane to rounding


def slerp(a: Tensor, b: Tensor, weight: float) -> Tensor:
    """The point at `weight` (0 to 1) of the great circle from `a` to `b`; bit-identical to them at 0 and 1.

    For equal norms this is the paper's sin((1 - w) theta) / sin(theta) a + sin(w theta) / sin(theta) b.
    Unequal norms go over into one another linearly. Opposite noises are joined over a fixed half circle;
    where one is all zeros no direction is left, and the line is taken.
    """
    if weight == 0 or weight == 1:
        return (b if weight else a).clone()
    norm_a, norm_b = _norm(a), _norm(b)
    if norm_a == 0 or norm_b == 0:
        return lerp(a, b, weight)
    along, across, angle = _plane(a, b)
    norm = (1 - weight) * norm_a + weight * norm_b
    return (norm * (math.cos(weight * angle) * along + math.sin(weight * angle) * across)).to(a.dtype)


def lerp(a: Tensor, b: Tensor, weight: float) -> Tensor:
    """The straight line from `a` to `b`; bit-identical to them at `weight` 0 and 1."""
    if weight == 0 or weight == 1:
        return (b if weight else a).clone()
    return ((1 - weight) * a.double() + weight * b.double()).to(a.dtype)


def grid(
    a: Tensor,
    b: Tensor,
    c: Tensor,
    d: Tensor,
    x: float,
    y: float,
    between: Callable[[Tensor, Tensor, float], Tensor] = slerp,
) -> Tensor:
    """A point of the surface with corners `a` (x 0, y 0), `b` (1, 0), `c` (0, 1), `d` (1, 1).

    First down the sides a-c and b-d, then across.
    """
    return between(between(a, c, y), between(b, d, y), x)


def turn(a: Tensor, towards: Tensor, angle: float) -> Tensor:
    """`a` turned by `angle` (radians) into the direction of `towards`, its norm kept."""
    norm = _norm(a)
    if angle == 0 or norm == 0 or _norm(towards) == 0:
        return a.clone()
    along, across, _ = _plane(a, towards)
    return (norm * (math.cos(angle) * along + math.sin(angle) * across)).to(a.dtype)


def shift(base: Tensor, plus: Tensor, minus: Tensor, weight: float) -> Tensor:
    """base + weight (plus - minus), scaled back to the norm of `base`, so that unit variance stays.

    Raises ValueError where nothing is left to scale.
    """
    if weight == 0:
        return base.clone()
    total = base.double() + weight * (plus.double() - minus.double())
    norm, kept = _norm(total), _norm(base)
    if kept == 0:
        raise ValueError("base: the noise is all zeros, so there is no variance to keep.")
    if norm < _PARALLEL * kept:
        raise ValueError(
            f"base + {weight:g} (plus - minus) is all zeros: the noises cancel. Choose another weight or"
            " other noises."
        )
    return (total * (kept / norm)).to(base.dtype)


def unit_variance(noise: Tensor) -> Tensor:
    """`noise` scaled to a mean square of 1. Raises ValueError where it is all zeros."""
    norm = _norm(noise)
    if norm == 0:
        raise ValueError("latent_image: a picture is all zeros, so it cannot be scaled to unit variance.")
    return (noise.double() * (math.sqrt(noise.numel()) / norm)).to(noise.dtype)


def weights(frames: int, easing: str = "linear") -> list[float]:
    """`frames` weights from 0 to 1: evenly ("linear"), or starting and stopping gently ("smooth")."""
    line = [k / (frames - 1) for k in range(frames)] if frames > 1 else [0.0]
    return [w * w * (3 - 2 * w) for w in line] if easing == "smooth" else line


def _norm(a):
    return torch.linalg.vector_norm(a, dtype=torch.float64).item()


def _plane(a, b):
    """Unit vectors along `a` and at right angles to it towards `b`, and the angle between a and b."""
    along, other = a.double() / _norm(a), b.double() / _norm(b)
    cosine = (along * other).sum().item()
    across = other - cosine * along
    sine = _norm(across)
    angle = math.atan2(sine, cosine)
    if sine < _PARALLEL:
        # Any direction does, if it is the same from both ends and is itself like noise.
        generator = torch.Generator().manual_seed(0)
        across = torch.randn(a.shape, generator=generator, dtype=torch.float64).to(a.device)
        across = across - (across * along).sum() * along
        sine = _norm(across)
    return along, across / max(sine, torch.finfo(torch.float64).tiny), angle
