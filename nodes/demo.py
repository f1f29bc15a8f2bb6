"""DDIMDemoModel and DDIMDemoPicture: to try the nodes on."""

from comfy_api.latest import io

from ..demo import pictures
from .checked import checked
from .schema import schema


class DDIMDemoModel(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="DDIMDemoModel",
            display_name="DDIM Demo Model",
            search_aliases=["load checkpoint", "test model", "emoji"],
            description=(
                "The small text-to-picture model that comes with the pack: 128 x 128 emoji from captions such"
                " as 'red heart'. It takes the place of Load Checkpoint, with nothing to download."
            ),
            inputs=[],
            outputs=[
                io.Model.Output(
                    display_name="model", tooltip="A v-prediction model with Stable Diffusion's noise levels."
                ),
                io.Clip.Output(display_name="clip", tooltip="Its text encoder, for CLIP Text Encode."),
                io.Vae.Output(display_name="vae", tooltip="Its autoencoder, for VAE Encode and VAE Decode."),
                io.Custom("LORA_MODEL").Output(
                    display_name="draft_lora",
                    tooltip=(
                        "For Load LoRA Model: drafts of 4 trailing steps at cfg 1, finals at cfg 4"
                        " without it."
                    ),
                ),
            ],
        )

    @classmethod
    @checked
    def execute(cls):
        from ..demo import model  # not at import: it reads the weights

        return io.NodeOutput(*model.load(), model.draft_lora())


class DDIMDemoPicture(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="DDIMDemoPicture",
            display_name="DDIM Demo Picture",
            search_aliases=["test image", "emoji"],
            description=(
                "A picture for the demo model to invert and edit, which it has not been trained on. Load"
                " Image takes its place for pictures of your own."
            ),
            inputs=[
                io.Combo.Input(
                    "picture",
                    options=pictures.NAMES,
                    default=pictures.NAMES[0],
                    tooltip="The picture, named by its caption.",
                )
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="128 x 128, on white."),
                io.String.Output(display_name="caption", tooltip="Its caption, for CLIP Text Encode."),
            ],
        )

    @classmethod
    @checked
    def execute(cls, picture):
        return io.NodeOutput(pictures.load(picture), picture)


NODES = [DDIMDemoModel, DDIMDemoPicture]
