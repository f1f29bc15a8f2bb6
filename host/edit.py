"""The edit jump of ddim.edit through the host's guider."""

from collections.abc import Callable

import comfy.samplers
import torch
from comfy.model_patcher import ModelPatcher

from ..ddim import edit, invert
from ..ddim.checks import within
from . import latents, noise_left
from .guiders import sample
from .latents import Latent
from .loop import model_calls
from .model import alphas, check_no_cache, check_sigmas, model_sampling
from .noise import batch_noise
from .sampler import stream


class EditGuider(comfy.samplers.CFGGuider):
    """The host's guider with two captions, each with its own cfg: `ask` says which one answers."""

    def __init__(
        self,
        model: ModelPatcher,
        source: list,
        target: list,
        negative: list,
        source_cfg: float,
        target_cfg: float,
    ):
        super().__init__(model)
        self.inner_set_conds({"positive": target, "source": source, "negative": negative})
        self.strengths = {"source": source_cfg, "positive": target_cfg}
        self.ask("positive")

    def ask(self, caption: str) -> None:
        """Let "source" or "positive", the target, answer from now on."""
        self.caption, self.cfg = caption, self.strengths[caption]

    def predict_noise(
        self,
        x: torch.Tensor,
        timestep: torch.Tensor,
        model_options: dict | None = None,
        seed: int | None = None,
    ) -> torch.Tensor:
        return comfy.samplers.sampling_function(
            self.inner_model,
            x,
            timestep,
            self.conds["negative"],
            self.conds[self.caption],
            self.cfg,
            model_options=model_options or {},
            seed=seed,
        )


def sample_edit(
    model: comfy.samplers.KSamplerX0Inpaint,
    x: torch.Tensor,
    sigmas: torch.Tensor,
    extra_args: dict | None = None,
    callback: Callable[[dict], None] | None = None,
    disable: bool | None = None,
    *,
    result: list[edit.Edit],
    batch_index: list[int],
    eta: float,
    averages: int,
    softness: float,
) -> torch.Tensor:
    """The host's sampler-function signature around ddim.edit.edit. Appends its Edit to `result`."""
    guider, picture = model.inner_model, model.latent_image.float()
    sampling = guider.inner_model.model_sampling
    levels, seed = check_sigmas(sigmas, sampling), extra_args.get("seed") or 0

    def noise(i, k):
        number = stream(levels[i], k) + (2 << 64)  # other noise than that of a run with the same seed
        drawn = batch_noise(seed, batch_index, picture.shape[1:], stream=number).to(picture)
        model.noise = drawn  # what a noise mask keeps is shown to the model with the same noise
        return drawn

    with model_calls(model, picture, sigmas, extra_args, callback, disable) as (denoise, report):

        def source(x, i):
            guider.ask("source")
            return denoise(x, i)

        def target(x, i):
            guider.ask("positive")
            x0 = denoise(x, i)
            if report is not None:
                report(i, x, x0)
            return x0

        run = edit.edit(
            source,
            target,
            picture,
            alphas(sampling, levels),
            levels,
            noise,
            eta=eta,
            averages=averages,
            softness=softness,
        )
    result.append(run)
    return run.picture * alphas(sampling, levels[-1:])[0]  # the host divides by alpha on the way out


def edit_latent(
    model: ModelPatcher,
    source: list,
    target: list,
    negative: list,
    latent: Latent,
    sigmas: torch.Tensor,
    *,
    source_cfg: float = 1.0,
    target_cfg: float = 1.0,
    eta: float = 0.0,
    seed: int = 0,
    averages: int = 1,
    softness: float = 0.0,
) -> tuple[Latent, torch.Tensor, str]:
    """(LATENT, MASK, report) of a LATENT edited from the caption `source` to `target`. Raises ValueError for
    bad input, before any work."""
    within("eta", eta, 0, 1)
    within("averages", averages, 1)
    within("mask_softness", softness, 0, 100)
    levels = check_sigmas(sigmas, model_sampling(model))
    check_no_cache(model)
    latent = noise_left.check(latents.check(latent, model), 0.0)
    if softness > 0 and len(latents.parts(latent)) > 1:
        raise ValueError("mask_softness works on one kind of latent; latent_image holds video with sound")
    result, indices = [], latents.batch_indices(latent)
    sampler = comfy.samplers.KSAMPLER(
        sample_edit,
        {"result": result, "batch_index": indices, "eta": eta, "averages": averages, "softness": softness},
    )
    guider = EditGuider(model, source, target, negative, source_cfg, target_cfg)
    zeros = [torch.zeros_like(part) for part in latents.parts(latent)]
    edited = sample(guider, latents.join(zeros, latent), latent, sampler, sigmas, seed)
    run = result[0]
    process_in = model.get_model_object("latent_format").process_in
    before = process_in(latents.packed(latents.parts(latent)).float().cpu())
    change = invert.on_cpu(run.picture) - before
    size = zeros[0].shape[-2:]  # of the first kind, where there are several
    mask = run.mask.cpu() if softness > 0 else torch.ones(len(indices), 1, *size)
    return latent | {"samples": edited}, mask.reshape(-1, *size), report(run, change, levels, softness)


def report(run: edit.Edit, change: torch.Tensor, levels: list[float], softness: float) -> str:
    """What the edit did, in words and figures."""
    size = invert.root_mean_square(change).max().item()
    strength = (
        "Next to nothing changed: start at a higher sigma, or raise target_cfg"
        if size < 0.05
        else "Much of the picture changed: start at a lower sigma, or raise mask_softness"
        if size > 0.8
        else "The picture was changed, and most of it kept"
    )
    lines = [
        f"{strength}.",
        "",
        f"{len(levels) - 1} steps, {run.calls} model calls",
        f"change: RMSE {size:.2g} of the latent as the model sees it",
    ]
    if softness > 0:
        part = (run.mask > 0.5).float().mean().item()
        lines.append(f"soft mask: above a half on {part:.0%} of the picture")
    return "\n".join(lines)
