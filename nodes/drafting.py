"""DDIMDraftSwitch."""

from comfy_api.latest import io


class DDIMDraftSwitch(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DDIMDraftSwitch",
            display_name="DDIM Draft Switch",
            category="sampling/ddim",
            description=(
                "Passes on the draft or the final. Only the chosen branch is computed; the nodes of the other"
                " one do not run. What is computed stays cached, so turning the switch back costs nothing."
            ),
            inputs=[
                io.AnyType.Input(
                    "draft", lazy=True, tooltip="The quick branch: any type, such as IMAGE or LATENT."
                ),
                io.AnyType.Input(
                    "final", lazy=True, tooltip="The careful branch: the same type as the draft."
                ),
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
            outputs=[io.AnyType.Output(display_name="chosen", tooltip="What the chosen branch gave.")],
        )

    @classmethod
    def validate_inputs(cls, input_types):
        """The two branches must share a type: with input_types in the signature the host leaves the check of
        all links to the node."""
        draft, final, switch = (
            {kind.strip() for kind in str(input_types.get(name, own)).split(",")}
            for name, own in (("draft", "*"), ("final", "*"), ("use_final", "BOOLEAN"))
        )
        if not switch & {"BOOLEAN", "*"}:
            return f"use_final is {', '.join(switch)}; it must be BOOLEAN"
        if "*" in draft | final or draft & final:
            return True
        return (
            f"draft is {', '.join(draft)} and final is {', '.join(final)}; both branches must have the same"
            " type"
        )

    @classmethod
    def check_lazy_status(cls, use_final, draft=None, final=None):
        return ["final"] if use_final else ["draft"]

    @classmethod
    def execute(cls, use_final, draft=None, final=None):
        return io.NodeOutput(final if use_final else draft)


NODES = [DDIMDraftSwitch]
