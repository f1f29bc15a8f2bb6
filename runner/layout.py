"""Where the nodes of an example lie: in columns, groups in columns too, from sizes that a page measured.

`pytest tests/browser/test_examples.py --update-layout` measures in every renderer and writes the files anew.
What stands beside what, and above what, is left as it is in the file.
"""

from __future__ import annotations

import json

TITLE = 30  # a node's title lies above its `pos`
GROUP_TITLE = 40
PADDING, GAP = 15, 20
# The part of a window of 1920 x 1080 pixels that nothing of the page covers, and the scale below which it
# draws no text. Older pages draw Nodes 2.0 larger by STRETCH, at the same scale.
LEFT, TOP, WIDTH, HEIGHT = 75, 140, 1825, 880
STRETCH = 1.2
LEAST_SCALE = 0.58


def arrange(workflow: dict, sizes: dict[int, tuple[float, float]]) -> None:
    """Move a workflow's nodes and groups, in place, and set its opening view. `sizes` is (width, height) of
    each node, title included."""
    blocks = [
        (group, [node for node in workflow["nodes"] if inside(node, group)]) for group in workflow["groups"]
    ]
    grouped = {node["id"] for _, nodes in blocks for node in nodes}
    blocks += [(None, [node]) for node in workflow["nodes"] if node["id"] not in grouped]
    left = bottom = 0
    for column in columns(blocks, lambda block: extent(*block)):
        top, right = 0, left
        ends = []
        for group, nodes in column:
            width, height = pack(nodes, sizes, left, top, grouped=group is not None)
            if group:
                group["bounding"] = [left, top, width, height]
            top += height + GAP
            ends.append(left + width)
        right = max(ends)
        for group, _ in column:
            if group:
                group["bounding"][2] = right - left
        left, bottom = right + GAP, max(bottom, top - GAP)
    scale = min(WIDTH / (STRETCH * (left - GAP)), HEIGHT / (STRETCH * bottom), 1)
    scale = max(int(100 * scale) / 100, LEAST_SCALE)
    workflow["extra"]["ds"] = {"scale": scale, "offset": [round(LEFT / scale), round(TOP / scale)]}


def pack(nodes: list[dict], sizes: dict, left: int, top: int, grouped: bool) -> tuple[int, int]:
    """Put the nodes of a group into columns; the (width, height) that they take, frame included."""
    frame, head = (PADDING, GROUP_TITLE) if grouped else (0, 0)
    x, deepest = left + frame, top
    for column in columns(
        nodes, lambda node: (node["pos"][0], node["pos"][0] + node["size"][0], node["pos"][1])
    ):
        y = top + head
        for node in column:
            node["pos"] = [x, y + TITLE]
            y += up(sizes[node["id"]][1]) + GAP
        x += up(max(sizes[node["id"]][0] for node in column)) + GAP
        deepest = max(deepest, y - GAP)
    return x - GAP + frame - left, deepest + frame - top


def columns(things: list, extent) -> list[list]:
    """Things that lie above one another, together, from left to right; each column from top to bottom.
    `extent` gives (left, right, top)."""
    found = []
    for thing in sorted(things, key=extent):
        if found and extent(thing)[0] < max(extent(each)[1] for each in found[-1]):
            found[-1].append(thing)
        else:
            found.append([thing])
    return [sorted(column, key=lambda thing: extent(thing)[2]) for column in found]


def extent(group: dict | None, nodes: list[dict]) -> tuple[float, float, float]:
    left, top, width, _ = group["bounding"] if group else [*nodes[0]["pos"], *nodes[0]["size"]]
    return left, left + width, top


def inside(node: dict, group: dict) -> bool:
    left, top, width, height = group["bounding"]
    return left <= node["pos"][0] < left + width and top <= node["pos"][1] < top + height


def up(length: float) -> int:
    """In steps of ten, as the page's grid."""
    return int(-(-length // 10)) * 10


def to_text(workflow: dict) -> str:
    """The file of a workflow: a line for each node, link and group."""

    def line(value):
        return json.dumps(value, ensure_ascii=False)

    entries = [
        f" {line(key)}: "
        + (
            "[\n  " + ",\n  ".join(map(line, value)) + "\n ]"
            if value and isinstance(value, list)
            else line(value)
        )
        for key, value in workflow.items()
    ]
    return "{\n" + ",\n".join(entries) + "\n}\n"
