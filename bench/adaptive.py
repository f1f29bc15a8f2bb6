"""The measured schedule against all of the host's: RMSE of the final latent to a 1000-step run, on seeds that were not probed."""

import json
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
STEPS = (5, 10, 20)
PROBED, UNSEEN = 1, 1000  # seeds of the probe and of the comparison


def subjects():
    """(name, MODEL, positive, negative, cfg, latent, pictures probed, pictures compared)."""
    import analytic
    from comfy.model_base import ModelType
    from ddim_toolkit.demo import model as demo

    empty = {"samples": torch.zeros(1, 4, 8, 8)}
    for kind in (ModelType.EPS, ModelType.FLOW):
        model = analytic.model(kind, analytic.four_modes(), 0.5)
        yield f"mixture, {kind.name.lower()}", model, analytic.CONDITIONING, analytic.CONDITIONING, 1.0, empty, 16, 256
    model, clip, _ = demo.load()
    positive, negative = [clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in ("red heart", "")]
    yield "shipped model, cfg 4", model, positive, negative, 4.0, {"samples": torch.zeros(1, 4, 16, 16)}, 4, 4


def compare(name, model, positive, negative, cfg, latent, probed, compared, steps_list=STEPS, order=1):
    """Rows {model, order, steps, schedule, calls, rmse, pooled, ...} of one subject. rmse is the mean over the pictures of each
    one's own, pooled the root of the mean square over all, in which a picture that became another one weighs most."""
    import comfy.sample
    from ddim_toolkit.host import probe, sampler
    from ddim_toolkit.host.model import model_sampling, table

    sampling = model_sampling(model)
    samples = latent["samples"].repeat(compared, 1, 1, 1)
    noise = comfy.sample.prepare_noise(samples, UNSEEN)

    def run(sigmas, order=order):
        return comfy.sample.sample_custom(model, noise, cfg, sampler.ddim_sampler(order=order), sigmas, positive, negative, samples, seed=0, disable_pbar=True)

    reference = run(torch.cat([table(sampling).flip(0), torch.zeros(1)]), order=1)
    rows = []
    for steps in steps_list:
        begun = time.perf_counter()
        sigmas, measured = probe.measured_schedule(model, positive, negative, cfg, latent, steps, seed=PROBED, images=probed, order=order)
        seconds = time.perf_counter() - begun
        schedules = {"measured": sigmas} | {k: torch.tensor(v) for k, v in probe.host_schedules(sampling, steps).items()}
        for schedule, sigmas in schedules.items():
            if len(sigmas) > steps + 1:  # ddim_uniform may take more steps than asked
                continue
            error = (run(sigmas) - reference).flatten(1).pow(2).mean(1)
            row = {"model": name, "order": order, "steps": steps, "schedule": schedule, "calls": len(sigmas) - 1}
            row |= {"rmse": error.sqrt().mean().item(), "pooled": error.mean().sqrt().item()}
            if schedule == "measured":
                row |= {"source": measured.source, "predicted": measured.predicted, "on_probed": measured.measured, "probe_calls": measured.calls, "seconds": seconds}
            rows.append(row)
    return rows


def summary(rows):
    """One line for each model and number of steps: (model, steps, measured row, best host row, ddim_uniform row or None)."""
    lines = []
    for model, steps in dict.fromkeys((row["model"], row["steps"]) for row in rows):
        these = {row["schedule"]: row for row in rows if (row["model"], row["steps"]) == (model, steps)}
        measured = these.pop("measured")
        lines.append((model, steps, measured, min(these.values(), key=lambda row: row["rmse"]), these.get("ddim_uniform")))
    return lines


def markdown(lines):
    text = ["| model | calls | measured | best of the host's | | ddim_uniform | of the best | of ddim_uniform | probe calls | seconds |", "|---|---|---|---|---|---|---|---|---|---|"]
    for model, steps, measured, best, uniform in lines:
        other = ("", "") if uniform is None else (f"{uniform['rmse']:.4f}", f"{measured['rmse'] / uniform['rmse']:.2f}")
        text.append(f"| {model} | {steps} | {measured['rmse']:.4f} | {best['rmse']:.4f} | {best['schedule']} | {other[0]} | {measured['rmse'] / best['rmse']:.2f} | {other[1]} "
                    f"| {measured['probe_calls']} | {measured['seconds']:.0f} |")
    ratios = [measured["rmse"] / best["rmse"] for _, _, measured, best, _ in lines]
    return "\n".join([*text, "", f"RMSE of the final latent to a 1000-step run, on seeds that were not probed. Of the best host schedule: {sum(ratios) / len(ratios):.2f} on average, "
                      f"{max(ratios):.2f} at most."])


def draw(rows, path):
    """RMSE over model calls, a panel for each model: the measured schedule among the host's."""
    import math

    from ddim_toolkit.host.plot import COLOURS, GREY, HEIGHT, INK, LINE, WIDTH, Pen, log_ticks
    from PIL import Image

    pen = Pen()
    models = list(dict.fromkeys(row["model"] for row in rows))
    width = (WIDTH - 70) / len(models)
    top, bottom = [math.log10(edge([row["rmse"] for row in rows])) + pad for edge, pad in ((max, 0.05), (min, -0.05))]
    down = lambda value: 130 + (HEIGHT - 230) * (top - math.log10(value)) / (top - bottom)  # noqa: E731
    pen.text((70, 30), "Error of the final latent over model calls (RMSE to a 1000-step run)", 26, INK)
    for tick in log_ticks(bottom, top):
        pen.text((60, down(tick)), f"{tick:g}", 17, GREY, "rm")
        pen.line([(70, down(tick)), (WIDTH - 20, down(tick))], LINE, 1)
    for k, model in enumerate(models):
        left = 70 + k * width
        steps = sorted({row["steps"] for row in rows if row["model"] == model})
        across = {n: left + width * (0.12 + 0.62 * i / max(len(steps) - 1, 1)) for i, n in enumerate(steps)}
        pen.text((left + 20, 96), model, 20, INK)
        for n in steps:
            pen.text((across[n], HEIGHT - 86), str(n), 17, GREY, "mt")
        ends = {}
        for schedule in dict.fromkeys(row["schedule"] for row in rows if row["model"] == model):
            points = [(across[row["steps"]], down(row["rmse"])) for row in rows if (row["model"], row["schedule"]) == (model, schedule)]
            kind = {"measured": 1, "ddim_uniform": 0}.get(schedule)
            pen.line(points, "#b8bec8" if kind is None else COLOURS[kind], 2 if kind is None else 4)
            if kind is not None:
                for point in points:
                    pen.mark(kind, point, 7)
            ends[schedule] = points[-1], kind
        lowest = 0
        for schedule, ((x, y), kind) in sorted(ends.items(), key=lambda each: each[1][0][1]):
            lowest = max(y, lowest + 17)  # names that would overlap move down
            pen.text((x + 12, lowest), schedule, 15, GREY if kind is None else COLOURS[kind], "lm")
    pen.text((WIDTH - 20, HEIGHT - 52), "model calls", 17, GREY, "rt")
    Image.fromarray((pen.image()[0] * 255).byte().numpy()).save(path)


def main(folder):
    sys.path.append(str(ROOT / "tests"))  # analytic.py: models whose denoiser is known
    with torch.no_grad():
        rows = [row for subject in subjects() for row in compare(*subject)]
    (folder / "adaptive.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    draw(rows, folder / "adaptive.png")
    return markdown(summary(rows))
