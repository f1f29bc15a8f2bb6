"""Every example in the page: it loads, it is saved as it was loaded, and the queue gets what run.py's
conversion gives."""

import json

import pytest
from conftest import ROOT
from ddim_toolkit.runner.workflow import to_prompt

EXAMPLES = sorted((ROOT / "example_workflows").glob("*.json"))


@pytest.mark.parametrize("path", EXAMPLES, ids=[path.stem for path in EXAMPLES])
def test_example(desk, path):
    workflow = json.loads(path.read_text(encoding="utf-8"))
    desk.load(workflow)
    if "newest" not in desk.screenshots.name:
        desk.screenshot(f"example_{path.stem}")

    prompt = desk.prompt()
    info = desk.info
    assert inputs(prompt, info) == inputs(to_prompt(workflow, info), info)

    saved = desk.workflow()
    assert values(saved) == values(workflow)
    desk.load(saved)
    assert desk.prompt() == prompt
    assert essence(desk.workflow()) == essence(saved)


def inputs(prompt, info):
    """Type and inputs of every node; without what only the page knows of, such as the text that PreviewAny
    shows."""
    declared = {
        kind: {name for group in ("required", "optional") for name in node["input"].get(group, {})}
        for kind, node in info.items()
    }
    return {
        key: (
            node["class_type"],
            {name: value for name, value in node["inputs"].items() if name in declared[node["class_type"]]},
        )
        for key, node in prompt.items()
    }


def values(workflow):
    return {node["id"]: (node["type"], node.get("widgets_values") or []) for node in workflow["nodes"]}


def essence(workflow):
    """A workflow without the sizes, which each renderer measures for itself, and with places in whole
    pixels."""
    leave_out = ("size", "order", "pos")
    nodes = {
        node["id"]: {key: value for key, value in node.items() if key not in leave_out}
        for node in workflow["nodes"]
    }
    places = {node["id"]: [round(number) for number in node["pos"]] for node in workflow["nodes"]}
    return nodes, places, workflow["links"], workflow["groups"]
