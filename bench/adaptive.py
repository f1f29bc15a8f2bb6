"""The measured schedule against all of the host's: RMSE of the final latent to a 1000-step run, on seeds that
were not probed."""

import itertools
import json
import sys
import time
from pathlib import Path

import torch
from ddim_toolkit.drawing.curves import draw

ROOT = Path(__file__).resolve().parent.parent
STEPS = (5, 10, 20)
PROBED, UNSEEN, TUNED = 1, 1000, 5000  # seeds of the probe, of the comparison, of the bound
BOUND = "gradient descent"
SAMPLERS = ("DDIM", "dpmpp_2m")


def subjects():
    """(name, MODEL, positive, negative, cfg, latent, pictures probed, pictures compared, sampler)."""
    import analytic
    from comfy.model_base import ModelType
    from ddim_toolkit.demo import model as demo

    empty = {"samples": torch.zeros(1, 4, 8, 8)}
    for kind in (ModelType.EPS, ModelType.FLOW):
        model = analytic.model(kind, analytic.four_modes(), 0.5)
        for sampler in SAMPLERS:
            yield (
                f"mixture, {kind.name.lower()}, {sampler}",
                model,
                analytic.CONDITIONING,
                analytic.CONDITIONING,
                1.0,
                empty,
                16,
                1024,
                sampler,
            )
    model, clip, _ = demo.load()

    def encode(text):
        return clip.encode_from_tokens_scheduled(clip.tokenize(text))

    for caption in ("red heart", "smiling face with sunglasses"):
        for sampler in SAMPLERS:
            yield (
                f"shipped model, {caption}, cfg 4, {sampler}",
                model,
                encode(caption),
                encode(""),
                4.0,
                {"samples": torch.zeros(1, 4, 16, 16)},
                4,
                8,
                sampler,
            )


def compare(name, model, positive, negative, cfg, latent, probed, compared, sampler):
    """Rows {model, steps, schedule, rmse, pooled, ...} of one subject. rmse is the mean over the pictures of
    each one's own, pooled the root of the mean square over all, in which a picture that became another one
    weighs most.
    """
    import comfy.sample
    import comfy.samplers
    from ddim_toolkit.host import probe
    from ddim_toolkit.host.model import model_sampling, table
    from ddim_toolkit.host.sampler import ddim_sampler

    sampling, ddim = model_sampling(model), ddim_sampler()
    used, order = (ddim, 1) if sampler == "DDIM" else (comfy.samplers.sampler_object(sampler), 2)
    samples = latent["samples"].repeat(compared, 1, 1, 1)
    noise = comfy.sample.prepare_noise(samples, UNSEEN)

    def run(sigmas, sampler=used):
        return comfy.sample.sample_custom(
            model, noise, cfg, sampler, sigmas, positive, negative, samples, seed=0, disable_pbar=True
        )

    reference = run(torch.cat([table(sampling).flip(0), torch.zeros(1)]), ddim)
    rows = []
    for steps in STEPS:
        begun = time.perf_counter()
        sigmas, measured = probe.measured_schedule(
            model,
            positive,
            negative,
            cfg,
            latent,
            steps,
            seed=PROBED,
            images=probed,
            order=order,
            sampler_name=sampler,
        )
        seconds = time.perf_counter() - begun
        schedules = (
            {"measured": sigmas}
            | (bound(model, sampling, sigmas) if order == 1 else {})
            | {k: torch.tensor(v) for k, v in probe.host_schedules(sampling, steps).items()}
        )
        for schedule, sigmas in schedules.items():
            if len(sigmas) > steps + 1:  # ddim_uniform may take more steps than asked
                continue
            error = (run(sigmas) - reference).flatten(1).pow(2).mean(1)
            row = {"model": name, "steps": steps, "schedule": schedule}
            row |= {"rmse": error.sqrt().mean().item(), "pooled": error.mean().sqrt().item()}
            if schedule == "measured":
                row |= {
                    "source": measured.source,
                    "predicted": measured.predicted,
                    "on_probed": measured.measured,
                    "probe_calls": measured.calls,
                    "seconds": seconds,
                }
            rows.append(row)
    return rows


def bound(model, sampling, sigmas, pictures=256, rounds=80):
    """{BOUND: the schedule after gradient descent of its true error, on seeds of their own}: what no
    measurement can beat by much.

    Only for the mixtures, whose denoiser is known as a function of sigma; nothing for other models.
    """
    import comfy.sample
    from ddim_toolkit.host.model import alphas, table

    mixture = model.model.diffusion_model
    if not hasattr(mixture, "means"):
        return {}
    empty = torch.zeros(pictures, *mixture.means.shape[1:])
    flow = alphas(sampling, [0.5]) != [1.0]
    start = sampling.noise_scaling(sigmas[0], comfy.sample.prepare_noise(empty, TUNED), empty)

    def sample(sigmas):
        x = start
        for t, s in itertools.pairwise(sigmas):
            x0 = mixture.x0(
                x, (1 - t if flow else torch.ones_like(t)).expand(pictures), t.expand(pictures)
            ).float()
            x = x + (s - t) * (x - x0) / t  # the jump, in both frames
        return x

    reference = sample(torch.cat([table(sampling).flip(0), torch.zeros(1)]))
    with torch.enable_grad():
        ratios = (
            (sigmas[1:-1] / sigmas[:-2]).log().neg().log().requires_grad_()
        )  # free numbers, whatever they are sigmas fall
        optimizer = torch.optim.Adam([ratios], lr=0.03)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, rounds)
        for _ in range(rounds):
            tuned = torch.cat([sigmas[:1], sigmas[0] * ratios.exp().neg().cumsum(0).exp(), torch.zeros(1)])
            optimizer.zero_grad()
            (sample(tuned) - reference).flatten(1).pow(2).mean(1).sqrt().mean().backward()
            optimizer.step()
            schedule.step()
    return {BOUND: tuned.detach()}


def summary(rows):
    """One line for each model and number of steps: (model, steps, measured row, best host row, ddim_uniform
    row or None, bound or None)."""
    lines = []
    for model, steps in dict.fromkeys((row["model"], row["steps"]) for row in rows):
        these = {row["schedule"]: row for row in rows if (row["model"], row["steps"]) == (model, steps)}
        measured = these.pop("measured")
        least = these.pop(BOUND, None)
        lines.append(
            (
                model,
                steps,
                measured,
                min(these.values(), key=lambda row: row["rmse"]),
                these.get("ddim_uniform"),
                least,
            )
        )
    return lines


def markdown(lines):
    def over(row, other):
        return f"{row['rmse'] / other['rmse']:.2f}" if row and other else ""

    text = [
        (
            "| model | calls | measured | the host's best | measured / the host's best | bound / the host's"
            " best | measured / ddim_uniform | probe calls | seconds |"
        ),
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for model, steps, measured, best, uniform, least in lines:
        text.append(
            f"| {model} | {steps} | {measured['rmse']:.4f} | {best['rmse']:.4f} ({best['schedule']}) |"
            f" {over(measured, best)} | {over(least, best)} | {over(measured, uniform)} |"
            f" {measured['probe_calls']} | {measured['seconds']:.0f} |"
        )
    text += [
        "",
        (
            "RMSE of the final latent to a 1000-step run, on seeds that were not probed. Bound: sigmas tuned"
            " by gradient descent of the true error, on 256 other seeds."
        ),
    ]
    for sampler in SAMPLERS:
        ratios = [
            measured["rmse"] / best["rmse"]
            for model, _, measured, best, *_ in lines
            if model.endswith(sampler)
        ]
        text += [
            "",
            (
                f"With {sampler}, of the host's best: {sum(ratios) / len(ratios):.2f} on average,"
                f" {max(ratios):.2f} at most."
            ),
        ]
    return "\n".join(text)


def main(folder):
    sys.path.append(str(ROOT / "tests"))  # analytic.py: models whose denoiser is known
    with torch.no_grad():
        rows = [row for subject in subjects() for row in compare(*subject)]
    (folder / "adaptive.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    for sampler in SAMPLERS:
        panels = {}
        for row in rows:
            if row["model"].endswith(sampler):
                name = row["model"].removesuffix(f", {sampler}")
                panels.setdefault(name, {}).setdefault(row["schedule"], {})[row["steps"]] = row["rmse"]
        draw(
            folder / f"adaptive_{sampler}.png",
            f"{sampler}: error of the final latent (RMSE to a 1000-step run)",
            panels,
            ["ddim_uniform", "measured", BOUND],
        )
    return markdown(summary(rows))
