"""DDIMDemoModel."""

from comfy_api.latest import io


class DDIMDemoModel(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DDIMDemoModel",
            display_name="DDIM Demo Model",
            category="sampling/ddim",
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
            ],
        )

    @classmethod
    def execute(cls):
        from ..demo import model  # not at import: it reads the weights

        return io.NodeOutput(*model.load())


NODES = [DDIMDemoModel]
