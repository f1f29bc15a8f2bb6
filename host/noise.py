"""Noise of single pictures, and the NOISE values that pass through the graph.

A picture's noise depends on its seed and its index in the batch alone: it is the same alone, in a batch
of eight, and at another place of the batch.
"""

import numpy
import torch

import comfy.nested_tensor

_SEED_MASK = 0xFFFFFFFFFFFFFFFF


def image_noise(seed, index, shape, dtype=torch.float32, device="cpu", stream=0):
    """Standard Gaussian noise of one picture.

    seed    the user's seed, 0 to 2^64 - 1
    index   the picture's place in its batch, from 0
    shape   shape of one picture, without the batch: (C, H, W) or (C, T, H, W)
    device  where the noise is drawn and returned; a CPU and a GPU draw different numbers
    stream  0 for the noise that sampling starts from; 1, 2, ... for the noise that step 1, 2, ... adds

    Stream 0 is the host's own RandomNoise: picture k is draw k of the seed's generator.
    """
    return batch_noise(seed, [index], shape, dtype, device, stream)[0]


def batch_noise(seed, indices, shape, dtype=torch.float32, device="cpu", stream=0):
    """`image_noise` of several pictures, stacked: (len(indices), *shape)."""
    return _draw(seed, indices, [shape], dtype, device, stream)[0]


def latent_noise(latent, seed, device="cpu", stream=0):
    """Noise for a LATENT of any kind (4-D, 5-D, nested), in its dtype; `batch_index` names the pictures."""
    parts = latent_parts(latent)
    shapes = [part.shape[1:] for part in parts]
    noises = _draw(seed, batch_indices(latent), shapes, torch.float32, device, stream)
    return join_parts([noise.to(part.dtype) for noise, part in zip(noises, parts)], latent)


def batch_indices(latent):
    """The index of each picture of a LATENT: its `batch_index`, or 0, 1, 2, ..."""
    count = latent_parts(latent)[0].shape[0]
    given = latent.get("batch_index")
    if given is None:
        return list(range(count))
    indices = [int(index) for index in given]
    if len(indices) != count or min(indices, default=0) < 0:
        raise ValueError(f"latent_image: its batch_index {indices} must hold one number from 0 up for each of its {count} pictures.")
    return indices


def latent_parts(latent):
    """The tensors of a LATENT: one, or several where it is nested (video with sound)."""
    samples = latent["samples"]
    return list(samples.unbind()) if getattr(samples, "is_nested", False) else [samples]


def join_parts(parts, latent):
    """The inverse of `latent_parts`: nested again where `latent` is."""
    nested = getattr(latent["samples"], "is_nested", False)
    return comfy.nested_tensor.NestedTensor(parts) if nested else parts[0]


def _draw(seed, indices, shapes, dtype, device, stream):
    # Drawn in float32 whatever the dtype: half precision would draw other numbers.
    def picture(generator):
        return [torch.randn(tuple(shape), generator=generator, device=device).to(dtype) for shape in shapes]

    drawn = {}
    if stream == 0:
        generator = torch.Generator(device).manual_seed(seed & _SEED_MASK)
        wanted = set(indices)
        for index in range(max(indices, default=-1) + 1):
            noise = picture(generator)
            if index in wanted:
                drawn[index] = noise
    else:
        for index in set(indices):
            drawn[index] = picture(torch.Generator(device).manual_seed(_mixed_seed(seed, index, stream)))
    empty = [torch.empty((0, *shape), dtype=dtype, device=device) for shape in shapes]
    return [torch.stack([drawn[i][part] for i in indices]) if indices else empty[part] for part in range(len(shapes))]


def _mixed_seed(seed, index, stream):
    # seed + index would give picture 1 of seed 4 the noise of picture 0 of seed 5. SeedSequence is made to
    # part streams (Generator.manual_seed on the CPU takes 32 bits, so 32 bits are what we ask for).
    return int(numpy.random.SeedSequence(seed & _SEED_MASK, spawn_key=(index, stream)).generate_state(1)[0])
