"""Every example in the page, opened as a template: nothing overlaps, all can be read, results are in view;
the queue gets what run.py's conversion gives; it is saved as it was loaded.

With --update-layout the nodes are measured, and runner/layout.py lays them out anew.
"""

import itertools
import json

import pytest
from conftest import ROOT
from ddim_toolkit.runner import layout
from ddim_toolkit.runner.workflow import to_prompt

EXAMPLES = sorted((ROOT / "example_workflows").glob("*.json"))
# Rectangles (left, top, right, bottom) in the graph's units, titles included.
PLACES = """
const { ds } = app.canvas, [x, y] = ds.offset, ctx = document.createElement('canvas').getContext('2d');
const drawn = id => document.querySelector(`[data-node-id="${id}"]`);
const place = node => {
    const box = drawn(node.id)?.getBoundingClientRect();
    const [left, top, width, height] = box
        ? [box.left / ds.scale - x, box.top / ds.scale - y, box.width / ds.scale, box.height / ds.scale]
        : [node.pos[0], node.pos[1] - 30, node.size[0], node.size[1] + 30];
    return [left, top, left + width, top + height];
};
const texts = node => [...(node.widgets ?? []).map(w => w.element), drawn(node.id)].filter(Boolean)
    .flatMap(e => [e, ...e.querySelectorAll('*')])
    .filter(e => e.matches('textarea, .comfy-markdown, .comfy-markdown *') && e.clientHeight);
return {
    ds: [ds.scale, x, y],
    nodes: app.graph.nodes.map(n => // older pages give the ids as numbers
        [Number(n.id), place(n), Math.max(0, ...texts(n).map(e => e.scrollHeight - e.clientHeight))]),
    groups: app.graph.groups.map(g => {
        const [left, top, width, height] = g._bounding;
        ctx.font = `${g.font_size}px Arial`;
        return [g.title, [left, top, left + width, top + height], ctx.measureText(g.title).width];
    }),
}"""
LOOK = """app.canvas.min_font_size_for_lod = 0; app.canvas.ds.scale = .25; app.canvas.ds.offset = [800, 600];
app.canvas.setDirty(true, true)"""


def opened(desk, path, workflow):
    """Open the workflow as the page's list of templates does; where all lies, once nothing moves any more."""
    desk.run(
        "await app.loadGraphData(it[1], true, true, it[0], { openSource: 'template' })", [path.stem, workflow]
    )
    return desk.still(PLACES)


@pytest.mark.parametrize("path", EXAMPLES, ids=[path.stem for path in EXAMPLES])
def test_example(desk, path, request):
    workflow = json.loads(path.read_text(encoding="utf-8"))
    if request.config.getoption("--update-layout"):
        return update(desk, path, workflow)
    places = opened(desk, path, workflow)
    desk.screenshot(f"example_{path.stem}")
    lies_well(workflow, places)

    prompt = desk.prompt()
    info = desk.info
    assert inputs(prompt, info) == inputs(to_prompt(workflow, info), info)

    saved = desk.workflow()
    before, after = values(workflow), values(saved)
    for id, (kind, given) in after.items():
        if not kind.startswith("DDIM"):  # a newer host's own nodes may have more widgets
            after[id] = kind, given[: len(before[id][1])]
    assert after == before
    desk.load(saved)
    assert desk.prompt() == prompt
    assert essence(desk.workflow()) == essence(saved)


def lies_well(workflow, places):
    scale, *offset = places["ds"]
    kinds = {node["id"]: node["type"] for node in workflow["nodes"]}
    nodes = {id: place for id, place, _ in places["nodes"]}

    assert not [
        (kinds[a], kinds[b]) for a, b in itertools.combinations(nodes, 2) if overlap(nodes[a], nodes[b])
    ]
    groups = {title: place for title, place, _ in places["groups"]}
    assert len(groups) == len(places["groups"])
    assert not [
        pair for pair in itertools.combinations(groups, 2) if overlap(*(groups[title] for title in pair))
    ]
    for id, place in nodes.items():
        framed = any(within(place, group) for group in groups.values())
        assert framed or kinds[id] == "MarkdownNote", kinds[id]
    assert [kinds[id] for id, _, hidden in places["nodes"] if hidden > 2] == [], "cut off"
    assert [title for title, place, width in places["groups"] if width > place[2] - place[0] - 10] == []
    assert scale > 8 / 14, "no text is drawn"
    for id, place in nodes.items():
        seen = [(number + offset[axis % 2]) * scale for axis, number in enumerate(place)]
        assert within(seen, (60, 95, 1920, 1080)), kinds[id]


def overlap(a, b):
    return a[0] < b[2] - 1 and b[0] < a[2] - 1 and a[1] < b[3] - 1 and b[1] < a[3] - 1


def within(inner, outer):
    return all(inner[axis] >= outer[axis] - 1 and inner[axis + 2] <= outer[axis + 2] + 1 for axis in (0, 1))


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


MEASURED = {}


def update(desk, path, workflow):
    """Write the file with the largest sizes that the pages measured so far; notes as tall as their text."""
    loaded = json.loads(json.dumps(workflow))
    for node in loaded["nodes"]:
        if node["type"] == "MarkdownNote":
            node["size"][1] = 100
    opened(desk, path, loaded)
    desk.run(LOOK)
    places = desk.still(PLACES)
    lefts, drawn = (
        [node["pos"][0] for node in workflow["nodes"]],
        [place[0] for _, place, _ in places["nodes"]],
    )
    stretch = (max(drawn) - min(drawn)) / (max(lefts) - min(lefts))
    sizes = MEASURED.setdefault(path.stem, {})
    for id, (left, top, right, bottom), hidden in places["nodes"]:
        size = ((right - left) / stretch, (bottom - top + hidden) / stretch)
        sizes[id] = tuple(map(max, size, sizes.get(id, (0, 0))))
        [node] = [node for node in workflow["nodes"] if node["id"] == id]
        if node["type"] == "MarkdownNote" or hidden > 2:
            node["size"][1] = layout.up(sizes[id][1]) - layout.TITLE
    layout.arrange(workflow, sizes)
    path.write_text(layout.to_text(workflow), encoding="utf-8")
