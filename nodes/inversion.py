"""DDIMInversion."""

from comfy_api.latest import io, ui

from ..host import inversion
from .finite import finite
from .inputs import SEED_MAX, cfg_input
from .schema import schema


class DDIMInversion(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="DDIMInversion",
            display_name="DDIM Inversion",
            search_aliases=["unsampler", "unsample", "invert", "noise maps", "edit friendly"],
            advanced=["tolerance", "max_iterations", "noise_seed"],
            has_intermediate_output=True,
            description=(
                "Find the noise from which sampling returns a picture, on every model type. Sample from it"
                " with the same sigmas for the same picture, with a changed prompt for an edited one."
            ),
            inputs=[
                io.Model.Input("model", tooltip="The model that will sample from the noise."),
                io.Conditioning.Input("positive", tooltip="What the picture shows: its own caption."),
                io.Conditioning.Input("negative", tooltip="Only used where cfg is not 1."),
                cfg_input(
                    (
                        "Guidance of the run that returns the picture. Keep it at 1: above about 2 the steps"
                        " become hard to invert, the more so the fewer they are."
                    ),
                    default=1.0,
                ),
                io.Latent.Input(
                    "latent_image",
                    tooltip=(
                        "The encoded picture, or a batch. A noise mask inverts what it uncovers; sample with"
                        " the same mask."
                    ),
                ),
                io.Sigmas.Input(
                    "sigmas",
                    tooltip=(
                        "The schedule to sample with afterwards. Stride linspace, whose last step is small,"
                        " inverts best. Sigmas that start below the top (SplitSigmas, denoise) invert part of"
                        " the way, for gentle edits."
                    ),
                ),
                io.Combo.Input(
                    "method",
                    options=list(inversion.METHODS),
                    default="exact",
                    tooltip=(
                        "exact: every step is solved, 2 to 4 model calls each, and the picture comes back."
                        " ddim: the paper's, one call a step, with an error that shrinks like 1 / steps. Not"
                        " used with eta above 0."
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
                        "0 solves for the noise. Above 0 the states are drawn and a noise map is recorded for"
                        " each step: use the replay sampler, which returns the picture exactly, and edits it"
                        " well with another prompt and higher cfg."
                    ),
                ),
                io.Float.Input(
                    "tolerance",
                    default=1e-5,
                    min=1e-8,
                    max=0.1,
                    step=1e-6,
                    round=False,
                    tooltip=(
                        "Only for exact: residual at which a step counts as solved, in units of the noisy"
                        " picture's strength."
                    ),
                ),
                io.Int.Input(
                    "max_iterations",
                    default=40,
                    min=1,
                    max=1000,
                    tooltip=(
                        "Only for exact: most model calls for one step. A step that needs more goes on from"
                        " its best state, and the report says so."
                    ),
                ),
                io.Boolean.Input(
                    "measure_round_trip",
                    default=False,
                    tooltip=(
                        "Sample once more from the noise and report how far the picture that comes back is"
                        " from the one given."
                    ),
                ),
                io.Int.Input(
                    "noise_seed",
                    default=0,
                    min=0,
                    max=SEED_MAX,
                    control_after_generate=False,
                    tooltip=(
                        "Seed of what is drawn: the states with eta above 0, and the noise under the covered"
                        " part of a mask."
                    ),
                ),
            ],
            outputs=[
                io.Noise.Output(
                    display_name="noise",
                    tooltip=(
                        "For SamplerCustomAdvanced, where RandomNoise would go, with the same sigmas. It fits"
                        " an empty latent and the picture's own."
                    ),
                ),
                io.Latent.Output(
                    display_name="latent",
                    tooltip="The numbers of that noise as a latent: to look at, save or edit.",
                ),
                io.Sampler.Output(
                    display_name="replay",
                    tooltip=(
                        "Starts at the recorded state of its first sigma and adds what each step recorded."
                        " The same sigmas, or a later part of them (SplitSigmas)."
                    ),
                ),
                io.String.Output(
                    display_name="report",
                    tooltip=(
                        "Model calls, residuals, steps that did not converge, round trip, and how Gaussian"
                        " the noise is."
                    ),
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
        sigmas,
        method,
        eta,
        tolerance,
        max_iterations,
        measure_round_trip=False,
        noise_seed=0,
    ):
        found = inversion.invert_latent(
            model,
            positive,
            negative,
            cfg,
            latent_image,
            sigmas,
            method,
            eta,
            tolerance,
            max_iterations,
            noise_seed,
            measure_round_trip,
        )
        text = inversion.report(found, tolerance, eta, method)
        return io.NodeOutput(found.noise, found.latent, found.replay, text, ui=ui.PreviewText(text))


NODES = [DDIMInversion]
