"""The reusable subgraph in the page: offered, expanded for the queue, and only the chosen branch runs."""

import json

from conftest import ROOT

[FILE] = (ROOT / "subgraphs").glob("*.json")
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
        10: ["IMAGE"],
        11: [],
    }
    for id, kinds in outputs.items():
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


def test_the_subgraph(desk):
    [key] = [key for key, each in desk.server.get("/global_subgraphs").items() if each["name"] == FILE.stem]
    blueprint = desk.wait(lambda: desk.run(BLUEPRINT, key))  # as the page's node list holds it

    desk.load(around(blueprint, f"red heart {desk.screenshots.name}"))
    desk.screenshot("subgraph")
    prompt = desk.prompt()
    kinds = {node["class_type"]: (key, node["inputs"]) for key, node in prompt.items()}
    assert "Cannot" not in str(prompt) and len(prompt) == 9
    draft, final, switch = (kinds[kind] for kind in ("DDIMKSampler", "KSampler", "DDIMDraftSwitch"))
    assert draft[1]["seed"] == final[1]["seed"] == 7 and draft[1]["cfg"] == final[1]["cfg"] == 4
    assert (draft[1]["steps"], draft[1]["eta"], final[1]["steps"], switch[1]["use_final"]) == (
        8,
        0,
        30,
        False,
    )

    desk.finished(lambda: desk.run("await app.queuePrompt(0, 1)"))
    assert draft[0] in desk.ran() and final[0] not in desk.ran()
    desk.command("DDIMToolkit.Finals")
    assert desk.prompt()[switch[0]]["inputs"]["use_final"] is True
