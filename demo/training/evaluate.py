"""The figures and sheets of the model card.

`python -m demo.training.evaluate --comfyui COMFYUI --folder training --output sheets`.

`--weights DIR` measures other weights than the shipped ones; `--only seeds captions words seconds autoencoder
cover held_out` measures some.
"""

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from . import data
from .train import start_host

SHORT = ["heart", "cat", "face", "woman", "food"]
FULL = [
    "red heart",
    "grinning cat",
    "smiling face with sunglasses",
    "woman astronaut dark skin tone",
    "pizza",
    "locomotive",
    "red apple",
    "mushroom",
]
WORDS = [
    ("red heart", "blue heart"),
    ("red apple", "green apple"),
    ("woman astronaut dark skin tone", "man astronaut light skin tone"),
    ("grinning cat", "crying cat"),
    ("keycap 3", "keycap 8"),
    ("man dancing dark skin tone", "woman dancing dark skin tone"),
]


class Painter:
    """Pictures from captions with the host's own nodes: `ddim` on the `simple` schedule (trailing
    timesteps)."""

    def __init__(self, folder, guidance, steps):
        import nodes

        from ..model import load

        self.nodes, self.guidance, self.steps = nodes, guidance, steps
        self.model, self.clip, self.vae = load(folder)

    @torch.inference_mode()
    def latents(self, caption, count, seed=0, guidance=None, steps=None):
        (positive,) = self.nodes.CLIPTextEncode().encode(self.clip, caption)
        (negative,) = self.nodes.CLIPTextEncode().encode(self.clip, "")
        (latent,) = self.nodes.EmptyLatentImage().generate(128, 128, count)
        return self.nodes.KSampler().sample(
            self.model,
            seed,
            steps or self.steps,
            guidance or self.guidance,
            "ddim",
            "simple",
            positive,
            negative,
            latent,
        )[0]["samples"]

    @torch.inference_mode()
    def draw(self, caption, count=1, **options):
        """Pictures [count, 128, 128, 3] in 0..1; same caption, seed and count, same pictures."""
        return self.vae.decode(self.latents(caption, count, **options))


def sheet(rows, path):
    """Saves pictures [rows][columns] of one size as one picture."""
    grid = torch.cat([torch.cat(list(row), dim=1) for row in rows])
    Image.fromarray((grid.clamp(0, 1) * 255).round().byte().numpy()).save(path, quality=90)


def spread(pictures):
    """Root-mean-square distance between the rows, and within them: pictures [captions, seeds, ...] ->
    (captions, seeds).

    Between captions the seed is the same; within a caption all pairs of seeds count.
    """
    flat = pictures.flatten(2)
    rms = flat.shape[-1] ** 0.5

    def upper(d):
        return d[torch.triu_indices(len(d), len(d), 1).unbind()].mean().item() / rms

    between = np.mean([upper(torch.cdist(flat[:, k], flat[:, k])) for k in range(flat.shape[1])])
    within = np.mean([upper(torch.cdist(row, row)) for row in flat])
    return float(between), float(within)


def seeds(painter, output):
    short = torch.stack([painter.draw(caption, 8) for caption in SHORT])
    sheet(short, output / "seeds.jpg")
    for name, pictures in (
        ("short", short),
        ("full", torch.stack([painter.draw(caption, 8) for caption in FULL])),
    ):
        between, within = spread(pictures)
        yield (
            f"{name} captions: seeds {within:.3f} apart, captions {between:.3f}, ratio {within / between:.2f}"
        )


def captions(painter, output, records):
    chosen = [r["caption"] for r in records if r["caption"] and not r["held_out"]][::100][:32]
    pictures = torch.cat([painter.draw(caption) for caption in chosen])
    sheet(pictures.unflatten(0, (4, 8)), output / "captions.jpg")
    yield "every hundredth caption: " + ", ".join(chosen)


def words(painter, output):
    rows = [torch.cat([painter.draw(caption, 3) for caption in pair]) for pair in WORDS]
    sheet(rows, output / "words.jpg")
    same = np.mean([(row[:3] - row[3:]).square().mean().sqrt() for row in rows])
    return [f"one word changed: {same:.3f} apart with the same seed"]


def seconds(painter, output):
    times = []
    for i in range(5):
        start = time.perf_counter()
        painter.draw("red heart", 1, seed=i)
        times.append(time.perf_counter() - start)
    return [
        f"a draft of {painter.steps} steps with guidance, decoded: {sorted(times)[2]:.2f} s"
        f" ({torch.get_num_threads()} threads)"
    ]


def autoencoder(painter, output, pictures, records):
    groups = {
        "held-out": [i for i, r in enumerate(records) if r["held_out"]],
        "training": [i for i, r in enumerate(records) if not r["held_out"]][::20],
    }
    for name, chosen in groups.items():
        x = torch.from_numpy(np.stack([pictures[i] for i in chosen])).float() / 255
        y = torch.cat([painter.vae.decode(painter.vae.encode(part)) for part in x.split(16)])
        yield (
            f"autoencoder, {name} pictures:"
            f" {(-10 * (x - y).square().mean((1, 2, 3)).log10()).mean().item():.2f} dB"
        )
        if name == "held-out":
            sheet([x[:96:8], y[:96:8]], output / "autoencoder.jpg")


def small(pictures):
    """Vectors [N, 3072] of pictures [N, 128, 128, 3]: means of 4 x 4 pixels."""
    return torch.nn.functional.avg_pool2d(pictures.movedim(-1, 1), 4).flatten(1)


def projected(vectors, projections=256, levels=100):
    """Quantiles [levels, projections] of vectors [N, D] along random directions, the same ones always."""
    directions = torch.randn(vectors.shape[1], projections, generator=torch.Generator().manual_seed(0))
    return torch.quantile(
        vectors @ (directions / directions.norm(dim=0)), (torch.arange(levels) + 0.5) / levels, dim=0
    )


def sliced_wasserstein(a, b):
    """Mean 1-Wasserstein distance of two sets of vectors [N, D] and [M, D] over random directions."""
    return (projected(a) - projected(b)).abs().mean().item()


def _split(pictures, records):
    """Small vectors of the training pictures and of the held-out ones."""
    real = small(torch.from_numpy(np.asarray(pictures)).float() / 255)
    held = torch.tensor([r["held_out"] for r in records])
    return real[~held], real[held]


def cover(painter, output, pictures, records, count=2000):
    training, held = _split(pictures, records)
    drawn = torch.cat([small(painter.draw("", 50, seed=seed, guidance=1.0)) for seed in range(count // 50)])
    for name, these in (
        (f"{count} samples", drawn),
        (f"{len(held)} of them", drawn[: len(held)]),
        (f"the {len(held)} held-out pictures", held),
    ):
        yield (
            f"sliced Wasserstein distance to the training pictures: {name}"
            f" {sliced_wasserstein(these, training):.4f}"
        )


def held_out(painter, output, pictures, records):
    """What `run.py bench quality` compares with: quantiles of the held-out pictures, their captions, the
    training pictures' distance."""
    training, held = _split(pictures, records)
    captions = [r["caption"] or "" for r in records if r["held_out"]]
    about = {"captions": json.dumps(captions), "training": f"{sliced_wasserstein(training, held):.4f}"}
    save_file(
        {"quantiles": projected(held).half().contiguous()},
        Path(__file__).parents[2] / "bench" / "held_out.safetensors",
        about,
    )
    return [f"{len(captions)} held-out pictures, {about['training']} from the training pictures"]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--comfyui", default=os.environ.get("COMFYUI_PATH"), required=not os.environ.get("COMFYUI_PATH")
    )
    parser.add_argument("--weights", type=Path, default=Path(__file__).parents[1])
    parser.add_argument(
        "--folder", type=Path, default=Path("training"), help="the training folder, for its pictures"
    )
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1] / "sheets")
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--only",
        nargs="+",
        default=["seeds", "captions", "words", "seconds", "autoencoder", "cover", "held_out"],
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    start_host(options.comfyui, "cpu")
    options.output.mkdir(parents=True, exist_ok=True)
    pictures, records = data.prepare(options.folder / "data")
    painter = Painter(options.weights, options.guidance, options.steps)
    extra = {
        "captions": [records],
        "autoencoder": [pictures, records],
        "cover": [pictures, records],
        "held_out": [pictures, records],
    }
    lines = []
    for name in options.only:
        for line in globals()[name](painter, options.output, *extra.get(name, [])):
            print(line, flush=True)
            lines.append(line)
    (options.output / "figures.json").write_text(json.dumps(lines, indent=1) + "\n")


if __name__ == "__main__":
    main()
