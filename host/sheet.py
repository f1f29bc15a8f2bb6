"""A contact sheet: which pictures are picked, their rows of a LATENT, and files that the page shows."""

import hashlib
from pathlib import Path

import comfy.model_management
import comfy.utils
import folder_paths
import numpy
import torch
from comfy_execution.graph_utils import ExecutionBlocker
from PIL import Image

from . import latents
from .latents import Latent

SMALL = 512  # pixels of a file's longer side that the page shows; the whole picture lies beside it


def parse_picks(text: str, count: int | None = None) -> list[int]:
    """The rows that a written list names, from 0, in its order, each once: "3, 7" is [2, 6].

    Raises ValueError for anything that is not a whole number from 1 to `count`.
    """
    rows = []
    for word in text.replace(",", " ").split():
        number = int(word) if word.isascii() and word.isdigit() and len(word) < 10 else 0
        if number < 1 or (count is not None and number > count):
            allowed = "whole numbers from 1 up" if count is None else f"the numbers 1 to {count}"
            raise ValueError(f'picks: "{word}" names no picture; allowed are {allowed}, such as "3, 7".')
        rows.append(number - 1)
    return list(dict.fromkeys(rows))


def pick(images: torch.Tensor, rows: list[int], latent: Latent | None = None) -> tuple:
    """(IMAGE, LATENT) of the picked pictures. What follows an empty choice does not run, as what follows a
    LATENT that is not there.

    images  (N, H, W, C), `frames_each` of them for each row
    """
    if not rows:
        return ExecutionBlocker(None), ExecutionBlocker(None)
    picked = images.unflatten(0, (-1, frames_each(images, latent)))[rows].flatten(0, 1)
    if latent is None:
        return picked, ExecutionBlocker("latent_image of the contact sheet is not connected.")
    return picked, latents.take(latent, rows)


def frames_each(images: torch.Tensor, latent: Latent | None = None) -> int:
    """How many images each row of the latent decoded to: 1, or the frames of a video. Raises ValueError where
    they are not the latent's, or nothing can be sampled from it."""
    if latent is None:
        return 1
    count, samples = len(latents.batch_indices(latent)), latents.parts(latent)[0]
    each = len(images) // count
    if each < 1 or count * each != len(images) or (each > 1 and samples.ndim < 5):
        raise ValueError(
            f"latent_image has {count} pictures, but images has {len(images)}. Connect the LATENT that these"
            " pictures were sampled from."
        )
    return each


def lines(labels: str, count: int) -> list[str]:
    """The lines of a text, one for each picture, or none. Raises ValueError for any other number of them."""
    each = labels.splitlines() if labels.strip() else []
    if each and len(each) != count:
        raise ValueError(f"labels has {len(each)} lines, but there are {count} pictures: one line for each.")
    return each


def save(images: torch.Tensor) -> list[dict[str, str]]:
    """Write pictures (N, H, W, C) to the server's temporary folder for the page; their files' names.

    The same picture gives the same name, and is written once. JPEG, whole and at most SMALL pixels wide and
    high: a PNG takes twenty times as long, and none of them is kept. Raises ValueError for NaN and infinity,
    and for what is no picture.
    """
    if images.ndim != 4 or 0 in images.shape[1:] or images.shape[3] not in (1, 3, 4):
        raise ValueError(
            f"images has the shape {tuple(images.shape)}; pictures are (batch, height, width, 1, 3 or 4)."
        )
    if not torch.isfinite(images).all():
        raise ValueError("images holds NaN or infinite values; the node that made them went wrong.")
    folder = Path(folder_paths.get_temp_directory())
    folder.mkdir(parents=True, exist_ok=True)
    progress, files = comfy.utils.ProgressBar(len(images)), []
    for image in images:
        comfy.model_management.throw_exception_if_processing_interrupted()
        pixels = numpy.clip(image.cpu().float().numpy() * 255, 0, 255).round().astype(numpy.uint8)
        name = f"ddim_sheet_{hashlib.sha256(pixels.tobytes()).hexdigest()[:24]}"
        picture = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).convert("RGB")
        small = picture.copy()
        small.thumbnail((SMALL, SMALL), reducing_gap=2.0)
        for file, version in ((f"{name}.jpg", picture), (f"{name}_small.jpg", small)):
            if not (folder / file).exists():
                version.save(folder / file, quality=95, subsampling=0)
        files.append(
            {"filename": f"{name}.jpg", "small": f"{name}_small.jpg", "subfolder": "", "type": "temp"}
        )
        progress.update(1)
    return files
