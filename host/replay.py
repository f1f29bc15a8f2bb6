"""A recorded inversion as a ComfyUI SAMPLER."""

from math import isclose

import comfy.samplers

from ..ddim import invert
from .loop import model_calls
from .model import alphas, check_sigmas
from .travel import SamplerFunction


def replay_sampler(run, sigmas, eta, sampling):
    """SAMPLER that replays an Inversion over `sigmas` or a stretch of them: a plain value that pickles.

    sampling: the model_sampling that the inversion ran with.
    """
    levels = sigmas.double().tolist()
    recorded = {"levels": levels, "alpha": alphas(sampling, levels), "states": run.states, "maps": run.maps}
    return comfy.samplers.KSAMPLER(sample_replay, {**recorded, "eta": eta})


@SamplerFunction
def sample_replay(
    model, x, sigmas, extra_args=None, callback=None, disable=None, *, levels, alpha, states, maps, eta
):
    """The host's sampler-function signature around `ddim.invert.replay`.

    It starts at the recorded state of sigmas[0], whatever noise and latent the run was given, so that a run
    that skips the first steps (SplitSigmas) still starts at the picture. Raises ValueError for other sigmas
    than those recorded, a model that mixes picture and noise otherwise (flow or not), and a batch of another
    size or shape.
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
    start = states[first].to(x.device, copy=True).expand(x.shape)  # a callback may write into it
    with model_calls(model, start, sigmas, extra_args, callback, disable) as (denoise, report):
        return invert.replay(denoise, start, maps[first:], wanted_alpha, wanted, eta, report)


def position(wanted, levels):
    """Where the sigmas `wanted` lie in the recorded ones, without a gap."""
    for first in range(len(levels) - len(wanted) + 1):
        if all(isclose(a, b, rel_tol=1e-5) for a, b in zip(wanted, levels[first:], strict=False)):
            return first
    raise ValueError(
        f"sigmas: the replay sampler knows the {len(levels)} sigmas {levels[0]:.4g} to {levels[-1]:.4g} of"
        f" its inversion, or a stretch of them (SplitSigmas); it was given {len(wanted)} from {wanted[0]:.4g}"
        f" to {wanted[-1]:.4g}"
    )
