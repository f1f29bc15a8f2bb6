"""What several tests need."""

import asyncio
import sys
from pathlib import Path

import folder_paths
import torch
from comfy.model_base import ModelType
from ddim_toolkit.runner.comfyui import ComfyUI

HERE = ComfyUI(Path(folder_paths.__file__).parent, Path(sys.executable))  # the ComfyUI that runs the tests
KINDS = [ModelType.EPS, ModelType.V_PREDICTION, ModelType.EDM, ModelType.FLOW]


def all_nodes() -> dict:
    """The pack's node classes by their ids."""
    extension = asyncio.run(sys.modules["ddim_toolkit"].comfy_entrypoint())
    return {node.GET_SCHEMA().node_id: node for node in asyncio.run(extension.get_node_list())}


def empty(size: int = 8) -> dict:
    """The LATENT of one empty picture."""
    return {"samples": torch.zeros(1, 4, size, size)}


def encode(clip, text: str) -> list:
    """The CONDITIONING of a caption."""
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))


def rmse(a: torch.Tensor, b: torch.Tensor) -> float:
    """Of the worst picture of a batch, all of it finite."""
    assert torch.isfinite(a).all()
    return (a - b).double().flatten(1).square().mean(1).sqrt().max().item()
