"""The lists of distilled models against those who publish them, and times with fractions against the host."""

import pytest
import torch
from comfy.model_base import ModelType
from ddim_toolkit.bench import analytic
from ddim_toolkit.ddim.published import PUBLISHED
from ddim_toolkit.host import page
from ddim_toolkit.host.model import model_sampling
from ddim_toolkit.nodes.schedules import DDIMCustomSchedule
from diffusers import DDIMScheduler, EulerDiscreteScheduler, LCMScheduler, TCDScheduler

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


def test_flux_2_turbo_is_a_flow_models():
    found = sigmas(FLOW, "FLUX.2-turbo")
    assert len(found) == 9 and found[0] == 1 and found[-1] == 0 and (found.diff() < 0).all()


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
