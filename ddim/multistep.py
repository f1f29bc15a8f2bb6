"""Deterministic multistep samplers as one rule: a step is x + (next sigma - sigma) slope, and the slope is
extrapolated.

What they extrapolate tells them apart. dx/dsigma = (x - x0_hat) / sigma is a slope, and so is (x - D) / sigma
for any other guess D of x0: the same DDIM jump, towards D. Tensors of any shape; what belongs to the steps
before comes newest first.
"""

from .solve import ADAMS_BASHFORTH, check_order


class PLMS:
    """The slope extrapolated, as solve.sample does: Liu et al. (2202.09778). Order 1 is DDIM."""

    def __init__(self, order=1):
        check_order(order)
        self.order = order

    def slope(self, sigmas, states, slopes):
        """sigmas: the next one, this one, that before, ...; states and slopes: here, before, ..."""
        return sum(
            weight * slope
            for weight, slope in zip(ADAMS_BASHFORTH[min(self.order, len(slopes))], slopes, strict=False)
        )

    def gain(self, following, sigma, before):
        """At order 2 the slope is the newest one and gain times change."""
        return 0.5

    def change(self, sigma, before, moved, slope, slope_before):
        return slope - slope_before

    def leaps(self, sigmas):
        """Nothing that a schedule could do about: the gain is the same for all."""
        return 0.0


class DPMSolver2M:
    """x0_hat extrapolated in log sigma, the host's dpmpp_2m: Lu et al. (2211.01095), algorithm 2."""

    order = 2

    def slope(self, sigmas, states, slopes):
        if len(slopes) == 1:
            return slopes[0]
        following, sigma, before = sigmas[:3]
        return slopes[0] + self.gain(following, sigma, before) * self.change(
            sigma, before, states[0] - states[1], *slopes[:2]
        )

    def gain(self, following, sigma, before):
        return (following / sigma).log() / (2 * (before / sigma).log() * sigma)

    def change(self, sigma, before, moved, slope, slope_before):
        """Of x0_hat = x - sigma slope; moved is that of x."""
        return moved - sigma * slope + before * slope_before

    def leaps(self, sigmas):
        """How far the steps of schedules (P, K) extrapolate: (P,), the sum of squares of what x changes by
        for a change of 1 in x0_hat."""
        following, sigma, before = sigmas[:, 2:], sigmas[:, 1:-1], sigmas[:, :-2]
        return ((following - sigma) * self.gain(following, sigma, before)).pow(2).sum(1)
