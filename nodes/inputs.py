"""Inputs that several nodes share."""

from comfy_api.latest import io

from ..ddim.stride import STRIDES
from ..host.sampler import Options

ANY = {io.AnyType.io_type, io.MatchType.io_type}  # what the server hears of a link whose type is open
SEED_MAX = 0xFFFFFFFFFFFFFFFF
ETA_TOOLTIP = (
    "0 is DDIM: no noise is added, the same start gives the same picture. 1 is DDPM: the full noise of the"
    " chosen variance. Between them the noise grows in proportion."
)


def model_input():
    return io.Model.Input("model", tooltip="Any model that ComfyUI samples: eps, v, EDM or flow.")


def prompt_inputs():
    return [
        io.Conditioning.Input("positive", tooltip="What the picture should show."),
        io.Conditioning.Input("negative", tooltip="What guidance steers away from."),
    ]


def seed_input(
    tooltip="Seed of the starting noise and of the noise that eta adds.", control_after_generate=True
):
    return io.Int.Input(
        "seed",
        default=0,
        min=0,
        max=SEED_MAX,
        control_after_generate=control_after_generate,
        tooltip=tooltip,
    )


def cfg_input(tooltip, default=4.0, name="cfg"):
    return io.Float.Input(name, default=default, min=0.0, max=100.0, step=0.1, round=0.01, tooltip=tooltip)


def eta_input():
    return io.Float.Input(
        "eta",
        default=Options.eta,
        min=0.0,
        max=1.0,
        step=0.01,
        round=0.001,
        display_mode=io.NumberDisplay.slider,
        tooltip=ETA_TOOLTIP,
    )


def stride_input():
    return io.Combo.Input(
        "stride",
        options=list(STRIDES),
        default="trailing",
        tooltip=(
            "Which timesteps are visited. trailing starts exactly at the noisiest one: best for few steps."
            " leading is diffusers': with many steps it starts far below that. linspace holds both ends."
            " quadratic, the paper's, spends more steps on detail."
        ),
    )


def denoise_input():
    return io.Float.Input(
        "denoise",
        default=1.0,
        min=0.0,
        max=1.0,
        step=0.01,
        tooltip=(
            "Below 1 the picture is noised only part of the way, and only that part of the timesteps is"
            " used: the lower, the more of the picture is kept. The number of model calls stays the same."
        ),
    )
