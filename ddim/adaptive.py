"""A schedule measured on the model in front of it: the K jumps with the least error on its own trajectory.

First the best K of the probed levels by dynamic programming; then true runs of it and of other known
schedules; then rounds of a search for the least error at sigma 0 as a forecast (forecast.py) sees it, which
costs no model call, each tried in a true run that the next forecast learns from.

Neighbours: Chen et al., GITS (2405.11326), dynamic programming over a recorded trajectory; Xue et al., DMN
(2402.17376); Sabour et al., Align Your Steps (2404.14507), whose tables are made offline.
"""

import math
from dataclasses import dataclass

import torch

from .checks import allowed
from .forecast import Forecast
from .multistep import PLMS, DPMSolver2M
from .solve import check_finite
from .trajectory import BETWEEN, Reference, interpolated, reference_run

CRITERIA = ("reconstruction error", "score change")
SAMPLERS = ("DDIM", "dpmpp_2m")
STARTS = 4  # how many schedules are run in truth before the search, those of the least forecast loss
REACH = 0.6  # how far the first search may change the logs of the gaps between levels
# of one search, up to FEW steps; then fewer, as each takes longer with the square of the steps
ITERATIONS = 60
FEW = 30
# how much a search avoids uneven gaps, over one more than the pictures probed: mostly it is those few that
# ask for them
SMOOTH = 1.5
# positions that the last gap counts beyond sigma_min, so that a last level there is no dead end
AFTER = 2 * BETWEEN


@dataclass
class Attempt:
    """One schedule for the reference: positions (K,), the forecast and the true RMSE of its end, and what is
    compared."""

    source: str
    positions: torch.Tensor
    predicted: float
    measured: float | None  # None where no true run was made
    loss: float


@dataclass
class Measured:
    """A measured schedule. Errors are RMSE of the final x from the reference's."""

    sigmas: list  # K + 1 floats, the last 0
    source: str  # how it was found, or the candidate that no search could better
    predicted: float
    measured: float | None
    calls: int  # model calls, each of all pictures
    by_steps: list  # predicted error of the best 1, 2, ... K jumps between probed levels


def measure(
    denoise,
    x,
    fine,
    steps,
    *,
    solver,
    criterion=CRITERIA[0],
    refine=4,
    candidates=None,
    seen=lambda x: x,
    elements=16384,
):
    """The schedule of `steps` jumps from fine[0] to 0 that is best on the runs that begin with x.

    denoise(x, sigma) -> x0_hat. x: (B, ...), noise at fine[0]. fine: falling floats, BETWEEN from one probed
    level to the next.
    solver: what will sample with it, as in multistep.py. candidates: other schedules, {name: sigmas with
    their 0}, to begin from and to compare with. refine: rounds of refinement, a true run each; 0 makes no
    true run at all. seen: linear in x; errors are those of seen(x), whose first dimension is the pictures
    too. elements: how many of a picture's are kept, drawn at random; a mean over them stands for that of all.
    Makes a call for every probed level and, with refine, steps more for each round and each of at most STARTS
    candidates.
    """
    probe = Probe(denoise, x, elements, seen)
    reference_run(probe, x, fine)
    reference = Reference(fine, torch.stack(probe.slopes), probe.kept(x))
    forecast = Forecast(reference, solver)
    paths = [
        torch.tensor(levels, dtype=torch.float64) * BETWEEN
        for levels, _ in shortest_paths(jump_errors(reference, solver), steps)
    ]
    by_steps = [float(forecast(path[None])[0]) for path in paths]

    def attempt(source, positions):
        predicted, loss = map(float, forecast(positions[None]))
        if not refine:
            return Attempt(source, positions, predicted, None, loss)
        error, changes = true_run(probe, reference, x, positions, solver)
        return Attempt(
            source,
            positions,
            predicted,
            float(error.pow(2).mean(1).sqrt().mean()),
            forecast.learn(positions, changes),
        )

    if criterion == CRITERIA[1]:
        best = attempt(criterion, equal_score_change(reference, steps))
    else:
        starts = {"dynamic programming": paths[-1]} | known_positions(reference, candidates or {}, steps)
        expected = forecast(torch.stack(list(starts.values())))[1].tolist()
        promising = [name for _, name in sorted(zip(expected, starts, strict=True))[:STARTS]]
        best = refined(forecast, [attempt(name, starts[name]) for name in promising], attempt, max(refine, 1))
    sigmas = [fine[0], *interpolated(reference.sigmas, best.positions[1:]).tolist(), 0.0]
    return Measured(sigmas, best.source, best.predicted, best.measured, probe.calls, by_steps)


def solver_of(order, sampler_name):
    """The steps of a sampler; raises ValueError that names the input."""
    allowed("sampler_name", sampler_name, SAMPLERS)
    if sampler_name == "DDIM":
        return PLMS(order)
    if order != DPMSolver2M.order:
        raise ValueError(f"order is {order}; {sampler_name} is of order {DPMSolver2M.order}")
    return DPMSolver2M()


def refined(forecast, attempts, attempt, rounds):
    """The best of the attempts and of those made of them; each round searches near the best, less far after
    each failure."""
    reach = REACH
    for _ in range(rounds):
        best = min(attempts, key=lambda a: a.loss)
        made = attempt("search", search(forecast, best.positions, reach))
        reach = min(reach * 1.5, 1.5) if made.loss < best.loss else reach * 0.4
        attempts = [*attempts, made]
    return min(attempts, key=lambda a: a.loss)


def search(forecast, start, reach):
    """Positions (K,) of the least forecast loss whose gaps lie within factors of exp(-reach) and exp(reach)
    of start's, but for one factor to all. The fewer the pictures, the dearer are uneven gaps. L-BFGS; the
    gradient comes from differences, a whole one being a single batch of forecasts.
    """
    last, steps, nudge = len(forecast.reference.sigmas) - 1, len(start), 1e-5
    smooth = SMOOTH / (len(forecast.grams) + 1)
    logs = torch.cat([start.diff(), last - start[-1:] + AFTER]).log()
    moves = torch.zeros_like(logs)
    nudges = torch.cat([torch.zeros_like(moves)[None], nudge * torch.eye(steps, dtype=moves.dtype)])
    highest = last - torch.arange(steps - 1, -1, -1) / 2  # keeps them apart

    def positions(moves):
        gaps = torch.softmax(logs + reach * moves.tanh(), -1) * (last + AFTER)
        return torch.minimum(
            torch.cat([torch.zeros_like(gaps[..., :1]), gaps.cumsum(-1)[..., :-1]], -1), highest
        )

    def closure():
        tried = positions(moves + nudges)
        jagged = tried.diff().log().diff(n=2).pow(2).sum(1) / steps
        losses = forecast(tried)[1] * (1 + smooth * jagged)
        moves.grad = (losses[1:] - losses[0]) / nudge
        return losses[0]

    rounds = math.ceil(ITERATIONS * min(1, FEW / steps) ** 2)
    torch.optim.LBFGS(
        [moves],
        max_iter=rounds,
        history_size=20,
        tolerance_grad=1e-9,
        tolerance_change=1e-7,
        line_search_fn="strong_wolfe",
    ).step(closure)
    return positions(moves)


class Probe:
    """The model, counted, the slopes of its reference run, and which elements of them are kept: a random
    choice of what is seen."""

    def __init__(self, denoise, x, elements, seen=lambda x: x):
        self.denoise, self.seen, self.calls, self.slopes = denoise, seen, 0, []
        count = seen(x)[0].numel()
        chosen = torch.randperm(count, generator=torch.Generator().manual_seed(0))[:elements].sort().values
        self.chosen = chosen.to(x.device) if elements < count else slice(None)

    def __call__(self, x, sigma):
        self.calls += 1
        return self.denoise(x, sigma)

    def kept(self, x):
        return self.seen(x).flatten(1)[:, self.chosen].float().cpu()


def known_positions(reference, candidates, steps):
    """The candidates that have `steps` jumps and whose levels are apart within the reference's: {name:
    (steps,)}."""
    near = {
        name: reference.positions(sigmas[:-1])
        for name, sigmas in candidates.items()
        if len(sigmas) == steps + 1
    }
    return {name: positions for name, positions in near.items() if (positions.diff() > 0).all()}


def true_run(probe, reference, x, positions, solver):
    """Sample with a schedule: the error (B, E) of its end, and by how much its slopes (K, B, E) were not the
    reference's."""
    sigmas = [*interpolated(reference.sigmas, positions).float(), torch.zeros(())]
    states, slopes, changes, sums = [], [], [], []
    for k, sigma in enumerate(sigmas[:-1]):
        states = [x, *states[: solver.order - 1]]
        slopes = [(x - probe(x, float(sigma))) / sigma, *slopes[: solver.order - 1]]
        changes.append(probe.kept(slopes[0]) - reference.slope(interpolated(reference.value, positions[k])))
        slope = solver.slope(sigmas[k + 1 :: -1], states, slopes) if k + 1 < len(positions) else slopes[0]
        x = x + (sigmas[k + 1] - sigma) * slope
        sums.append(x.sum())
    check_finite(sums, [float(sigma) for sigma in sigmas])
    return probe.kept(x) - reference.state(reference.end), torch.stack(changes)


def jump_errors(reference, solver):
    """Error at sigma 0 of single jumps between the N probed levels, and to 0 (index N): (N, N, N + 1), inf
    where not down.

    errors[g, h, i] is the RMSE of the jump h -> i after g -> h, times what survives of it at sigma 0; g does
    not matter at order 1. errors[h, h, i] is the jump without history. Orders above 2 are taken as 2.
    """
    count, values = len(reference.slopes), torch.eye(len(reference.slopes), dtype=torch.float64)
    at = torch.cat([reference.integral[::BETWEEN], reference.end[None]])
    sigmas = torch.cat([reference.sigmas[::BETWEEN], torch.zeros(1, dtype=torch.float64)])
    width = sigmas[None] - sigmas[:-1, None]
    gone = width[..., None] * values[:, None] - (at[None] - at[:-1, None])  # (N, N + 1, N)
    errors = reference.rmse(gone).expand(count, -1, -1).clone()
    if solver.order > 1:  # but not in the jump to 0: there sampling stays at first order
        before, here, after = sigmas[:-1, None, None], sigmas[:-1, None], sigmas[:-1]
        change = solver.change(
            here, before, at[:-1] - at[:-1, None], values, values[:, None]
        )  # (N, N, N), of g -> h
        gain = solver.gain(after, here, before) * width[:, :-1]  # (N, N, N)
        cross = torch.einsum("ghn,hin->ghi", change @ reference.gram, gone[:, :-1])
        square = (
            reference.rmse(gone[:, :-1]) ** 2
            + 2 * gain * cross
            + gain**2 * reference.rmse(change)[..., None] ** 2
        )
        later = torch.arange(count)[:, None] < torch.arange(count)  # g above h
        errors[:, :, :-1] = torch.where(later[..., None], square.clamp(min=0).sqrt(), errors[:, :, :-1])
    survives = reference.spread_end / torch.cat(
        [reference.spread[::BETWEEN], torch.tensor([reference.spread_end])]
    )
    down = torch.arange(count + 1)[None] > torch.arange(count)[:, None]
    return torch.where(down, errors * survives, torch.inf)


def shortest_paths(errors, steps):
    """The paths of 1, 2, ... steps jumps from level 0 to the last with the least sum of errors: [(levels,
    sum), ...].

    errors as from jump_errors. levels are those jumped from: k of them for k jumps. Dynamic programming over
    the last jump.
    """
    count = errors.shape[0]
    best = torch.full_like(errors[0], torch.inf)  # (N, N + 1): the least sum that ends with the jump h -> i
    best[0] = errors[0, 0]
    back, paths = [], []
    for _ in range(steps):
        at = [int(best[:, count].argmin())]
        for came in reversed(back):
            at.insert(0, int(came[at[0], at[1] if len(at) > 1 else count]))
        paths.append((at, float(best[:, count].min())))
        best, came = (best[:, :count, None] + errors).min(0)
        back.append(came)
    return paths


def equal_score_change(reference, steps):
    """Positions (steps,) that part the run into equal integrals of sqrt(|d slope / d sigma|).

    Where Euler's local error is h^2 |d slope / d sigma| / 2, h ~ |d slope / d sigma|^(-1/2) gives the least
    sum of them.
    """
    change = reference.rmse(reference.value.diff(dim=0)) * reference.sigmas.diff().abs()
    gone = torch.cat([torch.zeros(1, dtype=torch.float64), change.clamp(min=1e-300).sqrt().cumsum(0)])
    wanted = gone[-1] * torch.arange(steps, dtype=torch.float64) / steps
    near = torch.searchsorted(gone, wanted).tolist()
    for k in range(1, steps):  # distinct, with room for those that follow
        near[k] = min(max(near[k], near[k - 1] + 1), len(gone) - steps + k)
    return torch.tensor(near, dtype=torch.float64)
