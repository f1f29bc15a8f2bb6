"""The SAMPLER of measured coefficients (ddim.measured), and the text in which a workflow keeps it."""

import math
import re
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import comfy.model_patcher
import comfy.samplers
import torch
from comfy.model_base import BaseModel

from ..ddim import solve
from ..ddim.checks import number
from ..ddim.measured.coefficients import Coefficients, Measured, in_rows
from .loop import model_calls
from .model import alphas, check_sigmas
from .travel import SamplerFunction, Travels

VERSION = 1  # of the text
HEADER = re.compile(r"coefficients ([0-9]{1,9}) for (\S+ \S+), cfg (\S+), check ([0-9a-f]{8}):")


@dataclass(frozen=True)
class BoundCoefficients(Travels):
    """Coefficients with what they were measured on, and hold for alone: the kind of model (as `kind` says
    it), and the cfg of a plain CFGGuider or the class of another guider."""

    coefficients: Coefficients
    model: str
    cfg: float | str


def kind(base: BaseModel) -> str:
    """The architecture and the prediction of a MODEL's BaseModel, such as "SDXL EPS"."""
    return f"{type(base).__name__} {base.model_type.name}"


def check_kind(bound: BoundCoefficients, base: BaseModel) -> None:
    """Raise ValueError for a model of another kind than the one that was measured."""
    if kind(base) != bound.model:
        raise ValueError(
            f"model: the sampler was measured on {bound.model}, this one is {kind(base)}; measure again with"
            " DDIM Adaptive Scheduler"
        )


class GuidanceHook:
    """x0_cond - x0_uncond of each model call, as the host's post-cfg hook hands it over: it costs no call.

    batch: pictures of a call. A guider may call the hook once for each part of them.
    """

    def __init__(self, batch: int):
        self.batch, self.parts, self.cfg = batch, [], None

    def watched(self, extra_args: dict) -> dict:
        """extra_args of a sampler function, with the hook in the model's options."""
        options = comfy.model_patcher.set_model_options_post_cfg_function(
            dict(extra_args.get("model_options", {})), self._keep
        )
        return extra_args | {"model_options": options}

    def _keep(self, args):
        guided = args["uncond"] is not None and args["cond_scale"] != 1  # else the host leaves one half out
        self.cfg = float(args["cond_scale"]) if guided else 1.0
        if guided:
            self.parts.append(args["cond_denoised"] - args["uncond_denoised"])
        return args["denoised"]

    def __call__(self) -> torch.Tensor:
        parts, self.parts = self.parts, []
        if sum(map(len, parts)) != self.batch:
            raise ValueError(
                "guider: measured coefficients need one guided and one unguided answer for each picture, as"
                f" CFGGuider asks for; this one gave {sum(map(len, parts))} for {self.batch}"
            )
        return parts[0] if len(parts) == 1 else torch.cat(parts)


def as_sampler(bound: BoundCoefficients) -> comfy.samplers.KSAMPLER:
    """SAMPLER of measured coefficients, a plain value that pickles."""
    return comfy.samplers.KSAMPLER(sample_measured, {"bound": bound})


@SamplerFunction
def sample_measured(
    model: comfy.samplers.KSamplerX0Inpaint,
    x: torch.Tensor,
    sigmas: torch.Tensor,
    extra_args: dict | None = None,
    callback: Callable[[dict], None] | None = None,
    disable: bool | None = None,
    *,
    bound: BoundCoefficients,
    eta: float = 0.0,
) -> torch.Tensor:
    """The host's sampler-function signature around `ddim.solve.sample` with measured coefficients.

    Raises ValueError for other sigmas, another kind of model, another cfg or an eta than they were measured
    for.
    """
    guider = model.inner_model
    base = guider.inner_model
    levels = check_sigmas(sigmas, base.model_sampling)
    check_kind(bound, base)
    measured_at = bound.coefficients.sigmas
    if len(levels) != len(measured_at) or not all(map(near, levels, measured_at)):
        raise ValueError(
            f"sigmas: the sampler was measured for {shown(measured_at)}, and fits no others; given"
            f" {shown(levels)}"
        )
    if eta != 0:
        raise ValueError(f"eta is {eta}; measured coefficients know 0 alone")
    guidance = GuidanceHook(len(x))
    solver = Measured(bound.coefficients, guidance)
    watched = guidance.watched({} if extra_args is None else extra_args)
    with model_calls(model, x, sigmas, watched, callback, disable) as (denoise, report):

        def checked(x, i):
            x0 = denoise(x, i)
            here = guidance.cfg if isinstance(bound.cfg, float) else type(guider).__name__
            if i == 0 and here != bound.cfg:
                wanted, given = (f"{cfg:g}" if isinstance(cfg, float) else cfg for cfg in (bound.cfg, here))
                raise ValueError(
                    f"cfg: the sampler was measured at {wanted}; this run's is {given or 'unknown'}. Measure"
                    " again with DDIM Adaptive Scheduler, or set it back"
                )
            return x0

        alpha = alphas(base.model_sampling, levels)
        return solve.sample(checked, x.float(), alpha, levels, solver=solver, callback=report)


def near(a: float, b: float) -> bool:
    """Whether two sigmas are the same but for float32 and six written digits."""
    return math.isclose(a, b, rel_tol=1e-5, abs_tol=1e-9)


def shown(sigmas: Sequence[float]) -> str:
    """For an error message."""
    return f"the {len(sigmas)} sigmas {', '.join(f'{sigma:.4g}' for sigma in sigmas)}"


def sigmas_text(sigmas: torch.Tensor) -> str:
    """SIGMAS as the list that DDIM Custom Schedule reads back exactly: the shortest digits that name each
    float32."""
    return "sigmas: " + ", ".join(str(sigma) for sigma in sigmas.numpy())


def rounded(weights: Iterable[Iterable[float]]) -> tuple[tuple[float, ...], ...]:
    """Weights of six digits, so that the text names them exactly."""
    return tuple(tuple(float(f"{weight:.6g}") for weight in row) for row in weights)


def as_text(bound: BoundCoefficients) -> str:
    """Sigmas, then coefficients, as text; `read` reads it back exactly."""
    c = bound.coefficients
    rows = "\n".join(" ".join(map(repr, row)) for row in c.weights)
    header = f"coefficients {VERSION} for {bound.model}, cfg {bound.cfg}, check {checksum(bound)}:"
    return f"{sigmas_text(torch.tensor(c.sigmas))}\n{header}\n{rows}"


def checksum(bound: BoundCoefficients) -> str:
    """Eight digits that change with every number."""
    c = bound.coefficients
    numbers = repr((bound.model, bound.cfg, torch.tensor(c.sigmas).tolist(), c.weights))
    return f"{zlib.crc32(numbers.encode()):08x}"


def read(text: str, sigmas: torch.Tensor) -> BoundCoefficients:
    """The inverse of `as_text` for the part behind the sigmas, which were read already. Raises ValueError
    that says what is damaged."""
    first, _, rest = text.partition(":")
    header = HEADER.fullmatch(" ".join(first.split()) + ":")
    if header is None:
        raise ValueError(
            f"timesteps: the line {first!r} is damaged; coefficients begin with a line such as"
            " 'coefficients 1 for SDXL EPS, cfg 4.0, check 0123abcd:'"
        )
    version, model, cfg, wanted = header.groups()
    if int(version) != VERSION:
        raise ValueError(
            f"timesteps: coefficients of version {version}; this version of DDIM Toolkit reads {VERSION}"
        )
    try:
        cfg = cfg if cfg.isidentifier() else number(cfg)  # a guider's class, or a number
        guided = cfg != 1 and not isinstance(cfg, str)
        weights = in_rows([number(word) for word in rest.split()], len(sigmas) - 1, guided)
        bound = BoundCoefficients(Coefficients(tuple(sigmas.tolist()), weights, guided), model, cfg)
    except ValueError as error:
        raise ValueError(f"timesteps: the coefficients are damaged: {error}") from error
    if checksum(bound) != wanted:
        raise ValueError(
            "timesteps: the coefficients do not fit their check: a digit of them or of the sigmas above them"
            " was changed or lost. Copy the whole text again, or leave the coefficients out"
        )
    return bound
