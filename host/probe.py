"""A schedule measured on a MODEL: the probe runs through the host's own guider, so that guidance, LoRA and
patches count."""

import itertools
import math

import comfy.model_management
import comfy.samplers
import latent_preview
import torch
from comfy.model_patcher import ModelPatcher

from ..ddim.checks import allowed, within
from ..ddim.measured.coefficients import Coefficients
from ..ddim.measured.schedule import CRITERIA, Measurement, measure
from ..ddim.multistep import PLMS, DPMSolver2M
from . import latents
from .guiders import is_plain
from .latents import Latent
from .measured_sampler import BoundCoefficients, GuidanceHook, kind, rounded
from .model import ModelSampling, check_no_cache, model_sampling
from .noise import latent_noise
from .sampler import ddim_sampler

SAMPLERS = ("DDIM", "dpmpp_2m", "measured")
RESOLUTION = 20001  # points of the curve of places over log sigma, which is read backwards


def probe_levels(sampling: ModelSampling, count: int) -> list[float]:
    """`count` noise levels from sigma_max to sigma_min, evenly by the mean of timestep and log sigma.

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


def host_schedules(sampling: ModelSampling, steps: int) -> dict[str, list[float]]:
    """The host's own schedules of `steps` jumps by their names, for comparison. Those that fail or go astray
    are left out."""
    found = {}
    for name in comfy.samplers.SCHEDULER_NAMES:
        try:
            sigmas = comfy.samplers.calculate_sigmas(sampling, name, steps).double().cpu()
        except (ValueError, IndexError, ZeroDivisionError, AssertionError):  # not made for 1 or 2 steps
            continue
        if sigmas.isfinite().all() and (sigmas.diff() < 0).all():
            found[name] = sigmas.tolist()
    return found


class Prompts(comfy.samplers.CFGGuider):
    """A CFGGuider for several prompts at once: the batch is as many pictures of each, one after the other."""

    def set_prompts(self, positives: list, negative: list) -> None:
        self.names = ["positive", *(f"positive_{k}" for k in range(2, len(positives) + 1))]
        self.inner_set_conds(dict(zip(self.names, positives, strict=True)) | {"negative": negative})

    def predict_noise(
        self,
        x: torch.Tensor,
        timestep: torch.Tensor,
        model_options: dict | None = None,
        seed: int | None = None,
    ) -> torch.Tensor:
        parts = zip(x.chunk(len(self.names)), timestep.chunk(len(self.names)), self.names, strict=True)
        return torch.cat(
            [
                comfy.samplers.sampling_function(
                    self.inner_model,
                    part,
                    time,
                    self.conds.get("negative"),
                    self.conds[name],
                    self.cfg,
                    model_options=model_options or {},
                    seed=seed,
                )
                for part, time, name in parts
            ]
        )


def measured_schedule(
    model: ModelPatcher | None,
    positives: list,
    negative: list,
    cfg: float,
    latent: Latent,
    steps: int,
    *,
    order: int = 1,
    sampler_name: str = "DDIM",
    criterion: str = CRITERIA[0],
    seed: int = 0,
    probe_steps: int = 64,
    images: int = 4,
    refine: int = 4,
    guider: comfy.samplers.CFGGuider | None = None,
) -> tuple[torch.Tensor, BoundCoefficients | None, Measurement]:
    """(SIGMAS (steps + 1,), coefficients or None where they gain nothing, what was found) for a MODEL.

    Errors are those of the LATENT. latent gives the size of the pictures; its first one is used. positives:
    the prompts, `images` pictures of each. order and sampler_name: of the sampler without coefficients that
    the schedule is to suit. guider: measured as it is, with its own model and prompts, in place of model,
    positives, negative and cfg. Raises ValueError for bad numbers.
    """
    allowed("sampler_name", sampler_name, SAMPLERS)
    if sampler_name == "dpmpp_2m" and order != 2:
        raise ValueError(f"order is {order}; dpmpp_2m is of order 2")
    ddim = "euler" if order == 1 or sampler_name != "DDIM" else f"DDIM Sampler of order {order}"
    samplers = {
        ddim: PLMS(order if sampler_name == "DDIM" else 1),
        "dpmpp_2m": DPMSolver2M(),
    }
    used = {"DDIM": ddim, "dpmpp_2m": "dpmpp_2m", "measured": None}[sampler_name]
    allowed("criterion", criterion, CRITERIA)
    within("probe_images", images, 1)
    within("refine", refine, 0)
    within("probe_steps", probe_steps, 4, 256)
    if not 1 <= steps <= probe_steps:
        raise ValueError(f"steps is {steps}; allowed are 1 to probe_steps, which is {probe_steps}")
    if guider is None:
        guider = Prompts(model)
        guider.set_prompts(positives, negative)
        guider.set_cfg(cfg)
    else:
        model, positives = guider.model_patcher, [None]
        cfg = float(guider.cfg) if is_plain(guider) else type(guider).__name__
    guided = cfg != 1 and not isinstance(cfg, str)
    check_no_cache(model)
    sampling = model_sampling(model)
    levels = probe_levels(sampling, probe_steps)
    latent = latents.check(latent, model)
    samples = latents.join(
        [part[:1].repeat(images * len(positives), *[1] * (part.ndim - 1)) for part in latents.parts(latent)],
        latent,
    )
    total = probe_steps + (steps * (refine + 4) if refine else 0)  # at most
    out = model.model.process_latent_out  # affine: what a difference of x becomes in the LATENT
    preview = latent_preview.prepare_callback(model, total)
    result = []

    def measuring(model, x, sigmas, extra_args=None, callback=None, disable=None):
        calls, x = itertools.count(), x.float()
        guidance = GuidanceHook(len(x))
        watched = guidance.watched(extra_args)
        told = watched["model_options"]["transformer_options"]
        reference = told["sample_sigmas"]

        def answer(x, sigma):
            comfy.model_management.throw_exception_if_processing_interrupted()
            # Context windows look for the call's sigma here.
            among = torch.isclose(reference, reference.new_tensor(sigma), rtol=1e-4).any()
            told["sample_sigmas"] = reference if among else reference.new_tensor([sigma, 0.0])
            guidance.parts.clear()
            x0 = model(x, x.new_full([len(x)], sigma), **watched).float()
            preview(next(calls), x0, x, total)
            return x0

        measured = measure(
            answer,
            x,
            levels,
            steps,
            samplers=samplers,
            used=used,
            candidates=host_schedules(sampling, steps),
            criterion=criterion,
            refine=refine,
            seen=lambda x: out(x) - out(torch.zeros_like(x)),
            guidance=guidance if guided else None,
            interrupt=comfy.model_management.throw_exception_if_processing_interrupted,
        )
        result.append(measured)
        return x

    noise = latent_noise({"samples": samples}, seed)
    guider.sample(
        noise,
        samples,
        comfy.samplers.KSAMPLER(measuring),
        torch.tensor([*levels, 0.0]),
        disable_pbar=True,
        seed=seed,
    )
    [measured] = result
    sigmas = as_sigmas(measured.sigmas)
    if measured.coefficients is None:
        return sigmas, None, measured
    weights = rounded(measured.coefficients.weights)
    coefficients = Coefficients(tuple(sigmas.tolist()), weights, measured.coefficients.guided)
    return (
        sigmas,
        BoundCoefficients(coefficients, kind(model.model), cfg if isinstance(cfg, str) else float(cfg)),
        measured,
    )


def plain_sampler(sampler_name: str, order: int) -> comfy.samplers.KSAMPLER:
    """SAMPLER of a schedule's choice, without coefficients."""
    if sampler_name == "dpmpp_2m":
        return comfy.samplers.sampler_object(sampler_name)
    return ddim_sampler(order=order if sampler_name == "DDIM" else 1)


def as_sigmas(levels: list[float]) -> torch.Tensor:
    """Levels as SIGMAS, the inner ones rounded to six digits so that they can be written down exactly."""
    return torch.tensor([levels[0], *(float(f"{level:.6g}") for level in levels[1:])])
