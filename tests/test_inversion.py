"""Inversion on mixtures of Gaussians through the host's guider: round trips, the paper's order, noise
maps."""

import itertools
import pickle

import comfy.k_diffusion.sampling
import comfy.model_management
import comfy.nested_tensor
import comfy.sample
import comfy.samplers
import pytest
import torch
from comfy.model_base import ModelType
from ddim_toolkit.bench import analytic
from ddim_toolkit.ddim import anderson, invert
from ddim_toolkit.host import guiders, inversion, sampler, schedule, verdict
from diffusers import DDIMInverseScheduler, DDIMScheduler
from helpers import KINDS, rmse
from test_stride import SD

BOUND = {10: 1e-4, 20: 1e-4, 50: 1e-5}
C = analytic.CONDITIONING
SHAPE = (4, 8, 8)


def mixture(kind=ModelType.EPS, shape=SHAPE, deviation=0.5, batch=3):
    """(MODEL, pictures): draws from four modes, and the model that knows them."""
    means = analytic.four_modes(shape)
    generator = torch.Generator().manual_seed(1)
    pictures = means[[k % 4 for k in range(batch)]] + deviation * torch.randn(
        batch, *shape, generator=generator
    )
    return analytic.model(kind, means, deviation), pictures


def sigmas_of(model, steps, stride="trailing", denoise=1.0):
    return schedule.stride_sigmas(model, steps, stride, denoise)[0]


def sample(model, noise, latent, sigmas, with_sampler, mask=None, cfg=1.0, positive=C):
    """As SamplerCustomAdvanced does it."""
    latent = {"samples": latent} if torch.is_tensor(latent) else latent
    return comfy.sample.sample_custom(
        model,
        noise.generate_noise(latent),
        cfg,
        with_sampler,
        sigmas,
        positive,
        C,
        latent["samples"],
        noise_mask=mask,
        seed=noise.seed,
        disable_pbar=True,
    )


def guider(model):
    return guiders.cfg_guider(model, C, C, 1.0)


def found(model, pictures, sigmas, **options):
    return inversion.invert_latent(guider(model), {"samples": pictures}, sigmas, **options)


@pytest.mark.parametrize("steps", BOUND)
@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.name)
def test_round_trip(kind, steps):
    model, pictures = mixture(kind)
    sigmas = sigmas_of(model, steps)
    result = found(model, pictures, sigmas, measure_round_trip=True)
    assert result.run.calls <= {10: 40, 20: 65, 50: 130}[steps]
    assert result.round_trip <= BOUND[steps]
    for name, with_sampler in {
        "ours": sampler.ddim_sampler(),
        **{n: comfy.samplers.sampler_object(n) for n in ("ddim", "euler")},
    }.items():
        for latent in (torch.zeros_like(pictures), pictures):
            assert (
                rmse(sample(model, result.noise, latent, sigmas, with_sampler), pictures) <= BOUND[steps]
            ), name


@pytest.mark.parametrize("kind", [ModelType.EPS, ModelType.FLOW], ids=lambda k: k.name)
def test_beside_the_hosts_recipe(kind):
    """Flipped sigmas and `euler`, at the same number of model calls: an error of order 1/S, and NaN on flow
    models."""
    model, pictures = mixture(kind)
    sigmas = sigmas_of(model, 20)
    result = found(model, pictures, sigmas)
    theirs = sigmas_of(model, result.run.calls)
    flipped = theirs.flip(0)
    flipped[0] = 1e-4  # as the host's FlipSigmas
    euler = comfy.samplers.sampler_object("euler")
    zero = torch.zeros_like(pictures)
    noisy = comfy.sample.sample_custom(model, zero, 1.0, euler, flipped, C, C, pictures, disable_pbar=True)
    back = comfy.sample.sample_custom(model, zero, 1.0, euler, theirs, C, C, noisy, disable_pbar=True)
    ours = rmse(sample(model, result.noise, zero, sigmas, euler), pictures)
    if kind == ModelType.FLOW:
        assert not torch.isfinite(back).all()
    else:
        assert ours < 1e-5 < 1e-2 < rmse(back, pictures)


def test_beside_diffusers():
    """DDIMInverseScheduler at the same number of model calls as `exact` for 20 steps."""
    model, pictures = mixture()
    result = found(model, pictures, sigmas_of(model, 20))
    forward = DDIMScheduler(**SD, timestep_spacing="trailing", set_alpha_to_one=False)
    backward = DDIMInverseScheduler(**SD, timestep_spacing="trailing", set_alpha_to_one=False)
    x = pictures
    for scheduler in (backward, forward):
        scheduler.set_timesteps(result.run.calls)
        for t in scheduler.timesteps:
            bar = float(forward.alphas_cumprod[t])
            sigma = ((1 - bar) / bar) ** 0.5
            x0 = model.model.apply_model(x / bar**0.5, torch.full((len(x),), sigma))
            x = scheduler.step((x - bar**0.5 * x0) / (1 - bar) ** 0.5, t, x).prev_sample
    assert (
        rmse(
            sample(
                model, result.noise, torch.zeros_like(pictures), sigmas_of(model, 20), sampler.ddim_sampler()
            ),
            pictures,
        )
        < 1e-5
        < 1e-2
        < rmse(x, pictures)
    )


@pytest.mark.parametrize("kind", [ModelType.EPS, ModelType.FLOW], ids=lambda k: k.name)
def test_ddim_is_of_first_order(kind):
    model, pictures = mixture(kind)
    errors = []
    for steps in (100, 200, 400):
        sigmas = sigmas_of(model, steps, "linspace")
        result = found(model, pictures, sigmas, method="ddim")
        assert result.run.calls == steps
        errors.append(
            rmse(
                sample(model, result.noise, torch.zeros_like(pictures), sigmas, sampler.ddim_sampler()),
                pictures,
            )
        )
    assert all(0.4 < fine / coarse < 0.6 for coarse, fine in itertools.pairwise(errors)), errors


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.name)
def test_partial_inversion(kind):
    model, pictures = mixture(kind)
    for sigmas in (sigmas_of(model, 20)[6:], sigmas_of(model, 8, denoise=0.5)):
        result = found(model, pictures, sigmas)
        assert not result.top
        for name in ("ddim", "euler"):
            for latent in (pictures, torch.zeros_like(pictures)):
                assert (
                    rmse(
                        sample(model, result.noise, latent, sigmas, comfy.samplers.sampler_object(name)),
                        pictures,
                    )
                    < 1e-4
                )
        given = result.latent["samples"]  # as noise on the picture's own latent
        back = comfy.sample.sample_custom(
            model,
            given,
            1.0,
            comfy.samplers.sampler_object("euler"),
            sigmas,
            C,
            C,
            pictures,
            disable_pbar=True,
        )
        assert rmse(back, pictures) < 1e-4


@pytest.mark.parametrize("kind", [ModelType.EPS, ModelType.FLOW], ids=lambda k: k.name)
def test_sigmas_that_stop_above_zero(kind):
    model, pictures = mixture(kind)
    sigmas = sigmas_of(model, 20)[:15]
    result = found(model, pictures, sigmas)
    assert (
        rmse(sample(model, result.noise, pictures, sigmas, comfy.samplers.sampler_object("euler")), pictures)
        < 1e-4
    )


@pytest.mark.parametrize("kind", [ModelType.EPS, ModelType.FLOW], ids=lambda k: k.name)
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_noise_mask(kind, eta):
    model, pictures = mixture(kind)
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., 2:6, 2:6] = 1
    sigmas = sigmas_of(model, 20)
    result = inversion.invert_latent(
        guider(model), {"samples": pictures, "noise_mask": mask}, sigmas, eta=eta, measure_round_trip=True
    )
    assert result.round_trip < 1e-5
    with_sampler = result.replay if eta else comfy.samplers.sampler_object("euler")
    assert rmse(sample(model, result.noise, pictures, sigmas, with_sampler, mask), pictures) < 1e-5
    other = analytic.model(kind, analytic.four_modes(seed=9), 0.5)
    edited = sample(other, result.noise, pictures, sigmas, with_sampler, mask)
    change = (edited - pictures).abs() * torch.ones_like(pictures)
    assert change[(mask == 0).expand_as(change)].max() < 1e-5 < change[(mask == 1).expand_as(change)].max()


def test_video_and_nested_latents():
    video, pictures = mixture(ModelType.FLOW, (4, 3, 8, 8))
    sigmas = sigmas_of(video, 10)
    assert found(video, pictures, sigmas, measure_round_trip=True).round_trip < 1e-5

    packed, flat = mixture(ModelType.FLOW, (1, 4 * 8 * 8 + 10))
    nested = comfy.nested_tensor.NestedTensor(
        [flat[..., :256].reshape(-1, 4, 8, 8), flat[..., 256:].reshape(-1, 2, 5)]
    )
    for part in (sigmas, sigmas[3:]):
        result = inversion.invert_latent(guider(packed), {"samples": nested}, part, measure_round_trip=True)
        assert result.round_trip < 1e-5 and result.latent["samples"].is_nested


def test_each_picture_of_a_batch_is_solved_on_its_own():
    model, pictures = mixture()
    sigmas = sigmas_of(model, 10)
    together = found(model, pictures, sigmas)
    for k in range(3):
        alone = found(model, pictures[k : k + 1], sigmas)
        torch.testing.assert_close(
            alone.latent["samples"][0], together.latent["samples"][k], rtol=0, atol=1e-6
        )
    assert (
        rmse(
            sample(
                model,
                together.noise,
                {"samples": pictures[1:2], "batch_index": [1]},
                sigmas,
                sampler.ddim_sampler(),
            ),
            pictures[1:2],
        )
        < 1e-5
    )


@pytest.mark.parametrize("dtype, bound", [(torch.float16, 1e-3), (torch.bfloat16, 5e-2)])
def test_half_precision_model_stays_near(dtype, bound):
    """A model that rounds has no exact root: the solver stops where it gets no further."""
    model, pictures = mixture()
    network = model.model.diffusion_model
    forward = network.forward
    network.forward = lambda x, *args, **kwargs: (
        forward(x.to(dtype).float(), *args, **kwargs).to(dtype).float()
    )
    result = found(model, pictures.to(dtype), sigmas_of(model, 20), measure_round_trip=True)
    assert result.latent["samples"].dtype == torch.float32
    assert result.run.calls < 20 * 15 and result.round_trip < bound


def test_a_model_that_rounds_has_no_folds():
    """The host hands it bfloat16 and takes bfloat16 back: at cfg 1 steps stall, and guidance is not to
    blame. The verdict goes by the round trip where it is known."""
    model, pictures = mixture(ModelType.FLOW)
    network = model.model.diffusion_model
    network.dtype, forward = torch.bfloat16, network.forward
    network.forward = lambda x, *args, **kwargs: forward(x.float(), *args, **kwargs).bfloat16()
    result = found(model, pictures, sigmas_of(model, 20, "linspace"), measure_round_trip=True)
    assert any(result.run.stalled) and result.round_trip < 1e-4
    text = verdict.report(result, 1e-5, 0.0, "exact")
    assert text.startswith("The picture comes back exactly.") and "not converged: step" in text
    result.round_trip = None
    unknown = verdict.report(result, 1e-5, 0.0, "exact")
    assert "small differences" in unknown and "the model computes in bfloat16" in unknown
    assert "fold" not in text + unknown and "invert with cfg 1" not in text + unknown


def test_report_names_the_step_that_did_not_converge():
    model, pictures = mixture()
    result = found(model, pictures, sigmas_of(model, 5), max_iterations=2, measure_round_trip=True)
    text = verdict.report(result, 1e-5, 0.0, "exact")
    assert text.startswith("The picture comes back with visible differences")
    assert "not converged: step 5" in text and "round trip: RMSE" in text
    assert "5 steps, 11 model calls" in text  # two a step, and the one that asks the model again
    assert torch.isfinite(result.latent["samples"]).all()


def test_the_noise_of_draws_from_the_model_is_gaussian():
    model, pictures = mixture(shape=(4, 32, 32), deviation=0.5)
    result = found(model, pictures, sigmas_of(model, 100, "linspace"))
    deviation, correlation = invert.gaussianity(result.latent["samples"])
    assert abs(deviation - 1) < 0.05 and abs(correlation) < 0.02


def test_gaussianity_of_known_noise():
    noise = torch.randn(1, 4, 200, 200, generator=torch.Generator().manual_seed(0))
    smooth = (noise[..., 1:] + noise[..., :-1]) / 2**0.5  # neighbours in x share half their variance
    assert invert.gaussianity(noise * 2) == pytest.approx((2, 0), abs=0.02)
    assert invert.gaussianity(smooth)[1] == pytest.approx(0.25, abs=0.02)


def test_anderson_solves_a_linear_system_in_few_steps():
    """Three eigenvalues, two of them beyond the plain iteration's reach: a window of three steps solves
    it."""
    slopes = torch.tensor([0.02, 1.0, 2.5]).repeat(2, 5)
    right = torch.randn(2, 15, generator=torch.Generator().manual_seed(0))
    root = anderson.solve(
        lambda x: (right - slopes * x, invert.root_mean_square(right - slopes * x), x),
        torch.zeros(2, 15),
        1e-5,
        20,
    )
    assert root.calls < 10 and max(root.error) <= 1e-5
    torch.testing.assert_close(root.x, right / slopes, rtol=1e-3, atol=1e-3)


def test_a_model_that_turns_to_nan_is_named():
    calls = []

    def broken(x, i):
        calls.append(i)
        return x * float("nan") if len(calls) > 5 else x * 0.5

    with pytest.raises(FloatingPointError, match="step"):
        invert.exact(broken, torch.ones(1, 4, 8, 8), [1.0] * 6, [5.0, 4.0, 3.0, 2.0, 1.0, 0.0])


def test_noise_is_a_value_that_pickles():
    model, pictures = mixture(ModelType.FLOW)
    result = found(model, pictures, sigmas_of(model, 10)[2:])
    again = pickle.loads(pickle.dumps(result.noise))
    assert torch.equal(
        again.generate_noise({"samples": pictures}), result.noise.generate_noise({"samples": pictures})
    )


@pytest.mark.parametrize(
    "options, message",
    [
        ({"method": "magic"}, "method"),
        ({"eta": 1.5}, "eta"),
        ({"tolerance": 0.0}, "tolerance"),
        ({"max_iterations": 0}, "max_iterations"),
        ({"sigmas": torch.tensor([0.0, 1.0])}, "sigmas"),
        ({"pictures": torch.full((1, *SHAPE), float("nan"))}, "latent_image"),
    ],
)
def test_bad_input_is_named(options, message):
    model, pictures = mixture()
    arguments = {"pictures": pictures, "sigmas": sigmas_of(model, 5), **options}
    with pytest.raises(ValueError, match=message):
        found(model, **arguments)
