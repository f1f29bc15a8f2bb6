"""Launch flags: a draft and its exact inversion on a server that was started with them.

On the CPU the host keeps a half-precision model's weights in that type and computes in float32. So what a
server gives is
known: the same run in this process, whose weights were rounded by hand.
"""

import io

import graphs
import numpy as np
import pytest
import torch
from ddim_toolkit.demo import model as demo_model
from ddim_toolkit.host import schedule
from ddim_toolkit.nodes.inversion import DDIMInversion
from ddim_toolkit.nodes.sampling import DDIMKSampler
from ddim_toolkit.runner.comfyui import device_arguments, this_pack_alone
from ddim_toolkit.runner.server import Server
from helpers import HERE
from PIL import Image
from safetensors.torch import load

pytestmark = pytest.mark.server

ACCELERATOR = device_arguments(HERE.python) == []
STEPS, SEED, SIZE = 8, 5, 64
SAMPLING = dict(steps=STEPS, eta=0.5)


def served(folder, *flags):
    """(draft, noise that the inversion finds, picture 0 to 1) of a server with these flags."""
    graph = graphs.Graph(SIZE)
    draft = graph.ksampler("draft", SEED, **SAMPLING)
    found = graph.node(
        "DDIMInversion",
        "inversion",
        model=graph.model,
        cfg=1.0,
        latent_image=draft,
        sigmas=graph.sigmas(STEPS, "linspace"),
        method="exact",
        eta=0.0,
        tolerance=1e-5,
        max_iterations=40,
        measure_round_trip=True,
        noise_seed=0,
        **graph.conds,
    )
    graph.saved(draft, "draft").saved(found.out(1), "noise")
    graph.node(
        "SaveImage",
        "picture",
        images=graph.node("VAEDecode", samples=draft, vae=graph.vae).out(0),
        filename_prefix="picture",
    )
    with Server(HERE, folder, [*this_pack_alone(HERE.folder), *flags]) as server:
        outputs = server.queue(graph.finalize())["outputs"]
        draft, noise = (
            load(server.image(outputs[f"save {name}"]["latents"][0]))["latent_tensor"]
            for name in ("draft", "noise")
        )
        picture = Image.open(io.BytesIO(server.image(outputs["picture"]["images"][0]))).convert("RGB")
    assert draft.dtype == noise.dtype == torch.float32 and draft.isfinite().all() and noise.isfinite().all()
    return draft, noise, torch.from_numpy(np.asarray(picture, dtype=np.float32) / 255)


def here(dtype):
    """The same in this process, with the weights of the UNet rounded to dtype."""
    model, clip, vae = demo_model.load()
    for weight in model.model.diffusion_model.parameters():
        weight.data = weight.data.to(dtype).float()
    positive, negative = (
        clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in ("red heart", "")
    )
    with torch.inference_mode():
        draft = DDIMKSampler.execute(
            model,
            SEED,
            STEPS,
            1.0,
            0.5,
            "trailing",
            positive,
            negative,
            {"samples": torch.zeros(1, 4, SIZE // 8, SIZE // 8)},
            1.0,
        ).args[0]
        sigmas = schedule.stride_sigmas(model, STEPS, "linspace")[0]
        noise = DDIMInversion.execute(
            model,
            positive,
            negative,
            1.0,
            draft,
            sigmas,
            method="exact",
            eta=0.0,
            tolerance=1e-5,
            max_iterations=40,
            measure_round_trip=True,
        ).args[1]
        return draft["samples"], noise["samples"], vae.decode(draft["samples"])[0].clamp(0, 1)


def rms(x):
    return x.double().square().mean().sqrt().item()


@pytest.mark.parametrize(
    "dtype, flags",
    [(torch.float16, ["--force-fp16", "--cache-none"]), (torch.bfloat16, ["--bf16-unet", "--bf16-vae"])],
    ids=["fp16", "bf16"],
)
def test_half_precision(dtype, flags, tmp_path):
    """What rounded weights give; and near the plain run, by the rounding unit of the type: 2^-11 or 2^-8 of
    each weight.

    The shipped weights are float16, which rounds nothing. In a draft the errors average out; the inversion
    multiplies them.
    """
    *found, picture = served(tmp_path, *(["--cpu"] if ACCELERATOR else []), *flags)
    *rounded, decoded = here(dtype)
    *plain, _ = here(torch.float32)
    for one, other, exact, units in zip(found, rounded, plain, (4, 20), strict=True):
        assert rms(one - other) <= 1e-4 * rms(other)
        assert rms(one - exact) <= units * torch.finfo(dtype).eps / 2 * rms(exact)
    assert (
        picture.std() > 0.05 and (picture - decoded).abs().max() < 0.05
    )  # the file has 256 levels, the autoencoder in bfloat16 as many


@pytest.mark.skipif(not ACCELERATOR, reason="ComfyUI takes --cpu or one of these, not both")
@pytest.mark.parametrize("flag", ["--lowvram", "--novram"])
def test_little_memory(flag, tmp_path):
    draft, noise, picture = served(tmp_path, flag)
    assert rms(draft - here(torch.float32)[0]) < 0.05 and picture.std() > 0.05
