"""The example workflows through the queue, and the thumbnails that ComfyUI's template browser shows beside them.

    python -m runner.gallery [NAME ...]     in the checkout, with ComfyUI's Python: draws the thumbnails again

Examples that name a real checkpoint are drawn by the shipped model in its place, and say so.
"""

from __future__ import annotations

import io
import json
import sys
import tempfile
from pathlib import Path

from .comfyui import CHECKOUT, find_existing
from .install import managed
from .server import Server
from .workflow import to_prompt

EXAMPLES = CHECKOUT / "example_workflows"
SIDE, MARGIN, LINE = 300, 10, 30  # pixels
INK, FAINT, PAPER = "#1d2129", "#5b6472", "#eceef2"
# For the examples with a real checkpoint: what the shipped model draws in its place, by the title of the prompt's node.
# The picture is what takes the place of Load Image.
STAND_INS = {
    "sd15_draft_next_to_final": {"Prompt": "red apple"},
    "sdxl_draft_next_to_final": {"Prompt": "smiling cat with heart eyes"},
    "sd15_edit_a_photo": {"picture": "man pilot", "Caption of the photo": "man pilot", "What it shall become": "man astronaut"},
    "flux_inversion": {"picture": "purple heart", "Caption of the picture": "purple heart", "What it shall become": "green heart"},
}


def names() -> list[str]:
    return sorted(path.stem for path in EXAMPLES.glob("*.json"))


def read(name: str) -> dict:
    return json.loads((EXAMPLES / f"{name}.json").read_text(encoding="utf-8"))


def runnable(name: str, object_info: dict) -> dict:
    """The queue's prompt of an example; where it names a checkpoint, the shipped model stands in for it."""
    prompt = to_prompt(read(name), object_info)
    return stand_in(prompt, STAND_INS[name]) if name in STAND_INS else prompt


def stand_in(prompt: dict, replaced: dict[str, str]) -> dict:
    for node in prompt.values():
        inputs = node["inputs"]
        if node["class_type"] == "CheckpointLoaderSimple":
            node["class_type"], node["inputs"] = "DDIMDemoModel", {}
        elif node["class_type"] == "LoadImage":
            node["class_type"], node["inputs"] = "DDIMDemoPicture", {"picture": replaced["picture"]}
        elif "width" in inputs and "height" in inputs:
            inputs.update(width=128, height=128)
        elif node["_meta"]["title"] in replaced:
            inputs["text"] = replaced[node["_meta"]["title"]]
    return prompt


def pictures(server: Server, workflow: dict, entry: dict) -> list[tuple[str, list[bytes]]]:
    """[(title, image files)] of a history entry, one for each node that shows pictures, as they lie on the page from left to right."""
    nodes = {str(node["id"]): node for node in workflow["nodes"]}
    shown = sorted((key for key, output in entry["outputs"].items() if output.get("images")), key=lambda key: nodes[key]["pos"])
    return [(nodes[key].get("title", ""), [server.image(each) for each in entry["outputs"][key]["images"]]) for key in shown]


def thumbnail(shown: list[tuple[str, list[bytes]]], remark: str = ""):
    """Up to four pictures in two columns, each over its title, as an RGB picture; more pictures in as many columns as make a square."""
    from PIL import Image, ImageDraw, ImageFont

    single = len(shown) == 1 and len(shown[0][1]) > 1
    cells = [(title if index == 0 and not single else "", file) for title, files in shown for index, file in enumerate(files)]
    columns = min(2, len(cells)) if len(cells) <= 4 else round(len(cells) ** 0.5 + 0.49)
    width = (2 * SIDE + MARGIN - (columns - 1) * MARGIN) // columns if columns > 1 else 2 * SIDE
    opened = [(title, Image.open(io.BytesIO(file)).convert("RGB")) for title, file in cells]
    heights = [round(width * picture.height / picture.width) for _, picture in opened]
    line = LINE if any(title for title, _ in opened) else MARGIN
    rows = [range(start, min(start + columns, len(opened))) for start in range(0, len(opened), columns)]
    total = sum(max(heights[index] for index in row) + line for row in rows) + MARGIN + (LINE if remark else 0)
    page = Image.new("RGB", (2 * SIDE + 3 * MARGIN, total), PAPER)
    pen, font, small = ImageDraw.Draw(page), ImageFont.load_default(19), ImageFont.load_default(16)
    top = MARGIN
    for row in rows:
        for place, index in enumerate(row):
            title, picture = opened[index]
            left = MARGIN + place * (width + MARGIN)
            page.paste(picture.resize((width, heights[index]), Image.Resampling.LANCZOS), (left, top))
            pen.text((left + 2, top + heights[index] + 3), title, INK, font)
        top += max(heights[index] for index in row) + line
    pen.text((MARGIN + 2, top), remark, FAINT, small)
    return page


def draw(server: Server, name: str) -> Path:
    """Run an example and write its thumbnail."""
    prompt = runnable(name, server.get("/object_info"))
    remark = "drawn by the shipped model in the checkpoint's place" if name in STAND_INS else ""
    path = EXAMPLES / f"{name}.jpg"
    thumbnail(pictures(server, read(name), server.queue(prompt)), remark).save(path, quality=88)
    return path


def main(wanted: list[str]) -> None:
    unknown = set(wanted) - set(names())
    if unknown:
        sys.exit(f"no such example: {', '.join(sorted(unknown))}; there are {', '.join(names())}")
    comfyui = find_existing() or managed()
    with tempfile.TemporaryDirectory() as folder, Server(comfyui, Path(folder)) as server:
        for name in wanted or names():
            print(draw(server, name), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
