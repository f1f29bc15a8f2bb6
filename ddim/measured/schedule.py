"""A schedule and coefficients measured on the model in front of it.

One reference run. Then a short list of schedules, those with the least sum of errors along that run first:
the best path through its levels by dynamic programming, and what else is known. True runs tell which is best,
find its coefficients and, on pictures that these were not fitted to, what they are worth.

Neighbours: Chen et al., GITS (2405.11326), dynamic programming over a recorded trajectory; Xue et al., DMN
(2402.17376); Sabour et al., Align Your Steps (2404.14507), whose tables are made offline.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch

from .. import solve
from ..calls import Model
from ..multistep import PLMS, DPMSolver2M, Solver
from .coefficients import Coefficients, Fit, Guidance
from .reference import Reference, Seen, reference_run

CRITERIA = ("reconstruction error", "score change")
WORTH = 0.98  # a gain of less than this over the plain sampler is none
ELEMENTS = 65536  # of all pictures together: a mean over these, drawn at random, stands for that of all
BLOCK = 4096  # elements of a product at once: what bounds its memory, and the wait for a cancel
LEAP = 2.0  # of its steps, how far dpmpp_2m extrapolates: beyond, it blows up what differs in other pictures

Interrupt = Callable[[], None]  # asked again and again where no model call comes; raises to end the work


@dataclass
class Measurement:
    """What was found. Errors are RMSE at sigma 0 to the reference, of each picture, then their mean."""

    sigmas: list[float]  # K + 1, the last 0
    source: str  # the schedule's name
    by_steps: list[float]  # sums of the errors of the best 1, 2, ... K jumps between recorded levels
    calls: int  # model calls, each of all pictures
    first_spread: float  # see first_spread
    plain: float | None = None  # error of the sampler that it is for, without coefficients
    coefficients: Coefficients | None = None
    held_out: float | None = None  # error with coefficients, each picture with those of the others
    rivals: dict[tuple[str, str], float] = field(default_factory=dict)  # (sampler, known schedule): error


class Trials:
    """The model, counted, and true runs from x, each judged at its end."""

    def __init__(self, model: Model, x: torch.Tensor, seen: Seen, levels: list[float]):
        chosen = torch.randperm(seen(x)[0].numel(), generator=torch.Generator().manual_seed(0))
        kept = chosen[: max(ELEMENTS // len(x), 1024)].sort().values.to(x.device)
        self.model, self.x, self.calls, self.runs = model, x, 0, 0
        self.seen = lambda x: seen(x).flatten(1)[:, kept].float().cpu()  # (B, ...) -> (B, E)
        self.reference = reference_run(self, x, levels, self.seen)

    def __call__(self, x: torch.Tensor, sigma: float) -> torch.Tensor:
        self.calls += 1
        return self.model(x, sigma)

    def error(self, solver: Solver, sigmas: list[float]) -> float:
        """Of a true run at its end: the mean over pictures of each one's RMSE."""
        self.runs += 1
        missed = self.seen(run(self, self.x, sigmas, solver)) - self.reference.end  # (B, E)
        return float(missed.double().square().mean(1).sqrt().mean())

    def fit(self, sigmas: list[float], guidance: Guidance | None) -> tuple[float, Fit]:
        """(error of a true run with coefficients fitted on its way, the Fit that holds them)."""
        fit = Fit(self.reference, self.seen, guidance)
        return self.error(fit, sigmas), fit


def run(model: Model, x: torch.Tensor, sigmas: list[float], solver: Solver | None = None) -> torch.Tensor:
    """DDIM or another solver at eta 0, where alpha = 1 gives the jumps of flow models too."""
    return solve.sample(lambda x, i: model(x, sigmas[i]), x, [1.0] * len(sigmas), sigmas, solver=solver)


def measure(
    model: Model,
    x: torch.Tensor,
    levels: list[float],
    steps: int,
    *,
    samplers: dict[str, PLMS | DPMSolver2M],
    used: str | None = None,
    candidates: dict[str, list[float]] | None = None,
    criterion: str = CRITERIA[0],
    refine: int = 4,
    seen: Seen = lambda x: x,
    guidance: Guidance | None = None,
    interrupt: Interrupt = lambda: None,
) -> Measurement:
    """The schedule of `steps` jumps from levels[0] to 0, and its coefficients, on the runs that begin with x.

    x (B, ...): noise at levels[0]. levels: falling, > 0, at least `steps`. samplers: {name: solver} to
    compare with, plain DDIM or what the user has in its place first. used: the one whose best schedule it
    shall be; None: the best schedule for coefficients. candidates: {name: sigmas with their 0}, tried and
    compared with. refine: 0 makes no true run and gives what the criterion finds; else there are at most
    refine + 4, of `steps` calls each. seen: linear in x; errors are those of seen(x). guidance: as in
    coefficients.py. Raises FloatingPointError where the model's answers are not finite.
    """
    trials = Trials(model, x, seen, levels)
    reference, plain = trials.reference, used or next(iter(samplers))
    solver = samplers[used] if used else PLMS()
    paths = shortest_paths(jump_errors(reference, solver.extrapolated, interrupt), steps, interrupt)
    found = {"dynamic programming": paths[-1][0]}
    if used is None:
        second = shortest_paths(jump_errors(reference, "x0_hat", interrupt), steps, interrupt)
        found["dynamic programming, order 2"] = second[-1][0]
    found = {name: [*(levels[i] for i in path), 0.0] for name, path in found.items()}
    known = {
        name: [levels[0], *each[1:]] for name, each in (candidates or {}).items() if len(each) == steps + 1
    }
    known = dict(sorted(known.items(), key=lambda each: path_error(reference, solver, each[1], interrupt)))
    tried = found | known
    if criterion == CRITERIA[1]:
        tried = {criterion: equal_score_change(reference, steps)}
    best, runs, fits = next(iter(tried)), {}, {}
    if refine and used is None:
        fits = {name: trials.fit(tried[name], guidance) for name in list(tried)[: refine + 1]}
        # A run that strays on its way may end as another picture on another seed, so that counts too.
        best = min(fits, key=lambda name: fits[name][0] + fits[name][1].straying)
    elif refine:
        few = itertools.islice(tried.items(), refine + 1)
        runs = {(used, name): trials.error(solver, sigmas) for name, sigmas in few}
        best = min(runs, key=runs.get)[1]
        fits[best] = trials.fit(tried[best], guidance)
    if refine:
        pairs = [(sampler, name) for name in known for sampler in samplers if (sampler, name) not in runs]
        for sampler, name in pairs[: refine + 4 - trials.runs]:
            runs[sampler, name] = trials.error(samplers[sampler], known[name])
    held_out, fit = fits.get(best, (None, None))
    by_plain = {name: error for (sampler, name), error in runs.items() if sampler == plain}
    if fit and len(x) > 1 and held_out > WORTH * min(by_plain.values(), default=math.inf):
        best, fit = min(by_plain, key=by_plain.get), None  # nothing is gained
    sigmas = (tried | known)[best]
    return Measurement(
        sigmas=sigmas,
        source=best,
        by_steps=[total for _, total in paths],
        calls=trials.calls,
        first_spread=first_spread(reference),
        plain=by_plain.get(best),
        coefficients=fit and Coefficients(tuple(sigmas), tuple(fit.weights), guidance is not None),
        held_out=held_out if fit and len(x) > 1 else None,
        rivals={pair: error for pair, error in runs.items() if pair[1] in known},
    )


def first_spread(reference: Reference) -> float:
    """How much x0_hat at the first level differs between the pictures, over how much their ends do.

    A denoiser's x0_hat is the mean of what a picture may become, and means differ less than what they are
    means of (the law of total variance): at most 1 without guidance, on any model that was not distilled.
    0 of one picture alone.
    """
    first = reference.x[0] - float(reference.sigmas[0]) * reference.slopes[0]
    spreads = [x.sub(x.mean(0)).square().mean().sqrt() for x in (first, reference.end)]
    return float(spreads[0] / spreads[1]) if len(first) > 1 else 0.0


def path_error(
    reference: Reference, solver: Solver, sigmas: list[float], interrupt: Interrupt = lambda: None
) -> float:
    """The sum of what each jump along the reference misses, as it arrives at sigma 0 (RMSE)."""
    towards, total = solver.begin(sigmas), 0.0
    for i, (t, s) in enumerate(itertools.pairwise(sigmas)):
        x, slope = reference.at(t)
        x0 = towards(i, x, x - t * slope)
        missed = x0 + s / t * (x - x0) - reference.at(s)[0]
        total += float(missed.double().square().mean().sqrt()) * reference.survives(s)
        interrupt()
    return total


def jump_errors(
    reference: Reference, extrapolated: str | None = None, interrupt: Interrupt = lambda: None
) -> torch.Tensor:
    """Error at sigma 0 of single jumps between the N recorded levels, and to 0 (index N): (N, N, N + 1), inf
    where not down.

    errors[g, h, i] is the RMSE of the jump h -> i after g -> h, both along the reference, times what survives
    of it at sigma 0. g matters only where something of the step before is extrapolated: the "slope" (PLMS, of
    any order taken as 2) or "x0_hat" (dpmpp_2m). errors[h, h, i] is the jump without history.
    """
    count, sigmas = len(reference.sigmas), torch.cat([reference.sigmas, torch.zeros(1).double()])
    survives = torch.tensor([reference.survives(sigma) for sigma in sigmas.tolist()], dtype=torch.float64)
    products = mean_products(reference, interrupt)
    # What is extrapolated, u = of_d d + of_x x: the slope, or x0_hat = x - sigma d.
    of_d, of_x = (-sigmas, 1.0) if extrapolated == "x0_hat" else (torch.ones_like(sigmas), 0.0)
    errors = torch.full((count, count, count + 1), torch.inf, dtype=torch.float64)
    for h in range(count):
        g, i = torch.arange(h + 1 if extrapolated else 1)[:, None], torch.arange(h + 1, count + 1)
        width, ratio, lever = sigmas[i] - sigmas[h], torch.zeros(len(g), len(i), dtype=torch.float64), 0.0
        if extrapolated == "slope":
            ratio, lever = ratio + 1 / 2, width
        elif extrapolated == "x0_hat":  # Lu et al. (2211.01095), algorithm 2
            ratio = (sigmas[h] / sigmas[i]).log() / (2 * (sigmas[g] / sigmas[h]).log())
            lever = 1 - sigmas[i] / sigmas[h]
        ratio = ratio.where((g < h) & (i < count), 0.0)  # without history, and to 0, a jump is DDIM's
        gain = lever * ratio
        # The jump misses  width d_h + x_h - x_i + gain (u_h - u_g).
        terms = [(h, width + gain * of_d[h]), (count + h, 1 + gain * of_x), (count + i, -1.0)]
        terms += [(g, -gain * of_d[g]), (count + g, -gain * of_x)]
        square = sum(p * q * products[j, k] for (j, p), (k, q) in itertools.product(terms, repeat=2))
        missed = square.clamp(min=0).sqrt() * survives[i]
        errors[: h + 1 if extrapolated else count, h, i] = missed.where(ratio <= LEAP, torch.inf)
        interrupt()
    return errors


def mean_products(reference: Reference, interrupt: Interrupt) -> torch.Tensor:
    """Of the reference's N slopes, its N states and its end with one another: (2N + 1, 2N + 1), float64."""
    recorded = torch.cat([reference.slopes, reference.x, reference.end[None]]).flatten(1)
    total = 0.0
    for part in recorded.split(BLOCK, 1):
        total = total + part.double() @ part.double().T
        interrupt()
    return total / recorded.shape[1]


def shortest_paths(
    errors: torch.Tensor, steps: int, interrupt: Interrupt = lambda: None
) -> list[tuple[list[int], float]]:
    """The paths of 1, 2, ... steps jumps from level 0 to sigma 0 with the least sum of errors.

    errors: of jump_errors. A path is the indices of the levels that it jumps from, and its sum. Dynamic
    programming over the last jump.
    """
    count = errors.shape[0]
    best = torch.full_like(errors[0], torch.inf)  # (N, N + 1): the least sum that ends with the jump h -> i
    best[0] = errors[0, 0]
    back, paths = [], []
    for done in range(1, steps + 1):
        at = [count, int(best[:, count].argmin())]  # from the end to the start
        for came in reversed(back):
            at.append(int(came[at[-1], at[-2]]))
        paths.append((at[:0:-1], float(best[:, count].min())))
        before, best = best, torch.full_like(best, torch.inf)
        back.append(torch.zeros(best.shape, dtype=torch.int16))
        for h in range(done, count):  # after `done` jumps no path is higher
            sums = before[:h, h, None] + errors[:h, h, h + 1 :]
            best[h, h + 1 :], back[-1][h, h + 1 :] = sums.min(0)
        interrupt()
    return paths


def equal_score_change(reference: Reference, steps: int) -> list[float]:
    """`steps` sigmas and 0 that part the run into equal integrals of sqrt(|d slope / d sigma|).

    Where Euler's local error is h^2 |d slope / d sigma| / 2, h ~ |d slope / d sigma|^(-1/2) gives the least
    sum of them.
    """
    change = reference.slopes.double().diff(dim=0).square().mean((1, 2)).sqrt()
    parts = (change * reference.sigmas.diff().abs()).clamp(min=1e-300).sqrt()
    gone = np.concatenate([[0.0], parts.cumsum(0)])
    wanted = gone[-1] * np.arange(steps) / steps
    return [*np.interp(wanted, gone, reference.sigmas).tolist(), 0.0]
