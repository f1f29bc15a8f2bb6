"""The promise to workflow files: ids, inputs in order, types, defaults, options and outputs never change,
they only grow."""

import dataclasses
import inspect
import json
from pathlib import Path

import pytest
from comfy_api.latest import io
from helpers import all_nodes

from nodes import KSampler

FILES = {("DDIMLoadNoise", "file")}  # whose options are the files that happen to be there
MATCHED = {io.MatchType.io_type: "*"}  # an output's own word for any type, that of the matched inputs
SNAPSHOT = Path(__file__).with_name("schemas.json")


def describe(node):
    info = node.GET_NODE_INFO_V1()
    inputs = []
    for section in ("required", "optional"):
        for name, (kind, options) in info["input"].get(section, {}).items():
            kept = ("default",) if (info["name"], name) in FILES else ("default", "options")
            kind = options.get("template", {}).get("allowed_types", kind)  # MatchType, where the host has it
            inputs.append(
                {
                    "name": name,
                    "type": kind,
                    "needed": section,
                    **{k: options[k] for k in kept if k in options},
                }
            )
    outputs = [MATCHED.get(kind, kind) for kind in info["output"]]
    return {"inputs": inputs, "outputs": list(map(list, zip(info["output_name"], outputs, strict=True)))}


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
    assert (
        name.startswith("DDIM")
        and info["category"].startswith(f"{KSampler.CATEGORY}/ddim")
        and info["description"]
    )
    for section in ("required", "optional"):
        for key, (_, options) in info["input"].get(section, {}).items():
            assert options.get("tooltip"), key
    assert all(info["output_tooltips"])


def test_what_newer_hosts_know_is_told_them_and_older_ones_are_spared():
    """0.3.75 drops a node with a keyword that it does not know; a node gone would fail the snapshot."""
    known = {each.name for each in dataclasses.fields(io.Schema)}
    for node in NODES.values():
        schema, info = node.GET_SCHEMA(), node.GET_NODE_INFO_V1()
        if "search_aliases" in known:
            assert schema.search_aliases and info["search_aliases"] == schema.search_aliases


@pytest.mark.skipif(
    "advanced" not in inspect.signature(io.Input.__init__).parameters, reason="a host without advanced inputs"
)
@pytest.mark.parametrize(
    "name, advanced",
    [
        ("DDIMInversion", {"tolerance", "max_iterations", "noise_seed", "refine_sigmas"}),
        ("DDIMAdaptiveScheduler", {"criterion", "probe_steps", "probe_images", "refine"}),
        ("DDIMSampler", {"clip", "clip_range", "noise_device", "noise_seed"}),
        ("DDIMKSampler", set()),
    ],
)
def test_inputs_that_few_touch_are_advanced(name, advanced):
    inputs = NODES[name].GET_NODE_INFO_V1()["input"]
    every = {**inputs["required"], **inputs.get("optional", {})}
    assert {key for key, (_, options) in every.items() if options.get("advanced")} == advanced


@pytest.mark.parametrize(
    "word, name",
    [
        ("unsample", "DDIMInversion"),
        ("slerp", "DDIMNoiseInterpolation"),
        ("variation seed", "DDIMNoiseInterpolation"),
        ("align your steps", "DDIMAdaptiveScheduler"),
        ("lcm", "DDIMSampler"),
        ("eta", "DDIMSampler"),
        ("ddpm", "DDIMKSampler"),
    ],
)
def test_words_that_people_search_for(word, name):
    schema = NODES[name].GET_SCHEMA()
    if hasattr(schema, "search_aliases"):
        assert any(word in alias for alias in schema.search_aliases)
