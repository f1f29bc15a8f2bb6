"""Every figure that this project claims: `python run.py bench [NAME ...]`, all of them without a name.

Each NAME is a file of this folder with `main(folder)`, which measures, writes NAME.json (and plots) into the
folder and returns a Markdown table. CUDA is used where torch has it.
"""

import argparse
import importlib
import os
import platform
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent))

import torch

from runner.inprocess import start

NAMES = sorted(
    path.stem for path in HERE.glob("[a-z]*.py") if "\ndef main(folder" in path.read_text(encoding="utf-8")
)


def machine():
    """One line about what the figures were measured on."""
    device = (
        torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else platform.processor() or platform.machine()
    )
    return f"{device}, {os.cpu_count()} cores, torch {torch.__version__}, Python {platform.python_version()}"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, prog="run.py bench"
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    parser.add_argument(
        "--folder", type=Path, default=HERE / "results", help="where results go (%(default)s)"
    )
    options = parser.parse_args()
    unknown = set(options.names) - set(NAMES)
    if unknown:
        parser.error(f"no such measurement: {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    start(os.environ["COMFYUI_PATH"], *([] if torch.cuda.is_available() else ["--cpu"]))
    import comfy.utils

    comfy.utils.set_progress_bar_enabled(False)
    options.folder.mkdir(parents=True, exist_ok=True)
    for name in options.names or NAMES:
        table = importlib.import_module(f"bench.{name}").main(options.folder)
        text = f"## {name}\n\n{table}\n\nMeasured on {machine()}.\n"
        (options.folder / f"{name}.md").write_text(text, encoding="utf-8")
        print(text, flush=True)


if __name__ == "__main__":
    main()
