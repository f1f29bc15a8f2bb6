"""LATENT dictionaries of every kind: 4-D (images), 5-D (video), nested (video with sound)."""

from inspect import signature

import comfy.nested_tensor
import comfy.sample
import comfy.utils
import torch


def parts(latent):
    """The tensors (B, ...) of a LATENT: one, or several where it is nested."""
    samples = latent["samples"]
    return list(samples.unbind()) if getattr(samples, "is_nested", False) else [samples]


def join(tensors, latent):
    """The inverse of `parts`: nested again where `latent` is."""
    return nest(tensors) if getattr(latent["samples"], "is_nested", False) else tensors[0]


def nest(tensors):
    """The host's nested tensor of several tensors."""
    return comfy.nested_tensor.NestedTensor(tensors)


def batch_indices(latent):
    """The index of each picture of a LATENT: its `batch_index`, or 0, 1, 2, ..."""
    count = parts(latent)[0].shape[0]
    given = latent.get("batch_index")
    if given is None:
        return list(range(count))
    indices = [int(index) for index in given]
    if len(indices) != count or min(indices, default=0) < 0:
        raise ValueError(
            f"latent_image: its batch_index {indices} must hold one number from 0 up for each of its {count}"
            " pictures."
        )
    return indices


def empty(latent, indices):
    """A LATENT of zeros of the same kind for the pictures `indices`."""
    zeros = [torch.zeros((len(indices), *part.shape[1:]), dtype=part.dtype) for part in parts(latent)]
    return {"samples": join(zeros, latent), "batch_index": list(indices)}


def repeat_pictures(latent, times):
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


def take(latent, rows):
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


def fitting(latent, model=None):
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


def check_values(latent):
    """Raise ValueError where there is nothing in a LATENT or its noise_mask, NaN or infinity, or where its
    batch_index does not fit."""
    batch_indices(latent)
    for part in parts(latent):
        if part.numel() == 0:
            raise ValueError(
                f"latent_image is empty: its shape is {tuple(part.shape)}; every dimension must be at least 1"
            )
        if not torch.isfinite(part).all():
            raise ValueError("latent_image holds NaN or infinite values; the node that made it went wrong")
    if latent.get("noise_mask") is not None:
        for mask in parts({"samples": latent["noise_mask"]}):
            if mask.numel() == 0 or not torch.isfinite(mask).all():
                raise ValueError("latent_image: its noise_mask is empty, or holds NaN or infinite values")


def check(latent, model):
    """`latent` ready for `model`. Raises ValueError that says what is wrong: its values, or another number of
    channels or dimensions than the model's."""
    ready, form = fitting(latent, model), model.get_model_object("latent_format")
    wanted, most = form.latent_channels, form.latent_dimensions + 2
    check_values(ready)
    if not getattr(ready["samples"], "is_nested", False) and ready["samples"].shape[1] != wanted:
        raise ValueError(
            f"latent_image has {ready['samples'].shape[1]} channels; this model's latents have {wanted}."
            " Encode it with the model's own VAE."
        )
    if not getattr(ready["samples"], "is_nested", False) and ready["samples"].ndim > most:
        raise ValueError(
            f"latent_image has {ready['samples'].ndim} dimensions, {tuple(ready['samples'].shape)}; this"
            f" model's latents have {most}. A video is for a video model."
        )
    return ready


def check_mask(name, mask):
    """Raise ValueError unless a MASK holds values from 0 to 1."""
    if mask.numel() == 0:
        raise ValueError(f"{name} is empty: its shape is {tuple(mask.shape)}")
    if not (0 <= mask.min() and mask.max() <= 1):  # NaN is in no range
        raise ValueError(f"{name} holds values from {mask.min():g} to {mask.max():g}; allowed are 0 to 1")
