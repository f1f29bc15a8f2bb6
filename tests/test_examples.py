"""Every example workflow: its file is clean, and the real queue runs it on the shipped model."""

import io
import json

import folder_paths
import numpy as np
import pytest
from conftest import ROOT
from ddim_toolkit.demo import pictures as demo_pictures
from ddim_toolkit.runner import gallery
from ddim_toolkit.runner.workflow import PAGE_ONLY, to_prompt
from PIL import Image

pytestmark = pytest.mark.server

# The thumbnails are drawn with all that the files say; here the graph is what is tested.
MOST = {"steps": 5, "step": 2, "frames": 3, "rows": 2, "probe_steps": 12, "probe_images": 2, "refine": 1}
EVERY = pytest.mark.parametrize("name", gallery.names())


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), dtype=np.float32) / 255


@EVERY
def test_the_file_is_clean(name):
    workflow = gallery.read(name)
    nodes = {node["id"]: node for node in workflow["nodes"]}
    subgraphs = workflow.get("definitions", {}).get("subgraphs", [])
    ids = [node["id"] for graph in (workflow, *subgraphs) for node in graph["nodes"]]
    assert len(set(ids)) == len(ids), "newer pages would number them anew"
    assert workflow["last_node_id"] == max(ids)
    assert workflow["last_link_id"] == max(link[0] for link in workflow["links"])
    for number, origin, slot, target, place, kind in workflow["links"]:
        assert number in nodes[origin]["outputs"][slot]["links"]
        assert nodes[target]["inputs"][place]["link"] == number
        assert "*" in (kind, given := nodes[origin]["outputs"][slot]["type"]) or given == kind
        assert nodes[origin]["pos"][0] <= nodes[target]["pos"][0], "read from left to right"
    ends = sum(len(each["links"] or []) for node in nodes.values() for each in node["outputs"])
    starts = sum(each["link"] is not None for node in nodes.values() for each in node["inputs"])
    assert ends == starts == len(workflow["links"])


@EVERY
def test_one_note_says_what_to_try_and_groups_hold_the_rest(name):
    workflow = gallery.read(name)
    [note] = [node for node in workflow["nodes"] if node["type"] == "MarkdownNote"]
    assert "### Try" in note["widgets_values"][0] and ("DDIM Demo Model" in note["widgets_values"][0])
    assert workflow["groups"]
    for node in workflow["nodes"]:
        if node is not note:
            assert any(inside(node, group["bounding"]) for group in workflow["groups"]), node["type"]


def test_examples_with_an_app(info):
    """What newer pages show of a graph as an app: inputs that exist, each under a name of its own; outputs
    that show pictures."""
    found = []
    for name in gallery.names():
        workflow = gallery.read(name)
        if app := workflow["extra"].get("linearData"):
            found.append(name)
            kinds = {node["id"]: node["type"] for node in workflow["nodes"]}
            slots = {
                (node["id"], slot["name"]): slot for node in workflow["nodes"] for slot in node["inputs"]
            }
            for id, widget in app["inputs"]:
                part = (kinds[id], widget) == ("DDIMContactSheet", "contact_sheet")
                assert part or widget in info[kinds[id]]["input"]["required"]
            shown = [slots.get((id, widget), {}).get("label", widget) for id, widget in app["inputs"]]
            assert len(set(shown)) == len(shown) and "text" not in shown
            assert {kinds[id] for id in app["outputs"]} == {"SaveImage"}
    assert found == ["Draft or final", "Edit a picture", "Measured draft"]


def inside(node, bounding):
    left, top, width, height = bounding
    x, y = node["pos"]
    return (
        left <= x and top <= y and x + node["size"][0] <= left + width and y + node["size"][1] <= top + height
    )


@EVERY
def test_the_queue_runs_it(server, info, name):
    prompt = gallery.runnable(name, info)
    gallery.pick(prompt, "1")
    for node in prompt.values():
        inputs = node["inputs"]
        for key, most in MOST.items():
            if isinstance(inputs.get(key), int):
                inputs[key] = min(inputs[key], most)
    entry = server.queue(prompt)
    wanted = {key for key, node in prompt.items() if info[node["class_type"]]["output_node"]}
    # What an example before it has shown alike, the host answers from its cache, without showing it again.
    [cached] = [data["nodes"] for event, data in entry["status"]["messages"] if event == "execution_cached"]
    assert wanted and wanted <= set(entry["outputs"]) | set(cached) and wanted & set(entry["outputs"])
    shown = gallery.pictures(server, gallery.read(name), entry)
    assert shown
    for _, files in shown:
        for file in files:
            assert pixels(file).std() > 0.05
    for title, [file, *_] in shown:
        if title.endswith("back"):
            [picture] = [
                node["inputs"]["picture"]
                for node in prompt.values()
                if node["class_type"] == "DDIMDemoPicture"
            ]
            given = demo_pictures.load(picture)[0].numpy()
            assert np.abs(pixels(file) - given).mean() < 0.05


def test_a_draft_that_continues_is_the_picture_of_the_whole_run(server, info):
    """At eta .5: nothing before the pick runs again. The host scales latents between the two runs, which
    rounds them."""
    prompt = to_prompt(gallery.read("Draft that continues"), info)
    node = {each["_meta"]["title"]: key for key, each in prompt.items()}
    size, split, first = (node[key] for key in ("Eight pictures", "Where the draft stops", "First steps"))
    prompt[size]["inputs"].update(width=64, height=64, batch_size=3)
    prompt[node["The whole run"]]["inputs"]["steps"] = 8
    prompt[split]["inputs"]["step"] = 3
    finals = node["Finals"]

    assert finals not in server.queue(prompt)["outputs"]
    gallery.pick(prompt, "2")
    entry = server.queue(prompt)
    [cached] = [data["nodes"] for event, data in entry["status"]["messages"] if event == "execution_cached"]
    assert {first, node["Decode the estimates"]} <= set(cached)
    [final] = entry["outputs"][finals]["images"]

    prompt[split]["inputs"]["step"] = 8
    prompt[node["Decode the finals"]]["inputs"]["samples"] = [first, 0]
    whole = server.queue(prompt)["outputs"][finals]["images"][1]
    difference = np.abs(pixels(server.image(final)) - pixels(server.image(whole)))
    assert difference.max() < 1.5 / 255 and pixels(server.image(whole)).std() > 0.05


def test_checkpoints_can_be_fetched():
    found = set()
    for name in gallery.names():
        for node in gallery.read(name)["nodes"]:
            if node["type"] in gallery.LOADERS:
                [model] = node["properties"]["models"]
                assert set(model) == {"name", "url", "directory"}
                assert node["widgets_values"][0] == model["name"]
                address, file = model["url"].rsplit("/", 1)
                assert address.startswith("https://") and "/resolve/main" in address and file == model["name"]
                assert model["directory"] in folder_paths.folder_names_and_paths
                found.add(name)
    assert found == set(gallery.STAND_INS) and len(found) == 9


def test_a_saved_picture_holds_its_recipe(server, info):
    """Read back from the PNG, queued again: the same picture. So does the page's workflow in it."""
    workflow = gallery.read("Draft next to final")
    prompt = to_prompt(workflow, info)
    [draft] = [node for node in prompt.values() if node["class_type"] == "DDIMKSampler"]
    [sampler] = [node for node in workflow["nodes"] if node["type"] == "DDIMKSampler"]
    recipe = {
        "seed": 12345678901234567890,
        "steps": 4,
        "cfg": 3.5,
        "eta": 0.3,
        "stride": "quadratic",
        "denoise": 1.0,
    }
    draft["inputs"].update(recipe)
    sampler["widgets_values"] = [recipe.pop("seed"), "fixed", *recipe.values()]
    assert to_prompt(workflow, info) == prompt

    files = drawn(server, prompt, workflow)
    information = Image.open(io.BytesIO(files["draft"])).info
    read = json.loads(information["prompt"])
    [inputs] = [node["inputs"] for node in read.values() if node["class_type"] == "DDIMKSampler"]
    assert inputs | recipe == inputs and inputs["seed"] == 12345678901234567890
    assert json.loads(information["workflow"]) == workflow

    for seed, again in enumerate((read, to_prompt(json.loads(information["workflow"]), info))):
        draft["inputs"]["seed"] = seed
        other = drawn(server, prompt)  # so that the queue's cache does not answer the next one
        repeated = drawn(server, again)
        assert (pixels(repeated["draft"]) == pixels(files["draft"])).all()
        assert (pixels(repeated["draft"]) != pixels(other["draft"])).any()


def drawn(server, prompt, workflow=None):
    outputs = server.queue(prompt, workflow)["outputs"]
    return {
        prompt[key]["inputs"]["filename_prefix"]: server.image(output["images"][0])
        for key, output in outputs.items()
        if "images" in output
    }


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "subgraphs").glob("*.json")))
def test_a_subgraph_is_offered_and_made_of_nodes_that_exist(server, info, name):
    [[key, offered]] = [each for each in server.get("/global_subgraphs").items() if each[1]["name"] == name]
    blueprint = json.loads(server.get(f"/global_subgraphs/{key}")["data"])
    [graph] = blueprint["definitions"]["subgraphs"]
    assert [node["type"] for node in blueprint["nodes"]] == [graph["id"]] and graph["name"] == name
    assert {node["type"] for node in graph["nodes"]} <= set(info) - PAGE_ONLY
    nodes = {node["id"]: node for node in graph["nodes"]}
    for link in graph["links"]:
        origin, target = nodes.get(link["origin_id"]), nodes.get(link["target_id"])
        if origin:
            assert link["id"] in origin["outputs"][link["origin_slot"]]["links"]
        else:
            assert link["id"] in graph["inputs"][link["origin_slot"]]["linkIds"]
        if target:
            assert target["inputs"][link["target_slot"]]["link"] == link["id"]
        else:
            assert graph["outputs"][link["target_slot"]]["linkIds"] == [link["id"]]
