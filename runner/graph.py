"""A workflow file's nodes and links with its subgraphs laid out, as the page lays them out for the queue.

Node 7 of the subgraph that node 12 stands for has the id "12:7", to any depth.
"""

from __future__ import annotations

INPUTS, OUTPUTS = "-10", "-20"  # ids that stand, in a subgraph's links, for its own inputs and outputs
MUTED, BYPASSED = 2, 4


class Graph:
    """nodes        {id: node of the file}, the nodes that stand for subgraphs among them
    definitions  {type of such a node: its subgraph}
    Raises ValueError for a subgraph that contains itself.
    """

    def __init__(self, workflow: dict):
        found = (workflow.get("definitions") or {}).get("subgraphs") or []
        self.definitions = {each["id"]: each for each in found}
        self.nodes = {}
        self.links = {}  # {(scope, link): (id, output slot) that it comes from}
        self.results = {}  # {(id of a node that stands for a subgraph, output slot): the link inside}
        self._lay(workflow, "", ())

    def _lay(self, graph: dict, scope: str, within: tuple):
        for link in graph["links"]:
            if isinstance(link, dict):  # as subgraphs hold them
                link = [link[name] for name in ("id", "origin_id", "origin_slot", "target_id", "target_slot")]
            key, origin, slot, target, place = link[:5]
            self.links[scope, key] = (INPUTS if str(origin) == INPUTS else inside(scope, origin)), slot
            if str(target) == OUTPUTS:
                self.results[scope, place] = key
        for node in graph["nodes"]:
            node_id = inside(scope, node["id"])
            self.nodes[node_id] = node
            kind = node["type"]
            if kind in within:
                raise ValueError(
                    f"node {node_id}: the subgraph {self.definitions[kind]['name']} contains itself"
                )
            if kind in self.definitions and node.get("mode") not in (MUTED, BYPASSED):
                self._lay(self.definitions[kind], node_id, (*within, kind))

    def origin(self, node_id: str, slot: dict):
        """What feeds an input slot of a node: (node id, output slot), through reroutes and bypassed nodes,
        into and out of subgraphs; (node id, name) for a widget of a node that stands for a subgraph; None
        if nothing does."""
        scope, link = scope_of(node_id), slot.get("link")
        while (scope, link) in self.links:
            node_id, place = self.links[scope, link]
            if node_id == INPUTS:
                node_id, name = scope, self.definitions[self.nodes[scope]["type"]]["inputs"][place]["name"]
                link = input_slot(self.nodes[node_id], name).get("link")
                if link is None:
                    return node_id, name
                scope = scope_of(node_id)
                continue
            node = self.nodes[node_id]
            inputs = node.get("inputs", [])
            if node.get("mode") == BYPASSED:
                # As the page does: the input in the same place if its type fits, else the first that fits.
                kind = node["outputs"][place]["type"]
                fitting = [each for each in inputs[place : place + 1] + inputs if each["type"] == kind]
                link = fitting[0].get("link") if fitting else None
            elif node.get("mode") == MUTED or node["type"] == "PrimitiveNode":
                return None  # a primitive's value is already among the widget values
            elif node["type"] == "Reroute":
                link = inputs[0].get("link")
            elif node["type"] in self.definitions:
                scope, link = node_id, self.results.get((node_id, place))
            else:
                return node_id, place
        return None

    def promoted(self, node_id: str) -> list:
        """Names behind the widget values of a node that stands for a subgraph; None for one that its inner
        node holds itself."""
        node = self.nodes[node_id]
        names = [slot["name"] for slot in node.get("inputs", []) if "widget" in slot]
        proxies = node.get("properties", {}).get("proxyWidgets")
        if proxies is None:
            return names
        behind = {self.behind(node_id, name): name for name in names}
        return [
            name if inner == "-1" else behind.get((inside(node_id, inner), name))
            for inner, name, *_ in proxies
        ]

    def behind(self, node_id: str, name: str):
        """(node id, input) inside a subgraph that its input `name` feeds first; None if it feeds none."""
        definition = self.definitions[self.nodes[node_id]["type"]]
        [place] = [i for i, each in enumerate(definition["inputs"]) if each["name"] == name] or [None]
        for link in definition["links"]:
            origin, target = str(link["origin_id"]), str(link["target_id"])
            if (origin, link["origin_slot"]) == (INPUTS, place) and target != OUTPUTS:
                inner = inside(node_id, target)
                return inner, self.nodes[inner]["inputs"][link["target_slot"]]["name"]
        return None


def inside(scope: str, node_id) -> str:
    return f"{scope}:{node_id}" if scope else str(node_id)


def scope_of(node_id: str) -> str:
    return node_id.rpartition(":")[0]


def input_slot(node: dict, name: str) -> dict:
    """An input slot by its name; empty for a widget that has none."""
    return next((slot for slot in node.get("inputs", []) if slot["name"] == name), {})
