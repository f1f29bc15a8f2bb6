"""DDIM as a ComfyUI SAMPLER, and a whole sampling run as one call."""

import math
import struct

import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.utils
import latent_preview

from ..ddim import solve
from . import latents
from .loop import model_calls
from .model import alphas, check_sigmas
from .noise import batch_noise, latent_noise
from .travel import SamplerFunction


def ddim_sampler(**options):
    """SAMPLER of this pack: a plain value that pickles. Options are those of `sample_ddim`, checked before
    use."""
    check_options(**options)
    return comfy.samplers.KSAMPLER(sample_ddim, options)


def check_options(
    eta=0.0, variance="posterior", order=1, clip="none", clip_range=4.0, noise_device="cpu", **others
):
    """Raise ValueError that names the first bad option."""
    solve.jumps((1.0, 1.0), (1.0, 0.5), eta, variance)
    solve.check_order(order)
    if clip not in solve.CLIPS:
        raise ValueError(f"clip is {clip!r}; allowed are {', '.join(solve.CLIPS)}")
    if not clip_range > 0:
        raise ValueError(f"clip_range is {clip_range}; it must be above 0")
    if noise_device not in ("cpu", "gpu"):
        raise ValueError(f"noise_device is {noise_device!r}; allowed are cpu, gpu")


@SamplerFunction
def sample_ddim(
    model,
    x,
    sigmas,
    extra_args=None,
    callback=None,
    disable=None,
    *,
    eta=0.0,
    variance="posterior",
    order=1,
    clip="none",
    clip_range=4.0,
    noise_device="cpu",
    noise_seed=0,
    batch_index=None,
):
    """The host's sampler-function signature around `ddim.solve.sample`.

    The state is float32 whatever the model's dtype. The noise of the jump that leaves sigma_t is a stream of
    its own, so a run split in two (SplitSigmas) draws what the whole run draws.
    """
    extra_args = {} if extra_args is None else extra_args
    sampling = model.inner_model.inner_model.model_sampling
    levels = check_sigmas(sigmas, sampling)
    x = x.float()
    if not math.isfinite(x.sum()):  # this and check_sigmas wait for the device; the loop does not
        raise ValueError(
            "the noise or the latent_image that sampling starts from holds NaN or infinite values"
        )
    indices = list(range(x.shape[0])) if batch_index is None else batch_index
    if len(indices) != x.shape[0]:
        raise ValueError(f"batch_index names {len(indices)} pictures, but {x.shape[0]} are sampled")
    seed = extra_args.get("seed") or 0
    device = x.device if noise_device == "gpu" else "cpu"
    limit = solve.CLIPS[clip]

    def noise(i):
        drawn = batch_noise(seed, indices, x.shape[1:], device=device, stream=stream(levels[i], noise_seed))
        return comfy.model_management.cast_to_device(
            drawn, x.device, x.dtype
        )  # without waiting for the device, where the host knows how

    with model_calls(model, x, sigmas, extra_args, callback, disable) as (denoise, report):
        return solve.sample(
            denoise,
            x,
            alphas(sampling, levels),
            levels,
            eta=eta,
            variance=variance,
            order=order,
            noise=noise,
            clip=limit and (lambda x0: limit(x0, clip_range)),
            callback=report,
        )


def stream(sigma, noise_seed):
    """A number for the noise added when leaving sigma: noise_seed above the 32 bits of the float."""
    return noise_seed << 32 | struct.unpack("<I", struct.pack("<f", sigma))[0]


def run(model, seed, cfg, positive, negative, latent, sampler, sigmas):
    """Sample a LATENT with previews and progress: (LATENT, LATENT of the last x0_hat)."""
    latent = latents.check(latent, model)
    samples, noise = latent["samples"], latent_noise(latent, seed)
    last = {}
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
        callback=latent_preview.prepare_callback(model, len(sigmas) - 1, last),
        disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
    )
    # A nested x0_hat is one packed tensor that only the host unpacks; the run ends at sigma 0, where x =
    # x0_hat.
    if "x0" not in last or output.is_nested:
        return latent | {"samples": output}, latent | {"samples": output}
    return latent | {"samples": output}, latent | {
        "samples": model.model.process_latent_out(last["x0"].float().cpu())
    }
