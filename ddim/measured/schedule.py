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
from ..multistep import PLMS, Solver
from .coefficients import Coefficients, Fit, Guidance
from .reference import Denoise, Reference, Seen, reference_run

CRITERIA = ("reconstruction error", "score change")
WORTH = 0.98  # a gain of less than this over the plain sampler is none
ELEMENTS = 65536  # of all pictures together: a mean over these, drawn at random, stands for that of all
BLOCK = 4096  # elements of a product at once: what bounds its memory, and the wait for a cancel

LEAP = 2.0  # of its steps, how far dpmpp_2m extrapolates: beyond, it blows up what differs in other pictures
Interrupt = Callable[[], None]  # asked again and again where no model call comes; raises to end the work


@dataclass
class Measured:
    """What was found. Errors are RMSE at sigma 0 to the reference, of each picture, then their mean."""

    sigmas: list[float]  # K + 1, the last 0
    source: str  # the schedule's name
    by_steps: list[float]  # sums of the errors of the best 1, 2, ... K jumps between recorded levels
    calls: int  # model calls, each of all pictures
    measured: float | None = None  # error of the sampler that it is for, without coefficients
    coefficients: Coefficients | None = None
    held_out: float | None = None  # error with coefficients, each picture with those of the others
    rivals: dict[tuple[str, str], float] = field(default_factory=dict)  # (sampler, known schedule): error


@dataclass
class Fitted:
    """Coefficients of all pictures; how far from the reference each came with those of the others."""

    coefficients: Coefficients
    error: float  # at the end
    straying: float  # on the way, a mean: a run that strays may end as another picture on another seed


class Trials:
    """The model, counted, and true runs from x, each judged at its end."""

    def __init__(self, denoise: Denoise, x: torch.Tensor, seen: Seen, levels: list[float]):
        chosen = torch.randperm(seen(x)[0].numel(), generator=torch.Generator().manual_seed(0))
        kept = chosen[: max(ELEMENTS // len(x), 1024)].sort().values.to(x.device)
        self.denoise, self.x, self.calls, self.runs = denoise, x, 0, 0
        self.kept = lambda x: seen(x).flatten(1)[:, kept].float().cpu()  # (B, ...) -> (B, E)
        self.reference = reference_run(self, x, levels, self.kept)

    def __call__(self, x, sigma):
        self.calls += 1
        return self.denoise(x, sigma)

    def missed(self, solver: Solver, sigmas: list[float]) -> torch.Tensor:  # (B, E)
        self.runs += 1
        return self.kept(run(self, self.x, sigmas, solver)) - self.reference.end

    def fit(self, sigmas: list[float], guidance: Guidance | None) -> "Fitted":
        solver = Fit(self.reference, self.kept, guidance)
        error = rmse(self.missed(solver, sigmas))
        coefficients = Coefficients(tuple(sigmas), tuple(solver.weights), guidance is not None)
        return Fitted(coefficients, error, sum(solver.strayed) / len(sigmas))


def rmse(missed: torch.Tensor) -> float:
    """The mean over pictures of each one's RMSE, of errors (B, E)."""
    return float(missed.double().square().mean(1).sqrt().mean())


def run(denoise: Denoise, x: torch.Tensor, sigmas: list[float], solver: Solver | None = None) -> torch.Tensor:
    """DDIM or another solver at eta 0, where alpha = 1 gives the jumps of flow models too."""
    return solve.sample(lambda x, i: denoise(x, sigmas[i]), x, [1.0] * len(sigmas), sigmas, solver=solver)


def measure(
    denoise: Denoise,
    x: torch.Tensor,
    levels: list[float],
    steps: int,
    *,
    samplers: dict[str, Solver],
    used: str | None = None,
    candidates: dict[str, list[float]] | None = None,
    criterion: str = CRITERIA[0],
    refine: int = 4,
    seen: Seen = lambda x: x,
    guidance: Guidance | None = None,
    interrupt: Interrupt = lambda: None,
) -> Measured:
    """The schedule of `steps` jumps from levels[0] to 0, and its coefficients, on the runs that begin with x.

    x (B, ...): noise at levels[0]. levels: falling, > 0, at least `steps`. samplers: {name: solver} to
    compare with, plain DDIM or what the user has in its place first. used: the one whose best schedule it
    shall be; None: the best schedule for coefficients.
    candidates: {name: sigmas with their 0}, tried and compared with. refine: 0 makes no true run and gives
    what the criterion finds; else there are at most refine + 4, of `steps` calls each. seen: linear in x;
    errors are those of seen(x). guidance: as in coefficients.py. Raises FloatingPointError where the model's
    answers are not finite.
    """
    trials = Trials(denoise, x, seen, levels)
    reference, plain = trials.reference, used or next(iter(samplers))
    solver = samplers[plain] if used else PLMS()
    paths = shortest_paths(jump_errors(reference, solver.extrapolated, interrupt), steps, interrupt)
    found = {"dynamic programming": paths[-1][0]}
    if used is None:
        second = shortest_paths(jump_errors(reference, "x0_hat", interrupt), steps, interrupt)
        found["dynamic programming, order 2"] = second[-1][0]
    found = {name: [*(levels[i] for i in path), 0.0] for name, path in found.items()}
    if used is None or criterion == CRITERIA[1]:
        found[CRITERIA[1]] = equal_score_change(reference, steps)
    known = {
        name: [levels[0], *each[1:]] for name, each in (candidates or {}).items() if len(each) == steps + 1
    }
    known = dict(sorted(known.items(), key=lambda each: path_error(reference, solver, each[1], interrupt)))
    tried = found | known
    if criterion == CRITERIA[1]:
        tried = {criterion: found[criterion]}
    best, runs, fits = next(iter(tried)), {}, {}
    if refine and used is None:
        fits = {name: trials.fit(tried[name], guidance) for name in list(tried)[: refine + 1]}
        best = min(fits, key=lambda name: fits[name].error + fits[name].straying)
    elif refine:
        few = itertools.islice(tried.items(), refine + 1)
        runs = {(used, name): rmse(trials.missed(solver, sigmas)) for name, sigmas in few}
        best = min(runs, key=runs.get)[1]
        fits[best] = trials.fit(tried[best], guidance)
    if refine:
        pairs = [(sampler, name) for name in known for sampler in samplers if (sampler, name) not in runs]
        for sampler, name in pairs[: refine + 4 - trials.runs]:
            runs[sampler, name] = rmse(trials.missed(samplers[sampler], known[name]))
    fitted = fits.get(best)
    by_plain = {name: error for (sampler, name), error in runs.items() if sampler == plain}
    if fitted and len(x) > 1 and fitted.error > WORTH * min(by_plain.values(), default=math.inf):
        best, fitted = min(by_plain, key=by_plain.get), None  # nothing is gained
    return Measured(
        sigmas=(tried | known)[best],
        source=best,
        by_steps=[total for _, total in paths],
        calls=trials.calls,
        measured=by_plain.get(best),
        coefficients=fitted and fitted.coefficients,
        held_out=fitted.error if fitted and len(x) > 1 else None,
        rivals={pair: error for pair, error in runs.items() if pair[1] in known},
    )


def arriving(reference: Reference, solver: Solver, sigmas: list[float], interrupt: Interrupt) -> torch.Tensor:
    """What each jump along the reference misses, times what survives of it at sigma 0: (K, B, E)."""
    towards, missed = solver.begin(sigmas), []
    for i, (t, s) in enumerate(itertools.pairwise(sigmas)):
        x, slope = reference.at(t)
        x0 = towards(i, x, x - t * slope)
        missed.append((x0 + s / t * (x - x0) - reference.at(s)[0]) * reference.survives(s))
        interrupt()
    return torch.stack(missed)


def path_error(
    reference: Reference, solver: Solver, sigmas: list[float], interrupt: Interrupt = lambda: None
) -> float:
    """The sum of the RMSE of the jumps along the reference, as each arrives at sigma 0."""
    return float(arriving(reference, solver, sigmas, interrupt).double().square().mean((1, 2)).sqrt().sum())


def jump_errors(
    reference: Reference, extrapolated: str | None = None, interrupt: Interrupt = lambda: None
) -> torch.Tensor:
    """Error at sigma 0 of single jumps between the N recorded levels, and to 0 (index N): (N, N, N + 1), inf
    where not down.

    errors[g, h, i] is the RMSE of the jump h -> i after g -> h, both along the reference, times what survives
    of it at sigma 0. g matters only where something of the step before is extrapolated: the "slope" (PLMS, of
    any order taken as 2) or "x0_hat" (dpmpp_2m). errors[h, h, i] is the jump without history.
    """
    sigmas, count = reference.sigmas, len(reference.sigmas)
    below = torch.cat([sigmas, sigmas.new_zeros(1)])
    width = below - sigmas[:, None]  # (N, N + 1)
    products = mean_products(reference, interrupt)
    d_d, d_x, x_x = products[:count, :count], products[:count, count:], products[count:, count:]
    # DDIM's jump h -> i misses width d_h - (x_i - x_h).
    gone = x_x.diagonal() - 2 * x_x[:count] + x_x.diagonal()[:count, None]
    along = d_x - d_x.diagonal()[:, None]
    squares = width**2 * d_d.diagonal()[:, None] - 2 * width * along + gone
    survives = torch.tensor([reference.survives(sigma) for sigma in below.tolist()], dtype=torch.float64)
    down = torch.arange(count + 1) > torch.arange(count)[:, None]
    errors = torch.where(down, squares.clamp(min=0).sqrt() * survives, torch.inf).expand(count, -1, -1)
    if extrapolated is None:
        return errors
    if extrapolated == "slope":
        u_d, u_x, u_u = d_d, d_x, d_d
    else:  # u = x0_hat = x - sigma d
        u_d, u_x = d_x[:, :count].T - sigmas[:, None] * d_d, x_x[:count] - sigmas[:, None] * d_x
        u_u = u_x[:, :count] - sigmas * u_d
    logs, errors = sigmas.log(), errors.clone()
    for h in range(1, count):  # gain (u_h - u_g) is missed too, but in the jump to 0, of order 1
        g, i = slice(h), slice(h + 1, count)
        if extrapolated == "slope":
            gain = width[h, i] / 2
        else:  # Lu et al. (2211.01095), algorithm 2: towards x0_hat_h + ratio (x0_hat_h - x0_hat_g)
            ratio = (logs[h] - logs[i]) / (2 * (logs[g, None] - logs[h]))
            gain = (1 - below[i] / sigmas[h]) * ratio
        u_missed = width[h, i] * u_d[: h + 1, h, None] - u_x[: h + 1, i] + u_x[: h + 1, h, None]
        apart = u_u.diagonal()[g] + u_u[h, h] - 2 * u_u[g, h]
        more = 2 * gain * (u_missed[h] - u_missed[g]) + gain**2 * apart[:, None]
        errors[g, h, i] = (squares[h, i] + more).clamp(min=0).sqrt() * survives[i]
        if extrapolated == "x0_hat":
            errors[g, h, i] = errors[g, h, i].where(ratio <= LEAP, torch.inf)
        interrupt()
    return errors


def mean_products(reference: Reference, interrupt: Interrupt) -> torch.Tensor:
    """Of the reference's N slopes, its N states and its end with one another: (2N + 1, 2N + 1), float64."""
    recorded = (reference.slopes, reference.x, reference.end[None])
    total = 0.0
    for parts in zip(*(each.flatten(1).split(BLOCK, 1) for each in recorded), strict=True):
        part = torch.cat(parts).double()
        total = total + part @ part.T
        interrupt()
    return total / reference.end.numel()


def shortest_paths(
    errors: torch.Tensor, steps: int, interrupt: Interrupt = lambda: None
) -> list[tuple[list[int], float]]:
    """The paths of 1, 2, ... steps jumps from level 0 to the last with the least sum of errors: [(levels,
    sum)].

    errors as from jump_errors. levels are those jumped from: k of them for k jumps. Dynamic programming over
    the last jump.
    """
    count = errors.shape[0]
    best = torch.full_like(errors[0], torch.inf)  # (N, N + 1): the least sum that ends with the jump h -> i
    best[0] = errors[0, 0]
    back, paths = [], []
    for done in range(1, steps + 1):
        at = [int(best[:, count].argmin())]
        for came in reversed(back):
            at.insert(0, int(came[at[0], at[1] if len(at) > 1 else count]))
        paths.append((at, float(best[:, count].min())))
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
