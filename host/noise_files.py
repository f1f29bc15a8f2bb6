"""Noise as safetensors files under the host's output and input folders. No pickle, no other folder."""

import json
import os
import re
from pathlib import Path

import folder_paths
import safetensors
import safetensors.torch
from comfy.cli_args import args

from .noise import HeldNoise

_MARK = "ddim_toolkit_noise"  # a key of the header: which layout the file has
_LAYOUT = "1"
_FLOATS = ("float64", "float32", "float16", "bfloat16")


def save(latent, recipe, filename_prefix, graph=None):
    """Write the samples of a LATENT, exactly, and the recipe (a dict that JSON can hold) to a new file of the
    output folder.

    graph: header entries of the workflow, as the host's own savers write them (name -> JSON text).
    Returns (the name that `load` takes, the file's place as the host's UI names it). Raises ValueError for a
    prefix that leads out of the output folder.
    """
    root = folder_paths.get_output_directory()
    if not _inside(os.path.join(root, os.path.dirname(filename_prefix)), root):
        raise ValueError(
            f"filename_prefix: {filename_prefix!r} leads out of the output folder. Use a plain name, or"
            " folder/name."
        )
    folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(filename_prefix, root)
    noise = HeldNoise.of(latent)
    header = {**(graph or {}), _MARK: _LAYOUT, "recipe": json.dumps({**recipe, "batch_index": noise.indices})}
    file = f"{name}_{counter:05}_.safetensors"
    path = os.path.join(folder, file)
    safetensors.torch.save_file(
        {f"noise.{k}": part.contiguous() for k, part in enumerate(noise.parts)}, path + ".part", header
    )
    os.replace(path + ".part", path)  # a broken write leaves no half file under the real name
    return f"{Path(subfolder, file).as_posix()} [output]", {
        "filename": file,
        "subfolder": subfolder,
        "type": "output",
    }


def load(name):
    """(HeldNoise, recipe) of a file that `save` wrote.

    Raises ValueError for a file that is missing, outside the folders, damaged, or not such a file.
    """
    path = find(name)
    try:
        with safetensors.safe_open(path, framework="pt", device="cpu") as file:
            header = file.metadata() or {}
            parts = (
                [file.get_tensor(f"noise.{k}").clone() for k in range(len(file.keys()))]
                if header.get(_MARK) == _LAYOUT
                else []
            )
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"file: {name} is damaged or no safetensors file ({error}).") from error
    if _MARK not in header:
        raise ValueError(
            f"file: {name} was not written by DDIM Save Noise. A latent goes through its own loader and DDIM"
            " Noise from Latent."
        )
    if header[_MARK] != _LAYOUT:
        raise ValueError(
            f"file: {name} has layout {header[_MARK]!r}; this version reads {_LAYOUT!r}. Update the node"
            " pack."
        )
    try:
        recipe = json.loads(header["recipe"])
        indices, seed = recipe["batch_index"], recipe["seed"]
        whole = type(seed) is int and all(type(index) is int and index >= 0 for index in indices)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"file: the recipe in the header of {name} is damaged ({type(error).__name__}: {error})."
        ) from error
    fits = parts and all(
        part.ndim > 1 and part.shape[0] == len(indices) and str(part.dtype)[6:] in _FLOATS for part in parts
    )
    if not whole or not fits:
        raise ValueError(f"file: the tensors and the recipe of {name} do not belong together.")
    return HeldNoise(tuple(parts), tuple(indices), seed, f"noise of {name}"), recipe


def find(name):
    """The path of a saved file: "name", "folder/name", or with " [input]" or " [output]" behind it; plain
    names lie in input."""
    bare, root = folder_paths.annotated_filepath(name)
    root = root or folder_paths.get_input_directory()
    path = os.path.join(root, bare.strip())
    allowed = (folder_paths.get_input_directory(), folder_paths.get_output_directory())
    if root not in allowed or not _inside(path, root):
        raise ValueError(f"file: {name!r} does not lie in the input or output folder.")
    if not os.path.isfile(path):
        raise ValueError(f"file: there is no {name!r}. Press R to read the folders again.")
    return path


def listing():
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


def workflow(hidden):
    """Header entries that let the page open the workflow from the file, as the host's SaveLatent writes
    them."""
    if hidden is None or args.disable_metadata:
        return {}
    header = {name: json.dumps(value) for name, value in (hidden.extra_pnginfo or {}).items()}
    return header | {"prompt": json.dumps(hidden.prompt)} if hidden.prompt else header


def model_name(hidden, model):
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


def pack_version():
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
