"""Where guidance folds: ten pictures that the shipped model was not trained on, inverted at cfg 4 over karras
20, where levels may be inserted, and sampled again. A guided model call counts once here."""

import json

from ._table import table

CFG, STEPS, FINER, TOLERANCE = 4.0, 20, 12, 1e-5


def main(folder):
    import comfy.samplers
    import torch
    from ddim_toolkit.demo import model as demo
    from ddim_toolkit.demo import pictures
    from ddim_toolkit.host import guiders, inversion

    model, clip, vae = demo.load()
    sigmas = comfy.samplers.calculate_sigmas(model.model.model_sampling, "karras", STEPS)
    rows = []
    for name in pictures.NAMES:
        prompts = [clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in (name, "")]
        latent = {"samples": vae.encode(pictures.load(name)).detach()}
        guider = guiders.cfg_guider(model, *prompts, CFG)
        row = {"picture": name}
        for key, most in ("", 0), (", refined", FINER):
            options = {"tolerance": TOLERANCE, "refine_sigmas": most, "measure_round_trip": True}
            with torch.inference_mode():  # as the queue does
                made = inversion.invert_latent(guider, latent, sigmas, **options)
            run = made.run
            row |= {
                f"steps{key}": len(run.maps),
                f"calls{key}": run.calls,
                f"not solved{key}": sum(max(errors) > TOLERANCE for errors in run.errors),
                f"folds{key}": sum(run.stalled),
                f"round trip{key}": f"{made.round_trip:.1e}",
            }
        rows.append(row)
        (folder / "folds.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    return "\n".join([*table(rows), "", f"Up to {FINER} levels inserted."])
