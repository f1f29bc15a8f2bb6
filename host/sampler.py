"""DDIM as a ComfyUI SAMPLER, and a whole sampling run as one call."""

import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.utils
import latent_preview
import torch
from comfy.model_patcher import ModelPatcher

from ..ddim import jump, solve
from ..ddim.checks import allowed, within
from ..ddim.multistep import PLMS
from . import latents
from .latents import Latent
from .loop import model_calls
from .model import ModelSampling, alphas, check_sigmas, rows_of, table
from .noise import batch_noise, latent_noise
from .travel import SamplerFunction, Travels

NOISE_DEVICES = ("cpu", "gpu")
VARIANCES = (*jump.VARIANCES, "trajectory")


@dataclass(frozen=True)
class Options(Travels):
    """The dials of a DDIM run; they pickle. Raises ValueError that names the first bad one.

    variance: one of jump.py's, or trajectory, where eta is TCD's gamma. eta_start, eta_end: the part of the
    run, as the host's percents, whose steps add noise. mask: a MASK that scales eta in each place.
    batch_index: the place of each sampled picture in its batch, from 0; None numbers them as they come.
    """

    eta: float = 0.0
    variance: str = "posterior"
    order: int = 1
    clip: str = "none"
    clip_range: float = 4.0
    noise_device: str = "cpu"
    noise_seed: int = 0
    batch_index: Sequence[int] | None = None
    eta_start: float = 0.0
    eta_end: float = 1.0
    mask: torch.Tensor | None = None

    def __post_init__(self):
        allowed("variance", self.variance, VARIANCES)
        within("eta", self.eta, 0, 1)
        within("eta_start", self.eta_start, 0, 1)
        within("eta_end", self.eta_end, self.eta_start, 1)
        if self.mask is not None:
            latents.check_mask("mask", self.mask)
        PLMS(self.order)
        allowed("clip", self.clip, solve.CLIPS)
        within("clip_range", self.clip_range, 0.01)
        allowed("noise_device", self.noise_device, NOISE_DEVICES)
        within("noise_seed", self.noise_seed, 0, 0xFFFFFFFF)
        if self.batch_index is not None and latents.whole_indices(self.batch_index) is None:
            raise ValueError(f"batch_index is {self.batch_index!r:.60}; it must hold whole numbers from 0 up")


def ddim_sampler(**options) -> comfy.samplers.KSAMPLER:
    """SAMPLER of this pack, a plain value that pickles; `options` are fields of Options."""
    return comfy.samplers.KSAMPLER(sample_ddim, asdict(Options(**options)))


@SamplerFunction
def sample_ddim(
    model: comfy.samplers.KSamplerX0Inpaint,
    x: torch.Tensor,
    sigmas: torch.Tensor,
    extra_args: dict | None = None,
    callback: Callable[[dict], None] | None = None,
    disable: bool | None = None,
    **options,
) -> torch.Tensor:
    """The host's sampler-function signature around `ddim.solve.sample`; `options` are fields of Options.

    The state is float32 whatever the model's dtype. The noise of the jump that leaves sigma_t is a stream of
    its own, so a run split in two (SplitSigmas) draws what the whole run draws. Raises ValueError for bad
    options or sigmas, a start that is not finite, and a batch_index of another length.
    """
    extra_args, options = extra_args or {}, Options(**options)
    sampling = model.inner_model.inner_model.model_sampling
    levels = check_sigmas(sigmas, sampling)
    x = x.float()
    if not math.isfinite(x.sum()):  # this and check_sigmas wait for the device; the loop does not
        raise ValueError(
            "the noise or the latent_image that sampling starts from holds NaN or infinite values"
        )
    given = options.batch_index
    indices = range(x.shape[0]) if given is None else latents.whole_indices(given)
    if len(indices) != x.shape[0]:
        raise ValueError(f"batch_index names {len(indices)} pictures, but {x.shape[0]} are sampled")
    seed = extra_args.get("seed") or 0
    device = x.device if options.noise_device == "gpu" else "cpu"
    limit = solve.CLIPS[options.clip]

    def noise(i):
        drawn = batch_noise(
            seed, indices, x.shape[1:], device=device, stream=stream(levels[i], options.noise_seed)
        )
        # Without waiting for the device, where the host knows how.
        return comfy.model_management.cast_to_device(drawn, x.device, x.dtype)

    mask = None if options.mask is None else latents.spread(options.mask, x)
    with model_calls(model, x, sigmas, extra_args, callback, disable) as (denoise, report):
        return solve.sample(
            denoise,
            x,
            alphas(sampling, levels),
            levels,
            eta=etas(options, sampling, levels),
            variance="full renoise" if options.variance == "trajectory" else options.variance,
            solver=PLMS(options.order),
            noise=noise,
            mask=mask,
            clip=limit and (lambda x0: limit(x0, options.clip_range)),
            callback=report,
        )


def etas(options: Options, sampling: ModelSampling, levels: list[float]) -> list[float]:
    """The eta of each jump, by the level that it leaves and, for trajectory, the one that it goes to: so a
    stretch of the run has those of the whole run."""
    first, last = (float(sampling.percent_to_sigma(part)) for part in (options.eta_start, options.eta_end))
    found = [options.eta if last < t <= first else 0.0 for t in levels[:-1]]
    if options.variance != "trajectory" or options.eta == 0:
        return found
    to = [s for s in levels[1:] if s > 0]
    # Whole rows below, as the method's authors take them; the jump to 0 adds no noise.
    rows = [math.floor((1 - options.eta) * row + 1e-3) for row in rows_of(sampling, to)]
    below = table(sampling).double()[rows].tolist()
    through = map(jump.trajectory_eta, alphas(sampling, to), to, alphas(sampling, below), below)
    return [eta and new for eta, new in zip(found, [*through, 0.0], strict=False)]


def stream(sigma: float, noise_seed: int) -> int:
    """A number for the noise added when leaving sigma: noise_seed above the 32 bits of the float."""
    return noise_seed << 32 | struct.unpack("<I", struct.pack("<f", sigma))[0]


def run(
    model: ModelPatcher,
    seed: int,
    cfg: float,
    positive: list,
    negative: list,
    latent: Latent,
    sampler: comfy.samplers.KSAMPLER,
    sigmas: torch.Tensor,
    preview: Callable | None = None,
) -> tuple[Latent, Latent]:
    """Sample a LATENT with previews and progress: (LATENT, LATENT of the last x0_hat).

    preview  the host's callback(step, x0_hat, x, total) of a longer run of which this is a part
    """
    latent = latents.check(latent, model)
    samples, noise = latent["samples"], latent_noise(latent, seed)
    show, last = preview or latent_preview.prepare_callback(model, len(sigmas) - 1), {}

    def watch(step, x0, x, total):
        last["x0"] = x0
        show(step, x0, x, total)

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
        disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
    )
    # A nested x0_hat is one packed tensor that only the host unpacks; the run ends at sigma 0, where x =
    # x0_hat.
    if "x0" not in last or output.is_nested:
        return latent | {"samples": output}, latent | {"samples": output}
    return latent | {"samples": output}, latent | {
        "samples": model.model.process_latent_out(last["x0"].float().cpu())
    }
