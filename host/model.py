"""What the engine needs to know of a ComfyUI MODEL: its table of noise levels and its alpha at each."""

import itertools
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from comfy.model_patcher import ModelPatcher

log = logging.getLogger(__name__)
LEAST = torch.finfo(torch.float32).tiny  # below, one over it is infinite


class ModelSampling(Protocol):
    """What the pack asks of the host's model_sampling, whatever the model predicts."""

    sigmas: torch.Tensor  # (T,): the table of noise levels, rising
    sigma_min: torch.Tensor
    sigma_max: torch.Tensor

    def sigma(self, timestep: torch.Tensor) -> torch.Tensor: ...

    def timestep(self, sigma: torch.Tensor) -> torch.Tensor: ...

    def percent_to_sigma(self, percent: float) -> float: ...

    def noise_scaling(
        self, sigma: torch.Tensor, noise: torch.Tensor, latent_image: torch.Tensor, max_denoise: bool = False
    ) -> torch.Tensor: ...


def model_sampling(model: ModelPatcher) -> ModelSampling:
    """The model_sampling object of a MODEL, patches (ModelSamplingSD3, ...) included."""
    return model.get_model_object("model_sampling")


def alphas(sampling: ModelSampling, sigmas: Sequence[float]) -> list[float]:
    """alpha at each sigma as Python floats, asked of the host itself: its mixture of image 1 and noise 0.

    1 for eps, v and EDM models in the frame that samplers see, 1 - sigma for flow models.
    """
    levels = torch.as_tensor(sigmas, dtype=torch.float64, device="cpu")
    noise, image = (
        torch.zeros(len(levels), 1, dtype=torch.float64),
        torch.ones(len(levels), 1, dtype=torch.float64),
    )
    return sampling.noise_scaling(levels, noise, image).flatten().tolist()


def table(sampling: ModelSampling) -> torch.Tensor:
    """The model's noise levels by timestep, low to high, float32 on the CPU: shape (T,)."""
    return sampling.sigmas.detach().float().cpu()


def rows_of(sampling: ModelSampling, sigmas: Sequence[float]) -> list[float]:
    """Where sigmas above 0 lie in the model's table, as floats: between rows by log sigma, as in the host."""
    return np.interp(np.log(sigmas), table(sampling).double().log(), np.arange(len(table(sampling)))).tolist()


def levels_at(sampling: ModelSampling, rows: Sequence[float]) -> list[float]:
    """The inverse of `rows_of`."""
    logs = table(sampling).double().log()
    return np.exp(np.interp(rows, np.arange(len(logs)), logs)).tolist()


def sigmas_at(sampling: ModelSampling, timesteps: Sequence[int]) -> torch.Tensor:
    """SIGMAS of whole timesteps, with the 0 at which every run ends: shape (len(timesteps) + 1,)."""
    return torch.cat([table(sampling)[list(timesteps)], torch.zeros(1)])


def check_no_cache(model: ModelPatcher) -> None:
    """Raise ValueError for a MODEL whose answer to a call depends on the calls before it."""
    cache = model.model_options.get("transformer_options", {}).get("easycache")
    if cache is not None:
        raise ValueError(
            f"model: {cache.name} answers a call from those before it, which here come in another order than"
            f" in sampling. Connect the model from before {cache.name}"
        )


def precision(model: ModelPatcher) -> torch.dtype:
    """The dtype in which a MODEL computes."""
    return model.model.manual_cast_dtype or model.model.get_dtype()


def check_sigmas(sigmas: torch.Tensor, sampling: ModelSampling | None = None) -> list[float]:
    """SIGMAS as a list of floats. Raises ValueError unless they are one row, finite, 0 or at least LEAST, two
    or more, never rising, start above 0 and (given ``sampling``) within the model's range."""
    if sigmas.ndim != 1:
        raise ValueError(f"sigmas has the shape {tuple(sigmas.shape)}; it must be one row of noise levels")
    levels = sigmas.detach().double().cpu().tolist()
    if len(levels) < 2:
        raise ValueError(
            f"sigmas has {len(levels)} value(s); a run needs at least two, one more than its steps"
        )
    for i, level in enumerate(levels):
        if not math.isfinite(level) or level < 0:
            raise ValueError(f"sigmas[{i}] is {level}; every sigma must be finite and not negative")
        if 0 < level < LEAST:
            raise ValueError(f"sigmas[{i}] is {level:g}; the least above 0 is {LEAST:.2g}")
    for i, (t, s) in enumerate(itertools.pairwise(levels)):
        if s > t:
            raise ValueError(
                f"sigmas rise from {t:.6g} to {s:.6g} at step {i + 1}; sampling needs them to go down"
            )
    if levels[-2] == 0:
        raise ValueError("sigmas reach 0 before their last value; nothing is left to sample there")
    if sampling is not None and levels[0] > float(sampling.sigma_max) * 1.001:
        raise ValueError(
            f"sigmas start at {levels[0]:.6g}; this model's sigma_max is {float(sampling.sigma_max):.6g}"
        )
    if sampling is not None and of_flow(levels, sampling):
        log.warning("DDIM: %s", of_flow(levels, sampling))
    return levels


@dataclass
class Start:
    """How the host mixes what a run starts at: alpha * latent + scale * noise; top: from pure noise."""

    alpha: float
    scale: float
    top: bool

    @classmethod
    def of(cls, sampling: ModelSampling, sigma: float) -> "Start":
        """For a run that starts at `sigma`, with the model's model_sampling."""
        highest = float(sampling.sigma_max)
        top = math.isclose(highest, sigma, rel_tol=1e-5) or sigma > highest
        one, none, sigma = torch.ones(1, 1), torch.zeros(1, 1), torch.tensor(sigma)
        alpha = sampling.noise_scaling(sigma, none, one, top).item()
        return cls(alpha, sampling.noise_scaling(sigma, one, none, top).item(), top)

    def noise(self, state: torch.Tensor, picture: torch.Tensor) -> torch.Tensor:
        """The noise from which a run on `picture` starts at `state`."""
        return (state - self.alpha * picture) / self.scale


def of_flow(levels: Sequence[float], sampling: ModelSampling) -> str:
    """What to tell the user where levels look like a flow model's and the model is none; else empty."""
    top = float(sampling.sigma_max)
    if not math.isclose(levels[0], 1.0, rel_tol=1e-6) or top < 1.1 or alphas(sampling, [1.0]) != [1.0]:
        return ""
    return (
        f"sigmas start at 1, where flow models start; this is none, and its noise goes up to {top:.6g}."
        " If they were made with a flow model, make them with this one"
    )
