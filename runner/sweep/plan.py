"""From a workflow file to the prompts of its drafts and finals, for every seed and combination of dials.

A draft has every DDIM Draft Switch on draft and nothing picked on any DDIM Contact Sheet; a final has the
switches on final and its picture picked. A workflow with neither has drafts alone: what it computes.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
from dataclasses import dataclass

from ..graph import Graph
from ..workflow import set_widget, to_prompt, widget_behind
from .options import is_page_file

DRAFT, FINAL = "draft", "final"
SWITCH, SHEET = "DDIMDraftSwitch", "DDIMContactSheet"
SEEDS = ("seed", "noise_seed")
# What a node gives whose seed changes the picture; not SIGMAS, SAMPLER.
SOURCES = {"LATENT", "NOISE", "IMAGE"}
SHOWN = "sweep"  # the node that saves what a contact sheet shows


@dataclass(frozen=True)
class Job:
    """One run of the workflow: stage (DRAFT or FINAL), seed, dials ((name, value), ...), and which picture of
    a contact sheet a final is of, from 1; 0 without a sheet."""

    stage: str
    seed: int
    dials: tuple = ()
    picture: int = 0

    @property
    def label(self) -> str:
        """As --finish names it."""
        return f"{self.seed}:{self.picture}" if self.picture else str(self.seed)

    @property
    def texts(self) -> dict[str, str]:
        """The dials' values as text."""
        return {
            name: f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)
            for name, value in self.dials
        }


class Plan:
    """What changes in a workflow from one picture to the next.

    file         the workflow file's content
    object_info  {node type: description}, as GET /object_info answers it, for the types of the file
    Raises ValueError for a workflow or a dial that the ComfyUI does not know, or that names several things.
    """

    def __init__(self, file: dict, object_info: dict, dials=(), seed_of: str | None = None):
        self.info = object_info
        self.workflow = file if is_page_file(file) else None
        self.prompt = to_prompt(file, object_info) if self.workflow else copy.deepcopy(file)
        unknown = {node["class_type"] for node in self.prompt.values()} - object_info.keys()
        if unknown:
            raise ValueError(f"this ComfyUI has no node type {', '.join(sorted(unknown))}")
        self.sheets = [node_id for node_id, node in self.prompt.items() if node["class_type"] == SHEET]
        self.seeds = self.seed_widgets(seed_of)
        self.drafted, self.drafts = self.computed(DRAFT)
        if not self.drafts:
            raise ValueError("no picture of this workflow depends on its seed")
        self.finished, self.finals = self.computed(FINAL)
        self.dials = {name: self.dial_widgets(name) for name, _ in dials}
        # The written texts as numbers, each once: 1 and 1.0 are one.
        self.values = {
            name: list(dict.fromkeys(self.value(name, text) for text in texts)) for name, texts in dials
        }

    @property
    def fingerprint(self) -> str:
        """What all pictures of a folder have in common: the workflow without its seed and stage."""
        same = self.edited(Job(DRAFT, 0))
        return hashlib.sha256(json.dumps(same, sort_keys=True).encode()).hexdigest()[:16]

    def draft_jobs(self, seeds):
        """A Job for every seed and combination of the dials, seed by seed within a combination."""
        for dials in self.combinations():
            yield from (Job(DRAFT, seed, dials) for seed in seeds)

    def final_jobs(self, picks: dict, batch, drafted=lambda seed: ()):
        """A Job for every picked picture; `batch(seed)` tells how many pictures a draft of it showed, and
        `drafted(seed)` with which dials it was drawn, {name: text} for each draft: a final has those of its
        draft, of several drafts of those alone that the plan's dials name. Where they name none, or the seed
        has no draft, a final has the plan's dials, the others from its drafts.

        Combinations of dials that the final does not use are one Job.
        """
        if not self.finals:
            raise ValueError(
                "--finish: this workflow has no finals. They follow a DDIM Draft Switch or a DDIM Contact"
                " Sheet"
            )
        jobs = {}
        for wanted, (seed, pictures) in itertools.product(map(dict, self.combinations()), picks.items()):
            if pictures and not self.sheets:
                raise ValueError(
                    f"--finish {seed}:{pictures[0]}: this workflow has no DDIM Contact Sheet to pick on"
                )
            shown = (pictures or range(1, batch(seed) + 1)) if self.sheets else [0]
            recorded = list(map(self.recorded, drafted(seed)))
            named = [each for each in recorded if wanted.items() <= each.items()]
            for dials in named or [each | wanted for each in recorded] or [wanted]:
                used = tuple(each for each in dials.items() if self.finished & ids(self.dials[each[0]]))
                jobs |= dict.fromkeys(Job(FINAL, seed, used, picture) for picture in shown)
        return list(jobs)

    def combinations(self):
        return itertools.product(*([(name, value) for value in many] for name, many in self.values.items()))

    def recorded(self, texts: dict[str, str]) -> dict:
        """The values of a draft's dials, from what its row in the folder's table says."""
        for name in texts.keys() - self.dials.keys():
            self.dials[name] = self.dial_widgets(name)
        return {name: self.value(name, text) for name, text in texts.items()}

    def build(self, job: Job):
        """(prompt, workflow or None, ids of the output nodes that run) of a Job."""
        prompt = self.edited(job)
        workflow = None
        if self.workflow:
            workflow = copy.deepcopy(self.workflow)
            for node_id, name, value in self.edits(job):
                set_widget(workflow, node_id, name, value, self.info)
        return prompt, workflow, self.drafts if job.stage == DRAFT else self.finals

    def edited(self, job: Job) -> dict:
        prompt = copy.deepcopy(self.prompt)
        for node_id, name, value in self.edits(job):
            prompt[node_id]["inputs"][name] = value
        if job.stage == DRAFT:
            prompt |= self.shown()
        return prompt

    def shown(self) -> dict:
        """A SaveImage for what each contact sheet shows, which itself writes no PNG."""
        return {
            f"{SHOWN}-{sheet}": {
                "class_type": "SaveImage",
                "inputs": {"images": self.prompt[sheet]["inputs"]["images"], "filename_prefix": SHOWN},
                "_meta": {"title": SHOWN},
            }
            for sheet in self.sheets
        }

    def edits(self, job: Job):
        """(node id, input, value) of everything that a Job changes."""
        yield from ((*widget, job.seed) for widget in self.seeds)
        for name, value in job.dials:
            yield from ((*widget, value) for widget in self.dials[name])
        for node_id, node in self.prompt.items():
            if node["class_type"] == SWITCH:
                yield *self.written(node_id, "use_final"), job.stage == FINAL
        picked = str(job.picture or "")
        yield from ((*self.written(sheet, "picks"), picked) for sheet in self.sheets)

    def seed_widgets(self, seed_of):
        """The widgets that hold the seed of the pictures: all that hold the same number move together."""
        found = {}
        for node_id, node in self.prompt.items():
            for name in SEEDS:
                if name in node["inputs"] and SOURCES & set(self.info[node["class_type"]]["output"]):
                    found[self.widget(node_id, name)] = None
        found.pop(None, None)
        if seed_of:
            found = {key: None for key in found if seed_of in (key[0], self.title(key[0]))}
            if not found:
                raise ValueError(f"--seed-of {seed_of}: no node with a seed has this title or id")
        if not found:
            raise ValueError("this workflow has no seed: no sampler and no noise with a seed of its own")
        if len({self.prompt[node_id]["inputs"][name] for node_id, name in found}) > 1:
            titles = ", ".join(f'"{self.title(node_id)}" ({node_id})' for node_id, _ in found)
            raise ValueError(
                f"this workflow has several seeds, and they differ: {titles}. Name one with --seed-of, or"
                " give them the same number in the workflow, and they move together"
            )
        return self.tied(found)

    def dial_widgets(self, name):
        """The widgets of the drafts' nodes that a dial's name ("eta", "Draft.eta", "7.eta") means."""
        node_name, _, bare = name.rpartition(".")
        found, known = {}, set()
        for node_id in (each for each in self.prompt if each in self.drafted):
            for each in self.prompt[node_id]["inputs"]:
                widget = self.widget(node_id, each)
                if widget and widget not in self.seeds:
                    known.add(each)
                    if each == bare and node_name in ("", node_id, self.title(node_id)):
                        found[widget] = None
        if not found:
            raise ValueError(
                f"--set {name}: the drafts have no such dial. They have {', '.join(sorted(known))}"
            )
        return self.tied(found)

    def tied(self, widgets: dict) -> list:
        """Widgets, with those that the workflow file keeps in the same place: a subgraph's input that feeds
        several nodes, or a subgraph that stands in several places."""
        if not self.workflow:
            return list(widgets)
        graph = Graph(self.workflow)

        def place(node_id, name):
            node, index = widget_behind(graph, node_id, name, self.info) or (None, None)
            return node and (id(node), index)

        places = {place(*each) for each in widgets} - {None}
        inputs = [(key, name) for key, node in self.prompt.items() for name in node["inputs"]]
        same = (each for each in inputs if self.widget(*each) == each and place(*each) in places)
        return list(dict.fromkeys([*widgets, *same]))

    def value(self, name, text):
        """A dial's text as the value that its input takes."""
        node_id, bare = self.dials[name][0]
        declared = self.info[self.prompt[node_id]["class_type"]]["input"]
        kind, options = [*(declared.get("required", {}) | declared.get("optional", {}))[bare], {}][:2]
        kind = options.get("options", kind) if kind == "COMBO" else kind
        try:
            if isinstance(kind, list):
                return next(each for each in kind if str(each) == text)
            if kind == "BOOLEAN":
                return {"true": True, "false": False}[text.lower()]
            number = {"INT": int, "FLOAT": float}.get(kind, str)(text)
        except (ValueError, KeyError, StopIteration):
            allowed = ", ".join(map(str, kind)) if isinstance(kind, list) else f"a value of type {kind}"
            raise ValueError(f'--set {name}: "{text}" is not allowed; it takes {allowed}') from None
        if kind in ("INT", "FLOAT"):
            low, high = options.get("min", number), options.get("max", number)
            if not low <= number <= high:
                raise ValueError(f"--set {name}: {text} is not allowed; it takes {low} to {high}")
        return number

    def widget(self, node_id, name):
        """(node id, input) where the value of an input is written: there, or in the primitive or the seed
        node that its link leads to. None if it is computed."""
        value = self.prompt[node_id]["inputs"].get(name)
        if not is_link(value):
            return node_id, name
        behind = self.prompt[value[0]]["inputs"]
        held = next((each for each in ("value", *SEEDS) if each in behind), None)
        return self.widget(value[0], held) if held else None

    def written(self, node_id, name):
        widget = self.widget(node_id, name)
        if widget is None:
            raise ValueError(
                f'"{self.title(node_id)}" ({node_id}): {name} is computed, so a sweep cannot set it'
            )
        return widget

    def title(self, node_id):
        node = self.prompt[node_id]
        return node.get("_meta", {}).get("title", node["class_type"])

    def computed(self, stage):
        """(ids of the nodes that a stage computes, those of its outputs that show pictures of the seed)."""
        prompt = self.edited(Job(stage, 0, picture=int(stage == FINAL)))
        seeds, nodes, outputs = ids(self.seeds), set(), []
        for node_id, node in prompt.items():
            needed = upstream(prompt, node_id, stage)
            behind = {prompt[each]["class_type"] for each in needed - {node_id}}
            wanted = SWITCH in behind or SHEET in behind if stage == FINAL else SHEET not in behind
            showing = self.info[node["class_type"]]["output_node"] if node_id in self.prompt else True
            if stage == DRAFT and self.sheets and not node_id.startswith(SHOWN):
                showing = False  # the sheets show the drafts
            if showing and wanted and needed & seeds and node["class_type"] != SHEET:
                nodes |= needed
                outputs.append(node_id)
        return nodes, outputs


def upstream(prompt, node_id, stage):
    """The nodes that an output needs, itself included; of a switch the chosen branch alone."""
    found, waiting = set(), [node_id]
    while waiting:
        current = waiting.pop()
        if current in found or current not in prompt:
            continue
        found.add(current)
        node = prompt[current]
        skipped = (FINAL if stage == DRAFT else DRAFT) if node["class_type"] == SWITCH else None
        waiting += [value[0] for name, value in node["inputs"].items() if is_link(value) and name != skipped]
    return found


def is_link(value) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)


def ids(widgets) -> set:
    return {node_id for node_id, _ in widgets}
