"""The host's guiders, and a run of one."""

import comfy.utils
import latent_preview
import torch
from comfy.model_patcher import ModelPatcher
from comfy.samplers import KSAMPLER, CFGGuider

from .latents import Latent


def cfg_guider(model: ModelPatcher, positive: list, negative: list, cfg: float) -> CFGGuider:
    """The host's guider of a prompt and a negative one."""
    guider = CFGGuider(model)
    guider.set_conds(positive, negative)
    guider.set_cfg(cfg)
    return guider


def is_plain(guider: CFGGuider) -> bool:
    """Whether a GUIDER answers as CFGGuider does: x0_uncond + cfg (x0_cond - x0_uncond)."""
    return type(guider).predict_noise is CFGGuider.predict_noise


def sample(
    guider: CFGGuider,
    noise: torch.Tensor,
    latent: Latent,
    sampler: KSAMPLER,
    sigmas: torch.Tensor,
    seed: int,
) -> torch.Tensor:
    """A run with previews and progress, as the host's SamplerCustomAdvanced makes it: the sampled tensor."""
    callback = latent_preview.prepare_callback(guider.model_patcher, len(sigmas) - 1)
    return guider.sample(
        noise,
        latent["samples"],
        sampler,
        sigmas,
        denoise_mask=latent.get("noise_mask"),
        callback=callback,
        disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
        seed=seed,
    )
