"""Bad input, and the message that the user gets. Nothing is sampled before it."""

import math
import os
import subprocess
import sys

import comfy.nested_tensor
import comfy.sample
import pytest
import torch
from comfy.model_base import ModelType
from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete
from conftest import ROOT
from ddim_toolkit.bench import analytic
from ddim_toolkit.ddim.jump import VARIANCES
from ddim_toolkit.ddim.stride import STRIDES
from ddim_toolkit.host import page, sampler, schedule
from ddim_toolkit.host.guiders import cfg_guider
from ddim_toolkit.host.noise import SeedNoise
from ddim_toolkit.nodes.drafting import DDIMDraftSwitch
from ddim_toolkit.nodes.sampling import DDIMKSampler, DDIMSampler
from ddim_toolkit.nodes.schedules import DDIMCustomSchedule, DDIMStrideScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from test_schema import NODES

C = analytic.CONDITIONING
MODEL = analytic.model(ModelType.V_PREDICTION, analytic.four_modes(), 0.3)


def latent(*shape, fill=0.0):
    return {"samples": torch.full(shape or (1, 4, 8, 8), fill)}


def ksampler(**changes):
    arguments = dict(
        model=MODEL,
        seed=1,
        steps=4,
        cfg=1.0,
        eta=0.0,
        stride="trailing",
        positive=C,
        negative=C,
        latent_image=latent(),
        denoise=1.0,
    )
    return DDIMKSampler.execute(**(arguments | changes)).args[0]["samples"]


@pytest.mark.parametrize(
    "changes, words",
    [
        (dict(steps=0), "steps is 0.*1 to 1000"),
        (dict(steps=1001), "steps is 1001.*1 to 1000"),
        (dict(steps=501, denoise=0.5), "steps is 501.*table of 500"),
        (dict(eta=1.5), "eta is 1.5"),
        (dict(eta=-0.1), "eta is -0.1"),
        (dict(eta=math.nan), "eta is nan"),
        (dict(stride="golden"), "stride is 'golden'; allowed are trailing, leading, linspace, quadratic"),
        (dict(denoise=1.2), "denoise is 1.2"),
        (dict(latent_image=latent(fill=math.nan)), "latent_image holds NaN"),
        (dict(latent_image=latent(fill=math.inf)), "latent_image holds NaN or infinite"),
        (
            dict(latent_image=latent(1, 16, 8, 8, fill=0.5)),
            "latent_image has 16 channels; this model's latents have 4",
        ),
        (
            dict(latent_image=latent(1, 4, 3, 8, 8)),
            "latent_image has 5 dimensions.*latents have 4",
        ),
        (dict(latent_image=latent(1, 64, 8)), "latent_image has 3 dimensions.*latents have 4"),
        (dict(latent_image=latent(1, 4, 0, 8)), "latent_image is empty"),
        (dict(latent_image=latent(0, 4, 8, 8)), "latent_image is empty"),
        (dict(latent_image=latent(2, 4, 8, 8) | {"batch_index": [5]}, eta=1.0), "batch_index"),
    ],
)
def test_ksampler_says_what_is_wrong(changes, words):
    with pytest.raises(ValueError, match=words):
        ksampler(**changes)


@pytest.mark.parametrize("steps", [1, 2, 999, 1000])
def test_the_ends_of_the_range_of_steps(steps):
    sigmas = DDIMStrideScheduler.execute(MODEL, steps, "trailing", 1.0).args[0]
    assert len(sigmas) == steps + 1 and sigmas[-1] == 0
    if steps < 10:
        assert ksampler(steps=steps).isfinite().all()


@pytest.mark.parametrize("cfg", [0.0, 1.0, 100.0])
def test_any_guidance(cfg):
    assert ksampler(cfg=cfg).isfinite().all()


NAN = latent(fill=math.nan)["samples"]
WRONG = {
    "INT": (1.5, "5", None, [], True),
    "FLOAT": (math.nan, math.inf, -math.inf, "0.5", None, True),
    "BOOLEAN": (5, None, torch.ones(2)),
    "STRING": (5, None),
    "COMBO": (5, None),
    "IMAGE": ("x", None),
    "MASK": ("x",),
    "SIGMAS": ([1.0, 0.0],),
    "LORA_MODEL": ("x",),
    **dict.fromkeys(("MODEL", "CLIP", "CONDITIONING", "NOISE", "GUIDER", "SAMPLER"), ("x", {}, True)),
    "LATENT": (
        "x",
        {},
        {"samples": NAN},
        {"samples": torch.ones(0, 4, 8, 8)},
        {"samples": torch.ones(4, 8)},
        {"samples": torch.ones(1, 4, 8, 8, dtype=torch.int64)},
        {"samples": comfy.nested_tensor.NestedTensor([torch.ones(2, 4, 8, 8), torch.ones(1, 4, 5)])},
        *(latent() | {"batch_index": given} for given in ([None], [0.7], ["a"], [0, 1], 5)),
        *(latent() | {"noise_mask": mask} for mask in (NAN, torch.ones(8), torch.ones(1, 8, 8).bool(), "x")),
    ),
}


@pytest.mark.parametrize("name", NODES)
def test_whatever_comes_over_a_link_is_right_or_named(name):
    """Said before anything else is looked at."""
    inputs = NODES[name].GET_SCHEMA().inputs
    sound = {
        "MODEL": MODEL,
        "CONDITIONING": C,
        "NOISE": SeedNoise(1),
        "GUIDER": cfg_guider(MODEL, C, C, 1.0),
        "SAMPLER": sampler.ddim_sampler(),
        "LATENT": latent(),
        "STRING": "",
        "COMBO": "",
        **dict.fromkeys(("IMAGE", "MASK", "SIGMAS"), torch.ones(1)),
    }
    others = {each.id: sound.get(each.io_type, getattr(each, "default", None)) for each in inputs}
    for each in inputs:
        beyond = [each.min - 1, each.max + 1, 2**5000] if each.io_type in ("INT", "FLOAT") else []
        for value in (*WRONG.get(each.io_type, ()), *beyond):
            if value is not None or not each.optional or hasattr(each, "default"):
                with pytest.raises(ValueError, match=rf"^{each.id}\b"):
                    NODES[name].execute(**others | {each.id: value})


def test_a_switch_that_is_neither_on_nor_off_computes_no_branch():
    with pytest.raises(ValueError, match="^use_final is .*must be true or false"):
        DDIMDraftSwitch.check_lazy_status(use_final=torch.ones(2))


def test_nan_from_the_model_names_the_first_step(shipped):
    """A NaN in the conditioning reaches the first prediction."""
    model, clip, _ = shipped
    good = clip.encode_from_tokens_scheduled(clip.tokenize("heart"))
    bad = [[torch.full_like(good[0][0], math.nan), good[0][1]]]
    with pytest.raises(
        FloatingPointError, match="step 1 of 4.*the model returned values that are not finite"
    ):
        ksampler(model=model, positive=bad, latent_image=latent(1, 4, 16, 16))


def test_nan_in_the_noise_of_another_node():
    with pytest.raises(ValueError, match="noise or the latent_image that sampling starts from holds NaN"):
        comfy.sample.sample_custom(
            MODEL,
            torch.full((1, 4, 8, 8), math.nan),
            1.0,
            sampler.ddim_sampler(),
            schedule.stride_sigmas(MODEL, 4, "trailing")[0],
            C,
            C,
            torch.zeros(1, 4, 8, 8),
            seed=0,
            disable_pbar=True,
        )


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "timesteps is empty"),
        ("  , ;", "timesteps is empty"),
        ("999, five", "'five', which is not a finite number"),
        ("999, nan", "'nan', which is not a finite"),
        ("sigmas: inf, 1", "'inf', which is not a finite"),
        ("499, 999", "must go down, each once; 999 follows 499"),
        ("999, 999", "must go down, each once"),
        ("1000, 10", "holds 1000; this model's timesteps are the whole numbers 0 to 999"),
        ("999, -1", "holds -1; this model's"),
        ("999.5, 10", "a time is 999.5; allowed are 0 to 999"),
        ("99.5, -1", "a time is -1.0; allowed are 0 to 999"),
        ("Turbo", "'Turbo', which is no list and no name; known are LCM, TCD, "),
        ("sigmas: 20, 1", "sigmas start at 20; this model's sigma_max is 14.6"),
        ("sigmas: 5, -1", "-1"),
        ("steps: 5", "begins with 'steps'"),
        ("sigmas: 0", "at least two"),
        ("sigmas: 1, 1e-40", r"sigmas\[1\] is .*e-41; the least above 0 is 1.2e-38"),
        ("1_0, 5", "'1_0', which is not a finite number"),
        ("٩", "'٩', which is not a finite number"),
    ],
)
def test_written_lists(text, words):
    with pytest.raises(ValueError, match=words):
        DDIMCustomSchedule.execute(MODEL, text)


def test_times_of_an_edm_model_lie_in_its_own_range():
    with pytest.raises(ValueError, match="timesteps: a time is 937.5; allowed are 0 to 1"):
        DDIMCustomSchedule.execute(analytic.model(ModelType.EDM), "937.5, 0.5")


@pytest.mark.parametrize(
    "text, count",
    [
        ("999", 2),
        ("999,749 499;249\n0", 6),
        ("timesteps: 999, 1", 3),
        ("sigmas: 14.6, 5.0, 0", 3),
        ("sigmas: 14.6146 5e-1", 3),
    ],
)
def test_lists_that_are_right(text, count):
    sigmas = DDIMCustomSchedule.execute(MODEL, text).args[0]
    assert len(sigmas) == count and sigmas[-1] == 0 and (sigmas[:-1] > sigmas[1:]).all()


@pytest.mark.parametrize(
    "steps, stride, denoise, words",
    [
        (600, "leading", 1.0, "leading starts at timestep 600 of 999 here; trailing starts at the top"),
        (400, "leading", 1.0, "leading starts at timestep 799 of 999"),
        (1, "leading", 1.0, "leading starts at timestep 1 of 999"),
        (150, "leading", 0.5, "leading starts at timestep 448 of 499"),
        (10, "quadratic", 1.0, "quadratic starts at timestep 800 of 999"),
        (10, "leading", 1.0, ""),
        (400, "trailing", 1.0, ""),
        (1, "linspace", 0.5, ""),
    ],
)
def test_a_stride_that_starts_low_says_so(steps, stride, denoise, words, caplog, monkeypatch):
    """In the text, on the strip (after a run too: tests/browser/test_runs.py), and once in the log."""
    monkeypatch.setattr(schedule, "_WARNED", set())
    for _ in range(2):
        out = DDIMStrideScheduler.execute(MODEL, steps, stride, denoise)
    query = {"steps": str(steps), "stride": stride, "denoise": str(denoise)}
    assert caplog.text.count("starts at timestep") == (1 if words else 0)
    for text in (out.args[1], page.picture(query).get("note", ""), caplog.text):
        assert words in text and ("starts at" in text) == bool(words)
    assert torch.equal(DDIMCustomSchedule.execute(MODEL, out.args[1]).args[0], out.args[0])
    assert torch.equal(schedule.custom_sigmas(MODEL, f"# a remark\n{out.args[1]}"), out.args[0])


def test_a_little_denoise_is_never_none():
    """.01 of the 50 timesteps of an LCM is none, and the latent came back untouched."""
    lcm = ModelSamplingDiscrete().patch(MODEL, "lcm", False)[0]
    assert len(lcm.get_model_object("model_sampling").sigmas) == 50
    sigmas, text = DDIMStrideScheduler.execute(lcm, 1, "trailing", 0.01).args
    assert len(sigmas) == 2 and sigmas[0] > 0 and text == "0"
    with pytest.raises(ValueError, match="steps is 4.*table of 1 timesteps"):
        DDIMStrideScheduler.execute(lcm, 4, "trailing", 0.01)
    assert len(DDIMStrideScheduler.execute(lcm, 4, "trailing", 0.0).args[0]) == 0


@pytest.mark.parametrize("stride", STRIDES)
def test_the_text_of_a_stride_is_a_list_that_gives_it_back(stride):
    sigmas, text = DDIMStrideScheduler.execute(MODEL, 17, stride, 1.0).args
    assert torch.equal(DDIMCustomSchedule.execute(MODEL, text).args[0], sigmas)


@pytest.mark.parametrize(
    "query",
    [
        {"steps": "x"},
        {"steps": "1e9"},
        {"steps": "-4"},
        {"steps": "99999999"},
        {"steps": ""},
        {"steps": "5", "stride": "../../etc"},
        {"steps": "5", "denoise": "nan"},
        {"steps": "5", "denoise": "two"},
        {"timesteps": "9" * 9000},
        {"timesteps": "<b>"},
        {},
    ],
)
def test_the_route_refuses_what_it_does_not_expect(query):
    with pytest.raises(ValueError):
        page.picture(query)


def test_the_route_gives_the_nodes_own_stride():
    assert (
        page.picture({"steps": "7", "stride": "leading", "denoise": "1"})["timesteps"]
        == schedule.stride_sigmas(MODEL, 7, "leading")[1]
    )


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from([ModelType.EPS, ModelType.V_PREDICTION, ModelType.EDM, ModelType.FLOW]),
    stride=st.sampled_from(list(STRIDES)),
    steps=st.integers(1, 12),
    eta=st.floats(0, 1),
    variance=st.sampled_from(VARIANCES),
    order=st.integers(1, 4),
    shape=st.tuples(st.integers(1, 3), st.just(4), st.integers(1, 5), st.integers(1, 5)),
    dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32]),
    seed=st.integers(0, 2**64 - 1),
)
def test_any_dial_gives_a_finite_picture_twice(kind, stride, steps, eta, variance, order, shape, dtype, seed):
    """Finite, of the asked number of model calls, and the same again."""
    model = analytic.model(kind, torch.full((1, *shape[1:]), 0.3))
    ddim = DDIMSampler.execute(eta, variance, order, "none", "cpu", 0).args[0]
    sigmas, _ = schedule.stride_sigmas(model, steps, stride)
    calls, pictures = [], []
    for _ in range(2):
        start = torch.zeros(shape, dtype=dtype)
        pictures.append(
            comfy.sample.sample_custom(
                model,
                comfy.sample.prepare_noise(start, seed),
                1.0,
                ddim,
                sigmas,
                C,
                C,
                start,
                seed=seed,
                disable_pbar=True,
                callback=lambda i, x0, x, n: calls.append(i),
            )
        )
    assert calls == 2 * list(range(steps)) and pictures[0].isfinite().all() and torch.equal(*pictures)
    assert pictures[0].shape == shape


def test_importing_the_pack_does_no_work():
    """No weights, no network, no torch module beyond those ComfyUI has: what import adds is our own files and
    no open file."""
    code = """
import asyncio, os, sys
sys.path.insert(0, os.environ["CHECKOUT"])
from runner.inprocess import start
pack = start(os.environ["COMFYUI_PATH"], "--cpu")
import comfy.samplers, comfy.sd, comfy.sample, latent_preview, comfy_extras.nodes_custom_sampler
import comfy_api.latest, execution, nodes
before = set(sys.modules)
asyncio.run(asyncio.run(pack.comfy_entrypoint()).get_node_list())
added = {name.partition(".")[0] for name in set(sys.modules) - before}
assert added == {"ddim_toolkit"}, added
assert "ddim_toolkit.demo.model" not in sys.modules
"""
    comfyui = os.environ.get("COMFYUI_PATH") or str(ROOT / ".comfyui" / "ComfyUI")
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"COMFYUI_PATH": comfyui, "CHECKOUT": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
