"""DDIM run backwards: from a picture to the noise, or the noise maps, that sampling turns into it.

With the jump x_s = a x_t + b x0_hat(x_t) + c z of jump.py, three ways to find x_t from x_s:

    ddim    eps_hat is taken at x_s instead of x_t: one call a step, error O(1/S)
            (Song, Meng, Ermon, arXiv 2010.02502, section 4.3).
    exact   the jump is solved for x_t, so that sampling returns the picture.
    maps    x_t is drawn, and what the jump then lacks is recorded
            (Huberman-Spiegelglas, Kulikov, Michaeli, arXiv 2304.06140).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import atan2, hypot, isfinite, sqrt

import torch
from torch import Tensor

from . import anderson
from .calls import Callback, Denoise, Noise
from .jump import Mixture, coefficients
from .solve import check_finite, jumps


@dataclass
class Inversion:
    """A recorded run of S jumps on a batch of B pictures; entry i of maps and errors belongs to the jump from
    sigmas[i] to sigmas[i + 1].

    states  x_t at each of the S + 1 sigmas, (B, ...), float32, on the CPU; the last is the picture
    maps    what the jump lacks: x_s - a x_t - b x0_hat(x_t), likewise; 0 where the jump was solved
    errors  root mean square of that, in units of sqrt(alpha_t^2 + sigma_t^2), one float a picture; empty
            where not measured
    stalled whether the solver gave the jump up because nothing brought it nearer, likewise: where guidance
            folds a jump over, no x_t may lead to x_s
    calls   model calls
    unsteady  how far the model's second answer to one and the same question was from the first (root mean
            square of the worst picture); None where it was not asked twice
    """

    states: list[Tensor] = field(default_factory=list)
    maps: list[Tensor] = field(default_factory=list)
    errors: list[list[float]] = field(default_factory=list)
    stalled: list[bool] = field(default_factory=list)
    calls: int = 0
    unsteady: float | None = None

    @classmethod
    def of(cls, picture: Tensor) -> "Inversion":
        """A run that has come to nothing but its picture, (B, ...)."""
        return cls([on_cpu(picture)])

    def put(
        self, x: Tensor, rest: Tensor | None = None, errors: Sequence[float] = (), stalled: bool = False
    ) -> None:
        """Record the jump before (noisier than) the last one recorded."""
        self.states.insert(0, on_cpu(x))
        self.maps.insert(0, torch.zeros_like(self.states[0]) if rest is None else on_cpu(rest))
        self.errors.insert(0, list(errors))
        self.stalled.insert(0, stalled)


def exact(
    denoise: Denoise,
    x: Tensor,
    alphas: list[float],
    sigmas: list[float],
    tolerance: float = 1e-5,
    max_iterations: int = 40,
    finer: Callable[[int], bool] | None = None,
) -> Inversion:
    """The Inversion of x (B, ...) at sigmas[-1] that ordinary DDIM over the same sigmas undoes.

    Each jump is solved until its error (see Inversion) is at most tolerance, for each picture of the batch on
    its own; a jump that is not, after max_iterations calls, goes on from its best iterate. finer(i) -> bool,
    where given, is asked before that: it may put a level between i and i + 1 into alphas and sigmas (lists),
    and both halves are solved in the jump's place. Raises FloatingPointError where the model returns no
    finite numbers.
    """
    run, slopes = Inversion.of(x), []

    def answer(x_t, i):
        x0 = denoise(x_t, i)
        if run.unsteady is None:  # a cache or a momentum answers the same question otherwise
            run.unsteady = root_mean_square(denoise(x_t, i) - x0).max().item()
            run.calls += 1
        return x0

    i = len(sigmas) - 2
    while i >= 0:
        (alpha, sigma), below = (alphas[i], sigmas[i]), (alphas[i + 1], sigmas[i + 1])
        a, b, _ = coefficients(alpha, sigma, *below)
        x_s = x
        guess = towards_noise(x_s, extrapolated(slopes, atan2(sigma, alpha)), (alpha, sigma), below)
        equation = jump_equation(lambda x_t, i=i: answer(x_t, i), x_s, a, b, alpha, sigma)
        root = anderson.solve(equation, guess, tolerance, max_iterations)
        run.calls += root.calls
        if not all(map(isfinite, root.error)):
            raise FloatingPointError(
                f"inversion stopped at step {i + 1} (sigma {sigma:.6g}): the model returned values that are"
                " not finite"
            )
        solved = [error <= tolerance for error in root.error]
        if not all(solved) and finer is not None and finer(i):
            i += 1
            continue
        x = root.x
        rest = anderson.choose(solved, torch.zeros_like(x), x_s - a * x - b * root.kept)
        run.put(x, rest, root.error, root.stalled)
        slopes.append((atan2(sigma, alpha), (x - alpha * root.kept) / sigma))
        del slopes[:-2]
        i -= 1
    return run


def jump_equation(
    denoise: Callable[[Tensor], Tensor], x_s: Tensor, a: float, b: float, alpha: float, sigma: float
) -> Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]:
    """x_s = a x_t + b x0_hat(x_t) as an equation for x_t, in the form that anderson.solve takes.

    denoise(x_t) -> x0_hat.
    """
    size = hypot(alpha, sigma)
    # The jump's slope in x if the data were a unit Gaussian; Anderson does what it leaves over.
    slope = a + b * alpha / size**2

    def evaluate(x_t):
        x0 = denoise(x_t)
        rest = x_s - a * x_t - b * x0
        return rest / slope, root_mean_square(rest) / size, x0

    return evaluate


def ddim(denoise: Denoise, x: Tensor, alphas: Sequence[float], sigmas: Sequence[float]) -> Inversion:
    """The Inversion of x (B, ...) at sigmas[-1] with one call a jump. Arguments as of `exact`.

    The noisiest jump is not measured: that would take one call more.
    """
    run, mixtures, table = Inversion.of(x), list(zip(alphas, sigmas, strict=True)), jumps(alphas, sigmas)
    last, sums = len(table) - 1, []
    x_s = x
    for i in reversed(range(last + 1)):
        # At sigma 0 the slope is 0 / 0: the model is asked one level up, with the picture as it is.
        at = last if sigmas[i + 1] == 0 else i + 1
        x_in = towards_noise(x, None, mixtures[at], mixtures[i + 1])
        x0 = denoise(x_in, at)
        if at == i + 1 <= last:
            a, b, _ = table[at]
            run.maps[0] = x_s.cpu() - (a * x + b * x0).cpu()
            run.errors[0] = (root_mean_square(run.maps[0]) / hypot(*mixtures[at])).tolist()
        alpha, sigma = mixtures[at]
        x_s, x = x, towards_noise(x, (x_in - alpha * x0) / sigma, mixtures[i], mixtures[i + 1])
        sums.append(x.sum())
        run.put(x)
    run.calls = last + 1
    check_finite(sums, sigmas[::-1])
    return run


def noise_maps(
    denoise: Denoise,
    x: Tensor,
    alphas: Sequence[float],
    sigmas: Sequence[float],
    eta: float,
    noise: Noise,
) -> Inversion:
    """The Inversion of x (B, ...) at sigmas[-1] for 0 < eta <= 1: one call a jump, and replaying it is exact.

    noise(i) -> z ~ N(0, I) of x's shape, from which x_t at level i is drawn: from the forward marginals, each
    level on its own (section 3.1 of 2304.06140), so that the maps carry more of the picture than DDPM's
    would.
    """
    run, mixtures, sums = Inversion.of(x), list(zip(alphas, sigmas, strict=True)), []
    picture = x
    table = jumps(alphas, sigmas, eta)
    for i in reversed(range(len(table))):
        a, b, _ = table[i]
        x_t = diffused(picture, noise(i), mixtures[i], mixtures[-1])
        rest = x - a * x_t - b * denoise(x_t, i)
        sums.append(rest.sum())
        run.put(x_t, rest, [0.0] * len(x))
        x = x_t
    run.calls = len(table)
    check_finite(sums, sigmas[::-1])
    return run


def replay(
    denoise: Denoise,
    x: Tensor,
    maps: Sequence[Tensor],
    alphas: Sequence[float],
    sigmas: Sequence[float],
    eta: float = 0.0,
    callback: Callback | None = None,
    states: Sequence[Tensor] = (),
    weights: Sequence[float | Tensor | None] = (),
) -> Tensor:
    """Sample from x at sigmas[0] with the recorded maps, on x's device: with the model of the inversion, its
    picture.

    weights, where given, hold the run to the recorded states: after jump i, x_s goes weights[i] of the way to
    states[i + 1] (0 free, 1 the record; floats, tensors that fit x, or None).
    """
    sums = []
    for i, (a, b, _) in enumerate(jumps(alphas, sigmas, eta)):
        x0 = denoise(x, i)
        if callback is not None:
            callback(i, x, x0)
        x = a * x + b * x0 + maps[i].to(x)
        if weights and weights[i] is not None:
            x = x + weights[i] * (states[i + 1].to(x) - x)
        sums.append(x.sum())
    check_finite(sums, sigmas)
    return x


def diffused(x_s: Tensor, z: Tensor, t: Mixture, s: Mixture) -> Tensor:
    """x_t drawn from the forward process, given x_s and z ~ N(0, I)."""
    keep = t[0] / s[0]
    return keep * x_s + sqrt(max(t[1] ** 2 - (keep * s[1]) ** 2, 0.0)) * z


def towards_noise(x_s: Tensor, eps: Tensor | None, t: Mixture, s: Mixture) -> Tensor:
    """x_t on the line through x_s whose noise is eps; without eps, x_s without further noise."""
    keep = t[0] / s[0]
    return keep * x_s if eps is None else keep * x_s + (t[1] - keep * s[1]) * eps


def extrapolated(slopes: list[tuple[float, Tensor]], angle: float) -> Tensor | None:
    """eps_hat at atan2(sigma, alpha) = angle, from the last two (angle, eps_hat); None without any."""
    if len(slopes) < 2 or slopes[-1][0] == slopes[-2][0]:
        return slopes[-1][1] if slopes else None
    (earlier, eps_earlier), (later, eps_later) = slopes
    return torch.lerp(eps_earlier, eps_later, (angle - earlier) / (later - earlier))


def on_cpu(x: Tensor) -> Tensor:
    """A float32 copy that nothing else writes into."""
    return x.detach().to("cpu", torch.float32, copy=True)


def root_mean_square(x: Tensor) -> Tensor:
    """Of each picture: (B, ...) -> (B,)."""
    return x.flatten(1).square().mean(1).sqrt()


def gaussianity(noise: Tensor) -> tuple[float, float]:
    """(standard deviation, correlation of neighbours) of noise (..., H, W); a Gaussian has (1, 0).

    The correlation is that of pixels side by side or on top of one another, the mean of each channel taken
    away.
    """
    noise = noise.double()
    deviation = noise.square().mean().sqrt().item()
    centred = noise - noise.mean((-2, -1), keepdim=True)
    pairs = [centred[..., 1:, :] * centred[..., :-1, :], centred[..., 1:] * centred[..., :-1]]
    pairs = torch.cat([pair.flatten() for pair in pairs])
    variance = centred.square().mean()
    return deviation, (pairs.mean() / variance).item() if len(pairs) and variance > 0 else 0.0
