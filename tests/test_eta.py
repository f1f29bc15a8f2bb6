"""Where eta works: TCD's trajectory against diffusers, parts of the run, places of the picture."""

import pickle
from math import sqrt

import comfy.sample
import pytest
import torch
from comfy.model_base import ModelType
from ddim_toolkit.bench import analytic
from ddim_toolkit.ddim import solve
from ddim_toolkit.host import sampler, schedule
from ddim_toolkit.host.model import alphas, model_sampling
from ddim_toolkit.host.sampler import Options
from ddim_toolkit.nodes.sampling import DDIMSampler
from diffusers import TCDScheduler
from helpers import KINDS

C = analytic.CONDITIONING


def run(model, sigmas, latent=None, seed=3, **options):
    latent = torch.zeros(2, 4, 8, 8) if latent is None else latent
    return comfy.sample.sample_custom(
        model,
        comfy.sample.prepare_noise(latent, seed),
        1.0,
        sampler.ddim_sampler(**options),
        sigmas,
        C,
        C,
        latent,
        seed=seed,
        disable_pbar=True,
    )


def output(x, t):
    """A network of x and t with nothing of a closed form."""
    return torch.tanh(0.9 * x + 0.3 * x.roll(1, -1) + t / 700)


@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(
    "prediction, kind", [("epsilon", ModelType.EPS), ("v_prediction", ModelType.V_PREDICTION)]
)
def test_trajectory_is_diffusers_tcd(gamma, prediction, kind):
    """State by state, up to the last level: diffusers' own last step ends at row 0, not at x0."""
    scheduler = TCDScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type=prediction,
        clip_sample=False,
        set_alpha_to_one=False,
    )
    scheduler.set_timesteps(4)
    rows = scheduler.timesteps.tolist()
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    x, states = noise, []
    for t in rows[:-1]:
        x = scheduler.step(output(x, t), t, x, eta=gamma, generator=generator).prev_sample
        states.append(x)

    sampling = model_sampling(analytic.model(kind))
    bars = [float(bar) for bar in scheduler.alphas_cumprod[rows]]
    drawn = torch.Generator().manual_seed(1)

    def x0(x, i):
        alpha, sigma = sqrt(bars[i]), sqrt(1 - bars[i])
        out = output(x, rows[i])
        return (x - sigma * out) / alpha if prediction == "epsilon" else alpha * x - sigma * out

    ours = []
    last = solve.sample(
        x0,
        noise,
        [sqrt(bar) for bar in bars],
        [sqrt(1 - bar) for bar in bars],
        eta=sampler.etas(
            Options(eta=gamma, variance="trajectory"), sampling, [sqrt(1 / bar - 1) for bar in bars]
        ),
        variance="full renoise",
        noise=lambda i: torch.randn(noise.shape, generator=drawn),
        callback=lambda i, x, x0: ours.append(x),
    )
    for mine, theirs in zip([*ours[1:], last], states, strict=True):
        assert (mine - theirs).abs().max() < 1e-5


@pytest.mark.parametrize("variance", sampler.VARIANCES)
@pytest.mark.parametrize("kind", KINDS)
def test_eta_0_of_every_variance_is_ddim(kind, variance):
    model = analytic.model(kind, analytic.four_modes(), 0.5)
    sigmas, _ = schedule.stride_sigmas(model, 6, "trailing")
    assert torch.equal(run(model, sigmas, variance=variance), run(model, sigmas))


@pytest.mark.parametrize("gamma", [0.3, 1.0])
@pytest.mark.parametrize("kind", KINDS)
def test_trajectory_goes_down_and_up_again(kind, gamma):
    """A jump to d by DDIM, then the forward process from d to s, of x_t = alpha_t x_0 + sigma_t eps: what is
    left of eps, and the mean and variance of x_s, which are those of the marginal."""
    sampling = model_sampling(analytic.model(kind))
    sigmas, rows = schedule.stride_sigmas(analytic.model(kind), 8, "trailing")
    levels = sigmas.double().tolist()
    below = sampling.sigmas.double()[[int((1 - gamma) * row + 1e-6) for row in rows[1:]]].tolist()
    alpha, alpha_below = alphas(sampling, levels), alphas(sampling, below)
    etas = sampler.etas(Options(eta=gamma, variance="trajectory"), sampling, levels)
    for k, (a, b, c) in enumerate(solve.jumps(alpha, levels, etas, "full renoise")[:-1]):
        up = alpha[k + 1] / alpha_below[k]
        assert a * levels[k] == pytest.approx(up * below[k], rel=1e-5)
        assert a * alpha[k] + b == pytest.approx(up * alpha_below[k], rel=1e-9)
        assert (a * levels[k]) ** 2 + c**2 == pytest.approx(levels[k + 1] ** 2, rel=1e-9)


def test_full_renoise_at_eta_1_keeps_no_noise_and_trajectory_at_1_next_to_none():
    model = analytic.model(ModelType.EPS, analytic.four_modes(), 0.5)
    sigmas, _ = schedule.stride_sigmas(model, 6, "trailing")
    ours, lcm = (run(model, sigmas, eta=1.0, variance=name) for name in ("trajectory", "full renoise"))
    assert (ours - lcm).abs().max() < 0.05 and not torch.equal(ours, lcm)


@pytest.mark.parametrize("variance", sampler.VARIANCES)
def test_eta_in_a_part_of_the_run(variance):
    """Noise in the first half only: the second half is DDIM from where the first one came."""
    model = analytic.model(ModelType.EPS, analytic.four_modes(), 0.5)
    sigmas, _ = schedule.stride_sigmas(model, 10, "trailing")
    middle = model_sampling(model).percent_to_sigma(0.5)
    first = int((sigmas >= middle).sum())
    options = dict(eta=0.7, variance=variance)
    whole = run(model, sigmas, **options, eta_end=0.5)
    noisy = run(model, sigmas[: first + 1], **options)
    empty = torch.zeros_like(noisy)
    assert torch.equal(
        whole,
        comfy.sample.sample_custom(
            model, empty, 1.0, sampler.ddim_sampler(), sigmas[first:], C, C, noisy, seed=3, disable_pbar=True
        ),
    )
    assert not torch.equal(whole, run(model, sigmas, **options))


@pytest.mark.parametrize("kind", KINDS)
def test_parts_of_the_run_meet_without_overlap(kind):
    """A part of no length adds no noise, not even where a level lies on it (flow models begin at theirs)."""
    model = analytic.model(kind)
    sampling = model_sampling(model)
    levels = [float(sampling.percent_to_sigma(part)) for part in (0.25, 0.5, 0.75)] + [0.0]
    levels = [float(sampling.sigma_max), *levels]

    def of(start, end):
        return sampler.etas(Options(eta=0.7, eta_start=start, eta_end=end), sampling, levels)

    for part in (0.0, 0.25, 0.5, 1.0):
        assert of(part, part) == [0.0] * 4
    assert of(0.0, 0.5) == [0.7, 0.7, 0.0, 0.0] and of(0.5, 1.0) == [0.0, 0.0, 0.7, 0.7]


@pytest.mark.parametrize("variance", sampler.VARIANCES)
@pytest.mark.parametrize("kind", KINDS)
def test_mask_puts_eta_in_places(kind, variance):
    """The denoiser of one Gaussian treats each place alone: outside the mask DDIM, inside the whole eta."""
    model = analytic.model(kind)
    sigmas, _ = schedule.stride_sigmas(model, 6, "trailing")
    mask = torch.zeros(1, 64, 64)
    mask[..., 32:] = 1.0
    options = dict(eta=0.8, variance=variance)
    ours = run(model, sigmas, **options, mask=mask)
    everywhere, nowhere = run(model, sigmas, **options), run(model, sigmas)
    assert (ours[..., 5:] - everywhere[..., 5:]).abs().max() < 1e-5
    assert (ours[..., :3] - nowhere[..., :3]).abs().max() < 1e-5
    half = run(model, sigmas, **options, mask=torch.full((1, 64, 64), 0.5))
    if variance != "trajectory":  # whose gamma is not in proportion to the noise
        assert (half - run(model, sigmas, eta=0.4, variance=variance)).abs().max() < 1e-5


def test_a_split_run_draws_what_the_whole_run_draws():
    model = analytic.model(ModelType.FLOW, analytic.four_modes(), 0.5)
    sigmas, _ = schedule.stride_sigmas(model, 8, "trailing")
    options = dict(
        eta=0.9,
        variance="trajectory",
        eta_start=0.2,
        eta_end=0.8,
        mask=torch.linspace(0, 1, 64).repeat(1, 64, 1),
    )
    first = run(model, sigmas[:5], **options)
    whole = run(model, sigmas, **options)
    second = comfy.sample.sample_custom(
        model,
        torch.zeros_like(first),
        1.0,
        sampler.ddim_sampler(**options),
        sigmas[4:],
        C,
        C,
        first,
        seed=3,
        disable_pbar=True,
    )
    assert (whole - second).abs().max() < 1e-5


def test_the_node_hands_its_dials_on():
    mask = torch.zeros(1, 8, 8)
    made = DDIMSampler.execute(
        0.3, "trajectory", 1, "none", "cpu", 0, 4.0, None, eta_start=0.1, eta_end=0.6, mask=mask
    ).args[0]
    given = pickle.loads(pickle.dumps(made)).extra_options
    assert (given["variance"], given["eta_start"], given["eta_end"]) == ("trajectory", 0.1, 0.6)
    assert torch.equal(given["mask"], mask)


@pytest.mark.parametrize(
    "bad, words",
    [
        (dict(eta_start=-0.1), "eta_start is -0.1"),
        (dict(eta_start=0.6, eta_end=0.5), "eta_end is 0.5; allowed are 0.6 to 1"),
        (dict(mask=torch.full((1, 8, 8), 2.0)), "mask holds values from 2 to 2"),
        (dict(mask=torch.full((1, 8, 8), torch.nan)), "mask holds values from nan"),
        (dict(mask=torch.ones(8)), r"mask is empty, or no MASK: its shape is \(8,\)"),
        (dict(mask=torch.ones(1, 8, 8).int()), "mask holds numbers of type torch.int32"),
        (dict(variance="tcd"), "variance is 'tcd'"),
    ],
)
def test_bad_dials_are_named(bad, words):
    with pytest.raises(ValueError, match=words):
        sampler.ddim_sampler(**bad)
