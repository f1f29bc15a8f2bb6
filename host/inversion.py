"""Inversion through the host's guider, so that conditioning, masks, hooks, previews and cancel work as in
sampling."""

import math
from dataclasses import dataclass

import comfy.samplers
import comfy.utils
import latent_preview
import torch

from ..ddim import invert
from . import latents
from .loop import model_calls
from .model import alphas, check_sigmas, model_sampling
from .noise import HeldNoise, batch_noise, latent_noise
from .replay import replay_sampler
from .sampler import ddim_sampler, stream

METHODS = ("exact", "ddim")


@dataclass(frozen=True, eq=False)
class InvertedNoise:
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


@dataclass
class Start:
    """How the host mixes what a run starts at: alpha * latent + scale * noise; top: from pure noise."""

    alpha: float
    scale: float
    top: bool

    @classmethod
    def of(cls, guider, sigmas):
        top = comfy.samplers.Sampler().max_denoise(guider, sigmas)
        mix = guider.inner_model.model_sampling.noise_scaling
        unit = torch.ones((1, 1), device=sigmas.device)
        alpha, scale = mix(sigmas[0], 0 * unit, unit, top).item(), mix(sigmas[0], unit, 0 * unit, top).item()
        return cls(alpha, scale, top)

    def noise(self, state, picture):
        """The noise from which a run on `picture` starts at `state`."""
        return (state - self.alpha * picture) / self.scale


@dataclass
class Inverted:
    """What an inversion found.

    noise       InvertedNoise
    latent      LATENT of its numbers
    replay      SAMPLER that replays the recorded run
    run         ddim.invert.Inversion
    sigmas      those of the run, floats
    top         whether they start at pure noise
    round_trip  RMSE of the worst picture, or None where not measured
    """

    noise: InvertedNoise
    latent: dict
    replay: comfy.samplers.KSAMPLER
    run: invert.Inversion
    sigmas: list[float]
    top: bool
    round_trip: float | None = None


def sample_inversion(
    model,
    x,
    sigmas,
    extra_args=None,
    callback=None,
    disable=None,
    *,
    result,
    method,
    eta,
    tolerance,
    max_iterations,
    batch_index,
):
    """The host's sampler-function signature around ddim.invert: from the latent image to the noise.

    Appends (ddim.invert.Inversion, Start) to `result`: the host divides what a sampler returns by 1 - sigma
    on flow models, which is 0 at their top. The latent image is what the sampler returns.
    """
    guider = model.inner_model
    sampling = guider.inner_model.model_sampling
    levels = check_sigmas(sigmas, sampling)
    levels_alpha, start = alphas(sampling, levels), Start.of(guider, sigmas)
    picture, mask = model.latent_image.float(), extra_args["denoise_mask"]
    x = levels_alpha[-1] * picture

    def draw(i):
        number = stream(levels[i], 0) + (1 << 64)  # other noise than that of a run with the same seed
        seed = extra_args.get("seed") or 0
        return batch_noise(seed, batch_index, x.shape[1:], stream=number).to(x.device)

    with model_calls(model, x, sigmas, extra_args, callback, disable) as (call, report):

        def denoise(x, i):
            x0 = call(x, i)
            if report is not None:
                report(i, x, x0)
            return x0

        if eta > 0:
            run = invert.noise_maps(denoise, x, levels_alpha, levels, eta, draw)
        elif method == "exact":
            run = invert.exact(denoise, x, levels_alpha, levels, tolerance, max_iterations)
        else:
            run = invert.ddim(denoise, x, levels_alpha, levels)
    if mask is not None:  # what the mask keeps comes back from any noise: it gets proper one
        drawn = start.alpha * picture + start.scale * model.noise
        run.states[0] = torch.where(mask.cpu() > 0, run.states[0], drawn.float().cpu())
    result.append((run, start))
    return model.latent_image


def cfg_guider(model, positive, negative, cfg):
    """The host's CFGGuider."""
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive, negative)
    guider.set_cfg(cfg)
    return guider


def invert_latent(
    guider,
    latent,
    sigmas,
    *,
    method="exact",
    eta=0.0,
    tolerance=1e-5,
    max_iterations=40,
    noise_seed=0,
    measure=False,
):
    """The Inverted of a LATENT over `sigmas`, falling as for sampling, with any GUIDER. Raises ValueError for
    bad input, before any work."""
    check_options(method, eta, tolerance, max_iterations)
    model = guider.model_patcher
    check_sigmas(sigmas, model_sampling(model))
    latent = latents.check(latent, model)
    indices, result = latents.batch_indices(latent), []
    inverter = comfy.samplers.KSAMPLER(
        sample_inversion,
        {
            "result": result,
            "method": method,
            "eta": eta,
            "tolerance": tolerance,
            "max_iterations": max_iterations,
            "batch_index": indices,
        },
    )
    sample(guider, latent_noise(latent, noise_seed), latent, inverter, sigmas, noise_seed)
    ((run, start),) = result

    empty = latents.empty(latent, indices)
    held = HeldNoise.of(
        empty | {"samples": unpacked(run.states[0] / start.scale, latent)}, noise_seed, "inverted noise"
    )
    noise = InvertedNoise(held, start.alpha / start.scale, model.get_model_object("latent_format"))
    drawn = noise.generate_noise(empty if start.top else latent)
    kept = {key: value for key, value in latent.items() if key != "noise_mask"}
    found = Inverted(
        noise=noise,
        latent=kept | {"samples": drawn},
        replay=replay_sampler(run, sigmas, eta),
        run=run,
        sigmas=sigmas.tolist(),
        top=start.top,
    )
    if measure:
        with_sampler = found.replay if eta > 0 else ddim_sampler()
        again = sample(guider, noise.generate_noise(latent), latent, with_sampler, sigmas, noise_seed)
        seen = [
            noise.latent_format.process_in(packed(latents.parts(each))).float().cpu()
            for each in ({"samples": again}, latent)
        ]
        found.round_trip = invert.root_mean_square(seen[0] - seen[1]).max().item()
    return found


def check_options(method, eta, tolerance, max_iterations):
    """Raise ValueError that names the first bad option."""
    if method not in METHODS:
        raise ValueError(f"method is {method!r}; allowed are {', '.join(METHODS)}")
    if not 0.0 <= eta <= 1.0:
        raise ValueError(
            f"eta is {eta}; it must lie between 0 (solve for the noise) and 1 (record noise maps)"
        )
    if not 0 < tolerance < math.inf:
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
    run, steps = found.run, len(found.run.maps)
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
