"""Opens a pickle of SAMPLERs and NOISEs in a process of its own and samples with each: elsewhere.py COMFYUI
CUSTOM_NODES PICKLE RESULT [load].

The pack lies in CUSTOM_NODES, or does not; with `load` ComfyUI loads it before the pickle is opened.
"""

import asyncio
import importlib
import os
import pickle
import sys
from pathlib import Path


def start(comfyui, custom_nodes):
    """ComfyUI in this process, knowing of one folder of packs."""
    sys.path.insert(0, str(comfyui))
    given, sys.argv = sys.argv, [sys.argv[0], "--cpu"]
    try:
        import comfy.options

        comfy.options.enable_args_parsing()
        import comfy.cli_args  # noqa: F401  reads the command line
        import folder_paths
    finally:
        sys.argv = given
    folder_paths.folder_names_and_paths["custom_nodes"] = ([str(custom_nodes)], set())


def load(custom_nodes):
    """Every pack of the folder, as ComfyUI loads them when it starts."""
    import nodes

    for name in os.listdir(custom_nodes):
        assert asyncio.run(nodes.load_custom_node(os.path.join(custom_nodes, name)))


def samples(values):
    """{name: latent} of a run of the shipped model with each value of {"samplers": {}, "noises": {}}."""
    import comfy.samplers
    import comfy_extras.nodes_custom_sampler as host
    import torch

    pack = next(iter(values["noises"].values())).__class__.__module__.rpartition(".host.")[0]
    model, clip, _ = importlib.import_module(f"{pack}.demo.model").load()
    positive, negative = (
        clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in ("red heart", "")
    )
    sigmas, latent = values["sigmas"], {"samples": torch.zeros(1, 4, 8, 8)}

    def run(noise, sampler):
        return comfy.sample.sample_custom(
            model,
            noise.generate_noise(latent),
            2.0,
            sampler,
            sigmas,
            positive,
            negative,
            latent["samples"],
            seed=noise.seed,
            disable_pbar=True,
        )

    euler, seven = comfy.samplers.sampler_object("euler"), host.Noise_RandomNoise(7)
    return {name: run(seven, sampler) for name, sampler in values["samplers"].items()} | {
        name: run(noise, euler) for name, noise in values["noises"].items()
    }


def main(comfyui, custom_nodes, source, result, loading=""):
    start(comfyui, custom_nodes)
    import torch

    if loading:
        load(custom_nodes)
    torch.save(samples(pickle.loads(Path(source).read_bytes())), result)


if __name__ == "__main__":
    main(*sys.argv[1:])
