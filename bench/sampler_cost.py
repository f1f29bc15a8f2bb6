"""What the sampler itself costs beside the model: time and memory of our loop over the host's, on a model
that is free."""

import json
import statistics
import time
import types
import weakref
from functools import partial

import torch
from torch.utils._python_dispatch import TorchDispatchMode

STEPS, ROUNDS = 20, 15
LATENTS = {
    "SD 1.5, 512 px": (1, 4, 64, 64),
    "SDXL, 1024 px, batch 8": (8, 4, 128, 128),
    "Wan, 81 frames, 480p": (1, 16, 21, 60, 104),
}


class FreeModel:
    """Returns the same x0_hat at once; model_sampling is SD's."""

    def __init__(self, x0):
        import comfy.model_sampling

        class Sampling(comfy.model_sampling.ModelSamplingDiscrete, comfy.model_sampling.EPS):
            pass

        self.x0 = x0
        self.inner_model = types.SimpleNamespace(inner_model=types.SimpleNamespace(model_sampling=Sampling()))

    def __call__(self, x, sigma, **kwargs):
        return self.x0


class Peak(TorchDispatchMode):
    """The most bytes of tensors made inside the block that were alive at once."""

    def __init__(self):
        super().__init__()
        self.live, self.most, self.known = 0, 0, set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor):
            storage = out.untyped_storage()
            if storage.data_ptr() not in self.known and not any(
                isinstance(a, torch.Tensor) and a.untyped_storage().data_ptr() == storage.data_ptr()
                for a in args
            ):
                self.known.add(storage.data_ptr())
                self.live += storage.nbytes()
                self.most = max(self.most, self.live)
                weakref.finalize(storage, self.freed, storage.data_ptr(), storage.nbytes())
        return out

    def freed(self, pointer, size):
        self.known.discard(pointer)
        self.live -= size


def seconds(run, device):
    if device == "cuda":
        torch.cuda.synchronize()
        begin = time.perf_counter()
        run()
        torch.cuda.synchronize()
        return time.perf_counter() - begin
    begin = time.thread_time()  # on one thread: what other programs take from it does not count
    run()
    return time.thread_time() - begin


def main(folder):
    import comfy.k_diffusion.sampling as k
    from ddim_toolkit.host.model import sigmas_at
    from ddim_toolkit.host.sampler import sample_ddim

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        torch.set_num_threads(1)
    rows = []
    for name, shape in LATENTS.items():
        generator = torch.Generator().manual_seed(0)
        x, x0 = (torch.randn(shape, generator=generator).to(device) for _ in range(2))
        model = FreeModel(x0)
        sampling = model.inner_model.inner_model.model_sampling
        sigmas = sigmas_at(sampling, [999 - 50 * i for i in range(STEPS)]).to(device)
        seeded, noisy = {"seed": 1}, dict(eta=1.0, noise_device="gpu")
        pairs = {
            ("eta 0", "euler"): (
                partial(sample_ddim, model, x, sigmas, disable=True),
                partial(k.sample_euler, model, x, sigmas, disable=True),
            ),
            ("eta 1", "euler_ancestral"): (
                partial(sample_ddim, model, x, sigmas, seeded, disable=True, **noisy),
                partial(k.sample_euler_ancestral, model, x, sigmas, seeded, disable=True),
            ),
        }
        for (ours, host), runs in pairs.items():
            for run in runs:
                run()
            # In turn, so that both see the same machine.
            times = [[seconds(run, device) for run in runs] for _ in range(ROUNDS)]
            memory = []
            for run in runs:
                with Peak() as peak:
                    run()
                memory.append(peak.most)
            rows.append(
                {
                    "latent": name,
                    "sampler": ours,
                    "host": host,
                    "ms_per_step": 1000 * statistics.median(t[0] for t in times) / STEPS,
                    "time_ratio": statistics.median(a / b for a, b in times),
                    "memory_ratio": memory[0] / memory[1],
                }
            )
    (folder / "sampler_cost.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    lines = [
        "| latent | ours | host | ms a step | time / host's | memory / host's |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r['latent']} | {r['sampler']} | {r['host']} | {r['ms_per_step']:.3f} | {r['time_ratio']:.2f} |"
        f" {r['memory_ratio']:.2f} |"
        for r in rows
        if "latent" in r
    ]
    return "\n".join(lines)
