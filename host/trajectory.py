"""A sampling run as a film strip, with the numbers of its jumps."""

import itertools
from math import sqrt

import comfy.sample
import latent_preview
import torch

from ..ddim.jump import coefficients
from . import latents
from .model import alphas, check_sigmas, model_sampling, of_flow
from .noise import latent_noise
from .sampler import ddim_sampler


def film_strip(model, seed, cfg, eta, positive, negative, latent, sigmas):
    """(LATENT of x0_hat at every step, LATENT of the sample, table as text) for the first picture of a
    LATENT.

    Raises ValueError for bad sigmas or eta before any model call.
    """
    sampling = model_sampling(model)
    levels = check_sigmas(sigmas, sampling)
    first = latents.batch_indices(latent)[:1]
    sampler = ddim_sampler(eta=eta, batch_index=first)
    samples = latents.check(latent, model)["samples"]
    if getattr(samples, "is_nested", False):
        raise ValueError(
            "latent_image holds video with sound; the film strip shows one kind of latent at a time"
        )
    samples = samples[:1]
    noise = latent_noise({"samples": samples, "batch_index": first}, seed)
    preview = latent_preview.prepare_callback(model, len(levels) - 1)
    alpha, strip, norms = alphas(sampling, levels), [], []

    def watch(step, x0, x, total):
        preview(step, x0, x, total)
        strip.append(x0.float().cpu())
        norms.append(((x - alpha[step] * x0) / levels[step]).float().pow(2).mean().sqrt())

    output = comfy.sample.sample_custom(
        model,
        noise,
        cfg,
        sampler,
        sigmas,
        positive,
        negative,
        samples,
        noise_mask=latent.get("noise_mask"),
        seed=seed,
        callback=watch,
        disable_pbar=True,
    )
    film = model.model.process_latent_out(torch.cat(strip))
    return (
        {"samples": film},
        {"samples": output},
        table(sampling, levels, alpha, eta, [float(norm) for norm in norms]),
    )


def table(sampling, levels, alpha, eta, norms):
    """The numbers of every jump as text.

    a, b and c are those of the textbooks, where alpha^2 = alpha_bar and the noise has sqrt(1 - alpha_bar);
    for flow models, where x_t = (1 - t) x_0 + t eps, those of that frame.
    """
    flow = alpha[0] != alpha[-1] or alpha[0] != 1.0
    times = [
        float(sampling.timestep(torch.tensor(level).to(sampling.sigmas))) if level > 0 else 0.0
        for level in levels
    ]
    lines = [
        f"{'step':>4} {'t':>8} {'s':>8} {'alpha_bar':>10} {'sigma':>9} {'a':>8} {'b':>8} {'c':>8}"
        f" {'|eps_hat|':>9}"
    ]
    for i, (level, below) in enumerate(itertools.pairwise(levels)):
        frame = []
        for k, sigma in ((i, level), (i + 1, below)):
            scale = 1.0 if flow else sqrt(1 + sigma**2)
            frame += [alpha[k] / scale, sigma / scale]
        a, b, c = coefficients(*frame, eta)
        after = f"{times[i + 1]:8.2f}" if below > 0 else f"{'end':>8}"
        lines.append(
            f"{i + 1:4} {times[i]:8.2f} {after} {frame[0] ** 2:10.6f} {level:9.5f} {a:8.5f} {b:8.5f} {c:8.5f}"
            f" {norms[i]:9.5f}"
        )
    lines += [
        "",
        *filter(None, [of_flow(levels, sampling)]),
        (
            "x_s = a x_t + b x0_hat + c z ; |eps_hat| is the root mean square, 1 for Gaussian noise ; sigma"
            " as ComfyUI counts it"
        ),
    ]
    return "\n".join(lines)
