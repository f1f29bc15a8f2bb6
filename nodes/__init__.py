"""The faces of the pack: thin V3 nodes, one file a family."""

from importlib import import_module

from comfy_api.latest import ComfyExtension

FAMILIES = ["sampling", "schedules", "noise", "demo"]


class DDIMToolkit(ComfyExtension):
    async def get_node_list(self):
        return [node for family in FAMILIES for node in import_module(f".{family}", __package__).NODES]
