"""run.py sweep: its cost over plain sampling, one worker beside two, and its scheduling alone."""

import importlib.util
import io
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy
import psutil
import torch
from PIL import Image

PICTURES, WARM = 40, 8  # measured, and drawn before without being counted
TASKS = 1000  # of a worker that does nothing
GPUS = 64
# One draft, in API format.
DRAFT = {
    "model": ("DDIMDemoModel", {}),
    "positive": ("CLIPTextEncode", {"clip": ["model", 1], "text": "red heart"}),
    "negative": ("CLIPTextEncode", {"clip": ["model", 1], "text": ""}),
    "empty": ("EmptyLatentImage", {"width": 128, "height": 128, "batch_size": 1}),
    "draft": (
        "DDIMKSampler",
        {
            "model": ["model", 0],
            "positive": ["positive", 0],
            "negative": ["negative", 0],
            "latent_image": ["empty", 0],
            "seed": 0,
            "steps": 8,
            "cfg": 4.0,
            "eta": 0.0,
            "stride": "trailing",
            "denoise": 1.0,
        },
    ),
    "decode": ("VAEDecode", {"samples": ["draft", 0], "vae": ["model", 2]}),
    "show": ("PreviewImage", {"images": ["decode", 0]}),
}


class Idle:
    """What a worker is to the scheduler, with a picture of usual size and no time to make it."""

    def __init__(self, *_):
        self.answer = [(".png", os.urandom(30_000))], 0.0, "idle"

    def ready(self):
        return "idle"

    def run(self, *_):
        return self.answer


def plain(seeds):
    """(seconds, processor seconds) of a draft by calls of the engine alone."""
    from ddim_toolkit.demo import model as demo
    from ddim_toolkit.host import sampler, schedule

    model, clip, vae = demo.load()
    prompts = [clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in ("red heart", "")]
    ddim, sigmas = sampler.ddim_sampler(), schedule.stride_sigmas(model, 8, "trailing")[0]
    for number, seed in enumerate(seeds):
        if number == WARM:
            begin, used = time.perf_counter(), time.process_time()
        latent = {"samples": torch.zeros(1, 4, 16, 16)}
        image = vae.decode(sampler.run(model, seed, 4.0, *prompts, latent, ddim, sigmas)[0]["samples"])
        pixels = (255 * image[0]).clip(0, 255).numpy().astype(numpy.uint8)
        Image.fromarray(pixels).save(io.BytesIO(), "png", compress_level=1)
    return (time.perf_counter() - begin) / PICTURES, (time.process_time() - used) / PICTURES


def processor_seconds(workers):
    """Used so far by the processes of workers, which are named host:pid."""
    return sum(sum(psutil.Process(int(each.rpartition(":")[2])).cpu_times()[:2]) for each in workers)


def swept(crew, plan, results, jobs):
    """The same for a sweep's drafts, from the moment when its workers are warm."""
    for number, (job, answer, error) in enumerate(crew.run(jobs, plan.build)):
        assert not error, error
        results.add(job, *answer)
        names = [slot.name for slot in crew.slots]
        if number == WARM * len(names):
            begin, used, first = time.perf_counter(), processor_seconds(names), number
    return (
        (time.perf_counter() - begin) / (number - first),
        (processor_seconds(names) - used) / (number - first),
    )


def wait(crew):
    """Until all its workers are ready."""
    while not all(slot.name for slot in crew.slots):
        crew.result()


def main(folder):
    if importlib.util.find_spec("ray") is None:
        return "Not measured: Ray is not installed. `run.py sweep` installs it."
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # on loopback alone, as the command itself
    from runner.comfyui import device_arguments
    from runner.sweep import cluster
    from runner.sweep.plan import Job, Plan
    from runner.sweep.results import Results

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the workers, which share the cores
    with torch.inference_mode():  # as the queue
        seconds = {"plain sampling": plain(range(PICTURES + WARM))}
    torch.set_num_threads(threads)
    arguments = device_arguments(Path(sys.executable))
    content = {key: {"class_type": kind, "inputs": inputs} for key, (kind, inputs) in DRAFT.items()}
    place = Path(os.environ["COMFYUI_PATH"]), arguments, {"OMP_NUM_THREADS": "1"}
    types = sorted({kind for kind, _ in DRAFT.values()})
    with tempfile.TemporaryDirectory() as output:
        for workers in (1, 2):
            with cluster.local(workers):
                crew = cluster.Crew(workers, *place)
                plan = Plan(content, crew.object_info(types))
                wait(crew)
                results = Results(Path(output, str(workers)), plan.fingerprint, [])
                jobs = [Job("draft", seed) for seed in range((PICTURES + WARM) * workers)]
                seconds[f"sweep, {workers} worker{'s' * (workers > 1)}"] = swept(crew, plan, results, jobs)
        with cluster.local(2):
            crew = cluster.Crew(2, *place, worker=Idle)
            results = Results(Path(output, "idle"), plan.fingerprint, [])
            wait(crew)
            begin, used = time.perf_counter(), time.process_time()
            for job, answer, _ in crew.run([Job("draft", seed) for seed in range(TASKS)], plan.build):
                results.add(job, *answer)
            cost = (time.perf_counter() - begin) / TASKS, (time.process_time() - used) / TASKS
    found = {"seconds": seconds, "scheduling": cost}
    (folder / "sweep.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    lines = ["| what | seconds a draft | processor seconds a draft |", "|---|---|---|"]
    lines += [f"| {name} | {wall:.3f} | {used:.3f} |" for name, (wall, used) in seconds.items()]
    lines += [f"| scheduling alone, with writing the picture | {cost[0]:.4f} | {cost[1]:.4f} |", ""]
    busy = ", ".join(
        f"{min(1, draft / (GPUS * cost[0])):.0%} at {draft} s" for draft in (0.1, 0.25, 0.5, 1, 4)
    )
    return "\n".join(
        [*lines, f"On paper {GPUS} GPUs are kept busy, by the seconds that a draft takes: {busy}."]
    )
