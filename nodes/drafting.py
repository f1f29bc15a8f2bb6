"""Draft, pick, finish: DDIMSeed, DDIMContactSheet, DDIMDraftSwitch."""

from functools import partial

from comfy_api.latest import io
from comfy_execution.validation import validate_node_input

from ..host import sheet
from ..host.noise import SeedNoise
from .checked import checked
from .inputs import ANY, seed_input
from .schema import schema

Branch, Chosen = io.AnyType.Input, io.AnyType.Output
if validate_node_input(io.MatchType.io_type, "LATENT"):  # older hosts refuse such links
    # One type for all three, that of what is connected, which the page shows and holds to.
    template = io.MatchType.Template("branch", io.AnyType)
    Branch, Chosen = (partial(each, template=template) for each in (io.MatchType.Input, io.MatchType.Output))


class DDIMSeed(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="DDIMSeed",
            display_name="DDIM Seed",
            search_aliases=["random number", "random noise", "primitive int"],
            description=(
                "One seed for draft and final: as a number for samplers with a seed, and as the noise that it"
                " stands for. It fits every sampler."
            ),
            inputs=[seed_input("The seed: 0 to 2^64 - 1, never negative.")],
            outputs=[
                io.Int.Output(
                    display_name="number",
                    tooltip="The seed, for KSampler and DDIM KSampler: draw a link onto their seed.",
                ),
                io.Noise.Output(
                    display_name="noise", tooltip="Its noise, for SamplerCustomAdvanced and the noise nodes."
                ),
            ],
        )

    @classmethod
    @checked
    def execute(cls, seed):
        return io.NodeOutput(seed, SeedNoise(seed))


class DDIMContactSheet(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="DDIMContactSheet",
            display_name="DDIM Contact Sheet",
            search_aliases=["image picker", "choose image", "pick from batch", "preview chooser", "history"],
            description=(
                "Shows a batch of drafts and passes on only those you pick. While nothing is picked, the"
                " nodes behind it do not run. So you draft until you like one; then one click finishes it,"
                " from its own noise."
            ),
            inputs=[
                io.Image.Input("images", tooltip="The drafts: a batch of pictures."),
                io.String.Input(
                    "picks",
                    default="",
                    tooltip=(
                        'Numbers of the picked pictures, from 1, such as "3, 7". Empty picks none. A click on'
                        " a picture writes them."
                    ),
                ),
                io.Int.Input(
                    "columns",
                    default=0,
                    min=0,
                    max=64,
                    tooltip="Pictures side by side in the page. 0 lets the sheet choose.",
                ),
                io.Latent.Input(
                    "latent_image",
                    optional=True,
                    tooltip=(
                        "The LATENT that the drafts were sampled from: the empty batch, or the drafts"
                        " themselves for a second pass at denoise below 1."
                    ),
                ),
                io.String.Input(
                    "labels",
                    default="",
                    optional=True,
                    force_input=True,
                    tooltip="A line of text for each picture, shown with it.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="images", tooltip="The picked pictures."),
                io.Latent.Output(
                    display_name="latent",
                    tooltip=(
                        "Their rows of latent_image, each with its own noise: sampled with the drafts' seed"
                        " they become the finals."
                    ),
                ),
            ],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, picks):
        if picks is not None:  # None where it comes through a link
            sheet.parse_picks(picks)
        return True

    @classmethod
    @checked
    def execute(cls, images, picks, columns, latent_image=None, labels=""):
        each = sheet.frames_each(images, latent_image)
        rows = sheet.parse_picks(picks, len(images) // each)
        shown = {
            "pictures": sheet.save(images[::each]),
            "size": [images.shape[2], images.shape[1]],
            "picks": [row + 1 for row in rows],
            "columns": columns,
            "labels": sheet.lines(labels, len(images) // each),
        }
        return io.NodeOutput(*sheet.pick(images, rows, latent_image), ui={"ddim_sheet": [shown]})


class DDIMDraftSwitch(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="DDIMDraftSwitch",
            display_name="DDIM Draft Switch",
            search_aliases=["lazy switch", "if else", "preview or final"],
            description=(
                "Passes on the draft or the final. Only the chosen branch is computed; the nodes of the other"
                " one do not run. What is computed stays cached, so turning the switch back costs nothing."
            ),
            inputs=[
                Branch("draft", lazy=True, tooltip="The quick branch: any type, such as IMAGE or LATENT."),
                Branch("final", lazy=True, tooltip="The careful branch: the same type as the draft."),
                io.Boolean.Input(
                    "use_final",
                    default=False,
                    label_on="final",
                    label_off="draft",
                    display_name="use final",
                    tooltip=(
                        "Off computes the draft, on the final. The page's Drafts and Finals buttons turn all"
                        " switches at once."
                    ),
                ),
            ],
            outputs=[Chosen(display_name="chosen", tooltip="What the chosen branch gave.")],
        )

    @classmethod
    def validate_inputs(cls, input_types):
        """The two branches must share a type: with input_types in the signature the host leaves the check of
        all links to the node."""
        draft, final, switch = (
            {kind.strip() for kind in str(input_types.get(name, own)).split(",")}
            for name, own in (("draft", "*"), ("final", "*"), ("use_final", "BOOLEAN"))
        )
        if not switch & {"BOOLEAN", *ANY}:
            return f"use_final is {', '.join(switch)}; it must be BOOLEAN"
        if ANY & (draft | final) or draft & final:
            return True
        return (
            f"draft is {', '.join(draft)} and final is {', '.join(final)}; both branches must have the same"
            " type"
        )

    @classmethod
    @checked
    def check_lazy_status(cls, use_final, draft=None, final=None):
        return ["final"] if use_final else ["draft"]

    @classmethod
    @checked
    def execute(cls, use_final, draft=None, final=None):
        return io.NodeOutput(final if use_final else draft)


NODES = [DDIMSeed, DDIMContactSheet, DDIMDraftSwitch]
