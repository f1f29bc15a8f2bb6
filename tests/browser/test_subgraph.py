"""The reusable subgraphs in the page: offered, expanded for the queue, run; their widgets on their face."""

import json

import pytest
from conftest import ROOT

FILES = sorted((ROOT / "subgraphs").glob("*.json"))
BLUEPRINT = """
const stores = document.querySelector('#vue-app').__vue_app__.config.globalProperties.$pinia._s;
try { return stores.get('subgraph').getBlueprint('SubgraphBlueprint.' + it) } catch { return null }
"""


def around(blueprint, text):
    """A workflow of the page with the subgraph in it: what it needs on its left, a preview on its right."""
    workflow = json.loads(json.dumps(blueprint))
    [host] = workflow["nodes"]
    host["id"] = 10
    sources = {
        "model": (1, "DDIMDemoModel", 0, [], None),
        "vae": (1, "DDIMDemoModel", 2, [], None),
        "positive": (2, "CLIPTextEncode", 0, [text], 1),
        "negative": (3, "CLIPTextEncode", 0, [""], 1),
        "latent_image": (4, "EmptyLatentImage", 0, [64, 64, 1], None),
        "clip": (1, "DDIMDemoModel", 1, [], None),
        "image": (5, "DDIMDemoPicture", 0, ["woman cook light skin tone"], None),
    }
    nodes, links = {10: host}, []

    def link(origin, slot, target, place, kind):
        links.append([len(links) + 1, origin, slot, target, place, kind])
        nodes[target]["inputs"][place]["link"] = len(links)

    for place, entry in enumerate(host["inputs"]):
        if entry["name"] in sources:
            id, kind, slot, values, clip = sources[entry["name"]]
            if id not in nodes:
                inputs = [{"name": "clip", "type": "CLIP", "link": None}] if clip else []
                nodes[id] = {
                    "id": id,
                    "type": kind,
                    "pos": [0, 0],
                    "size": [200, 100],
                    "flags": {},
                    "order": 0,
                    "mode": 0,
                    "inputs": inputs,
                    "properties": {},
                    "widgets_values": values,
                }
                if clip:
                    link(1, clip, id, 0, "CLIP")
            link(id, slot, 10, place, entry["type"])
    nodes[11] = {
        "id": 11,
        "type": "PreviewImage",
        "pos": [700, 0],
        "size": [200, 200],
        "flags": {},
        "order": 0,
        "mode": 0,
        "properties": {},
        "inputs": [{"name": "images", "type": "IMAGE", "link": None}],
    }
    link(10, 0, 11, 0, "IMAGE")
    outputs = {
        1: ["MODEL", "CLIP", "VAE"],
        2: ["CONDITIONING"],
        3: ["CONDITIONING"],
        4: ["LATENT"],
        5: ["IMAGE", "STRING"],
        10: [each["type"] for each in host["outputs"]],
        11: [],
    }
    for id, kinds in ((id, kinds) for id, kinds in outputs.items() if id in nodes):
        nodes[id]["outputs"] = [
            {"name": kind, "type": kind, "links": [each[0] for each in links if each[1:3] == [id, slot]]}
            for slot, kind in enumerate(kinds)
        ]
    return workflow | {
        "nodes": list(nodes.values()),
        "links": links,
        "last_node_id": 11,
        "last_link_id": len(links),
    }


def dropped(desk, name, text=""):
    """The blueprint as the page's node list drops it, with what it needs around it."""
    [key] = [key for key, each in desk.server.get("/global_subgraphs").items() if each["name"] == name]
    blueprint = desk.wait(lambda: desk.run(BLUEPRINT, key))
    desk.load(around(blueprint, text))
    desk.screenshot(f"subgraph {name}")
    prompt = desk.prompt()
    assert "Cannot" not in str(prompt)
    return prompt, {node["class_type"]: (key, node["inputs"]) for key, node in prompt.items()}


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
    for widget, value in values.items():
        desk.run(
            "const w = app.graph.nodes.find(n => n.id == 10).widgets.find(w =>"
            " w.name.replace(/^\\d+: /, '') === it[0]); w.value = it[1]; w.callback?.(it[1])",
            [widget, value],
        )
    given = [value for node in desk.prompt().values() for value in node["inputs"].values()]
    for value in values.values():
        assert value in given
    desk.finished(lambda: desk.run("await app.queuePrompt(0, 1)"))
    assert kind in {desk.prompt()[key]["class_type"] for key in desk.ran() if key in desk.prompt()}


def test_every_blueprint_is_tried():
    assert {path.stem for path in FILES} == {"Draft and final", *RUNS}
