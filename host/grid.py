"""A picture sampled over two dials: the values that a text writes, what the grid costs, and its run."""

import itertools
import random
import re
from collections.abc import Callable
from dataclasses import dataclass

import latent_preview
import torch
from comfy.model_patcher import ModelPatcher

from ..ddim.checks import allowed, number
from ..ddim.multistep import ADAMS_BASHFORTH
from ..ddim.stride import STRIDES
from . import latents, sampler, schedule
from .latents import Latent

MOST_VALUES = 100  # along one side
RANGES = {
    "eta": (float, 0, 1),
    "steps": (int, 1, 10000),
    "cfg": (float, 0, 100),
    "order": (int, 1, max(ADAMS_BASHFORTH)),
    "seed": (int, 0, 2**64 - 1),
}
DIALS = ("eta", "steps", "cfg", "stride", "order", "seed")


@dataclass(frozen=True)
class Cell:
    """One place of the grid: every dial by name, and the SIGMAS that its steps and stride give; key is the
    same for cells whose runs are the same."""

    label: str
    dials: dict
    sigmas: torch.Tensor
    key: tuple

    @property
    def calls(self) -> int:
        return max(len(self.sigmas) - 1, 0)


def values(name: str, dial: str, text: str, dials: dict) -> list:
    """The values that a text writes for a dial: "0, .3, 1", "trailing, linspace", "4 random" for seeds.

    The dial's own name with a colon may stand before them. Without any it is the value that `dials` holds;
    random seeds are drawn from the seed that it holds. Raises ValueError that names the input `name` and the
    entry.
    """
    head, _, body = text.rpartition(":")
    if head.strip() not in ("", dial):
        raise ValueError(f"{name} begins with {head.strip()!r}, but its dial is {dial}")
    drawn = dial == "seed" and re.fullmatch(r"\s*(\d{1,9})\s+random\s*", body)
    words = [word for word in re.split(r"[\s,;]+", body) if word]
    count = int(drawn[1]) if drawn else max(len(words), 1)
    if not 1 <= count <= MOST_VALUES:
        raise ValueError(f"{name} asks for {count} values; 1 to {MOST_VALUES} are allowed")
    if drawn:
        generator = random.Random(dials["seed"])
        return [generator.getrandbits(32) for _ in range(count)]
    return [value(name, dial, word) for word in words] or [dials[dial]]


def value(name: str, dial: str, word: str) -> float | str:
    """The value that a word writes for a dial; ValueError names the word and what is allowed."""
    if dial == "stride":
        if word in STRIDES:
            return word
        raise ValueError(f"{name} holds {word!r}; stride takes {', '.join(STRIDES)}")
    kind, least, most = RANGES[dial]
    try:
        if least <= number(word, kind) <= most:
            return number(word, kind)
    except ValueError:
        pass
    numbers = "whole numbers" if kind is int else "numbers"
    raise ValueError(f"{name} holds {word!r}; {dial} takes {numbers} from {least} to {most}")


def sides(dials: dict, across: str, across_values: str, down: str, down_values: str) -> tuple[list, list]:
    """The values of the columns and of the rows, as `values` gives them. Raises ValueError for bad ones, and
    where both sides are one dial."""
    allowed("across", across, DIALS)
    allowed("down", down, DIALS)
    if across == down:
        raise ValueError(f"across and down are both {across}; they must be two dials")
    return (
        values("across_values", across, across_values, dials),
        values("down_values", down, down_values, dials),
    )


def plan(
    model: ModelPatcher, dials: dict, across: str, across_values: str, down: str, down_values: str
) -> tuple[list[Cell], int]:
    """The cells of a grid, row by row, and how many columns it has. Raises ValueError before any model call.

    dials  the value of every dial, and of denoise, where they are not varied
    """
    columns, rows = sides(dials, across, across_values, down, down_values)
    cells, schedules = [], {}
    for below, right in itertools.product(rows, columns):
        here = dials | {across: right, down: below}
        label = f"{across} {as_text(right)}, {down} {as_text(below)}"
        visited = here["steps"], here["stride"], here["denoise"]
        if visited not in schedules:  # which a hundred cells may share
            try:
                sigmas, _ = schedule.stride_sigmas(model, *visited)
            except ValueError as error:
                raise ValueError(f"{label}: {error}") from error
            schedules[visited] = sigmas, tuple(sigmas.tolist())
        sigmas, levels = schedules[visited]
        others = (value for dial, value in here.items() if dial not in ("steps", "stride"))
        cells.append(Cell(label, here, sigmas, (levels, *others)))
    return cells, len(columns)


def as_text(value: float | str) -> float | str:
    """A dial's value as a picture's label has it: 1, not 1.0."""
    return str(value).removesuffix(".0") if isinstance(value, float) else value


def cost(cells: list[Cell]) -> int:
    """Model calls of a grid: equal cells are computed once."""
    return sum({cell.key: cell.calls for cell in cells}.values())


def sample(model: ModelPatcher, positive: list, negative: list, latent: Latent, cells: list[Cell]) -> Latent:
    """The first picture of a LATENT in every cell, as a batch; previews and progress are those of the whole
    grid."""
    picture = latents.take(latents.check(latent, model), [0])
    total, done, drawn = cost(cells), 0, {}
    preview = latent_preview.prepare_callback(model, total)

    def shown(before):
        return lambda step, x0, x, _: preview(before + step, x0, x, total)

    for cell in cells:
        if cell.key not in drawn:
            drawn[cell.key] = run(model, positive, negative, picture, cell, shown(done))
            done += cell.calls
    samples = [latents.parts(drawn[cell.key]) for cell in cells]
    return latents.take(picture, [0] * len(cells)) | {
        "samples": latents.join([torch.cat(part) for part in zip(*samples, strict=True)], picture)
    }


def run(
    model: ModelPatcher, positive: list, negative: list, picture: Latent, cell: Cell, preview: Callable
) -> Latent:
    """The LATENT of one cell: DDIM KSampler's run, with the order as a further dial."""
    if not cell.calls:  # denoise 0 leaves the picture alone
        return picture
    dials, index = cell.dials, picture["batch_index"]
    ddim = sampler.ddim_sampler(eta=dials["eta"], order=dials["order"], batch_index=index)
    return sampler.run(
        model, dials["seed"], dials["cfg"], positive, negative, picture, ddim, cell.sigmas, preview
    )[0]
