"""Measured coefficients: DDIM's jump with another slope, fitted to what the model's own run reached.

Along the student's own run, at step k, the slope is w . F with

    F = (d_k, d_{k-1}, d_{k-2}, g_k, g_{k-1}, x_T / sigma_max)

    d = (x - x0_hat) / sigma, DDIM's slope;   g = (x0_cond - x0_uncond) / sigma, under guidance alone
    w = (1, 0, ...) + (A'A + RIDGE (A'A)_00 I)^-1 A' (x*_{k+1} - x_k - h d_k)
    A = h F, over pictures and elements;   h = sigma_{k+1} - sigma_k;   x* is the reference's

PLMS is the same with Adams-Bashforth's w. Neighbours: Wang et al., PAS (2411.06503), which corrects the slope
in a basis of those before; Frankel et al., S4S (2502.17423), which learns a solver's coefficients.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..multistep import Towards
from .reference import Reference, Seen

RIDGE = 1e-3  # of the newest slope's sum of squares: what the pictures do not tell stays DDIM's
SLOPES, GUIDANCES = 3, 2  # how many steps back they reach

Guidance = Callable[[], torch.Tensor]  # x0_cond - x0_uncond of the model call just made


@dataclass(frozen=True)
class Coefficients:
    """What a measurement found: K + 1 sigmas, the last 0, and K rows of weights, one for each of F.

    F is shorter in the first steps, and without guidance.
    """

    sigmas: tuple[float, ...]
    weights: tuple[tuple[float, ...], ...]
    guided: bool


def in_rows(weights: list[float], steps: int, guided: bool) -> tuple[tuple[float, ...], ...]:
    """A plain list of weights as those of each step. Raises ValueError unless it holds as many as they
    need."""
    counts = [
        min(k + 1, SLOPES) + (min(k + 1, GUIDANCES) if guided else 0) + 1  # slopes, guidance, x_T
        for k in range(steps)
    ]
    if len(weights) != sum(counts):
        raise ValueError(
            f"{steps} steps {'under' if guided else 'without'} guidance have {sum(counts)} weights, not"
            f" {len(weights)}"
        )
    rest = iter(weights)
    return tuple(tuple(itertools.islice(rest, count)) for count in counts)


class Features:
    """F along one run: pairs (tensor, factor), so that no pass over a tensor is spent on dividing by
    sigma."""

    def __init__(self, sigmas: list[float], guidance: Guidance | None):
        self.sigmas, self.guidance = sigmas, guidance
        self.slopes, self.guidances, self.start = [], [], None

    def at(self, i: int, x: torch.Tensor, x0: torch.Tensor) -> list[tuple[torch.Tensor, float]]:
        """F at step i; the steps come in order."""
        factor = 1 / self.sigmas[i]
        if i == 0:
            self.start = (x, factor)
        self.slopes = [(x - x0, factor), *self.slopes[: SLOPES - 1]]
        if self.guidance is not None:
            self.guidances = [(self.guidance(), factor), *self.guidances[: GUIDANCES - 1]]
        return [*self.slopes, *self.guidances, self.start]


class Measured:
    """A Solver (multistep.py) with coefficients. guidance is called once a step, where they were measured
    with guidance."""

    def __init__(self, coefficients: Coefficients, guidance: Guidance | None = None):
        self.coefficients, self.guidance = coefficients, guidance

    def begin(self, sigmas: list[float]) -> Towards:
        features = Features(sigmas, self.guidance if self.coefficients.guided else None)

        def towards(i, x, x0):
            (each, factor), *others = features.at(i, x, x0)
            first, *weights = self.coefficients.weights[i]
            x = torch.add(x, each, alpha=-sigmas[i] * factor * first)
            for weight, (each, factor) in zip(weights, others, strict=True):
                x.add_(each, alpha=-sigmas[i] * factor * weight)
            return x

        return towards


class Fit:
    """A Solver that finds its coefficients as it runs.

    Each picture goes on with weights fitted to the others, so the run shows what an unseen picture would get,
    and each step is fitted to such states. A single picture goes on with its own. `weights` are those of all
    pictures.
    """

    def __init__(self, reference: Reference, seen: Seen, guidance: Guidance | None):
        self.reference, self.seen, self.guidance = reference, seen, guidance
        self.weights: list[tuple[float, ...]] = []
        self.strayed: list[float] = []  # at each level, times what survives of it at sigma 0

    @property
    def straying(self) -> float:
        """How far from the reference the run was on its way, a mean over the levels and sigma 0."""
        return sum(self.strayed) / (len(self.strayed) + 1)

    def begin(self, sigmas: list[float]) -> Towards:
        features = Features(sigmas, self.guidance)

        def towards(i, x, x0):
            pairs = features.at(i, x, x0)
            step = sigmas[i + 1] - sigmas[i]
            slopes = torch.stack([self.seen(each) * factor for each, factor in pairs], -1).double()
            here = self.seen(x)
            missing = self.reference.at(sigmas[i + 1])[0] - here - step * slopes[..., 0]
            strayed = float((here - self.reference.at(sigmas[i])[0]).square().mean().sqrt())
            self.strayed.append(strayed * self.reference.survives(sigmas[i]))
            a = step * slopes  # (B, E, F)
            square, product = a.mT @ a, (a.mT @ missing.double()[..., None])[..., 0]  # (B, F, F), (B, F)
            everything = ridge(square.sum(0), product.sum(0))
            others = ridge(square.sum(0) - square, product.sum(0) - product) if len(x) > 1 else everything
            self.weights.append(tuple(everything.tolist()))
            others = others.expand(len(x), -1).to(x)
            for weight, (each, factor) in zip(others.unbind(1), pairs, strict=True):
                x = x - sigmas[i] * factor * weight.view(-1, *[1] * (x.ndim - 1)) * each
            return x

        return towards


def ridge(square: torch.Tensor, product: torch.Tensor) -> torch.Tensor:
    """w from A'A (..., F, F) and A' of what DDIM's jump misses (..., F)."""
    towards_ddim = RIDGE * square[..., :1, :1] * torch.eye(square.shape[-1], dtype=square.dtype)
    weights = torch.linalg.solve(square + towards_ddim, product)
    weights[..., 0] += 1
    return weights
