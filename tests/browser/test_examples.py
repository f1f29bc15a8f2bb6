"""Every example in the page: it loads, it is saved as it was loaded, and the queue gets what run.py's conversion gives."""

import json

import pytest
from conftest import ROOT
from ddim_toolkit.runner.workflow import to_prompt

EXAMPLES = sorted((ROOT / "example_workflows").glob("*.json"))


@pytest.mark.parametrize("path", EXAMPLES, ids=[path.stem for path in EXAMPLES])
def test_example(desk, path):
    workflow = json.loads(path.read_text(encoding="utf-8"))
    desk.load(workflow)
    desk.page.wait_for_timeout(300)
    desk.screenshot(f"example_{path.stem}")

    prompt = desk.prompt()
    converted = to_prompt(workflow, desk.server.get("/object_info"))
    assert {key: (node["class_type"], node["inputs"]) for key, node in prompt.items()} == {
        key: (node["class_type"], node["inputs"]) for key, node in converted.items()
    }

    saved = desk.workflow()
    assert values(saved) == values(workflow)
    desk.load(saved)
    assert desk.prompt() == prompt
    assert essence(desk.workflow()) == essence(saved)


def values(workflow):
    return {node["id"]: (node["type"], node.get("widgets_values") or []) for node in workflow["nodes"]}


def essence(workflow):
    """A workflow without its sizes, which each renderer measures for itself."""
    nodes = {node["id"]: {key: value for key, value in node.items() if key not in ("size", "order")} for node in workflow["nodes"]}
    return nodes, workflow["links"], workflow["groups"]
