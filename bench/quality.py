"""Quality per model call on the shipped model: how near a few steps come to a thousand, for every dial and
every host sampler.

Two distances. RMSE of the final latents, in the scale the model sees, to DDIM's own 1000 steps from the same
noise. And, because eta above 0 has no path in common with it, a distance of distributions, as in table 1 of
the DDIM paper: the sliced Wasserstein distance of the decoded pictures to the pictures held out of the
training, drawn from their captions.
"""

import contextlib
import json

import torch
from ddim_toolkit.drawing.curves import draw

from ._held_out import HeldOut

CALLS = (4, 8, 10, 20, 50, 100)
ETAS = (0.0, 0.5, 1.0)
COMPARED = (5, 10, 20)
BATCH = 84
HOST = {  # model calls a step
    "euler": 1,
    "dpmpp_2m": 1,
    "heun": 2,
    "ipndm": 1,
    "deis": 1,
    "uni_pc": 1,
    "res_multistep": 1,
}


class Runs:
    """Final latents of the shipped model without guidance, one of each held-out caption, times `copies`."""

    def __init__(self, captions, copies=1):
        from ddim_toolkit.demo import model

        self.model, self.clip, self.vae = model.load()
        words = [
            self.clip.encode_from_tokens_scheduled(self.clip.tokenize(caption))[0] for caption in captions
        ]
        self.words = torch.cat([word[0] for word in words] * copies)
        self.options = words[0][1]

    def __call__(self, sampler, sigmas, count=None):
        import comfy.sample
        from ddim_toolkit.host.noise import batch_noise

        found = []
        for first, context in enumerate(self.words[:count].split(BATCH)):
            indices = range(first * BATCH, first * BATCH + len(context))
            empty = torch.zeros(len(context), 4, 16, 16)
            words = [[context, self.options]]
            found.append(
                comfy.sample.sample_custom(
                    self.model,
                    batch_noise(0, indices, (4, 16, 16)),
                    1.0,
                    sampler,
                    sigmas,
                    words,
                    words,
                    empty,
                    seed=first,
                    disable_pbar=True,
                )
            )
        return torch.cat(found)


def main(folder):
    import comfy.samplers
    from ddim_toolkit.host import sampler, schedule
    from ddim_toolkit.host.model import model_sampling

    cuda = torch.cuda.is_available()
    held_out = HeldOut()
    runs = Runs(held_out.captions, copies=12 if cuda else 1)
    few = None if cuda else 16  # how many are compared one by one
    # On a CPU the distributions come from bfloat16 layers, several times as fast; what is compared one by one
    # does not.
    fast = contextlib.nullcontext if cuda else lambda: torch.autocast("cpu", torch.bfloat16)
    ddim = sampler.ddim_sampler

    def stride(steps, name="trailing"):
        return schedule.stride_sigmas(runs.model, steps, name)[0]

    def wasserstein(eta, calls):
        with torch.no_grad(), fast():
            latents = runs(ddim(eta=eta), stride(calls))
            return held_out.distance(
                torch.cat([runs.vae.decode(part) for part in latents.split(BATCH)]).float()
            )

    dials = [
        {"eta": eta, "calls": calls, "wasserstein": wasserstein(eta, calls)}
        for eta in ETAS
        for calls in (*CALLS, 1000)
        if calls < 1000 or cuda or eta == 0
    ]

    scale = runs.model.model.process_latent_in
    with torch.no_grad():
        exact = scale(runs(ddim(), stride(1000), few))

        def rmse(sampler, sigmas):
            return (scale(runs(sampler, sigmas, few)) - exact).square().mean().sqrt().item()

        for dial in dials:
            if dial["eta"] == 0 and dial["calls"] < 1000:
                dial["rmse"] = rmse(ddim(), stride(dial["calls"]))
        compared = []
        for calls in COMPARED:
            for order in (1, 2, 3, 4):
                for name in ("trailing", "leading", "linspace", "quadratic"):
                    row = {"calls": calls, "sampler": f"DDIM Sampler, order {order}", "schedule": name}
                    compared.append(row | {"rmse": rmse(ddim(order=order), stride(calls, name))})
            for scheduler in comfy.samplers.SCHEDULER_NAMES:
                for name, calls_a_step in HOST.items():
                    steps = calls // calls_a_step
                    sigmas = comfy.samplers.calculate_sigmas(model_sampling(runs.model), scheduler, steps)
                    if len(sigmas) - 1 > steps:  # ddim_uniform may take more than asked
                        continue
                    row = {"calls": calls, "sampler": name, "schedule": scheduler, "steps": steps}
                    compared.append(row | {"rmse": rmse(comfy.samplers.sampler_object(name), sigmas)})
    result = {
        "pictures": len(runs.words),
        "compared pictures": few or len(runs.words),
        "training pictures": held_out.training,
        "dials": dials,
        "compared": compared,
    }
    (folder / "quality.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
    plot(result, folder)
    return table(result)


def best(result):
    """{sampler: {calls: its row with the least RMSE}} over the schedules."""
    found = {}
    for row in result["compared"]:
        rows = found.setdefault(row["sampler"], {})
        if row["calls"] not in rows or row["rmse"] < rows[row["calls"]]["rmse"]:
            rows[row["calls"]] = row
    return found


def plot(result, folder):
    etas = {
        f"eta {eta:g}": {d["calls"]: d["wasserstein"] for d in result["dials"] if d["eta"] == eta}
        for eta in ETAS
    }
    draw(
        folder / "quality.png",
        "Sliced Wasserstein distance to the held-out pictures",
        {"shipped model, no guidance": etas},
        list(etas),
    )
    samplers = {
        name: {calls: row["rmse"] for calls, row in rows.items()} for name, rows in best(result).items()
    }
    draw(
        folder / "samplers.png",
        "Error of the final latent (RMSE to 1000 steps), each sampler on its best schedule",
        {"shipped model, no guidance": samplers},
        [name for name in samplers if name.startswith("DDIM")],
    )


def table(result):
    dials = {(d["eta"], d["calls"]): d for d in result["dials"]}
    lines = [
        (
            f"Distance of {result['pictures']} pictures to the held-out ones (the training pictures:"
            f" {result['training pictures']:.4f}); RMSE over {result['compared pictures']}. No guidance."
        ),
        "",
        "| calls | RMSE to 1000 steps, eta 0 | "
        + " | ".join(f"sliced Wasserstein, eta {eta:g}" for eta in ETAS)
        + " |",
        "|---|---|" + "---|" * len(ETAS),
    ]
    for calls in (*CALLS, 1000):
        cells = [f"{dials[eta, calls]['wasserstein']:.4f}" if (eta, calls) in dials else "" for eta in ETAS]
        lines.append(f"| {calls} | {dials[0.0, calls].get('rmse', 0.0):.4f} | " + " | ".join(cells) + " |")
    lines += [
        "",
        "| sampler, on its best schedule | " + " | ".join(f"{calls} calls" for calls in COMPARED) + " |",
        "|---|" + "---|" * len(COMPARED),
    ]
    for name, rows in sorted(best(result).items(), key=lambda each: each[1][COMPARED[1]]["rmse"]):
        lines.append(
            f"| {name} | "
            + " | ".join(f"{rows[calls]['rmse']:.4f} ({rows[calls]['schedule']})" for calls in COMPARED)
            + " |"
        )
    return "\n".join(lines)
