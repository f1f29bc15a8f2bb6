"""Seconds to the first draft and to the final on the shipped model, cold (a new process) and warm; the pack's
import time."""

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROUNDS = 5
IMPORT = """
import os, sys, time, asyncio; sys.path.append({root!r}); from runner.inprocess import start
pack = start(os.environ['COMFYUI_PATH'], '--cpu')
import comfy.samplers, comfy.sd, comfy.sample, latent_preview, comfy_api.latest, aiohttp.web, PIL.Image, scipy
begin = time.perf_counter()
asyncio.run(asyncio.run(pack.comfy_entrypoint()).get_node_list())
print(time.perf_counter() - begin)
"""


def import_seconds():
    """Of the pack in a process that has torch and ComfyUI already; the median of several processes."""
    code = IMPORT.format(root=str(Path(__file__).resolve().parent.parent))
    return statistics.median(
        float(
            subprocess.run(
                [sys.executable, "-c", code], env=os.environ, capture_output=True, text=True, check=True
            ).stdout.split()[-1]
        )
        for _ in range(3)
    )


def main(folder):
    import torch

    begin = time.perf_counter()
    import comfy.samplers
    from ddim_toolkit.demo import model as demo
    from ddim_toolkit.host import sampler, schedule
    from ddim_toolkit.host.model import model_sampling

    model, clip, vae = demo.load()
    prompts = [clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in ("red heart", "")]

    def picture(one, sigmas):
        latent = sampler.run(model, 1, 4.0, *prompts, {"samples": torch.zeros(1, 4, 16, 16)}, one, sigmas)[0]
        return vae.decode(latent["samples"])

    def draft():
        return picture(sampler.ddim_sampler(), schedule.stride_sigmas(model, 12, "trailing")[0])

    def final():
        return picture(
            comfy.samplers.sampler_object("dpmpp_2m"),
            comfy.samplers.calculate_sigmas(model_sampling(model), "karras", 30),
        )

    draft()
    seconds = {"first draft, weights read from the disk": time.perf_counter() - begin}
    for name, run in (("draft, 12 calls", draft), ("final, 30 calls", final)):
        times = []
        for _ in range(ROUNDS):
            begin = time.perf_counter()
            run()
            times.append(time.perf_counter() - begin)
        seconds[name] = statistics.median(times)
    seconds["import of the pack"] = import_seconds()
    (folder / "latency.json").write_text(json.dumps(seconds, indent=1), encoding="utf-8")
    return "\n".join(
        ["| what | seconds |", "|---|---|", *(f"| {name} | {value:.3f} |" for name, value in seconds.items())]
    )
