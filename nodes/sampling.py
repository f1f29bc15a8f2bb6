"""DDIMSampler and DDIMKSampler."""

from comfy_api.latest import io

from ..ddim.multistep import ADAMS_BASHFORTH
from ..ddim.solve import CLIPS
from ..host import page, sampler, schedule
from ..host.sampler import NOISE_DEVICES, VARIANCES, Options
from .checked import checked
from .inputs import cfg_input, denoise_input, eta_input, model_input, prompt_inputs, seed_input, stride_input
from .schema import schema


class DDIMSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="DDIMSampler",
            display_name="DDIM Sampler",
            search_aliases=["eta", "ddpm", "lcm", "plms", "ancestral", "stochastic"],
            advanced=["clip", "noise_device", "noise_seed", "clip_range"],
            description=(
                "The DDIM family as a SAMPLER for SamplerCustom and SamplerCustomAdvanced, on every model"
                " type. Use it with any SIGMAS; DDIM's own come from DDIM Stride Scheduler."
            ),
            inputs=[
                eta_input(),
                io.Combo.Input(
                    "variance",
                    options=list(VARIANCES),
                    default=Options.variance,
                    tooltip=(
                        "The noise that eta 1 stands for. posterior: DDPM's own. large: the DDIM paper's"
                        " sigma-hat. full renoise: all noise is fresh at every step (multistep consistency"
                        " sampling, LCM; between 0 and 1 CTM's gamma-sampling). trajectory: eta is TCD's"
                        " gamma, a jump further down and noise up again."
                    ),
                ),
                io.Int.Input(
                    "order",
                    default=Options.order,
                    min=1,
                    max=max(ADAMS_BASHFORTH),
                    tooltip=(
                        "1 is DDIM. 2 to 4 combine the last slopes (PLMS): often closer to the exact "
                        "solution at 10 and more steps, at no further model call. Best with eta 0."
                    ),
                ),
                io.Combo.Input(
                    "clip",
                    options=list(CLIPS),
                    default=Options.clip,
                    tooltip=(
                        "Limit the predicted image at each step. clamp: to plus and minus clip_range."
                        " dynamic: each picture at its 99.5 % quantile, then scaled to clip_range (Imagen)."
                        " Helps pixel models and high cfg."
                    ),
                ),
                io.Combo.Input(
                    "noise_device",
                    options=list(NOISE_DEVICES),
                    default=Options.noise_device,
                    tooltip=(
                        "Where the noise for eta above 0 is drawn. cpu gives the same picture on every"
                        " machine."
                    ),
                ),
                io.Int.Input(
                    "noise_seed",
                    default=Options.noise_seed,
                    min=0,
                    max=0xFFFFFFFF,
                    control_after_generate=False,
                    tooltip=(
                        "Another number draws other eta noise for the same starting noise. The seed of the"
                        " run counts too."
                    ),
                ),
                io.Float.Input(
                    "clip_range",
                    default=Options.clip_range,
                    min=0.01,
                    max=1000.0,
                    step=0.1,
                    tooltip=(
                        "The limit for clip. About 4 suits latents in the model's own scale, 1 suits pixel"
                        " models."
                    ),
                ),
                io.Latent.Input(
                    "latent_image",
                    optional=True,
                    tooltip=(
                        "Only needed with eta above 0 for pictures taken out of a batch (LatentFromBatch)."
                        " It gives each the noise of its place in that batch."
                    ),
                ),
                io.Float.Input(
                    "eta_start",
                    default=Options.eta_start,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    round=0.001,
                    optional=True,
                    tooltip="The part of the run after which eta adds noise. 0 is the start of the run.",
                ),
                io.Float.Input(
                    "eta_end",
                    default=Options.eta_end,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    round=0.001,
                    optional=True,
                    tooltip="The part of the run up to which eta adds noise. 1 is the end of the run.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Where eta works: white has all of it, black none (DDIM), grey a part.",
                ),
            ],
            outputs=[
                io.Sampler.Output(
                    display_name="sampler", tooltip="Plug it into SamplerCustom or SamplerCustomAdvanced."
                )
            ],
        )

    @classmethod
    @checked
    def execute(
        cls,
        eta,
        variance,
        order,
        clip,
        noise_device,
        noise_seed,
        clip_range=Options.clip_range,
        latent_image=None,
        eta_start=Options.eta_start,
        eta_end=Options.eta_end,
        mask=None,
    ):
        batch_index = latent_image and latent_image.get("batch_index")
        return io.NodeOutput(
            sampler.ddim_sampler(
                eta=eta,
                variance=variance,
                order=order,
                clip=clip,
                clip_range=clip_range,
                noise_device=noise_device,
                noise_seed=noise_seed,
                batch_index=batch_index,
                eta_start=eta_start,
                eta_end=eta_end,
                mask=mask,
            )
        )


class DDIMKSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="DDIMKSampler",
            display_name="DDIM KSampler",
            search_aliases=["eta", "ddpm", "draft"],
            description=(
                "Samples with DDIM in one node. It starts from the noise that KSampler draws for the same"
                " seed, so a draft here and a final there show the same composition."
            ),
            inputs=[
                model_input(),
                seed_input(),
                io.Int.Input(
                    "steps",
                    default=12,
                    min=1,
                    max=10000,
                    tooltip=(
                        "Model calls, exactly. 8 to 15 make a draft; 50 come close to the best that DDIM"
                        " gives."
                    ),
                ),
                cfg_input("Classifier-free guidance. 1 turns it off and halves the work."),
                eta_input(),
                stride_input(),
                *prompt_inputs(),
                io.Latent.Input(
                    "latent_image", tooltip="An empty latent, or an encoded picture with denoise below 1."
                ),
                denoise_input(),
            ],
            outputs=[
                io.Latent.Output(display_name="latent", tooltip="The sampled latent."),
                io.Latent.Output(
                    display_name="denoised", tooltip="The model's last estimate of the clean latent."
                ),
            ],
        )

    @classmethod
    @checked
    def execute(cls, model, seed, steps, cfg, eta, stride, positive, negative, latent_image, denoise):
        sigmas, visited = schedule.stride_sigmas(model, steps, stride, denoise)
        if len(sigmas) == 0:  # denoise 0 leaves the picture alone, as the host does
            return io.NodeOutput(latent_image, latent_image)
        ddim = sampler.ddim_sampler(eta=eta, batch_index=latent_image.get("batch_index"))
        sampled = sampler.run(model, seed, cfg, positive, negative, latent_image, ddim, sigmas)
        note = schedule.note_on(model, visited, stride, denoise)
        page.tell_sigmas(model, sigmas, note)
        return io.NodeOutput(*sampled)


NODES = [DDIMSampler, DDIMKSampler]
