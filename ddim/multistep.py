"""Multistep samplers: which x0_hat a DDIM jump goes towards.

dx/dsigma = (x - x0_hat) / sigma is the slope of a run: eps_hat where alpha = 1, the velocity on flow models.
DDIM is an Euler step of it. A multistep sampler takes the same jump with another slope, or, what is the same,
towards another guess D of x0: slope = (x - D) / sigma.
"""

from collections.abc import Callable
from math import log
from typing import Protocol

import torch

# Adams-Bashforth weights, newest slope first: eq. 9 and 12 of Liu et al., "Pseudo Numerical Methods for
# Diffusion Models on Manifolds" (arXiv 2202.09778).
ADAMS_BASHFORTH = {
    1: (1.0,),
    2: (3 / 2, -1 / 2),
    3: (23 / 12, -16 / 12, 5 / 12),
    4: (55 / 24, -59 / 24, 37 / 24, -9 / 24),
}

Towards = Callable[[int, torch.Tensor, torch.Tensor], torch.Tensor]


class Solver(Protocol):
    """What `solve.sample` asks of a sampler, once before the run and once a step."""

    def begin(self, sigmas: list[float]) -> Towards:
        """towards(i, x, x0_hat) -> D, of x's shape: what the jump from sigmas[i] to sigmas[i + 1] goes
        towards.

        It is called for i = 0, 1, ... in order, keeps what it needs of the steps before, and changes neither
        x nor x0_hat. It never waits for the device.
        """


class PLMS:
    """DDIM (order 1), and the slope extrapolated by Adams-Bashforth (orders 2 to 4): Liu et al., 2202.09778.

    The first steps use what history there is; the jump to sigma 0 is DDIM's. Raises ValueError for another
    order.
    """

    def __init__(self, order: int = 1):
        if order not in ADAMS_BASHFORTH:
            raise ValueError(f"order is {order}; allowed are 1 (DDIM) to {max(ADAMS_BASHFORTH)} (PLMS)")
        self.order, self.extrapolated = order, "slope" if order > 1 else None

    def begin(self, sigmas: list[float]) -> Towards:
        slopes = []  # newest first

        def towards(i, x, x0):
            if self.order == 1 or sigmas[i + 1] == 0:
                return x0
            slopes.insert(0, (x - x0).div_(sigmas[i]))
            del slopes[self.order :]
            if len(slopes) == 1:
                return x0
            towards = x.clone()
            for weight, slope in zip(ADAMS_BASHFORTH[len(slopes)], slopes, strict=True):
                towards.add_(slope, alpha=-sigmas[i] * weight)
            return towards

        return towards


class DPMSolver2M:
    """x0_hat extrapolated in log sigma, the host's dpmpp_2m: Lu et al. (2211.01095), algorithm 2."""

    extrapolated = "x0_hat"

    def begin(self, sigmas: list[float]) -> Towards:
        before = None  # x0_hat of the step before

        def towards(i, x, x0):
            nonlocal before
            last, before = before, x0
            if last is None or sigmas[i + 1] == 0:
                return x0
            ratio = log(sigmas[i] / sigmas[i + 1]) / (2 * log(sigmas[i - 1] / sigmas[i]))
            return torch.lerp(last, x0, 1 + ratio)

        return towards
