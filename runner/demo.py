"""The demo: 01 Draft or final.json through ComfyUI's own queue: drafts, one of them picked, and its final."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import tempfile
import time
from pathlib import Path

from .comfyui import CHECKOUT, ComfyUI, RunError
from .server import Server, seconds
from .workflow import to_prompt, upstream

EXAMPLE = CHECKOUT / "example_workflows" / "01 Draft or final.json"
OUTPUT = CHECKOUT / "output"
DRAFTS, COLUMNS, PICK = 8, 4, 4


def demo(
    comfyui: ComfyUI,
    output: Path,
    text: str | None = None,
    seed: int | None = None,
    steps: int | None = None,
    eta: float | None = None,
    pick: int = PICK,
) -> list[Path]:
    """Run the example, with what is not None changed in it; the paths of the final and of the contact
    sheet."""
    output = output.absolute()
    output.mkdir(parents=True, exist_ok=True)
    print("Starting ComfyUI ...", flush=True)
    started = time.monotonic()
    with Server(comfyui, output) as server, tempfile.TemporaryDirectory() as folder:
        info = server.get("/object_info")
        if "DDIMContactSheet" not in info:
            raise RunError(f"ComfyUI could not load this pack. The end of its log:\n{server.log_tail()}")
        prompt = to_prompt(json.loads(EXAMPLE.read_text(encoding="utf-8")), info)
        change(prompt, text, seed, steps, eta)
        find(prompt, "EmptyLatentImage")["batch_size"] = DRAFTS
        draft, sheet, final = (find(prompt, k) for k in ("DDIMKSampler", "DDIMContactSheet", "KSampler"))
        print(
            f"ComfyUI {server.get('/system_stats')['system']['comfyui_version']} is up after "
            f"{time.monotonic() - started:.0f} s",
            flush=True,
        )
        server.queue(warm_up(prompt))  # so that loading the model counts for neither
        drafts, drafted = timed(server, prompt, f"{DRAFTS} drafts", f"NFE {draft['steps']} each")
        sheet["picks"] = str(pick)
        saved, finished = timed(server, prompt, f"Final of number {pick}", f"NFE {final['steps']}")
        [image] = next(each["images"] for each in saved.values() if "images" in each)
        path = output / image["subfolder"] / image["filename"]
        number = re.search(r"\d+", path.stem).group()  # the host counts the files in a folder
        description = {
            "heading": f"{text_of(prompt)['text']}, seed {find(prompt, 'DDIMSeed')['seed']}",
            "drafts": [str(file) for file in shown(server, drafts, Path(folder))],
            "columns": COLUMNS,
            "picked": pick,
            "final": str(path),
            "captions": [
                (f"{DRAFTS} drafts: DDIM, {draft['stride']}, eta {draft['eta']:g}", drafted),
                (f"Number {pick}, finished: {final['sampler_name']}", finished),
            ],
            "output": str(output / f"{EXAMPLE.stem}_{number}.png"),
        }
        drawing = Path(__file__).with_name("contact_sheet.py")
        subprocess.run([comfyui.python, str(drawing), json.dumps(description)], check=True)
    return [path, Path(description["output"])]


def timed(server: Server, prompt: dict, title: str, calls: str) -> tuple[dict, str]:
    """Run a prompt: (its outputs, what it cost)."""
    print(f"{title} ...", end=" ", flush=True)
    entry = server.queue(prompt)
    cost = f"{calls}, {seconds(entry):.1f} s"
    print(cost, flush=True)
    return entry["outputs"], cost


def shown(server: Server, outputs: dict, folder: Path) -> list[Path]:
    """The pictures of the contact sheet, as files."""
    [sheet] = next(each["ddim_sheet"] for each in outputs.values() if "ddim_sheet" in each)
    paths = [folder / picture["filename"] for picture in sheet["pictures"]]
    for path, picture in zip(paths, sheet["pictures"], strict=True):
        path.write_bytes(server.image(picture))
    return paths


def find(prompt: dict, kind: str) -> dict:
    """The inputs of the one node of a kind."""
    [inputs] = [node["inputs"] for node in prompt.values() if node["class_type"] == kind]
    return inputs


def text_of(prompt: dict) -> dict:
    """The inputs of the node that holds the drafts' prompt."""
    return prompt[find(prompt, "DDIMKSampler")["positive"][0]]["inputs"]


def change(prompt: dict, text: str | None, seed: int | None, steps: int | None, eta: float | None) -> None:
    """Prompt and seed for drafts and final; steps and eta for the drafts alone."""
    for inputs, wanted in [
        (find(prompt, "DDIMSeed"), {"seed": seed}),
        (find(prompt, "DDIMKSampler"), {"steps": steps, "eta": eta}),
        (text_of(prompt), {"text": text}),
    ]:
        inputs.update({name: value for name, value in wanted.items() if value is not None})


def warm_up(prompt: dict) -> dict:
    """The drafts in one step, previewed."""
    prompt = copy.deepcopy(prompt)
    find(prompt, "DDIMKSampler")["steps"] = 1
    images = find(prompt, "DDIMContactSheet")["images"]
    preview = {"class_type": "PreviewImage", "inputs": {"images": images}}
    return upstream(prompt, images[0]) | {"preview": preview}
