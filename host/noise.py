"""Noise of single pictures, and the NOISE values that pass through the graph.

A picture's noise depends on its seed and its index in the batch alone: it is the same alone, in a batch
of eight, and at another place of the batch. NOISE values are lazy: they learn their shape from the latent
that they are asked to fill, and they hold only plain values, so that they pickle.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import comfy.model_management
import numpy
import torch
from comfy.model_patcher import ModelPatcher

from ..ddim import spherical
from . import latents
from .latents import Latent
from .travel import Travels

_SEED_MASK = 0xFFFFFFFFFFFFFFFF


def image_noise(
    seed: int,
    index: int,
    shape: Sequence[int],
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    stream: int = 0,
) -> torch.Tensor:
    """Standard Gaussian noise of one picture.

    seed    the user's seed, 0 to 2^64 - 1
    index   the picture's place in its batch, from 0
    shape   shape of one picture, without the batch: (C, H, W) or (C, T, H, W)
    device  where the noise is drawn and returned; a CPU and a GPU draw different numbers
    stream  0 for the noise that sampling starts from; 1, 2, ... for the noise that step 1, 2, ... adds

    Stream 0 is the host's own RandomNoise: picture k is draw k of the seed's generator.
    """
    return batch_noise(seed, [index], shape, dtype, device, stream)[0]


def batch_noise(
    seed: int,
    indices: Sequence[int],
    shape: Sequence[int],
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    stream: int = 0,
) -> torch.Tensor:
    """`image_noise` of several pictures, stacked: (len(indices), *shape)."""
    return _draw(seed, indices, [shape], dtype, device, stream)[0]


def latent_noise(
    latent: Latent, seed: int, device: torch.device | str = "cpu", stream: int = 0
) -> torch.Tensor:
    """Noise for a LATENT of any kind (4-D, 5-D, nested), in its dtype; `batch_index` names the pictures."""
    parts = latents.parts(latent)
    shapes = [part.shape[1:] for part in parts]
    noises = _draw(seed, latents.batch_indices(latent), shapes, torch.float32, device, stream)
    return latents.join([noise.to(part.dtype) for noise, part in zip(noises, parts, strict=True)], latent)


@dataclass(frozen=True)
class SeedNoise(Travels):
    """NOISE of a seed: `latent_noise`, lazy. For pictures it is what the host's RandomNoise draws."""

    seed: int

    def generate_noise(self, latent: Latent) -> torch.Tensor:
        return latent_noise(latent, self.seed)


@dataclass(frozen=True, eq=False)
class HeldNoise(Travels):
    """NOISE that is known already: inverted, loaded, or made from a latent.

    parts    tensors (B, ...), one, or one for each part of a nested latent
    indices  the batch index of each of the B pictures
    name     what an error message calls it
    empty_only  whether it holds on an empty latent alone, as noise that was mixed from inverted noise does

    A single picture's noise serves every picture of a batch. Raises ValueError for NaN and infinite numbers,
    and asked for a latent of another shape, for pictures that it does not hold, and where empty_only says so.
    """

    parts: tuple[torch.Tensor, ...]
    indices: tuple[int, ...]
    seed: int = 0
    name: str = "noise"
    empty_only: bool = False

    def __post_init__(self):
        if not all(torch.isfinite(part).all() for part in self.parts):
            raise ValueError(f"{self.name}: it holds NaN or infinite numbers.")

    @classmethod
    def of(cls, latent: Latent, seed: int = 0, name: str = "noise") -> "HeldNoise":
        """Hold the samples of a LATENT."""
        parts = tuple(part.detach().to("cpu", copy=True) for part in latents.parts(latent))
        return cls(parts, tuple(latents.batch_indices(latent)), seed, name)

    def generate_noise(self, latent: Latent) -> torch.Tensor:
        wanted, parts = latents.batch_indices(latent), latents.parts(latent)
        held_shapes, shapes = [[tuple(part.shape[1:]) for part in many] for many in (self.parts, parts)]
        if held_shapes != shapes:
            raise ValueError(
                f"{self.name}: it is noise for pictures of shape {_shape(held_shapes)}, but the latent asks"
                f" for {_shape(shapes)}. Use a latent of the size (and the kind of model) that the noise was"
                " made for."
            )
        if self.empty_only and any(part.any() for part in parts):
            raise ValueError(
                f"{self.name}: it was mixed from inverted noise and saved for an empty latent, and would be"
                " wrong on a picture. Use the latent that comes out of DDIM Load Noise."
            )
        rows = self._rows(wanted)
        return latents.join(
            [held[rows].to(part.dtype) for held, part in zip(self.parts, parts, strict=True)], latent
        )

    def empty_latent(self) -> Latent:
        """The LATENT of zeros that this noise fits."""
        parts = [torch.zeros_like(part) for part in self.parts]
        samples = latents.nest(parts) if len(parts) > 1 else parts[0]
        return {"samples": samples, "batch_index": list(self.indices)}

    def _rows(self, wanted):
        if wanted == list(self.indices):
            return list(range(len(wanted)))
        if len(self.indices) == 1:
            return [0] * len(wanted)
        missing = sorted(set(wanted) - set(self.indices))
        if missing or len(set(self.indices)) < len(self.indices):
            raise ValueError(
                f"{self.name}: it holds the pictures {list(self.indices)} of its batch, but the latent asks"
                f" for {wanted}. Use a latent of the same batch."
            )
        return [self.indices.index(index) for index in wanted]


@dataclass(frozen=True)
class InterpolatedNoise(Travels):
    """NOISE on the way from corner to corner, for a batch that shows each picture in all frames, one picture
    after the other.

    corners   two NOISE values (a, b), or four (top left, top right, bottom left, bottom right)
    pictures  the batch index of each picture that is morphed
    frames    frames on the way from a to b; with four corners, columns of the grid
    rows      rows of the grid; 1 with two corners
    mode      "slerp", "linear", or "variation": each frame is a neighbour of a, `strength` of a right angle
              away in the direction that b has for this frame

    Raises ValueError, asked for a picture beyond the last frame.
    """

    corners: tuple[object, ...]
    pictures: tuple[int, ...]
    frames: int
    rows: int = 1
    mode: str = "slerp"
    easing: str = "linear"
    strength: float = 0.0

    @property
    def seed(self) -> int:
        return self.corners[0].seed

    def generate_noise(self, latent: Latent) -> torch.Tensor:
        indices, parts = latents.batch_indices(latent), latents.parts(latent)
        total = len(self.pictures) * self.rows * self.frames
        if max(indices, default=0) >= total:
            raise ValueError(
                f"latent_image: it asks for picture {max(indices)}, but the interpolation has the pictures 0"
                f" to {total - 1}. Connect the latent that comes out of the interpolation."
            )
        whole = latents.empty(latent, self.pictures)
        # Inverted noise asks what picture it is added to.
        for many, one in zip(latents.parts(whole), parts, strict=True):
            for place, index in enumerate(indices):
                many[index // (self.rows * self.frames)] = one[place]
        corners = [
            _ask(noise, whole, f"noise_{letter}") for noise, letter in zip(self.corners, "abcd", strict=False)
        ]
        if self.mode == "variation":
            corners[1] = _ask(
                self.corners[1], {"samples": latent["samples"], "batch_index": indices}, "noise_b"
            )
        morphed = []
        for part in range(len(parts)):
            here = [corner[part] for corner in corners]
            morphed.append(
                torch.stack([self._frame(here, place, index) for place, index in enumerate(indices)])
            )
        return latents.join(morphed, latent)

    def _frame(self, corners, place, index):
        comfy.model_management.throw_exception_if_processing_interrupted()
        picture, frame = divmod(index, self.rows * self.frames)
        if self.mode == "variation":
            return spherical.turn(corners[0][picture], corners[1][place], self.strength * math.pi / 2)
        between = spherical.lerp if self.mode == "linear" else spherical.slerp
        row, column = divmod(frame, self.frames)
        x = spherical.weights(self.frames, self.easing)[column]
        here = [corner[picture] for corner in corners]
        if len(here) == 2:
            return between(*here, x)
        return spherical.grid(*here, x, spherical.weights(self.rows, self.easing)[row], between)


@dataclass(frozen=True)
class ShiftedNoise(Travels):
    """NOISE base + weight (plus - minus), each picture scaled back to the norm of its base."""

    base: object
    plus: object
    minus: object
    weight: float

    @property
    def seed(self) -> int:
        return self.base.seed

    def generate_noise(self, latent: Latent) -> torch.Tensor:
        terms = [_ask(getattr(self, name), latent, name) for name in ("base", "plus", "minus")]
        return latents.join(
            [
                torch.stack([spherical.shift(*picture, self.weight) for picture in zip(*part, strict=True)])
                for part in zip(*terms, strict=True)
            ],
            latent,
        )


def to_latent(noise: object, latent: Latent, model: ModelPatcher | None = None) -> Latent:
    """`latent` with the noise that is drawn for an empty latent of its kind; with a model, in the scale in
    which a sampler returns it."""
    empty = latents.empty(latent, latents.batch_indices(latent))
    samples = latents.join(_ask(noise, empty, "noise"), latent)
    return latent | {
        "samples": samples if model is None else model.get_model_object("process_latent_out")(samples)
    }


def from_latent(latent: Latent, scaled: bool, model: ModelPatcher | None = None) -> HeldNoise:
    """The samples of a LATENT as NOISE, each picture scaled to unit variance where asked."""
    if model is not None:
        latent = latent | {"samples": model.get_model_object("process_latent_in")(latent["samples"])}
    noise = HeldNoise.of(latent, name="latent_image")
    if not scaled:
        return noise
    return replace(
        noise,
        parts=tuple(
            torch.stack([spherical.unit_variance(picture) for picture in part]) for part in noise.parts
        ),
    )


def _ask(noise, latent, name):
    """The parts of the noise that a NOISE value, maybe another pack's, gives for a latent, checked."""
    parts = latents.parts(latent)
    given = latents.parts({"samples": noise.generate_noise(latent)})
    shapes, wanted = [[tuple(part.shape) for part in many] for many in (given, parts)]
    if shapes != wanted:
        raise ValueError(
            f"{name}: it gives noise of shape {_shape(shapes)}, but the latent asks for {_shape(wanted)}."
        )
    if not all(torch.isfinite(part).all() for part in given):
        raise ValueError(f"{name}: its noise holds NaN or infinite numbers.")
    return [part.cpu() for part in given]


def _shape(shapes):
    return " and ".join("x".join(map(str, shape)) for shape in shapes)


def _draw(seed, indices, shapes, dtype, device, stream):
    # Drawn in float32 whatever the dtype: half precision would draw other numbers.
    def picture(generator):
        comfy.model_management.throw_exception_if_processing_interrupted()
        return [torch.randn(tuple(shape), generator=generator, device=device).to(dtype) for shape in shapes]

    seed, drawn = int(seed) & _SEED_MASK, {}  # numpy's numbers hold no 64 bits without a sign
    if stream == 0:
        generator = torch.Generator(device).manual_seed(seed)
        wanted = set(indices)
        for index in range(max(indices, default=-1) + 1):
            noise = picture(generator)
            if index in wanted:
                drawn[index] = noise
    else:
        for index in set(indices):
            drawn[index] = picture(torch.Generator(device).manual_seed(_mixed_seed(seed, index, stream)))
    empty = [torch.empty((0, *shape), dtype=dtype, device=device) for shape in shapes]
    return [
        torch.stack([drawn[i][part] for i in indices]) if indices else empty[part]
        for part in range(len(shapes))
    ]


def _mixed_seed(seed, index, stream):
    # seed + index would give picture 1 of seed 4 the noise of picture 0 of seed 5. SeedSequence is made to
    # part streams (Generator.manual_seed on the CPU takes 32 bits, so 32 bits are what we ask for).
    return int(numpy.random.SeedSequence(seed, spawn_key=(index, stream)).generate_state(1)[0])
