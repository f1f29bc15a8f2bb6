"""DDIMSchedulePlot and DDIMTrajectory: what a schedule does, to look at."""

from comfy_api.latest import io, ui

from ..drawing import schedules
from ..host import film_strip, schedule
from ..host.guiders import cfg_guider
from ..host.model import check_sigmas, model_sampling
from .checked import checked
from .inputs import cfg_input, denoise_input, eta_input, model_input, prompt_inputs, seed_input, stride_input
from .schema import schema


class DDIMSchedulePlot(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="DDIMSchedulePlot",
            display_name="DDIM Schedule Plot",
            search_aliases=["sigmas graph", "curve", "compare schedules"],
            description=(
                "One to four schedules as a picture: the noise level at every step, and where the steps fall"
                " on the model's training timeline."
            ),
            inputs=[
                io.Sigmas.Input("sigmas_a", tooltip="A schedule, from any scheduler."),
                io.Sigmas.Input("sigmas_b", optional=True, tooltip="A second schedule to compare."),
                io.Sigmas.Input("sigmas_c", optional=True, tooltip="A third schedule to compare."),
                io.Sigmas.Input("sigmas_d", optional=True, tooltip="A fourth schedule to compare."),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="Whose timeline is drawn. Without a model it is that of the logarithm of sigma.",
                ),
                io.String.Input(
                    "labels",
                    default="A, B, C, D",
                    optional=True,
                    tooltip="Names of the schedules, with commas between.",
                ),
            ],
            outputs=[io.Image.Output(display_name="image", tooltip="The picture, 1280 x 800.")],
            is_output_node=True,
        )

    @classmethod
    @checked
    def execute(cls, sigmas_a, sigmas_b=None, sigmas_c=None, sigmas_d=None, model=None, labels="A, B, C, D"):
        names = [" ".join(name.split()) for name in labels.split(",")] + ["", "", "", ""]
        given = {"sigmas_a": sigmas_a, "sigmas_b": sigmas_b, "sigmas_c": sigmas_c, "sigmas_d": sigmas_d}
        curves = [
            (name, check(which, sigmas))
            for name, (which, sigmas) in zip(names, given.items(), strict=False)
            if sigmas is not None
        ]
        image = schedules.draw(curves, model and model_sampling(model))
        return io.NodeOutput(image, ui=ui.PreviewImage(image, cls=cls))


def check(which, sigmas):
    try:
        return check_sigmas(sigmas)
    except ValueError as error:
        raise ValueError(f"{which}: {error}") from error


class DDIMTrajectory(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="DDIMTrajectory",
            display_name="DDIM Trajectory",
            search_aliases=["film strip", "x0", "every step"],
            description=(
                "Shows a sampling run as a film strip: the model's guess of the finished picture at every"
                " step, and a table of the numbers of every jump."
            ),
            inputs=[
                model_input(),
                seed_input(),
                io.Int.Input(
                    "steps",
                    default=12,
                    min=1,
                    max=1000,
                    tooltip="Model calls, and pictures of the film strip.",
                ),
                cfg_input("Classifier-free guidance. 1 turns it off."),
                eta_input(),
                stride_input(),
                *prompt_inputs(),
                io.Latent.Input(
                    "latent_image",
                    tooltip=(
                        "An empty latent, or an encoded picture with denoise below 1. Its first picture is"
                        " used."
                    ),
                ),
                denoise_input(),
                io.Sigmas.Input(
                    "sigmas",
                    optional=True,
                    tooltip=(
                        "A schedule of your own. Where it is connected, steps, stride and denoise are not"
                        " used."
                    ),
                ),
                io.Sampler.Input(
                    "sampler",
                    optional=True,
                    tooltip="Any sampler, in DDIM's place; eta is not used then.",
                ),
                io.Guider.Input(
                    "guider",
                    optional=True,
                    tooltip="Any guider, with its own model: cfg and the prompts are not used then.",
                ),
            ],
            outputs=[
                io.Latent.Output(
                    display_name="film_strip",
                    tooltip=(
                        "The model's guess of the picture (x0_hat) at every step, one picture each. Decode it"
                        " with the model's VAE."
                    ),
                ),
                io.Latent.Output(display_name="latent", tooltip="The sampled latent."),
                io.String.Output(
                    display_name="table", tooltip="The numbers of every jump: show it with Preview as Text."
                ),
            ],
        )

    @classmethod
    @checked
    def execute(
        cls,
        model,
        seed,
        steps,
        cfg,
        eta,
        stride,
        positive,
        negative,
        latent_image,
        denoise,
        sigmas=None,
        sampler=None,
        guider=None,
    ):
        note = ""
        if sigmas is None:
            sigmas, visited = schedule.stride_sigmas(model, steps, stride, denoise)
            note = schedule.note_on(model, visited, stride, denoise)
        asked = guider or cfg_guider(model, positive, negative, cfg)
        film, latent, table = film_strip.record(asked, seed, eta, latent_image, sigmas, sampler)
        return io.NodeOutput(film, latent, f"{table}\n{note}" if note else table)


NODES = [DDIMSchedulePlot, DDIMTrajectory]
