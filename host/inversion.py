"""Inversion through the host's guider, so that conditioning, masks, hooks, previews and cancel work as in
sampling."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import comfy.samplers
import torch
from comfy.samplers import CFGGuider

from ..ddim import invert
from ..ddim.checks import allowed, within
from . import latents, noise_left
from .guiders import is_plain, sample
from .keyframes import Keyframes
from .latents import Latent
from .loop import batched, model_calls
from .masked import MaskedNoise
from .model import Start, alphas, check_no_cache, check_sigmas, model_sampling, precision
from .noise import HeldNoise, batch_noise, latent_noise
from .page import tell
from .replay import replay_sampler
from .sampler import ddim_sampler, stream
from .travel import Travels

METHODS = ("exact", "ddim")
PASSES = 12  # most inversions of a picture under a soft mask


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
    def seed(self) -> int:
        return self.held.seed

    def generate_noise(self, latent: Latent) -> torch.Tensor:
        parts = [part.detach().cpu().float() for part in latents.parts(latent)]
        noise = self.held.generate_noise(latent | {"samples": latents.join(parts, latent)})
        pictured = any(part.any() for part in parts)  # the host leaves an empty latent as it is
        if self.weight == 0 or not pictured:
            return noise
        seen = self.latent_format.process_in(latents.packed(parts))
        return latents.unpacked(
            latents.packed(latents.parts({"samples": noise})) - self.weight * seen, latent
        )


@dataclass
class Result:
    """What sample_inversion found: run, start, levels (those of the run), unsettled (how far the noise that
    the model sees under a soft mask moved in the end, root mean square)."""

    run: invert.Inversion
    start: Start
    levels: list[float]
    unsettled: float


@dataclass
class Inverted:
    """What an inversion found.

    noise       InvertedNoise
    latent      LATENT of its numbers
    state       LATENT with the noise left in it, as a sampler gives it whose sigmas end where these start
    replay      SAMPLER that replays the recorded run
    run         ddim.invert.Inversion
    sigmas      SIGMAS of the run, those given or refined
    top         whether they start at pure noise
    guided      whether guidance may have folded a step: not at cfg 1
    precision   dtype in which the model computes
    unsettled   see Result
    masked      whether under a noise mask
    round_trip  RMSE of the worst picture, or None where not measured
    """

    noise: InvertedNoise
    latent: Latent
    state: Latent
    replay: comfy.samplers.KSAMPLER
    run: invert.Inversion
    sigmas: torch.Tensor
    top: bool
    guided: bool
    precision: torch.dtype
    unsettled: float
    masked: bool
    round_trip: float | None = None


def sample_inversion(
    model: comfy.samplers.KSamplerX0Inpaint,
    x: torch.Tensor,
    sigmas: torch.Tensor,
    extra_args: dict | None = None,
    callback: Callable[[dict], None] | None = None,
    disable: bool | None = None,
    *,
    result: list[Result],
    method: str,
    eta: float,
    tolerance: float,
    max_iterations: int,
    refine_sigmas: int,
    batch_index: list[int],
) -> torch.Tensor:
    """The host's sampler-function signature around ddim.invert: from the latent image to the noise.

    Appends a Result to `result`: the host divides what a sampler returns by 1 - sigma on flow models, which
    is 0 at their top. The latent image is what the sampler returns.

    Under a soft mask it is repeated: see host.masked.
    """
    guider = model.inner_model
    sampling = guider.inner_model.model_sampling
    levels = check_sigmas(sigmas, sampling)
    levels_alpha, start = alphas(sampling, levels), Start.of(sampling, levels[0])
    x, given = levels_alpha[-1] * model.latent_image.float(), len(levels)
    asked, mask, model_options = batched(sigmas, x), extra_args["denoise_mask"], extra_args["model_options"]
    keyframes = Keyframes(guider, model_options, asked)
    stepwise = "denoise_mask_function" in model_options
    masked, unsettled = MaskedNoise(model, mask, start, levels_alpha, levels, stepwise), 0.0

    def draw(i):
        number = stream(levels[i], 0) + (1 << 64)  # other noise than that of a run with the same seed
        seed = extra_args.get("seed") or 0
        return batch_noise(seed, batch_index, x.shape[1:], stream=number).to(x.device)

    def finer(i):
        if len(levels) - given >= refine_sigmas:
            return False
        middle = math.sqrt(levels[i] * levels[i + 1]) if levels[i + 1] > 0 else levels[i] / 2
        asked.insert(i + 1, asked[i].new_full(asked[i].shape, middle))
        levels.insert(i + 1, float(asked[i + 1][0]))
        levels_alpha[:] = alphas(sampling, levels)
        masked.grow(i + 1)
        return True

    with model_calls(model, x, asked, extra_args, callback, disable) as (call, report):

        def denoise(x, i):
            keyframes.move(i)
            if eta == 0:
                masked.show(x, i)
            x0 = call(x, i)
            if report is not None:
                report(i, x, x0)
            return x0

        def once():
            if method == "exact":
                return invert.exact(denoise, x, levels_alpha, levels, tolerance, max_iterations, finer)
            return invert.ddim(denoise, x, levels_alpha, levels)

        if eta > 0:  # its noise is known beforehand
            ends = [(levels_alpha[k], levels[k]) for k in (0, -1)]
            model.noise = start.noise(invert.diffused(x, draw(0), *ends), model.latent_image)
            run = invert.noise_maps(denoise, x, levels_alpha, levels, eta, draw)
        else:
            calls = 0
            for k in range(PASSES):
                if k > 0:  # the bar has come to its end
                    tell(f"soft mask: inverted again, {k + 1} of at most {PASSES} times")
                run = once()
                calls, unsettled = calls + run.calls, masked.settle(run)
                if method != "exact" or unsettled <= tolerance:
                    break
            run.calls = calls
    result.append(Result(run, start, levels, unsettled))
    return model.latent_image


def invert_latent(
    guider: CFGGuider,
    latent: Latent,
    sigmas: torch.Tensor,
    *,
    method: str = "exact",
    eta: float = 0.0,
    tolerance: float = 1e-5,
    max_iterations: int = 40,
    refine_sigmas: int = 0,
    noise_seed: int = 0,
    measure_round_trip: bool = False,
) -> Inverted:
    """The Inverted of a LATENT over `sigmas`, falling as for sampling, with any GUIDER. Raises ValueError for
    bad input, before any work."""
    allowed("method", method, METHODS)
    within("eta", eta, 0, 1)
    if not 0 < tolerance < math.inf:
        raise ValueError(f"tolerance is {tolerance}; it must be above 0")
    within("max_iterations", max_iterations, 1)
    within("refine_sigmas", refine_sigmas, 0)
    model = guider.model_patcher
    levels = check_sigmas(sigmas, model_sampling(model))
    check_no_cache(model)
    latent = noise_left.check(latents.check(latent, model), levels[-1])
    indices, result = latents.batch_indices(latent), []
    options = {
        "result": result,
        "method": method,
        "eta": eta,
        "tolerance": tolerance,
        "max_iterations": max_iterations,
        "refine_sigmas": refine_sigmas,
        "batch_index": indices,
    }
    inverter = comfy.samplers.KSAMPLER(sample_inversion, options)
    sample(guider, latent_noise(latent, noise_seed), latent, inverter, sigmas, noise_seed)
    run, start, levels = result[0].run, result[0].start, result[0].levels

    empty, top = latents.empty(latent, indices), run.states[0]
    numbers = empty | {"samples": latents.unpacked(top / start.scale, latent)}
    held = HeldNoise.of(numbers, noise_seed, "inverted noise")
    noise = InvertedNoise(held, start.alpha / start.scale, model.get_model_object("latent_format"))
    drawn = noise.generate_noise(empty if start.top else latent)
    kept = {key: value for key, value in latent.items() if key != "noise_mask"}
    # At the top of a flow model alpha is 0: the state is noise alone.
    state = model.model.process_latent_out(top / (start.alpha or 1.0))
    sigmas = torch.tensor(levels, dtype=sigmas.dtype)
    found = Inverted(
        noise=noise,
        latent=noise_left.mark(kept | {"samples": drawn}, math.inf),
        state=noise_left.mark(kept | {"samples": latents.unpacked(state, latent)}, levels[0]),
        replay=replay_sampler(run, sigmas, eta, model_sampling(model)),
        run=run,
        sigmas=sigmas,
        top=start.top,
        # CFGOverride and the like give a cfg of their own in a wrapper.
        guided=not is_plain(guider) or guider.cfg != 1 or bool(model.get_all_wrappers("predict_noise")),
        precision=precision(model),
        unsettled=result[0].unsettled,
        masked=latent.get("noise_mask") is not None,
    )
    if measure_round_trip:
        with_sampler = found.replay if eta > 0 else ddim_sampler()
        again = sample(guider, noise.generate_noise(latent), latent, with_sampler, sigmas, noise_seed)
        seen = [
            noise.latent_format.process_in(latents.packed(latents.parts(each))).float().cpu()
            for each in ({"samples": again}, latent)
        ]
        found.round_trip = invert.root_mean_square(seen[0] - seen[1]).max().item()
    return found
