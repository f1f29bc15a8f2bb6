"""LATENT dictionaries of every kind: 4-D (images), 5-D (video), nested (video with sound)."""

from collections.abc import Sequence
from inspect import signature
from operator import index

import comfy.nested_tensor
import comfy.sample
import comfy.sampler_helpers
import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher

# "samples": a tensor (B, C, ...) or the host's nested one; noise_mask, batch_index, marks of others
Latent = dict


def parts(latent: Latent) -> list[torch.Tensor]:
    """The tensors (B, ...) of a LATENT: one, or several where it is nested."""
    samples = latent["samples"]
    return list(samples.unbind()) if getattr(samples, "is_nested", False) else [samples]


def join(tensors: list[torch.Tensor], latent: Latent) -> torch.Tensor:
    """The inverse of `parts`: nested again where `latent` is."""
    return nest(tensors) if getattr(latent["samples"], "is_nested", False) else tensors[0]


def nest(tensors: list[torch.Tensor]) -> comfy.nested_tensor.NestedTensor:
    """The host's nested tensor of several tensors."""
    return comfy.nested_tensor.NestedTensor(tensors)


def packed(tensors: list[torch.Tensor]) -> torch.Tensor:
    """The one tensor that a sampler sees for the parts of a LATENT."""
    return tensors[0] if len(tensors) == 1 else comfy.utils.pack_latents(tensors)[0]


def unpacked(x: torch.Tensor, latent: Latent) -> torch.Tensor:
    """The inverse of `packed`, in the form of `latent`'s samples."""
    shapes = [part.shape for part in parts(latent)]
    return x if len(shapes) == 1 else join(comfy.utils.unpack_latents(x, shapes), latent)


def batch_indices(latent: Latent) -> list[int]:
    """The index of each picture of a LATENT: its `batch_index`, or 0, 1, 2, ... Raises ValueError for one
    that does not fit."""
    count, given = parts(latent)[0].shape[0], latent.get("batch_index")
    indices = list(range(count)) if given is None else whole_indices(given)
    if indices is None or len(indices) != count:
        raise ValueError(
            f"latent_image: its batch_index {given!r:.60} must hold one number from 0 up for each of its"
            f" {count} pictures."
        )
    return indices


def whole_indices(given: object) -> list[int] | None:
    """A batch_index, such as a list or a tensor, as plain numbers; None unless they are whole, from 0 up."""
    try:
        indices = [index(each) for each in given]
    except TypeError:  # no list, or of something else than whole numbers
        return None
    return indices if min(indices, default=0) >= 0 else None


def empty(latent: Latent, indices: Sequence[int]) -> Latent:
    """A LATENT of zeros of the same kind for the pictures `indices`."""
    zeros = [torch.zeros((len(indices), *part.shape[1:]), dtype=part.dtype) for part in parts(latent)]
    return {"samples": join(zeros, latent), "batch_index": list(indices)}


def repeat_pictures(latent: Latent, times: int) -> Latent:
    """Each picture of a LATENT `times` times in a row, numbered anew from 0, its mask with it."""
    tensors = parts(latent)
    count = tensors[0].shape[0]
    repeated = latent | {
        "samples": join([part.repeat_interleave(times, 0) for part in tensors], latent),
        "batch_index": list(range(count * times)),
    }
    if latent.get("noise_mask") is not None:
        masks = {"samples": latent["noise_mask"]}
        fitted = [comfy.utils.repeat_to_batch_size(mask, count) for mask in parts(masks)]
        repeated["noise_mask"] = join([mask.repeat_interleave(times, 0) for mask in fitted], masks)
    return repeated


def take(latent: Latent, rows: list[int]) -> Latent:
    """The rows of a LATENT, each with its mask and the index that its noise belongs to."""
    indices = batch_indices(latent)
    taken = latent | {
        "samples": join([part[rows] for part in parts(latent)], latent),
        "batch_index": [indices[row] for row in rows],
    }
    if latent.get("noise_mask") is not None:
        masks = {"samples": latent["noise_mask"]}
        fitted = [comfy.utils.repeat_to_batch_size(mask, len(indices)) for mask in parts(masks)]
        taken["noise_mask"] = join([mask[rows] for mask in fitted], masks)
    return taken


def fitting(latent: Latent, model: ModelPatcher | None = None) -> Latent:
    """`latent`, with the channels that the model wants where it is an empty one, and on newer hosts the
    size."""
    if model is None:
        return latent
    # Newer hosts mark an empty latent with the ratio it was made for, and ask for the marks by name here.
    marks = {
        name: latent[name]
        for name in signature(comfy.sample.fix_empty_latent_channels).parameters
        if name in latent
    }
    fixed = comfy.sample.fix_empty_latent_channels(model, latent["samples"], **marks)
    return {name: value for name, value in latent.items() if name not in marks} | {"samples": fixed}


def check_form(latent: object, name: str = "latent_image") -> None:
    """Raise ValueError that says what is wrong with a LATENT whatever model it is for: no samples, nothing in
    them or the noise_mask, NaN or infinity, other than floating-point numbers, or a batch_index that does not
    fit."""
    samples = latent.get("samples") if isinstance(latent, dict) else latent
    if not isinstance(latent, dict) or not hasattr(samples, "is_nested"):
        raise ValueError(f"{name} is {latent!r:.60}; it must be a LATENT")
    for part in parts(latent):
        if part.ndim < 3 or part.numel() == 0:
            raise ValueError(
                f"{name} is empty: its shape is {tuple(part.shape)}; pictures, channels and every dimension"
                " after them must be at least 1"
            )
        check_numbers(name, part)
    counts = {len(part) for part in parts(latent)}
    if len(counts) > 1:
        raise ValueError(f"{name} holds {sorted(counts)} pictures in its parts; they must be as many in each")
    batch_indices(latent)
    if latent.get("noise_mask") is not None:
        for mask in parts({"samples": latent["noise_mask"]}):
            if not isinstance(mask, torch.Tensor) or mask.ndim < 2 or mask.numel() == 0:
                raise ValueError(f"{name}: its noise_mask is empty, or no MASK")
            check_numbers(f"{name}: its noise_mask", mask)


def check_numbers(name: str, values: torch.Tensor) -> None:
    """Raise ValueError unless all values are finite floating-point numbers."""
    if not values.is_floating_point():
        raise ValueError(f"{name} holds numbers of type {values.dtype}; they must be floating-point numbers")
    if not torch.isfinite(values).all():
        raise ValueError(f"{name} holds NaN or infinite values; the node that made it went wrong")


def check(latent: Latent, model: ModelPatcher) -> Latent:
    """`latent` ready for `model`. Raises ValueError for what `check_form` refuses, and for another number of
    channels or dimensions than the model's."""
    check_form(latent)
    ready, form = fitting(latent, model), model.get_model_object("latent_format")
    samples, wanted, most = ready["samples"], form.latent_channels, form.latent_dimensions + 2
    if getattr(samples, "is_nested", False):
        return ready
    if samples.shape[1] != wanted:
        raise ValueError(
            f"latent_image has {samples.shape[1]} channels; this model's latents have {wanted}."
            " Encode it with the model's own VAE."
        )
    if samples.ndim != most:
        raise ValueError(
            f"latent_image has {samples.ndim} dimensions, {tuple(samples.shape)}; this model's latents have"
            f" {most}. Pictures, video and sound are each for a model of their own."
        )
    return ready


def spread(mask: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """A MASK at the size and for each picture of x (B, C, ...), in its dtype and on its device. Raises
    ValueError for sound, and for video with sound."""
    if x.ndim < 4:
        raise ValueError("mask: latent_image holds sound, or video with sound, which a mask does not fit")
    return comfy.sampler_helpers.prepare_mask(mask, x.shape, x.device).to(x.dtype)


def check_mask(name: str, mask: torch.Tensor) -> None:
    """Raise ValueError unless a MASK is of pictures, (H, W) or more, and holds values from 0 to 1."""
    if mask.ndim < 2 or mask.numel() == 0:
        raise ValueError(f"{name} is empty, or no MASK: its shape is {tuple(mask.shape)}")
    if not (0 <= mask.min() and mask.max() <= 1):  # NaN is in no range
        raise ValueError(f"{name} holds values from {mask.min():g} to {mask.max():g}; allowed are 0 to 1")
    check_numbers(name, mask)
