"""The command line of a sweep, read and checked before anything starts."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

from ..comfyui import CHECKOUT

OUTPUT = CHECKOUT / "output" / "sweep"
MOST = 1_000_000  # pictures of one sweep: their list is held in memory
LARGEST = 2**64 - 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("workflow", type=workflow, help="a workflow file: saved by the page, or API format")
    parser.add_argument(
        "--seeds", type=seeds, metavar="LIST", help="which seeds to draft: 0-999 or 3,17,40-49"
    )
    parser.add_argument(
        "--set",
        type=dial,
        action="append",
        default=[],
        metavar="NAME=VALUES",
        help="a dial of the drafts and its values: eta=0,.3,1. With a node's title or id: Draft.steps=8,12."
        " Every combination of the dials is drawn",
    )
    parser.add_argument(
        "--finish",
        type=picks,
        metavar="LIST",
        help="compute finals, with the dials of their drafts: of the seeds 17,203, or of picture 3: 17:3",
    )
    parser.add_argument(
        "--seed-of",
        metavar="NODE",
        help="whose seed changes, where the workflow has several: a title or an id",
    )
    parser.add_argument("--output", type=Path, metavar="FOLDER", help=f"where it goes ({OUTPUT}/WORKFLOW)")
    parser.add_argument(
        "--workers", type=count, metavar="N", help="ComfyUIs at once (one for each GPU, or one)"
    )
    parser.add_argument("--ray", metavar="ADDRESS", help="a Ray cluster that runs already, host:port")


def check(options) -> None:
    """Raise ValueError that says which options do not go together."""
    if not options.seeds and not options.finish:
        raise ValueError("Say which seeds to draft (--seeds 0-99), or which to finish (--finish 17,203).")
    if options.seeds and options.finish:
        raise ValueError("--seeds draws drafts and --finish finals of drafts: give one of them at a time.")
    names = [name for name, _ in options.set]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"--set names {', '.join(twice)} twice. Write all its values in one: eta=0,.3,1")
    pictures = len(options.seeds or ())
    for _, values in options.set:
        pictures *= len(values)
    if pictures > MOST:
        raise ValueError(f"That is {pictures:,} pictures; a sweep takes at most {MOST:,}.")


def workflow(text: str) -> Path:
    path = Path(text)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise argparse.ArgumentTypeError(f"cannot read {text}: {error.strerror}") from None
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text} is not a workflow file: {error}") from None
    if not (is_page_file(content) or is_prompt(content)):
        raise argparse.ArgumentTypeError(
            f"{text} is not a workflow file: it has neither the page's nodes and links nor, as in API format,"
            " a class_type in each node"
        )
    return path.absolute()


def is_page_file(content) -> bool:
    return isinstance(content, dict) and all(
        isinstance(content.get(name), list) for name in ("nodes", "links")
    )


def is_prompt(content) -> bool:
    return (
        isinstance(content, dict)
        and bool(content)
        and all(
            isinstance(node, dict) and {"class_type", "inputs"} <= node.keys() for node in content.values()
        )
    )


def seeds(text: str) -> list[int]:
    """The seeds of "0-9, 17", in that order, each once."""
    found = {}
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if not first <= last <= LARGEST:
            raise argparse.ArgumentTypeError(
                f'"{part.strip()}" is no seed and no range of seeds; write 7 or 0-99, up to {LARGEST}'
            )
        if last - first >= MOST:
            raise argparse.ArgumentTypeError(f'"{part.strip()}" is more than {MOST:,} seeds')
        found.update(dict.fromkeys(range(first, last + 1)))
    return list(found)


def picks(text: str) -> dict[int, list[int]]:
    """{seed: pictures of its batch, from 1} of "17, 203:2, 203:5"; an empty list means all of them."""
    found = {}
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)\s*(?::\s*([1-9]\d*)\s*)?", part)
        if not match or int(match[1]) > LARGEST:
            raise argparse.ArgumentTypeError(
                f'"{part.strip()}" names no picture; write a seed (17), or a seed and a picture of its'
                " batch (17:3)"
            )
        found.setdefault(int(match[1]), []).append(match[2] and int(match[2]))
    return {seed: [] if None in many else sorted(set(many)) for seed, many in found.items()}


def dial(text: str) -> tuple[str, list[str]]:
    """("eta", ["0", ".3"]) of "eta=0,.3"."""
    name, mark, values = text.partition("=")
    found = list(dict.fromkeys(value.strip() for value in values.split(",")))
    if not mark or not name.strip() or not all(found):
        raise argparse.ArgumentTypeError(
            f'"{text}" is no dial with values; write NAME=VALUE,VALUE, such as eta=0,.3,1'
        )
    return name.strip(), found


def count(text: str) -> int:
    if not re.fullmatch(r"[1-9]\d{0,3}", text):
        raise argparse.ArgumentTypeError(f'"{text}" is no number of workers; write 1, 2, ...')
    return int(text)
