"""The UNet and the text network, trained together on the autoencoder's latents: mean squared error on v."""

import copy
import json
import os
import random
import re
import zlib

import torch
import torch.distributed as dist
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..text import TextNetwork, Vocabulary
from . import data
from .captions import vary
from .pace import Pace, rate

BETAS = {"schedule": "scaled_linear", "start": 0.00085, "end": 0.012, "timesteps": 1000}
UNET = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 64,
    "num_res_blocks": [2, 2],
    "channel_mult": [1, 2],
    "num_head_channels": 32,
    "use_spatial_transformer": True,
    "transformer_depth": [0, 0, 1, 1],
    "transformer_depth_output": [0, 0, 0, 1, 1, 1],
    "transformer_depth_middle": 1,
    "context_dim": 192,
    "use_linear_in_transformer": True,
    "legacy": False,
    "use_checkpoint": False,
}
TEXT = {"tokens": 10, "width": 192, "heads": 4, "feedforward": 384, "pattern": "[a-z0-9]+"}
SHEET = [
    "heart",
    "cat",
    "face",
    "woman",
    "food",
    "",
    "woman astronaut dark skin tone",
    "red heart",
    "smiling face with sunglasses",
    "pizza",
]


def alphas_bar():
    """Cumulated alphas [T] of betas linear in their square root."""
    betas = (
        torch.linspace(BETAS["start"] ** 0.5, BETAS["end"] ** 0.5, BETAS["timesteps"], dtype=torch.float64)
        ** 2
    )
    return (1 - betas).cumprod(0).float()


def _moved(pictures, generator):
    """Each picture shifted by up to 4 pixels and scaled by up to 6 %, on white. [B, 3, H, W] in 0..1."""
    count = len(pictures)

    def draw(low, high):
        return torch.rand(count, generator=generator) * (high - low) + low

    scale, move = draw(0.94, 1.06), 8 / pictures.shape[-1]
    grid = torch.zeros(count, 2, 3)
    grid[:, 0, 0] = grid[:, 1, 1] = scale
    grid[:, 0, 2], grid[:, 1, 2] = draw(-move, move), draw(-move, move)
    grid = torch.nn.functional.affine_grid(grid, pictures.shape, align_corners=False)
    return 1 - torch.nn.functional.grid_sample(1 - pictures, grid, mode="bicubic", align_corners=False).clamp(
        0, 1
    )


def _checksum(weights):
    """Of the encoder alone: a new decoder leaves the latents as they are."""
    return zlib.crc32(
        b"".join(weights[k].numpy().tobytes() for k in sorted(weights) if k.startswith("taesd_encoder"))
    )


@torch.inference_mode()
def _latents(options, pictures, weights):
    """Raw latents [2, N, 4, H/8, W/8]: of the pictures, and of the pictures a little moved; cached per
    encoder."""
    path = options.folder / f"latents-{_checksum(weights):08x}.pt"
    if path.exists():
        return torch.load(path, weights_only=True)
    from comfy.taesd.taesd import TAESD

    model = TAESD()
    model.load_state_dict(weights)
    encoder = model.taesd_encoder.to(options.device, memory_format=torch.channels_last)
    generator, found = torch.Generator().manual_seed(options.seed), []
    for at in range(0, len(pictures), 32):
        x = torch.from_numpy(pictures[at : at + 32].copy()).permute(0, 3, 1, 2).float() / 255
        both = torch.cat([x, _moved(x, generator)]).to(options.device, memory_format=torch.channels_last)
        with torch.autocast(options.device, torch.bfloat16):
            z = encoder(both).float().cpu()
        found.append(torch.stack(z.chunk(2)))
    found = torch.cat(found, dim=1)
    torch.save(found, path)
    return found


def _config(options, records, pictures, latents):
    """config.json: the statistics of these latents, and the starting weights' vocabulary with this data's new
    words."""
    flat = latents[0].movedim(1, 0).flatten(1)
    side = latents.shape[-1]
    small = pictures.reshape(len(pictures), side, pictures.shape[1] // side, side, -1, 3).mean((2, 4))
    z = torch.cat([flat.T, torch.ones(flat.shape[1], 1)], dim=1)
    rgb = torch.linalg.lstsq(z, torch.from_numpy(small).float().reshape(-1, 3) / 127.5 - 1).solution.tolist()
    config = (
        json.loads((options.init / "config.json").read_text())
        if options.init
        else {"unet": UNET, "prediction": "v", "betas": BETAS, "text": {**TEXT, "vocabulary": {}}}
    )
    config |= {
        "latent_mean": flat.mean(1).tolist(),
        "latent_std": flat.std(1).tolist(),
        "latent_rgb_factors": rgb[:4],
        "latent_rgb_bias": rgb[4],
    }
    words = config["text"]["vocabulary"]
    for record in records:
        if record["caption"]:
            for word in sorted(
                {*re.findall(config["text"]["pattern"], record["caption"]), *record["categories"]}
            ):
                words.setdefault(word, len(words) + 1)
    return config


def _networks(options, config):
    import comfy.ops
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    class Trainable(comfy.ops.disable_weight_init):
        """The host's layer set, with torch's own starting weights."""

        Linear, Conv2d, GroupNorm, LayerNorm = (
            torch.nn.Linear,
            torch.nn.Conv2d,
            torch.nn.GroupNorm,
            torch.nn.LayerNorm,
        )

        @classmethod
        def conv_nd(cls, dims, *args, **kwargs):
            return torch.nn.Conv2d(*args, **kwargs)

    torch.manual_seed(options.seed)  # torch's layers know no other way
    unet = UNetModel(**copy.deepcopy(config["unet"]), operations=Trainable)
    settings = config["text"]
    text = TextNetwork(
        len(settings["vocabulary"]),
        settings["tokens"],
        settings["width"],
        settings["heads"],
        settings["feedforward"],
    )
    if options.init:
        unet.load_state_dict(load_file(options.init / "unet.safetensors"))
        saved = load_file(options.init / "text.safetensors")
        start = text.emb.weight.detach() * saved["emb.weight"].float().std()
        start[: len(saved["emb.weight"])] = saved["emb.weight"].float()
        text.load_state_dict({**saved, "emb.weight": start})
    else:
        for name, weight in unet.named_parameters():
            if re.search(r"out_layers\.3|proj_out|^out\.2", name):
                torch.nn.init.zeros_(weight)
    return torch.nn.ModuleDict({"unet": unet, "text": text}).to(options.device)


@torch.inference_mode()
def draw(networks, config, captions, count, steps=12, guidance=3.0, seed=0):
    """Raw latents [len(captions) * count, 4, 16, 16] by DDIM with trailing timesteps; image k has the noise
    of seed + k."""
    device = next(networks.parameters()).device
    vocabulary = Vocabulary(config["text"]["vocabulary"], config["text"]["tokens"], config["text"]["pattern"])
    numbers = [vocabulary.numbers(vocabulary.split(c)) for c in captions for _ in range(count)]
    context = networks["text"](
        torch.tensor([*numbers, *[[0] * vocabulary.tokens] * len(numbers)], device=device)
    )
    noise = [torch.randn(4, 16, 16, generator=torch.Generator().manual_seed(seed + k)) for k in range(count)]
    x = torch.stack(noise * len(captions)).to(device)
    bar = alphas_bar().to(device)
    visited = [round(1000 - i * 1000 / steps) - 1 for i in range(steps)]
    for t, s in zip(visited, [*visited[1:], None], strict=True):
        a, b = bar[t].sqrt(), (1 - bar[t]).sqrt()
        v = networks["unet"](
            torch.cat([x, x]), torch.full((2 * len(x),), float(t), device=device), context=context
        ).float()
        with_words, without = v.chunk(2)
        v = without + guidance * (with_words - without)
        clean, noise = a * x - b * v, b * x + a * v
        x = clean if s is None else bar[s].sqrt() * clean + (1 - bar[s]).sqrt() * noise
    mean, std = (
        torch.tensor(config[k], device=device).view(1, 4, 1, 1) for k in ("latent_mean", "latent_std")
    )
    return x * std + mean


def _sheet(networks, config, weights, path):
    from comfy.taesd.taesd import TAESD

    model = TAESD()
    model.load_state_dict(weights)
    with torch.inference_mode():
        images = model.taesd_decoder(draw(networks, config, SHEET, 8).cpu()).clamp(0, 1)
    rows = images.unflatten(0, (len(SHEET), 8)).permute(0, 3, 1, 4, 2).flatten(0, 1).flatten(1, 2)
    Image.fromarray((rows * 255).round().byte().numpy()).save(path)


def _share_gradients(networks):
    """The mean gradient over the workers, when `torchrun` or the variables RANK and WORLD_SIZE started
    several."""
    gradients = [p.grad for p in networks.parameters()]
    flat = torch.cat([g.flatten() for g in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def train(options):
    rank = int(os.environ.get("RANK", 0))
    if "WORLD_SIZE" in os.environ:
        dist.init_process_group("gloo")
    pictures, records = data.prepare(options.folder / "data", options.pictures, options.groups)
    path = options.folder / "out" / "vae.safetensors"
    if not path.exists() and not options.init:
        raise FileNotFoundError(f"{path} is missing: train the autoencoder first, or give --init")
    vae = load_file(path if path.exists() else options.init / "vae.safetensors")
    latents = _latents(options, pictures, vae)
    config = _config(options, records, pictures, latents)
    mean, std = (torch.tensor(config[k]).view(1, 1, 4, 1, 1) for k in ("latent_mean", "latent_std"))
    latents = ((latents - mean) / std).to(options.device)
    kept = [i for i, r in enumerate(records) if r["caption"] and not r["held_out"]]
    vocabulary = Vocabulary(config["text"]["vocabulary"], config["text"]["tokens"], config["text"]["pattern"])
    words = [vocabulary.split(r["caption"] or "") for r in records]

    networks = _networks(options, config)
    average = copy.deepcopy(networks).requires_grad_(False)
    highest = options.rate or 1e-3
    optimizer = torch.optim.AdamW(networks.parameters(), lr=highest, betas=(0.9, 0.99), weight_decay=0.01)
    pace = Pace(
        options.folder / "denoiser.pt",
        options.minutes,
        {"networks": networks, "average": average, "optimizer": optimizer},
        rank == 0,
    )
    rng = random.Random(f"{options.seed} {rank} {pace.step}")
    generator = torch.Generator().manual_seed(rng.randrange(2**62))
    bar, batch, running = alphas_bar(), options.batch or 64, None
    for step in pace:
        for group in optimizer.param_groups:
            group["lr"] = highest * min(1, (step + 1) / 60) * rate(pace.part, 0.45)
        chosen = [rng.choice(kept) for _ in range(batch)]
        moved = [int(rng.random() < 0.1) for _ in range(batch)]
        numbers = torch.tensor(
            [vocabulary.numbers(vary(words[i], records[i]["categories"], rng)) for i in chosen]
        )
        x = latents[moved, chosen]
        t = torch.randint(len(bar), (batch,), generator=generator)
        noise = torch.randn(x.shape, generator=generator).to(x)
        a, b = (c.sqrt().view(-1, 1, 1, 1).to(x) for c in (bar[t], 1 - bar[t]))
        # With 64 tokens of width 32, plain products are much faster on CPUs than the fused attention's
        # backward pass.
        with torch.autocast(options.device, torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
            context = networks["text"](numbers.to(options.device))
            v = networks["unet"](a * x + b * noise, t.to(x), context=context)
        loss = (v.float() - (a * noise - b * x)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        if dist.is_initialized():
            _share_gradients(networks)
        torch.nn.utils.clip_grad_norm_(networks.parameters(), 1.0)
        optimizer.step()
        # The average spans the last fifth of the run, at most a thousand steps.
        torch._foreach_lerp_(
            list(average.parameters()), list(networks.parameters()), 1 / min(1000, 1 + step / 5)
        )
        running = loss.item() if running is None else 0.99 * running + 0.01 * loss.item()
        if rank == 0:
            pace.tell(f"loss {running:.4f}")
            if pace.due(options.sheets):
                _sheet(average, config, vae, options.folder / f"sheet{step + 1:06}.png")
    if rank == 0:
        config["steps"] = pace.step
        out = options.folder / "out"
        for name in ("unet", "text"):
            save_file(
                {k: w.half().contiguous() for k, w in average[name].state_dict().items()},
                out / f"{name}.safetensors",
            )
        (out / "config.json").write_text(json.dumps(config, indent=1) + "\n")
        _sheet(average, config, vae, options.folder / "sheet.png")
