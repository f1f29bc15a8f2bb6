"""DDIMDialGrid."""

import logging

from comfy_api.latest import io

from ..host import grid, page
from .checked import checked
from .inputs import cfg_input, denoise_input, eta_input, model_input, prompt_inputs, seed_input, stride_input
from .schema import schema

VALUES_TOOLTIP = (
    "Its values: numbers such as 0, .3, 1; strides such as trailing, linspace; for seeds also 4 random, drawn"
    " from the seed below. Empty: the node's own value alone."
)


class DDIMDialGrid(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="DDIMDialGrid",
            display_name="DDIM Dial Grid",
            search_aliases=["xy plot", "grid", "compare settings", "eta", "plms"],
            advanced=["max_calls"],
            description=(
                "One picture over two dials of DDIM KSampler: what each value does, side by side. Each is"
                " the picture that DDIM KSampler gives with these dials."
            ),
            inputs=[
                model_input(),
                io.Combo.Input(
                    "across",
                    options=list(grid.DIALS),
                    default="eta",
                    tooltip="The dial that changes from left to right.",
                ),
                io.String.Input(
                    "across_values", display_name="values", default="0, .3, 1", tooltip=VALUES_TOOLTIP
                ),
                io.Combo.Input(
                    "down",
                    options=list(grid.DIALS),
                    default="steps",
                    tooltip="The dial that changes from top to bottom.",
                ),
                io.String.Input(
                    "down_values", display_name="values", default="8, 12, 30", tooltip=VALUES_TOOLTIP
                ),
                seed_input("Seed of all pictures, unless seed is one of the two dials."),
                io.Int.Input(
                    "steps",
                    default=12,
                    min=1,
                    max=10000,
                    tooltip="Model calls of each picture, unless steps is one of the two dials.",
                ),
                cfg_input("Classifier-free guidance. 1 turns it off and halves the work."),
                eta_input(),
                stride_input(),
                *prompt_inputs(),
                io.Latent.Input(
                    "latent_image",
                    tooltip=(
                        "An empty latent, or an encoded picture with denoise below 1. Of a batch the first"
                        " picture."
                    ),
                ),
                denoise_input(),
                io.Int.Input(
                    "max_calls",
                    default=1000,
                    min=1,
                    max=1000000,
                    tooltip=(
                        "A grid that needs more model calls than this is refused before it begins. Cells that"
                        " equal one another count once."
                    ),
                ),
            ],
            outputs=[
                io.Latent.Output(display_name="latent", tooltip="The pictures as a batch, row by row."),
                io.String.Output(
                    display_name="labels", tooltip="The two dials of each picture, a line for each."
                ),
                io.Int.Output(display_name="columns", tooltip="How many pictures stand in a row."),
            ],
        )

    @classmethod
    def validate_inputs(cls, across, across_values, down, down_values):
        written = across, across_values, down, down_values
        if None not in written:  # None comes through a link
            grid.sides(dict.fromkeys(grid.DIALS), *written)
        return True

    @classmethod
    @checked
    def execute(
        cls,
        model,
        across,
        across_values,
        down,
        down_values,
        seed,
        steps,
        cfg,
        eta,
        stride,
        positive,
        negative,
        latent_image,
        denoise,
        max_calls=1000,
    ):
        dials = {"seed": seed, "steps": steps, "cfg": cfg, "eta": eta, "stride": stride, "denoise": denoise}
        cells, columns = grid.plan(model, dials | {"order": 1}, across, across_values, down, down_values)
        cost = f"{len(cells)} pictures, {grid.cost(cells):,} model calls"
        if grid.cost(cells) > max_calls:
            raise ValueError(f"this grid takes {cost}; max_calls is {max_calls:,}")
        logging.info("DDIM Dial Grid: %s", cost)
        page.tell(cost)
        latent = grid.sample(model, positive, negative, latent_image, cells)
        return io.NodeOutput(latent, "\n".join(cell.label for cell in cells), columns)


NODES = [DDIMDialGrid]
