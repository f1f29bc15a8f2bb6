"""Progressive distillation in one stage: a student learns to do in one jump what its guided teacher does in
several.

Salimans and Ho, "Progressive Distillation" (arXiv 2202.00512), with guidance folded in as by Meng et al.
(2210.03142). One stage from many steps to few suffices (SFD, 2409.19681), where the student walks its own
path: each jump starts where its own jumps before led, and is fitted to the teacher's state from the same
noise. So the map from noise to picture stays the teacher's, and later jumps learn to mend earlier ones.
"""

from collections.abc import Iterator, Sequence

import torch

from .calls import Denoise, Model
from .multistep import DPMSolver2M
from .solve import jumps, sample


def teacher_states(
    model: Model, x: torch.Tensor, sigmas: Sequence[float], substeps: int
) -> list[torch.Tensor]:
    """States of dpmpp_2m's run at every `substeps`-th of the sigmas, x first: those of the student's levels.

    model: with guidance. x: (B, ...) noise at sigmas[0]. sigmas: falling floats, the last 0; one less than
    their number is a multiple of substeps. Raises ValueError if it is not.
    """
    if (len(sigmas) - 1) % substeps:
        raise ValueError(f"{len(sigmas) - 1} steps are not a multiple of {substeps} substeps")
    kept = []

    def keep(i, x, x0):
        if i % substeps == 0:
            kept.append(x)

    ones = [1.0] * len(sigmas)  # at eta 0 alpha = 1 gives the jumps of flow models too
    end = sample(lambda x, i: model(x, sigmas[i]), x, ones, sigmas, solver=DPMSolver2M(), callback=keep)
    return [*kept, end]


def walk_losses(
    denoise: Denoise, states: Sequence[torch.Tensor], alphas: Sequence[float], sigmas: Sequence[float]
) -> Iterator[torch.Tensor]:
    """The loss of each DDIM jump of the student's own walk from states[0], one after another.

    denoise: the student's, without guidance. states: the teacher's (B, ...), one for each of the sigmas. The
    loss is the mean square error of v against the one that would land on the teacher's state: (SNR + 1) times
    that of x0_hat. The state passed on is detached, so that the graph of a loss is that of one jump: call its
    backward before asking for the next.
    """
    x = states[0]
    for i, (a, b, _) in enumerate(jumps(alphas, sigmas)):
        x0 = denoise(x, i)
        wanted = (states[i + 1] - a * x) / b
        yield (1 + (alphas[i] / sigmas[i]) ** 2) * (x0 - wanted).square().mean()
        x = (a * x + b * x0).detach()
