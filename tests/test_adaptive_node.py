"""DDIMAdaptiveScheduler and its probe: what the node gives, refuses and reports, and how it is cancelled."""

import math
from inspect import signature

import comfy.model_management
import comfy.samplers
import comfy.sd
import pytest
import torch
from comfy.model_base import ModelType
from comfy_extras import nodes_easycache
from comfy_extras.nodes_context_windows import ContextWindowsManualNode
from ddim_toolkit.bench import analytic
from ddim_toolkit.demo import model as demo
from ddim_toolkit.host import measured_sampler, probe, sampler
from ddim_toolkit.host.noise import latent_noise
from ddim_toolkit.nodes.adaptive import DDIMAdaptiveScheduler
from helpers import empty, encode

EMPTY = empty()
C = analytic.CONDITIONING


def execute(model, cfg=2.0, **others):
    given = {
        "steps": 4,
        "order": 1,
        "criterion": "reconstruction error",
        "probe_steps": 16,
        "probe_images": 2,
        "positive": C,
        "negative": C,
        "latent_image": EMPTY,
        "refine": 1,
    }
    return DDIMAdaptiveScheduler.execute(model=model, cfg=cfg, seed=0, **given | others).args


def test_node():
    model = analytic.model(ModelType.FLOW, analytic.four_modes())
    sigmas, text, report, used = execute(model)
    assert len(sigmas) == 5 and text.startswith("sigmas: 1.0, ") and "2 pictures at cfg 2" in report
    assert " to the picture of many steps than the best tried of ComfyUI's (" in report.splitlines()[0]
    assert report.splitlines()[0].endswith(", at 4 model calls.")
    again = execute(model)
    assert torch.equal(again[0], sigmas) and again[1] == text
    other = execute(model, order=2, sampler_name="dpmpp_2m")
    assert not torch.equal(other[0], sigmas)
    assert "2 pictures of each of 3 prompts" in execute(model, positive_2=C, positive_4=C)[2]


def test_a_guider_is_measured_as_it_is():
    """A CFGGuider as the inputs in its place; a guider of another kind without the guidance difference."""
    model, unused = analytic.model(ModelType.FLOW, analytic.four_modes()), analytic.model(ModelType.EPS)
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(C, C)
    guider.set_cfg(2.0)
    sigmas, text, report, _ = execute(unused, cfg=9.0, guider=guider)
    wanted = execute(model)
    assert torch.equal(sigmas, wanted[0]) and text == wanted[1] and "with CFGGuider" in report

    class Halved(comfy.samplers.CFGGuider):
        def predict_noise(self, *args, **kwargs):
            return super().predict_noise(*args, **kwargs)

    other = Halved(model)
    other.set_conds(C, C)
    sigmas, text, _, used = execute(unused, cfg=2.0, guider=other, sampler_name="measured")
    assert "cfg Halved, check" in text and used.extra_options["bound"].coefficients.guided is False
    read = measured_sampler.read(text.split("\n", 1)[1], sigmas)
    assert read == used.extra_options["bound"]
    noise, empty = latent_noise(EMPTY, 3), EMPTY["samples"]
    assert other.sample(noise, empty, used, sigmas, disable_pbar=True, seed=3).isfinite().all()
    with pytest.raises(ValueError, match="cfg: the sampler was measured at Halved; this run's is CFGGuider"):
        guider.sample(noise, empty, used, sigmas, disable_pbar=True, seed=3)


def test_where_nothing_is_gained_the_sampler_is_plain_and_the_report_says_so():
    """A model whose x0_hat is always the same point: one DDIM step is exact."""
    point = analytic.model(ModelType.FLOW, torch.full((1, 4, 8, 8), 0.3), 0.0)
    sigmas, text, report, used = execute(point, cfg=1.0)
    assert "gain nothing" in report.splitlines()[0] and "coefficients" not in text
    assert used.sampler_function is sampler.sample_ddim


@torch.no_grad()
def test_a_model_that_looks_distilled_is_told(shipped):
    """The shipped draft LoRA, which has guidance folded in; not the model itself, guided or not, nor a
    mixture."""
    model, clip, _ = shipped
    drafted = comfy.sd.load_lora_for_models(model, None, demo.draft_lora(), 1.0, 0)[0]
    prompts = {"positive": encode(clip, "red heart"), "negative": encode(clip, "")}
    prompts["latent_image"] = empty(16)
    mixture = analytic.model(ModelType.FLOW, analytic.four_modes())

    def told(model, cfg, **given):
        return "looks distilled" in execute(model, cfg, **given, probe_steps=8, refine=0)[2]

    assert told(drafted, 1.0, **prompts)
    assert not told(model, 1.0, **prompts) and not told(model, 4.0, **prompts) and not told(mixture, 1.0)


@pytest.mark.parametrize(
    "given, named",
    [
        ({"steps": 17}, "steps"),
        ({"probe_steps": 3}, "probe_steps"),
        ({"images": 0}, "probe_images"),
        ({"order": 5}, "order"),
        ({"criterion": "best"}, "criterion"),
        ({"refine": -1}, "refine"),
        ({"sampler_name": "heun"}, "sampler_name"),
        ({"sampler_name": "dpmpp_2m"}, "order is 1; dpmpp_2m is of order 2"),
    ],
)
def test_bad_numbers_are_named_before_any_model_call(given, named):
    model = analytic.model()
    model.model.diffusion_model.forward = None  # a call would fail
    with pytest.raises(ValueError, match=named):
        probe.measured_schedule(model, [C], C, 1.0, EMPTY, **{"steps": 4, "probe_steps": 16} | given)


@pytest.mark.parametrize("node", ["EasyCacheNode", "LazyCacheNode"])
def test_a_cache_between_model_calls_is_refused_by_name(node):
    cached = getattr(nodes_easycache, node).execute(analytic.model(), 0.2, 0.15, 0.95, False).args[0]
    with pytest.raises(ValueError, match=f"model: {node[:-4]} answers a call from those before it"):
        probe.measured_schedule(cached, [C], C, 1.0, EMPTY, 4, probe_steps=8)


def test_context_windows_are_measured_like_the_model():
    """A model that looks at each element alone; the host found no step for the sigmas of true runs."""
    model = analytic.model(ModelType.FLOW, torch.full((1, 4, 1, 8, 8), 0.3))
    window = (2, 1, "standard_static", 1, False, "pyramid", 2)
    newer = (
        {"freenoise": False} if "freenoise" in signature(ContextWindowsManualNode.execute).parameters else {}
    )
    windowed = ContextWindowsManualNode.execute(model, *window, **newer).args[0]
    found = [
        probe.measured_schedule(
            each,
            [C],
            C,
            1.0,
            {"samples": torch.zeros(1, 4, 4, 8, 8)},
            4,
            probe_steps=8,
            images=1,
            refine=1,
        )[0]
        for each in (model, windowed)
    ]
    torch.testing.assert_close(*found)


def test_nan_of_the_model_is_named():
    model = analytic.model(means=torch.full((1, 4, 8, 8), math.nan))
    with pytest.raises(FloatingPointError, match="reference run"):
        probe.measured_schedule(model, [C], C, 1.0, EMPTY, 4, probe_steps=8)


def test_cancel_stops_the_probe():
    model = analytic.model()
    comfy.model_management.interrupt_current_processing(True)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        probe.measured_schedule(model, [C], C, 1.0, EMPTY, 4, probe_steps=8)


def test_cancel_between_model_calls_stops_the_search():
    """In the search itself, which at its largest takes longer than a model call."""
    model, calls = analytic.model(), []

    def last_call(apply_model, given):
        calls.append(given["timestep"])
        if len(calls) == 8:
            comfy.model_management.interrupt_current_processing(True)
        return apply_model(given["input"], given["timestep"], **given["c"])

    model.set_model_unet_function_wrapper(last_call)
    with pytest.raises(comfy.model_management.InterruptProcessingException) as stopped:
        probe.measured_schedule(model, [C], C, 1.0, EMPTY, 4, probe_steps=8, refine=0)
    assert "mean_products" in [entry.name for entry in stopped.traceback]
