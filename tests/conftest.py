"""A real ComfyUI on the CPU, with the checkout loaded as the package `ddim_toolkit`."""

import os
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent

os.environ.setdefault("OMP_NUM_THREADS", "1")  # these models are small: threads cost more than they give
os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # Ray on loopback alone
sys.path.insert(0, str(TESTS))
sys.path.append(str(ROOT))  # last: ComfyUI owns the name `nodes`
from runner.inprocess import start

start(os.environ.get("COMFYUI_PATH") or ROOT / ".comfyui" / "ComfyUI", "--cpu")


def pytest_addoption(parser):
    parser.addoption("--update-schemas", action="store_true", help="write tests/schemas.json anew")
    parser.addoption("--screenshots", action="store_true", help="keep pictures of the page")
    parser.addoption("--update-layout", action="store_true", help="lay the examples out anew")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    from xdist.scheduler import LoadFileScheduling

    class ByFile(LoadFileScheduling):
        """A file goes whole to one worker, and so does tests/browser: what it starts is started once."""

        def _split_scope(self, nodeid):
            return "browser" if "tests/browser/" in nodeid else super()._split_scope(nodeid)

    return ByFile(config, log)


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """A server with this pack alone."""
    from ddim_toolkit.runner.server import Server
    from helpers import HERE

    with Server(HERE, tmp_path_factory.mktemp("output")) as running:
        yield running


@pytest.fixture(scope="session")
def info(server):
    """Its nodes, by their types."""
    return server.get("/object_info")


@pytest.fixture(scope="session")
def shipped():
    """(MODEL, CLIP, VAE) of the shipped model."""
    from ddim_toolkit.demo import model

    return model.load()


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """A folder with the host's input, output and temp in it."""
    import folder_paths

    for name in ("input", "output", "temp"):
        (tmp_path / name).mkdir()
        monkeypatch.setattr(folder_paths, f"{name}_directory", str(tmp_path / name))
    return tmp_path
