"""DDIMInversion and DDIMDemoPicture as nodes, on the shipped model and on pictures that it was not trained
on."""

import comfy.samplers
import pytest
import torch
from comfy_extras import nodes_custom_sampler as core
from ddim_toolkit.bench import analytic
from ddim_toolkit.demo import pictures
from ddim_toolkit.demo.training import data
from ddim_toolkit.host import guiders, inversion, schedule
from ddim_toolkit.nodes.demo import DDIMDemoPicture
from ddim_toolkit.nodes.inversion import DDIMInversion
from ddim_toolkit.runner import gallery
from helpers import encode, rmse

BOUND = {10: 1e-4, 20: 1e-4, 50: 1e-5}


def advanced(model, positive, negative, cfg, noise, with_sampler, sigmas, latent):
    guider = core.CFGGuider.execute(model, positive, negative, cfg).args[0]
    return core.SamplerCustomAdvanced.execute(noise, guider, with_sampler, sigmas, latent).args[0]["samples"]


@pytest.fixture(scope="module")
def cook(shipped):
    """(latent, positive, negative) of one picture."""
    model, clip, vae = shipped
    image, caption = DDIMDemoPicture.execute(pictures.NAMES[0]).args
    return {"samples": vae.encode(image).detach()}, encode(clip, caption), encode(clip, "")


@pytest.mark.parametrize("steps", BOUND)
def test_round_trip_on_the_shipped_model(shipped, cook, steps):
    model, (latent, positive, negative) = shipped[0], cook
    sigmas, _ = schedule.stride_sigmas(model, steps, "linspace")
    noise, numbers, replay, report, *_ = DDIMInversion.execute(
        model,
        positive,
        negative,
        1.0,
        latent,
        sigmas,
        method="exact",
        eta=0.0,
        tolerance=1e-5,
        max_iterations=100,
        measure_round_trip=True,
    ).args
    process_in = model.model.process_latent_in
    measured = float(report.split("round trip: RMSE ")[1].split()[0])
    assert measured <= BOUND[steps], report
    empty = {"samples": torch.zeros_like(latent["samples"])}
    for name in ("euler", "ddim") if steps < 50 else ("euler",):
        back = advanced(
            model, positive, negative, 1.0, noise, comfy.samplers.sampler_object(name), sigmas, empty
        )
        assert rmse(process_in(back), process_in(latent["samples"])) <= BOUND[steps], (name, report)
    assert 0.5 < numbers["samples"].std() < 2


def test_ten_pictures_that_it_was_not_trained_on(shipped):
    """As one batch, each with its own caption."""
    model, clip, vae = shipped
    assert len(pictures.NAMES) == 10
    images = torch.cat([DDIMDemoPicture.execute(name).args[0] for name in pictures.NAMES])
    captions = [encode(clip, name)[0] for name in pictures.NAMES]
    positive = [[torch.cat([tensor for tensor, _ in captions]), captions[0][1]]]
    sigmas, _ = schedule.stride_sigmas(model, 10, "linspace")
    result = inversion.invert_latent(
        guiders.cfg_guider(model, positive, encode(clip, ""), 1.0),
        {"samples": vae.encode(images).detach()},
        sigmas,
        measure_round_trip=True,
    )
    assert result.round_trip < 1e-4


@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_noise_maps_on_the_shipped_model(shipped, cook, eta):
    model, (latent, positive, negative) = shipped[0], cook
    sigmas, _ = schedule.stride_sigmas(model, 10, "trailing")
    noise, _, replay, report, *_ = DDIMInversion.execute(
        model,
        positive,
        negative,
        3.0,
        latent,
        sigmas,
        method="exact",
        eta=eta,
        tolerance=1e-5,
        max_iterations=40,
    ).args
    back = advanced(model, positive, negative, 3.0, noise, replay, sigmas, latent)
    assert rmse(back, latent["samples"]) < 1e-5 and "10 model calls" in report
    other = advanced(model, encode(shipped[1], "purple heart"), negative, 3.0, noise, replay, sigmas, latent)
    assert rmse(other, latent["samples"]) > 0.05


def test_few_steps_at_high_guidance_stay_finite(shipped, cook):
    model, (latent, positive, negative) = shipped[0], cook
    sigmas, _ = schedule.stride_sigmas(model, 4, "trailing")
    noise, numbers, _, report, *_ = DDIMInversion.execute(
        model,
        positive,
        negative,
        8.0,
        latent,
        sigmas,
        method="exact",
        eta=0.0,
        tolerance=1e-5,
        max_iterations=6,
    ).args
    assert torch.isfinite(numbers["samples"]).all() and "not converged: step" in report


@pytest.mark.parametrize("name", pictures.NAMES)
def test_demo_pictures(name):
    assert data.is_held_out(pictures.FILES[name])
    image, caption = DDIMDemoPicture.execute(name).args
    assert caption == name and image.shape == (1, 128, 128, 3) and 0 <= image.min() < image.max() <= 1


def test_unknown_demo_picture():
    with pytest.raises(ValueError, match="picture"):
        DDIMDemoPicture.execute("nothing")


def test_bad_input_is_named_before_work():
    model = analytic.model()
    latent = {"samples": torch.zeros(1, 4, 8, 8)}
    with pytest.raises(ValueError, match="sigmas"):
        DDIMInversion.execute(
            model,
            analytic.CONDITIONING,
            analytic.CONDITIONING,
            1.0,
            latent,
            torch.tensor([]),
            method="exact",
            eta=0.0,
            tolerance=1e-5,
            max_iterations=40,
        )


def test_example_names_pictures_and_nodes_that_exist():
    workflow = gallery.read("Edit a picture")
    picked = [node["widgets_values"][0] for node in workflow["nodes"] if node["type"] == "DDIMDemoPicture"]
    assert picked and set(picked) <= set(pictures.NAMES)
    assert any(node["type"] == "DDIMInversion" for node in workflow["nodes"])
