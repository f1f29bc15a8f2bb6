"""SIGMAS for a MODEL from a named stride or a written list."""

import itertools
import math
import re

import torch

from ..ddim.checks import within
from ..ddim.stride import timesteps
from .model import check_sigmas, model_sampling, sigmas_at, table


def stride_sigmas(model, steps, stride, denoise=1.0):
    """(SIGMAS of shape (steps + 1,), list of timesteps); both empty at denoise 0.

    denoise below 1 strides over the lowest round(denoise T) timesteps of the model's T. Raises ValueError for
    a bad stride, steps or denoise.
    """
    within("denoise", denoise, 0, 1)
    sampling = model_sampling(model)
    rows = round(denoise * len(table(sampling)))
    if rows == 0:
        return torch.FloatTensor([]), []
    visited = timesteps(stride, rows, steps)
    return sigmas_at(sampling, visited), visited


def custom_sigmas(model, text):
    """SIGMAS from a written list; the closing 0 is added where it is missing.

    "999, 749, 499, 249" are timesteps: whole numbers, rows of the model's own table. "sigmas: 14.6, 5, 1.2"
    are noise levels. Raises ValueError that names the first bad entry.
    """
    sampling = model_sampling(model)
    kind, _, body = text.rpartition(":")
    kind = kind.strip().lower()
    if kind not in ("", "timesteps", "sigmas"):
        raise ValueError(
            f"timesteps begins with {kind!r}; a list begins with a number, 'timesteps:' or 'sigmas:'"
        )
    numbers = [number(word) for word in re.split(r"[\s,;]+", body.strip()) if word]
    if not numbers:
        raise ValueError("timesteps is empty; write at least one, such as 999, 749, 499, 249")
    for before, after in itertools.pairwise(numbers):
        if after >= before:
            raise ValueError(f"timesteps must go down, each once; {after:g} follows {before:g}")
    if kind == "sigmas":
        sigmas = torch.tensor(numbers if numbers[-1] == 0 else [*numbers, 0.0])
        check_sigmas(sigmas, sampling)
        return sigmas
    top = len(table(sampling)) - 1
    for value in numbers:
        if value != int(value) or not 0 <= value <= top:
            raise ValueError(
                f"timesteps holds {value:g}; this model's timesteps are the whole numbers 0 to {top} (noise"
                " levels are written after 'sigmas:')"
            )
    return sigmas_at(sampling, map(int, numbers))


def number(word):
    """The finite number that a word writes; ValueError names the word."""
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"timesteps holds {word!r}, which is not a finite number")
    return value


def shown(sigmas):
    """What a node hands to the page with its outputs: the noise levels, drawn on the node's stride strip."""
    return {"ddim_sigmas": sigmas.tolist()}
