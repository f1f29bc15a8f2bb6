"""Sampling through the host's guider, against diffusers, the host's own samplers, and closed forms."""

import pickle
from types import SimpleNamespace

import comfy.k_diffusion.sampling
import comfy.model_management
import comfy.nested_tensor
import comfy.sample
import comfy.samplers
import pytest
import torch
from comfy.model_base import ModelType
from ddim_toolkit.bench import analytic
from ddim_toolkit.host import film_strip, guiders, sampler, schedule
from ddim_toolkit.host.noise import batch_noise
from diffusers import DDIMScheduler
from helpers import KINDS
from test_stride import SD
from torch.utils._python_dispatch import TorchDispatchMode

C = analytic.CONDITIONING


def run(model, ddim, sigmas, latent=None, seed=3, noise=None, **kwargs):
    latent = torch.zeros(2, 4, 8, 8) if latent is None else latent
    noise = comfy.sample.prepare_noise(latent, seed) if noise is None else noise
    return comfy.sample.sample_custom(
        model, noise, 1.0, ddim, sigmas, C, C, latent, seed=seed, disable_pbar=True, **kwargs
    )


class Network(torch.nn.Module):
    """A small random network of x and t, with nothing of a closed form; mostly x, so that the state stays of
    unit size."""

    dtype = torch.float32

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.a = torch.nn.Parameter(torch.randn(16, 4, 3, 3, generator=generator) * 0.2, requires_grad=False)
        self.b = torch.nn.Parameter(torch.randn(4, 16, 3, 3, generator=generator) * 0.2, requires_grad=False)

    def forward(self, x, t, **kwargs):
        h = torch.nn.functional.conv2d(x, self.a, padding=1) + torch.sin(t / 150).view(-1, 1, 1, 1)
        return 0.95 * x + 0.3 * torch.nn.functional.conv2d(torch.tanh(h), self.b, padding=1)


@pytest.fixture
def network():
    model = analytic.model(ModelType.EPS)
    model.model.diffusion_model = Network()
    return model


@pytest.mark.parametrize("stride", ["trailing", "leading", "linspace"])
@pytest.mark.parametrize("S", [5, 10, 17, 20, 50])
def test_diffusers_ddim(network, stride, S):
    scheduler = DDIMScheduler(**SD, timestep_spacing=stride)
    scheduler.set_timesteps(S)
    sigmas, visited = schedule.stride_sigmas(network, S, stride)
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    ours = run(network, sampler.ddim_sampler(), sigmas, noise=noise.clone())

    # The host starts from full noise at its own sigma_max, else from the marginal of an empty picture.
    bar = scheduler.alphas_cumprod[visited[0]]
    x = noise if visited[0] == 999 else noise * (1 - bar).sqrt()
    for t, s in zip(visited, [*visited[1:], -1], strict=True):
        # step() walks back by T // S whatever the spacing: name the gap that this schedule has.
        scheduler.num_inference_steps = 1
        scheduler.register_to_config(num_train_timesteps=t - s)
        if s < 0:
            scheduler.register_to_config(num_train_timesteps=t + 1)
        eps = network.model.diffusion_model(x, torch.full((2,), float(t)))
        x = scheduler.step(eps, t, x).prev_sample
    assert (ours - x).abs().max() < 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_eta_0_is_euler(kind):
    model = analytic.model(kind, analytic.four_modes(), 0.3)
    sigmas, _ = schedule.stride_sigmas(model, 20, "trailing")
    ours = run(model, sampler.ddim_sampler(), sigmas)
    assert (ours - run(model, comfy.samplers.sampler_object("euler"), sigmas)).abs().max() < 1e-5
    assert (ours - run(model, comfy.samplers.sampler_object("ddim"), sigmas)).abs().max() < 1e-5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("order", [2, 3, 4])
def test_plms_is_ipndm(kind, order):
    model = analytic.model(kind, analytic.four_modes(), 0.3)
    sigmas, _ = schedule.stride_sigmas(model, 12, "trailing")
    host = comfy.samplers.ksampler("ipndm", {"max_order": order})
    assert (
        run(model, sampler.ddim_sampler(order=order), sigmas) - run(model, host, sigmas)
    ).abs().max() < 2e-5


def test_plms_comes_closer_than_ddim():
    model = analytic.model(ModelType.EPS, analytic.four_modes(), 0.5)
    exact = run(model, sampler.ddim_sampler(), schedule.stride_sigmas(model, 1000, "trailing")[0])
    sigmas, _ = schedule.stride_sigmas(model, 50, "trailing")
    error = [
        (run(model, sampler.ddim_sampler(order=order), sigmas) - exact).square().mean() for order in (1, 2, 4)
    ]
    assert error[1] < 0.5 * error[0] and error[2] < 0.5 * error[0]


@pytest.mark.parametrize("kind", [ModelType.EPS, ModelType.V_PREDICTION, ModelType.EDM])
@pytest.mark.parametrize("eta", [0.4, 1.0])
def test_eta_is_the_hosts_ancestral_euler_given_its_noise(kind, eta):
    model = analytic.model(kind, analytic.four_modes(), 0.3)
    sigmas, _ = schedule.stride_sigmas(model, 10, "trailing")

    def same_noise(sigma, sigma_next):
        return batch_noise(3, [0, 1], (4, 8, 8), stream=sampler.stream(float(sigma), 0))

    host = comfy.samplers.ksampler("euler_ancestral", {"eta": eta, "noise_sampler": same_noise})
    ours = run(model, sampler.ddim_sampler(eta=eta), sigmas)
    assert (ours - run(model, host, sigmas)).abs().max() < 1e-4


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_a_gaussian_comes_back(kind, eta):
    """Mean .3, deviation .5 on 4 x 64 x 64 draws. 100 steps fall short of the deviation by what the step size
    leaves (up to 6 % at eta 1, as DDPM's posterior does for data that is not a point); 300 steps by half of
    that.
    """
    model = analytic.model(kind, shape=(4, 64, 64))
    for S, tolerance in ((100, 0.07), (300, 0.035)):
        sigmas, _ = schedule.stride_sigmas(model, S, "trailing")
        x = run(model, sampler.ddim_sampler(eta=eta), sigmas, latent=torch.zeros(1, 4, 64, 64))
        assert abs(x.mean() - 0.3) < 0.02 and abs(x.std() / 0.5 - 1) < tolerance


@pytest.mark.parametrize("kind", KINDS)
def test_large_variance_lands_on_the_data(kind):
    """The large variance of the paper's CIFAR runs, which errs to the other side of the deviation than the
    posterior."""
    model = analytic.model(kind, shape=(4, 64, 64))
    sigmas, _ = schedule.stride_sigmas(model, 100, "trailing")
    x = run(model, sampler.ddim_sampler(eta=1, variance="large"), sigmas, latent=torch.zeros(1, 4, 64, 64))
    assert abs(x.mean() - 0.3) < 0.03 and abs(x.std() / 0.5 - 1) < 0.1


def test_full_renoise_is_the_hosts_lcm():
    model = analytic.model(ModelType.EPS, analytic.four_modes(), 0.3)
    sigmas, _ = schedule.stride_sigmas(model, 6, "trailing")

    def same_noise(sigma, sigma_next):
        return batch_noise(3, [0, 1], (4, 8, 8), stream=sampler.stream(float(sigma), 0))

    host = comfy.samplers.ksampler("lcm", {"noise_sampler": same_noise})
    ours = run(model, sampler.ddim_sampler(eta=1, variance="full renoise"), sigmas)
    assert (ours - run(model, host, sigmas)).abs().max() < 1e-5


@pytest.mark.parametrize("shape", [(1, 4, 8, 8), (2, 4, 3, 8, 8)])
def test_dimensions_and_batches(shape):
    model = analytic.model(ModelType.FLOW, torch.full((1, *shape[1:]), 0.3))
    sigmas, _ = schedule.stride_sigmas(model, 5, "trailing")
    x = run(model, sampler.ddim_sampler(eta=0.5), sigmas, latent=torch.zeros(shape))
    assert x.shape == shape and x.isfinite().all()


@pytest.mark.parametrize("order", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_state_is_float32_whatever_a_post_cfg_function_returns(dtype, order):
    """As in the host's euler, which DDIM is at order 1."""
    model = analytic.model(ModelType.EPS, analytic.four_modes(), 0.3)
    model.set_model_sampler_post_cfg_function(lambda args: args["denoised"].to(dtype))
    sigmas, _ = schedule.stride_sigmas(model, 8, "trailing")
    states = []
    ours = run(
        model, sampler.ddim_sampler(order=order), sigmas, callback=lambda i, x0, x, n: states.append(x.dtype)
    )
    assert set(states) == {torch.float32} and ours.isfinite().all()
    if order == 1:
        host = run(model, comfy.samplers.sampler_object("euler"), sigmas)
        assert (ours - host).abs().max() < 1e-4


def test_nested_latents():
    model = analytic.model(ModelType.FLOW, torch.full((1, 1, 4 * 8 * 8 + 2 * 5), 0.3))
    latent = {"samples": comfy.nested_tensor.NestedTensor([torch.zeros(2, 4, 8, 8), torch.zeros(2, 2, 5)])}
    sigmas, _ = schedule.stride_sigmas(model, 5, "trailing")
    out, denoised = sampler.run(model, 3, 1.0, C, C, latent, sampler.ddim_sampler(eta=1), sigmas)
    for latent in (out, denoised):
        assert [tuple(t.shape) for t in latent["samples"].unbind()] == [(2, 4, 8, 8), (2, 2, 5)]


@pytest.mark.parametrize("indices", [[5], torch.tensor([5])], ids=["list", "tensor"])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_picture_k_depends_on_seed_and_index_alone(eta, indices):
    model = analytic.model(ModelType.EPS, analytic.four_modes(), 0.3)
    sigmas, _ = schedule.stride_sigmas(model, 8, "trailing")
    batch = {"samples": torch.zeros(8, 4, 8, 8)}
    alone = {"samples": torch.zeros(1, 4, 8, 8), "batch_index": indices}
    pictures = [
        sampler.run(
            model,
            9,
            1.0,
            C,
            C,
            latent,
            sampler.ddim_sampler(eta=eta, batch_index=latent.get("batch_index")),
            sigmas,
        )[0]["samples"]
        for latent in (batch, alone)
    ]
    assert (pictures[0][5] - pictures[1][0]).abs().max() < 1e-5
    assert (pictures[0][4] - pictures[1][0]).abs().max() > 0.1


@pytest.mark.parametrize("indices", [5, [0.5], [-1], "01"])
def test_a_batch_index_that_names_no_pictures_is_refused(indices):
    with pytest.raises(ValueError, match="batch_index is .*whole numbers from 0 up"):
        sampler.ddim_sampler(batch_index=indices)


def test_a_split_run_is_the_whole_run():
    model = analytic.model(ModelType.EPS, analytic.four_modes(), 0.3)
    sigmas, _ = schedule.stride_sigmas(model, 12, "trailing")
    ddim = sampler.ddim_sampler(eta=1.0)
    half = run(model, ddim, sigmas[:7])
    rest = run(model, ddim, sigmas[6:], latent=half, noise=torch.zeros_like(half))
    assert (rest - run(model, ddim, sigmas)).abs().max() < 1e-5


def test_noise_seed_draws_other_noise_from_the_same_start():
    model = analytic.model(ModelType.EPS, analytic.four_modes(), 0.3)
    sigmas, _ = schedule.stride_sigmas(model, 8, "trailing")
    first, again, other = (run(model, sampler.ddim_sampler(eta=1.0, noise_seed=n), sigmas) for n in (0, 0, 1))
    assert torch.equal(first, again) and not torch.allclose(first, other, atol=0.01)


def test_the_sampler_pickles():
    model = analytic.model(ModelType.EPS)
    sigmas, _ = schedule.stride_sigmas(model, 4, "trailing")
    ddim = sampler.ddim_sampler(eta=0.7, order=2, clip="dynamic")
    assert torch.equal(run(model, pickle.loads(pickle.dumps(ddim)), sigmas), run(model, ddim, sigmas))


@pytest.mark.parametrize("clip", ["clamp", "dynamic"])
def test_clip_bounds_the_picture(clip):
    model = analytic.model(ModelType.EPS, torch.full((1, 4, 8, 8), 2.0), 0.5)
    sigmas, _ = schedule.stride_sigmas(model, 10, "trailing")
    x = run(model, sampler.ddim_sampler(clip=clip, clip_range=1.0), sigmas)
    assert x.abs().max() <= 1.0 + 1e-5 and run(model, sampler.ddim_sampler(), sigmas).abs().max() > 2


def test_global_random_state_is_left_alone():
    model = analytic.model(ModelType.EPS)
    sigmas, _ = schedule.stride_sigmas(model, 4, "trailing")
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    before = torch.random.get_rng_state()
    run(model, sampler.ddim_sampler(eta=1.0), sigmas, noise=noise)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(
    "options",
    [
        {},
        dict(eta=1.0),
        dict(eta=1.0, noise_device="gpu"),
        dict(order=4),
        dict(clip="clamp"),
        dict(clip="dynamic"),
    ],
)
def test_no_value_is_read_between_the_model_calls(options):
    """On a GPU each read (item, tolist, a tensor as a condition) would wait for all that is queued there."""
    model = analytic.model(ModelType.EPS)
    sigmas, _ = schedule.stride_sigmas(model, 10, "trailing")
    sampling, calls, reads = model.model.model_sampling, [], []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function.overloadpacket in (
                torch.ops.aten._local_scalar_dense,
                torch.ops.aten.equal,
                torch.ops.aten.nonzero,
            ):
                reads.append(len(calls))
            return function(*args, **(kwargs or {}))

    class Denoiser:
        inner_model = SimpleNamespace(inner_model=SimpleNamespace(model_sampling=sampling))

        def __call__(self, x, sigma, **extra):
            calls.append(sigma)
            return 0.5 * x

    with Watch():
        sampler.sample_ddim(
            Denoiser(),
            torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)) * 14,
            sigmas,
            {"seed": 1},
            disable=True,
            **options,
        )
    assert len(calls) == 10 and 0 in reads  # the checks before the loop do read
    assert set(reads) <= {0, 10}


def test_cancel_between_model_calls():
    model, calls = analytic.model(ModelType.EPS), []
    sigmas, _ = schedule.stride_sigmas(model, 10, "trailing")

    def stop_at_four(step, x0, x, total):
        calls.append(step)
        if step == 3:
            comfy.model_management.interrupt_current_processing(True)

    with pytest.raises(comfy.model_management.InterruptProcessingException):
        run(model, sampler.ddim_sampler(), sigmas, callback=stop_at_four)
    assert calls == [0, 1, 2, 3]
    assert run(model, sampler.ddim_sampler(), sigmas).isfinite().all()


def test_nan_is_reported_at_its_step():
    model = analytic.model(ModelType.EPS)
    sigmas, _ = schedule.stride_sigmas(model, 10, "trailing")
    whole = model.model.diffusion_model.x0

    def breaks(x, alpha, sigma):
        return whole(x, alpha, sigma) * (float("nan") if sigma[0] < sigmas[5] else 1.0)

    model.model.diffusion_model.x0 = breaks
    with pytest.raises(FloatingPointError, match="step 7 of 10"):
        run(model, sampler.ddim_sampler(), sigmas)


@pytest.mark.parametrize(
    "sigmas, words",
    [
        ([14.0], "at least two"),
        ([1.0, 2.0, 0.0], "rise from 1 to 2"),
        ([float("nan"), 0.0], r"sigmas\[0\] is nan"),
        ([20.0, 1.0, 0.0], "sigma_max is 14.6146"),
        ([1.0, -1.0], r"sigmas\[1\] is -1"),
        ([1.0, 0.0, 0.0], "reach 0 before"),
    ],
)
def test_bad_sigmas(sigmas, words):
    with pytest.raises(ValueError, match=words):
        run(analytic.model(ModelType.EPS), sampler.ddim_sampler(), torch.tensor(sigmas))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_sigmas_of_a_flow_model_are_noticed_on_others(kind, caplog):
    model = analytic.model(kind)
    sigmas, _ = schedule.stride_sigmas(analytic.model(ModelType.FLOW), 4, "trailing")
    run(model, sampler.ddim_sampler(), sigmas)
    guider = guiders.cfg_guider(model, C, C, 1.0)
    _, _, table = film_strip.record(guider, 0, 0.0, {"samples": torch.zeros(1, 4, 8, 8)}, sigmas)
    for text in (caplog.text, table):
        assert ("sigmas start at 1, where flow models start" in text) == (kind != ModelType.FLOW)


@pytest.mark.parametrize(
    "options, words",
    [
        (dict(eta=2.0), "eta is 2.0"),
        (dict(variance="x"), "variance is 'x'"),
        (dict(order=5), "order is 5"),
        (dict(clip="x"), "clip is 'x'"),
        (dict(noise_device="tpu"), "noise_device is 'tpu'"),
        (dict(clip_range=0.0), "clip_range is 0.0"),
        (dict(clip_range=float("inf")), "clip_range is inf"),
        (dict(noise_seed=-1), "noise_seed is -1"),
    ],
)
def test_bad_options_before_any_work(options, words):
    with pytest.raises(ValueError, match=words):
        sampler.ddim_sampler(**options)


def test_a_misspelt_option_is_refused():
    with pytest.raises(TypeError, match="'etta'"):
        sampler.ddim_sampler(etta=1.0)
