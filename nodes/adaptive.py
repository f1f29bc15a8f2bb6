"""DDIMAdaptiveScheduler."""

import time

from comfy_api.latest import io, ui

from ..ddim.adaptive import CRITERIA, SAMPLERS
from ..ddim.solve import ADAMS_BASHFORTH
from ..host import probe
from .finite import finite
from .inputs import SEED_MAX, cfg_input
from .schema import schema


class DDIMAdaptiveScheduler(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="DDIMAdaptiveScheduler",
            display_name="DDIM Adaptive Scheduler",
            search_aliases=["align your steps", "optimal steps", "measured schedule"],
            advanced=["criterion", "probe_steps", "probe_images", "refine"],
            has_intermediate_output=True,
            description=(
                "A schedule measured on your own model, prompt and guidance: a fine reference run of a few"
                " pictures, then the noise levels at which this many steps come closest to it. Measure once;"
                " the text output, pasted into DDIM Custom Schedule, carries the result without measuring"
                " again."
            ),
            inputs=[
                io.Model.Input("model", tooltip="The model to measure, with its LoRAs and patches."),
                io.Conditioning.Input(
                    "positive",
                    tooltip=(
                        "What the pictures should show. A schedule measured on one prompt serves similar"
                        " ones."
                    ),
                ),
                io.Conditioning.Input("negative", tooltip="What guidance steers away from."),
                cfg_input(
                    "The guidance that you will sample with: it bends the run, so it changes the best steps."
                ),
                io.Latent.Input("latent_image", tooltip="Size of the pictures. Its first picture is used."),
                io.Int.Input(
                    "steps",
                    default=10,
                    min=1,
                    max=256,
                    tooltip="Model calls of the schedule that you want; at most probe_steps.",
                ),
                io.Int.Input(
                    "order",
                    default=1,
                    min=1,
                    max=max(ADAMS_BASHFORTH),
                    tooltip=(
                        "Order of the sampler that will use it: 1 for DDIM and euler, 2 to 4 for DDIM Sampler"
                        " (PLMS) of that order, 2 for dpmpp_2m."
                    ),
                ),
                io.Combo.Input(
                    "criterion",
                    options=list(CRITERIA),
                    default=CRITERIA[0],
                    tooltip=(
                        "reconstruction error: the final picture as near as possible to the reference. "
                        "score change: every step sees the same change of the predicted noise; no search."
                    ),
                ),
                io.Int.Input(
                    "probe_steps",
                    default=64,
                    min=4,
                    max=256,
                    tooltip="Model calls of the reference run. 64 are fine for up to about 30 steps.",
                ),
                io.Int.Input(
                    "probe_images",
                    display_name="pictures",
                    default=4,
                    min=1,
                    max=64,
                    tooltip=(
                        "Pictures measured at once. More make the schedule serve unseen seeds better; fewer"
                        " need less memory and time."
                    ),
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=SEED_MAX,
                    control_after_generate=False,
                    tooltip="Seed of the measured pictures. You need not sample with it.",
                ),
                io.Int.Input(
                    "refine",
                    default=4,
                    min=0,
                    max=32,
                    tooltip=(
                        "Rounds of refinement, each a true run of steps calls, after those of the four most"
                        " promising starts, the host's schedules among them. 0 trusts the reference run"
                        " alone."
                    ),
                ),
                io.Combo.Input(
                    "sampler_name",
                    options=list(SAMPLERS),
                    default=SAMPLERS[0],
                    optional=True,
                    tooltip=(
                        "The sampler that will use it: DDIM for DDIM Sampler, and for euler and ddim of"
                        " KSamplerSelect; dpmpp_2m, with order 2, for that of KSamplerSelect. A schedule made"
                        " for one does not suit the other."
                    ),
                ),
            ],
            outputs=[
                io.Sigmas.Output(
                    display_name="sigmas", tooltip="steps + 1 noise levels, the last 0, for any sampler."
                ),
                io.String.Output(
                    display_name="text", tooltip="The same levels as text, for DDIM Custom Schedule."
                ),
                io.String.Output(
                    display_name="report",
                    tooltip="The error, predicted and measured, and what the measurement cost.",
                ),
            ],
        )

    @classmethod
    @finite
    def execute(
        cls,
        model,
        positive,
        negative,
        cfg,
        latent_image,
        steps,
        order,
        criterion,
        probe_steps,
        probe_images,
        seed,
        refine,
        sampler_name=SAMPLERS[0],
    ):
        begun = time.perf_counter()
        sigmas, measured = probe.measured_schedule(
            model,
            positive,
            negative,
            cfg,
            latent_image,
            steps,
            seed=seed,
            probe_steps=probe_steps,
            images=probe_images,
            refine=refine,
            order=order,
            sampler_name=sampler_name,
            criterion=criterion,
        )
        text = report(measured, f"{sampler_name} of order {order}", probe_images, time.perf_counter() - begun)
        return io.NodeOutput(sigmas, probe.as_text(sigmas), text, ui=ui.PreviewText(text))


def report(measured, sampler, pictures, seconds):
    """What was found and what it cost, in a few lines."""
    true = "not measured" if measured.measured is None else f"{measured.measured:.4g} measured"
    steps = len(measured.by_steps)
    shown = [k for k in (1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50) if k <= steps]
    table = "  ".join(f"{k}: {measured.by_steps[k - 1]:.3g}" for k in shown)
    return "\n".join(
        [
            f"{steps} steps for {sampler}, found by {measured.source}",
            f"error of the final latent (RMSE to the reference): {true}, {measured.predicted:.4g} predicted",
            f"predicted before refinement, by steps:  {table}",
            (
                f"cost: {measured.calls} model calls of {pictures} picture{'s' if pictures > 1 else ''},"
                f" {seconds:.1f} s"
            ),
        ]
    )


NODES = [DDIMAdaptiveScheduler]
