"""The measured schedule: its parts against independent answers, and the whole on models with a known
denoiser."""

import itertools
import math
from inspect import signature

import analytic
import comfy.latent_formats
import comfy.sample
import comfy.samplers
import pytest
import torch
from comfy.k_diffusion.sampling import sample_dpmpp_2m
from comfy.model_base import ModelType
from comfy_extras import nodes_easycache
from comfy_extras.nodes_context_windows import ContextWindowsManualNode
from ddim_toolkit.ddim import adaptive
from ddim_toolkit.ddim.forecast import Forecast
from ddim_toolkit.ddim.multistep import PLMS, DPMSolver2M
from ddim_toolkit.ddim.trajectory import BETWEEN, Reference, cubic_weights, interpolated, reference_run
from ddim_toolkit.host import probe, sampler, schedule
from ddim_toolkit.host.model import model_sampling, table
from ddim_toolkit.host.noise import latent_noise
from ddim_toolkit.nodes.adaptive import DDIMAdaptiveScheduler

TOP, BOTTOM, SPREAD = 10.0, 0.05, 0.5
EMPTY = {"samples": torch.zeros(1, 4, 8, 8)}


def gaussian(x, sigma):
    """x0_hat of Gaussian data with deviation SPREAD: the run is x = x_T sqrt(SPREAD^2 + sigma^2) /
    sqrt(SPREAD^2 + TOP^2)."""
    return x * SPREAD**2 / (SPREAD**2 + sigma**2)


def reference(count, pictures=2, denoise=gaussian):
    fine = torch.logspace(
        math.log10(TOP), math.log10(BOTTOM), (count - 1) * BETWEEN + 1, dtype=torch.float64
    ).tolist()
    x = TOP * torch.randn(pictures, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    run = adaptive.Probe(denoise, x, 100)
    reference_run(run, x, fine)
    return Reference(fine, torch.stack(run.slopes), run.kept(x)), x


def test_reference_run_follows_the_closed_form():
    ref, x = reference(48)
    for position in (0, 100, 400, 47 * BETWEEN):
        exact = x * math.sqrt((SPREAD**2 + float(ref.sigmas[position]) ** 2) / (SPREAD**2 + TOP**2))
        torch.testing.assert_close(ref.state(ref.integral[position]).double(), exact, rtol=2e-4, atol=1e-5)
    assert len(ref.slopes) == 48


def test_interpolation_is_exact_for_cubics():
    u = torch.arange(8, dtype=torch.float64)
    fine = torch.arange(7 * BETWEEN + 1, dtype=torch.float64) / BETWEEN
    torch.testing.assert_close(cubic_weights(8) @ (u**3 - 2 * u), fine**3 - 2 * fine)


SOLVERS = pytest.mark.parametrize(
    "solver", [PLMS(1), PLMS(2), DPMSolver2M()], ids=["DDIM", "PLMS", "dpmpp_2m"]
)


@SOLVERS
def test_dynamic_programming_finds_what_brute_force_finds(solver):
    ref, _ = reference(8)
    errors = adaptive.jump_errors(ref, solver)
    paths = adaptive.shortest_paths(errors, 8)
    for steps, (levels, total) in enumerate(paths, 1):

        def cost(inner):
            nodes = [0, *inner, 8]
            return errors[0, 0, nodes[1]] + sum(
                errors[g, h, i] for g, h, i in zip(nodes, nodes[1:], nodes[2:], strict=False)
            )

        best = min(itertools.combinations(range(1, 8), steps - 1), key=cost)
        assert levels == [0, *best]
        assert total == pytest.approx(float(cost(best)), rel=1e-9)


@SOLVERS
def test_error_of_one_jump_is_that_of_the_sampler(solver):
    """The jump h -> i after g -> h, both begun on the reference's own slopes, taken by hand."""
    ref, _ = reference(12)
    g, h, i = 3, 5, 8
    sigma = ref.sigmas[::BETWEEN].tolist()
    x = ref.state(ref.integral[h * BETWEEN])
    x0 = [ref.state(ref.integral[k * BETWEEN]) - sigma[k] * ref.slopes[k] for k in (g, h)]
    towards = {
        "PLMS1": x0[1],
        "PLMS2": x - sigma[h] * (1.5 * ref.slopes[h] - 0.5 * ref.slopes[g]),
        "DPMSolver2M2": (
            x0[1] + math.log(sigma[h] / sigma[i]) / math.log(sigma[g] / sigma[h]) / 2 * (x0[1] - x0[0])
        ),
    }[type(solver).__name__ + str(solver.order)]
    x = towards + sigma[i] / sigma[h] * (x - towards)
    error = (x - ref.state(ref.integral[i * BETWEEN])).pow(2).mean().sqrt()
    survives = math.sqrt(
        (SPREAD**2 + BOTTOM**2) / (SPREAD**2 + sigma[i] ** 2)
    )  # x0_hat at BOTTOM is shrunk a little more
    assert float(adaptive.jump_errors(ref, solver)[g, h, i]) == pytest.approx(
        float(error) * survives, rel=0.03
    )


@pytest.mark.parametrize("solver", [PLMS(1), PLMS(2), PLMS(3), DPMSolver2M()])
def test_forecast_agrees_with_sampling_where_the_growth_is_known(solver):
    """On Gaussian data every error grows alike, so that the forecast has nothing left to guess."""
    ref, x = reference(64)
    forecast = Forecast(ref, solver)
    forecast.growth = ref.sigmas / (SPREAD**2 + ref.sigmas**2)
    positions = torch.tensor([0, 150.5, 400, 600.25, 800], dtype=torch.float64)
    end, _ = run_truly(gaussian, ref, x, positions, solver)
    assert float(forecast(positions[None])[0]) == pytest.approx(float(rmse(end)), rel=0.02)


@pytest.mark.parametrize(
    "name, solver", [("DDIM", PLMS(1)), ("DDIM", PLMS(2)), ("DDIM", PLMS(4)), ("dpmpp_2m", DPMSolver2M())]
)
@pytest.mark.parametrize("kind", [ModelType.EPS, ModelType.FLOW])
def test_true_run_is_what_the_named_sampler_does(kind, name, solver):
    """A run of the probe against the SAMPLER that the user puts into the graph."""
    model = analytic.model(kind, analytic.four_modes())
    sampling = model_sampling(model)
    samples = torch.zeros(2, 4, 8, 8)
    noise = comfy.sample.prepare_noise(samples, 3)
    levels = probe.probe_levels(sampling, 15 * BETWEEN + 1)
    positions = torch.tensor([0, 40, 100.5, 160, 230], dtype=torch.float64)
    ends = []

    def run(model, x, sigmas, extra_args, **_):
        truth = adaptive.Probe(lambda x, sigma: model(x, sigma * x.new_ones(len(x)), **extra_args), x, 256)
        reference_run(truth, x, levels)
        ref = Reference(levels, torch.stack(truth.slopes), truth.kept(x))
        error, _ = adaptive.true_run(truth, ref, x, positions, solver)
        ends.append((error + ref.state(ref.end)).view_as(x))
        return x

    def sample(used, sigmas):
        return comfy.sample.sample_custom(
            model,
            noise,
            1.0,
            used,
            sigmas,
            analytic.CONDITIONING,
            analytic.CONDITIONING,
            samples,
            seed=0,
            disable_pbar=True,
        )

    sigmas = torch.cat(
        [interpolated(torch.tensor(levels, dtype=torch.float64), positions), torch.zeros(1)]
    ).float()
    sample(comfy.samplers.KSAMPLER(run), sigmas)
    used = sampler.ddim_sampler(order=solver.order) if name == "DDIM" else comfy.samplers.sampler_object(name)
    torch.testing.assert_close(ends[0], sample(used, sigmas), rtol=1e-4, atol=1e-4)


WIDTHS = torch.tensor([0.05, 0.1, 0.2, 0.5, 1.0, 2.0], dtype=torch.float64)


def uneven(x, sigma):
    """x0_hat of Gaussian data with a deviation of its own for each element: errors grow at six rates."""
    return x * WIDTHS**2 / (WIDTHS**2 + sigma**2)


def run_truly(denoise, ref, x, positions, solver):
    return adaptive.true_run(adaptive.Probe(denoise, x, 100), ref, x, positions, solver)


def rmse(error):
    return error.double().pow(2).mean(1).sqrt().mean()


@SOLVERS
def test_forecast_repeats_the_true_runs_that_it_learned(solver):
    ref, x = reference(32, denoise=uneven)
    forecast = Forecast(ref, solver)
    schedules = torch.tensor(
        [[0, 100, 200, 350, 450], [0, 60, 190.5, 300, 440], [0, 150, 260, 300, 496]], dtype=torch.float64
    )
    unlearned, ends = forecast(schedules)[0], []
    for positions in schedules:
        error, changes = run_truly(uneven, ref, x, positions, solver)
        forecast.learn(positions, changes)
        ends.append(rmse(error))
    torch.testing.assert_close(forecast(schedules)[0], torch.stack(ends), rtol=0.04, atol=0)
    assert (abs(unlearned / torch.stack(ends) - 1) > 0.1).any()


def test_forecast_of_a_new_schedule_is_better_for_what_it_learned():
    ref, x = reference(32, denoise=uneven)
    forecast = Forecast(ref, PLMS())
    new = torch.tensor([0, 90, 200, 320, 470], dtype=torch.float64)
    true = rmse(run_truly(uneven, ref, x, new, PLMS())[0])
    before = float(abs(forecast(new[None])[0] / true - 1))
    for positions in (
        [0, 100, 200, 350, 450],
        [0, 60, 190, 300, 440],
        [0, 120, 230, 320, 480],
        [0, 80, 170, 310, 460],
    ):
        positions = torch.tensor(positions, dtype=torch.float64)
        forecast.learn(positions, run_truly(uneven, ref, x, positions, PLMS())[1])
    after = float(abs(forecast(new[None])[0] / true - 1))
    assert after < 0.02 and after < before / 3


def test_search_never_makes_it_worse_and_keeps_the_order():
    ref, _ = reference(32)
    forecast = Forecast(ref, PLMS())
    for start in (torch.arange(5.0, dtype=torch.float64), torch.arange(5.0, dtype=torch.float64) * 99):
        found = adaptive.search(forecast, start, 0.6)
        assert found[0] == 0 and (found.diff() > 0).all() and found[-1] <= len(ref.sigmas) - 1
        assert forecast(found[None])[1] <= forecast(start[None])[1]


def test_search_of_few_pictures_prefers_even_gaps(monkeypatch):
    def unevenness():
        ref, _ = reference(32, denoise=uneven)
        start = torch.tensor([0, 40, 200, 230, 330, 350, 480], dtype=torch.float64)
        return adaptive.search(Forecast(ref, PLMS()), start, 0.6).diff().log().diff(n=2).pow(2).mean()

    smooth = unevenness()
    monkeypatch.setattr(adaptive, "SMOOTH", 0.0)
    assert smooth < unevenness()


def test_leaps_are_what_dpmpp_2m_adds_of_a_change_of_x0():
    """Against the host's sampler, whose x0_hat goes from 0 to 1 at the second step."""
    sigmas = torch.tensor([9.0, 4.0, 0.5, 0.1])
    states = []
    sample_dpmpp_2m(
        lambda x, sigma: (sigma < 5).to(x) * torch.ones_like(x),
        torch.ones(1),
        sigmas,
        callback=lambda step: states.append(step["x"]),
        disable=True,
    )
    plain = states[1] * 0.5 / 4 + (1 - 0.5 / 4)
    leap = DPMSolver2M().leaps(sigmas[None, :3])
    torch.testing.assert_close(leap, (states[2] - plain) ** 2)
    further = DPMSolver2M().leaps(sigmas[None])  # and the step after, whose x0_hat would change by 1 too
    torch.testing.assert_close(further, leap + ((1 - 0.1 / 0.5) * math.log(5) / math.log(8) / 2) ** 2)


def test_interpolation_between_positions_is_linear_and_stays_within():
    rows = torch.tensor([[0.0, 1.0], [2.0, 5.0], [4.0, 5.0]])
    torch.testing.assert_close(
        interpolated(rows, torch.tensor([0.0, 0.5, 2.0])), torch.tensor([[0.0, 1.0], [1.0, 3.0], [4.0, 5.0]])
    )
    torch.testing.assert_close(interpolated(rows[:1], torch.tensor(0.0)), rows[0])


@pytest.mark.parametrize("criterion", adaptive.CRITERIA)
@pytest.mark.parametrize("kind", [ModelType.EPS, ModelType.FLOW])
def test_every_number_of_steps_up_to_the_probe(kind, criterion):
    model = analytic.model(kind, analytic.four_modes())
    for steps in (1, 2, 3, 7, 11, 12):
        sigmas, measured = probe.measured_schedule(
            model,
            analytic.CONDITIONING,
            analytic.CONDITIONING,
            1.0,
            EMPTY,
            steps,
            probe_steps=12,
            images=2,
            refine=0,
            criterion=criterion,
        )
        assert sigmas.shape == (steps + 1,) and sigmas[-1] == 0 and (sigmas.diff() < 0).all()
        assert sigmas[0] == float(model_sampling(model).sigma_max)
        assert measured.calls == 12 and len(measured.by_steps) == steps
        assert torch.equal(schedule.custom_sigmas(model, probe.as_text(sigmas)), sigmas)


@pytest.mark.parametrize("name, order, images", [("DDIM", 1, 4), ("dpmpp_2m", 2, 16)])
@pytest.mark.parametrize("kind", [ModelType.EPS, ModelType.FLOW])
def test_better_than_every_host_schedule_on_seeds_that_were_not_probed(kind, name, order, images):
    model = analytic.model(kind, analytic.four_modes())
    conditioning = analytic.CONDITIONING
    samples = torch.zeros(24, 4, 8, 8)
    noise = comfy.sample.prepare_noise(samples, 1000)

    ddim = sampler.ddim_sampler()
    used = ddim if name == "DDIM" else comfy.samplers.sampler_object(name)

    def run(sigmas, used=used):
        return comfy.sample.sample_custom(
            model, noise, 1.0, used, sigmas, conditioning, conditioning, samples, disable_pbar=True, seed=0
        )

    sampling = model_sampling(model)
    exact = run(torch.cat([table(sampling).flip(0)[::4], torch.zeros(1)]), ddim)

    def error(sigmas):
        return (run(sigmas) - exact).flatten(1).pow(2).mean(1).sqrt().mean()

    sigmas, measured = probe.measured_schedule(
        model,
        conditioning,
        conditioning,
        1.0,
        EMPTY,
        8,
        seed=1,
        images=images,
        refine=2,
        order=order,
        sampler_name=name,
    )
    assert (measured.calls - 64) % 8 == 0 and 64 + 4 * 8 <= measured.calls <= 64 + 12 * 8
    assert error(sigmas) < min(
        error(torch.tensor(other)) for other in probe.host_schedules(sampling, 8).values() if len(other) == 9
    )


def test_errors_are_those_of_the_latent(monkeypatch):
    """Where the model counts its channels in other units than the LATENT, as SDXL's and Wan's do."""

    class Uneven(comfy.latent_formats.LatentFormat):
        def process_out(self, latent):
            return latent * torch.tensor([0.1, 1.0, 3.0, 10.0]).view(1, 4, 1, 1) + 2

    model = analytic.model(means=analytic.four_modes())
    monkeypatch.setattr(model.model, "latent_format", Uneven())
    sigmas, measured = probe.measured_schedule(
        model, analytic.CONDITIONING, analytic.CONDITIONING, 1.0, EMPTY, 6, seed=5, images=3, refine=1
    )
    samples = torch.zeros(3, 4, 8, 8)
    noise = latent_noise({"samples": samples}, 5)

    def run(sigmas):
        return comfy.sample.sample_custom(
            model,
            noise,
            1.0,
            sampler.ddim_sampler(),
            sigmas,
            analytic.CONDITIONING,
            analytic.CONDITIONING,
            samples,
            seed=0,
            disable_pbar=True,
        )

    exact = run(torch.cat([table(model_sampling(model)).flip(0), torch.zeros(1)]))
    assert measured.measured == pytest.approx(float(rmse((run(sigmas) - exact).flatten(1))), rel=0.02)


def test_node():
    model = analytic.model(ModelType.FLOW, analytic.four_modes())
    result = DDIMAdaptiveScheduler.execute(
        model,
        analytic.CONDITIONING,
        analytic.CONDITIONING,
        2.0,
        EMPTY,
        4,
        1,
        "reconstruction error",
        16,
        2,
        0,
        1,
    ).args
    sigmas, text, report = result
    assert len(sigmas) == 5 and text.startswith("sigmas: 1.0, ") and "model calls of 2 pictures" in report
    again = DDIMAdaptiveScheduler.execute(
        model,
        analytic.CONDITIONING,
        analytic.CONDITIONING,
        2.0,
        EMPTY,
        4,
        1,
        "reconstruction error",
        16,
        2,
        0,
        1,
    ).args
    assert torch.equal(again[0], sigmas)
    other = DDIMAdaptiveScheduler.execute(
        model,
        analytic.CONDITIONING,
        analytic.CONDITIONING,
        2.0,
        EMPTY,
        4,
        2,
        "reconstruction error",
        16,
        2,
        0,
        1,
        "dpmpp_2m",
    ).args
    assert "4 steps for dpmpp_2m" in other[2] and not torch.equal(other[0], sigmas)


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
        probe.measured_schedule(
            model,
            analytic.CONDITIONING,
            analytic.CONDITIONING,
            1.0,
            EMPTY,
            **{"steps": 4, "probe_steps": 16} | given,
        )


@pytest.mark.parametrize("node", ["EasyCacheNode", "LazyCacheNode"])
def test_a_cache_between_model_calls_is_refused_by_name(node):
    cached = getattr(nodes_easycache, node).execute(analytic.model(), 0.2, 0.15, 0.95, False).args[0]
    with pytest.raises(ValueError, match="model: EasyCache and LazyCache answer a call from those before it"):
        probe.measured_schedule(
            cached, analytic.CONDITIONING, analytic.CONDITIONING, 1.0, EMPTY, 4, probe_steps=8
        )


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
            analytic.CONDITIONING,
            analytic.CONDITIONING,
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
        probe.measured_schedule(
            model, analytic.CONDITIONING, analytic.CONDITIONING, 1.0, EMPTY, 4, probe_steps=8
        )


def test_cancel_stops_the_probe():
    import comfy.model_management as mm

    model = analytic.model()
    mm.interrupt_current_processing(True)
    with pytest.raises(mm.InterruptProcessingException):
        probe.measured_schedule(
            model, analytic.CONDITIONING, analytic.CONDITIONING, 1.0, EMPTY, 4, probe_steps=8
        )
