"""Which ComfyUI to use, with which Python, and how it finds this checkout."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

# Not resolved: a checkout that is linked into a custom_nodes folder lies there.
CHECKOUT = Path(os.path.abspath(__file__)).parent.parent
WORK = CHECKOUT / ".comfyui"
PACK = "ddim-toolkit"


class RunError(Exception):
    """Something the reader can act on; run.py prints the text alone."""


@dataclass(frozen=True)
class ComfyUI:
    """A ComfyUI on this machine: its folder, its Python, and whether run.py set it up (and may change it)."""

    folder: Path
    python: Path
    managed: bool = False

    def command(self, *arguments: str) -> list[str]:
        """The command line that starts the server."""
        return [str(self.python), "main.py", *device_arguments(self.python), *arguments]

    def environment(self) -> dict:
        """The environment for programs that import this ComfyUI."""
        return {**os.environ, "COMFYUI_PATH": str(self.folder), "PYTHONUNBUFFERED": "1"}

    def small_environment(self) -> dict:
        """As `environment`, for work as small as the shipped model's: where other programs want the cores
        too, torch's threads wait for each other far longer than they compute."""
        return {"OMP_NUM_THREADS": "1", **self.environment()}


def python_in(venv: Path) -> Path:
    return venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def find_existing(path: str | None = None, python: str | None = None) -> ComfyUI | None:
    """The ComfyUI that `path`, COMFYUI_PATH or the checkout's own place names; None if none of them does.

    Raises RunError when a named folder holds no ComfyUI, or `python` is not there.
    """
    named = path or os.environ.get("COMFYUI_PATH")
    if named:
        folder = Path(named).expanduser().absolute()
        if not (folder / "main.py").is_file() or not (folder / "comfy").is_dir():
            source = "--comfyui" if path else "COMFYUI_PATH"
            raise RunError(
                f"{source} is {named}, but no ComfyUI is there: it has no main.py beside a folder comfy."
            )
    elif CHECKOUT.parent.name == "custom_nodes" and (CHECKOUT.parent.parent / "main.py").is_file():
        folder = CHECKOUT.parent.parent
    else:
        return None
    if python and not Path(python).expanduser().is_file():
        raise RunError(f"--python is {python}, but no program is there.")
    return ComfyUI(folder, Path(python).expanduser().absolute() if python else own_python(folder))


def own_python(folder: Path) -> Path:
    """The Python that an installed ComfyUI runs with: its venv, the Windows package's, else the one running
    now."""
    candidates = [python_in(base / name) for base in (folder, folder.parent) for name in ("venv", ".venv")]
    candidates.append(folder.parent / "python_embeded" / "python.exe")
    return next((each for each in candidates if each.is_file()), Path(sys.executable))


def require_modules(comfyui: ComfyUI, modules: tuple[str, ...], purpose: str) -> None:
    """Raise RunError if the ComfyUI's Python cannot import `modules`. Nothing is installed into a ComfyUI
    that is not ours."""
    missing = missing_modules(comfyui, *modules)
    if missing:
        raise RunError(
            f"{purpose} needs {', '.join(missing)}, which {comfyui.python} does not have.\n"
            f"Install: {comfyui.python} -m pip install {' '.join(missing)}\n"
            "Or name another Python with --python."
        )


def missing_modules(comfyui: ComfyUI, *modules: str) -> list[str]:
    """Those of `modules` that the ComfyUI's Python does not have."""
    code = "import sys, importlib.util as u; print(*[m for m in sys.argv[1:] if u.find_spec(m) is None])"
    answer = subprocess.run([comfyui.python, "-c", code, *modules], capture_output=True, text=True)
    if answer.returncode:
        raise RunError(f"{comfyui.python} does not run:\n{answer.stderr.strip()}")
    return answer.stdout.split()


@functools.cache
def device_arguments(python: Path) -> list[str]:
    """["--cpu"] where torch finds no accelerator: the server does not see that for itself."""
    code = (
        "import torch; print(any(each.is_available() for each in (torch.cuda, torch.xpu,"
        " torch.backends.mps)))"
    )
    answer = subprocess.run([python, "-c", code], capture_output=True, text=True)
    if answer.returncode:
        raise RunError(
            f"{python} cannot import torch, so it cannot run ComfyUI. Name its Python with --python.\n"
            f"{answer.stderr.strip()}"
        )
    return [] if answer.stdout.strip() == "True" else ["--cpu"]


def pack_arguments(folder: Path, work: Path = WORK) -> list[str]:
    """What makes the server load this checkout: nothing if it lies in custom_nodes already, else an extra
    path.

    The extra path leads to a folder that holds one link to the checkout and nothing else: the folder around
    the checkout may hold anything. A link, because the page's templates and translations are looked up by
    folder. `work` is where that folder is made.
    """
    if installed_name(folder):
        return []
    link = work / "custom_nodes" / PACK
    if not same_folder(link, CHECKOUT):
        make_link(link, CHECKOUT)
    config = work / "extra_model_paths.yaml"
    # A JSON string is a YAML string too, whatever the path holds.
    text = f"{PACK}:\n  custom_nodes: {json.dumps(str(link.parent), ensure_ascii=False)}\n"
    if not config.is_file() or config.read_text(encoding="utf-8") != text:
        part = config.with_suffix(f".{os.getpid()}")  # so: servers may start at the same time
        part.write_text(text, encoding="utf-8")
        part.replace(config)
    return ["--extra-model-paths-config", str(config)]


def this_pack_alone(folder: Path) -> list[str]:
    """As `pack_arguments`, but the server loads no other pack."""
    name = installed_name(folder) or PACK
    return [*pack_arguments(folder), "--disable-all-custom-nodes", "--whitelist-custom-nodes", name]


def installed_name(folder: Path) -> str | None:
    """The name under which this checkout lies in the ComfyUI's custom_nodes folder, if it does."""
    installed = folder / "custom_nodes"
    children = installed.iterdir() if installed.is_dir() else ()
    return next((each.name for each in children if same_folder(each, CHECKOUT)), None)


def same_folder(one: Path, other: Path) -> bool:
    return one.exists() and one.samefile(other)


def make_link(link: Path, target: Path) -> None:
    """A symbolic link, or on Windows a junction, which needs no privilege."""
    link.parent.mkdir(parents=True, exist_ok=True)
    if os.name == "nt":
        if os.path.lexists(link):
            os.rmdir(link)  # removes the junction, never what it leads to
        subprocess.run(
            ["cmd", "/c", "mklink", "/J", str(link), str(target)], check=True, stdout=subprocess.DEVNULL
        )
    else:
        part = link.parent.with_suffix(f".{os.getpid()}")  # so: servers may start at the same time
        part.symlink_to(os.path.relpath(target, link.parent), target_is_directory=True)
        part.replace(link)
