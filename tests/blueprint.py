"""A subgraph in workflows of the page: on its own, and inside another subgraph."""

import json

from conftest import TESTS

FILE = TESTS / "subgraph.json"  # its own widgets hold values


def around(blueprint, text, seed=7):
    """A workflow of the page with the subgraph in it: what it needs on its left, a preview on its right.
    Without a seed the subgraph holds no values of its own: those of its inner nodes stand."""
    workflow = json.loads(json.dumps(blueprint))
    [host] = workflow["nodes"]
    host["id"] = 10
    if "seed" in {each["name"] for each in host["inputs"]}:
        host["widgets_values"] = [] if seed is None else [seed, *host["widgets_values"][1:]]
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


def nested(workflow):
    """The workflow of `around` with the subgraph inside another one, as node 5, which gets all its inputs."""
    workflow = json.loads(json.dumps(workflow))
    [host] = [node for node in workflow["nodes"] if node["id"] == 10]
    [inner] = workflow["definitions"]["subgraphs"]
    ends = {
        place: [
            {
                "id": f"00000000-0000-4000-9000-{i:012}",
                "name": each["name"],
                "type": each["type"],
                "linkIds": [i],
            }
            for i, each in enumerate(inner[place], first)
        ]
        for place, first in (("inputs", 1), ("outputs", 50))
    }
    ways = [(i, -10, i - 1, 5, i - 1) for i in range(1, len(ends["inputs"]) + 1)] + [(50, 5, 0, -20, 0)]
    names = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
    links = [
        dict(zip(names, (*way, each["type"]), strict=True))
        for way, each in zip(ways, ends["inputs"] + ends["outputs"], strict=True)
    ]
    within = json.loads(json.dumps(host)) | {"id": 5, "widgets_values": []}
    for i, slot in enumerate(within["inputs"], 1):
        slot["link"] = i
    within["outputs"][0]["links"] = [50]
    outer = inner | ends | {"id": "00000000-0000-4000-8000-000000000001", "name": "Outer", "nodes": [within]}
    outer |= {"links": links, "state": inner["state"] | {"lastNodeId": 5, "lastLinkId": 50}}
    workflow["definitions"]["subgraphs"].append(outer)
    host["type"] = outer["id"]
    return workflow
