"""The faces of the pack: thin V3 nodes, one file a family."""

from comfy_api.latest import ComfyExtension

from ..host import page
from . import (
    adaptive,
    demo,
    drafting,
    editing,
    grid,
    inversion,
    noise,
    noise_files,
    pictures,
    sampling,
    schedules,
    training,
)

FAMILIES = [
    sampling,
    grid,
    schedules,
    noise,
    noise_files,
    drafting,
    inversion,
    editing,
    adaptive,
    pictures,
    training,
    demo,
]


class DDIMToolkit(ComfyExtension):
    async def get_node_list(self):
        page.register()  # here, not in on_load: older hosts never call that
        return [node for family in FAMILIES for node in family.NODES]
