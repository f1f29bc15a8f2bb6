"""A recorded inversion as a ComfyUI SAMPLER."""

from collections.abc import Callable
from math import isclose

import comfy.samplers
import torch

from ..ddim import invert
from . import latents
from .loop import model_calls
from .model import ModelSampling, Start, alphas, check_sigmas
from .travel import SamplerFunction


def replay_sampler(
    run: invert.Inversion, sigmas: torch.Tensor, eta: float, sampling: ModelSampling
) -> comfy.samplers.KSAMPLER:
    """SAMPLER that replays an Inversion over `sigmas` or a stretch of them: a plain value that pickles.

    sampling: the model_sampling that the inversion ran with.
    """
    levels = sigmas.double().tolist()
    recorded = {"levels": levels, "alpha": alphas(sampling, levels), "states": run.states, "maps": run.maps}
    return comfy.samplers.KSAMPLER(sample_replay, {**recorded, "eta": eta})


def held_to_the_record(
    replay: comfy.samplers.KSAMPLER,
    strength: float,
    start: float = 0.0,
    end: float = 1.0,
    mask: torch.Tensor | None = None,
) -> comfy.samplers.KSAMPLER:
    """A replay SAMPLER that mixes the recorded states back in after its steps, from the part `start` of the
    recorded steps to the part `end`, where the MASK says. Raises ValueError for another sampler or bad
    numbers."""
    if getattr(replay, "sampler_function", None) is not sample_replay:
        raise ValueError("replay: it is no replay sampler; connect the output `replay` of DDIM Inversion")
    if not 0.0 <= strength <= 1.0:
        raise ValueError(f"strength is {strength}; it must lie between 0 (free) and 1 (the recorded picture)")
    if not 0.0 <= start <= end <= 1.0:
        raise ValueError(f"start is {start} and end {end}; they must lie between 0 and 1, start below end")
    if mask is not None:
        latents.check_mask("mask", mask)
    options = {"strength": strength, "start": start, "end": end, "mask": mask}
    return comfy.samplers.KSAMPLER(sample_replay, replay.extra_options | options)


@SamplerFunction
def sample_replay(
    model: comfy.samplers.KSamplerX0Inpaint,
    x: torch.Tensor,
    sigmas: torch.Tensor,
    extra_args: dict | None = None,
    callback: Callable[[dict], None] | None = None,
    disable: bool | None = None,
    *,
    levels: list[float],
    alpha: list[float],
    states: list[torch.Tensor],
    maps: list[torch.Tensor],
    eta: float,
    strength: float = 0.0,
    start: float = 0.0,
    end: float = 1.0,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """The host's sampler-function signature around `ddim.invert.replay`.

    It starts at the recorded state of sigmas[0], whatever noise and latent the run was given, so that a run
    that skips the first steps (SplitSigmas) still starts at the picture; under a noise mask the model then
    sees the recorded noise too. strength, start, end, mask are those of `held_to_the_record`. Raises
    ValueError for other sigmas than those recorded, a model that mixes picture and noise otherwise (flow or
    not), and a batch of another size or shape.
    """
    extra_args = {} if extra_args is None else extra_args
    sampling = model.inner_model.inner_model.model_sampling
    wanted = check_sigmas(sigmas, sampling)
    first, wanted_alpha = position(wanted, levels), alphas(sampling, wanted)
    if not all(isclose(a, b, abs_tol=1e-4) for a, b in zip(wanted_alpha, alpha[first:], strict=False)):
        kinds = [" and ".join(f"{a:.3g}" for a in many[:2]) for many in (alpha[first:], wanted_alpha)]
        raise ValueError(
            f"model: the replay sampler was recorded on another kind of model (alpha {kinds[0]} at its first"
            f" sigmas, here {kinds[1]}): a flow model's states fit no eps or v model, nor theirs a flow model"
        )
    if states[first].shape[1:] != x.shape[1:] or states[first].shape[0] not in (1, x.shape[0]):
        raise ValueError(
            f"replay: it was recorded for latents of shape {tuple(states[first].shape)}; latent_image has"
            f" {tuple(x.shape)}"
        )
    if extra_args.get("denoise_mask") is not None:
        record = Start.of(sampling, levels[0])
        model.noise = record.noise(states[0].to(x), model.latent_image)
    where = 1.0 if mask is None else latents.spread(mask, x)
    parts = [k / len(maps) for k in range(first, len(maps))]
    weights = [strength * where if strength and start <= part < end else None for part in parts]
    x = states[first].to(x.device, copy=True).expand(x.shape)  # a callback may write into it
    with model_calls(model, x, sigmas, extra_args, callback, disable) as (denoise, report):
        run = wanted_alpha, wanted, eta, report
        return invert.replay(denoise, x, maps[first:], *run, states=states[first:], weights=weights)


def position(wanted: list[float], levels: list[float]) -> int:
    """Where the sigmas `wanted` lie in the recorded ones, without a gap. Raises ValueError where they do
    not."""
    for first in range(len(levels) - len(wanted) + 1):
        if all(isclose(a, b, rel_tol=1e-5) for a, b in zip(wanted, levels[first:], strict=False)):
            return first
    raise ValueError(
        f"sigmas: the replay sampler knows the {len(levels)} sigmas {levels[0]:.4g} to {levels[-1]:.4g} of"
        f" its inversion, or a stretch of them (SplitSigmas); it was given {len(wanted)} from {wanted[0]:.4g}"
        f" to {wanted[-1]:.4g}"
    )
