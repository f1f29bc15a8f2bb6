"""Round trips of pictures: DDIMInversion beside flipped sigmas with `euler` and diffusers'
DDIMInverseScheduler at the same number of model calls."""

import json
import math
from pathlib import Path

from ._table import table

ROOT = Path(__file__).resolve().parent.parent
STEPS = (10, 20, 50)
PICTURES = 10  # on the shipped model: all that come with it


def main(folder):
    import torch
    from comfy.model_base import ModelType
    from ddim_toolkit.bench import analytic
    from ddim_toolkit.demo import model as demo
    from ddim_toolkit.demo import pictures

    means, generator = analytic.four_modes(), torch.Generator().manual_seed(1)
    draws = means + 0.5 * torch.randn(means.shape, generator=generator)
    cases = {
        f"four Gaussians, {kind.name.lower()}": (
            analytic.model(kind, means, 0.5),
            draws,
            analytic.CONDITIONING,
            "trailing",
        )
        for kind in (ModelType.EPS, ModelType.FLOW)
    }
    model, clip, vae = demo.load()
    prompts = [
        clip.encode_from_tokens_scheduled(clip.tokenize(name))[0] for name in pictures.NAMES[:PICTURES]
    ]
    together = [[torch.cat([prompt[0] for prompt in prompts]), prompts[0][1]]]
    unseen = vae.encode(torch.cat([pictures.load(name) for name in pictures.NAMES[:PICTURES]])).detach()
    cases[f"shipped model, {len(unseen)} pictures it has not seen"] = (model, unseen, together, "linspace")

    rows = [row(name, steps, *case) for name, case in cases.items() for steps in STEPS]
    (folder / "inversion.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    return "\n".join(
        [
            *table(rows, show),
            "",
            (
                "RMSE of the worst picture, in the latent as the model sees it. `ddim` and the noise maps"
                " make a call a step; flipped sigmas and diffusers have as many calls as `exact`."
            ),
        ]
    )


def row(name, steps, model, pictures, positive, stride):
    import comfy.sample
    import comfy.samplers
    import torch
    from ddim_toolkit.host import guiders, inversion, sampler, schedule

    euler, empty = comfy.samplers.sampler_object("euler"), torch.zeros_like(pictures)

    def run(noise, latent, sigmas, with_sampler=euler):
        return comfy.sample.sample_custom(
            model, noise, 1.0, with_sampler, sigmas, positive, positive, latent, disable_pbar=True
        )

    def rmse(back):
        process_in = model.model.process_latent_in
        return (
            (process_in(back) - process_in(pictures)).double().flatten(1).square().mean(1).sqrt().max().item()
        )

    sigmas = schedule.stride_sigmas(model, steps, stride)[0]
    guider = guiders.cfg_guider(model, positive, positive, 1.0)
    exact, ddim = (
        inversion.invert_latent(guider, {"samples": pictures}, sigmas, method=method)
        for method in ("exact", "ddim")
    )
    maps = inversion.invert_latent(guider, {"samples": pictures}, sigmas, eta=1.0, measure_round_trip=True)
    start = exact.noise.generate_noise({"samples": empty})
    calls = exact.run.calls
    more = schedule.stride_sigmas(model, calls, stride)[0]
    flipped = more.flip(0)
    flipped[0] = 1e-4  # as the host's FlipSigmas
    return {
        "model": name,
        "steps": steps,
        "calls of exact": calls,
        "exact": rmse(run(start, empty, sigmas, sampler.ddim_sampler())),
        "exact, host's euler": rmse(run(start, empty, sigmas)),
        "ddim": rmse(run(ddim.noise.generate_noise({"samples": empty}), empty, sigmas)),
        "noise maps at eta 1": maps.round_trip,
        "flipped sigmas": rmse(run(empty, run(empty, pictures, flipped), more)),
        "diffusers": diffusers_round_trip(model, pictures, positive, calls, rmse),
    }


def diffusers_round_trip(model, pictures, positive, steps, rmse):
    """RMSE of DDIMInverseScheduler and DDIMScheduler, asking the model through the host; None on flow models,
    which they do not know."""
    import comfy.sample
    import comfy.samplers
    import torch
    from comfy.model_sampling import CONST
    from ddim_toolkit.host.model import model_sampling
    from diffusers import DDIMInverseScheduler, DDIMScheduler

    if isinstance(model_sampling(model), CONST):
        return None
    options = dict(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        num_train_timesteps=1000,
        clip_sample=False,
        set_alpha_to_one=False,
        timestep_spacing="trailing",
    )
    both = DDIMInverseScheduler(**options), DDIMScheduler(**options)

    def there_and_back(denoiser, x, sigmas, extra_args=None, callback=None, disable=None):
        for scheduler in both:
            scheduler.set_timesteps(steps)
            for t in scheduler.timesteps:
                alpha = float(scheduler.alphas_cumprod[t]) ** 0.5
                sigma = math.sqrt(1 - alpha**2) / alpha
                x0 = denoiser(x / alpha, torch.full((len(x),), sigma, device=x.device), **extra_args)
                x = scheduler.step((x - alpha * x0) / math.sqrt(1 - alpha**2), t, x).prev_sample
        return x

    levels = torch.tensor([1.0, 0.0])
    zero = torch.zeros_like(pictures)
    return rmse(
        comfy.sample.sample_custom(
            model,
            zero,
            1.0,
            comfy.samplers.KSAMPLER(there_and_back),
            levels,
            positive,
            positive,
            pictures,
            disable_pbar=True,
        )
    )


def show(value):
    if value is None:
        return ""
    if not isinstance(value, float):
        return str(value)
    return f"{value:.1e}" if math.isfinite(value) else "NaN"
