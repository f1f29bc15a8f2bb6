"""SIGMAS for a MODEL from a named stride or a written list."""

import itertools
import logging
import re
from collections.abc import Sequence

import torch
from comfy.model_patcher import ModelPatcher

from ..ddim import checks
from ..ddim.checks import within
from ..ddim.published import PUBLISHED
from ..ddim.stride import timesteps
from .model import ModelSampling, alphas, check_sigmas, model_sampling, sigmas_at, table

log = logging.getLogger(__name__)
_WARNED = set()  # strides that the log has told of


def stride_sigmas(
    model: ModelPatcher, steps: int, stride: str, denoise: float = 1.0
) -> tuple[torch.Tensor, list[int]]:
    """(SIGMAS of shape (steps + 1,), list of timesteps) of `visited` on a MODEL; both empty at denoise 0."""
    sampling = model_sampling(model)
    total = len(table(sampling))
    rows = visited(total, steps, stride, denoise)
    note = low_start(total, rows, stride, denoise)
    if note and stride not in _WARNED:
        _WARNED.add(stride)
        log.warning("DDIM: %s", note)
    return sigmas_at(sampling, rows) if rows else torch.FloatTensor([]), rows


def visited(total: int, steps: int, stride: str, denoise: float = 1.0) -> list[int]:
    """The timesteps of a stride over a table of `total`; none at denoise 0.

    denoise below 1 strides over the lowest round(denoise total) timesteps, but at least one. Raises
    ValueError for a bad stride, steps or denoise.
    """
    within("denoise", denoise, 0, 1)
    rows = used(total, denoise)
    if 0 < denoise < 1 and steps > rows:
        raise ValueError(
            f"steps is {steps}; denoise {denoise:g} leaves a table of {rows} timesteps, so 1 to {rows} are"
            " allowed"
        )
    return timesteps(stride, rows, steps) if denoise > 0 else []


def used(total: int, denoise: float) -> int:
    """How many of the lowest of `total` timesteps a denoise leaves."""
    return max(1, round(denoise * total))


def note_on(model: ModelPatcher, rows: Sequence[int], stride: str, denoise: float) -> str:
    """`low_start` on a MODEL's table."""
    return low_start(len(table(model_sampling(model))), rows, stride, denoise)


def low_start(total: int, rows: Sequence[int], stride: str, denoise: float = 1.0) -> str:
    """What to tell the user where a stride begins more than a tenth of its timesteps below their top, as
    `leading` may: the model then never sees the noisiest inputs, where composition is decided. Else empty."""
    top = used(total, denoise) - 1
    if not rows or 10 * (top - rows[0]) <= top + 1:
        return ""
    return f"{stride} starts at timestep {rows[0]} of {top} here; trailing starts at the top"


def custom_sigmas(model: ModelPatcher, text: str) -> torch.Tensor:
    """SIGMAS from a written list; the closing 0 is added where it is missing.

    "999, 749, 499, 249" are timesteps: whole numbers, rows of the model's own table. Where one of them is
    fractional ("937.5, 833.33, 625") all are times as the network is told them. "sigmas: 14.6, 5, 1.2" are
    noise levels. A name stands for the list of a distilled model, see published.py. Raises ValueError that
    names the first bad entry.
    """
    sampling = model_sampling(model)
    kind, numbers = written(text)
    rows = len(table(sampling))
    if kind == "timesteps" and rows <= numbers[0] <= float(sampling.timestep(sampling.sigma_max)) > rows:
        kind = "times"  # of ModelSamplingDiscrete's lcm, whose table holds every 20th timestep alone
    if kind == "timesteps":
        return sigmas_at(sampling, written_rows(numbers, rows))
    sigmas = torch.tensor([*sigmas_of_times(sampling, numbers), 0.0] if kind == "times" else numbers)
    check_sigmas(sigmas, sampling)
    return sigmas


def split(text: str) -> tuple[str, str]:
    """(the list, the measured coefficients after it or "") of a written text, without remarks."""
    listed, *coefficients = re.split(
        r"^\s*(?=coefficients\b)", re.sub("#.*", "", text), maxsplit=1, flags=re.M
    )
    return listed, "".join(coefficients)


def written(text: str) -> tuple[str, list[float]]:
    """("timesteps", "times" or "sigmas", numbers) of a written list or of a name for one; what follows # on a
    line is for readers, and coefficients (measured_sampler.py) after the list are not its matter.

    The numbers fall; noise levels end in 0. Raises ValueError that names the first bad entry.
    """
    text = split(text)[0].strip()
    text = {name.lower(): known for name, known in PUBLISHED.items()}.get(text.lower(), text)
    kind, _, body = text.rpartition(":")
    kind = kind.strip().lower()
    if kind not in ("", "timesteps", "sigmas"):
        raise ValueError(
            f"timesteps begins with {kind!r}; a list begins with a number, 'timesteps:' or 'sigmas:'"
        )
    if not kind and text[:1].isalpha():
        raise ValueError(
            f"timesteps is {text[:40]!r}, which is no list and no name; known are {', '.join(PUBLISHED)}"
        )
    numbers = [number(word) for word in re.split(r"[\s,;]+", body.strip()) if word]
    if not numbers:
        raise ValueError("timesteps is empty; write at least one, such as 999, 749, 499, 249")
    for before, after in itertools.pairwise(numbers):
        if after >= before:
            raise ValueError(f"timesteps must go down, each once; {after:g} follows {before:g}")
    if kind != "sigmas":
        return "timesteps" if all(value == int(value) for value in numbers) else "times", numbers
    numbers += [0.0] if numbers[-1] != 0 else []
    check_sigmas(torch.tensor(numbers))
    return kind, numbers


def written_rows(numbers: Sequence[float], total: int) -> list[int]:
    """The numbers of a written list as rows of a table of `total` timesteps. Raises ValueError for one that
    is none."""
    for value in numbers:
        if not 0 <= value < total:
            raise ValueError(
                f"timesteps holds {value:g}; this model's timesteps are the whole numbers 0 to {total - 1}"
                " (noise levels are written after 'sigmas:')"
            )
    return [int(value) for value in numbers]


def sigmas_of_times(sampling: ModelSampling, times: Sequence[float]) -> list[float]:
    """The noise levels at which the network is told these times: 1000 sigma on flow models, else timesteps
    with fractions."""
    flow = alphas(sampling, [1.0]) == [0.0]
    top = 1000 if flow else float(sampling.timestep(sampling.sigma_max))
    for time in times:
        within("timesteps: a time", time, 0, top)
    return [time / 1000 if flow else float(sampling.sigma(torch.tensor(time))) for time in times]


def number(word: str) -> float:
    """The finite number that a word writes; ValueError names the word."""
    try:
        return checks.number(word)
    except ValueError:
        raise ValueError(f"timesteps holds {word!r}, which is not a finite number") from None
