"""Measured coefficients against all that the host has: RMSE of the final latent to a fine run, on seeds, and
on captions, that were not probed; and whether what comes nearer is as sharp and as like the held-out
pictures.
"""

import contextlib
import json
import time
from pathlib import Path

import torch
from ddim_toolkit.drawing.curves import draw

from ._held_out import HeldOut

ROOT = Path(__file__).resolve().parent.parent
STEPS = (5, 8, 10)
HOST = ("euler", "dpmpp_2m", "deis", "ipndm", "uni_pc", "res_multistep")
PROBED, UNSEEN = 1, 1000  # seeds of the probe, of the comparison
CHOOSING = 2  # pictures of the comparison that choose each host sampler's schedule
CFG = 4.0
MEASURED_ON = (
    "red heart",
    "smiling face with sunglasses",
    "woman astronaut dark skin tone",
    "dog face",
    "pizza",
    "rocket",
    "house with garden",
    "flag: Japan",
    "crying cat",
    "tulip",
    "guitar",
    "waving hand light skin tone",
)
TRIED_ON = (
    "blue heart",
    "grinning face with big eyes",
    "man firefighter medium skin tone",
    "cat face",
    "hamburger",
    "airplane",
    "castle",
    "man running facing right dark skin tone",
)


class Shipped:
    """The shipped model at cfg 4, a batch of captions at once."""

    def __init__(self):
        from ddim_toolkit.demo import model

        self.model, self.clip, self.vae = model.load()
        self.latent = {"samples": torch.zeros(1, 4, 16, 16)}
        self.negative = self.encode("")

    def encode(self, *captions):
        """One CONDITIONING whose batch is the captions."""
        words = [self.clip.encode_from_tokens_scheduled(self.clip.tokenize(each))[0] for each in captions]
        return [[torch.cat([word[0] for word in words]), words[0][1]]]


def sample(model, used, sigmas, positive, negative, cfg, noise):
    import comfy.sample

    zeros = torch.zeros_like(noise)
    return comfy.sample.sample_custom(
        model, noise, cfg, used, sigmas, positive, negative, zeros, seed=0, disable_pbar=True
    )


def host_runs(model, steps):
    """(sampler's name, schedule's name, SAMPLER, SIGMAS) of all that the host has for `steps` calls."""
    import comfy.samplers
    from ddim_toolkit.host import probe
    from ddim_toolkit.host.model import model_sampling

    for schedule, sigmas in probe.host_schedules(model_sampling(model), steps).items():
        for name in HOST if len(sigmas) == steps + 1 else ():
            yield name, schedule, comfy.samplers.sampler_object(name), torch.tensor(sigmas)


def fine(model):
    """(SAMPLER, SIGMAS) of what is called the reference: 1000 DDIM steps where the denoiser costs nothing; on
    the shipped model 100 of dpmpp_2m, whose error shrinks with the square of the steps."""
    import comfy.samplers
    from ddim_toolkit.host.model import model_sampling, table
    from ddim_toolkit.host.sampler import ddim_sampler

    sampling = model_sampling(model)
    if hasattr(model.model.diffusion_model, "means"):
        return ddim_sampler(), torch.cat([table(sampling).flip(0), torch.zeros(1)])
    return comfy.samplers.sampler_object("dpmpp_2m"), comfy.samplers.calculate_sigmas(sampling, "karras", 100)


def subjects(shipped):
    """(name, MODEL, positive, negative, cfg, latent, pictures probed, pictures compared)."""
    from comfy.model_base import ModelType
    from ddim_toolkit.bench import analytic

    for kind in (ModelType.EPS, ModelType.FLOW):
        model = analytic.model(kind, analytic.four_modes(), 0.5)
        given = analytic.CONDITIONING
        latent = {"samples": torch.zeros(1, 4, 8, 8)}
        yield f"mixture, {kind.name.lower()}", model, given, given, 1.0, latent, 16, 512
    for caption in MEASURED_ON[:2]:
        positive = shipped.encode(caption)
        yield f"shipped, {caption}", shipped.model, positive, shipped.negative, CFG, shipped.latent, 4, 8


def compare(name, model, positive, negative, cfg, latent, probed, compared):
    """Rows {model, steps, sampler, schedule, rmse} of one subject; the mean over the pictures of each one's
    own. Of the host's samplers, each runs on the schedule that was its best on CHOOSING of the pictures."""
    import comfy.sample
    from ddim_toolkit.host import measured_sampler, probe

    noise = comfy.sample.prepare_noise(latent["samples"].repeat(compared, 1, 1, 1), UNSEEN)
    reference = sample(model, *fine(model), positive, negative, cfg, noise)

    def rmse(used, sigmas, pictures=compared):
        end = sample(model, used, sigmas, positive, negative, cfg, noise[:pictures])
        return (end - reference[:pictures]).flatten(1).square().mean(1).sqrt().mean().item()

    def row(steps, sampler, schedule, used, sigmas, **more):
        error = rmse(used, sigmas)
        return {"model": name, "steps": steps, "sampler": sampler, "schedule": schedule, "rmse": error} | more

    rows = []
    for steps in STEPS:
        begun = time.perf_counter()
        sigmas, bound, found = probe.measured_schedule(
            model,
            [positive],
            negative,
            cfg,
            latent,
            steps,
            seed=PROBED,
            images=probed,
            sampler_name="measured",
        )
        cost = {"calls": found.calls, "seconds": time.perf_counter() - begun, "held_out": found.held_out}
        used = measured_sampler.as_sampler(bound)
        rows.append(row(steps, "measured", found.source, used, sigmas, **cost))
        pairs = list(host_runs(model, steps))
        for sampler in HOST:
            its = [each for each in pairs if each[0] == sampler]
            rows.append(row(steps, *min(its, key=lambda each: rmse(*each[2:], pictures=CHOOSING))))
        print(
            name, steps, [(r["sampler"], r["schedule"], round(r["rmse"], 4)) for r in best(rows)], flush=True
        )
    return rows


def best(rows):
    """The measured rows and the best of the host's, of each model and number of steps."""
    found = []
    for key in dict.fromkeys((row["model"], row["steps"]) for row in rows):
        these = [row for row in rows if (row["model"], row["steps"]) == key]
        found += [row for row in these if row["sampler"] == "measured"]
        found.append(min((row for row in these if row["sampler"] in HOST), key=lambda row: row["rmse"]))
    return found


def captions(shipped, steps=(3, 4, 5, 8)):
    """Rows as of `compare`, with sharpness: measured on twelve captions, a picture of each, tried on
    others."""
    import comfy.sample
    from ddim_toolkit.host import measured_sampler, probe

    positive = shipped.encode(*TRIED_ON)
    noise = comfy.sample.prepare_noise(torch.zeros(len(TRIED_ON), 4, 16, 16), UNSEEN)
    reference = sample(shipped.model, *fine(shipped.model), positive, shipped.negative, CFG, noise)
    sharp, rows, coefficients = sharpness(shipped.vae.decode(reference)), [], {}
    for count in steps:
        sigmas, bound, _ = probe.measured_schedule(
            shipped.model,
            [shipped.encode(caption) for caption in MEASURED_ON],
            shipped.negative,
            CFG,
            shipped.latent,
            count,
            seed=PROBED,
            images=1,
            sampler_name="measured",
        )
        coefficients[count] = bound
        runs = [("measured", "", measured_sampler.as_sampler(bound), sigmas)]
        runs += [each for each in host_runs(shipped.model, count) if each[0] in ("euler", "dpmpp_2m")]
        for sampler, schedule, used, levels in runs:
            end = sample(shipped.model, used, levels, positive, shipped.negative, CFG, noise)
            error = (end - reference).flatten(1).square().mean(1).sqrt().mean().item()
            row = {"model": "other captions", "steps": count, "sampler": sampler, "schedule": schedule}
            row["rmse"] = error
            if sampler == "measured":
                row["sharpness"] = sharpness(shipped.vae.decode(end)) / sharp
            rows.append(row)
        print([(r["sampler"], r["steps"], r["rmse"], r.get("sharpness")) for r in best(rows)], flush=True)
    return rows, coefficients


def sharpness(pictures):
    """Mean absolute difference of neighbouring pixels."""
    return float((pictures.diff(dim=1).abs().mean() + pictures.diff(dim=2).abs().mean()) / 2)


def distances(shipped, bound, batch=42):
    """{name: sliced Wasserstein distance to the held-out pictures} of pictures of their captions at cfg 4."""
    import comfy.samplers
    from ddim_toolkit.host.measured_sampler import as_sampler
    from ddim_toolkit.host.model import model_sampling
    from ddim_toolkit.host.noise import batch_noise

    held_out, found = HeldOut(), {}
    sampling = model_sampling(shipped.model)
    dpmpp_2m = comfy.samplers.sampler_object("dpmpp_2m")
    runs = {
        "reference": (dpmpp_2m, comfy.samplers.calculate_sigmas(sampling, "karras", 24)),
        "measured": (as_sampler(bound), torch.tensor(bound.coefficients.sigmas)),
    }
    fast = contextlib.nullcontext if torch.cuda.is_available() else torch.autocast
    for name, (used, sigmas) in runs.items():
        pictures = []
        for first in range(0, len(held_out.captions), batch):
            some = held_out.captions[first : first + batch]
            noise = batch_noise(0, range(first, first + len(some)), (4, 16, 16))
            with fast("cpu", torch.bfloat16) if fast is torch.autocast else fast():
                end = sample(shipped.model, used, sigmas, shipped.encode(*some), shipped.negative, CFG, noise)
                pictures.append(shipped.vae.decode(end).float())
        found[name] = held_out.distance(torch.cat(pictures))
        print(name, found[name], flush=True)
    return found


def markdown(rows, others, far):
    text = [
        "| model | calls | measured | the host's best | measured / the host's best | probe calls |",
        "|---|---|---|---|---|---|",
    ]
    for ours, host in zip(*[iter(best(rows + others))] * 2, strict=True):
        text.append(
            f"| {ours['model']} | {ours['steps']} | {ours['rmse']:.4f} | {host['rmse']:.4f}"
            f" ({host['sampler']}, {host['schedule']}) | {ours['rmse'] / host['rmse']:.2f}"
            f" | {ours.get('calls', '')} |"
        )
    sharp = {row["steps"]: row["sharpness"] for row in others if row["sampler"] == "measured"}
    return "\n".join(
        [
            *text,
            "",
            "Sharpness of the measured over the reference's, other captions: "
            + ", ".join(f"{steps} calls {value:.3f}" for steps, value in sharp.items()),
            "Sliced Wasserstein distance to the held-out pictures at 8 calls: "
            + ", ".join(f"{name} {value:.4f}" for name, value in far.items()),
        ]
    )


def main(folder):
    shipped = Shipped()
    with torch.no_grad():
        rows = [row for subject in subjects(shipped) for row in compare(*subject)]
        others, coefficients = captions(shipped)
        far = distances(shipped, coefficients[8])
    result = {"rows": rows, "captions": others, "distances": far}
    (folder / "adaptive.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
    panels = {}
    for row in rows:
        series = panels.setdefault(row["model"], {}).setdefault(row["sampler"], {})
        series[row["steps"]] = min(row["rmse"], series.get(row["steps"], row["rmse"]))
    title = "error of the final latent (RMSE to a fine run), each sampler on its best schedule"
    draw(folder / "adaptive.png", title, panels, ["dpmpp_2m", "measured", "euler"])
    return markdown(rows, others, far)
