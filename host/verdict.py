"""What an inversion came to, in words and figures."""

import torch

from ..ddim import invert
from . import latents
from .inversion import Inverted

EXACT, VISIBLE = 1e-4, 1e-2  # RMSE of the latent that the model sees: below, nothing is lost; above, it shows


def report(found: Inverted, tolerance: float, eta: float, method: str) -> str:
    """A verdict in plain words, then the figures, a line each."""
    run, steps = found.run, len(found.run.maps)
    worst = [max(errors, default=0.0) for errors in run.errors]
    missed = [i for i in range(steps) if worst[i] > tolerance] if eta == 0 and method == "exact" else []
    folds = [i for i in missed if run.stalled[i]] if found.guided and not rounds(found) else []
    deviation, correlation = invert.gaussianity(latents.parts(found.latent)[0].float())
    lines = [verdict(found, missed, worst, tolerance, eta, method)]
    if found.top and eta == 0 and not 0.9 <= deviation <= 1.1:
        instead = "invert with cfg 1" if found.guided else "try more steps or a caption that fits better"
        lines.append(
            f"The noise is far from Gaussian (deviation {deviation:.2f} in place of 1), so edits from it"
            f" suffer: {instead}, or use DDIM Edit."
        )
    if folds:
        lines.append(
            "Where a step folds, guidance bends it so that no state may lead to the picture: refine_sigmas"
            " inserts finer steps there; cfg 1 has no folds."
        )
    how = f"noise maps at eta {eta:g}" if eta > 0 else method
    lines += ["", f"{how}: {steps} steps, {run.calls} model calls"]
    if eta == 0:
        at = max(range(steps), key=worst.__getitem__)
        lines.append(f"worst residual: {worst[at]:.2g} at {step(found, at)}")
    lines += [
        f"{'fold' if i in folds else 'not converged'}: {step(found, i)}, residual {worst[i]:.2g} instead of"
        f" {tolerance:.2g}"
        for i in missed
    ]
    if found.round_trip is not None:
        lines.append(
            f"round trip: RMSE {found.round_trip:.2g} of the latent as the model sees it"
            + (", by the replay sampler" if eta > 0 else "")
        )
    lines.append(
        f"noise: standard deviation {deviation:.3f} (1 for a Gaussian), correlation of neighbours"
        f" {correlation:.3f} (0)"
    )
    if eta > 0:
        maps = torch.stack(run.maps[:-1] or run.maps)
        lines.append(f"noise maps: standard deviation {invert.gaussianity(maps)[0]:.3f}")
    if found.noise.weight == 0:
        lines.append(
            "state: it is noise alone, which ComfyUI takes from `noise`, not from a latent; it is for sigmas"
            " that start lower"
        )
    elif found.masked:
        lines.append(
            "state: it does not carry the noise mask, without which the picture does not come back; sample"
            " from `noise` on the picture and its mask"
        )
    if not found.top:
        lines.append(
            f"partial: the sigmas start at {found.sigmas[0]:.4g}, so the noise belongs to a latent; sample on"
            " the picture's own"
        )
    return "\n".join(lines)


def verdict(
    found: Inverted, missed: list[int], worst: list[float], tolerance: float, eta: float, method: str
) -> str:
    """Whether the picture comes back, by what was measured where it was, and what to do where it does not."""
    known, by_replay = found.round_trip, ", by the replay sampler" if eta > 0 else ""
    if known is not None and known <= EXACT:
        return f"The picture comes back exactly{by_replay}."
    doubt = doubts(found, tolerance)
    if known is None and doubt:
        return f"The picture may not come back: {doubt}"
    if known is not None or missed:
        size = max(worst) if known is None else known
        what = f"{'visible' if size > VISIBLE else 'small'} differences"
        figure = "" if known is None else f" (RMSE {known:.2g})"
        why = doubt or (unsolved(found, missed) if missed else "")
        if not why and method == "exact" and eta == 0:
            why = "what the steps leave over grows on the way. Use a lower tolerance."
        return f"The picture comes back with {what}{figure}" + (f": {why}" if why else ".")
    if eta > 0:
        return "Every step is recorded, so the replay sampler should return the picture (not measured)."
    if method == "ddim":
        return "The picture comes back roughly: method ddim is off by an error that shrinks like 1 / steps."
    nearly = ", or nearly: guidance enlarges what the steps leave over" if found.guided else ""
    return f"Every step is solved, so the picture should come back{nearly} (round trip not measured)."


def doubts(found: Inverted, tolerance: float) -> str:
    """Why what was found need not hold, and what to do; empty where nothing speaks against it."""
    if (found.run.unsteady or 0.0) > tolerance:
        return (
            f"the model, asked twice, answers otherwise (by {found.run.unsteady:.2g}). Guidance with momentum"
            " and caches do that; switch them off."
        )
    if found.unsettled > tolerance:
        return (
            f"the noise under the soft mask is uncertain by {found.unsettled:.2g}. Use a mask of 0 and 1, or"
            " method exact."
        )
    return ""


def unsolved(found: Inverted, missed: list[int]) -> str:
    """The steps that did not converge, and what to do."""
    if missed == [len(found.run.maps) - 1] and found.sigmas[-1] == 0:
        help = "sigmas whose last step is smaller, such as stride linspace, or more max_iterations"
    elif found.guided:
        help = "cfg 1, refine_sigmas, more steps, or more max_iterations"
    elif rounds(found) and any(found.run.stalled):
        name = str(found.precision).removeprefix("torch.")
        help = f"a higher tolerance: the model computes in {name}, and comes no nearer"
    else:
        help = "more steps, or more max_iterations"
    count = "one step" if len(missed) == 1 else f"{len(missed)} steps"
    return f"{count} did not converge. Use {help}."


def rounds(found: Inverted) -> bool:
    """Whether the model's precision, and not only guidance, may keep a step from being solved."""
    return found.precision.itemsize < 4


def step(found: Inverted, i: int) -> str:
    """Jump i as the report names it, from 1."""
    return f"step {i + 1} (sigma {found.sigmas[i]:.4g} to {found.sigmas[i + 1]:.4g})"
