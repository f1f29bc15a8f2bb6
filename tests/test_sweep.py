"""run.py sweep: its arguments, its plan and its folder."""

import csv
import json
import os
import re
import shlex
from types import SimpleNamespace

import pytest
from blueprint import FILE, around, nested
from conftest import ROOT
from ddim_toolkit.runner import gallery
from ddim_toolkit.runner.comfyui import RunError
from ddim_toolkit.runner.sweep import __main__ as command_line
from ddim_toolkit.runner.sweep import options
from ddim_toolkit.runner.sweep.plan import Job, Plan
from ddim_toolkit.runner.sweep.results import Results
from ddim_toolkit.runner.workflow import to_prompt

pytestmark = pytest.mark.server


def prompt(steps=2, final_steps=3):
    """A small workflow in API format: a switch between a draft and a final of one seed."""
    picture = {"model": ["model", 0], "positive": ["text", 0], "negative": ["text", 0], "cfg": 1.0}
    picture |= {"seed": ["seed", 0], "eta": 0.0, "stride": "trailing", "latent_image": ["empty", 0]}
    nodes = {
        "seed": ("PrimitiveInt", {"value": 7}),
        "model": ("DDIMDemoModel", {}),
        "text": ("CLIPTextEncode", {"clip": ["model", 1], "text": "red heart"}),
        "empty": ("EmptyLatentImage", {"width": 64, "height": 64, "batch_size": 1}),
        "draft": ("DDIMKSampler", picture | {"steps": steps, "denoise": 1.0}),
        "final": ("DDIMKSampler", picture | {"steps": final_steps, "denoise": 1.0}),
        "switch": ("DDIMDraftSwitch", {"draft": ["draft", 0], "final": ["final", 0], "use_final": False}),
        "decode": ("VAEDecode", {"samples": ["switch", 0], "vae": ["model", 2]}),
        "show": ("PreviewImage", {"images": ["decode", 0]}),
    }
    return {key: {"class_type": kind, "inputs": inputs} for key, (kind, inputs) in nodes.items()}


def sheet_prompt(steps=2):
    """Three drafts on a contact sheet, of which a sampler finishes the picked one."""
    found = prompt(steps)
    found["empty"]["inputs"]["batch_size"] = 3
    sheet = {"images": ["drafts", 0], "picks": "", "columns": 0, "latent_image": ["empty", 0]}
    found["drafts"] = {"class_type": "VAEDecode", "inputs": {"samples": ["draft", 0], "vae": ["model", 2]}}
    found["sheet"] = {"class_type": "DDIMContactSheet", "inputs": sheet}
    found["final"]["inputs"]["latent_image"] = ["sheet", 1]
    found["decode"]["inputs"]["samples"] = ["final", 0]
    del found["switch"]
    return found


class TestOptions:
    @pytest.mark.parametrize(
        "text, expected", [("3", [3]), ("0-3, 9", [0, 1, 2, 3, 9]), ("5,5,4-6", [5, 4, 6]), ("1-1", [1])]
    )
    def test_seeds(self, text, expected):
        assert options.seeds(text) == expected

    def test_picks(self):
        assert options.picks("17, 203:2,203:1,17:4") == {17: [], 203: [1, 2]}

    @pytest.mark.parametrize(
        "arguments, said",
        [
            (["--seeds", "3-1"], '"3-1" is no seed'),
            (["--seeds", "-1"], "no seed"),
            (["--seeds", "0-2000000"], "more than"),
            (["--seeds", "0-9999", "--set", "eta=" + ",".join(map(str, range(200)))], "2,000,000 pictures"),
            (["--finish", "17:0"], '"17:0" names no picture'),
            (["--seeds", "1", "--set", "eta"], '"eta" is no dial with values'),
            (["--seeds", "1", "--set", "eta=0", "--set", "eta=1"], "names eta twice"),
            (["--seeds", "1", "--workers", "0"], '"0" is no number of workers'),
            (["--seeds", "1", "--finish", "1"], "one of them at a time"),
            ([], "--seeds 0-99"),
        ],
    )
    def test_bad_input_is_named_before_anything_starts(self, tmp_path, capsys, arguments, said):
        path = tmp_path / "workflow.json"
        path.write_text(json.dumps(prompt()))
        import run

        with pytest.raises(SystemExit, match="2"):
            run.main(["sweep", str(path), *arguments])
        assert said in capsys.readouterr().err

    @pytest.mark.parametrize(
        "content", ["", "[]", "{}", '{"nodes": 1, "links": 2}', '{"nodes": []}', '{"1": {"inputs": {}}}']
    )
    def test_what_is_no_workflow(self, tmp_path, capsys, content):
        path = tmp_path / "workflow.json"
        path.write_text(content)
        import run

        with pytest.raises(SystemExit, match="2"):
            run.main(["sweep", str(path), "--seeds", "1"])
        assert "is not a workflow file" in capsys.readouterr().err


class TestPlan:
    def test_seeds_and_dials_of_the_drafts(self, info):
        plan = Plan(prompt(), info, [("steps", ["4", "8"]), ("draft.eta", [".5"])])
        jobs = list(plan.draft_jobs([1, 2]))
        assert [(job.seed, *job.dials) for job in jobs] == [
            (seed, ("steps", steps), ("draft.eta", 0.5)) for steps in (4, 8) for seed in (1, 2)
        ]
        built, workflow, outputs = plan.build(jobs[3])
        assert workflow is None and outputs == ["show"]
        assert built["seed"]["inputs"]["value"] == 2 and not built["switch"]["inputs"]["use_final"]
        assert built["draft"]["inputs"]["steps"] == 8 and built["draft"]["inputs"]["eta"] == 0.5
        assert built["final"] == prompt()["final"]

    def test_a_final_leaves_out_dials_that_it_does_not_use(self, info):
        plan = Plan(prompt(), info, [("steps", ["4", "8"]), ("text", ["blue heart"])])
        [job] = plan.final_jobs({3: []}, None)
        assert job == Job("final", 3, (("text", "blue heart"),))
        built, _, outputs = plan.build(job)
        assert built["switch"]["inputs"]["use_final"] and outputs == ["show"]

    @pytest.mark.parametrize(
        "given, expected",
        [
            ([], [(3, 0.5), (3, 1.0), (4, None)]),
            ([("eta", ["1"])], [(3, 1.0), (4, 1.0)]),
            ([("steps", ["4"])], [(3, 0.5), (3, 1.0), (4, None)]),
            ([("eta", ["0"])], [(3, 0.0), (4, 0.0)]),
            ([("text", ["blue heart"])], [(3, 0.5), (3, 1.0), (4, None)]),
        ],
    )
    def test_a_final_has_the_dials_of_its_draft(self, info, tmp_path, given, expected):
        """Of several those that --set names; where there is no such draft, what --set says and the rest of
        what was drawn."""
        workflow = prompt()
        workflow["final"]["inputs"]["eta"] = workflow["draft"]["inputs"]["eta"] = ["eta", 0]
        workflow["eta"] = {"class_type": "PrimitiveFloat", "inputs": {"value": 0.25}}
        drawn = Plan(workflow, info, [("eta", [".5", "1"]), ("steps", ["4"])])
        results = Results(tmp_path, drawn.fingerprint, list(drawn.dials))
        for job in drawn.draft_jobs([3]):
            results.add(job, *ANSWER)
        plan = Plan(workflow, info, given)
        results = Results(tmp_path, plan.fingerprint, list(plan.dials))
        jobs = plan.final_jobs({3: [], 4: []}, results.batch, results.dials_of)
        assert sorted((job.seed, dict(job.dials).get("eta")) for job in jobs) == expected
        assert all(dict(job.dials).get("text") == dict(given).get("text", [None])[0] for job in jobs)
        for job in jobs:
            assert plan.build(job)[0]["eta"]["inputs"]["value"] == dict(job.dials).get("eta", 0.25)

    def test_a_contact_sheet_shows_all_drafts_and_finals_are_picked(self, info):
        plan = Plan(sheet_prompt(), info)
        built, _, outputs = plan.build(Job("draft", 5))
        assert outputs == ["sweep-sheet"] and built["sheet"]["inputs"]["picks"] == ""
        assert built["sweep-sheet"]["inputs"]["images"] == ["drafts", 0]
        jobs = plan.final_jobs({5: [], 6: [2]}, lambda seed: 3)
        assert [job.label for job in jobs] == ["5:1", "5:2", "5:3", "6:2"]
        built, _, outputs = plan.build(jobs[2])
        assert outputs == ["show"] and built["sheet"]["inputs"]["picks"] == "3"

    def test_a_dial_of_a_workflow_with_a_contact_sheet(self, info):
        plan = Plan(sheet_prompt(), info, [("eta", ["1", "1.0"]), ("draft.steps", ["3"])])
        assert list(plan.draft_jobs([5])) == [Job("draft", 5, (("eta", 1.0), ("draft.steps", 3)))]

    def test_the_commands_of_the_documents(self, info):
        """Each one that names an example is taken as it stands, with all its dials."""
        import run

        text = "".join((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/scaling.md"))
        commands = re.findall(r'^    python run\.py (sweep "?example_workflows/.+)$', text, re.MULTILINE)
        assert len(commands) >= 2
        for command in commands:
            given = run.parser().parse_args(shlex.split(command))
            file = json.loads(given.workflow.read_text(encoding="utf-8"))
            plan = Plan(file, info, given.set, given.seed_of)
            assert len(list(plan.draft_jobs(given.seeds))) % len(given.seeds) == 0

    def test_a_page_file_is_changed_with_its_prompt(self, info):
        file = gallery.read("DDIM beside DPM++")
        plan = Plan(file, info, [("eta", ["1"])])
        built, workflow, _ = plan.build(next(plan.draft_jobs([99])))
        assert plan.build(next(plan.draft_jobs([99])))[0] == Plan(workflow, info).prompt == built
        [seed] = [node for node in workflow["nodes"] if node["type"] == "DDIMSeed"]
        assert seed["widgets_values"] == [99, "fixed"]

    @pytest.mark.parametrize("change", [lambda workflow: workflow, nested], ids=["alone", "in another"])
    @pytest.mark.parametrize("seed", [3, None], ids=["its own widgets", "those inside"])
    def test_a_subgraph_is_drawn_and_changed(self, info, change, seed):
        """Draft and final share the subgraph's seed and guidance; the file that is written makes the same."""
        file = change(around(json.loads(FILE.read_text(encoding="utf-8")), "red heart", seed))
        plan = Plan(file, info, [("steps", ["5"]), ("Draft.cfg", ["2"])])
        [draft], [final] = plan.draft_jobs([99]), plan.final_jobs({99: []}, None)
        for job, use_final in ((draft, False), (final, True)):
            built, workflow, outputs = plan.build(job)
            assert outputs == ["11"] and to_prompt(workflow, info) == built
            kinds = {node["class_type"]: node["inputs"] for node in built.values()}
            assert kinds["DDIMDraftSwitch"]["use_final"] is use_final
            both = kinds["DDIMKSampler"], kinds["KSampler"]
            assert [(each["seed"], each["cfg"]) for each in both] == [(99, 2), (99, 2)]
            assert [each["steps"] for each in both] == ([5, 30] if job == draft else [8, 30])

    @pytest.mark.parametrize(
        "change, dials, said",
        [
            ({}, [("strides", ["1"])], "strides: the drafts have no such dial. They have batch_size, cfg, "),
            ({}, [("steps", ["many"])], '"many" is not allowed; it takes a value of type INT'),
            ({}, [("eta", ["-1"])], "-1 is not allowed; it takes 0"),
            ({}, [("stride", ["short"])], "it takes trailing, "),
            ({"draft": {"seed": 1}}, [], r'they differ: "DDIMKSampler" \(draft\), "PrimitiveInt" \(seed\)'),
            ({"final": {"seed": 1}, "draft": {"seed": ["text", 0]}}, [], "no picture .* depends on its seed"),
        ],
    )
    def test_what_does_not_fit_is_named(self, info, change, dials, said):
        changed = prompt()
        for key, inputs in change.items():
            changed[key]["inputs"] |= inputs
        with pytest.raises(ValueError, match=said):
            Plan(changed, info, dials)

    def test_one_of_several_seeds(self, info):
        changed = prompt()
        changed["draft"]["inputs"]["seed"] = 1
        assert Plan(changed, info, seed_of="draft").seeds == [("draft", "seed")]

    def test_no_finals(self, info):
        plain = prompt()
        plain["decode"]["inputs"]["samples"] = ["draft", 0]
        with pytest.raises(ValueError, match="this workflow has no finals"):
            Plan(plain, info).final_jobs({1: []}, None)


JOBS = [Job("draft", seed, (("eta", 0.5),)) for seed in range(3)]
ANSWER = ([(".png", b"one"), (".png", b"two")], 2.0, "here:1")


class TestResults:
    def folder(self, path):
        return Results(path, "fingerprint", ["eta"])

    def test_what_is_complete_counts(self, tmp_path):
        results = self.folder(tmp_path)
        results.add(JOBS[0], *ANSWER)
        results.fail(JOBS[1], "it failed")
        again = self.folder(tmp_path)
        assert again.done() == {results.key(JOBS[0])} and again.batch(0) == 2
        assert (tmp_path / "drafts" / "0_eta-0.5_2.png").read_bytes() == b"two"
        (tmp_path / "drafts" / "0_eta-0.5_2.png").unlink()
        assert self.folder(tmp_path).done() == set()

    def test_a_row_that_was_cut_off_does_not_count(self, tmp_path):
        results = self.folder(tmp_path)
        for job in JOBS:
            results.add(job, *ANSWER)
        whole = results.table.read_bytes()
        for cut in range(1, len(whole.splitlines(True)[-1]) - len(",here:1,\n")):
            results.table.write_bytes(
                whole[:-cut] if cut > len(",here:1,\n") else whole[: -len(",here:1,\n")]
            )
            assert self.folder(tmp_path).done() == {results.key(job) for job in JOBS[:2]}
            self.folder(tmp_path).add(JOBS[2], *ANSWER)
            assert len(self.folder(tmp_path).done()) == 3

    def test_a_new_dial_keeps_what_was_there(self, tmp_path):
        self.folder(tmp_path).add(JOBS[0], *ANSWER)
        results = Results(tmp_path, "fingerprint", ["steps"])
        results.add(Job("draft", 0, (("steps", 8),)), *ANSWER)
        with (tmp_path / "sweep.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert [(row["eta"], row["steps"]) for row in rows] == [("0.5", "")] * 2 + [("", "8")] * 2
        assert len(Results(tmp_path, "fingerprint", []).done()) == 2

    def test_another_workflow_is_refused(self, tmp_path):
        self.folder(tmp_path)
        with pytest.raises(ValueError, match="holds a sweep of another workflow"):
            Results(tmp_path, "other", ["eta"])

    @pytest.mark.parametrize(
        "file, content, said",
        [
            ("sweep.json", b'{"workf', r"another workflow.*sweep\.json"),
            ("sweep.csv", b"\0\0\n1,2,3\n", r"sweep\.csv is damaged"),
        ],
    )
    def test_a_damaged_folder_is_refused(self, tmp_path, file, content, said):
        self.folder(tmp_path)
        (tmp_path / file).write_bytes(content)
        with pytest.raises(ValueError, match=said):
            self.folder(tmp_path)
        assert (tmp_path / file).read_bytes() == content

    @pytest.mark.parametrize("old, new", [(b"2 of 2", b"2 of"), (b"draft,2", b"draft,"), (b"draft", b"\0\0")])
    def test_a_damaged_row_does_not_count(self, tmp_path, old, new):
        results = self.folder(tmp_path)
        for job in JOBS:
            results.add(job, *ANSWER)
        before, mark, after = results.table.read_bytes().rpartition(old)
        results.table.write_bytes(before + new + after)
        assert self.folder(tmp_path).done() == {results.key(job) for job in JOBS[:2]}

    def test_two_sweeps_at_once_are_one_too_many(self, tmp_path):
        folder = tmp_path / "new" / "sweep"
        with command_line.alone(folder):
            with pytest.raises(RunError, match="Another sweep is writing into"), command_line.alone(folder):
                pass
        with command_line.alone(folder):
            self.folder(folder)

    @pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no full disk to write to")
    def test_a_full_disk(self, tmp_path, capsys):
        """What was computed before it stays, nothing is half there, and the same call goes on."""
        asked = []

        def run(jobs, build):
            for job in jobs:
                asked.append(job)
                yield job, ANSWER, ""

        crew, plan = SimpleNamespace(run=run), SimpleNamespace(build=None)
        results = self.folder(tmp_path)
        (tmp_path / "drafts").mkdir()
        (tmp_path / "drafts" / "1_eta-0.5_2.png.part").symlink_to("/dev/full")
        assert command_line.sweep(crew, plan, JOBS, results, [], "title") == 1
        assert "No space left" in capsys.readouterr().err
        assert sorted(os.listdir(tmp_path / "drafts")) == [
            f"{picture}_eta-0.5_{number}.png" for picture, number in ((0, 1), (0, 2), (1, 1))
        ]
        again = self.folder(tmp_path)
        assert again.done() == {again.key(JOBS[0])}
        assert command_line.sweep(crew, plan, JOBS, again, [], "title") == 0
        assert asked == [*JOBS[:2], *JOBS[1:]] and len(self.folder(tmp_path).done()) == 3
