"""The promise to workflow files: ids, inputs in order, types, defaults, options and outputs never change,
they only grow."""

import asyncio
import json
import sys
from pathlib import Path

import pytest

FILES = {("DDIMLoadNoise", "file")}  # whose options are the files that happen to be there
SNAPSHOT = Path(__file__).with_name("schemas.json")


def describe(node):
    info = node.GET_NODE_INFO_V1()
    inputs = []
    for section in ("required", "optional"):
        for name, (kind, options) in info["input"].get(section, {}).items():
            kept = ("default",) if (info["name"], name) in FILES else ("default", "options")
            inputs.append(
                {
                    "name": name,
                    "type": kind,
                    "needed": section,
                    **{k: options[k] for k in kept if k in options},
                }
            )
    return {
        "inputs": inputs,
        "outputs": list(map(list, zip(info["output_name"], info["output"], strict=True))),
    }


def all_nodes():
    extension = asyncio.run(sys.modules["ddim_toolkit"].comfy_entrypoint())
    return {node.GET_SCHEMA().node_id: node for node in asyncio.run(extension.get_node_list())}


NODES = all_nodes()


def test_every_node_is_in_the_snapshot(request):
    """After adding a node, or an input at the end of one: run this file once with --update-schemas, and read
    the diff."""
    found = json.loads(json.dumps({name: describe(node) for name, node in sorted(NODES.items())}))
    if request.config.getoption("--update-schemas"):
        SNAPSHOT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    assert found == json.loads(SNAPSHOT.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", NODES)
def test_every_input_and_output_is_explained(name):
    info = NODES[name].GET_NODE_INFO_V1()
    assert name.startswith("DDIM") and info["category"].startswith("sampling/ddim") and info["description"]
    for section in ("required", "optional"):
        for key, (_, options) in info["input"].get(section, {}).items():
            assert options.get("tooltip"), key
    assert all(info["output_tooltips"])
