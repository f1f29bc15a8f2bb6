"""The example workflows through the queue, and the thumbnails that ComfyUI's template browser shows beside
them.

    python -m runner.gallery [NAME ...]     in the checkout, with ComfyUI's Python: draws the thumbnails again

Examples that name a real checkpoint are drawn by the shipped model in its place, and say so.
"""

from __future__ import annotations

import io
import json
import sys
import tempfile
from pathlib import Path

from .comfyui import CHECKOUT, RunError, find_existing
from .install import managed
from .server import Server
from .workflow import to_prompt

EXAMPLES = CHECKOUT / "example_workflows"
WIDTH, MARGIN, LINE = 610, 10, 30  # pixels
INK, FAINT, PAPER = "#1d2129", "#5b6472", "#eceef2"
# For the examples with a real checkpoint: what the shipped model draws in its place, by the title of the
# prompt's node. The picture is what takes the place of Load Image.
STAND_INS = {
    "SD 1.5 draft next to final": {"Prompt": "red apple"},
    "SDXL draft next to final": {"Prompt": "smiling cat with heart eyes"},
    "SD 1.5 few-step LoRA": {"Prompt": "tulip"},
    "SDXL few-step LoRA": {"Prompt": "butterfly"},
    "SD 1.5 edit a photo": {
        "picture": "man pilot",
        "Caption of the photo": "man pilot",
        "What it shall become": "man firefighter",
    },
    "SD 1.5 edit without inversion": {
        "picture": "woman judge",
        "Caption of the picture": "woman judge",
        "What it shall become": "man judge",
    },
    "Flux inversion": {
        "picture": "purple heart",
        "Caption of the picture": "purple heart",
        "What it shall become": "red heart",
    },
    "Flux edit": {
        "picture": "man guard dark skin tone",
        "Caption of the picture": "man guard dark skin tone",
        "What it shall become": "man guard light skin tone",
    },
    "Wan 2.2 two experts": {
        "picture": "tiger",
        "Caption of the picture": "tiger",
        "What it shall become": "leopard",
    },
}
# Which output of the shipped model's node stands in for a loader's; None: all of a checkpoint's.
LOADERS = {"CheckpointLoaderSimple": None, "UNETLoader": 0, "CLIPLoader": 1, "VAELoader": 2}
# What is made for a real checkpoint and does not fit the shipped model: these nodes pass the model on.
LEFT_OUT = ("LoraLoaderModelOnly", "ModelSamplingSD3")
# What is picked on the contact sheets, so that their finals are drawn too.
PICKS = {"Draft or final": "3, 4", "Draft that continues": "1, 8"}


def names() -> list[str]:
    """The titles of the examples in their order, without the numbers before them."""
    return [path.stem[3:] for path in sorted(EXAMPLES.glob("*.json"))]


def file(name: str) -> Path:
    [path] = EXAMPLES.glob(f"[0-9][0-9] {name}.json")
    return path


def read(name: str) -> dict:
    return json.loads(file(name).read_text(encoding="utf-8"))


def runnable(name: str, object_info: dict) -> dict:
    """The queue's prompt of an example; where it names a checkpoint, the shipped model stands in for it."""
    prompt = to_prompt(read(name), object_info)
    return stand_in(prompt, STAND_INS[name]) if name in STAND_INS else prompt


def stand_in(prompt: dict, replaced: dict[str, str]) -> dict:
    left_out = {key: node for key, node in prompt.items() if node["class_type"] in LEFT_OUT}
    loaders = {
        key: LOADERS[node["class_type"]] for key, node in prompt.items() if node["class_type"] in LOADERS
    }
    prompt = {key: node for key, node in prompt.items() if key not in left_out}
    for key, node in prompt.items():
        inputs = node["inputs"]
        for name, value in inputs.items():
            if isinstance(value, list) and value[0] in left_out:
                value = inputs[name] = left_out[value[0]]["inputs"]["model"]
            if isinstance(value, list) and loaders.get(value[0]) is not None:
                inputs[name] = [value[0], loaders[value[0]]]
        if key in loaders:
            node["class_type"], node["inputs"] = "DDIMDemoModel", {}
        elif node["class_type"] == "LoadImage":
            node["class_type"], node["inputs"] = "DDIMDemoPicture", {"picture": replaced["picture"]}
        elif "width" in inputs and "height" in inputs:
            inputs.update(width=128, height=128)
        elif node["_meta"]["title"] in replaced:
            inputs["text"] = replaced[node["_meta"]["title"]]
    return prompt


def pick(prompt: dict, picks: str) -> None:
    """What a click on its contact sheets does to a prompt."""
    for node in prompt.values():
        if node["class_type"] == "DDIMContactSheet":
            node["inputs"]["picks"] = picks


def pictures(server: Server, workflow: dict, entry: dict) -> list[tuple[str, list[bytes]]]:
    """[(title, image files)] of a history entry, one for each node that shows pictures, as they lie on the
    page from left to right. A contact sheet is one picture."""
    nodes = {str(node["id"]): node for node in workflow["nodes"]}
    shown = {}
    for key, output in entry["outputs"].items():
        if output.get("images"):
            shown[key] = [server.image(each) for each in output["images"]]
        if output.get("ddim_sheet"):
            shown[key] = [contact_sheet(server, *output["ddim_sheet"])]
    return [
        (nodes[key].get("title", ""), shown[key]) for key in sorted(shown, key=lambda key: nodes[key]["pos"])
    ]


def contact_sheet(server: Server, shown: dict) -> bytes:
    """What the page shows of a contact sheet, as a PNG file."""
    from PIL import Image

    from .contact_sheet import sheet

    drafts = [Image.open(io.BytesIO(server.image(each))).convert("RGB") for each in shown["pictures"]]
    columns = shown["columns"] or min(len(drafts), 4)
    png = io.BytesIO()
    sheet(drafts, columns, shown["picks"], shown["labels"]).save(png, "PNG")
    return png.getvalue()


def thumbnail(shown: list[tuple[str, list[bytes]]], remark: str = ""):
    """Pictures in rows, each node's first over its title, as an RGB picture: two to four in a row. Wide ones
    have a row of their own."""
    from PIL import Image, ImageDraw, ImageFont

    cells = []
    for title, files in shown:
        stills = [still for file in files for still in frames(Image.open(io.BytesIO(file)))]
        cells += [
            (title if index == 0 and len(shown) > 1 else "", still) for index, still in enumerate(stills)
        ]
    columns = min(len(cells), 2 if len(cells) < 5 else 3 if len(cells) in (5, 6, 9) else 4)
    rows = [[]]
    for cell in cells:
        wide = cell[1].width > 1.5 * cell[1].height
        if wide or len(rows[-1]) == columns:
            rows.append([])
        rows[-1].append(cell)
        if wide:
            rows.append([])
    rows = [row for row in rows if row]
    line = LINE if any(title for title, _ in cells) else MARGIN
    sizes = [
        (WIDTH - (many - 1) * MARGIN) // many
        for many in (columns if row[0][1].width <= 1.5 * row[0][1].height else 1 for row in rows)
    ]
    heights = [
        max(round(size * still.height / still.width) for _, still in row)
        for row, size in zip(rows, sizes, strict=True)
    ]
    page = Image.new(
        "RGB", (WIDTH + 2 * MARGIN, MARGIN + sum(heights) + line * len(rows) + (LINE if remark else 0)), PAPER
    )
    pen, font, small = ImageDraw.Draw(page), ImageFont.load_default(19), ImageFont.load_default(16)
    top = MARGIN
    for row, size, height in zip(rows, sizes, heights, strict=True):
        for place, (title, still) in enumerate(row):
            left = MARGIN + place * (size + MARGIN)
            page.paste(
                still.resize((size, round(size * still.height / still.width)), Image.Resampling.LANCZOS),
                (left, top),
            )
            pen.text((left + 2, top + height + 3), title, INK, font)
        top += height + line
    pen.text((MARGIN + 2, top), remark, FAINT, small)
    return page


def frames(picture, most: int = 6):
    """A still, or up to `most` frames of a film, the first and the last among them."""
    count = getattr(picture, "n_frames", 1)
    for index in sorted({round(k * (count - 1) / (most - 1)) for k in range(most)}):
        picture.seek(index)
        yield picture.convert("RGB")


def draw(server: Server, name: str) -> Path:
    """Run an example and write its thumbnail."""
    prompt = runnable(name, server.get("/object_info"))
    pick(prompt, PICKS.get(name, ""))
    remark = "drawn by the shipped model in the checkpoint's place" if name in STAND_INS else ""
    path = file(name).with_suffix(".jpg")
    shown = pictures(server, read(name), server.queue(prompt))
    if not shown:
        raise RunError(f"{name} showed no picture")
    thumbnail(shown, remark).save(path, quality=88)
    return path


def main(wanted: list[str]) -> None:
    unknown = set(wanted) - set(names())
    if unknown:
        sys.exit(f"no such example: {', '.join(sorted(unknown))}; there are {', '.join(names())}")
    comfyui = find_existing() or managed()
    for name in wanted or names():
        # A server each: what the queue's cache answers, it does not show.
        with tempfile.TemporaryDirectory() as folder, Server(comfyui, Path(folder)) as server:
            print(draw(server, name), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
