"""Edits whose right answer is known: 32 emoji that the shipped model was not trained on, each beside the same
one with a word or a skin tone changed (`pairs.webp`, two pictures a pair; Microsoft Fluent Emoji, MIT).

RMSE of pixels (0 to 1) to the true target: of the whole picture, inside (where source and target differ) and
outside. Calls are those of one picture, averaged; where cfg is not 1 each counts for two.
"""

import json
from pathlib import Path

from ._table import table

HERE = Path(__file__).parent
STEPS, BATCH, SIZE = 16, 4, 128
CHANGED = 0.1  # difference of a channel above which a pixel counts as changed, and its neighbours with it
NEAR = 4  # pixels


def main(folder):
    import numpy
    import torch
    from ddim_toolkit.demo import model as demo
    from PIL import Image

    captions = json.loads((HERE / "pairs.json").read_text(encoding="utf-8"))
    sheet = torch.from_numpy(numpy.asarray(Image.open(HERE / "pairs.webp").convert("RGB")) / 255).float()
    tiles = sheet.unfold(0, SIZE, SIZE).unfold(1, SIZE, SIZE).flatten(0, 1).movedim(1, -1)  # (N, H, W, C)
    model, clip, vae = demo.load()
    collected = {}
    for first in range(0, len(captions), BATCH):
        some = captions[first : first + BATCH]
        pictures = [tiles[2 * first + k : 2 * (first + len(some)) : 2] for k in (0, 1)]
        with torch.inference_mode():  # as the queue does
            for name, values in batch(model, clip, vae, some, *pictures).items():
                collected.setdefault(name, []).append(values)
        rows = [mean(name, values) for name, values in collected.items()]
        (folder / "edits.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    return "\n".join(
        [
            *table(rows),
            "",
            f"{len(captions)} pairs, {STEPS} steps of stride linspace. {__doc__.split('.', 1)[1].strip()}",
        ]
    )


def mean(name, values):
    """The row of a method, from (errors (B, 3), calls) of each batch."""
    import torch

    errors = torch.cat([errors for errors, _ in values]).mean(0).tolist()
    calls = sum(calls * len(errors) for errors, calls in values) / sum(len(errors) for errors, _ in values)
    shown = [f"{error:.3f}".lstrip("0") for error in errors]
    return {
        "method": name,
        "calls": round(calls),
        **dict(zip(("RMSE", "inside", "outside"), shown, strict=True)),
    }


def batch(model, clip, vae, captions, sources, targets):
    """{method: (errors (B, 3), calls)} of a batch of pairs."""
    import torch
    from ddim_toolkit.host import edit, guiders, inversion, sampler, schedule
    from ddim_toolkit.host.noise import latent_noise
    from ddim_toolkit.host.replay import held_to_the_record

    def conditioning(texts):
        encoded = [clip.encode_from_tokens_scheduled(clip.tokenize(text))[0] for text in texts]
        return [[torch.cat([tensor for tensor, _ in encoded]), encoded[0][1]]]

    source, target = (conditioning([pair[name] for pair in captions]) for name in ("source", "target"))
    negative = conditioning([""] * len(captions))
    latent = {"samples": vae.encode(sources).detach()}
    sigmas = schedule.stride_sigmas(model, STEPS, "linspace")[0]
    changed = ((targets - sources).abs().amax(-1, keepdim=True) > CHANGED).float().movedim(-1, 1)
    inside = torch.nn.functional.max_pool2d(changed, 2 * NEAR + 1, 1, NEAR).movedim(1, -1)
    found = {}

    def note(name, samples, calls):
        note_picture(name, vae.decode(samples), calls)

    def note_picture(name, pictures, calls):
        squares = (pictures - targets).square()
        parts = [torch.ones_like(inside), inside, 1 - inside]
        errors = [
            ((squares * part).sum((1, 2, 3)) / (3 * part.sum((1, 2, 3))).clamp_min(1)).sqrt()
            for part in parts
        ]
        found[name] = torch.stack(errors, 1), calls

    def sample(noise, with_sampler, levels=sigmas, cfg=1.0):
        guider = guiders.cfg_guider(model, target, negative, cfg)
        return guiders.sample(guider, noise, latent, with_sampler, levels, 0)

    note_picture("the picture left alone", sources, 0)
    note_picture("the target through the VAE", vae.decode(vae.encode(targets).detach()), 0)
    ddim = sampler.ddim_sampler()
    for cfg in (1.0, 2.0):
        exact = inversion.invert_latent(guiders.cfg_guider(model, source, negative, cfg), latent, sigmas)
        noise, calls = exact.noise.generate_noise(latent), exact.run.calls + STEPS
        note(f"exact inversion, cfg {cfg:g}", sample(noise, ddim, cfg=cfg), calls * (1 if cfg == 1 else 2))
        for strength in (0.05, 0.1, 0.25, 0.5, 0.75) if cfg == 1 else ():
            held = held_to_the_record(exact.replay, strength)
            note(f"exact inversion, replay strength {strength:g}", sample(noise, held), calls)
    maps = inversion.invert_latent(guiders.cfg_guider(model, source, negative, 1.0), latent, sigmas, eta=1.0)
    for skipped in (0, 4, 8):
        samples = sample(maps.noise.generate_noise(latent), maps.replay, sigmas[skipped:])
        note(f"noise maps, {skipped / STEPS:.0%} skipped", samples, 2 * STEPS - skipped)
    for denoise in (0.5, 0.7):
        part = schedule.stride_sigmas(model, STEPS, "linspace", denoise)[0]
        note(f"plain denoise {denoise:g}", sample(latent_noise(latent, 0), ddim, part), STEPS)

    def edited(name, levels=sigmas, cfg=1.0, **options):
        conds = source, target, negative
        made = edit.edit_latent(model, *conds, latent, levels, source_cfg=cfg, target_cfg=cfg, **options)[0]
        note(f"DDIM Edit, {name}", made["samples"], 2 * (len(levels) - 1) * (1 if cfg == 1 else 2))

    for eta in (0.0, 0.5, 1.0):
        for softness in (0.0, 0.5):
            edited(f"eta {eta:g}" + (f", mask {softness:g}" if softness else ""), eta=eta, softness=softness)
    edited("eta 0, cfg 2", cfg=2.0)
    later = sigmas[4:]
    edited(f"eta 0, from sigma {later[0]:.2g}", later)
    return found
