"""The workers of a sweep as Ray actors: started, kept busy, replaced when they die."""

from __future__ import annotations

import contextlib
import json
import os
from collections import Counter, deque
from dataclasses import dataclass, field
from pathlib import Path

import ray

from ..comfyui import CHECKOUT, RunError
from .worker import Worker

AHEAD = 2  # jobs given to a worker at a time: one runs, one waits, so that it never idles
TRIES = 2  # workers that a job may take along before it counts as failed
STARTS = 3  # workers in a row that may die before they are ready
STORE = 256 * 2**20  # bytes that Ray's object store may take; pictures pass through it one by one


@contextlib.contextmanager
def local(workers: int):
    """Ray on this machine alone, for the length of a `with` block."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_memory_monitor_refresh_ms"] = "0"  # it would kill workers for what other programs use
    ray.init(
        num_cpus=max(workers, os.cpu_count() or 1),
        object_store_memory=STORE,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
    )
    try:
        yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def remote(address: str):
    """A Ray cluster that runs already. Its machines get this checkout's runner; the rest must lie there."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except Exception as error:  # Ray raises many kinds, from ConnectionError to its own
        raise RunError(f"--ray {address}: no Ray cluster answers there ({error}).") from None
    try:
        yield
    finally:
        ray.shutdown()


def gpus() -> int:
    return int(ray.cluster_resources().get("GPU", 0))


@dataclass
class Slot:
    """A place for a worker, and the actor that fills it."""

    actor: object = None
    name: str = ""  # the worker's, once its ComfyUI has started
    given: deque = field(default_factory=deque)  # (reference, job), oldest first; it works in this order
    dials: tuple | None = None  # those of its last job
    starts: int = 0  # in a row that failed


class Crew:
    """N workers, each an actor with a ComfyUI of its own.

    comfyui and arguments are those of `Worker`; environment holds what its process needs beside. Another
    class as `worker` measures what the crew itself costs.
    """

    def __init__(
        self, workers: int, comfyui: Path, arguments: list[str], environment: dict, worker: type = Worker
    ):
        self.place = (str(comfyui), arguments)
        self.maker = ray.remote(worker).options(
            num_cpus=1,
            num_gpus=1 if gpus() else 0,
            runtime_env={"env_vars": {"PYTHONPATH": str(CHECKOUT), **environment}},
        )
        self.waiting = {}  # {dials: jobs}
        self.tries = Counter()  # workers that died with a job
        self.slots = [Slot() for _ in range(workers)]
        for slot in self.slots:
            self.start(slot)

    def start(self, slot: Slot) -> None:
        slot.actor, slot.name, slot.dials = self.maker.remote(*self.place), "", None
        slot.given = deque([(slot.actor.ready.remote(), None)])

    def object_info(self, types: list[str]) -> dict:
        """Asked of the worker that is ready first. Raises RunError when none can be started."""
        while not (ready := [slot for slot in self.slots if slot.name]):
            self.result()
        return json.loads(ray.get(ready[0].actor.object_info.remote(types)))

    def run(self, jobs: list, build):
        """Yields (job, answer of Worker.run, "") or (job, None, what went wrong) as they come.

        `build(job)` gives the arguments of Worker.run. Raises RunError when no worker can be started.
        """
        for job in jobs:
            self.wait(job)
        while self.waiting or any(job for slot in self.slots for _, job in slot.given):
            for slot in self.slots:
                while slot.name and self.waiting and len(slot.given) < AHEAD:
                    job = self.next(slot)
                    slot.given.append((slot.actor.run.remote(*build(job)), job))
            if result := self.result():
                yield result

    def wait(self, job, first=False) -> None:
        line = self.waiting.setdefault(job.dials, deque())
        line.appendleft(job) if first else line.append(job)

    def next(self, slot: Slot):
        """A job with the dials of the worker's last one, else with those that have the most seeds left: where
        only the seed differs, the model and the conditioning stay in its cache."""
        if slot.dials not in self.waiting:
            slot.dials = max(self.waiting, key=lambda dials: len(self.waiting[dials]))
        line = self.waiting[slot.dials]
        job = line.popleft()
        if not line:
            del self.waiting[slot.dials]
        return job

    def result(self):
        """Wait for one answer of a worker: what `run` yields, or None if it was about the worker itself."""
        oldest = {slot.given[0][0]: slot for slot in self.slots if slot.given}
        [reference], _ = ray.wait(list(oldest))
        slot = oldest[reference]
        _, job = slot.given.popleft()
        try:
            answer = ray.get(reference)
        except ray.exceptions.RayError as error:
            if job and isinstance(error, ray.exceptions.RayTaskError):
                return job, None, str(error.cause)
            return self.replace(slot, job, error)
        if job:
            return job, answer, ""
        slot.name, slot.starts = answer, 0

    def replace(self, slot: Slot, job, error):
        """Start another worker in the place of one that died with `job`, or before it was ready."""
        for _, each in reversed(slot.given):
            self.wait(each, first=True)
        ray.kill(slot.actor)  # one that cannot be reached may live on
        slot.starts += not job
        if slot.starts < STARTS:
            self.start(slot)
        else:
            self.slots.remove(slot)
        if not self.slots:
            raise RunError(f"No worker could start its ComfyUI:\n{error}")
        if not job:
            return None
        self.tries[job] += 1
        if self.tries[job] < TRIES:
            return self.wait(job, first=True)
        return job, None, f"{TRIES} workers died while they computed it"
