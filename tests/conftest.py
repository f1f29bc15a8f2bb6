"""A real ComfyUI on the CPU, with the checkout loaded as the package `ddim_toolkit`."""

import importlib.util
import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
COMFYUI = Path(os.environ.get("COMFYUI_PATH") or ROOT / ".comfyui" / "ComfyUI")

os.environ.setdefault("OMP_NUM_THREADS", "1")  # these models are small: threads cost more than they give
sys.path[:0] = [str(COMFYUI), str(Path(__file__).parent)]
arguments, sys.argv = sys.argv, [sys.argv[0], "--cpu"]
import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()
import comfy.cli_args  # noqa: E402,F401  reads sys.argv once

sys.argv = arguments

spec = importlib.util.spec_from_file_location("ddim_toolkit", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
sys.modules["ddim_toolkit"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["ddim_toolkit"])


def pytest_addoption(parser):
    parser.addoption("--update-schemas", action="store_true", help="write tests/schemas.json anew")


@pytest.fixture(scope="session")
def shipped():
    """(MODEL, CLIP, VAE) of the shipped model."""
    from ddim_toolkit.demo import model

    return model.load()
