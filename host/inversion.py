"""Inversion through the host: its guider, so that conditioning, masks, hooks, previews and cancel work as in
sampling."""

from dataclasses import dataclass

import comfy.model_management
import comfy.samplers
import comfy.utils
import latent_preview
import torch
from tqdm.auto import tqdm

from ..ddim import invert
from ..ddim.checks import allowed
from . import latents
from .model import alphas, check_sigmas, model_sampling
from .noise import HeldNoise, batch_noise, latent_noise
from .replay import replay_sampler
from .sampler import ddim_sampler, stream
from .travel import Travels

METHODS = ("exact", "ddim")


@dataclass(frozen=True, eq=False)
class InvertedNoise(Travels):
    """NOISE from which a run over the inversion's sigmas starts at the state that was found, on whatever
    latent.

    A run starts at alpha * latent + scale * noise, in the scale the model sees; the noise that takes an empty
    latent there is known, and what another latent brings along is taken off it.

    held           HeldNoise for an empty latent
    weight         alpha / scale
    latent_format  the model's, for the scale that the model sees
    """

    held: HeldNoise
    weight: float
    latent_format: object

    @property
    def seed(self):
        return self.held.seed

    def generate_noise(self, latent):
        parts = [part.detach().cpu().float() for part in latents.parts(latent)]
        noise = self.held.generate_noise(latent | {"samples": latents.join(parts, latent)})
        if self.weight == 0 or not any(
            part.any() for part in parts
        ):  # the host leaves an empty latent as it is
            return noise
        seen = self.latent_format.process_in(packed(parts))
        return unpacked(packed(latents.parts({"samples": noise})) - self.weight * seen, latent)


class Inverter(comfy.samplers.Sampler):
    """A SAMPLER that runs from the latent to the noise. What it finds stays in `run`, `start` and `weights`:
    the host divides what a sampler returns by 1 - sigma on flow models, which is 0 at their top."""

    def __init__(self, method, eta, tolerance, max_iterations, indices):
        self.method, self.eta, self.tolerance, self.max_iterations, self.indices = (
            method,
            eta,
            tolerance,
            max_iterations,
            indices,
        )

    def sample(
        self,
        model_wrap,
        sigmas,
        extra_args,
        callback,
        noise,
        latent_image=None,
        denoise_mask=None,
        disable_pbar=False,
    ):
        sampling = model_wrap.inner_model.model_sampling
        levels = check_sigmas(sigmas, sampling)
        levels_alpha = alphas(sampling, levels)
        model = comfy.samplers.KSamplerX0Inpaint(model_wrap, sigmas)
        model.latent_image, model.noise = latent_image, noise
        extra_args["denoise_mask"] = denoise_mask
        x = levels_alpha[-1] * latent_image.float()
        ones, calls = x.new_ones([x.shape[0]]), 0
        steps = len(levels) - 1
        solving = self.method == "exact" and self.eta == 0

        with tqdm(total=steps, disable=disable_pbar) as bar:

            def denoise(x, i):
                nonlocal calls
                comfy.model_management.throw_exception_if_processing_interrupted()
                x0 = model(x, sigmas[i] * ones, **extra_args)
                calls += 1
                bar.total = (
                    calls + 3 * i if solving else steps
                )  # about 3 calls a step that is still to be solved
                bar.update()
                if callback is not None:
                    callback(calls - 1, x0, x, max(bar.total, calls))
                return x0

            def draw(i):
                number = stream(levels[i], 0) + (1 << 64)  # other noise than that of a run with the same seed
                return batch_noise(extra_args.get("seed") or 0, self.indices, x.shape[1:], stream=number).to(
                    x.device
                )

            if self.eta > 0:
                self.run = invert.noise_maps(denoise, x, levels_alpha, levels, self.eta, draw)
            elif solving:
                self.run = invert.exact(denoise, x, levels_alpha, levels, self.tolerance, self.max_iterations)
            else:
                self.run = invert.ddim(denoise, x, levels_alpha, levels)

        self.top = self.max_denoise(model_wrap, sigmas)
        unit = torch.ones((1, 1), device=sigmas.device)
        self.alpha, self.scale = (
            sampling.noise_scaling(sigmas[0], noise_part, latent_part, self.top).item()
            for noise_part, latent_part in ((unit * 0, unit), (unit, unit * 0))
        )
        start = self.run.states[0]
        if denoise_mask is not None:  # what the mask keeps comes back from any noise: it gets proper one
            drawn = self.alpha * latent_image + self.scale * noise
            start = torch.where(denoise_mask.cpu() > 0, start, drawn.float().cpu())
        self.start = start
        return latent_image


@dataclass
class Inverted:
    """What an inversion found: noise NOISE, latent LATENT of its numbers, replay SAMPLER, run
    (ddim.invert.Inversion), sigmas, top (whether they start at pure noise), round_trip (RMSE of the worst
    picture, or None)."""

    noise: InvertedNoise
    latent: dict
    replay: object
    run: invert.Inversion
    sigmas: list
    top: bool
    round_trip: float | None = None


def invert_latent(
    model,
    positive,
    negative,
    cfg,
    latent,
    sigmas,
    method="exact",
    eta=0.0,
    tolerance=1e-5,
    max_iterations=40,
    noise_seed=0,
    measure=False,
):
    """The Inverted of a LATENT over `sigmas`, falling as for sampling. Raises ValueError for bad input,
    before any work."""
    check_options(method, eta, tolerance, max_iterations)
    check_sigmas(sigmas, model_sampling(model))
    latent = latents.fitting(latent, model)
    if not all(torch.isfinite(part).all() for part in latents.parts(latent)):
        raise ValueError("latent_image: it holds NaN or infinite numbers")
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive, negative)
    guider.set_cfg(cfg)
    indices = latents.batch_indices(latent)
    inverter = Inverter(method, eta, tolerance, max_iterations, indices)
    sample(guider, latent_noise(latent, noise_seed), latent, inverter, sigmas, noise_seed)

    empty = latents.empty(latent, indices)
    held = HeldNoise.of(
        empty | {"samples": unpacked(inverter.start / inverter.scale, latent)}, noise_seed, "inverted noise"
    )
    noise = InvertedNoise(held, inverter.alpha / inverter.scale, model.get_model_object("latent_format"))
    drawn = noise.generate_noise(empty if inverter.top else latent)
    replay = replay_sampler(inverter.run, sigmas, eta, model_sampling(model))
    kept = {key: value for key, value in latent.items() if key != "noise_mask"}
    found = Inverted(noise, kept | {"samples": drawn}, replay, inverter.run, sigmas.tolist(), inverter.top)
    if measure:
        again = sample(
            guider,
            noise.generate_noise(latent),
            latent,
            replay if eta > 0 else ddim_sampler(),
            sigmas,
            noise_seed,
        )
        process_in = noise.latent_format.process_in
        gap = process_in(packed(latents.parts({"samples": again})).float().cpu()) - process_in(
            packed(latents.parts(latent)).float().cpu()
        )
        found.round_trip = invert.root_mean_square(gap).max().item()
    return found


def check_options(method, eta, tolerance, max_iterations):
    """Raise ValueError that names the first bad option."""
    allowed("method", method, METHODS)
    if not 0.0 <= eta <= 1.0:
        raise ValueError(
            f"eta is {eta}; it must lie between 0 (solve for the noise) and 1 (record noise maps)"
        )
    if not tolerance > 0:
        raise ValueError(f"tolerance is {tolerance}; it must be above 0")
    if max_iterations < 1:
        raise ValueError(f"max_iterations is {max_iterations}; it must be at least 1")


def sample(guider, noise, latent, sampler, sigmas, seed):
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


def packed(parts):
    """The one tensor that a sampler sees for the parts of a LATENT."""
    return parts[0] if len(parts) == 1 else comfy.utils.pack_latents(parts)[0]


def unpacked(x, latent):
    """The inverse of `packed`, in the form of `latent`'s samples."""
    shapes = [part.shape for part in latents.parts(latent)]
    return x if len(shapes) == 1 else latents.join(comfy.utils.unpack_latents(x, shapes), latent)


def report(found, tolerance, eta, method):
    """What happened, as text, a line each."""
    run, steps = found.run, len(found.run.states)
    noise = latents.parts(found.latent)[0].float()
    deviation, correlation = invert.gaussianity(noise)
    how = f"noise maps at eta {eta:g}" if eta > 0 else method
    lines = [f"{how}: {steps} steps, {run.calls} model calls"]
    worst = [max(errors, default=0.0) for errors in run.errors]
    if eta == 0:
        at = max(range(steps), key=worst.__getitem__)
        lines.append(f"worst residual: {worst[at]:.2g} at {step(found, at)}")
    if eta == 0 and method == "exact":
        missed = [i for i in range(steps) if worst[i] > tolerance]
        lines += [
            f"not converged: {step(found, i)}, residual {worst[i]:.2g} instead of {tolerance:.2g}"
            for i in missed
        ]
        if missed == [steps - 1] and found.sigmas[-1] == 0:
            lines.append(
                "try sigmas whose last step is smaller, such as stride linspace, or more max_iterations"
            )
        elif missed:
            lines.append("try cfg 1, more steps, or more max_iterations")
    if found.round_trip is not None:
        lines.append(
            f"round trip: RMSE {found.round_trip:.2g} of the latent as the model sees it"
            + (", by the replay sampler" if eta > 0 else "")
        )
    lines.append(
        f"noise: standard deviation {deviation:.3f} (1 for a Gaussian), correlation of neighbours"
        f" {correlation:.3f} (0)"
    )
    if eta > 0:
        lines.append(
            "noise maps: standard deviation "
            + f"{invert.gaussianity(torch.stack(run.maps[:-1] or run.maps))[0]:.3f}"
        )
    if not found.top:
        lines.append(
            f"partial: the sigmas start at {found.sigmas[0]:.4g}, so the noise belongs to a latent; sample on"
            " the picture's own"
        )
    return "\n".join(lines)


def step(found, i):
    return f"step {i + 1} (sigma {found.sigmas[i]:.4g} to {found.sigmas[i + 1]:.4g})"
