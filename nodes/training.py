"""DDIMDraftLoRA."""

import time

from comfy_api.latest import io, ui

from ..host import draft_lora, page, schedule
from .checked import checked
from .inputs import cfg_input, seed_input, stride_input
from .schema import schema


class DDIMDraftLoRA(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="DDIMDraftLoRA",
            display_name="DDIM Draft LoRA",
            search_aliases=["distil", "train", "few-step LoRA", "LCM LoRA", "turbo"],
            is_experimental=True,
            description=(
                "Trains a LoRA that makes your own model draw drafts in a few steps. In one DDIM jump"
                " without guidance it does what the model does in several with it. Training needs prompts"
                " and no pictures. A draft and its final show the same, because the way from noise to"
                " picture stays the model's."
            ),
            inputs=[
                io.Model.Input(
                    "model", tooltip="The model that the LoRA is for; its LoRAs and patches count."
                ),
                io.Conditioning.Input("negative", tooltip="What guidance steers away from."),
                cfg_input("The guidance that the LoRA learns. Sample the draft at cfg 1."),
                io.Latent.Input("latent_image", tooltip="An empty latent of the size that you will sample."),
                io.Int.Input(
                    "calls",
                    default=4,
                    min=1,
                    max=16,
                    tooltip="Model calls of the draft.",
                ),
                stride_input(),
                io.Int.Input(
                    "teacher_runs",
                    default=512,
                    min=1,
                    max=1000000,
                    tooltip=(
                        "Pictures that the model draws to learn from, as the training goes. More make the"
                        " draft right on prompts and seeds that it never saw."
                    ),
                ),
                io.Int.Input(
                    "rounds",
                    default=256,
                    min=1,
                    max=1000000,
                    tooltip="Steps of training, a batch each; about four times teacher_runs / batch.",
                ),
                io.Int.Input(
                    "rank",
                    default=32,
                    min=1,
                    max=512,
                    tooltip="Rank of the LoRA. A higher rank learns more and makes a larger file.",
                ),
                io.Float.Input(
                    "learning_rate",
                    default=0.0005,
                    min=0.0000001,
                    max=1.0,
                    step=0.0000001,
                    tooltip=(
                        "Learning rate of the Adam optimizer. It falls to zero over the second half of the"
                        " rounds."
                    ),
                ),
                io.Int.Input("batch", default=8, min=1, max=1024, tooltip="Pictures in each round."),
                seed_input(
                    "Seed of the teacher's noise and of the choice of prompts. To go on from an earlier"
                    " LoRA, use another.",
                    control_after_generate=False,
                ),
                io.Boolean.Input(
                    "gradient_checkpointing",
                    display_name="recompute",
                    default=True,
                    tooltip="Computes some parts twice, which needs far less memory. Off is a third faster.",
                ),
                io.Conditioning.Input(
                    "positive",
                    optional=True,
                    tooltip="Prompts to learn on; Conditioning (Combine) joins several.",
                ),
                io.Clip.Input("clip", optional=True, tooltip="Encodes the captions."),
                io.String.Input(
                    "captions",
                    default="",
                    multiline=True,
                    optional=True,
                    tooltip=(
                        "Prompts to learn on, one a line: what you draft, in all its kinds. With eight or"
                        " more, every eighth is kept for the report."
                    ),
                ),
                io.Sigmas.Input(
                    "sigmas",
                    optional=True,
                    tooltip="Noise levels of the draft, in place of calls and stride.",
                ),
                io.Custom("LORA_MODEL").Input(
                    "earlier_lora",
                    optional=True,
                    tooltip="An earlier result, to go on from.",
                ),
            ],
            outputs=[
                io.Custom("LORA_MODEL").Output(
                    display_name="lora", tooltip="For Load LoRA Model and Save LoRA Weights."
                ),
                io.Custom("LOSS_MAP").Output(display_name="loss", tooltip="For Plot Loss Graph."),
                io.Sigmas.Output(
                    display_name="draft_sigmas",
                    tooltip="The levels that it learned: for DDIM, cfg 1.",
                ),
                io.String.Output(
                    display_name="report",
                    tooltip="The error on unseen prompts and seeds, beside other ways at as many calls.",
                ),
            ],
            advanced=("gradient_checkpointing",),
        )

    @classmethod
    @checked
    def execute(
        cls,
        model,
        negative,
        cfg,
        latent_image,
        calls,
        stride,
        teacher_runs,
        rounds,
        rank,
        learning_rate,
        batch,
        seed,
        gradient_checkpointing,
        positive=None,
        clip=None,
        captions="",
        sigmas=None,
        earlier_lora=None,
    ):
        lines = [line.strip() for line in captions.splitlines() if line.strip()]
        if lines and clip is None:
            raise ValueError("captions are given, but no clip that encodes them")
        prompts = list(positive or [])
        for line in lines:
            prompts += clip.encode_from_tokens_scheduled(clip.tokenize(line))
        if sigmas is None:
            sigmas, _ = schedule.stride_sigmas(model, calls, stride)
        begun = time.monotonic()

        def progress(done, loss):
            left = (time.monotonic() - begun) / done * (rounds - done)
            page.tell(f"round {done} of {rounds}, loss {loss:.4g}, {duration(left)} left")

        draft = draft_lora.train(
            model,
            prompts,
            negative,
            cfg,
            latent_image,
            sigmas,
            runs=teacher_runs,
            rounds=rounds,
            rank=rank,
            rate=learning_rate,
            batch=batch,
            seed=seed,
            start=earlier_lora,
            checkpointing=gradient_checkpointing,
            progress=progress,
        )
        text = report(draft, rounds, time.monotonic() - begun)
        return io.NodeOutput(draft.lora, {"loss": draft.losses}, sigmas, text, ui=ui.PreviewText(text))


def duration(seconds):
    """Time, as people say it."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def gain(draft):
    """The first sentence: whether the LoRA is worth having, by pictures that it was not trained on."""
    if not draft.errors:
        return "What the LoRA is worth was not measured: the node was cancelled before."
    others = {name: error for name, error in draft.errors.items() if name != draft_lora.OWN}
    best = min(others, key=others.get)
    nearer = draft.errors[draft_lora.OWN] < others[best]
    return (
        f"Drafts with this LoRA come {'nearer' if nearer else 'less near'} to the model's own pictures than"
        f" the best other way of as many network evaluations ({best})."
    )


def report(draft, rounds, seconds):
    """What was learned and what it cost, in a few lines; of the host's samplers only the best."""
    done = f"{len(draft.losses)} of {rounds} rounds" + (", cancelled" if draft.cancelled else "")
    ddim = {name: error for name, error in draft.errors.items() if name.startswith("DDIM")}
    others = sorted((error, name) for name, error in draft.errors.items() if name not in ddim)
    shown = ddim | {f"ComfyUI's best, {name}": error for error, name in others[:1]}
    return "\n".join(
        [
            gain(draft),
            f"{done}, {draft.runs} teacher runs, {duration(seconds)}",
            f"loss: {draft.losses[0]:.4g} at first, {draft.losses[-1]:.4g} at last",
            "error of held-out latents (RMSE to the guided model's own), at as many network evaluations:",
            *(f"  {error:.4f}  {name}" for name, error in shown.items()),
        ]
    )


NODES = [DDIMDraftLoRA]
