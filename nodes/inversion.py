"""DDIMInversion, DDIMInversionAdvanced and DDIMReplayStrength."""

from comfy_api.latest import io, ui

from ..host import guiders, inversion, verdict
from ..host.replay import held_to_the_record
from .checked import checked
from .inputs import SEED_MAX, cfg_input
from .schema import schema


def picture_inputs():
    return [
        io.Latent.Input(
            "latent_image",
            tooltip=(
                "The encoded picture, or a batch; or the state of an inversion over the sigmas below these. A"
                " noise mask inverts what it uncovers; sample with the same mask."
            ),
        ),
        io.Sigmas.Input(
            "sigmas",
            tooltip=(
                "The schedule to sample with afterwards. Stride linspace, whose last step is small, inverts"
                " best. Sigmas that start below the top (SplitSigmas, denoise) invert part of the way, for"
                " gentle edits."
            ),
        ),
    ]


def solver_inputs():
    return [
        io.Combo.Input(
            "method",
            options=list(inversion.METHODS),
            default="exact",
            tooltip=(
                "exact: every step is solved, 2 to 7 model calls each, and the picture comes back. ddim: the"
                " paper's, one call a step, with an error that shrinks like 1 / steps. Not used with eta"
                " above 0."
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
                "0 solves for the noise. Above 0 noisy states are drawn at random, and a noise map is"
                " recorded for each step. Then sample with the replay output: it returns the picture"
                " exactly, and edits it well with another prompt and higher cfg."
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
                "Only for exact: residual at which a step counts as solved, in units of the noisy picture's"
                " strength."
            ),
        ),
        io.Int.Input(
            "max_iterations",
            display_name="iterations",
            default=40,
            min=1,
            max=1000,
            tooltip=(
                "Only for exact: the most model calls that one step may take. A step that needs more goes on"
                " from its best state, and the report says so."
            ),
        ),
        io.Boolean.Input(
            "measure_round_trip",
            display_name="round trip",
            default=False,
            tooltip=(
                "Sample once more from the noise and report how far the picture that comes back is from the"
                " one given."
            ),
        ),
        io.Int.Input(
            "noise_seed",
            default=0,
            min=0,
            max=SEED_MAX,
            control_after_generate=False,
            tooltip=(
                "Seed of everything drawn at random: the states with eta above 0, and the noise under the"
                " covered part of a mask."
            ),
        ),
        io.Int.Input(
            "refine_sigmas",
            display_name="refine",
            optional=True,  # files from before it load without it
            default=0,
            min=0,
            max=1000,
            tooltip=(
                "Only for exact: how many sigmas may be inserted at most where a step cannot be solved,"
                " which happens above cfg 2. Then sample with refined_sigmas."
            ),
        ),
    ]


def outputs():
    return [
        io.Noise.Output(
            display_name="noise",
            tooltip=(
                "For SamplerCustomAdvanced, where RandomNoise would go, with the same sigmas. It fits an"
                " empty latent and the picture's own."
            ),
        ),
        io.Latent.Output(
            display_name="latent",
            tooltip="The numbers of that noise as a latent: to look at, save or edit.",
        ),
        io.Sampler.Output(
            display_name="replay",
            tooltip=(
                "A sampler that starts at the recorded state and adds what each step recorded. Use it with"
                " the same sigmas, or a later part of them (SplitSigmas)."
            ),
        ),
        io.String.Output(
            display_name="report",
            tooltip=(
                "Whether the picture comes back, then model calls, residuals, steps that did not converge,"
                " round trip, and how Gaussian the noise is."
            ),
        ),
        io.Latent.Output(
            display_name="state",
            tooltip=(
                "The picture with noise still in it, at the first of the sigmas. Sample it with DisableNoise"
                " and the same sigmas, or invert it on over the sigmas above them, with another model too."
            ),
        ),
        io.Sigmas.Output(
            display_name="refined_sigmas",
            tooltip="The sigmas that were inverted: those given, and what refine_sigmas inserted.",
        ),
    ]


class DDIMInversion(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="DDIMInversion",
            display_name="DDIM Inversion",
            search_aliases=["unsampler", "unsample", "invert", "noise maps", "edit friendly"],
            advanced=["tolerance", "max_iterations", "noise_seed", "refine_sigmas"],
            has_intermediate_output=True,
            description=(
                "Finds the noise from which sampling returns a picture, on every model type. Sample from it"
                " with the same sigmas to get the picture back, and with a changed prompt to edit it."
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
                *picture_inputs(),
                *solver_inputs(),
            ],
            outputs=outputs(),
        )

    @classmethod
    @checked
    def execute(cls, model, positive, negative, cfg, latent_image, sigmas, **solver):
        return inverted(guiders.cfg_guider(model, positive, negative, cfg), latent_image, sigmas, **solver)


class DDIMInversionAdvanced(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="DDIMInversionAdvanced",
            display_name="DDIM Inversion (Advanced)",
            search_aliases=["unsampler", "invert", "guider", "two experts"],
            advanced=["tolerance", "max_iterations", "noise_seed", "refine_sigmas"],
            has_intermediate_output=True,
            description=(
                "DDIM Inversion with a guider of your own: dual prompts, perpendicular negatives, two"
                " models. To get the picture back, sample with the same guider and sigmas."
            ),
            inputs=[
                io.Guider.Input("guider", tooltip="The guider of the run that returns the picture."),
                *picture_inputs(),
                *solver_inputs(),
            ],
            outputs=outputs(),
        )

    @classmethod
    @checked
    def execute(cls, guider, latent_image, sigmas, **solver):
        return inverted(guider, latent_image, sigmas, **solver)


def inverted(guider, latent_image, sigmas, *, method, eta, tolerance, **others):
    """What both nodes give; named are the values of `solver_inputs`."""
    run = inversion.invert_latent(
        guider, latent_image, sigmas, method=method, eta=eta, tolerance=tolerance, **others
    )
    text = verdict.report(run, tolerance, eta, method)
    values = run.noise, run.latent, run.replay, text, run.state, run.sigmas
    return io.NodeOutput(*values, ui=ui.PreviewText(text))


class DDIMReplayStrength(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="DDIMReplayStrength",
            display_name="DDIM Replay Strength",
            search_aliases=["edit strength", "keep the picture"],
            description=(
                "Sets how closely an edit keeps to its picture. While the edit is sampled, it mixes the"
                " states back in that the inversion recorded. Turning it does not invert again."
            ),
            inputs=[
                io.Sampler.Input("replay", tooltip="The output replay of DDIM Inversion."),
                io.Float.Input(
                    "strength",
                    default=0.05,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    round=0.001,
                    tooltip=(
                        "How far each step is pulled back to the recorded state. 0 leaves the edit free, 1"
                        " returns the picture."
                    ),
                ),
                io.Float.Input(
                    "start",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="The part of the recorded steps after which the pull begins.",
                ),
                io.Float.Input(
                    "end",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip=(
                        "The part of the recorded steps after which the pull ends. The steps after it are"
                        " free."
                    ),
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="White where the picture is to be kept. Without a mask, everywhere.",
                ),
            ],
            outputs=[
                io.Sampler.Output(
                    display_name="held",
                    tooltip="For SamplerCustomAdvanced, with the sigmas of the inversion and another prompt.",
                )
            ],
        )

    @classmethod
    @checked
    def execute(cls, replay, strength, start, end, mask=None):
        return io.NodeOutput(held_to_the_record(replay, strength, start, end, mask))


NODES = [DDIMInversion, DDIMInversionAdvanced, DDIMReplayStrength]
