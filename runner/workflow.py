"""From a workflow file of ComfyUI's page to the prompt that its queue takes.

The page does this in the browser (`app.graphToPrompt`). This is the same conversion outside a browser: the
names of the widgets, which the file leaves out, come from the server's /object_info.
"""

from __future__ import annotations

WIDGET_TYPES = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
PAGE_ONLY = {"Note", "MarkdownNote", "PrimitiveNode", "Reroute"}  # drawn by the page, unknown to the queue
MUTED, BYPASSED = 2, 4


def to_prompt(workflow: dict, object_info: dict) -> dict:
    """The queue's prompt, {node id: {"class_type", "inputs", "_meta"}}, of a workflow file.

    `object_info` is what GET /object_info answers. Raises ValueError for a node type that it does not know
    and for widget values that do not fit the node.
    """
    nodes = {node["id"]: node for node in workflow["nodes"]}
    links = {link[0]: (link[1], link[2]) for link in workflow["links"]}
    subgraphs = {each["id"] for each in workflow.get("definitions", {}).get("subgraphs", [])}
    prompt = {}
    for node in workflow["nodes"]:
        if node["type"] in PAGE_ONLY or node.get("mode") in (MUTED, BYPASSED):
            continue
        if node["type"] in subgraphs:
            raise ValueError(
                f"node {node['id']} is a subgraph, which is not read here; save the workflow with"
                " Export (API)"
            )
        if node["type"] not in object_info:
            raise ValueError(f"node {node['id']}: this ComfyUI has no node type {node['type']!r}")
        inputs = widget_values(node, object_info[node["type"]])
        for slot in node.get("inputs", []):
            origin = find_origin(slot.get("link"), nodes, links)
            if origin:
                inputs[slot["name"]] = [str(origin[0]), origin[1]]
        title = node.get("title") or object_info[node["type"]].get("display_name") or node["type"]
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": inputs, "_meta": {"title": title}}
    return prompt


def widget_values(node: dict, info: dict) -> dict:
    """The node's widget values by name. The file holds them as a bare list in the order of the inputs."""
    values = node.get("widgets_values") or []
    if not isinstance(values, list):
        raise ValueError(
            f"node {node['id']} ({node['type']}): widgets_values must be a list, not {type(values).__name__}"
        )
    names, needed = widget_names(info)
    if (
        len(values) < needed
    ):  # a file older than an optional input that was appended lacks its value: the default stands
        raise ValueError(
            f"node {node['id']} ({node['type']}): {len(values)} widget values for {len(names)} widgets"
        )
    # A list would be read as a link, so the page wraps it.
    return {
        name: {"__value__": value} if isinstance(value, list) else value
        for name, value in zip(names, values, strict=False)
        if name
    }


def widget_names(info: dict) -> tuple[list, int]:
    """(the name behind each of a node's widget values, None for a widget that the page adds; how many are
    required)."""
    names, needed = [], 0
    for name, (kind, options) in declared_inputs(info):
        if options.get("forceInput") or not (isinstance(kind, list) or kind in WIDGET_TYPES):
            continue
        names.append(name)
        # The page adds a widget of its own behind a seed ("randomize", "fixed" ...), which it never sends.
        if options.get("control_after_generate", kind == "INT" and name in ("seed", "noise_seed")):
            names.append(None)
        if name in info["input"].get("required", {}):
            needed = len(names)
    return names, needed


def set_widget(workflow: dict, node_id: str, name: str, value, object_info: dict) -> None:
    """Write a widget's value into a workflow file, and into the page's primitive that feeds it, if one does.
    A seed stays fixed from then on."""
    nodes = {str(node["id"]): node for node in workflow["nodes"]}
    node = nodes[node_id]
    names, _ = widget_names(object_info[node["type"]])
    place = names.index(name)
    links = {slot.get("link") for slot in node.get("inputs", []) if slot["name"] == name}
    feeding = [nodes[str(link[1])] for link in workflow["links"] if link[0] in links]
    written = [(node, place, names[place + 1 : place + 2] == [None])]
    written += [(each, 0, True) for each in feeding if each["type"] == "PrimitiveNode"]
    for target, index, controlled in written:
        target["widgets_values"][index] = value
        if controlled and len(target["widgets_values"]) > index + 1:
            target["widgets_values"][index + 1] = "fixed"


def declared_inputs(info: dict):
    """(name, (type, options)) of every input in the node's own order; a list as type is a choice."""
    for group in ("required", "optional"):
        declared = info["input"].get(group, {})
        for name in info.get("input_order", {}).get(group, declared):
            kind, *options = declared[name]
            yield name, (kind, options[0] if options else {})


def find_origin(link, nodes: dict, links: dict):
    """(node id, output slot) that feeds a link, looking through reroutes and bypassed nodes; None if nothing
    does."""
    while link is not None and link in links:
        node_id, slot = links[link]
        node = nodes[node_id]
        inputs = node.get("inputs", [])
        if node["type"] == "Reroute":
            link = inputs[0].get("link")
        elif node.get("mode") == BYPASSED:
            # As the page does: the input in the same place if its type fits, else the first that fits.
            kind = node["outputs"][slot]["type"]
            fitting = [each for each in inputs[slot : slot + 1] + inputs if each["type"] == kind]
            link = fitting[0].get("link") if fitting else None
        elif node["type"] == "PrimitiveNode" or node.get("mode") == MUTED:
            return None  # a primitive's value is already among the widget values
        else:
            return node_id, slot
    return None


def upstream(prompt: dict, node_id: str) -> dict:
    """The part of a prompt that `node_id` needs, itself included; nearest nodes first."""
    part, waiting = {}, [node_id]
    for current in waiting:
        if current not in part:
            part[current] = prompt[current]
            waiting += [value[0] for value in prompt[current]["inputs"].values() if isinstance(value, list)]
    return part
