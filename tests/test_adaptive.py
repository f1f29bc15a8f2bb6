"""The measured schedule and its coefficients: the parts against independent answers, and the whole on models
with a known denoiser."""

import itertools
import math
from functools import partial

import comfy.latent_formats
import comfy.sample
import comfy.samplers
import pytest
import torch
from comfy.model_base import ModelType
from ddim_toolkit.bench import analytic
from ddim_toolkit.ddim.measured import schedule as measuring
from ddim_toolkit.ddim.measured.coefficients import RIDGE, Coefficients, Fit, Measured
from ddim_toolkit.ddim.measured.reference import Reference, integrals, reference_run
from ddim_toolkit.ddim.multistep import PLMS, DPMSolver2M
from ddim_toolkit.host import measured_sampler, probe, sampler, schedule
from ddim_toolkit.host.model import model_sampling, table
from ddim_toolkit.host.noise import latent_noise
from helpers import empty

TOP, BOTTOM, SPREAD = 10.0, 0.05, 0.5
EMPTY = empty()
C = analytic.CONDITIONING


def gaussian(x, sigma):
    """x0_hat of Gaussian data with deviation SPREAD: the run is x = x_T sqrt(SPREAD^2 + sigma^2) /
    sqrt(SPREAD^2 + TOP^2)."""
    return x * SPREAD**2 / (SPREAD**2 + sigma**2)


def levels(count):
    return torch.logspace(math.log10(TOP), math.log10(BOTTOM), count, dtype=torch.float64).tolist()


def start(pictures=2):
    return TOP * torch.randn(pictures, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def flat(x):
    return x.flatten(1).float()


def reference(count, pictures=2, denoise=gaussian):
    return reference_run(denoise, start(pictures), levels(count), flat)


def rmse(error):
    return error.double().square().mean(1).sqrt().mean()


def test_reference_run_follows_the_closed_form():
    """Between the recorded levels too, and with one call for each."""
    calls = []
    ref = reference(48, denoise=lambda x, sigma: calls.append(sigma) or gaussian(x, sigma))
    for sigma in (TOP, 7.3, 1.01, 0.2, BOTTOM):
        exact = start() * math.sqrt((SPREAD**2 + sigma**2) / (SPREAD**2 + TOP**2))
        x, slope = ref.at(sigma)
        torch.testing.assert_close(x.double(), exact, rtol=2e-4, atol=1e-5)
        torch.testing.assert_close(
            slope.double(), (exact - gaussian(exact, sigma)) / sigma, rtol=2e-3, atol=1e-4
        )
    assert calls == levels(48)
    torch.testing.assert_close(ref.at(0.0)[0], ref.end)


def test_integrals_are_those_of_polynomials_in_log_sigma():
    """The integral of (log sigma)^2 is sigma (log^2 - 2 log + 2)."""
    nodes, a, b = [3.0, 2.0, 1.5], 2.0, 1.5

    def antiderivative(sigma):
        return sigma * (math.log(sigma) ** 2 - 2 * math.log(sigma) + 2)

    found = sum(w * math.log(n) ** 2 for w, n in zip(integrals(nodes, a, b), nodes, strict=True))
    assert found == pytest.approx(antiderivative(b) - antiderivative(a), rel=1e-6)


EXTRAPOLATED = pytest.mark.parametrize("extrapolated", [None, "slope", "x0_hat"], ids=["DDIM", "PLMS", "2M"])


@EXTRAPOLATED
def test_dynamic_programming_finds_what_brute_force_finds(extrapolated):
    errors = measuring.jump_errors(reference(8), extrapolated)
    for steps, (path, total) in enumerate(measuring.shortest_paths(errors, 8), 1):

        def cost(inner):
            nodes = [0, *inner, 8]
            return errors[0, 0, nodes[1]] + sum(
                errors[g, h, i] for g, h, i in zip(nodes, nodes[1:], nodes[2:], strict=False)
            )

        best = min(itertools.combinations(range(1, 8), steps - 1), key=cost)
        assert path == [0, *best]
        assert total == pytest.approx(float(cost(best)), rel=1e-9)


@EXTRAPOLATED
def test_error_of_one_jump_is_that_of_the_sampler(extrapolated):
    """The jump h -> i after g -> h, both begun on the reference's own slopes, taken by hand."""
    ref = reference(12)
    g, h, i = 3, 5, 8
    sigma = levels(12)
    x0 = [ref.x[k] - sigma[k] * ref.slopes[k] for k in (g, h)]
    towards = {
        None: x0[1],
        "slope": ref.x[h] - sigma[h] * (1.5 * ref.slopes[h] - 0.5 * ref.slopes[g]),
        "x0_hat": (
            x0[1] + math.log(sigma[h] / sigma[i]) / math.log(sigma[g] / sigma[h]) / 2 * (x0[1] - x0[0])
        ),
    }[extrapolated]
    x = towards + sigma[i] / sigma[h] * (ref.x[h] - towards)
    error = (x - ref.x[i]).square().mean().sqrt()
    survives = math.sqrt(
        (SPREAD**2 + BOTTOM**2) / (SPREAD**2 + sigma[i] ** 2)
    )  # x0_hat at BOTTOM is shrunk a little more
    assert float(measuring.jump_errors(ref, extrapolated)[g, h, i]) == pytest.approx(
        float(error) * survives, rel=0.03
    )


def test_a_paths_error_is_the_sum_of_its_jumps():
    ref = reference(12)
    errors, path, sigma = measuring.jump_errors(ref), [0, 3, 5, 8], levels(12)
    jumps = sum(float(errors[0, a, b]) for a, b in itertools.pairwise([*path, 12]))
    assert measuring.path_error(ref, PLMS(), [*(sigma[k] for k in path), 0.0]) == pytest.approx(
        jumps, rel=1e-5
    )


@pytest.mark.parametrize("order, name", [(1, "euler"), (3, "ipndm"), (None, "dpmpp_2m")])
@pytest.mark.parametrize("kind", [ModelType.EPS, ModelType.FLOW])
def test_true_run_is_what_the_hosts_sampler_does(kind, order, name):
    """A run of the probe against the SAMPLER that the user puts into the graph."""
    model = analytic.model(kind, analytic.four_modes())
    samples = torch.zeros(2, 4, 8, 8)
    noise = comfy.sample.prepare_noise(samples, 3)
    taken = partial(measuring.run, solver=DPMSolver2M() if order is None else PLMS(order))

    def ours(model, x, sigmas, extra_args, **_):
        def denoise(x, sigma):
            return model(x, sigma * x.new_ones(len(x)), **extra_args)

        return taken(denoise, x, sigmas.tolist())

    def sample(used):
        return comfy.sample.sample_custom(
            model, noise, 1.0, used, sigmas, C, C, samples, seed=0, disable_pbar=True
        )

    sigmas = torch.tensor([*probe.probe_levels(model_sampling(model), 12)[::2], 0.0])
    host = comfy.samplers.ksampler(name, {"max_order": 3} if name == "ipndm" else {})
    torch.testing.assert_close(sample(comfy.samplers.KSAMPLER(ours)), sample(host), rtol=1e-4, atol=1e-4)


WIDTHS = torch.tensor([0.05, 0.1, 0.2, 0.5, 1.0, 2.0], dtype=torch.float64)


def uneven(x, sigma):
    """x0_hat of Gaussian data with a deviation of its own for each element: errors grow at six rates."""
    return x * WIDTHS**2 / (WIDTHS**2 + sigma**2)


def ends(x):
    """Where the exact run from x ends: x_T WIDTHS / sqrt(WIDTHS^2 + TOP^2)."""
    return x * WIDTHS / (WIDTHS**2 + TOP**2).sqrt()


SIGMAS = [TOP, 4.0, 1.5, 0.5, 0.12, 0.0]


def fitted(x, guidance=None, sigmas=SIGMAS):
    ref = reference_run(uneven, x, levels(200), flat)
    fit = Fit(ref, flat, guidance)
    end = measuring.run(uneven, x, sigmas, fit)
    return ref, fit, end


def test_coefficients_are_the_ridge_least_squares_of_their_definition():
    """Against torch.linalg.lstsq of the stacked problem, step by step along the same run, by hand."""
    x, sigmas = start(1), SIGMAS
    generator = torch.Generator().manual_seed(1)
    differences = [torch.randn(x.shape, generator=generator, dtype=x.dtype) for _ in sigmas[1:]]
    given = iter(differences)
    ref, fit, end = fitted(x, lambda: next(given))
    slopes, guided, start_slope = [], [], x / sigmas[0]
    for k, (t, s) in enumerate(itertools.pairwise(sigmas)):
        h = s - t
        slopes.insert(0, (x - uneven(x, t)) / t)
        guided.insert(0, differences[k] / t)
        features = torch.stack([*slopes[:3], *guided[:2], start_slope], -1).flatten(0, -2)
        a, wanted = h * features, (ref.at(s)[0].double() - x - h * slopes[0]).flatten()
        damped = torch.cat([a, math.sqrt(RIDGE * float(a[:, 0] @ a[:, 0])) * torch.eye(a.shape[1])])
        w = torch.linalg.lstsq(damped, torch.cat([wanted, torch.zeros(a.shape[1])])[:, None]).solution[:, 0]
        w[0] += 1
        assert len(fit.weights[k]) == min(k + 1, 3) + min(k + 1, 2) + 1
        torch.testing.assert_close(torch.tensor(fit.weights[k]).double(), w, rtol=1e-3, atol=1e-4)
        x = x + h * (features @ w).view_as(x)
    torch.testing.assert_close(end, x, rtol=1e-4, atol=1e-5)


def test_each_picture_goes_on_with_the_weights_of_the_others():
    x = start(3)
    _, fit, end = fitted(x)
    for k in range(3):
        others = torch.cat([x[:k], x[k + 1 :]])
        ref = reference_run(uneven, others, levels(200), flat)
        first = Fit(ref, flat, None)
        measuring.run(uneven, others, [TOP, 0.0], first)  # one step, to which both see the same states
        moved = Coefficients((TOP, 0.0), tuple(first.weights), False)
        _, alone, ours = fitted(x, sigmas=[TOP, 0.0])
        torch.testing.assert_close(
            ours[k], measuring.run(uneven, x, [TOP, 0.0], Measured(moved))[k], rtol=1e-4, atol=1e-4
        )
    assert len(fit.weights) == 5 and end.isfinite().all()


def test_measured_coefficients_come_nearer_than_ddim_on_pictures_that_were_not_fitted():
    _, fit, _ = fitted(start(8))
    coefficients = Coefficients(tuple(SIGMAS), tuple(fit.weights), False)
    x = TOP * torch.randn(16, 6, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    plain = rmse(measuring.run(uneven, x, SIGMAS) - ends(x))
    assert rmse(measuring.run(uneven, x, SIGMAS, Measured(coefficients)) - ends(x)) < 0.1 * plain


def test_weights_of_adams_bashforth_make_it_plms():
    """PLMS of order 3 is the same rule with the weights of its paper, the last step aside."""
    rows = ((1.0, 0.0), (1.5, -0.5, 0.0), *[(23 / 12, -16 / 12, 5 / 12, 0.0)] * 2, (1.0, 0.0, 0.0, 0.0))
    x, ours = start(2), Measured(Coefficients(tuple(SIGMAS), rows, False))
    torch.testing.assert_close(
        measuring.run(uneven, x, SIGMAS, ours), measuring.run(uneven, x, SIGMAS, PLMS(3))
    )


@pytest.mark.parametrize("criterion", measuring.CRITERIA)
@pytest.mark.parametrize("kind", [ModelType.EPS, ModelType.FLOW])
def test_every_number_of_steps_up_to_the_probe(kind, criterion):
    model = analytic.model(kind, analytic.four_modes())
    for steps in (1, 2, 3, 7, 11, 12):
        sigmas, bound, found = probe.measured_schedule(
            model, [C], C, 1.0, EMPTY, steps, probe_steps=12, images=2, refine=0, criterion=criterion
        )
        assert sigmas.shape == (steps + 1,) and sigmas[-1] == 0 and (sigmas.diff() < 0).all()
        assert sigmas[0] == float(model_sampling(model).sigma_max)
        assert found.calls == 12 and len(found.by_steps) == steps and bound is None
        assert torch.equal(schedule.custom_sigmas(model, measured_sampler.sigmas_text(sigmas)), sigmas)


def test_without_refinement_the_schedule_is_the_path_of_dynamic_programming():
    model = analytic.model(ModelType.EPS, analytic.four_modes())
    found = probe.measured_schedule(model, [C], C, 1.0, EMPTY, 5, probe_steps=16, images=2, refine=0)
    near = set(probe.probe_levels(model_sampling(model), 16))
    assert found[2].source == "dynamic programming" and set(found[2].sigmas[:-1]) <= near


@pytest.mark.parametrize("name, order, images", [("DDIM", 1, 4), ("dpmpp_2m", 2, 16), ("measured", 1, 16)])
@pytest.mark.parametrize("kind", [ModelType.EPS, ModelType.FLOW])
def test_better_than_every_host_schedule_on_seeds_that_were_not_probed(kind, name, order, images):
    """The measured sampler than euler and dpmpp_2m on all of the host's schedules, and the schedule alone
    than the best of them for the sampler that it was made for."""
    model = analytic.model(kind, analytic.four_modes())
    samples = torch.zeros(24, 4, 8, 8)
    noise = comfy.sample.prepare_noise(samples, 1000)

    def run(sigmas, used):
        return comfy.sample.sample_custom(
            model, noise, 1.0, used, sigmas, C, C, samples, disable_pbar=True, seed=0
        )

    sampling = model_sampling(model)
    exact = run(torch.cat([table(sampling).flip(0)[::4], torch.zeros(1)]), sampler.ddim_sampler())

    def error(sigmas, used):
        return (run(sigmas, used) - exact).flatten(1).square().mean(1).sqrt().mean()

    sigmas, bound, found = probe.measured_schedule(
        model, [C], C, 1.0, EMPTY, 8, seed=1, images=images, refine=4, order=order, sampler_name=name
    )
    host = {
        used: min(
            error(torch.tensor(other), comfy.samplers.sampler_object(used))
            for other in probe.host_schedules(sampling, 8).values()
            if len(other) == 9
        )
        for used in ("euler", "dpmpp_2m")
    }
    assert (found.calls - 64) % 8 == 0 and found.calls <= 64 + 8 * 8
    if name != "measured":
        used = "euler" if name == "DDIM" else name
        known = probe.host_schedules(sampling, 8)
        ours = error(sigmas, comfy.samplers.sampler_object(used))
        if found.source in known:  # then it is the best of them, to the six digits that are written
            torch.testing.assert_close(sigmas, torch.tensor(known[found.source]), rtol=1e-5, atol=0)
            torch.testing.assert_close(ours, host[used], rtol=1e-3, atol=0)
        else:
            assert ours < host[used]
    if images == 16:  # four pictures of a mixture do not show its every mode
        given = measured_sampler.as_sampler(bound) if bound else probe.plain_sampler(name, order)
        assert error(sigmas, given) < min(host.values())


def test_errors_are_those_of_the_latent(monkeypatch):
    """Where the model counts its channels in other units than the LATENT, as SDXL's and Wan's do."""

    class Uneven(comfy.latent_formats.LatentFormat):
        def process_out(self, latent):
            return latent * torch.tensor([0.1, 1.0, 3.0, 10.0]).view(1, 4, 1, 1) + 2

    model = analytic.model(means=analytic.four_modes())
    monkeypatch.setattr(model.model, "latent_format", Uneven())
    sigmas, _, found = probe.measured_schedule(model, [C], C, 1.0, EMPTY, 6, seed=5, images=3, refine=1)
    samples = torch.zeros(3, 4, 8, 8)
    noise = latent_noise({"samples": samples}, 5)

    def run(sigmas):
        return comfy.sample.sample_custom(
            model, noise, 1.0, sampler.ddim_sampler(), sigmas, C, C, samples, seed=0, disable_pbar=True
        )

    exact = run(torch.cat([table(model_sampling(model)).flip(0), torch.zeros(1)]))
    assert found.plain == pytest.approx(float(rmse((run(sigmas) - exact).flatten(1))), rel=0.02)


def test_one_picture_has_no_held_out_error():
    found = probe.measured_schedule(
        analytic.model(), [C], C, 1.0, EMPTY, 4, probe_steps=12, images=1, refine=1
    )
    assert found[1] is not None and found[2].held_out is None


@EXTRAPOLATED
def test_the_search_asks_for_a_cancel_in_every_block_level_and_jump(extrapolated):
    count, elements = 64, 3 * measuring.BLOCK
    x = torch.randn(count, 1, elements, generator=torch.Generator().manual_seed(0))
    ref, asked = Reference(levels(count), list(x), list(x)), []
    errors = measuring.jump_errors(ref, extrapolated, lambda: asked.append("jumps"))
    measuring.shortest_paths(errors, count, lambda: asked.append("paths"))
    measuring.path_error(ref, PLMS(), [*levels(count), 0.0], lambda: asked.append("path"))
    assert [asked.count(each) for each in ("jumps", "paths", "path")] == [3 + count, count, count]
