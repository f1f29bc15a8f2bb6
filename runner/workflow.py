"""From a workflow file of ComfyUI's page to the prompt that its queue takes.

The page does this in the browser (`app.graphToPrompt`). This is the same conversion outside a browser: the
names of the widgets, which the file leaves out, come from the server's /object_info.
"""

from __future__ import annotations

from .graph import BYPASSED, MUTED, Graph, input_slot, scope_of

WIDGET_TYPES = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
PAGE_ONLY = {"Note", "MarkdownNote", "PrimitiveNode", "Reroute"}  # drawn by the page, unknown to the queue


def to_prompt(workflow: dict, object_info: dict) -> dict:
    """The queue's prompt, {node id: {"class_type", "inputs", "_meta"}}, of a workflow file.

    `object_info` is what GET /object_info answers. Raises ValueError for a node type that it does not know
    and for widget values that do not fit the node.
    """
    graph, prompt = Graph(workflow), {}
    for node_id, node in graph.nodes.items():
        kind = node["type"]
        if kind in PAGE_ONLY or kind in graph.definitions or node.get("mode") in (MUTED, BYPASSED):
            continue
        if kind not in object_info:
            raise ValueError(f"node {node_id}: this ComfyUI has no node type {kind!r}")
        inputs = widget_values(node, object_info[kind])
        for slot in node.get("inputs", []):
            origin = graph.origin(node_id, slot)
            if origin and isinstance(origin[1], str):
                place = widget_place(graph, *origin, object_info)
                if place:
                    inputs[slot["name"]] = wrapped(place[0]["widgets_values"][place[1]])
            elif origin:
                inputs[slot["name"]] = list(origin)
        title = node.get("title") or object_info[kind].get("display_name") or kind
        prompt[node_id] = {"class_type": kind, "inputs": inputs, "_meta": {"title": title}}
    return prompt


def widget_values(node: dict, info: dict) -> dict:
    """The node's widget values by name. The file holds them as a bare list in the order of the inputs."""
    values = node.get("widgets_values") or []
    if not isinstance(values, list):
        raise ValueError(
            f"node {node['id']} ({node['type']}): widgets_values must be a list, not {type(values).__name__}"
        )
    names, needed = widget_names(info)
    if len(values) < needed:
        raise ValueError(
            f"node {node['id']} ({node['type']}): {len(values)} widget values for {len(names)} widgets"
        )
    given = {name: wrapped(value) for name, value in zip(names, values, strict=False) if name}
    # A file older than an appended input lacks its value. The default stands; of a required one the queue
    # wants to be told it.
    lacking = list(zip(names, widget_defaults(info), strict=True))[len(values) :]
    return given | {name: value for name, value in lacking if name in info["input"].get("required", {})}


def wrapped(value):
    """A widget's value in a prompt: a list would be read as a link, so the page wraps it."""
    return {"__value__": value} if isinstance(value, list) else value


def widget_names(info: dict) -> tuple[list, int]:
    """(the name behind each of a node's widget values, None for a widget that the page adds; how many a file
    must have: the required ones without a default)."""
    names, needed = [], 0
    for name, (kind, options) in declared_inputs(info):
        if options.get("forceInput") or not (isinstance(kind, list) or kind in WIDGET_TYPES):
            continue
        names.append(name)
        # The page adds a widget of its own behind a seed ("randomize", "fixed" ...), which it never sends.
        if options.get("control_after_generate", kind == "INT" and name in ("seed", "noise_seed")):
            names.append(None)
        if name in info["input"].get("required", {}) and "default" not in options:
            needed = len(names)
    return names, needed


def widget_defaults(info: dict) -> list:
    """The widget values of a node that has just been added, in the order of `widget_names`."""
    options = {name: options for name, (_, options) in declared_inputs(info)}
    return ["fixed" if name is None else options[name].get("default") for name in widget_names(info)[0]]


def widget_place(graph: Graph, node_id: str, name: str, object_info: dict):
    """(node of the file, index in its widgets_values) where a widget's value stands: that of a node that
    stands for a subgraph may stand in the first node inside that it feeds. None if it is no widget."""
    node = graph.nodes[node_id]
    if node["type"] in graph.definitions:
        names, values = graph.promoted(node_id), node.get("widgets_values") or []
        index = names.index(name) if name in names else len(values)
        if index < len(values) and values[index] is not None:
            return node, index
        behind = graph.behind(node_id, name)
        return widget_place(graph, *behind, object_info) if behind else None
    names, _ = widget_names(object_info[node["type"]])
    return (node, names.index(name)) if name in names else None


def widget_behind(graph: Graph, node_id: str, name: str, object_info: dict):
    """`widget_place` of an input's own widget, or of the one outside its subgraph that it shows as."""
    origin = graph.origin(node_id, input_slot(graph.nodes[node_id], name))
    outside = origin and isinstance(origin[1], str)
    return widget_place(graph, *(origin if outside else (node_id, name)), object_info)


def set_widget(workflow: dict, node_id: str, name: str, value, object_info: dict) -> None:
    """Write a widget's value into a workflow file, and into the page's primitive that feeds it, if one does.
    A seed stays fixed from then on."""
    graph = Graph(workflow)
    node = graph.nodes[node_id]
    names, _ = widget_names(object_info[node["type"]])
    index = names.index(name)
    target, place = widget_behind(graph, node_id, name, object_info)
    values = target.setdefault("widgets_values", [])
    if place >= len(values):  # a file older than the input: those before it keep their defaults
        values += widget_defaults(object_info[target["type"]])[len(values) : place + 1]
    values[place] = value
    if names[index + 1 : index + 2] == [None] and len(node["widgets_values"]) > index + 1:
        node["widgets_values"][index + 1] = "fixed"
    feeding, _ = graph.links.get((scope_of(node_id), input_slot(node, name).get("link")), (None, 0))
    primitive = graph.nodes.get(feeding)
    if primitive and primitive["type"] == "PrimitiveNode":
        primitive["widgets_values"][:2] = [value, "fixed"][: len(primitive["widgets_values"])]


def declared_inputs(info: dict):
    """(name, (type, options)) of every input in the node's own order; a list as type is a choice."""
    for group in ("required", "optional"):
        declared = info["input"].get(group, {})
        for name in info.get("input_order", {}).get(group, declared):
            kind, *options = declared[name]
            yield name, (kind, options[0] if options else {})


def upstream(prompt: dict, node_id: str) -> dict:
    """The part of a prompt that `node_id` needs, itself included; nearest nodes first."""
    part, waiting = {}, [node_id]
    for current in waiting:
        if current not in part:
            part[current] = prompt[current]
            waiting += [value[0] for value in prompt[current]["inputs"].values() if isinstance(value, list)]
    return part
