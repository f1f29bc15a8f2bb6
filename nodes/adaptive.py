"""DDIMAdaptiveScheduler."""

import time

from comfy_api.latest import io, ui

from ..ddim.measured.schedule import CRITERIA
from ..ddim.multistep import ADAMS_BASHFORTH
from ..host import guiders, measured_sampler, probe
from .checked import checked
from .inputs import cfg_input, seed_input
from .schema import schema

DISTILLED = 1.1  # a denoiser without guidance gives at most 1 (first_spread), few pictures a little more
LOOKS_DISTILLED = (
    "This model looks distilled: without guidance its first estimates differ more between seeds than its"
    " pictures do. Such a model knows the jumps that it was made for: its own levels, in DDIM Custom"
    " Schedule, may serve it better."
)


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
                "Finds out where a small number of steps is spent best: it measures your own model, prompt"
                " and guidance once, and gives a schedule and a sampler fitted to them. Paste the text"
                " output into DDIM Custom Schedule to use both again without measuring."
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
                cfg_input("The guidance that you will sample with. The best steps depend on it."),
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
                        "score change: every step sees the same change of the predicted noise."
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
                        "Pictures measured at once, of each prompt. More make the result serve unseen seeds"
                        " better; fewer need less memory and time."
                    ),
                ),
                seed_input(
                    "Seed of the measured pictures. You need not sample with it.",
                    control_after_generate=False,
                ),
                io.Int.Input(
                    "refine",
                    default=4,
                    min=0,
                    max=32,
                    tooltip=(
                        "How many trial runs of steps calls to make; four more are added. They try the most"
                        " promising schedules, ComfyUI's among them, fit the coefficients, and run ComfyUI's"
                        " samplers to compare with. 0 makes no trial run: the schedule then comes from the"
                        " reference run alone, without coefficients."
                    ),
                ),
                io.Combo.Input(
                    "sampler_name",
                    options=list(probe.SAMPLERS),
                    default=probe.SAMPLERS[0],
                    optional=True,
                    tooltip=(
                        "The sampler that the schedule is for. measured: this node's sampler output. DDIM:"
                        " DDIM Sampler, and euler and ddim of KSamplerSelect. dpmpp_2m, with order 2: that of"
                        " KSamplerSelect. A schedule made for one does not suit the other. Whatever is"
                        " chosen, the sampler output has coefficients for it."
                    ),
                ),
                *(
                    io.Conditioning.Input(
                        name,
                        optional=True,
                        tooltip=(
                            "One more prompt to measure on, with as many pictures. The result then serves"
                            " new prompts better."
                        ),
                    )
                    for name in ("positive_2", "positive_3", "positive_4")
                ),
                io.Guider.Input(
                    "guider",
                    optional=True,
                    tooltip=(
                        "A guider to measure in place of the model, prompts and cfg above. Only a plain"
                        " CFGGuider lets the coefficients use the difference that guidance makes."
                    ),
                ),
            ],
            outputs=[
                io.Sigmas.Output(
                    display_name="sigmas", tooltip="steps + 1 noise levels, the last 0, for any sampler."
                ),
                io.String.Output(
                    display_name="text",
                    tooltip="The levels and the sampler's coefficients as text, for DDIM Custom Schedule.",
                ),
                io.String.Output(
                    display_name="report",
                    tooltip="What is gained over ComfyUI's samplers, the errors, and what measuring cost.",
                ),
                io.Sampler.Output(
                    display_name="sampler",
                    tooltip=(
                        "DDIM with the measured coefficients, for these sigmas, this model and cfg alone."
                        " Plain DDIM where they gain nothing."
                    ),
                ),
            ],
        )

    @classmethod
    @checked
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
        sampler_name=probe.SAMPLERS[0],
        positive_2=None,
        positive_3=None,
        positive_4=None,
        guider=None,
    ):
        begun = time.perf_counter()
        prompts = [each for each in (positive, positive_2, positive_3, positive_4) if each is not None]
        sigmas, bound, found = probe.measured_schedule(
            model,
            prompts,
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
            guider=guider,
        )
        pictures = f"{probe_images} picture{'s' if probe_images > 1 else ''}"
        if guider is None and len(prompts) > 1:
            pictures += f" of each of {len(prompts)} prompts"
        at = f"at cfg {cfg:g}" if guider is None else f"with {type(guider).__name__}"
        text = report(found, f"{pictures} {at}", time.perf_counter() - begun)
        unguided = cfg == 1 if guider is None else guiders.is_plain(guider) and guider.cfg == 1
        if unguided and found.first_spread > DISTILLED:
            text += f"\n{LOOKS_DISTILLED}"
        if bound is None:
            sampler = probe.plain_sampler(sampler_name, order)
            written = measured_sampler.sigmas_text(sigmas)
        else:
            sampler, written = measured_sampler.as_sampler(bound), measured_sampler.as_text(bound)
        return io.NodeOutput(sigmas, written, text, sampler, ui=ui.PreviewText(text))


def report(found, on, seconds):
    """What was found and what it cost, in a few lines."""
    steps = len(found.by_steps)
    lines = [gain(found, steps), f"schedule: {found.source}; measured on {on}"]
    errors = {"with coefficients, on unseen pictures": found.held_out, "without coefficients": found.plain}
    lines.append(", ".join(f"{how}: {error:.4g}" for how, error in errors.items() if error is not None))
    if found.rivals:
        runs = sorted(found.rivals.items(), key=lambda each: each[1])
        lines.append("ComfyUI's own: " + ", ".join(f"{' '.join(pair)} {error:.4g}" for pair, error in runs))
    shown = [k for k in (1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50) if k <= steps]
    table = "  ".join(f"{k}: {found.by_steps[k - 1]:.3g}" for k in shown)
    return "\n".join(
        [
            *filter(None, lines),
            f"errors of the single jumps, summed, by number of steps:  {table}",
            "errors are RMSE of the final latent to the run of many steps",
            f"cost: {found.calls} model calls, {seconds:.1f} s",
        ]
    )


def gain(found, steps):
    """The first sentence: what the coefficients are worth on pictures that they were not fitted to."""
    if not found.rivals:
        return "Nothing was compared, because refine is 0; the sampler is plain."
    (sampler, schedule), error = min(found.rivals.items(), key=lambda each: each[1])
    best = f"the best tried of ComfyUI's ({sampler}, {schedule})"
    at = f"at {steps} model call{'s' if steps > 1 else ''}"
    if found.coefficients is None:
        return f"The coefficients gain nothing {at}, so the sampler is plain. Compared with {best}."
    if found.held_out is None:
        return f"One picture tells nothing of others: with probe_images 2 the gain over {best} is measured."
    share = 1 - found.held_out / error
    return (
        f"The measured sampler comes {abs(share):.0%} {'nearer to' if share > 0 else 'less near to'} the"
        f" picture of many steps than {best}, {at}."
    )


NODES = [DDIMAdaptiveScheduler]
