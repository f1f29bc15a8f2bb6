"""The autoencoder: pictures of 128 x 128 to latents of 4 x 16 x 16 and back, in the host's TAESD class."""

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file

from . import data
from .pace import Pace, rate


def _start(model, generator):
    """Kaiming weights; each block's last convolution scaled by .1, so that deep stacks begin near the
    identity."""
    for name, weight in model.named_parameters():
        if weight.ndim == 4:
            torch.nn.init.kaiming_normal_(weight, nonlinearity="relu", generator=generator)
            if name.endswith("conv.4.weight"):
                weight.data.mul_(0.1)
        elif weight.ndim == 1:
            weight.data.zero_()


def _batch(pictures, pool, count, size, generator):
    """`count` random crops [count, 3, size, size] in 0..1 of the pictures whose indices are in `pool`."""
    crops = []
    for i in torch.randint(len(pool), (count,), generator=generator).tolist():
        top, left = (torch.randint(pictures.shape[1] - size + 1, (2,), generator=generator)).tolist()
        crops.append(pictures[pool[i], top : top + size, left : left + size])
    return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float() / 255


def _loss(out, target, z):
    """Mostly squared error, which is what dB measure; the absolute terms keep edges and flat areas clean."""
    error = out - target
    loss = 40 * error.square().mean() + 0.5 * error.abs().mean()
    loss = loss + 0.5 * (error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean())
    loss = loss + 0.5 * (F.avg_pool2d(error, 4).abs().mean() + F.avg_pool2d(error, 8).abs().mean())
    return loss + 0.001 * z.square().mean() + 0.01 * F.relu(z.abs() - 3).square().mean()


@torch.inference_mode()
def psnr(model, pictures, indices, batch=16):
    """Mean over the pictures of each round trip's peak signal-to-noise ratio, in dB."""
    found = []
    for at in range(0, len(indices), batch):
        x = (
            torch.from_numpy(np.stack([pictures[i] for i in indices[at : at + batch]]))
            .permute(0, 3, 1, 2)
            .float()
            / 255
        )
        x = x.to(next(model.parameters()).device)
        y = model.taesd_decoder(model.taesd_encoder(x)).clamp(0, 1)
        found.append(-10 * (x - y).square().mean((1, 2, 3)).clamp(min=1e-10).log10())
    return torch.cat(found).mean().item()


def _sheet(model, pictures, indices, path):
    rows = []
    with torch.inference_mode():
        x = torch.from_numpy(np.stack([pictures[i] for i in indices])).permute(0, 3, 1, 2).float() / 255
        y = model.taesd_decoder(model.taesd_encoder(x.to(next(model.parameters()).device))).clamp(0, 1).cpu()
    for images in (x, y):
        rows.append((torch.cat(list(images), dim=2).permute(1, 2, 0) * 255).round().byte().numpy())
    Image.fromarray(np.concatenate(rows)).save(path)


def train(options):
    from comfy.taesd.taesd import TAESD

    pictures, records = data.prepare(options.folder / "data", options.pictures, options.groups)
    pictures = np.ascontiguousarray(pictures)
    kept = [i for i, r in enumerate(records) if not r["held_out"]]
    held = [i for i, r in enumerate(records) if r["held_out"]]
    generator = torch.Generator().manual_seed(options.seed)
    model = TAESD()
    if options.init:
        model.load_state_dict(load_file(options.init / "vae.safetensors"))
    else:
        _start(model, generator)
    model.vae_scale.requires_grad_(False)
    model.vae_shift.requires_grad_(False)
    model.taesd_encoder.requires_grad_(not options.keep_encoder)
    model = model.to(options.device, memory_format=torch.channels_last)
    highest = options.rate or 1e-3
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=highest, betas=(0.9, 0.99), weight_decay=0.0
    )
    pace = Pace(options.folder / "autoencoder.pt", options.minutes, {"model": model, "optimizer": optimizer})
    generator.manual_seed(options.seed + pace.step)
    if pace.step == 0:
        pace.tell_now(
            f"held-out {psnr(model, pictures, held[::4]):.2f} dB on a quarter of them, before training"
        )
    for step in pace:
        for group in optimizer.param_groups:
            group["lr"] = highest * min(1, (step + 1) / 100) * rate(pace.part, 0.2)
        # Crops are cheap and hold as much to learn; whole pictures at the end teach the borders.
        size, count = (64, options.batch or 16) if pace.part < 0.85 else (128, (options.batch or 16) // 2)
        x = _batch(pictures, kept, count, size, generator).to(
            options.device, memory_format=torch.channels_last
        )
        with torch.autocast(options.device, torch.bfloat16):
            z = model.taesd_encoder(x)
            noisy = z + 0.03 * torch.randn(z.shape, generator=generator).to(z)
            out = model.taesd_decoder(noisy)
        loss = _loss(out.float(), x, z.float())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 250 == 249:
            pace.tell_now(f"held-out {psnr(model, pictures, held[::4]):.2f} dB on a quarter of them")
            _sheet(model, pictures, held[:12], options.folder / "autoencoder.png")
        pace.tell(f"loss {loss.item():.4f}")
    save_file(
        {k: v.half().contiguous() for k, v in model.state_dict().items()},
        options.folder / "out" / "vae.safetensors",
    )
    pace.tell_now(
        f"held-out {psnr(model, pictures, held):.2f} dB, training pictures"
        f" {psnr(model, pictures, kept[::100]):.2f} dB"
    )
    _sheet(model, pictures, held[:12], options.folder / "autoencoder.png")
