"""run.py sweep: sweeps of a few seeds on Ray, beside ComfyUI's own queue."""

import csv
import json
import os
import signal
import subprocess
import sys
import tempfile
import time

import pytest
from conftest import ROOT
from ddim_toolkit.runner import gallery
from ddim_toolkit.runner.sweep.plan import Job, Plan
from helpers import HERE
from PIL import Image
from test_sweep import prompt, sheet_prompt

pytestmark = pytest.mark.server

LIMIT = 300  # seconds that any one sweep here may take


class Sweep:
    """One folder's sweeps through run.py."""

    def __init__(self, path, workflow):
        pytest.importorskip("ray", reason="Ray is not installed; run.py sweep installs it")
        self.folder, self.workflow = path / "sweep", path / "workflow.json"
        self.private = path / "private"
        self.private.mkdir()
        self.workflow.write_text(json.dumps(workflow))

    def start(self, *arguments):
        command = [sys.executable, ROOT / "run.py", "sweep", self.workflow, "--output", self.folder]
        command += ["--comfyui", HERE.folder, "--python", HERE.python, *arguments]
        return subprocess.Popen(
            list(map(str, command)),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            env={**os.environ, "TMPDIR": str(self.private), "RAY_TMPDIR": tempfile.gettempdir()},
            # A test run in the background ignores Ctrl+C, and its children would too.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def run(self, *arguments):
        """(exit status, what it printed)."""
        process = self.start(*arguments)
        return self.end(process)

    def end(self, process):
        try:
            output, _ = process.communicate(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGTERM)
            raise
        return process.returncode, output

    def rows(self):
        with (self.folder / "sweep.csv").open(newline="") as file:
            return list(csv.DictReader(file))

    def wait_for(self, pictures, process):
        limit = time.monotonic() + LIMIT
        while not (self.folder / "sweep.csv").is_file() or len(self.rows()) < pictures:
            assert process.poll() is None, process.stdout.read()
            assert time.monotonic() < limit
            time.sleep(0.05)

    def content(self, row):
        return (self.folder / row["file"]).read_bytes()


def queued(server, plan, job):
    """The same picture by ComfyUI's own queue."""
    built, workflow, outputs = plan.build(job)
    entry = server.queue(
        {key: node | {"_meta": {"title": key}} for key, node in built.items()} if workflow is None else built,
        workflow,
    )
    return [server.image(each) for each in entry["outputs"][outputs[0]]["images"]]


def pixels(content, tmp_path):
    path = tmp_path / "picture.png"
    path.write_bytes(content)
    return Image.open(path).convert("RGB").tobytes()


def test_a_sweep_gives_what_the_queue_gives(server, info, tmp_path):
    """On two workers, which both take part."""
    file = gallery.read("DDIM beside DPM++")
    for node in file["nodes"]:
        if node["type"] in ("DDIMKSampler", "KSampler"):
            node["widgets_values"][2] = 2
    sweep, plan = Sweep(tmp_path, file), Plan(file, info, [("eta", ["0", "1"])])
    status, output = sweep.run("--seeds", "0-1", "--set", "eta=0,1", "--workers", "2")
    assert status == 0, output
    rows = sweep.rows()
    assert len(rows) == 8 and len({row["worker"] for row in rows}) == 2
    for job in plan.draft_jobs([0, 1]):
        mine = [row for row in rows if (row["seed"], row["eta"]) == (str(job.seed), job.texts["eta"])]
        built, workflow, outputs = plan.build(job)
        entry = server.queue(built, workflow)
        expected = [server.image(each) for key in outputs for each in entry["outputs"][key]["images"]]
        assert [sweep.content(row) for row in mine] == expected
        with Image.open(sweep.folder / mine[0]["file"]) as picture:  # what the page opens makes it again
            assert Plan(json.loads(picture.text["workflow"]), info).prompt == built
    page = (sweep.folder / "index.html").read_text()
    assert all(row["file"] in page for row in rows) and "http" not in page.partition("<script>")[0]


def test_a_seed_fails_a_worker_is_killed_ctrl_c_and_the_same_command_again(tmp_path):
    broken = prompt()
    broken["draft"]["inputs"]["steps"] = ["seed", 0]  # seed 0 asks for no steps
    sweep = Sweep(tmp_path, broken)
    process = sweep.start("--seeds", "0,30-45")
    sweep.wait_for(3, process)
    os.kill(int(sweep.rows()[-1]["worker"].rpartition(":")[2]), signal.SIGKILL)
    sweep.wait_for(len(sweep.rows()) + 3, process)
    os.killpg(process.pid, signal.SIGINT)
    status, output = sweep.end(process)
    assert not list(sweep.private.iterdir())
    assert status == 130 and "the same command goes on" in output
    failed, *first = sweep.rows()
    assert failed["seed"] == "0" and failed["error"] and not failed["file"]
    assert 5 <= len(first) < 16 and not any(row["error"] for row in first)
    assert len({row["worker"] for row in first}) == 2 and not list(sweep.folder.rglob("*.part"))
    with pytest.raises(ProcessLookupError):
        os.kill(int(first[-1]["worker"].rpartition(":")[2]), 0)

    before = {row["file"]: (sweep.folder / row["file"]).stat().st_mtime_ns for row in first}
    status, output = sweep.run("--seeds", "0,30-46")
    assert status == 1 and f"{len(first)} of 18 are there already" in output
    assert "draft of seed 0: DDIMKSampler failed: ValueError: steps" in output
    *rows, again = sorted(sweep.rows(), key=lambda row: -int(row["seed"]))
    assert again["error"] and not any(row["error"] for row in rows)
    assert [int(row["seed"]) for row in rows] == list(range(46, 29, -1))
    assert sweep.rows()[: len(first)] == first
    assert all((sweep.folder / file).stat().st_mtime_ns == when for file, when in before.items())


def test_a_cluster_loses_a_machine_and_a_picked_draft_is_finished(server, info, tmp_path):
    """Two Ray nodes with a worker each; the worker on the second one is gone with it."""
    workflow = sheet_prompt(steps=30)
    sweep, plan = Sweep(tmp_path, workflow), Plan(workflow, info)
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        second = cluster.add_node(num_cpus=1)
        process = sweep.start("--seeds", "0-7", "--workers", "2", "--ray", cluster.address)
        sweep.wait_for(3, process)
        cluster.remove_node(second, allow_graceful=False)
        status, output = sweep.end(process)
    finally:
        cluster.shutdown()
    rows = sweep.rows()
    assert status == 0, output
    expected = [(str(seed), f"{number} of 3") for seed in range(8) for number in (1, 2, 3)]
    assert sorted((row["seed"], row["picture"]) for row in rows) == expected
    assert not any(row["error"] for row in rows)

    status, output = sweep.run("--finish", "6:2")
    assert status == 0, output
    [final] = [row for row in sweep.rows() if row["stage"] == "final"]
    assert final["seed"] == "6:2"
    [expected] = queued(server, plan, Job("final", 6, (), 2))
    assert pixels(sweep.content(final), tmp_path) == pixels(expected, tmp_path)
    draft = next(row for row in rows if (row["seed"], row["picture"]) == ("6", "2 of 3"))
    assert sweep.content(draft) != sweep.content(final)
