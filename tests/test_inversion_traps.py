"""What an inversion must not get silently wrong: soft masks, noise taken for a picture, hooks that change
along the run, models that do not answer alike twice."""

import math

import comfy.hooks
import comfy.samplers
import pytest
import torch
from comfy.model_base import ModelType
from comfy_extras import nodes_apg, nodes_differential_diffusion, nodes_easycache, nodes_perpneg
from comfy_extras import nodes_custom_sampler as core
from ddim_toolkit.bench import analytic
from ddim_toolkit.demo import pictures
from ddim_toolkit.host import guiders, inversion, latents, sampler, schedule, verdict
from ddim_toolkit.host.replay import held_to_the_record
from helpers import KINDS, encode, rmse
from test_inversion import found, guider, mixture, sample, sigmas_of

EULER = comfy.samplers.sampler_object("euler")
MASKS = {
    "half": torch.full((1, 1, 8, 8), 0.5),
    "ramp": torch.linspace(0, 1, 8).expand(1, 1, 8, 8),
    "random": torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(3)),
}


@pytest.mark.parametrize("kind", [ModelType.EPS, ModelType.FLOW], ids=lambda k: k.name)
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_a_soft_mask_returns_the_picture(kind, mask):
    """Sampled by the host's euler: the model sees the run's own noise beside the state."""
    model, given = mixture(kind)
    sigmas = sigmas_of(model, 10)
    result = inversion.invert_latent(guider(model), {"samples": given, "noise_mask": mask}, sigmas)
    assert result.unsettled <= 1e-5
    back = rmse(sample(model, result.noise, given, sigmas, EULER, mask), given)
    worst = max(map(max, result.run.errors))  # on eps the random mask leaves one step at 5e-5
    assert worst < 1e-4 and back < 1.5 * max(1e-5, worst)


def test_a_mask_that_grows_along_the_run_returns_the_picture():
    """Differential Diffusion: the host's node opens the mask pixel by pixel."""
    model, given = mixture()
    model = nodes_differential_diffusion.DifferentialDiffusion.execute(model).args[0]
    sigmas, mask = sigmas_of(model, 10), MASKS["ramp"]
    result = inversion.invert_latent(guider(model), {"samples": given, "noise_mask": mask}, sigmas)
    assert rmse(sample(model, result.noise, given, sigmas, EULER, mask), given) < 1e-4


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_replay_under_a_soft_mask_from_any_noise(eta):
    model, given = mixture()
    sigmas, mask = sigmas_of(model, 10), MASKS["ramp"]
    latent = {"samples": given, "noise_mask": mask}
    result = inversion.invert_latent(guider(model), latent, sigmas, eta=eta)
    other = core.Noise_RandomNoise(7)
    for part in (sigmas, sigmas[4:]):
        assert rmse(sample(model, other, given, part, result.replay, mask), given) < 5e-5


def test_a_mask_that_leaves_0_to_1_is_no_hard_one():
    """As bicubic resizing leaves it: what lies beyond 0 and 1 mixes the picture in too."""
    model, given = mixture()
    sigmas, mask = sigmas_of(model, 10), torch.linspace(-0.02, 1.03, 8).expand(1, 1, 8, 8).round(decimals=2)
    mask = mask.where((mask < 0) | (mask > 1), mask.round())
    result = inversion.invert_latent(guider(model), {"samples": given, "noise_mask": mask}, sigmas)
    back = rmse(sample(model, result.noise, given, sigmas, EULER, mask), given)
    assert back < 1e-4 or "differences under the soft mask" in verdict.report(result, 1e-5, 0.0, "exact")


def test_a_soft_mask_with_the_papers_method_is_reported():
    model, given = mixture()
    result = inversion.invert_latent(
        guider(model), {"samples": given, "noise_mask": MASKS["half"]}, sigmas_of(model, 10), method="ddim"
    )
    text = verdict.report(result, 1e-5, 0.0, "ddim")
    assert text.startswith("The picture may not come back: the noise under the soft mask is uncertain by")


@pytest.mark.parametrize(
    "kind, mask, said",
    [
        (ModelType.EPS, None, ""),
        (ModelType.EPS, MASKS["ramp"], "state: it does not carry the noise mask"),
        (ModelType.FLOW, None, "state: it is noise alone"),
    ],
)
def test_a_state_that_does_not_return_the_picture_is_told(kind, mask, said):
    model, given = mixture(kind)
    sigmas = sigmas_of(model, 10)
    result = inversion.invert_latent(guider(model), {"samples": given, "noise_mask": mask}, sigmas)
    text = verdict.report(result, 1e-5, 0.0, "exact")
    back = core.SamplerCustomAdvanced.execute(
        core.Noise_EmptyNoise(), guider(model), EULER, sigmas, result.state
    ).args[0]["samples"]
    assert said in text and ("state:" in text) == (rmse(back, given) > 1e-3) == bool(said)


def test_noise_is_not_taken_for_a_picture():
    model, given = mixture()
    sigmas = sigmas_of(model, 10)
    result = found(model, given, sigmas)
    with pytest.raises(ValueError, match="latent_image is the noise that an inversion found"):
        inversion.invert_latent(guider(model), result.latent, sigmas)
    with pytest.raises(ValueError, match="latent_image is the noise that an inversion found"):
        inversion.invert_latent(guider(model), latents.take(result.latent, [len(given) - 1] * 3), sigmas)
    again = result.latent | {"samples": given}  # as a sampler hands the other keys on
    assert inversion.invert_latent(guider(model), again, sigmas, measure_round_trip=True).round_trip < 1e-4


def test_a_state_belongs_to_its_sigma():
    model, given = mixture()
    sigmas = sigmas_of(model, 10)
    state = found(model, given, sigmas[4:]).state
    with pytest.raises(ValueError, match="holds the noise of sigma .* so the sigmas must end there"):
        inversion.invert_latent(guider(model), state, sigmas)
    with pytest.raises(ValueError, match="so the sigmas must end there"):
        inversion.invert_latent(guider(model), state, sigmas[:4])


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.name)
def test_two_experts(kind):
    """A mixture that is another one above a sigma: each half inverted with its own model, each sampled."""
    low, given = mixture(kind)
    high = analytic.model(kind, analytic.four_modes(seed=9), 0.5)
    sigmas = sigmas_of(low, 20)
    top, bottom = sigmas[:7], sigmas[6:]
    first = inversion.invert_latent(guider(low), {"samples": given}, bottom)
    second = inversion.invert_latent(guider(high), first.state, top)
    half = sample(high, second.noise, torch.zeros_like(given), top, EULER)
    assert rmse(half, first.state["samples"]) < 1e-4
    none = core.Noise_EmptyNoise()
    assert rmse(sample(low, none, half, bottom, EULER), given) < 1e-5
    wrong = sample(low, second.noise, torch.zeros_like(given), top, EULER)
    assert rmse(wrong, first.state["samples"]) > 1e-3


def test_the_state_is_what_a_sampler_hands_on():
    """The host's own first half, with its noise left in, is the state of the second half's inversion."""
    model, _ = mixture(ModelType.FLOW)
    sigmas = sigmas_of(model, 20)
    noise, empty = core.Noise_RandomNoise(5), torch.zeros(1, 4, 8, 8)
    half = sample(model, noise, empty, sigmas[:9], EULER)
    whole = sample(model, core.Noise_EmptyNoise(), half, sigmas[8:], EULER)
    assert rmse(found(model, whole, sigmas[8:]).state["samples"], half) < 1e-4


def gentle_guiders(model, *prompts):
    """Guidance as gentle as an exact inversion wants: at DualCFG 1.5 and 1.2, PerpNeg 1.2 and .5 a jump
    folds."""
    yield core.DualCFGGuider.execute(model, *prompts, 1.2, 1.1, "regular").args[0]
    yield nodes_perpneg.PerpNegGuider.execute(model, *prompts, 1.1, 0.2).args[0]
    if hasattr(core, "DualModelGuider"):  # newer hosts
        yield core.DualModelGuider.execute(model, prompts[0], 1.3, model.clone(), prompts[2]).args[0]


def test_other_guiders(shipped):
    model, clip, vae = shipped
    latent = {"samples": vae.encode(pictures.load(pictures.NAMES[0])).detach()}
    sigmas = schedule.stride_sigmas(model, 20, "linspace")[0]
    for made in gentle_guiders(model, *(encode(clip, text) for text in (pictures.NAMES[0], "red heart", ""))):
        assert inversion.invert_latent(made, latent, sigmas, measure_round_trip=True).round_trip < 1e-4


def test_guidance_with_a_momentum_is_noticed(shipped):
    model, clip, vae = shipped
    latent = {"samples": vae.encode(pictures.load(pictures.NAMES[0])).detach()}
    prompts = encode(clip, pictures.NAMES[0]), encode(clip, "")
    texts = []
    for momentum in (0.0, -0.5):
        patched = nodes_apg.APG.execute(model, 1.0, 0.0, momentum).args[0]
        made = guiders.cfg_guider(patched, *prompts, 1.5)
        result = inversion.invert_latent(
            made, latent, schedule.stride_sigmas(model, 5, "linspace")[0], max_iterations=8
        )
        texts.append(verdict.report(result, 1e-5, 0.0, "exact"))
    assert "asked twice" not in texts[0]
    assert texts[1].startswith("The picture may not come back: the model, asked twice, answers otherwise")


def test_noise_maps_with_a_momentum_are_not_called_exact(shipped):
    """The replay asks in the other order, and the picture comes back otherwise."""
    model, clip, vae = shipped
    latent = {"samples": vae.encode(pictures.load(pictures.NAMES[0])).detach()}
    patched = nodes_apg.APG.execute(model, 1.0, 0.0, -0.5).args[0]
    made = guiders.cfg_guider(patched, encode(clip, pictures.NAMES[0]), encode(clip, ""), 3.0)
    sigmas = schedule.stride_sigmas(model, 5, "linspace")[0]
    result = inversion.invert_latent(made, latent, sigmas, eta=1.0, measure_round_trip=True)
    assert result.round_trip > 0.01
    assert "comes back with visible differences" in verdict.report(result, 1e-5, 1.0, "exact")
    result.round_trip = None
    assert "should return the picture (not measured)" in verdict.report(result, 1e-5, 1.0, "exact")


@pytest.mark.parametrize("node", ["EasyCacheNode", "LazyCacheNode"])
def test_a_cache_is_refused_by_name(node):
    model, given = mixture()
    cached = getattr(nodes_easycache, node).execute(model, 0.2, 0.1, 0.9, False).args[0]
    with pytest.raises(ValueError, match=f"model: {node[:-4]} answers a call from those before it"):
        found(cached, given, sigmas_of(model, 5))


def test_keyframes_of_hooks_return_the_picture(shipped):
    """A weight hook at three strengths along the run, as Create Hook Keyframe makes them."""
    model, clip, vae = shipped
    latent = {"samples": vae.encode(pictures.load(pictures.NAMES[0])).detach()}
    weights = {key: value for key, value in model.model_state_dict().items() if key.endswith("out.2.weight")}
    (key, value), *_ = weights.items()
    hooks = comfy.hooks.create_hook_model_as_lora({key: value * 1.2}, None, 1.0, 0.0)
    keyframes = comfy.hooks.HookKeyframeGroup()
    for strength, percent in ((0.0, 0.0), (1.0, 0.3), (0.4, 0.6)):
        keyframes.add(comfy.hooks.HookKeyframe(strength, percent))
    hooks.set_keyframes_on_hooks(keyframes)
    positive = [[cond, options | {"hooks": hooks}] for cond, options in encode(clip, pictures.NAMES[0])]
    sigmas = schedule.stride_sigmas(model, 10, "linspace")[0]
    made = guiders.cfg_guider(model, positive, encode(clip, ""), 1.0)
    assert inversion.invert_latent(made, latent, sigmas, measure_round_trip=True).round_trip < 1e-4


@pytest.mark.parametrize(
    "latent, words",
    [
        (torch.zeros(1, 16, 8, 8) + 0.1, "16 channels; this model's latents have 4"),
        (torch.zeros(0, 4, 8, 8), "latent_image is empty"),
    ],
)
def test_latents_that_do_not_fit_are_named(latent, words):
    model, _ = mixture()
    with pytest.raises(ValueError, match=words):
        found(model, latent, sigmas_of(model, 5))


@pytest.mark.parametrize(
    "mask", [torch.full((1, 8, 8), math.nan), torch.zeros(0, 8, 8)], ids=["NaN", "empty"]
)
def test_a_mask_that_holds_nothing_is_named(mask):
    model, given = mixture()
    with pytest.raises(ValueError, match="latent_image: its noise_mask (is empty|holds NaN)"):
        masked = {"samples": given, "noise_mask": mask}
        inversion.invert_latent(guider(model), masked, sigmas_of(model, 5))
    replay = found(model, given, sigmas_of(model, 5)).replay
    with pytest.raises(ValueError, match="mask (is empty|holds values from nan)"):
        held_to_the_record(replay, 0.5, mask=mask)


def test_the_dial_of_a_replay():
    """0 is the replay, 1 the picture, between them the edit comes nearer to the picture; where a mask is
    white, and for the steps of its range alone."""
    model, given = mixture()
    other = analytic.model(means=analytic.four_modes(seed=9), deviation=0.5)
    sigmas = sigmas_of(model, 20)
    result = found(model, given, sigmas)

    def edited(**dial):
        return sample(other, result.noise, given, sigmas, held_to_the_record(result.replay, **dial))

    free = sample(other, result.noise, given, sigmas, result.replay)
    distances = [rmse(edited(strength=each), given) for each in (0.0, 0.1, 0.5, 1.0)]
    torch.testing.assert_close(edited(strength=0.0), free)
    assert distances == sorted(distances, reverse=True) and distances[-1] < 1e-6 < distances[-2]
    mask = torch.zeros(1, 8, 8)
    mask[..., :4] = 1
    half = edited(strength=1.0, mask=mask)
    assert rmse(half[..., :4], given[..., :4]) < 1e-6 and rmse(half[..., 4:], given[..., 4:]) > 0.1
    late = edited(strength=0.5, start=0.5)
    assert distances[2] <= rmse(late, given) < distances[0]
    torch.testing.assert_close(edited(strength=1.0, start=0.3, end=0.3), free)


def test_the_dial_takes_only_a_replay():
    with pytest.raises(ValueError, match="replay: it is no replay sampler"):
        held_to_the_record(sampler.ddim_sampler(), 0.5)
    model, given = mixture()
    replay = found(model, given, sigmas_of(model, 5)).replay
    with pytest.raises(ValueError, match="strength is nan"):
        held_to_the_record(replay, math.nan)
    with pytest.raises(ValueError, match="start is 0.8 and end 0.2"):
        held_to_the_record(replay, 0.5, 0.8, 0.2)
