"""A schedule measured on a MODEL: the probe runs through the host's own guider, so that guidance, LoRA and
patches count."""

import math

import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.utils
import latent_preview
import torch

from ..ddim import adaptive
from ..ddim.checks import allowed, within
from ..ddim.trajectory import BETWEEN
from . import latents
from .model import check_no_cache, model_sampling
from .noise import latent_noise

RESOLUTION = 20001


def probe_levels(sampling, count):
    """`count` noise levels from sigma_max to sigma_min, evenly by the mean of timestep and log sigma, as
    floats.

    Timesteps alone are too coarse at low noise, log sigma alone at the noisy end of a flow model.
    """
    top, bottom = float(sampling.sigma_max), float(sampling.sigma_min)
    logs = torch.linspace(math.log(top), math.log(bottom), RESOLUTION, dtype=torch.float64)
    # In float32, and on the model's device: the host's tables are there.
    times = sampling.timestep(logs.exp().float().to(sampling.sigmas.device)).double().cpu()
    times = (times[0] - times) / (times[0] - times[-1])
    places = (times + torch.linspace(0, 1, RESOLUTION, dtype=torch.float64)) / 2
    wanted = torch.linspace(0, 1, count, dtype=torch.float64)
    right = torch.searchsorted(places, wanted).clamp(1, RESOLUTION - 1)
    part = (wanted - places[right - 1]) / (places[right] - places[right - 1])
    levels = torch.lerp(logs[right - 1], logs[right], part.clamp(0, 1)).exp().tolist()
    return [top, *levels[1:-1], bottom]


def host_schedules(sampling, steps):
    """The host's own schedules of `steps` jumps, {name: sigmas}, for comparison. Those that fail or go astray
    are left out."""
    found = {}
    for name in comfy.samplers.SCHEDULER_NAMES:
        try:
            sigmas = comfy.samplers.calculate_sigmas(sampling, name, steps).double().cpu()
        except (
            ValueError,
            IndexError,
            ZeroDivisionError,
            AssertionError,
        ):  # some are not made for 1 or 2 steps
            continue
        if sigmas.isfinite().all() and (sigmas.diff() < 0).all():
            found[name] = sigmas.tolist()
    return found


def measured_schedule(
    model,
    positive,
    negative,
    cfg,
    latent,
    steps,
    *,
    order=1,
    sampler_name=adaptive.SAMPLERS[0],
    criterion=adaptive.CRITERIA[0],
    seed=0,
    probe_steps=64,
    images=4,
    refine=4,
):
    """(SIGMAS (steps + 1,), ddim.adaptive.Measured) for a MODEL under its conditioning and guidance; errors
    are those of the LATENT.

    The latent gives the size of the pictures; its first one is used. order and sampler_name are those of the
    sampler that will use the schedule, as ddim.adaptive.solver_of knows them. Raises ValueError for bad
    numbers.
    """
    solver = adaptive.solver_of(order, sampler_name)
    allowed("criterion", criterion, adaptive.CRITERIA)
    within("probe_images", images, 1)
    within("refine", refine, 0)
    within("probe_steps", probe_steps, 4, 256)
    if not 1 <= steps <= probe_steps:
        raise ValueError(f"steps is {steps}; allowed are 1 to probe_steps, which is {probe_steps}")
    check_no_cache(model)
    sampling = model_sampling(model)
    fine = probe_levels(sampling, (probe_steps - 1) * BETWEEN + 1)
    first = [
        part[:1].repeat(images, *[1] * (part.ndim - 1))
        for part in latents.parts(latents.check(latent, model))
    ]
    samples = latents.join(first, latent)
    noise = latent_noise({"samples": samples}, seed)
    candidates = host_schedules(sampling, steps)
    total = probe_steps + (steps * (refine + adaptive.STARTS) if refine else 0)  # at most
    out = model.model.process_latent_out  # affine: what a difference of x becomes in the LATENT
    preview = latent_preview.prepare_callback(model, total)
    result = []

    def measuring(model, x, sigmas, extra_args=None, callback=None, disable=None):
        calls = 0
        ones = x.new_ones([x.shape[0]])
        told = extra_args["model_options"]["transformer_options"]
        reference = told["sample_sigmas"]

        def denoise(x, sigma):
            nonlocal calls
            comfy.model_management.throw_exception_if_processing_interrupted()
            # Context windows look for the call's sigma here.
            among = torch.isclose(reference, reference.new_tensor(sigma), rtol=1e-4).any()
            told["sample_sigmas"] = reference if among else reference.new_tensor([sigma, 0.0])
            x0 = model(x, sigma * ones, **extra_args).float()
            preview(calls, x0, x, total)
            calls += 1
            return x0

        x = x.float()
        result.append(
            adaptive.measure(
                denoise,
                x,
                fine,
                steps,
                solver=solver,
                refine=refine,
                candidates=candidates,
                criterion=criterion,
                seen=lambda x: out(x) - out(torch.zeros_like(x)),
            )
        )
        return x

    comfy.sample.sample_custom(
        model,
        noise,
        cfg,
        comfy.samplers.KSAMPLER(measuring),
        torch.tensor([*fine[::BETWEEN], 0.0]),
        positive,
        negative,
        samples,
        seed=seed,
        disable_pbar=True,
    )
    return as_sigmas(result[0].sigmas), result[0]


def as_sigmas(levels):
    """Levels as SIGMAS, the inner ones rounded to six digits so that they can be written down exactly."""
    return torch.tensor([levels[0], *(float(f"{level:.6g}") for level in levels[1:])])


def as_text(sigmas):
    """SIGMAS as the list that DDIM Custom Schedule reads back exactly: the shortest digits that name each
    float32."""
    return "sigmas: " + ", ".join(str(sigma) for sigma in sigmas.numpy())
