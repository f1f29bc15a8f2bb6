"""Quality per model call on the shipped model: how far a few steps are from a thousand, for every dial and every host sampler.

The distance is RMSE of the final latents (in the scale the model sees) to DDIM's own 1000 steps from the same
noise, without guidance. For eta above 0 there is no common path, so the pictures' distribution is compared: the
sliced Wasserstein distance to the 1000-step pictures of eta 0 from other seeds, beside that of two such sets.
"""

import json

import torch

CALLS = (4, 8, 10, 20, 50, 100)
ETAS = (0.0, 0.5, 1.0)
COMPARED = (5, 10, 20)
CAPTIONS = ("heart", "cat", "face", "woman", "food", "flag", "", "red apple")
PROJECTIONS = 256
HOST = {"euler": 1, "dpmpp_2m": 1, "heun": 2, "ipndm": 1, "deis": 1, "uni_pc": 1, "res_multistep": 1}  # model calls a step


def sliced_wasserstein(a, b, seed=0):
    """Root mean square distance of sorted projections of two sets (N, ...) of equal size (Bonneel et al. 2015)."""
    a, b = a.flatten(1), b.flatten(1)
    directions = torch.nn.functional.normalize(torch.randn(a.shape[1], PROJECTIONS, generator=torch.Generator().manual_seed(seed)), dim=0)
    return ((a @ directions).sort(dim=0).values - (b @ directions).sort(dim=0).values).square().mean().sqrt().item()


class Runs:
    """Batches of latents of the shipped model, a caption each, for seeds counted from `first`."""

    def __init__(self, pictures):
        from ddim_toolkit.demo import model

        self.model, self.clip, _ = model.load()
        self.pictures = pictures

    def __call__(self, sampler, sigmas, first=0):
        import comfy.sample

        found = []
        each = self.pictures // len(CAPTIONS)
        for k, caption in enumerate(CAPTIONS):
            words = self.clip.encode_from_tokens_scheduled(self.clip.tokenize(caption))
            empty = torch.zeros(each, 4, 16, 16)
            noise = comfy.sample.prepare_noise(empty, first + k)
            found.append(comfy.sample.sample_custom(self.model, noise, 1.0, sampler, sigmas, words, words, empty, seed=first + k, disable_pbar=True))
        return self.model.model.process_latent_in(torch.cat(found))


def main(folder):
    import comfy.samplers
    from ddim_toolkit.host import sampler, schedule
    from ddim_toolkit.host.model import model_sampling

    runs = Runs(2048 if torch.cuda.is_available() else 16)
    model, ddim = runs.model, sampler.ddim_sampler

    def stride(steps, name="trailing"):
        return schedule.stride_sigmas(model, steps, name)[0]

    exact = runs(ddim(), stride(1000))
    other = runs(ddim(), stride(1000), first=100)
    rmse = lambda x: (x - exact).square().mean().sqrt().item()
    dials = [
        {"eta": eta, "calls": calls, "rmse": rmse(x) if eta == 0 else None, "wasserstein": sliced_wasserstein(x, other)}
        for eta in ETAS for calls in CALLS for x in [runs(ddim(eta=eta), stride(calls))]
    ]
    floor = sliced_wasserstein(exact, other)

    compared = []
    for calls in COMPARED:
        for order in (1, 2, 3, 4):
            for name in ("trailing", "leading", "linspace", "quadratic"):
                compared.append({"calls": calls, "sampler": f"DDIM Sampler, order {order}", "schedule": name, "rmse": rmse(runs(ddim(order=order), stride(calls, name)))})
        for scheduler in comfy.samplers.SCHEDULER_NAMES:
            for name, calls_a_step in HOST.items():
                steps = calls // calls_a_step
                sigmas = comfy.samplers.calculate_sigmas(model_sampling(model), scheduler, steps)
                compared.append({"calls": calls, "sampler": name, "schedule": scheduler, "steps": len(sigmas) - 1, "rmse": rmse(runs(comfy.samplers.sampler_object(name), sigmas))})
    result = {"pictures": runs.pictures, "dials": dials, "wasserstein_of_two_thousand_step_sets": floor, "compared": compared}
    (folder / "quality.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
    return table(result)


def table(result):
    lines = [f"{result['pictures']} pictures of {len(CAPTIONS)} captions, no guidance.", "", "| calls | RMSE to 1000 steps, eta 0 | " + " | ".join(f"sliced Wasserstein, eta {eta:g}" for eta in ETAS) + " |",
             "|---|---|" + "---|" * len(ETAS)]
    for calls in CALLS:
        row = {d["eta"]: d for d in result["dials"] if d["calls"] == calls}
        lines.append(f"| {calls} | {row[0.0]['rmse']:.4f} | " + " | ".join(f"{row[eta]['wasserstein']:.4f}" for eta in ETAS) + " |")
    lines += [f"| 1000 | 0 | {result['wasserstein_of_two_thousand_step_sets']:.4f} | | |", "", "| calls | the five closest to 1000 steps |", "|---|---|"]
    for calls in COMPARED:
        best = sorted((c for c in result["compared"] if c["calls"] == calls), key=lambda c: c["rmse"])[:5]
        lines.append(f"| {calls} | " + "; ".join(f"{c['sampler']} on {c['schedule']} {c['rmse']:.4f}" for c in best) + " |")
    return "\n".join(lines)
