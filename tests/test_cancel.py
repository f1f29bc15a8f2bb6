"""Cancel and repetition inside one process: the same nodes, every tensor and object of the pack counted."""

import collections
import gc
from functools import partial

import comfy.model_management
import pytest
import torch
from comfy_extras import nodes_custom_sampler as core
from ddim_toolkit.host import schedule
from ddim_toolkit.nodes.adaptive import DDIMAdaptiveScheduler
from ddim_toolkit.nodes.editing import DDIMEdit
from ddim_toolkit.nodes.grid import DDIMDialGrid
from ddim_toolkit.nodes.inversion import DDIMInversion
from ddim_toolkit.nodes.noise import DDIMNoiseArithmetic, DDIMNoiseInterpolation
from ddim_toolkit.nodes.pictures import DDIMTrajectory
from ddim_toolkit.nodes.sampling import DDIMKSampler, DDIMSampler

STEPS = 4
A, B, C = (core.Noise_RandomNoise(seed) for seed in (1, 2, 3))


@pytest.fixture(scope="module")
def scene(shipped):
    """(model, positive, negative, latent of two small pictures)"""
    model, clip, _ = shipped
    texts = [clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in ("red heart", "")]
    return model, *texts, {"samples": torch.randn((2, 4, 8, 8), generator=torch.Generator().manual_seed(7))}


def advanced(model, positive, negative, noise, sampler, sigmas, latent):
    guider = core.CFGGuider.execute(model, positive, negative, 1.0).args[0]
    return core.SamplerCustomAdvanced.execute(noise, guider, sampler, sigmas, latent).args[0]["samples"]


def strided(model):
    return schedule.stride_sigmas(model, STEPS, "linspace")[0]


def ksampler(model, positive, negative, latent):
    return DDIMKSampler.execute(model, 1, STEPS, 1.0, 0.5, "trailing", positive, negative, latent, 1.0).args[
        0
    ]["samples"]


def dial_grid(model, positive, negative, latent):
    return DDIMDialGrid.execute(
        model,
        "eta",
        "0, 1",
        "steps",
        "1, 2",
        seed=1,
        steps=1,
        cfg=1.0,
        eta=0.0,
        stride="trailing",
        positive=positive,
        negative=negative,
        latent_image=latent,
        denoise=1.0,
    ).args[0]["samples"]


def plms(model, positive, negative, latent):
    ddim = DDIMSampler.execute(0.5, "large", 3, "dynamic", "cpu", 0).args[0]
    return advanced(model, positive, negative, A, ddim, strided(model), latent)


def morph(model, positive, negative, latent):
    noise, batch = DDIMNoiseInterpolation.execute(
        A, DDIMNoiseArithmetic.execute(A, B, C, 0.5).args[0], latent, 2, "slerp"
    ).args
    return advanced(
        model,
        positive,
        negative,
        noise,
        DDIMSampler.execute(0.0, "posterior", 1, "none", "cpu", 0).args[0],
        strided(model),
        batch,
    )


def trajectory(model, positive, negative, latent):
    return DDIMTrajectory.execute(
        model, 1, STEPS, 1.0, 0.5, "trailing", positive, negative, latent, 1.0
    ).args[0]["samples"]


def inversion(method, eta, model, positive, negative, latent):
    """With the run that measures its round trip."""
    return DDIMInversion.execute(
        model,
        positive,
        negative,
        1.0,
        latent,
        strided(model),
        method=method,
        eta=eta,
        tolerance=1e-4,
        max_iterations=20,
        measure_round_trip=True,
    ).args[1]["samples"]


def replay(model, positive, negative, latent):
    maps = DDIMInversion.execute(
        model,
        positive,
        negative,
        1.0,
        latent,
        strided(model),
        method="ddim",
        eta=1.0,
        tolerance=1e-4,
        max_iterations=20,
    ).args[2]
    return advanced(model, positive, negative, A, maps, strided(model), latent)


def edit(model, positive, negative, latent):
    return DDIMEdit.execute(
        model, negative, positive, negative, 1.0, 1.0, latent, strided(model), 0.5, 1, 2, 0.5
    ).args[0]["samples"]


def adaptive(model, positive, negative, latent):
    return DDIMAdaptiveScheduler.execute(
        model, positive, negative, 1.0, latent, 2, 1, "reconstruction error", 6, 1, 0, 2
    ).args[0]


RUNS = {
    "DDIMKSampler": ksampler,
    "dial grid": dial_grid,
    "PLMS": plms,
    "morph": morph,
    "trajectory": trajectory,
    "exact inversion": partial(inversion, "exact", 0.0),
    "ddim inversion": partial(inversion, "ddim", 0.0),
    "noise maps": partial(inversion, "exact", 1.0),
    "replay": replay,
    "edit": edit,
    "adaptive": adaptive,
}


class Calls:
    """Counts a model's calls, and asks the host to cancel in one of them."""

    def __init__(self, cancel_in=None):
        self.count, self.cancel_in = 0, cancel_in

    def __call__(self, apply_model, given):
        self.count += 1
        if self.count == self.cancel_in:
            comfy.model_management.interrupt_current_processing()
        return apply_model(given["input"], given["timestep"], **given["c"])

    def watching(self, model):
        model = model.clone()
        model.set_model_unet_function_wrapper(self)
        return model


def finished(run, scene):
    """(what a run gives, how many model calls it takes)"""
    calls = Calls()
    with torch.inference_mode():  # as the queue does
        return run(calls.watching(scene[0]), *scene[1:]), calls.count


def cancelled(run, scene, call):
    """Cancel a run in a model call: no other follows."""
    calls = Calls(cancel_in=call)
    with torch.inference_mode(), pytest.raises(comfy.model_management.InterruptProcessingException):
        run(calls.watching(scene[0]), *scene[1:])
    assert calls.count == call and not comfy.model_management.processing_interrupted()


def alive():
    """How many tensors, and objects of the pack's own classes, are alive."""
    gc.collect()
    kinds = (type(each) for each in gc.get_objects())
    return collections.Counter(
        kind.__name__
        for kind in kinds
        if issubclass(kind, torch.Tensor) or str(kind.__module__).startswith("ddim_toolkit")
    )


@pytest.mark.parametrize("name", RUNS)
def test_cancel_in_the_first_call_half_way_and_before_the_last(scene, name):
    run = RUNS[name]
    undisturbed, total = finished(run, scene)
    before = alive()
    for call in {1, total // 2, total - 1}:
        cancelled(run, scene, call)
        again, calls = finished(run, scene)
        assert calls == total and torch.equal(again, undisturbed)
        del again
    assert alive() == before


def test_repetition_leaves_nothing_behind(scene):
    def rounds(count):
        for _ in range(count):
            for run in RUNS.values():
                finished(run, scene)

    rounds(1)
    before = alive()
    rounds(3)
    assert alive() == before
