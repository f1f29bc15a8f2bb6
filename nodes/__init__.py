"""The faces of the pack: thin V3 nodes, one file a family."""

from importlib import import_module

from comfy_api.latest import ComfyExtension

from ..host import routes

FAMILIES = ["sampling", "grid", "schedules", "noise", "drafting", "inversion", "adaptive", "pictures", "demo"]


class DDIMToolkit(ComfyExtension):
    async def get_node_list(self):
        routes.register()  # here, not in on_load: older hosts never call that
        return [node for family in FAMILIES for node in import_module(f".{family}", __package__).NODES]
