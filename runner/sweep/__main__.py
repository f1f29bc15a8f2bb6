"""python -m runner.sweep OPTIONS (JSON): the sweep itself, in ComfyUI's Python, which has Ray."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

import filelock  # torch and Ray both bring it

from ..comfyui import CHECKOUT, RunError, device_arguments
from ..graph import Graph
from . import page
from .options import OUTPUT, is_page_file
from .plan import Plan
from .results import Results

PAGE_EVERY = 10  # seconds between two writings of index.html
LINE_EVERY = 10  # seconds between two lines of progress, where the output is no terminal


def main(options: dict) -> int:
    workflow = Path(options["workflow"])
    content = json.loads(workflow.read_text(encoding="utf-8"))
    address = options["ray"]
    if not address:
        # Read when Ray is imported: this machine is then 127.0.0.1, and nothing else can reach it.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    from . import cluster

    # What workers of this machine write: they are killed in the end, and cannot tidy up.
    private = tempfile.TemporaryDirectory(prefix="ddim-toolkit-", ignore_cleanup_errors=True)
    with private, cluster.remote(address) if address else cluster.local(options["workers"] or 1):
        accelerated = cluster.gpus()
        workers = options["workers"] or max(1, accelerated)
        print(f"Starting ComfyUI in {workers} worker{'s' if workers > 1 else ''} ...", flush=True)
        environment = {name: os.environ[name] for name in ("OMP_NUM_THREADS",) if name in os.environ}
        if not address:
            environment |= dict.fromkeys(("TMPDIR", "TEMP", "TMP"), private.name)
        arguments = [] if accelerated else device_arguments(Path(sys.executable))
        crew = cluster.Crew(workers, Path(os.environ["COMFYUI_PATH"]), arguments, environment)
        with contextlib.ExitStack() as stack:
            try:
                plan = Plan(content, crew.object_info(types(content)), options["set"], options["seed_of"])
                folder = Path(
                    options["output"] or OUTPUT / f"{workflow.stem}-{plan.fingerprint[:8]}"
                ).absolute()
                stack.enter_context(alone(folder))
                results = Results(folder, plan.fingerprint, list(plan.dials))
                picks = {int(seed): pictures for seed, pictures in (options["finish"] or {}).items()}
                drafts = plan.draft_jobs(options["seeds"] or ())
                jobs = plan.final_jobs(picks, results.batch, results.dials_of) if picks else list(drafts)
            except ValueError as error:
                raise RunError(f"{workflow.name}: {error}") from None
            except OSError as error:
                raise RunError(f"{folder} cannot be written: {error}") from None
            return sweep(crew, plan, jobs, results, command(options, workflow, folder), workflow.stem)


@contextlib.contextmanager
def alone(folder: Path):
    """Holds the folder for one sweep: two would each compute what the other does. It is free again when the
    process ends, however it ends. Raises RunError when another sweep holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder / "sweep.lock", timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise RunError(
            f"Another sweep is writing into {folder}. Wait for it, or name another folder with --output."
        ) from None
    try:
        yield
    finally:
        lock.release()


def sweep(crew, plan: Plan, jobs: list, results: Results, finishing: list[str], title: str) -> int:
    """Compute the jobs that the folder does not hold yet; 0, or 1 if some failed."""
    done = results.done()
    left = [job for job in jobs if results.key(job) not in done]
    progress, failed, written = Progress(len(jobs), len(left)), [], time.monotonic()
    try:
        for job, answer, error in crew.run(left, plan.build):
            if error:
                failed.append(f"{describe(job)}: {error}")
                results.fail(job, error)
            else:
                results.add(job, *answer)
            progress.step(len(answer[0]) if answer else 0, len(failed))
            if time.monotonic() - written > PAGE_EVERY:
                page.write(results, title, finishing)
                written = time.monotonic()
    except OSError as error:
        failed.append(f"Stopped: {error}. What is there is whole; the same command goes on from there.")
    finally:
        progress.end()
        with contextlib.suppress(OSError):  # the disk is still full
            page.write(results, title, finishing)
    print(*failed, sep="\n", end="\n" if failed else "", file=sys.stderr, flush=True)
    print(results.folder / "index.html", flush=True)
    return 1 if failed else 0


class Progress:
    """Runs done, pictures a second, and the time left: one line on a terminal, else a line now and then."""

    def __init__(self, total: int, left: int):
        self.total, self.left = total, left
        self.done, self.pictures, self.begun, self.told = 0, 0, time.monotonic(), 0.0
        if left < total:
            print(f"{total - left} of {total} are there already.", flush=True)

    def step(self, pictures: int, failed: int) -> None:
        self.done += 1
        self.pictures += pictures
        now = time.monotonic()
        terminal = sys.stdout.isatty()
        if now - self.told < (0.2 if terminal else LINE_EVERY) and self.done < self.left:
            return
        self.told = now
        spent = now - self.begun
        line = f"{self.total - self.left + self.done} of {self.total}"
        line += f", {self.pictures / spent:.2f} pictures a second"
        line += f", {clock(spent / self.done * (self.left - self.done))} left"
        line += f", {failed} failed" if failed else ""
        print(f"\r{line:<78}" if terminal else line, end="" if terminal else "\n", flush=True)

    def end(self) -> None:
        if self.done and sys.stdout.isatty():
            print(flush=True)


def clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (
        f"{hours} h {minutes:02} min"
        if hours
        else f"{minutes} min {seconds:02} s"
        if minutes
        else f"{seconds} s"
    )


def describe(job) -> str:
    return " ".join([f"{job.stage} of seed {job.label}", *map(" ".join, job.texts.items())])


def types(content: dict) -> list[str]:
    """The node types of a workflow file."""
    if is_page_file(content):
        graph = Graph(content)
        return sorted({node["type"] for node in graph.nodes.values()} - graph.definitions.keys())
    return sorted({node["class_type"] for node in content.values()})


def command(options: dict, workflow: Path, folder: Path) -> list[str]:
    """What the page's finish command begins with."""
    words = ["python", str(CHECKOUT / "run.py"), "sweep", str(workflow), "--output", str(folder)]
    if options["comfyui"]:
        words += ["--comfyui", os.environ["COMFYUI_PATH"]]
    if options["python"]:
        words += ["--python", sys.executable]
    for name in ("seed_of", "workers", "ray"):
        if options[name]:
            words += ["--" + name.replace("_", "-"), str(options[name])]
    return words


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        sys.exit(main(json.loads(sys.argv[1])))
    except RunError as error:
        sys.exit(f"\n{error}")
    except KeyboardInterrupt:
        print("\nInterrupted. What is there is whole; the same command goes on from there.", file=sys.stderr)
        sys.exit(130)
