"""DDIMDraftSwitch."""

from comfy_api.latest import io

from .schema import schema


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
        """The two branches must share a type: with input_types in the signature the host leaves the check to
        the node."""
        draft, final = input_types.get("draft", "*"), input_types.get("final", "*")
        if "*" in (draft, final) or set(draft.split(",")) & set(final.split(",")):
            return True
        return f"draft is {draft} and final is {final}; both branches must have the same type"

    @classmethod
    def check_lazy_status(cls, use_final, draft=None, final=None):
        return ["final"] if use_final else ["draft"]

    @classmethod
    def execute(cls, use_final, draft=None, final=None):
        return io.NodeOutput(final if use_final else draft)


NODES = [DDIMDraftSwitch]
