"""A sampling run as a film strip, with the numbers of its jumps."""

import itertools
import math
from collections.abc import Iterable
from math import sqrt

import latent_preview
import torch
from comfy.samplers import KSAMPLER, CFGGuider

from ..ddim.jump import coefficients
from . import latents
from .latents import Latent
from .model import ModelSampling, alphas, check_sigmas, model_sampling, of_flow
from .noise import latent_noise
from .sampler import ddim_sampler

# the table's columns and their widths in characters
WIDTHS = (
    {"step": 4, "t": 6, "s": 6, "alpha_bar": 9, "sigma": 9} | dict.fromkeys("abc", 8) | {"rms eps_hat": 11}
)


def record(
    guider: CFGGuider,
    seed: int,
    eta: float,
    latent: Latent,
    sigmas: torch.Tensor,
    sampler: KSAMPLER | None = None,
) -> tuple[Latent, Latent, str]:
    """(LATENT of x0_hat at every step, LATENT of the sample, table as text) for the first picture of a
    LATENT.

    sampler: a SAMPLER in DDIM's place; its table holds DDIM's jumps at eta 0 beside what the model saw.
    Raises ValueError for bad sigmas or eta before any model call.
    """
    model = guider.model_patcher
    sampling = model_sampling(model)
    levels = check_sigmas(sigmas, sampling)
    first = latents.batch_indices(latent)[:1]
    own, last = ddim_sampler(eta=eta, batch_index=first), len(levels) - 2
    samples = latents.check(latent, model)["samples"]
    if getattr(samples, "is_nested", False):
        raise ValueError(
            "latent_image holds video with sound; the film strip shows one kind of latent at a time"
        )
    samples = samples[:1]
    noise = latent_noise({"samples": samples, "batch_index": first}, seed)
    preview = latent_preview.prepare_callback(model, len(levels) - 1)
    alpha, strip, norms = alphas(sampling, levels), [], [math.nan] * (len(levels) - 1)

    def watch(step, x0, x, total):
        preview(step, x0, x, total)
        strip.append(x0.float().cpu())
        step = min(step, last)
        norms[step] = ((x - alpha[step] * x0) / levels[step]).float().pow(2).mean().sqrt()

    output = guider.sample(
        noise,
        samples,
        own if sampler is None else sampler,
        sigmas,
        denoise_mask=latent.get("noise_mask"),
        callback=watch,
        disable_pbar=True,
        seed=seed,
    )
    film = model.model.process_latent_out(torch.cat(strip))
    return (
        {"samples": film},
        {"samples": output},
        table(sampling, levels, alpha, eta if sampler is None else 0.0, [float(norm) for norm in norms]),
    )


def table(
    sampling: ModelSampling, levels: list[float], alpha: list[float], eta: float, norms: list[float]
) -> str:
    """The numbers of every jump as a table in Markdown, its columns as wide in plain text.

    a, b and c are those of the textbooks, where alpha^2 = alpha_bar and the noise has sqrt(1 - alpha_bar);
    for flow models, where x_t = (1 - t) x_0 + t eps, those of that frame.
    """
    flow = alpha[0] != alpha[-1] or alpha[0] != 1.0
    times = [
        float(sampling.timestep(torch.tensor(level).to(sampling.sigmas))) if level > 0 else 0.0
        for level in levels
    ]
    lines = [row(WIDTHS), row("-" * (width - 1) + ":" for width in WIDTHS.values())]
    for i, (level, below) in enumerate(itertools.pairwise(levels)):
        frame = []
        for k, sigma in ((i, level), (i + 1, below)):
            scale = 1.0 if flow else sqrt(1 + sigma**2)
            frame += [alpha[k] / scale, sigma / scale]
        a, b, c = coefficients(*frame, eta)
        after = f"{times[i + 1]:.2f}" if below > 0 else "end"
        numbers = [f"{each:.5f}" for each in (level, a, b, c, norms[i])]
        lines.append(row([str(i + 1), f"{times[i]:.2f}", after, f"{frame[0] ** 2:.6f}", *numbers]))
    lines += [
        "",
        *filter(None, [of_flow(levels, sampling)]),
        (
            "x_s = a x_t + b x0_hat + c z; rms eps is the size of the predicted noise, 1 for Gaussian"
            " noise; sigma as ComfyUI counts it"
        ),
    ]
    return "\n".join(lines)


def row(cells: Iterable[str]) -> str:
    """A row of the table: cells flush right in columns of WIDTHS."""
    return f"| {' | '.join(cell.rjust(width) for cell, width in zip(cells, WIDTHS.values(), strict=True))} |"
