"""The demo: draft_next_to_final.json through ComfyUI's own queue, and its two pictures side by side."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import time
from pathlib import Path

from .comfyui import CHECKOUT, ComfyUI, RunError
from .server import Server, seconds
from .workflow import to_prompt, upstream

EXAMPLE = CHECKOUT / "example_workflows" / "draft_next_to_final.json"
OUTPUT = CHECKOUT / "output"


def demo(
    comfyui: ComfyUI,
    output: Path,
    text: str | None = None,
    seed: int | None = None,
    steps: int | None = None,
    eta: float | None = None,
) -> list[Path]:
    """Run the example, with what is not None changed in it; the paths of draft, final and side by side."""
    output = output.absolute()
    output.mkdir(parents=True, exist_ok=True)
    print("Starting ComfyUI ...", flush=True)
    started = time.monotonic()
    with Server(comfyui, output) as server:
        info = server.get("/object_info")
        if "DDIMKSampler" not in info:
            raise RunError(f"ComfyUI could not load this pack. The end of its log:\n{server.log_tail()}")
        prompt = to_prompt(json.loads(EXAMPLE.read_text(encoding="utf-8")), info)
        change(prompt, text, seed, steps, eta)
        print(
            f"ComfyUI {server.get('/system_stats')['system']['comfyui_version']} is up after "
            f"{time.monotonic() - started:.0f} s",
            flush=True,
        )
        branches = [Branch(prompt, node_id) for node_id in saves(prompt)]
        server.queue(warm_up(branches[0]))  # so that loading the model counts for neither branch
        for branch in branches:
            print(f"{branch.title} ...", end=" ", flush=True)
            branch.run(server, output)
            print(branch.cost, flush=True)
    number = re.search(r"\d+", branches[0].path.stem).group()  # the host counts the files in a folder
    picture = output / f"{EXAMPLE.stem}_{number}.png"
    description = {
        "heading": f"{branches[0].text}, seed {branches[0].sampler['inputs']['seed']}",
        "pictures": [{"path": str(each.path), "title": each.title, "detail": each.cost} for each in branches],
        "output": str(picture),
    }
    drawing = Path(__file__).with_name("side_by_side.py")
    subprocess.run([comfyui.python, str(drawing), json.dumps(description)], check=True)
    return [*(branch.path for branch in branches), picture]


class Branch:
    """One picture of a prompt: the SaveImage node and all it needs, of which the first sampler upstream tells
    how."""

    def __init__(self, prompt: dict, node_id: str):
        self.node_id = node_id
        self.prompt = upstream(prompt, node_id)
        self.sampler = next(node for node in self.prompt.values() if is_sampler(node))
        self.text = self.prompt[self.sampler["inputs"]["positive"][0]]["inputs"]["text"]

    @property
    def title(self) -> str:
        inputs = self.sampler["inputs"]
        role = self.prompt[self.node_id]["inputs"]["filename_prefix"].capitalize()
        if "eta" in inputs:
            return f"{role}: DDIM, {inputs['stride']}, eta {inputs['eta']:g}"
        return f"{role}: {inputs['sampler_name']}, {inputs['scheduler']}"

    @property
    def cost(self) -> str:
        return f"NFE {self.sampler['inputs']['steps']}, {self.seconds:.1f} s"

    def run(self, server: Server, output: Path) -> None:
        entry = server.queue(self.prompt)
        self.seconds = seconds(entry)
        saved = entry["outputs"][self.node_id]["images"][0]
        self.path = output / saved["subfolder"] / saved["filename"]


def saves(prompt: dict) -> list[str]:
    return [node_id for node_id, node in prompt.items() if node["class_type"] == "SaveImage"]


def is_sampler(node: dict) -> bool:
    return {"seed", "steps", "positive"} <= node["inputs"].keys()


def change(prompt: dict, text: str | None, seed: int | None, steps: int | None, eta: float | None) -> None:
    """Prompt and seed for both branches; steps and eta for the DDIM branch alone."""
    for sampler in [node["inputs"] for node in prompt.values() if is_sampler(node)]:
        wanted = {"seed": seed, "steps": steps, "eta": eta} if "eta" in sampler else {"seed": seed}
        sampler.update({name: value for name, value in wanted.items() if value is not None})
        if text is not None:
            prompt[sampler["positive"][0]]["inputs"]["text"] = text


def warm_up(branch: Branch) -> dict:
    """The branch in one step, previewed instead of saved."""
    prompt = copy.deepcopy(branch.prompt)
    for node in prompt.values():
        if is_sampler(node):
            node["inputs"]["steps"] = 1
    prompt[branch.node_id] = {
        "class_type": "PreviewImage",
        "inputs": {"images": prompt[branch.node_id]["inputs"]["images"]},
    }
    return prompt
