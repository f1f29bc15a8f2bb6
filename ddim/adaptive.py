"""A schedule measured on the model in front of it: the K jumps with the least error on its own trajectory.

First the best K of the probed levels by dynamic programming; then true runs of it and of other known schedules; then a search for
the least error at sigma 0 on the recorded run (trajectory.py), which costs no model call and is tried in a true run, by turns with
schedules half way between the two best. What the simulation of the best schedule missed at its end, against the true run, is
added to that of its neighbours, so that the search begins from the true error.

Neighbours: Chen et al., GITS (2405.11326), dynamic programming over a recorded trajectory; Xue et al., DMN (2402.17376);
Sabour et al., Align Your Steps (2404.14507), whose tables are made offline.
"""

from dataclasses import dataclass

import torch

from .solve import ADAMS_BASHFORTH, sample
from .trajectory import BETWEEN, Reference, reference_run

CRITERIA = ("reconstruction error", "score change")
STARTS = 4  # how many schedules are run in truth before the search, those of the least predicted loss
STRAYING = 1.0  # weight of the straying on the way against the error at the end
SWEEPS = 600  # coordinate visits of one search: bounds its time, a few seconds at 20 steps


@dataclass
class Attempt:
    """One schedule for the reference: positions (K,), the predicted and the true RMSE of its end, and what is compared."""

    source: str
    positions: torch.Tensor
    predicted: float
    measured: float | None  # None where no true run was made
    cost: float
    growth: torch.Tensor  # (M,) as the true run saw it
    defect: tuple | None  # what the simulation of this schedule missed at the end; None where no true run was made


@dataclass
class Measured:
    """A measured schedule. Errors are RMSE of the final x from the reference's."""

    sigmas: list  # K + 1 floats, the last 0
    source: str  # how it was found, or the candidate that no search could better
    predicted: float
    measured: float | None
    calls: int  # model calls, each of all pictures
    by_steps: list  # predicted error of the best 1, 2, ... K jumps between probed levels


def measure(denoise, x, fine, steps, *, order=1, criterion=CRITERIA[0], refine=4, candidates=None, elements=65536):
    """The schedule of `steps` jumps from fine[0] to 0 that is best on the runs that begin with x.

    denoise(x, sigma) -> x0_hat. x: (B, ...), noise at fine[0]. fine: falling floats, BETWEEN from one probed level to the next.
    candidates: other schedules, {name: sigmas with their 0}, to begin from and to compare with. refine: rounds of
    refinement, a true run each; 0 makes no true run at all. elements: how many of a picture's are kept, drawn at random; a mean over them stands for that of all.
    Makes a call for every probed level and, with refine, steps more for each round and each of at most STARTS candidates.
    """
    probe = Probe(denoise, x, elements)
    reference_run(probe, x, fine[::BETWEEN])
    reference = Reference(fine, torch.stack(probe.slopes), probe.kept(x))
    paths = [torch.tensor(levels) * BETWEEN for levels, _ in shortest_paths(jump_errors(reference, order), steps)]

    def attempt(source, positions, run):
        error, straying = simulate(reference, positions[None], reference.growth, order)
        predicted = float(reference.rmse(error))
        if run:
            measured, cost, end_error = true_run(probe, reference, x, positions, order)
            simulated, _ = simulate(reference, positions[None], reference.growth, order)
            defect = reference.defect(end_error - reference.slope(simulated[0]))
        else:
            measured, cost, defect = None, predicted + float(straying) * STRAYING * reference.spread_end, None
        return Attempt(source, positions, predicted, measured, cost, reference.growth, defect)

    by_steps = [attempt("", path, False).predicted for path in paths]
    if criterion == CRITERIA[1]:
        best = attempt(criterion, equal_score_change(reference, steps), refine > 0)
    else:
        starts = {"dynamic programming": paths[-1]} | known_positions(reference, candidates or {}, steps)
        expected = loss(reference, torch.stack(list(starts.values())), reference.growth, order).tolist()
        promising = [name for _, name in sorted(zip(expected, starts))[:STARTS]]
        attempts = [attempt(name, starts[name], refine > 0) for name in promising]
        best = refined(reference, attempts, attempt, order, refine)
    sigmas = reference.sigmas[best.positions].tolist() + [0.0]
    return Measured(sigmas, best.source, best.predicted, best.measured, probe.calls, by_steps)


def check_options(order=1, criterion=CRITERIA[0]):
    """Raise ValueError that names the first bad option."""
    if order not in ADAMS_BASHFORTH:
        raise ValueError(f"order is {order}; allowed are {', '.join(map(str, ADAMS_BASHFORTH))}")
    if criterion not in CRITERIA:
        raise ValueError(f"criterion is {criterion!r}; allowed are {', '.join(CRITERIA)}")


def refined(reference, attempts, attempt, order, rounds):
    """The best of the attempts and of those made of them; each round makes one.

    By turns: from the best towards what a search without model calls finds, less far after each failure; and half way from
    the best to the next best, which believes nothing but the true runs.
    """
    part = 1.0
    for k in range(max(rounds, 1)):
        best, *others = sorted(attempts, key=lambda a: a.cost)
        if k % 2 == 0 or not others:
            reference.growth = best.growth
            # A defect holds near its own schedule alone; without true runs there is none, and every start is as good.
            pool = torch.stack([a.positions for a in (attempts if best.defect is None else [best])])
            found = search(reference, pool, best.growth, order, reach=BETWEEN if k else 4 * BETWEEN, defect=best.defect)
            made = attempt("search", between(best.positions, found, part), rounds > 0)
            part *= 1.0 if made.cost < best.cost else 0.5
        else:
            made = attempt(f"{best.source} / {others[0].source}", between(best.positions, others[0].positions, 0.5), True)
        attempts = [*attempts, made]
    return min(attempts, key=lambda a: a.cost)


def between(a, b, part):
    """Positions that lie that part of the way from a to b; strictly rising, as both are."""
    return (a + part * (b - a) + 0.5).floor().long()


class Probe:
    """The model as slopes of a run, counted, with a random choice of elements kept."""

    def __init__(self, denoise, x, elements):
        self.denoise, self.calls, self.slopes = denoise, 0, []
        count = x[0].numel()
        chosen = torch.randperm(count, generator=torch.Generator().manual_seed(0))[:elements].sort().values
        self.chosen = chosen.to(x.device) if elements < count else slice(None)

    def __call__(self, x, sigma):
        self.calls += 1
        return self.denoise(x, sigma)

    def kept(self, x):
        return x.flatten(1)[:, self.chosen].float().cpu()


def known_positions(reference, candidates, steps):
    """The candidates that have `steps` jumps and whose levels fall on positions of their own: {name: (steps,)}."""
    near = {name: reference.positions(sigmas[:-1]) for name, sigmas in candidates.items() if len(sigmas) == steps + 1}
    return {name: torch.tensor(positions) for name, positions in near.items() if positions}


def true_run(probe, reference, x, positions, order):
    """Sample with a schedule: (RMSE at the end, the loss), means over the pictures, and the error (B, E).

    Sets reference.growth to what it saw.
    """
    sigmas = reference.sigmas[positions].tolist() + [0.0]
    shares = visit_shares(positions[None], len(reference.sigmas))[0].tolist()
    straying, growths = torch.zeros(len(x)), []

    def watch(k, x, x0):
        if k == 0:
            return
        here = int(positions[k])
        error = probe.kept(x) - reference.state(reference.integral[here])
        slope = probe.kept((x - x0) / sigmas[k]) - reference.slope(reference.value[here])
        straying.add_(error.pow(2).mean(1).sqrt(), alpha=shares[k] / float(reference.spread[here]))
        growths.append((here, float((slope * error).sum() / error.pow(2).sum().clamp(min=1e-30))))

    end = sample(lambda x, k: probe(x, sigmas[k]), x, [1.0] * len(sigmas), sigmas, order=order, callback=watch)
    if growths:
        reference.set_growth(growths)
    end_error = probe.kept(end) - reference.state(reference.end)
    error = end_error.pow(2).mean(1).sqrt()
    return float(error.mean()), float((error + STRAYING * reference.spread_end * straying).mean()), end_error


def jump_errors(reference, order):
    """Error at sigma 0 of single jumps between the N probed levels, and to 0 (index N): (N, N, N + 1), inf where not down.

    errors[g, h, i] is the RMSE of the jump h -> i after g -> h, times what survives of it at sigma 0; g does not matter at
    order 1. errors[h, h, i] is the jump without history. Orders above 2 are taken as 2.
    """
    count = len(reference.slopes)
    at = torch.cat([reference.integral[::BETWEEN], reference.end[None]])
    sigmas = torch.cat([reference.sigmas[::BETWEEN], torch.zeros(1, dtype=torch.float64)])
    width = sigmas[None] - sigmas[:-1, None]
    gone = width[..., None] * torch.eye(count, dtype=torch.float64)[:, None] - (at[None] - at[:-1, None])  # (N, N + 1, N)
    first = reference.rmse(gone)
    errors = first.expand(count, -1, -1).clone()
    if order > 1:
        # slope + (slope - slope before) / 2, unless the jump goes to 0: there sampling stays at first order
        gone = gone + width[..., None] / 2 * torch.eye(count, dtype=torch.float64)[:, None]
        product = gone @ reference.gram
        square = (product * gone).sum(-1) - width * product.permute(2, 0, 1) + width**2 / 4 * reference.gram.diagonal()[:, None, None]
        errors[:, :, :-1] = square.clamp(min=0).sqrt()[:, :, :-1]
        own = torch.arange(count)
        errors[own, own] = first
    survives = reference.spread_end / torch.cat([reference.spread[::BETWEEN], torch.tensor([reference.spread_end])])
    down = torch.arange(count + 1)[None] > torch.arange(count)[:, None]
    return torch.where(down, errors * survives, torch.inf)


def shortest_paths(errors, steps):
    """The paths of 1, 2, ... steps jumps from level 0 to the last with the least sum of errors: [(levels, sum), ...].

    errors as from jump_errors. levels are those jumped from: k of them for k jumps. Dynamic programming over the last jump.
    """
    count = errors.shape[0]
    best = torch.full_like(errors[0], torch.inf)  # (N, N + 1): the least sum that ends with the jump h -> i
    best[0] = errors[0, 0]
    back, paths = [], []
    for k in range(1, steps + 1):
        at = [int(best[:, count].argmin())]
        for came in reversed(back):
            at.insert(0, int(came[at[0], at[1] if len(at) > 1 else count]))
        paths.append((at, float(best[:, count].min())))
        best, came = (best[:, :count, None] + errors).min(0)
        back.append(came)
    return paths


def simulate(reference, positions, growth, order=1):
    """What schedules do, near the reference and without a model call: (weights of the error at sigma 0, straying).

    positions: (P, K) -> (P, N), (P,). An error e at sigma changes the slope there by growth(sigma) e. Straying is the mean
    over the run of the error as a part of the spread of the pictures.
    """
    ref, (many, steps) = reference, positions.shape
    error = torch.zeros(many, ref.value.shape[1], dtype=torch.float64)
    straying = torch.zeros(many, dtype=torch.float64)
    shares = visit_shares(positions, len(ref.sigmas))
    slopes = []
    for k in range(steps):
        here = positions[:, k]
        if k > 0:
            straying += shares[:, k] * ref.rmse(error) / ref.spread[here]
        slopes.insert(0, ref.value[here] + growth[here, None] * error)
        del slopes[order:]
        if k + 1 == steps:
            return error - ref.sigmas[here, None] * slopes[0] - (ref.end - ref.integral[here]), straying
        there = positions[:, k + 1]
        slope = sum(w * d for w, d in zip(ADAMS_BASHFORTH[len(slopes)], slopes))
        error = error + (ref.sigmas[there] - ref.sigmas[here])[:, None] * slope - (ref.integral[there] - ref.integral[here])


def visit_shares(positions, count):
    """The part of the way that lies nearest to each visited position: (P, K)."""
    after = torch.cat([positions[:, 1:], torch.full_like(positions[:, :1], count - 1)], 1)
    before = torch.cat([torch.zeros_like(positions[:, :1]), positions[:, :-1]], 1)
    return (after - before) / (2 * (count - 1))


def loss(reference, positions, growth, order=1, defect=None):
    """What a search makes small: the error at sigma 0, and as much again for straying.

    A run that strays on the way may end as another picture; the error at the end of the few probed runs does not show it.
    defect: Reference.defect of a true run, which sets the simulation right for schedules near that one.
    """
    error, straying = simulate(reference, positions, growth, order)
    return reference.rmse(error, defect) + STRAYING * reference.spread_end * straying


def search(reference, starts, growth, order=1, reach=64, defect=None):
    """Coordinate search over the inner positions from several starts at once, halving its reach: the best (K,) positions.

    starts: (S, K), each strictly rising from 0; so is the result.
    """
    positions, last = starts.clone(), len(reference.sigmas) - 1
    best = loss(reference, positions, growth, order, defect)
    many, steps = positions.shape
    moves = torch.tensor([-3, -2, -1, 1, 2, 3])
    visits = SWEEPS
    while reach >= 1 and steps > 1 and visits > 0:
        moved = False
        for k in range(1, steps):
            low = positions[:, k - 1] + 1
            high = positions[:, k + 1] - 1 if k + 1 < steps else torch.full_like(low, last)
            places = torch.minimum(torch.maximum(positions[:, k, None] + moves * reach, low[:, None]), high[:, None])
            tried = positions[:, None].repeat(1, len(moves), 1)
            tried[:, :, k] = places
            found, which = loss(reference, tried.flatten(0, 1), growth, order, defect).view(many, -1).min(1)
            better = found < best * (1 - 1e-4)
            positions = torch.where(better[:, None], tried[torch.arange(many), which], positions)
            best = torch.where(better, found, best)
            moved = moved or bool(better.any())
        visits -= steps - 1
        if not moved:
            reach //= 2
    return positions[best.argmin()]


def equal_score_change(reference, steps):
    """Positions (steps,) that part the run into equal integrals of sqrt(|d slope / d sigma|).

    Where Euler's local error is h^2 |d slope / d sigma| / 2, h ~ |d slope / d sigma|^(-1/2) gives the least sum of them.
    """
    change = reference.rmse(reference.value.diff(dim=0)) * reference.sigmas.diff().abs()
    gone = torch.cat([torch.zeros(1, dtype=torch.float64), change.clamp(min=1e-300).sqrt().cumsum(0)])
    wanted = gone[-1] * torch.arange(steps, dtype=torch.float64) / steps
    near = torch.searchsorted(gone, wanted).tolist()
    for k in range(1, steps):  # distinct, with room for those that follow
        near[k] = min(max(near[k], near[k - 1] + 1), len(gone) - steps + k)
    return torch.tensor(near)
