"""Noise as a value: interpolate, add, convert, save, load."""

import json
import math
import os

from comfy_api.latest import io

from ..ddim.checks import allowed
from ..host import latents, noise_files
from ..host import noise as values
from ..host.model import check_sigmas
from .checked import checked
from .inputs import ANY
from .schema import CATEGORY, schema

NOISE = f"{CATEGORY}/noise"
MODES = ["slerp", "linear", "variation"]
EASINGS = ["linear", "smooth"]
SCALES = ["unit variance", "keep"]


class DDIMNoiseInterpolation(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="DDIMNoiseInterpolation",
            display_name="DDIM Noise Interpolation",
            category=NOISE,
            search_aliases=["slerp", "variation seed", "subseed", "morph", "seed travel"],
            description=(
                "Walks from one noise to another in a number of frames. Sample this node's latent with its"
                " noise at eta 0: each frame is a picture of its own, and the pictures turn into one"
                " another. With two more noises the frames fill a grid."
            ),
            inputs=[
                io.Noise.Input(
                    "noise_a",
                    tooltip=(
                        "Noise of the first frame, from RandomNoise, DDIM Inversion, DDIM Load Noise or any"
                        " other node."
                    ),
                ),
                io.Noise.Input("noise_b", tooltip="Noise of the last frame."),
                io.Latent.Input(
                    "latent_image",
                    tooltip=(
                        "Size of the pictures. Of a batch each picture gets its own walk, one after the"
                        " other."
                    ),
                ),
                io.Int.Input(
                    "frames",
                    default=12,
                    min=1,
                    max=4096,
                    tooltip="Number of frames, both ends among them. With four corners: columns of the grid.",
                ),
                io.Combo.Input(
                    "mode",
                    options=MODES,
                    default="slerp",
                    tooltip=(
                        "slerp: along the great circle, so that every frame is noise of full strength."
                        " linear: along the straight line, where the middle fades to 71 %. variation: every"
                        " frame is another neighbour of noise_a, in the directions of noise_b's batch."
                    ),
                ),
                io.Combo.Input(
                    "easing",
                    options=EASINGS,
                    default="linear",
                    optional=True,
                    tooltip="smooth starts and stops gently.",
                ),
                io.Float.Input(
                    "strength",
                    default=0.3,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    optional=True,
                    tooltip=(
                        "Only for variation: how far the neighbours are turned away from noise_a. 0 is"
                        " noise_a itself, 1 a right angle: an unrelated picture."
                    ),
                ),
                io.Noise.Input(
                    "noise_c",
                    optional=True,
                    tooltip=(
                        "Lower left corner of a grid (noise_a and noise_b are its upper corners). Needs"
                        " noise_d."
                    ),
                ),
                io.Noise.Input(
                    "noise_d", optional=True, tooltip="Lower right corner of a grid. Needs noise_c."
                ),
                io.Int.Input(
                    "rows",
                    default=4,
                    min=1,
                    max=4096,
                    optional=True,
                    tooltip="Only with four corners: rows of the grid.",
                ),
            ],
            outputs=[
                io.Noise.Output(display_name="noise", tooltip="Noise of all frames."),
                io.Latent.Output(
                    display_name="latent",
                    tooltip="The batch to sample it on: one latent a frame, rows from top to bottom.",
                ),
            ],
        )

    @classmethod
    @checked
    def execute(
        cls,
        noise_a,
        noise_b,
        latent_image,
        frames,
        mode,
        easing="linear",
        strength=0.3,
        noise_c=None,
        noise_d=None,
        rows=4,
    ):
        allowed("mode", mode, MODES)
        allowed("easing", easing, EASINGS)
        if (noise_c is None) != (noise_d is None):
            raise ValueError(
                "noise_c and noise_d: a grid needs both of its lower corners, and one is missing."
            )
        if mode == "variation" and noise_c is not None:
            raise ValueError(
                "mode: variation has no grid. Disconnect noise_c and noise_d, or choose slerp or linear."
            )
        corners = (noise_a, noise_b) if noise_c is None else (noise_a, noise_b, noise_c, noise_d)
        rows = rows if len(corners) == 4 else 1
        noise = values.InterpolatedNoise(
            corners, tuple(latents.batch_indices(latent_image)), frames, rows, mode, easing, strength
        )
        return io.NodeOutput(noise, latents.repeat_pictures(latent_image, frames * rows))


class DDIMNoiseArithmetic(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="DDIMNoiseArithmetic",
            display_name="DDIM Noise Arithmetic",
            category=NOISE,
            search_aliases=["add noise", "noise math", "mix noise"],
            description=(
                "Adds the difference between two noises to a third: base + weight (plus - minus), scaled"
                " back to the strength of the base. With noises from DDIM Inversion it carries a trait from"
                " one picture to another."
            ),
            inputs=[
                io.Noise.Input("base", tooltip="The noise to start from; its seed is handed on."),
                io.Noise.Input(
                    "plus", tooltip="The noise that is added, such as that of a picture with a hat."
                ),
                io.Noise.Input(
                    "minus",
                    tooltip="The noise that is taken away, such as that of the same picture without one.",
                ),
                io.Float.Input(
                    "weight",
                    default=1.0,
                    min=-100.0,
                    max=100.0,
                    step=0.05,
                    tooltip=(
                        "How much of the difference is added. 0 is the base itself; a negative weight goes"
                        " the other way."
                    ),
                ),
            ],
            outputs=[
                io.Noise.Output(
                    display_name="noise",
                    tooltip="The sum, for latents of the same size as those of its terms.",
                )
            ],
        )

    @classmethod
    @checked
    def execute(cls, base, plus, minus, weight):
        return io.NodeOutput(values.ShiftedNoise(base, plus, minus, weight))


class DDIMNoiseFromLatent(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="DDIMNoiseFromLatent",
            display_name="DDIM Noise from Latent",
            category=NOISE,
            search_aliases=["latent to noise", "noise vector"],
            description=(
                "Use a latent as noise: one that another node inverted, or one that was edited after DDIM"
                " Latent from Noise."
            ),
            inputs=[
                io.Latent.Input("latent_image", tooltip="The latent that holds the noise."),
                io.Combo.Input(
                    "scale",
                    options=SCALES,
                    default="unit variance",
                    tooltip=(
                        "unit variance: each picture is scaled to the strength that samplers expect. keep:"
                        " the numbers stay as they are."
                    ),
                ),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip=(
                        "Connect it where the latent came out of a sampler: undoes the scale and shift that"
                        " this model's latents have outside it."
                    ),
                ),
            ],
            outputs=[
                io.Noise.Output(display_name="noise", tooltip="The noise, for latents of the same size.")
            ],
        )

    @classmethod
    @checked
    def execute(cls, latent_image, scale, model=None):
        allowed("scale", scale, SCALES)
        return io.NodeOutput(values.from_latent(latent_image, scale == "unit variance", model))


class DDIMLatentFromNoise(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="DDIMLatentFromNoise",
            display_name="DDIM Latent from Noise",
            category=NOISE,
            search_aliases=["noise to latent"],
            description=(
                "Draw a noise and hand it on as a latent, for nodes that work on latents. DDIM Noise from"
                " Latent with scale 'keep' is the exact way back."
            ),
            inputs=[
                io.Noise.Input("noise", tooltip="The noise to draw."),
                io.Latent.Input("latent_image", tooltip="Size and number of the pictures."),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip=(
                        "Connect it to get the latent in the scale that this model's latents have outside it,"
                        " as a sampler would return it."
                    ),
                ),
            ],
            outputs=[io.Latent.Output(display_name="latent", tooltip="The noise as samples of a latent.")],
        )

    @classmethod
    @checked
    def execute(cls, noise, latent_image, model=None):
        return io.NodeOutput(values.to_latent(noise, latents.fitting(latent_image, model), model))


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


NODES = [
    DDIMNoiseInterpolation,
    DDIMNoiseArithmetic,
    DDIMNoiseFromLatent,
    DDIMLatentFromNoise,
    DDIMSaveNoise,
    DDIMLoadNoise,
]
