"""The measured schedule: its parts against independent answers, and the whole on models with a known denoiser."""

import itertools
import math

import analytic
import comfy.sample
import comfy.samplers
import pytest
import torch
from comfy.model_base import ModelType
from ddim_toolkit.ddim import adaptive
from ddim_toolkit.ddim.solve import sample
from ddim_toolkit.ddim.trajectory import BETWEEN, Reference, cubic_weights, reference_run
from ddim_toolkit.host import probe, sampler, schedule
from ddim_toolkit.host.model import model_sampling, table
from ddim_toolkit.nodes.adaptive import DDIMAdaptiveScheduler

TOP, BOTTOM, SPREAD = 10.0, 0.05, 0.5
EMPTY = {"samples": torch.zeros(1, 4, 8, 8)}


def gaussian(x, sigma):
    """x0_hat of Gaussian data with deviation SPREAD: the run is x = x_T sqrt(SPREAD^2 + sigma^2) / sqrt(SPREAD^2 + TOP^2)."""
    return x * SPREAD**2 / (SPREAD**2 + sigma**2)


def reference(count, pictures=2):
    fine = torch.logspace(math.log10(TOP), math.log10(BOTTOM), (count - 1) * BETWEEN + 1, dtype=torch.float64).tolist()
    x = TOP * torch.randn(pictures, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    run = adaptive.Probe(gaussian, x, 100)
    reference_run(run, x, fine[::BETWEEN])
    return Reference(fine, torch.stack(run.slopes), run.kept(x)), x


def test_reference_run_follows_the_closed_form():
    ref, x = reference(48)
    for position in (0, 100, 400, 47 * BETWEEN):
        exact = x * math.sqrt((SPREAD**2 + float(ref.sigmas[position]) ** 2) / (SPREAD**2 + TOP**2))
        torch.testing.assert_close(ref.state(ref.integral[position]).double(), exact, rtol=5e-3, atol=1e-4)
    assert len(ref.slopes) == 48


def test_interpolation_is_exact_for_cubics():
    u = torch.arange(8, dtype=torch.float64)
    fine = torch.arange(7 * BETWEEN + 1, dtype=torch.float64) / BETWEEN
    torch.testing.assert_close(cubic_weights(8) @ (u**3 - 2 * u), fine**3 - 2 * fine)


@pytest.mark.parametrize("order", [1, 2])
def test_dynamic_programming_finds_what_brute_force_finds(order):
    ref, _ = reference(8)
    errors = adaptive.jump_errors(ref, order)
    paths = adaptive.shortest_paths(errors, 8)
    for steps, (levels, total) in enumerate(paths, 1):
        def cost(inner):
            nodes = [0, *inner, 8]
            return errors[0, 0, nodes[1]] + sum(errors[g, h, i] for g, h, i in zip(nodes, nodes[1:], nodes[2:]))

        best = min(itertools.combinations(range(1, 8), steps - 1), key=cost)
        assert levels == [0, *best]
        assert total == pytest.approx(float(cost(best)), rel=1e-9)


@pytest.mark.parametrize("order", [1, 2])
def test_error_of_one_jump_is_that_of_the_sampler(order):
    """The jump h -> i after g -> h, both begun on the reference's own slopes, taken by hand."""
    ref, _ = reference(12)
    g, h, i = 3, 5, 8
    sigma = ref.sigmas[::BETWEEN].tolist()
    slope = ref.slopes[h] if order == 1 else 1.5 * ref.slopes[h] - 0.5 * ref.slopes[g]
    x = ref.state(ref.integral[h * BETWEEN]) + (sigma[i] - sigma[h]) * slope
    error = (x - ref.state(ref.integral[i * BETWEEN])).pow(2).mean().sqrt()
    survives = math.sqrt((SPREAD**2 + BOTTOM**2) / (SPREAD**2 + sigma[i] ** 2))  # x0_hat at BOTTOM is shrunk a little more
    assert float(adaptive.jump_errors(ref, order)[g, h, i]) == pytest.approx(float(error) * survives, rel=0.03)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_simulation_without_model_calls_agrees_with_sampling(order):
    """On Gaussian data the growth of an error is the same everywhere, so that the simulation has nothing left to guess."""
    ref, x = reference(64)
    ref.growth = ref.sigmas / (SPREAD**2 + ref.sigmas**2)
    positions = torch.tensor([0, 150, 400, 600, 800])
    sigmas = [*ref.sigmas[positions].tolist(), 0.0]
    end = sample(lambda x, i: gaussian(x, sigmas[i]), x, [1.0] * 6, sigmas, order=order)
    true = (end - ref.state(ref.end)).pow(2).mean().sqrt()
    error, _ = adaptive.simulate(ref, positions[None], ref.growth, order)
    assert float(ref.rmse(error)) == pytest.approx(float(true), rel=0.02)


def test_search_never_makes_it_worse_and_keeps_the_order():
    ref, _ = reference(32)
    starts = torch.stack([torch.tensor([0, 1, 2, 3, 4]), torch.arange(5) * 99])
    found = adaptive.search(ref, starts, ref.growth)
    assert found[0] == 0 and (found.diff() > 0).all() and found[-1] < len(ref.sigmas)
    assert adaptive.loss(ref, found[None], ref.growth) <= adaptive.loss(ref, starts, ref.growth).min()


@pytest.mark.parametrize("criterion", adaptive.CRITERIA)
@pytest.mark.parametrize("kind", [ModelType.EPS, ModelType.FLOW])
def test_every_number_of_steps_up_to_the_probe(kind, criterion):
    model = analytic.model(kind, analytic.four_modes())
    for steps in (1, 2, 3, 7, 11, 12):
        sigmas, measured = probe.measured_schedule(
            model, analytic.CONDITIONING, analytic.CONDITIONING, 1.0, EMPTY, steps, probe_steps=12, images=2, refine=0, criterion=criterion)
        assert sigmas.shape == (steps + 1,) and sigmas[-1] == 0 and (sigmas.diff() < 0).all()
        assert sigmas[0] == float(model_sampling(model).sigma_max)
        assert measured.calls == 12 and len(measured.by_steps) == steps
        assert torch.equal(schedule.custom_sigmas(model, probe.as_text(sigmas)), sigmas)


@pytest.mark.parametrize("kind", [ModelType.EPS, ModelType.FLOW])
def test_better_than_every_host_schedule_on_seeds_that_were_not_probed(kind):
    model = analytic.model(kind, analytic.four_modes())
    conditioning = analytic.CONDITIONING
    samples = torch.zeros(24, 4, 8, 8)
    noise = comfy.sample.prepare_noise(samples, 1000)

    def run(sigmas):
        return comfy.sample.sample_custom(model, noise, 1.0, sampler.ddim_sampler(), sigmas, conditioning, conditioning, samples, disable_pbar=True, seed=0)

    sampling = model_sampling(model)
    exact = run(torch.cat([table(sampling).flip(0)[::4], torch.zeros(1)]))
    error = lambda sigmas: (run(sigmas) - exact).flatten(1).pow(2).mean(1).sqrt().mean()  # noqa: E731
    sigmas, measured = probe.measured_schedule(model, conditioning, conditioning, 1.0, EMPTY, 8, seed=1, images=4, refine=2)
    assert (measured.calls - 64) % 8 == 0 and 64 + 4 * 8 <= measured.calls <= 64 + 12 * 8
    assert error(sigmas) < min(error(torch.tensor(other)) for other in probe.host_schedules(sampling, 8).values() if len(other) == 9)


def test_node():
    model = analytic.model(ModelType.FLOW, analytic.four_modes())
    result = DDIMAdaptiveScheduler.execute(model, analytic.CONDITIONING, analytic.CONDITIONING, 2.0, EMPTY, 4, 1, "reconstruction error", 16, 2, 0, 1).args
    sigmas, text, report = result
    assert len(sigmas) == 5 and text.startswith("sigmas: 1.0, ") and "model calls of 2 pictures" in report
    again = DDIMAdaptiveScheduler.execute(model, analytic.CONDITIONING, analytic.CONDITIONING, 2.0, EMPTY, 4, 1, "reconstruction error", 16, 2, 0, 1).args
    assert torch.equal(again[0], sigmas)


@pytest.mark.parametrize("given, named", [({"steps": 17}, "steps"), ({"probe_steps": 3}, "probe_steps"), ({"images": 0}, "probe_images"), ({"order": 5}, "order"),
                                          ({"criterion": "best"}, "criterion"), ({"refine": -1}, "refine")])
def test_bad_numbers_are_named_before_any_model_call(given, named):
    model = analytic.model()
    model.model.diffusion_model.forward = None  # a call would fail
    with pytest.raises(ValueError, match=named):
        probe.measured_schedule(model, analytic.CONDITIONING, analytic.CONDITIONING, 1.0, EMPTY, **{"steps": 4, "probe_steps": 16} | given)


def test_nan_of_the_model_is_named():
    model = analytic.model(means=torch.full((1, 4, 8, 8), math.nan))
    with pytest.raises(FloatingPointError, match="reference run"):
        probe.measured_schedule(model, analytic.CONDITIONING, analytic.CONDITIONING, 1.0, EMPTY, 4, probe_steps=8)


def test_cancel_stops_the_probe():
    import comfy.model_management as mm

    model = analytic.model()
    mm.interrupt_current_processing(True)
    with pytest.raises(mm.InterruptProcessingException):
        probe.measured_schedule(model, analytic.CONDITIONING, analytic.CONDITIONING, 1.0, EMPTY, 4, probe_steps=8)


def test_defect_is_the_error_that_slopes_do_not_explain():
    ref, _ = reference(8)
    weights = torch.linspace(-1, 1, 8, dtype=torch.float64)
    rest = torch.randn(2, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    whole = ref.slope(weights).double() + rest
    assert float(ref.rmse(weights, ref.defect(rest))) == pytest.approx(float(whole.pow(2).mean().sqrt()), rel=1e-6)
