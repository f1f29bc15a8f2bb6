"""A node's schema for every ComfyUI from 0.3.75 on: what this one does not know yet is left out.

An unknown keyword in io.Schema or in an Input would drop the node, and on 0.3.75 all nodes after it.
"""

from dataclasses import fields

from comfy_api.latest import io

from nodes import KSampler  # ComfyUI's own

CATEGORY = f"{KSampler.CATEGORY}/ddim"  # beside the host's samplers, wherever this version keeps them
NEWER = {"search_aliases", "has_intermediate_output"}
UNKNOWN = NEWER - {each.name for each in fields(io.Schema)}


def schema(*, inputs, category=CATEGORY, advanced=(), **others):
    """io.Schema with the pack's category. `advanced` names the inputs that a node's page may fold away."""
    by_name = {each.id: each for each in inputs}
    for name in advanced:
        by_name[name].advanced = True  # a host that does not know it never reads it
    known = {name: value for name, value in others.items() if name not in UNKNOWN}
    return io.Schema(inputs=inputs, category=category, **known)
