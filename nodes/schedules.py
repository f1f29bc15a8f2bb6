"""DDIMStrideScheduler and DDIMCustomSchedule."""

from comfy_api.latest import io

from ..host import measured_sampler, page, schedule
from ..host.sampler import ddim_sampler
from .checked import checked
from .inputs import denoise_input, stride_input
from .schema import schema


class DDIMStrideScheduler(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="DDIMStrideScheduler",
            display_name="DDIM Stride Scheduler",
            search_aliases=["timesteps", "spacing", "trailing", "ddim_uniform"],
            description=(
                "DDIM's own schedules as SIGMAS for any sampler. The stride chooses which of the model's"
                " timesteps are visited. Steps are model calls, exactly."
            ),
            inputs=[
                io.Model.Input("model", tooltip="The model whose table of noise levels is visited."),
                io.Int.Input("steps", default=20, min=1, max=10000, tooltip="Number of model calls."),
                stride_input(),
                denoise_input(),
            ],
            outputs=[
                io.Sigmas.Output(display_name="sigmas", tooltip="steps + 1 noise levels, the last 0."),
                io.String.Output(
                    display_name="timesteps",
                    tooltip=(
                        "The visited timesteps as text, for DDIM Custom Schedule, with a remark where they"
                        " start low."
                    ),
                ),
            ],
        )

    @classmethod
    @checked
    def execute(cls, model, steps, stride, denoise):
        sigmas, visited = schedule.stride_sigmas(model, steps, stride, denoise)
        note = schedule.note_on(model, visited, stride, denoise)
        text = ", ".join(map(str, visited)) + (f"\n# {note}" if note else "")
        page.tell_sigmas(model, sigmas, note)
        return io.NodeOutput(sigmas, text)


class DDIMCustomSchedule(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="DDIMCustomSchedule",
            display_name="DDIM Custom Schedule",
            search_aliases=["manual sigmas", "timesteps", "align your steps", "sigmas from text"],
            description=(
                "Turns a list that you write into SIGMAS: timesteps, noise levels after 'sigmas:', or the"
                " name of a distilled model's own list. The closing 0 is added. With the text of DDIM"
                " Adaptive Scheduler it also gives the measured sampler."
            ),
            inputs=[
                io.Model.Input("model", tooltip="The model whose table of noise levels the timesteps index."),
                io.String.Input(
                    "timesteps",
                    default="999, 899, 799, 699, 599, 499, 399, 299, 199, 99",
                    multiline=True,
                    tooltip=(
                        "Whole timesteps, falling, such as 999, 749, 499, 249; with fractions, such as 937.5,"
                        " 833.33, 625, the times that the network is told; or noise levels, such as sigmas:"
                        " 14.6, 5.0, 1.2; or a name: LCM, TCD, SDXL-Turbo, Lightning 4, Lightning 8, Hyper-SD"
                        " 1, 4 or 8, FLUX.2-turbo, LightX2V Wan. What follows # on a line is a remark."
                    ),
                ),
            ],
            outputs=[
                io.Sigmas.Output(display_name="sigmas", tooltip="The noise levels of the list, the last 0."),
                io.Sampler.Output(
                    display_name="sampler",
                    tooltip=(
                        "The measured sampler, where the text holds its coefficients, for these sigmas, that"
                        " model and cfg alone; else plain DDIM."
                    ),
                ),
            ],
        )

    @classmethod
    @checked
    def execute(cls, model, timesteps):
        sigmas = schedule.custom_sigmas(model, timesteps)
        page.tell_sigmas(model, sigmas)
        coefficients = schedule.split(timesteps)[1]
        if not coefficients:
            return io.NodeOutput(sigmas, ddim_sampler())
        bound = measured_sampler.read(coefficients, sigmas)
        measured_sampler.check_kind(bound, model.model)
        return io.NodeOutput(sigmas, measured_sampler.as_sampler(bound))


NODES = [DDIMStrideScheduler, DDIMCustomSchedule]
