"""Noise kept in files: DDIMSaveNoise, DDIMLoadNoise."""

import json
import math
import os

from comfy_api.latest import io

from ..host import latents, noise_files
from ..host import noise as values
from ..host.model import check_sigmas
from .checked import checked
from .inputs import ANY
from .noise import NOISE
from .schema import schema


class DDIMSaveNoise(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="DDIMSaveNoise",
            display_name="DDIM Save Noise",
            category=NOISE,
            search_aliases=["export noise", "safetensors"],
            description=(
                "Save a noise, bit by bit, to a safetensors file in the output folder, with the recipe in its"
                " header. The workflow lies in it too: drop the file on the page to open it."
            ),
            inputs=[
                io.Noise.Input("noise", tooltip="The noise to save."),
                io.Latent.Input("latent_image", tooltip="Size and number of the pictures."),
                io.String.Input(
                    "filename_prefix",
                    default="noise/DDIM",
                    tooltip=(
                        "Start of the file's name, with a folder of the output folder if you like. A number"
                        " is added."
                    ),
                ),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip=(
                        "For the recipe: the model's name. Also gives an empty latent the channels of this"
                        " model."
                    ),
                ),
                io.Sigmas.Input(
                    "sigmas", optional=True, tooltip="For the recipe: the noise levels to sample with."
                ),
                io.String.Input(
                    "prompt",
                    default="",
                    multiline=True,
                    optional=True,
                    tooltip="For the recipe: the prompt, or any note.",
                ),
            ],
            outputs=[io.String.Output(display_name="file", tooltip="The name to choose in DDIM Load Noise.")],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo, io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    @checked
    def execute(cls, noise, latent_image, filename_prefix, model=None, sigmas=None, prompt=""):
        recipe = {"version": noise_files.pack_version(), "seed": int(noise.seed)}
        if model is not None:
            recipe["model"] = noise_files.model_name(cls.hidden, model)
        if sigmas is not None:
            recipe["sigmas"] = check_sigmas(sigmas)
        if prompt:
            recipe["prompt"] = prompt
        drawn = values.to_latent(noise, latents.fitting(latent_image, model))
        graph = noise_files.workflow(cls.hidden)
        name, place = noise_files.save(drawn, recipe, filename_prefix, graph, noise)
        return io.NodeOutput(name, ui={"noise": [place]})


class DDIMLoadNoise(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="DDIMLoadNoise",
            display_name="DDIM Load Noise",
            category=NOISE,
            search_aliases=["import noise", "safetensors"],
            description="Load a noise that DDIM Save Noise wrote, from the input or the output folder.",
            inputs=[
                io.Combo.Input(
                    "file",
                    options=noise_files.listing(),
                    tooltip=(
                        "A safetensors file in the input or output folder, or one folder below. Press R to"
                        " read the folders again."
                    ),
                )
            ],
            outputs=[
                io.Noise.Output(display_name="noise", tooltip="The saved noise, bit by bit."),
                io.Latent.Output(
                    display_name="latent", tooltip="An empty latent of the size it was saved for."
                ),
                io.String.Output(
                    display_name="recipe",
                    tooltip="What the file's header tells: version, seed, model, sigmas, prompt.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, file, input_types=()):
        """A linked name, such as DDIM Save Noise's, is not known before it runs: file is then None."""
        if "file" in input_types:
            kind = input_types["file"]
            return kind in {"STRING", "COMBO", *ANY} or f"file is {kind}; it must be STRING"
        try:
            noise_files.find(file)
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, file):
        if file is None:  # linked: read again every time
            return math.nan
        state = os.stat(noise_files.find(file))
        return f"{file} {state.st_mtime_ns} {state.st_size}"

    @classmethod
    @checked
    def execute(cls, file):
        noise, latent, recipe = noise_files.load(file)
        return io.NodeOutput(noise, latent, json.dumps(recipe, indent=2, ensure_ascii=False))


NODES = [DDIMSaveNoise, DDIMLoadNoise]
