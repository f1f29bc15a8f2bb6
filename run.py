#!/usr/bin/env python3
"""DDIM Toolkit from one command: python run.py demo | serve | sweep | test | bench.

Uses the ComfyUI that --comfyui or COMFYUI_PATH names, or the one this pack is installed in. Without one, sets
up its own in .comfyui/ beside this file. Needs Python 3.10 or newer and nothing else.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

if sys.version_info < (3, 10):
    sys.exit("run.py needs Python 3.10 or newer; this is " + sys.version.split()[0])

from runner import install
from runner.comfyui import (
    CHECKOUT,
    ComfyUI,
    RunError,
    find_existing,
    missing_modules,
    pack_arguments,
    require_modules,
)
from runner.demo import DRAFTS, OUTPUT, PICK
from runner.demo import demo as run_demo
from runner.server import end_on_terminate, free_port
from runner.sweep import options as sweep_options


def main(arguments=None) -> int:
    options, rest = parser().parse_known_args(arguments)
    if rest and options.action not in (serve, test, bench):
        parser().error(f"unrecognized arguments: {' '.join(rest)}")
    if options.action is sweep:
        try:
            sweep_options.check(options)
        except ValueError as error:
            parser().error(str(error))
    end_on_terminate()
    try:
        comfyui = find_existing(options.comfyui, options.python)
        if comfyui is None:
            groups = {test: ["test"], sweep: ["sweep"], bench: ["sweep"]}
            comfyui = install.managed(groups.get(options.action, []))
        return options.action(comfyui, options, rest)
    except RunError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def port_number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 65536):
        raise argparse.ArgumentTypeError(f'"{text}" is no port; allowed are 1 to 65535')
    return int(text)


def demo(comfyui: ComfyUI, options, rest) -> int:
    changes = options.prompt, options.seed, options.steps, options.eta, options.pick
    for path in run_demo(comfyui, options.output, *changes):
        print(path)
    return 0


def serve(comfyui: ComfyUI, options, rest) -> int:
    port = options.port or free_port(8188)
    print(
        f"The page will be at http://127.0.0.1:{port} (the examples: Templates, in the sidebar). Ctrl+C ends"
        " it.",
        flush=True,
    )
    screen = (
        os.name == "nt"
        or sys.platform == "darwin"
        or os.environ.get("DISPLAY")
        or os.environ.get("WAYLAND_DISPLAY")
    )
    browser = "--auto-launch" if screen and not options.no_browser else "--disable-auto-launch"
    command = comfyui.command("--port", str(port), browser, *pack_arguments(comfyui.folder), *rest)
    return subprocess.run(command, cwd=comfyui.folder, env=comfyui.environment()).returncode


def sweep(comfyui: ComfyUI, options, rest) -> int:
    if not comfyui.managed:
        require_modules(comfyui, ("ray",), "A sweep")
    given = {name: value for name, value in vars(options).items() if name != "action"}
    command = [comfyui.python, "-m", "runner.sweep", json.dumps(given, default=str)]
    process = subprocess.Popen(command, cwd=CHECKOUT, env=comfyui.small_environment())
    try:
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:  # it got the same, and tidies up
                continue
    finally:
        process.terminate()
        process.wait()


def test(comfyui: ComfyUI, options, rest) -> int:
    if not comfyui.managed:
        require_modules(comfyui, ("pytest", "hypothesis", "diffusers"), "The test suite")
    whole = not any((CHECKOUT / each.partition("::")[0]).exists() for each in rest)
    workers = ["-n", "2"] if whole and not missing_modules(comfyui, "xdist") else []
    return run_python(comfyui, comfyui.small_environment(), "-m", "pytest", *workers, *rest)


def bench(comfyui: ComfyUI, options, rest) -> int:
    return run_python(comfyui, comfyui.environment(), "bench", *rest)


def run_python(comfyui: ComfyUI, environment: dict, *arguments: str) -> int:
    return subprocess.run([comfyui.python, *arguments], cwd=CHECKOUT, env=environment).returncode


def parser() -> argparse.ArgumentParser:
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--comfyui", metavar="PATH", help="an installed ComfyUI to use (else COMFYUI_PATH)")
    shared.add_argument(
        "--python", metavar="PATH", help="the Python of that ComfyUI, where it is not found by itself"
    )
    whole = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = whole.add_subparsers(required=True, metavar="COMMAND")

    def command(action, text):
        made = commands.add_parser(
            action.__name__, parents=[shared], help=text, description=text, allow_abbrev=False
        )
        made.set_defaults(action=action)
        return made

    made = command(demo, "Eight drafts of a prompt and the final of one, drawn side by side in output/.")
    made.add_argument("--prompt", help="what to draw")
    made.add_argument("--seed", type=int)
    made.add_argument("--steps", type=int, help="model calls of a draft")
    made.add_argument("--eta", type=float, help="of the drafts: 0 is DDIM, 1 is DDPM")
    made.add_argument(
        "--pick",
        type=int,
        metavar="NUMBER",
        default=PICK,
        choices=range(1, DRAFTS + 1),
        help="the draft to finish, 1 to 8 (%(default)s)",
    )
    made.add_argument(
        "--output", type=Path, metavar="FOLDER", default=OUTPUT, help="where the pictures go (%(default)s)"
    )
    made = command(serve, "ComfyUI with its page. Other arguments go to ComfyUI.")
    made.add_argument("--port", type=port_number, help="8188 unless that is taken")
    made.add_argument("--no-browser", action="store_true", help="do not open a browser window")
    made = command(
        sweep, "Drafts of a workflow for many seeds, and finals of the picked; on one machine or many."
    )
    sweep_options.add_arguments(made)
    command(test, "The test suite. Other arguments go to pytest.")
    command(bench, "The measurements behind the README's figures. Other arguments go to bench.")
    return whole


if __name__ == "__main__":
    sys.exit(main())
