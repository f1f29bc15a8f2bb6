"""DDIMEdit."""

from comfy_api.latest import io, ui

from ..host import edit
from .checked import checked
from .inputs import cfg_input, model_input, seed_input
from .schema import schema


class DDIMEdit(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="DDIMEdit",
            display_name="DDIM Edit",
            search_aliases=["FlowEdit", "InfEdit", "DDCM", "edit without inversion"],
            advanced=["averages"],
            has_intermediate_output=True,
            description=(
                "Changes a picture from one caption to another without inverting it. Two model calls a step,"
                " on every model type."
            ),
            inputs=[
                model_input(),
                io.Conditioning.Input("source", tooltip="What the picture shows: its own caption."),
                io.Conditioning.Input("target", tooltip="What it is to show: the caption, changed."),
                io.Conditioning.Input("negative", tooltip="Only used where a cfg is not 1."),
                cfg_input("Guidance towards the caption of the picture as it is.", 1.0, "source_cfg"),
                cfg_input(
                    "Guidance towards the new caption. Above source_cfg the edit is stronger and keeps less.",
                    1.0,
                    "target_cfg",
                ),
                io.Latent.Input(
                    "latent_image",
                    tooltip="The encoded picture, or a batch. A noise mask keeps what it covers.",
                ),
                io.Sigmas.Input(
                    "sigmas",
                    tooltip=(
                        "Where they start sets the strength of the edit. A whole schedule allows the largest"
                        " change; a later part of it (SplitSigmas, denoise) keeps more of the picture."
                    ),
                ),
                io.Float.Input(
                    "eta",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    round=0.001,
                    tooltip=(
                        "0 carries the change from step to step (FlowEdit). 1 measures it anew at each step"
                        " (InfEdit's DDCM)."
                    ),
                ),
                seed_input("Seed of the noise under which the captions are compared."),
                io.Int.Input(
                    "averages",
                    default=1,
                    min=1,
                    max=64,
                    tooltip="Over how many noises each step is averaged. Each costs two model calls a step.",
                ),
                io.Float.Input(
                    "mask_softness",
                    display_name="softness",
                    default=0.0,
                    min=0.0,
                    max=100.0,
                    step=0.05,
                    round=0.001,
                    tooltip=(
                        "Above 0 the change is taken in full only where the captions differ most. The"
                        " higher, the fewer such places. 0 is off."
                    ),
                ),
            ],
            outputs=[
                io.Latent.Output(display_name="latent", tooltip="The edited picture."),
                io.Mask.Output(
                    display_name="mask",
                    tooltip="Where the change was taken, at the latent's size; white without mask_softness.",
                ),
                io.String.Output(
                    display_name="report", tooltip="How much was changed, and the number of model calls."
                ),
            ],
        )

    @classmethod
    @checked
    def execute(
        cls,
        model,
        source,
        target,
        negative,
        source_cfg,
        target_cfg,
        latent_image,
        sigmas,
        eta,
        seed,
        averages,
        mask_softness,
    ):
        latent, mask, text = edit.edit_latent(
            model,
            source,
            target,
            negative,
            latent_image,
            sigmas,
            source_cfg=source_cfg,
            target_cfg=target_cfg,
            eta=eta,
            seed=seed,
            averages=averages,
            softness=mask_softness,
        )
        return io.NodeOutput(latent, mask, text, ui=ui.PreviewText(text))


NODES = [DDIMEdit]
