"""run.py's parts that need no server: the set-up's steps, finding a ComfyUI, the link to the checkout."""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import folder_paths
import pytest
from conftest import ROOT
from ddim_toolkit.runner import comfyui, install
from ddim_toolkit.runner.comfyui import RunError
from ddim_toolkit.runner.install import Step
from ddim_toolkit.runner.workflow import set_widget, to_prompt

COMFYUI = Path(folder_paths.__file__).parent


@pytest.fixture
def steps(tmp_path):
    """Three steps that each write a file, and the order in which they were done."""
    done = []

    def step(name):
        def action():
            done.append(name)
            (tmp_path / name).write_text("made")

        return Step(name, lambda: "recipe", tmp_path / name, action)

    return [step(name) for name in ("one", "two", "three")], done


def test_steps_are_done_once(steps, tmp_path):
    steps, done = steps
    install.run_steps(steps, tmp_path / "stamps")
    install.run_steps(steps, tmp_path / "stamps")
    assert done == ["one", "two", "three"]


@pytest.mark.parametrize(
    "trouble, said", [(OSError("disk full"), "failed"), (KeyboardInterrupt(), "interrupted")]
)
def test_goes_on_where_it_stopped(steps, tmp_path, trouble, said):
    steps, done = steps

    def fail():
        raise trouble

    broken = [steps[0], steps[1]._replace(action=fail), steps[2]]
    with pytest.raises(RunError, match=f"{said} in step 2 of 3, two"):
        install.run_steps(broken, tmp_path / "stamps")
    install.run_steps(steps, tmp_path / "stamps")
    assert done == ["one", "two", "three"]


def test_a_changed_recipe_or_a_lost_result_is_made_again(steps, tmp_path):
    steps, done = steps
    install.run_steps(steps, tmp_path / "stamps")
    (tmp_path / "three").unlink()
    install.run_steps([steps[0], steps[1]._replace(recipe=lambda: "another"), steps[2]], tmp_path / "stamps")
    assert done == ["one", "two", "three", "two", "three"]


def test_requirements_leave_torch_to_its_own_step():
    if not (install.FOLDER / "requirements.txt").is_file():
        pytest.skip("this run uses a ComfyUI that was here before")
    lines = install.requirements().splitlines()
    assert "torchsde" in lines and "requests" in lines
    assert not {"torch", "torchvision", "torchaudio"} & set(lines)


def test_a_named_comfyui(monkeypatch):
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    assert comfyui.find_existing(str(COMFYUI), sys.executable).folder == COMFYUI.absolute()
    monkeypatch.setenv("COMFYUI_PATH", str(COMFYUI))
    assert comfyui.find_existing().folder == COMFYUI.absolute()


def test_a_wrong_path_is_named(monkeypatch, tmp_path):
    with pytest.raises(RunError, match="--comfyui is .*main.py"):
        comfyui.find_existing(str(tmp_path))
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    with pytest.raises(RunError, match="COMFYUI_PATH is "):
        comfyui.find_existing()

    with pytest.raises(RunError, match="--python is "):
        comfyui.find_existing(str(COMFYUI), str(tmp_path / "python"))


@pytest.mark.parametrize("port", ["0", "65536", "x", "8_1"])
def test_a_wrong_port_is_named(capsys, port):
    import run

    with pytest.raises(SystemExit, match="2"):
        run.main(["serve", "--port", port])
    assert f'"{port}" is no port; allowed are 1 to 65535' in capsys.readouterr().err


def test_a_relative_python_is_found_from_any_folder(monkeypatch, tmp_path):
    (tmp_path / "python").touch()
    monkeypatch.chdir(tmp_path)
    assert comfyui.find_existing(str(COMFYUI), "python").python == tmp_path / "python"


def test_the_comfyui_around_an_installed_pack(monkeypatch, tmp_path):
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    pack = tmp_path / "custom_nodes" / "any-name"
    pack.mkdir(parents=True)
    monkeypatch.setattr(comfyui, "CHECKOUT", pack)
    assert comfyui.find_existing() is None
    (tmp_path / "main.py").touch()
    assert comfyui.find_existing().folder == tmp_path
    assert comfyui.pack_arguments(tmp_path) == []
    assert comfyui.this_pack_alone(tmp_path)[-1] == "any-name"


def test_a_missing_module_is_named_and_not_installed():
    here = comfyui.ComfyUI(COMFYUI, Path(sys.executable))
    comfyui.require_modules(here, ("torch",), "This")
    with pytest.raises(RunError, match="This needs no_such_module"):
        comfyui.require_modules(here, ("torch", "no_such_module"), "This")


def test_the_link_follows_the_checkout(tmp_path):
    link = tmp_path / "links" / "pack"
    for name in ("before", "after"):
        target = tmp_path / name
        target.mkdir()
        (target / "file").write_text(name)
        comfyui.make_link(link, target)
        assert (link / "file").read_text() == name
    assert os.listdir(link.parent) == ["pack"] and (tmp_path / "before" / "file").is_file()


INFO = {
    "Source": {"input": {}, "output": ["LATENT"]},
    "Work": {
        "input": {
            "required": {"latent": ["LATENT", {}], "seed": ["INT", {}], "mode": [["a", "b"], {}]},
            "optional": {
                "noise_seed": ["INT", {"control_after_generate": False}],
                "from_outside": ["INT", {"forceInput": True}],
                "points": ["STRING", {}],
            },
        }
    },
}


def file(*nodes, links):
    return {"nodes": list(nodes), "links": links}


def node(id, type, link=None, values=None, mode=0):
    made = {"id": id, "type": type, "mode": mode, "outputs": [{"name": "LATENT", "type": "LATENT"}]}
    if type != "Source":
        made["inputs"] = [{"name": "latent", "type": "LATENT", "link": link}]
    return made | ({"widgets_values": values} if values else {})


def test_widgets_get_their_names():
    workflow = file(
        node(1, "Source"),
        node(2, "Work", 5, [3, "randomize", "b", 4, [1, 2]]),
        node(3, "Note", None, ["text"]),
        links=[[5, 1, 0, 2, 0, "LATENT"]],
    )
    prompt = to_prompt(workflow, INFO)
    assert list(prompt) == ["1", "2"]
    assert prompt["2"]["inputs"] == {
        "seed": 3,
        "mode": "b",
        "noise_seed": 4,
        "points": {"__value__": [1, 2]},
        "latent": ["1", 0],
    }


def test_a_file_older_than_an_optional_input_leaves_it_at_its_default():
    workflow = file(
        node(1, "Source"), node(2, "Work", 5, [3, "randomize", "b"]), links=[[5, 1, 0, 2, 0, "LATENT"]]
    )
    assert to_prompt(workflow, INFO)["2"]["inputs"] == {"seed": 3, "mode": "b", "latent": ["1", 0]}


def test_of_a_required_input_the_queue_is_told_the_default():
    """ComfyUI 0.33 has appended `bypass` to LoraModelLoader."""
    required = {"strength": ["FLOAT", {"default": 1.0}], "bypass": ["BOOLEAN", {"default": False}]}
    prompt = to_prompt(
        file(node(1, "Loader", None, [0.5]), links=[]), {"Loader": {"input": {"required": required}}}
    )
    assert prompt["1"]["inputs"] == {"strength": 0.5, "bypass": False}


def test_an_input_newer_than_the_file_is_written_with_the_defaults_before_it():
    optional = {"eta_start": ["FLOAT", {"default": 0.0}], "eta_end": ["FLOAT", {"default": 1.0}]}
    info = {"Sampler": {"input": {"required": {"eta": ["FLOAT", {}]}, "optional": optional}}}
    workflow = file(node(1, "Sampler", None, [0.3]), links=[])
    set_widget(workflow, "1", "eta_end", 0.5, info)
    assert to_prompt(workflow, info)["1"]["inputs"] == {"eta": 0.3, "eta_start": 0.0, "eta_end": 0.5}


@pytest.mark.parametrize(
    "between", [node(3, "Reroute", 5), node(3, "Work", 5, [0, "fixed", "a", 0, ""], mode=4)]
)
def test_links_look_through_reroutes_and_bypassed_nodes(between):
    workflow = file(
        node(1, "Source"),
        between,
        node(2, "Work", 6, [3, "fixed", "b", 4, ""]),
        links=[[5, 1, 0, 3, 0, "LATENT"], [6, 3, 0, 2, 0, "LATENT"]],
    )
    prompt = to_prompt(workflow, INFO)
    assert list(prompt) == ["1", "2"] and prompt["2"]["inputs"]["latent"] == ["1", 0]


def test_a_muted_node_takes_its_links_along():
    workflow = file(
        node(1, "Source", mode=2),
        node(2, "Work", 5, [3, "fixed", "b", 4, ""]),
        links=[[5, 1, 0, 2, 0, "LATENT"]],
    )
    prompt = to_prompt(workflow, INFO)
    assert list(prompt) == ["2"] and "latent" not in prompt["2"]["inputs"]


@pytest.mark.parametrize(
    "bad, said",
    [(node(1, "Unknown"), "no node type 'Unknown'"), (node(1, "Work", None, [3]), "1 widget values for 5")],
)
def test_files_that_do_not_fit(bad, said):
    with pytest.raises(ValueError, match=said):
        to_prompt(file(bad, links=[]), INFO)


def test_a_subgraph_that_contains_itself_is_named():
    inner = file(node(3, "abc"), links=[]) | {"id": "abc", "name": "Ring"}
    workflow = file(node(1, "abc"), links=[]) | {"definitions": {"subgraphs": [inner]}}
    with pytest.raises(ValueError, match="node 1:3: the subgraph Ring contains itself"):
        to_prompt(workflow, INFO)


@pytest.mark.parametrize("mode, expected", [(0, ["1:7", 0]), (2, None), (4, ["5", 0])])
def test_a_subgraph_is_laid_out_unless_it_is_muted_or_bypassed(mode, expected):
    inner = {
        "id": "abc",
        "name": "Work",
        "inputs": [{"name": "latent"}],
        "nodes": [node(7, "Work", 4, [3, "fixed", "b", 4, ""])],
        "links": [
            {"id": 4, "origin_id": -10, "origin_slot": 0, "target_id": 7, "target_slot": 0},
            {"id": 8, "origin_id": 7, "origin_slot": 0, "target_id": -20, "target_slot": 0},
        ],
    }
    workflow = file(
        node(5, "Source"),
        node(1, "abc", 2, mode=mode),
        node(6, "Work", 9, [3, "fixed", "b", 4, ""]),
        links=[[2, 5, 0, 1, 0, "LATENT"], [9, 1, 0, 6, 0, "LATENT"]],
    )
    prompt = to_prompt(workflow | {"definitions": {"subgraphs": [inner]}}, INFO)
    assert prompt["6"]["inputs"].get("latent") == expected
    assert list(prompt) == (["5", "1:7", "6"] if mode == 0 else ["5", "6"])
    assert mode or prompt["1:7"]["inputs"]["latent"] == ["5", 0]


def test_every_text_of_the_command_line_is_ascii():
    """Windows consoles print no more than their code page holds."""
    for path in [ROOT / "run.py", *(ROOT / "runner").rglob("*.py")]:
        path.read_text(encoding="ascii")


def test_every_measurement_that_bench_offers_can_be_run():
    help = subprocess.run(
        [sys.executable, ROOT / "bench", "--help"], capture_output=True, text=True, check=True
    ).stdout
    names = re.search(r"NAME {2,}(.+?)\n *(?:-|\n|options)", help, re.DOTALL)[1].replace(",", " ").split()
    assert "folds" in names
    for name in names:
        assert callable(importlib.import_module(f"ddim_toolkit.bench.{name}").main)
