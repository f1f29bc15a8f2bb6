"""Trains the shipped model.

`python -m demo.training.train autoencoder --minutes 15`, then
`python -m demo.training.train denoiser --minutes 60`.

Needs ComfyUI (`--comfyui` or COMFYUI_PATH) for the network classes, the packages emoji, Pillow and
safetensors, and npm for the pictures. An interrupted run continues when started again with the same
`--folder`; the weights land in FOLDER/out. `--init DIR` starts from the weights in DIR (the shipped ones:
demo).
"""

import argparse
import os
import sys
from pathlib import Path

import torch


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stage", choices=["autoencoder", "denoiser"])
    parser.add_argument(
        "--minutes", type=float, default=60, help="training time; the learning rate reaches zero at its end"
    )
    parser.add_argument(
        "--folder", type=Path, default=Path("training"), help="where data, checkpoints, sheets and weights go"
    )
    parser.add_argument("--init", type=Path, help="folder of weights to start from")
    parser.add_argument("--comfyui", default=os.environ.get("COMFYUI_PATH"), help="folder of ComfyUI")
    parser.add_argument("--pictures", type=Path, help="archive of the pictures, in place of `npm pack`")
    parser.add_argument("--groups", type=Path, help="archive of emojibase-data, in place of `npm pack`")
    parser.add_argument("--sheets", type=float, default=6, help="denoiser: minutes between two sample sheets")
    parser.add_argument("--batch", type=int, help="pictures (autoencoder: crops) a step")
    parser.add_argument("--rate", type=float, help="highest learning rate")
    parser.add_argument(
        "--keep-encoder",
        action="store_true",
        help="autoencoder: train the decoder alone, so that latents stay as they are",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--threads",
        type=int,
        default=1,
        help="CPU threads; on a busy machine one is faster than two, because oneDNN's threads wait actively",
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    if not options.comfyui or not Path(options.comfyui, "comfy").is_dir():
        parser.error(
            "ComfyUI is needed for the network classes: give its folder with --comfyui or COMFYUI_PATH"
        )
    if options.minutes <= 0:
        parser.error(f"--minutes must be above 0, got {options.minutes}")
    return options


def start_host(folder, device):
    """Puts ComfyUI on the path, told to stay on the CPU where that is the device."""
    sys.path.insert(0, str(folder))
    import comfy.options

    sys.argv = [sys.argv[0], "--use-pytorch-cross-attention"] + (["--cpu"] if device == "cpu" else [])
    comfy.options.enable_args_parsing()


def main():
    options = arguments()
    torch.set_num_threads(options.threads)
    start_host(options.comfyui, options.device)
    from importlib import import_module

    stage = import_module(f".train_{options.stage}", __package__)
    options.folder.mkdir(parents=True, exist_ok=True)
    (options.folder / "out").mkdir(exist_ok=True)
    stage.train(options)


if __name__ == "__main__":
    main()
