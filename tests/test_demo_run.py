"""The demo through a real server's queue, on the pack installed the ordinary way."""

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from conftest import ROOT
from ddim_toolkit import nodes
from ddim_toolkit.runner import demo, gallery
from ddim_toolkit.runner.comfyui import RunError
from ddim_toolkit.runner.server import Server
from ddim_toolkit.runner.workflow import to_prompt
from helpers import HERE
from PIL import Image

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server whose custom_nodes folder holds a copy of the checkout, under a name of its own."""
    base = tmp_path_factory.mktemp("base")
    leave_out = shutil.ignore_patterns(".git", ".comfyui", "output", "__pycache__", "node_modules")
    shutil.copytree(ROOT, base / "custom_nodes" / "ddim-copy", ignore=leave_out)
    with Server(HERE, base / "output", ["--base-directory", str(base)]) as running:
        running.base = base
        yield running


@pytest.fixture(scope="module")
def draw(server):
    """Runs the example with changes; the pictures (draft, final) of the one that is picked, as files."""
    workflow, info = json.loads(demo.EXAMPLE.read_text(encoding="utf-8")), server.get("/object_info")

    def run(text=None, seed=None, steps=None, eta=None):
        prompt = to_prompt(workflow, info)
        demo.change(prompt, text, seed, steps, eta)
        gallery.pick(prompt, str(demo.PICK))
        outputs = server.queue(prompt)["outputs"].values()
        [sheet] = next(each["ddim_sheet"] for each in outputs if "ddim_sheet" in each)
        [final] = next(each["images"] for each in outputs if "images" in each)
        return [server.image(sheet["pictures"][demo.PICK - 1]), server.image(final)]

    return run


def pixels(png: bytes) -> np.ndarray:
    """Height x width x 3, 0 to 1."""
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), dtype=np.float32) / 255


def assert_picture(image: np.ndarray) -> None:
    """Neither flat nor noise: pixels differ, neighbours hardly. In white noise neighbours differ by 1.13
    deviations."""
    assert image.std() > 0.1
    assert np.abs(np.diff(image, axis=1)).mean() < 0.3 * image.std()
    assert np.abs(np.diff(image, axis=0)).mean() < 0.3 * image.std()


def test_a_copy_in_custom_nodes_adds_the_nodes(server):
    info = server.get("/object_info")
    own = {name for name, node in info.items() if node["python_module"] == "custom_nodes.ddim-copy"}
    assert own == {node.GET_SCHEMA().node_id for family in nodes.FAMILIES for node in family.NODES}


def test_the_page_offers_the_examples_with_their_pictures(server):
    copy = server.base / "custom_nodes" / "ddim-copy" / "example_workflows"
    assert set(server.get("/workflow_templates")["ddim-copy"]) == {path.stem for path in copy.glob("*.json")}
    thumbnails = [path.name for path in copy.glob("*.jpg")]
    assert "03 Draft next to final.jpg" in thumbnails
    for name in thumbnails:
        assert (
            Image.open(
                io.BytesIO(server.get_bytes(f"/api/workflow_templates/ddim-copy/{quote(name)}"))
            ).format
            == "JPEG"
        )


def test_pictures_of_the_right_size(draw):
    for png in draw():
        image = pixels(png)
        assert image.shape == (128, 128, 3)
        assert_picture(image)


def test_the_same_seed_gives_the_same_file(draw):
    first = draw(seed=1, eta=0.5)
    other = draw(seed=2, eta=0.5)  # so that the queue's cache does not answer the third
    again = draw(seed=1, eta=0.5)
    assert first == again
    assert first[0] != other[0] and first[1] != other[1]


def test_the_prompt_matters(draw):
    for red, blue in zip(draw("red heart"), draw("blue heart"), strict=True):
        red, blue = pixels(red), pixels(blue)
        assert red[..., 0].mean() > red[..., 2].mean() + 0.05
        assert blue[..., 2].mean() > blue[..., 0].mean() + 0.05


def test_a_refusal_names_node_and_input(draw):
    with pytest.raises(RunError, match="Draft: Value 1.5 bigger than max of 1.0: eta"):
        draw(eta=1.5)


def test_the_demo_command(tmp_path):
    command = [
        sys.executable,
        ROOT / "run.py",
        "demo",
        "--comfyui",
        HERE.folder,
        "--python",
        sys.executable,
        "--output",
        tmp_path,
        "--prompt",
        "green apple",
        "--seed",
        "3",
        "--steps",
        "5",
        "--eta",
        "0.3",
        "--pick",
        "2",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    final, sheet = map(Path, done.stdout.splitlines()[-2:])
    assert final.parent == sheet.parent == tmp_path
    assert {path.name for path in tmp_path.iterdir()} == {final.name, sheet.name}
    assert pixels(final.read_bytes()).shape == (128, 128, 3)
    used = {
        node["class_type"]: node["inputs"] for node in json.loads(Image.open(final).info["prompt"]).values()
    }
    assert used["DDIMKSampler"] | {"steps": 5, "eta": 0.3} == used["DDIMKSampler"]
    assert used["DDIMSeed"]["seed"] == 3 and used["DDIMContactSheet"]["picks"] == "2"
    assert used["EmptyLatentImage"]["batch_size"] == demo.DRAFTS
    drawn = Image.open(sheet)
    assert drawn.width > 1.5 * drawn.height
    for path in (final, sheet):
        assert_picture(pixels(path.read_bytes()))


@pytest.mark.parametrize("pick", ["0", "9", "two"])
def test_a_pick_that_no_draft_has_is_refused_at_once(pick):
    command = [sys.executable, ROOT / "run.py", "demo", "--pick", pick]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and "argument --pick: invalid" in done.stderr and pick in done.stderr
