"""A run that stops part of the way, is picked from a batch, and goes on, as in Draft that continues."""

import pytest
import torch
from comfy.model_base import ModelType
from comfy_extras.nodes_custom_sampler import SamplerCustom, SplitSigmas
from ddim_toolkit.bench import analytic
from ddim_toolkit.nodes.drafting import DDIMContactSheet
from ddim_toolkit.nodes.sampling import DDIMSampler
from ddim_toolkit.nodes.schedules import DDIMStrideScheduler
from test_cancel import Calls

C = analytic.CONDITIONING
STEPS, DRAFT = 12, 5


def sampled(model, seed, eta, sigmas, latent, add_noise, picked=None):
    """SamplerCustom's (LATENT, LATENT of x0_hat) with this pack's sampler."""
    ddim = DDIMSampler.execute(eta, "posterior", 1, "none", "cpu", 0, 4.0, picked).args[0]
    return SamplerCustom.execute(model, add_noise, seed, 1.0, C, C, ddim, sigmas, latent).args


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("kind", [ModelType.EPS, ModelType.V_PREDICTION, ModelType.EDM, ModelType.FLOW])
def test_the_final_is_the_picture_of_the_whole_run(kind, eta):
    """Bit for bit, and no model call more; on flow models but for the host's division by alpha between the
    two runs."""
    model = analytic.model(kind, analytic.four_modes(), 0.3)
    empty = {"samples": torch.zeros(4, 4, 8, 8)}
    sigmas = DDIMStrideScheduler.execute(model, STEPS, "trailing", 1.0).args[0]
    whole = sampled(model, 7, eta, sigmas, empty, True)[0]["samples"]

    counted = Calls()
    model = counted.watching(model)
    high, low = SplitSigmas.execute(sigmas, DRAFT).args
    state, estimate = sampled(model, 7, eta, high, empty, True)
    assert counted.count == DRAFT and not torch.equal(estimate["samples"], state["samples"])
    images = torch.rand(4, 8, 8, 3)
    for picks, rows in (("2", [1]), ("4, 1", [3, 0])):
        counted.count = 0
        latent = DDIMContactSheet.execute(images, picks, 0, state).args[1]
        final = sampled(model, 7, eta, low, latent, False, latent)[0]["samples"]
        assert counted.count == STEPS - DRAFT
        if kind == ModelType.FLOW:
            assert (final - whole[rows]).abs().max() < 1e-5
        else:
            assert torch.equal(final, whole[rows])
