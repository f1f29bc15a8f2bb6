"""Measured coefficients as a SAMPLER and as text: what they refuse, what they cost, and that they travel."""

import itertools
import pickle
from types import SimpleNamespace

import comfy.sample
import comfy.samplers
import pytest
import torch
from comfy.model_base import ModelType
from ddim_toolkit.bench import analytic
from ddim_toolkit.ddim.measured.coefficients import Coefficients
from ddim_toolkit.host import measured_sampler, probe, sampler, schedule
from ddim_toolkit.host.model import model_sampling
from ddim_toolkit.nodes.adaptive import DDIMAdaptiveScheduler
from ddim_toolkit.nodes.schedules import DDIMCustomSchedule
from helpers import encode, rmse
from torch.utils._python_dispatch import TorchDispatchMode

C = analytic.CONDITIONING
STEPS, CFG = 6, 3.0
KINDS = pytest.mark.parametrize("kind", [ModelType.EPS, ModelType.FLOW])


class Prompted(torch.nn.Module):
    """Two mixtures, chosen by the prompt: positive numbers the first, others the second."""

    dtype = torch.float32

    def __init__(self, first, second):
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x, timestep, context=None, **kwargs):
        chosen = (context[:, 0, 0] > 0).view(-1, *[1] * (x.ndim - 1))
        return torch.where(chosen, self.first(x, timestep), self.second(x, timestep))


def prompted(kind):
    """(MODEL, positive, negative): guidance means something."""
    model = analytic.model(kind, analytic.four_modes(seed=0))
    other = analytic.model(kind, analytic.four_modes(seed=1)).model.diffusion_model
    other.sampling = [model.model.model_sampling]
    model.model.diffusion_model = Prompted(model.model.diffusion_model, other)
    return model, [[torch.ones(1, 1, 8), {}]], [[-torch.ones(1, 1, 8), {}]]


def run(model, used, sigmas, positive=C, negative=C, cfg=1.0, latent=None, seed=7):
    latent = torch.zeros(3, 4, 8, 8) if latent is None else latent
    noise = comfy.sample.prepare_noise(latent, seed)
    return comfy.sample.sample_custom(
        model, noise, cfg, used, sigmas, positive, negative, latent, seed=seed, disable_pbar=True
    )


def made(model, steps=STEPS, cfg=1.0, seed=0):
    """Bound coefficients with weights near DDIM's, drawn at random."""
    sigmas = probe.as_sigmas([*probe.probe_levels(model_sampling(model), 4 * steps)[::4][:steps], 0.0])
    generator = torch.Generator().manual_seed(seed)
    guided = cfg != 1
    counts = [min(k + 1, 3) + (min(k + 1, 2) if guided else 0) + 1 for k in range(steps)]
    rows = [0.1 * torch.randn(count, generator=generator) for count in counts]
    for row in rows:
        row[0] += 1
    weights = measured_sampler.rounded([row.tolist() for row in rows])
    coefficients = Coefficients(tuple(sigmas.tolist()), weights, guided)
    return measured_sampler.BoundCoefficients(coefficients, measured_sampler.kind(model.model), cfg), sigmas


@KINDS
@pytest.mark.parametrize("cfg", [1.0, CFG])
def test_the_sampler_is_its_formula(kind, cfg):
    """x_{k+1} = x_k + h w . F, each piece asked of the host by itself: x0_hat, and both halves of
    guidance."""
    model, positive, negative = prompted(kind)
    bound, sigmas = made(model, cfg=cfg)
    states = []

    def by_hand(guided, x, sigmas, extra_args, **_):
        guider, levels = guided.inner_model, sigmas.tolist()
        slopes, differences, start = [], [], x / levels[0]
        for k, (t, s) in enumerate(itertools.pairwise(levels)):
            time = x.new_full([len(x)], t)
            halves = [
                comfy.samplers.calc_cond_batch(
                    guider.inner_model, [guider.conds[name]], x, time, extra_args["model_options"]
                )[0]
                for name in ("positive", "negative")
            ]
            x0 = halves[1] + cfg * (halves[0] - halves[1])
            slopes.insert(0, (x - x0) / t)
            differences.insert(0, (halves[0] - halves[1]) / t)
            features = [*slopes[:3], *(differences[:2] if cfg != 1 else ()), start]
            x = x + (s - t) * sum(w * f for w, f in zip(bound.coefficients.weights[k], features, strict=True))
        states.append(x)
        return x

    wanted = run(model, comfy.samplers.KSAMPLER(by_hand), sigmas, positive, negative, cfg)
    found = run(model, measured_sampler.as_sampler(bound), sigmas, positive, negative, cfg)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@KINDS
def test_guidance_costs_no_call(kind):
    model, positive, negative = prompted(kind)
    calls, forward = [], model.model.diffusion_model.forward
    model.model.diffusion_model.forward = lambda *a, **k: calls.append(len(a[0])) or forward(*a, **k)
    bound, sigmas = made(model, cfg=CFG)
    counts = []
    for used in (sampler.ddim_sampler(), measured_sampler.as_sampler(bound)):
        calls.clear()
        run(model, used, sigmas, positive, negative, CFG)
        counts.append(sum(calls))
    assert counts[0] == counts[1] == 2 * 3 * STEPS


@KINDS
def test_several_prompts_are_as_many_runs_of_one(kind):
    """The batch of the probe's guider against the host's own, prompt by prompt; and its guidance too."""
    model, positive, negative = prompted(kind)
    positives = [positive, negative, [[0.5 * torch.ones(1, 1, 8), {}]]]
    latent = torch.zeros(6, 4, 8, 8)
    noise = comfy.sample.prepare_noise(latent, 3)
    sigmas = schedule.stride_sigmas(model, 5, "trailing")[0]
    guider = probe.Prompts(model)
    guider.set_prompts(positives, negative)
    guider.set_cfg(CFG)
    ours = guider.sample(noise, latent, sampler.ddim_sampler(), sigmas, disable_pbar=True, seed=3)
    for k, each in enumerate(positives):
        alone = comfy.sample.sample_custom(
            model,
            noise[2 * k : 2 * k + 2],
            CFG,
            sampler.ddim_sampler(),
            sigmas,
            each,
            negative,
            latent[:2],
            seed=3,
            disable_pbar=True,
        )
        torch.testing.assert_close(ours[2 * k : 2 * k + 2], alone, rtol=1e-4, atol=1e-4)


@KINDS
def test_measured_under_guidance_it_is_nearer_on_other_seeds(kind):
    model, positive, negative = prompted(kind)
    latent = {"samples": torch.zeros(1, 4, 8, 8)}
    sigmas, bound, found = probe.measured_schedule(
        model,
        [positive],
        negative,
        CFG,
        latent,
        8,
        images=8,
        probe_steps=48,
        refine=2,
        seed=2,
        sampler_name="measured",
    )
    assert bound.cfg == CFG and bound.coefficients.guided and found.held_out < min(found.rivals.values())
    many = torch.zeros(12, 4, 8, 8)
    fine = schedule.stride_sigmas(model, 250, "trailing")[0]

    def sample(used, sigmas):
        return run(model, used, sigmas, positive, negative, CFG, many, seed=99)

    def error(used, sigmas):
        return (sample(used, sigmas) - exact).flatten(1).square().mean(1).sqrt().mean()

    exact = sample(sampler.ddim_sampler(), fine)
    best = min(
        error(comfy.samplers.sampler_object(name), torch.tensor(sigmas))
        for name in ("euler", "dpmpp_2m")
        for sigmas in probe.host_schedules(model_sampling(model), 8).values()
        if len(sigmas) == 9
    )
    assert error(measured_sampler.as_sampler(bound), sigmas) < 0.8 * best


@torch.no_grad()
def test_six_measured_calls_of_the_shipped_model_come_nearer_than_six_of_dpmpp_2m(shipped):
    """As the example Measured draft draws them, on a seed that was not measured."""
    model, clip, _ = shipped
    positive, negative = encode(clip, "woman astronaut"), encode(clip, "")
    latent = {"samples": torch.zeros(1, 4, 16, 16)}
    sigmas, bound, _ = probe.measured_schedule(
        model,
        [positive],
        negative,
        4.0,
        latent,
        6,
        probe_steps=40,
        images=2,
        refine=1,
        seed=1,
        sampler_name="measured",
    )

    def end(used, sigmas):
        return run(model, used, sigmas, positive, negative, 4.0, latent["samples"], seed=11)

    def host(schedule, steps):
        known = comfy.samplers.calculate_sigmas(model_sampling(model), schedule, steps)
        return end(comfy.samplers.sampler_object("dpmpp_2m"), known)

    fine = host("karras", 60)
    assert rmse(end(measured_sampler.as_sampler(bound), sigmas), fine) < 0.75 * rmse(host("beta", 6), fine)


def test_the_sampler_pickles():
    model = analytic.model(ModelType.EPS, analytic.four_modes())
    bound, sigmas = made(model)
    used = measured_sampler.as_sampler(bound)
    assert torch.equal(run(model, pickle.loads(pickle.dumps(used)), sigmas), run(model, used, sigmas))


def test_it_refuses_what_it_was_not_measured_for():
    model, positive, negative = prompted(ModelType.EPS)
    bound, sigmas = made(model, cfg=CFG)
    used = measured_sampler.as_sampler(bound)
    with pytest.raises(ValueError, match="sigmas: the sampler was measured for the 7 sigmas 14.61, "):
        run(model, used, sigmas[:-2], positive, negative, CFG)
    with pytest.raises(ValueError, match="sigmas: "):
        run(model, used, sigmas * 0.99, positive, negative, CFG)
    with pytest.raises(
        ValueError, match="model: the sampler was measured on BaseModel EPS, .* BaseModel V_PRED"
    ):
        run(analytic.model(ModelType.V_PREDICTION), used, sigmas, cfg=CFG)
    with pytest.raises(ValueError, match="cfg: the sampler was measured at 3; this run's is 5"):
        run(model, used, sigmas, positive, negative, 5.0)
    with pytest.raises(ValueError, match="cfg: the sampler was measured at 3; this run's is 1"):
        run(model, used, sigmas, positive, negative, 1.0)
    with pytest.raises(ValueError, match="eta is 0.5"):
        run(
            model,
            comfy.samplers.KSAMPLER(measured_sampler.sample_measured, {"bound": bound, "eta": 0.5}),
            sigmas,
            positive,
            negative,
            CFG,
        )


class Twice(comfy.samplers.CFGGuider):
    """The mean of two guided answers, as guiders of several prompts give."""

    def predict_noise(self, *args, **kwargs):
        return (super().predict_noise(*args, **kwargs) + super().predict_noise(*args, **kwargs)) / 2


def test_a_guider_that_asks_twice_is_named():
    model, positive, negative = prompted(ModelType.EPS)
    bound, sigmas = made(model, cfg=CFG)
    guider = Twice(model)
    guider.set_conds(positive, negative)
    guider.set_cfg(CFG)
    latent = torch.zeros(2, 4, 8, 8)
    noise = comfy.sample.prepare_noise(latent, 0)
    with pytest.raises(ValueError, match="guider: measured coefficients need one guided and one unguided"):
        guider.sample(noise, latent, measured_sampler.as_sampler(bound), sigmas, disable_pbar=True)


class Counted(TorchDispatchMode):
    """What torch does: elementwise passes over tensors of the state's size, and reads of values."""

    PASSES = ("add", "add_", "sub", "mul", "div", "div_", "mul_", "sub_", "clone", "copy_")

    def __init__(self, calls, size):
        super().__init__()
        self.calls, self.size, self.passes, self.reads = calls, size, 0, []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        if name in ("_local_scalar_dense", "equal", "nonzero"):
            self.reads.append(len(self.calls))
        if name in self.PASSES and args[0].numel() == self.size:
            self.passes += 1
        return function(*args, **(kwargs or {}))


class Bare:
    """A model that costs nothing, as samplers see one, with the host's post-cfg hook."""

    def __init__(self, model, calls):
        self.inner_model = SimpleNamespace(inner_model=model.model)
        self.calls = calls
        self.answers = 0.5 * torch.ones(2, 4, 8, 8), 0.3 * torch.ones(2, 4, 8, 8)

    def __call__(self, x, sigma, model_options, **_):
        self.calls.append(sigma)
        cond, uncond = self.answers
        for hook in model_options.get("sampler_post_cfg_function", []):
            hook(
                {"denoised": cond, "cond_denoised": cond, "uncond_denoised": uncond}
                | {"cond_scale": CFG, "uncond": [], "cond": [], "input": x}
            )
        return cond


def test_a_step_costs_one_pass_for_each_feature_and_reads_nothing():
    model = analytic.model(ModelType.EPS)
    bound, sigmas = made(model, steps=8, cfg=CFG)
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)) * 14
    passes = []
    for function, options in (
        (sampler.sample_ddim, {}),
        (measured_sampler.sample_measured, {"bound": bound}),
    ):
        calls = []
        with Counted(calls, x.numel()) as counted:
            function(Bare(model, calls), x, sigmas, {"seed": 1, "model_options": {}}, disable=True, **options)
        assert len(calls) == 8 and set(counted.reads) <= {0, 8}
        passes.append(counted.passes)
    features = sum(map(len, bound.coefficients.weights))
    assert passes[1] - passes[0] <= features + 2 * 8  # and the slope and the difference, made once a step


@KINDS
@pytest.mark.parametrize("cfg", [1.0, CFG])
def test_text_gives_the_same_sampler_back(kind, cfg):
    model, positive, negative = prompted(kind)
    bound, sigmas = made(model, cfg=cfg)
    text = measured_sampler.as_text(bound)
    for given in (text, f"# a remark\n{text}\n", text.replace("\n", "\r\n"), text.replace(" ", "  ")):
        read, used = DDIMCustomSchedule.execute(model, given).args
        assert torch.equal(read, sigmas) and used.extra_options["bound"] == bound
    assert torch.equal(
        run(model, used, read, positive, negative, cfg),
        run(model, measured_sampler.as_sampler(bound), sigmas, positive, negative, cfg),
    )
    assert schedule.written(text)[1] == pytest.approx(sigmas.tolist())  # the page draws its noise levels


def test_a_list_without_coefficients_gives_plain_ddim():
    model = analytic.model()
    sigmas, used = DDIMCustomSchedule.execute(model, "999, 749, 499, 249").args
    assert torch.equal(run(model, used, sigmas), run(model, sampler.ddim_sampler(), sigmas))


@pytest.mark.parametrize(
    "damage, words",
    [
        (lambda text: text[:-9], "damaged: 6 steps without guidance have 21 weights, not 20"),
        (lambda text: text[:-2], "do not fit their check"),
        (lambda text: text.replace("coefficients 1", "coefficients 2"), "coefficients of version 2"),
        (lambda text: text.replace("coefficients 1", "coefficients " + "1" * 5000), "the line .* is damaged"),
        (lambda text: text.replace(", check", ""), "the line 'coefficients 1 for BaseModel EPS, cfg 1.0"),
        (lambda text: text.replace("cfg 1.0", "cfg 4.0"), "damaged: 6 steps under guidance have 32"),
        (lambda text: text.rpartition(" ")[0] + " x", "damaged: could not convert string to float: 'x'"),
        (lambda text: text.replace("EPS", "FLOW"), "do not fit their check"),
        (lambda text: text.replace(", 0.0\n", ", 0.01, 0.0\n"), "damaged: 7 steps"),
        (lambda text: text.replace("sigmas: 14.6", "sigmas: 14.5"), "do not fit their check"),
    ],
)
def test_damaged_text_is_told(damage, words):
    model = analytic.model(ModelType.EPS)
    text = measured_sampler.as_text(made(model)[0])
    changed = damage(text)
    assert changed != text
    with pytest.raises(ValueError, match=words):
        DDIMCustomSchedule.execute(model, changed)


def test_text_of_another_kind_of_model_is_told_before_sampling():
    text = measured_sampler.as_text(made(analytic.model(ModelType.EPS))[0])
    with pytest.raises(ValueError, match="model: the sampler was measured on BaseModel EPS, this one is"):
        DDIMCustomSchedule.execute(analytic.model(ModelType.V_PREDICTION), text)


def test_what_the_scheduler_gives_fits_together():
    model, positive, negative = prompted(ModelType.FLOW)
    sigmas, text, report, used = DDIMAdaptiveScheduler.execute(
        model,
        positive,
        negative,
        CFG,
        {"samples": torch.zeros(1, 4, 8, 8)},
        5,
        1,
        "reconstruction error",
        24,
        4,
        0,
        1,
        "measured",
        positive_2=negative,
    ).args
    again = DDIMCustomSchedule.execute(model, text).args
    assert torch.equal(again[0], sigmas)
    assert torch.equal(
        run(model, again[1], again[0], positive, negative, CFG),
        run(model, used, sigmas, positive, negative, CFG),
    )
