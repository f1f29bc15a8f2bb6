"""The folder of a sweep: pictures, sweep.csv with a row for each, and what of it is complete."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
from pathlib import Path

from .plan import Job

TABLE, HEADER = "sweep.csv", "sweep.json"
BEHIND = ("picture", "file", "seconds", "worker", "error")  # the columns behind the dials


class Results:
    """What a folder holds, one row for each picture and for each job that failed.

    A picture is written beside its place and then moved there, and its row follows: a row whose file is there
    is whole. A job counts when all its pictures do. Raises ValueError for a folder of another workflow.
    """

    def __init__(self, folder: Path, fingerprint: str, dials: list[str]):
        self.folder, self.table = folder, folder / TABLE
        folder.mkdir(parents=True, exist_ok=True)
        header = json.dumps({"workflow": fingerprint}).encode()
        if (folder / HEADER).is_file() and (folder / HEADER).read_bytes() != header:
            raise ValueError(
                f"{folder} holds a sweep of another workflow, or of an earlier state of this one (its"
                f" {HEADER} says so). Name another folder with --output."
            )
        held, rows = self.read()
        self.dials = [*held, *(name for name in dials if name not in held)]
        self.rows = [row for row in rows if row["file"] and (folder / row["file"]).is_file()]
        self.write(HEADER, header)
        first = {name: name for name in columns(self.dials)}
        self.write(TABLE, self.text([first, *self.rows]))

    def read(self):
        """(dials, rows) of the table that is there; a row that was cut off or damaged is left out."""
        if not self.table.is_file() or not self.table.stat().st_size:
            return [], []
        with self.table.open(encoding="utf-8", errors="replace", newline="") as file:
            reader = csv.DictReader(line.replace("\0", "") for line in file)
            found = list(reader.fieldnames or [])
            dials = found[2 : -len(BEHIND)]
            if found != columns(dials):
                raise ValueError(
                    f"{self.table} is damaged: its first line does not name a sweep's columns. Mend it, or"
                    " name another folder with --output."
                )
            return dials, [row for row in reader if is_whole(row)]

    def text(self, rows) -> bytes:
        written = io.StringIO(newline="")
        csv.DictWriter(written, columns(self.dials), restval="", lineterminator="\n").writerows(rows)
        return written.getvalue().encode()

    def write(self, name: str, content: bytes) -> None:
        """Write a file whole or not at all. Raises OSError, such as for a full disk."""
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        part = path.with_name(path.name + ".part")
        try:
            part.write_bytes(content)
            os.replace(part, path)
        except OSError:
            part.unlink(missing_ok=True)
            raise

    def done(self) -> set:
        """Keys of the jobs that are complete."""
        found = {}
        for row in self.rows:
            number, _, total = row["picture"].partition(" of ")
            found.setdefault(self.key_of(row), {})[number] = total
        return {
            key for key, numbers in found.items() if all(int(n) == len(numbers) for n in numbers.values())
        }

    def batch(self, seed: int) -> int:
        """How many pictures a draft of the seed showed."""
        totals = [int(row["picture"].partition(" of ")[2]) for row in self.drafts(seed)]
        if not totals:
            raise ValueError(
                f"--finish {seed}: {self.folder} holds no draft of this seed. Draft it first (--seeds"
                f" {seed}), or say which picture of its batch you mean: {seed}:1"
            )
        return max(totals)

    def dials_of(self, seed: int) -> list[dict[str, str]]:
        """The dials that each draft of the seed was drawn with, as text."""
        return [{dial: row[dial] for dial in self.dials if row.get(dial)} for row in self.drafts(seed)]

    def drafts(self, seed: int) -> list[dict]:
        return [row for row in self.rows if (row["stage"], row["seed"]) == ("draft", str(seed))]

    def add(self, job: Job, pictures: list[tuple[str, bytes]], seconds: float, worker: str) -> None:
        """Keep the pictures [(suffix, content)] of a job. Raises OSError."""
        rows = []
        for number, (suffix, content) in enumerate(pictures, 1):
            file = f"{job.stage}s/{name(job, number, len(pictures))}{suffix}"
            self.write(file, content)
            row = {"picture": f"{number} of {len(pictures)}", "file": file, "worker": worker}
            rows.append(self.row(job) | row | {"seconds": f"{seconds / len(pictures):.3f}", "error": ""})
        self.append(rows)
        self.rows += rows

    def fail(self, job: Job, error: str) -> None:
        self.append([self.row(job) | {"error": error}])

    def append(self, rows) -> None:
        with self.table.open("ab") as file:
            file.write(self.text(rows))

    def row(self, job: Job) -> dict:
        return {"stage": job.stage, "seed": job.label, **job.texts}

    def key(self, job: Job) -> tuple:
        return self.key_of(self.row(job))

    def key_of(self, row: dict) -> tuple:
        return row["stage"], row["seed"], *(row.get(dial, "") for dial in self.dials)


def columns(dials: list[str]) -> list[str]:
    return ["stage", "seed", *dials, *BEHIND]


def is_whole(row: dict) -> bool:
    """Whether a row is one of a picture, with all its columns."""
    return (
        None not in row
        and None not in row.values()
        and re.fullmatch(r"\d+(:\d+)?", row["seed"]) is not None
        and re.fullmatch(r"\d+ of \d+", row["picture"]) is not None
    )


def name(job: Job, number: int, total: int) -> str:
    """A file's name without its suffix: the seed and what is picked, the dials, the picture's number."""
    parts = [job.label.replace(":", "-")]
    for dial, text in job.texts.items():
        plain = re.sub(r"[^\w.+-]+", "-", text, flags=re.ASCII)[:40]
        if plain != text:
            plain += "-" + hashlib.sha256(text.encode()).hexdigest()[:6]
        parts.append(re.sub(r"[^\w]+", "-", dial, flags=re.ASCII) + "-" + plain)
    return "_".join([*parts, *([str(number)] if total > 1 else [])])
