"""A running host queue: cancel at every stage, two prompts at once, 200 runs."""

import asyncio
import json
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import aiohttp
import graphs
import psutil
import pytest
import torch
from ddim_toolkit.runner.comfyui import RunError, this_pack_alone
from ddim_toolkit.runner.server import Server
from helpers import HERE
from safetensors.torch import load

pytestmark = pytest.mark.server

# (prompt, steps of the run that is cancelled, model calls after which it is): far from its end, wherever the
# machine is quick.
STAGES = {
    "DDIMKSampler": (graphs.ksampler, 1000, 5),
    "DDIMDialGrid": (graphs.dial_grid, 250, 255),  # within the second of its four pictures
    "SamplerCustomAdvanced": (graphs.advanced, 1000, 5),
    "morph": (graphs.morph, 1000, 5),
    "trajectory": (graphs.trajectory, 1000, 5),
    "exact inversion": (graphs.exact_inversion, 500, 5),
    "noise maps": (graphs.noise_maps, 500, 5),
    "replay": (graphs.replay, 150, 5),
    "held replay": (graphs.held_replay, 150, 5),
    "inversion with a guider": (graphs.inversion_advanced, 500, 5),
    "edit": (graphs.edit, 500, 5),
    "probe": (graphs.probe, 256, 5),
    "search": (lambda seed, steps: graphs.probe(seed, steps, refine=4), 8, 12),
}
MEGABYTE = 2**20


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """With previews, as on the page, and the cache of 0.3.75, which newer hosts want to be asked for: that of
    the last prompt alone. Memory that it frees goes back to the system at once, where its C library is glibc.
    """
    arguments = [*this_pack_alone(HERE.folder), "--preview-method", "latent2rgb", "--cache-classic"]
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"):
            patch.setenv(name, "65536")
        with Server(HERE, tmp_path_factory.mktemp("output"), arguments) as running:
            yield running


def queue(server, graph):
    """The prompt's history entry; with the titles that the page would give its nodes."""
    return server.queue({key: node | {"_meta": {"title": key}} for key, node in graph.finalize().items()})


def drawn(server, graph):
    """The latents that a prompt saves, computed now: the queue's cache has not answered."""
    return latents(server, queue(server, graph))


def latents(server, entry):
    [cached] = [data["nodes"] for event, data in entry["status"]["messages"] if event == "execution_cached"]
    assert "work" not in cached
    found = {
        key: load(server.image(output["latents"][0]))["latent_tensor"]
        for key, output in entry["outputs"].items()
        if "latents" in output
    }
    assert found and all(latent.isfinite().all() and latent.std() > 0 for latent in found.values())
    return found


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def post(server, path, **body):
    urllib.request.urlopen(
        urllib.request.Request(server.url + path, json.dumps(body).encode()), timeout=60
    ).close()


def during(server, graph, calls, act):
    """Queue a prompt, and act() once its node "work" has made so many model calls: (what act gives, the
    prompt's history entry).

    Raises what the queue raises.
    """

    async def run():
        async with aiohttp.ClientSession() as session, session.ws_connect(f"{server.url}/ws") as socket:
            running = asyncio.create_task(asyncio.to_thread(queue, server, graph))
            listening = asyncio.create_task(progress(socket))
            await asyncio.wait({running, listening}, return_when=asyncio.FIRST_COMPLETED)
            listening.cancel()
            assert not running.done(), f"it ended before {calls} model calls"
            acted = await asyncio.to_thread(act)
            return acted, await running

    async def progress(socket):  # the host tells it to everybody who listens
        async for message in socket:
            if message.type == aiohttp.WSMsgType.TEXT and message.json()["type"] == "progress":
                data = message.json()["data"]
                if data["node"] == "work" and data["value"] >= calls:
                    return

    with ThreadPoolExecutor(1) as thread:  # while the browser tests' page is open its loop holds this one
        return thread.submit(asyncio.run, run()).result()


def cancel(server, graph, calls):
    """Queue a prompt and cancel it: the queue says so, and says nothing of an error."""
    kind = graph.lookup_node("work").class_type
    with pytest.raises(RunError, match=rf"^Interrupted in {kind}\.$"):
        during(server, graph, calls, lambda: post(server, "/interrupt"))
    entry = next(reversed(server.get("/history?max_items=1").values()))
    assert [event for event, _ in entry["status"]["messages"]] == [
        "execution_start",
        "execution_cached",
        "execution_interrupted",
    ]


@pytest.mark.parametrize("stage", STAGES)
def test_a_cancel_leaves_the_queue_as_it_was(server, stage):
    build, steps, calls = STAGES[stage]
    undisturbed = drawn(server, build(1, 5))
    cancel(server, build(2, steps), calls)
    assert same(drawn(server, build(1, 5)), undisturbed)


def test_a_draft_lora_goes_on_into_cores_nodes(server):
    entry = queue(server, graphs.draft_lora(1, 4))
    assert latents(server, entry)
    assert "4 of 4 rounds, 8 teacher runs" in entry["outputs"]["work"]["text"][0]
    assert entry["outputs"]["plot"]["images"]


def test_a_cancelled_training_hands_on_what_it_learned(server):
    _, entry = during(server, graphs.draft_lora(2, 100000), 3, lambda: post(server, "/interrupt"))
    assert "of 100000 rounds, cancelled" in entry["outputs"]["work"]["text"][0]
    assert latents(server, entry)


def test_two_prompts_do_not_disturb_each_other(server):
    """The second is queued while the first one runs."""
    first, second = graphs.ksampler(1, 100), graphs.advanced(2, 5)
    alone = [drawn(server, first), drawn(server, second)]

    def queue_second():
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(drawn, server, second)
            while not (now := server.get("/queue"))["queue_pending"]:
                assert not waiting.done()
            assert len(now["queue_running"]) == 1
            return waiting.result()

    together, entry = during(server, first, 5, queue_second)
    assert same(latents(server, entry), alone[0]) and same(together, alone[1])


def test_a_cancel_leaves_the_prompt_behind_it_alone(server):
    second = graphs.replay(2, 5)
    alone = drawn(server, second)

    def queue_second_and_cancel():
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(drawn, server, second)
            while not server.get("/queue")["queue_pending"]:
                assert not waiting.done()
            post(server, "/interrupt")
            assert same(waiting.result(), alone)

    with pytest.raises(RunError, match="^Interrupted in DDIMKSampler"):
        during(server, graphs.ksampler(1, 1000), 5, queue_second_and_cancel)


def level(server):
    """Megabytes of memory, files apart, that the server's process holds once it has dropped models, cached
    outputs and history and collected garbage."""
    post(server, "/free", unload_models=True, free_memory=True)
    for size in (64, 72):  # it does so before or after the first of these, which keep nothing
        graph = graphs.GraphBuilder(prefix="")
        graph.node(
            "PreviewAny", source=graph.node("EmptyLatentImage", width=size, height=size, batch_size=1).out(0)
        )
        queue(server, graph)
    post(server, "/history", clear=True)
    memory = psutil.Process(server.process.pid).memory_info()
    return (
        memory.rss - getattr(memory, "shared", 0)
    ) / MEGABYTE  # what is mapped from files depends on who else reads them


def small_prompt(number):
    """One of four kinds, each with a seed of its own. The noises are of a megabyte each."""
    kinds = (
        lambda seed: graphs.ksampler(seed, 2),
        lambda seed: graphs.advanced(seed, 2),
        lambda seed: graphs.noise_maps(seed, 2),
        lambda seed: graphs.noises(seed, size=256, batch=16),
    )
    return kinds[number % len(kinds)](number)


def test_200_runs_leak_nothing(server):
    """Over the last 150. The host itself keeps about 12 kB for each model call, with its own samplers too."""

    def run(numbers):
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda number: queue(server, small_prompt(number)), numbers))

    run(range(50))
    warm = level(server)
    run(range(50, 200))
    assert level(server) - warm < 12


def test_cancels_leave_no_memory(server):
    """Each of eight drops 4 megabytes of noise, or keeps them."""
    cancel(server, graphs.held_noise(0, 1000), 5)
    warm = level(server)
    for seed in range(1, 9):
        cancel(server, graphs.held_noise(seed, 1000), 5)
    assert level(server) - warm < 8
