"""Noise as safetensors files under the host's output and input folders. No pickle, no other folder."""

import hashlib
import itertools
import json
import math
import os
import re
import time
import uuid
from contextlib import suppress
from dataclasses import fields, is_dataclass
from pathlib import Path

import comfy.latent_formats
import folder_paths
import safetensors
import safetensors.torch
import torch
from comfy.cli_args import args
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io

from . import latents
from .inversion import InvertedNoise
from .latents import Latent
from .noise import HeldNoise

_MARK = "ddim_toolkit_noise"  # a key of the header: which layout the file has
_LAYOUTS = ("1", "2")  # 1, of version 0.1.0, has neither "form" nor "sha256"
_FLOATS = ("float64", "float32", "float16", "bfloat16")
PICTURES = 65536  # batch indices lie below: a node that draws picture k draws all before it
STALE = 3600  # seconds after which an unfinished file is one whose writer is gone


def save(
    latent: Latent,
    recipe: dict,
    filename_prefix: str,
    graph: dict[str, str] | None = None,
    noise: object = None,
) -> tuple[str, dict]:
    """Write the samples of a LATENT, exactly, and the recipe (a dict that JSON can hold) to a new file of the
    output folder.

    graph: header entries of the workflow, as the host's own savers write them (name -> JSON text). noise: the
    NOISE that drew the samples for an empty latent; what it knows of others is kept. Returns (the name that
    `load` takes, the file's place as the host's UI names it). Raises ValueError for a prefix that is no name
    in the output folder.
    """
    root, prefix = folder_paths.get_output_directory(), _prefix(filename_prefix)
    held = HeldNoise.of(latent)
    if max(held.indices, default=0) >= PICTURES:
        raise ValueError(
            f"latent_image: its batch_index goes up to {max(held.indices)}; a file holds pictures 0 to"
            f" {PICTURES - 1} of a batch"
        )
    own = {
        "recipe": json.dumps({**recipe, "batch_index": held.indices}),
        "form": json.dumps(_form(noise, held.parts)),
    }
    header = {**(graph or {}), _MARK: _LAYOUTS[-1], **own, "sha256": _digest(own, held.parts)}
    tensors = {f"noise.{k}": part.contiguous() for k, part in enumerate(held.parts)}
    data = safetensors.torch.save(tensors, header)
    try:
        folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(prefix, root)
        file = _write(data, folder, name, counter)
    except OSError as error:  # a name too long, a folder that is a file, a full disk, ...
        raise ValueError(
            f"filename_prefix: nothing can be written under {prefix[:60]!r}: {error.strerror}"
        ) from error
    return f"{Path(subfolder, file).as_posix()} [output]", {
        "filename": file,
        "subfolder": subfolder,
        "type": "output",
    }


def load(name: str) -> tuple[HeldNoise | InvertedNoise, Latent, dict]:
    """(NOISE, the empty LATENT that it fits, recipe) of a file that `save` wrote.

    Raises ValueError for a file that is missing, outside the folders, damaged, or not such a file.
    """
    path = find(name)
    try:
        with safetensors.safe_open(path, framework="pt", device="cpu") as file:
            header = file.metadata() or {}
            parts = (
                [file.get_tensor(f"noise.{k}").clone() for k in range(len(file.keys()))]
                if header.get(_MARK) in _LAYOUTS
                else []
            )
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"file: {name} is damaged or no safetensors file ({error}).") from error
    if _MARK not in header:
        raise ValueError(
            f"file: {name} was not written by DDIM Save Noise. A latent goes through its own loader and DDIM"
            " Noise from Latent."
        )
    if header[_MARK] not in _LAYOUTS:
        raise ValueError(
            f"file: {name} has layout {header[_MARK]!r}; this version reads {' and '.join(_LAYOUTS)}. Update"
            " the node pack."
        )
    if header[_MARK] != "1" or "sha256" in header:
        own = {key: header.get(key, "") for key in ("recipe", "form")}
        if header.get("sha256") != _digest(own, parts):
            raise ValueError(f"file: {name} is damaged: its checksum does not fit what it holds.")
    try:
        recipe, form = json.loads(header["recipe"]), json.loads(header.get("form", "{}"))
        indices, seed = recipe["batch_index"], recipe["seed"]
        whole = type(seed) is int and type(indices) is list
        whole = whole and all(type(index) is int and 0 <= index < PICTURES for index in indices)
        weight, format_name = form.get("weight"), form.get("latent_format")
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"file: the recipe in the header of {name} is damaged ({type(error).__name__}: {error})."
        ) from error
    fits = (
        whole
        and parts
        and all(
            part.ndim > 1
            and part.numel() > 0
            and part.shape[0] == len(indices)
            and str(part.dtype)[6:] in _FLOATS
            for part in parts
        )
    )
    if not fits:
        raise ValueError(
            f"file: the tensors and the recipe of {name} do not belong together, or its batch_index leaves 0"
            f" to {PICTURES - 1}."
        )
    title = f"noise of {name}"
    held = HeldNoise(tuple(parts), tuple(indices), seed, title, bool(form.get("empty_only")))
    if weight is None:
        return held, held.empty_latent(), recipe
    known = _latent_format(format_name, latents.packed(parts).float())
    if known is None or type(weight) is not float or not math.isfinite(weight):
        raise ValueError(
            f"file: {name} holds inverted noise of weight {weight!r} for the latent format {format_name!r},"
            " which this ComfyUI does not have for latents of that shape. Update ComfyUI."
        )
    return InvertedNoise(held, weight, known), held.empty_latent(), recipe


def _prefix(given):
    """A prefix that ends in the start of a name, which the host's numbering needs."""
    prefix = os.path.normpath(given.strip() or "noise")
    prefix = "noise" if prefix == "." else prefix
    root = folder_paths.get_output_directory()
    if not _inside(os.path.join(root, prefix), root):
        raise ValueError(
            f"filename_prefix: {given!r} is no name in the output folder. Use a plain name, or folder/name."
        )
    return prefix


def _form(noise, parts):
    """What a file keeps of a NOISE beside its numbers: {} for one that is the same on every latent."""
    if not _looks_at_latents(noise):
        return {}
    if isinstance(noise, InvertedNoise):
        name, seen = type(noise.latent_format).__name__, latents.packed(list(parts)).float()
        known = _latent_format(name, seen)
        if known and torch.equal(known.process_in(seen), noise.latent_format.process_in(seen)):
            return {"weight": noise.weight, "latent_format": name}
    return {"empty_only": True}  # mixed, or made for a latent format that no name brings back


def _looks_at_latents(noise):
    """Whether a NOISE is inverted, or mixed from such, so that it differs from latent to latent."""
    if isinstance(noise, InvertedNoise):
        return noise.weight != 0
    if isinstance(noise, HeldNoise):
        return noise.empty_only
    if isinstance(noise, tuple):
        return any(map(_looks_at_latents, noise))
    return is_dataclass(noise) and any(_looks_at_latents(getattr(noise, f.name)) for f in fields(noise))


def _latent_format(name, seen):
    """ComfyUI's own latent format of that name, or None where there is none for samples like `seen`."""
    found = getattr(comfy.latent_formats, name, None) if isinstance(name, str) else None
    if not (isinstance(found, type) and issubclass(found, comfy.latent_formats.LatentFormat)):
        return None
    with suppress(RuntimeError):  # other channels
        return found() if found().process_in(seen).shape == seen.shape else None


def _digest(own, parts):
    """SHA-256 of the header's own entries and of the tensors with their dtypes and shapes."""
    digest = hashlib.sha256(json.dumps(own, sort_keys=True).encode())
    for part in parts:
        digest.update(f"{part.dtype} {tuple(part.shape)}".encode())
        digest.update(part.contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _write(data, folder, name, counter):
    """Write a new file of the folder and return its name: that of the first number from counter on that
    nobody has, whoever else saves at the same time."""
    for old in Path(folder).glob(".ddim-*.part"):  # of processes that were killed while they wrote
        with suppress(OSError):
            if time.time() - old.stat().st_mtime > STALE:
                old.unlink()
    part = Path(folder, f".ddim-{uuid.uuid4().hex}.part")
    try:
        part.write_bytes(data)
        for number in itertools.count(counter):
            path = Path(folder, f"{name}_{number:05}_.safetensors")
            with suppress(FileExistsError):
                path.touch(exist_ok=False)  # who creates it has the number
                os.replace(part, path)  # a broken write leaves no half file under the real name
                return path.name
    finally:
        part.unlink(missing_ok=True)


def find(name: str) -> str:
    """The path of a saved file: "name", "folder/name", or with " [input]" or " [output]" behind it; plain
    names lie in input. Raises ValueError for one that is not there, or lies elsewhere."""
    if not isinstance(name, str):
        raise ValueError(f"file is {name!r}; it must be the name of a file")
    bare, root = folder_paths.annotated_filepath(name)
    root = root or folder_paths.get_input_directory()
    path = os.path.join(root, bare)
    allowed = (folder_paths.get_input_directory(), folder_paths.get_output_directory())
    if root not in allowed or not _inside(path, root):
        raise ValueError(f"file: {name!r} does not lie in the input or output folder.")
    if not os.path.isfile(path):
        raise ValueError(f"file: there is no {name!r}. Press R to read the folders again.")
    return path


def listing() -> list[str]:
    """Names of the safetensors files in the input and output folders and one folder below."""
    found = []
    for root, mark in (
        (folder_paths.get_input_directory(), ""),
        (folder_paths.get_output_directory(), " [output]"),
    ):
        base = Path(root)
        files = [*base.glob("*.safetensors"), *base.glob("*/*.safetensors")]
        found += sorted(file.relative_to(base).as_posix() + mark for file in files)
    return found


def workflow(hidden: io.HiddenHolder | None) -> dict[str, str]:
    """Header entries that let the page open the workflow from the file, as the host's SaveLatent writes
    them."""
    if hidden is None or args.disable_metadata:
        return {}
    header = {name: json.dumps(value) for name, value in (hidden.extra_pnginfo or {}).items()}
    return header | {"prompt": json.dumps(hidden.prompt)} if hidden.prompt else header


def model_name(hidden: io.HiddenHolder | None, model: ModelPatcher) -> str:
    """The file that the saving node's model comes from, else its loader's name, else its class: as far as the
    graph tells."""
    graph = hidden.prompt if hidden and hidden.prompt else {}
    node = graph.get(hidden.unique_id) if graph else None
    while node and isinstance(node["inputs"].get("model"), list):
        node = graph.get(node["inputs"]["model"][0])
    if not node:
        return type(model.model).__name__
    files = [
        value for name, value in node["inputs"].items() if name.endswith("_name") and isinstance(value, str)
    ]
    return files[0] if files else node["class_type"]


def pack_version() -> str:
    """The pack's version, from pyproject.toml."""
    try:
        text = (Path(__file__).resolve().parent.parent / "pyproject.toml").read_text(encoding="utf-8")
    except OSError:
        return "unknown"
    found = re.search(r'^version\s*=\s*"([^"]+)"', text, re.MULTILINE)
    return found[1] if found else "unknown"


def _inside(path, root):
    try:
        root = os.path.realpath(root)
        return os.path.commonpath([os.path.realpath(path), root]) == root
    except ValueError:  # another drive, or a name that no file can have
        return False
