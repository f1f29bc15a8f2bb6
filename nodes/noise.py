"""Noise as a value: interpolate, add, convert."""

from comfy_api.latest import io

from ..ddim.checks import allowed
from ..host import latents
from ..host import noise as values
from .checked import checked
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


NODES = [
    DDIMNoiseInterpolation,
    DDIMNoiseArithmetic,
    DDIMNoiseFromLatent,
    DDIMLatentFromNoise,
]
