"""The lists of distilled models against those who publish them, and times with fractions against the host."""

import pytest
import torch
from comfy.model_base import ModelType
from comfy_extras.nodes_flux import compute_empirical_mu
from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete
from ddim_toolkit.bench import analytic
from ddim_toolkit.ddim.published import PUBLISHED
from ddim_toolkit.host import page
from ddim_toolkit.host.model import model_sampling
from ddim_toolkit.nodes.schedules import DDIMCustomSchedule
from diffusers import (
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    LCMScheduler,
    TCDScheduler,
)

VP, FLOW = analytic.model(ModelType.EPS), analytic.model(ModelType.FLOW)
SD = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")


def sigmas(model, text):
    return DDIMCustomSchedule.execute(model, text).args[0]


@pytest.mark.parametrize(
    "name, scheduler, steps",
    [
        ("LCM", LCMScheduler(**SD), 4),
        ("TCD", TCDScheduler(**SD), 4),
        ("SDXL-Turbo", EulerDiscreteScheduler(**SD, timestep_spacing="trailing"), 4),
        ("Lightning 4", EulerDiscreteScheduler(**SD, timestep_spacing="trailing"), 4),
        ("Lightning 8", EulerDiscreteScheduler(**SD, timestep_spacing="trailing"), 8),
        ("Hyper-SD 4", DDIMScheduler(**SD, timestep_spacing="trailing"), 4),
        ("Hyper-SD 8", DDIMScheduler(**SD, timestep_spacing="trailing"), 8),
    ],
)
def test_diffusers_visits_the_same_timesteps(name, scheduler, steps):
    scheduler.set_timesteps(steps)
    rows = [int(t) for t in scheduler.timesteps]
    assert torch.equal(sigmas(VP, name), torch.cat([model_sampling(VP).sigmas[rows], torch.zeros(1)]))


def test_lightx2v_is_its_step_list_shifted_by_5():
    shifted = [5 * s / (1 + 4 * s) for s in (1.0, 0.75, 0.5, 0.25)]
    assert torch.allclose(sigmas(FLOW, "LightX2V Wan"), torch.tensor([*shifted, 0.0]), atol=1e-6)


def test_flux_2_turbo_is_what_diffusers_network_sees():
    """fal's list, through the scheduler and the shift of FLUX.2's pipeline, at 1024 x 1024."""
    card = [1.0, 0.6509, 0.4374, 0.2932, 0.1893, 0.1108, 0.0495, 0.00031]
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    scheduler.set_timesteps(sigmas=card, mu=compute_empirical_mu(64 * 64, 8))
    assert torch.allclose(sigmas(FLOW, "FLUX.2-turbo"), scheduler.sigmas, atol=1e-4)


@pytest.mark.parametrize("name", PUBLISHED)
def test_names_are_read_as_people_write_them(name):
    model = FLOW if PUBLISHED[name].startswith("sigmas") else VP
    assert torch.equal(sigmas(model, f" {name.upper()}  # as published"), sigmas(model, PUBLISHED[name]))
    assert page.picture({"timesteps": name})  # the strip on the page draws it too


def test_times_with_fractions_are_what_the_network_is_told():
    found = sigmas(FLOW, "937.5, 833.33, 625")
    assert model_sampling(FLOW).timestep(found).tolist() == pytest.approx([937.5, 833.33, 625, 0])
    below, above = model_sampling(VP).sigmas[[937, 938]].tolist()
    assert float(sigmas(VP, "937.5")[0]) == pytest.approx((below * above) ** 0.5, rel=1e-5)
    assert page.picture({"timesteps": "937.5, 833.33"}) == {"total": 1000, "timesteps": [937.5, 833.33]}


def test_whole_timesteps_stay_rows_of_the_table():
    rows = torch.tensor([999, 749])
    for model in (VP, FLOW):
        assert torch.equal(sigmas(model, "999, 749")[:-1], model_sampling(model).sigmas[rows].float())


def test_lcm_on_the_hosts_own_lcm_model():
    """Its table holds 50 of the 1000 timesteps; the list means the network's."""
    lcm = ModelSamplingDiscrete().patch(VP, "lcm", False)[0]
    wanted = model_sampling(VP).sigmas[[999, 759, 499, 259]]
    assert torch.allclose(sigmas(lcm, "LCM")[:-1], wanted, rtol=1e-5)
    assert torch.allclose(sigmas(lcm, "49, 37, 24, 12")[:-1], wanted)  # rows of its own table, as ever
    with pytest.raises(ValueError, match="timesteps holds 1001"):
        sigmas(lcm, "1001, 500")
