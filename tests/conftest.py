"""A real ComfyUI on the CPU, with the checkout loaded as the package `ddim_toolkit`."""

import os
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent

os.environ.setdefault("OMP_NUM_THREADS", "1")  # these models are small: threads cost more than they give
os.environ.setdefault(
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0"
)  # Ray, where it is installed, on loopback alone
sys.path.insert(0, str(TESTS))
sys.path.append(str(ROOT))  # last: ComfyUI owns the name `nodes`
from runner.inprocess import start

start(os.environ.get("COMFYUI_PATH") or ROOT / ".comfyui" / "ComfyUI", "--cpu")


def pytest_addoption(parser):
    parser.addoption("--update-schemas", action="store_true", help="write tests/schemas.json anew")
    parser.addoption("--update-layout", action="store_true", help="lay the examples out anew")


@pytest.fixture(scope="session")
def shipped():
    """(MODEL, CLIP, VAE) of the shipped model."""
    from ddim_toolkit.demo import model

    return model.load()
