"""The reusable subgraphs in the page: offered, expanded for the queue, run; their widgets on their face."""

import json

import pytest
from blueprint import FILE, around, nested
from conftest import ROOT
from ddim_toolkit.runner.workflow import set_widget, to_prompt

FILES = sorted((ROOT / "subgraphs").glob("*.json"))
PROBE = {"probe_steps": 8, "probe_images": 1, "refine": 1}  # what is measured does not matter here
BLUEPRINT = """
const stores = document.querySelector('#vue-app').__vue_app__.config.globalProperties.$pinia._s;
try { return stores.get('subgraph').getBlueprint('SubgraphBlueprint.' + it) } catch { return null }
"""


def dropped(desk, name, text=""):
    """The blueprint as the page's node list drops it, with what it needs around it."""
    [key] = [key for key, each in desk.server.get("/global_subgraphs").items() if each["name"] == name]
    blueprint = desk.wait(lambda: desk.run(BLUEPRINT, key))
    workflow = around(blueprint, text)
    for node in workflow["definitions"]["subgraphs"][0]["nodes"]:
        if node["type"] == "DDIMAdaptiveScheduler":
            for widget, value in PROBE.items():
                set_widget(workflow, f"10:{node['id']}", widget, value, desk.info)
    desk.load(workflow)
    desk.screenshot(f"subgraph {name}")
    prompt = desk.prompt()
    assert "Cannot" not in str(prompt)
    return prompt, {node["class_type"]: (key, node["inputs"]) for key, node in prompt.items()}


SET = """const w = app.graph.nodes.find(n => n.id == 10).widgets.find(w =>
w.name.replace(/^\\d+: /, '') === it[0]); w.value = it[1]; w.callback?.(it[1])"""
FACE = """return app.graph.nodes.find(n => n.id == 10).widgets.map(w => w.name.replace(/^\\d+: /, ''))"""


def test_draft_and_final(desk):
    prompt, kinds = dropped(desk, "Draft and final", f"red heart {desk.screenshots.name}")
    assert len(prompt) == 10
    seed, draft, final, switch = (
        kinds[kind] for kind in ("DDIMSeed", "DDIMKSampler", "KSampler", "DDIMDraftSwitch")
    )
    assert draft[1]["seed"] == final[1]["seed"] == [seed[0], 0] and seed[1]["seed"] == 7
    assert draft[1]["cfg"] == final[1]["cfg"] == 4 and switch[1]["use_final"] is False
    assert (draft[1]["steps"], draft[1]["eta"], final[1]["steps"]) == (8, 0, 30)
    assert {"use_final", "seed", "cfg", "draft_steps", "final_steps", "eta"} <= set(desk.run(FACE))

    desk.finished(lambda: desk.run("await app.queuePrompt(0, 1)"))
    assert draft[0] in desk.ran() and final[0] not in desk.ran()
    desk.command("DDIMToolkit.Finals")
    assert desk.prompt()[switch[0]]["inputs"]["use_final"] is True
    [entry] = desk.finished(lambda: desk.command("DDIMToolkit.QueueDraft"))
    assert entry["prompt"][2][switch[0]]["inputs"]["use_final"] is False
    assert desk.prompt()[switch[0]]["inputs"]["use_final"] is True


def test_a_draft_on_a_sheet_inside_is_finished(desk):
    """The seed on the face of the subgraph is that of the draft while its final is queued."""
    _, kinds = dropped(desk, "Contact sheet", f"cat {desk.screenshots.name}")
    (sheet, _), (seed, _) = kinds["DDIMContactSheet"], kinds["DDIMSeed"]
    desk.run(SET, ["seed", 21])
    desk.finished(lambda: desk.run("await app.queuePrompt(0, 1)"))
    desk.run(SET, ["seed", 22])
    desk.run(
        """app.canvas.setGraph(app.graph.nodes.find(n => n.id == 10).subgraph);
        const node = app.canvas.graph.nodes.find(n => n.comfyClass === 'DDIMContactSheet');
        app.canvas.ds.scale = 0.8; app.canvas.ds.offset = [300 - node.pos[0], 160 - node.pos[1]];
        app.canvas.setDirty(true, true)"""
    )
    try:
        draft = desk.page.locator(".ddim-cell")
        draft.wait_for()
        desk.page.wait_for_timeout(500)  # Nodes 2.0 puts the parts in anew once
        desk.screenshot("sheet inside")
        [entry] = desk.finished(draft.get_by_role("button", name="Finish this one").click)
    finally:
        desk.run("app.canvas.setGraph(app.graph)")
    queued = entry["prompt"][2]
    assert (queued[sheet]["inputs"]["picks"], queued[seed]["inputs"]["seed"]) == ("1", 21)
    assert desk.prompt()[seed]["inputs"]["seed"] == 22


RUNS = {
    "Contact sheet": ("DDIMContactSheet", {"draft_steps": 2, "seed": 3}),
    "Invert and edit": ("DDIMInversion", {"steps": 3, "shows": "red heart", "becomes": "blue heart"}),
    "Measure a draft": ("DDIMAdaptiveScheduler", {"steps": 3, "seed": 3}),
}


@pytest.mark.parametrize("name", RUNS)
def test_others_run(desk, name):
    kind, values = RUNS[name]
    dropped(desk, name)
    assert set(values) <= set(desk.run(FACE))
    for given in values.items():
        desk.run(SET, given)
    given = [value for node in desk.prompt().values() for value in node["inputs"].values()]
    for value in values.values():
        assert value in given
    desk.finished(lambda: desk.run("await app.queuePrompt(0, 1)"))
    assert kind in {desk.prompt()[key]["class_type"] for key in desk.ran() if key in desk.prompt()}


def test_every_blueprint_is_tried():
    assert {path.stem for path in FILES} == {"Draft and final", *RUNS}


@pytest.mark.parametrize("change", [lambda workflow: workflow, nested], ids=["alone", "in another"])
@pytest.mark.parametrize("seed", [3, None], ids=["its own widgets", "those inside"])
def test_the_queue_gets_what_the_conversion_gives(desk, change, seed):
    workflow = change(around(json.loads(FILE.read_text(encoding="utf-8")), "red heart", seed))
    desk.load(workflow)
    prompt, loaded = essence(desk.prompt()), desk.workflow()
    assert essence(to_prompt(loaded, desk.info)) == prompt
    if inner_ids(loaded) == inner_ids(workflow):  # newer pages number inner nodes anew
        assert essence(to_prompt(workflow, desk.info)) == prompt
    [sampler] = [node for node in prompt.values() if node["class_type"] == "DDIMKSampler"]
    assert sampler["inputs"]["seed"] == (seed or 7)


def inner_ids(workflow):
    return [[node["id"] for node in graph["nodes"]] for graph in workflow["definitions"]["subgraphs"]]


def essence(prompt):
    return {key: {name: node[name] for name in ("class_type", "inputs")} for key, node in prompt.items()}
