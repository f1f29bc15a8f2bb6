"""A headless Chromium on the real page of a real server: the frontend of this ComfyUI in both renderers, and
the newest one.

The newest frontend is the unpacked package in .comfyui/frontend (pip install --no-deps --target
.comfyui/frontend comfyui-frontend-package). With --screenshots pictures of the page go to
.comfyui/screenshots.
"""

import shutil
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from conftest import ROOT
from ddim_toolkit.runner.comfyui import this_pack_alone
from ddim_toolkit.runner.server import Server

sys.path.insert(0, str(Path(__file__).parent))
from desk import Desk
from helpers import HERE

NEWEST = ROOT / ".comfyui" / "frontend" / "comfyui_frontend_package" / "static"
SCREENSHOTS = ROOT / ".comfyui" / "screenshots"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="session")
def chromium():
    sync_api = pytest.importorskip(
        "playwright.sync_api", reason="the browser tests need playwright (pip install playwright)"
    )
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("the browser tests need Chromium (apt install chromium)")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def servers(chromium, tmp_path_factory):
    """Starts a server with this pack alone and one of the two frontends, or gives the one that runs."""
    running = {}
    with ExitStack() as stack:

        def serve(frontend):
            if frontend not in running:
                arguments = this_pack_alone(HERE.folder)
                if frontend == "newest":
                    if not NEWEST.is_dir():
                        pytest.skip(
                            "the newest frontend is not there (tests/browser/conftest.py tells where it goes)"
                        )
                    arguments = [*arguments, "--front-end-root", str(NEWEST)]
                running[frontend] = stack.enter_context(
                    Server(HERE, tmp_path_factory.mktemp("output"), arguments)
                )
            return running[frontend]

        yield serve


def pytest_collection_modifyitems(items):
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker("browser")


PAGES = [("shipped", "canvas"), ("shipped", "nodes2"), ("newest", "nodes2")]


@pytest.fixture(scope="session", params=PAGES, ids="-".join)
def page(request, chromium, servers):
    """The page, loaded once for each frontend and renderer."""
    frontend, renderer = request.param
    screenshots = SCREENSHOTS / "-".join(request.param)
    keep = request.config.getoption("--screenshots")
    desk = Desk(chromium, servers(frontend), renderer, screenshots, keep)
    yield desk
    desk.close()


@pytest.fixture
def desk(page):
    """The page with an empty graph; afterwards no error of our files in the console."""
    page.clear()
    yield page
    assert page.errors() == []
