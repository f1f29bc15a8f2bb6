"""The one check that everything which a node is given passes, written in a widget or come over a link."""

import functools
import inspect
from numbers import Integral, Real

from torch import Tensor

from ..ddim.checks import allowed, within
from ..host import latents

KINDS = {
    "INT": (Integral, "a whole number"),
    "FLOAT": (Real, "a number"),
    "STRING": (str, "text"),
    "IMAGE": (Tensor, "an IMAGE"),
    "MASK": (Tensor, "a MASK"),
    "SIGMAS": (Tensor, "SIGMAS"),
    "LORA_MODEL": (dict, "a LORA_MODEL"),
    "BOOLEAN": (bool, "true or false"),
    "CONDITIONING": (list, "CONDITIONING"),
}
# What the classes that packs bring for these have in common.
ATTRIBUTES = {
    "MODEL": "get_model_object",
    "CLIP": "tokenize",
    "GUIDER": "model_patcher",
    "NOISE": "generate_noise",
    "SAMPLER": "sample",
}


def checked(execute):
    """For every node's execute, and what of it runs earlier: an input of another kind than its schema says, a
    number outside its widget's range and a damaged LATENT are refused by name, before anything else is looked
    at.

    The host looks at what is written in a widget alone, and lets NaN through there. The functions of host/
    check their own numbers beside, for scripts that call them.
    """
    signature = inspect.signature(execute)
    absent = {name for name, each in signature.parameters.items() if each.default is None}

    @functools.wraps(execute)
    def run(*arguments, **named):
        bound = signature.bind(*arguments, **named)
        given = bound.arguments | bound.kwargs
        for wanted in given["cls"].define_schema().inputs:
            if wanted.id in given and not (wanted.id in absent and given[wanted.id] is None):
                check(wanted, given[wanted.id])
        return execute(*arguments, **named)

    return run


def check(wanted, given):
    """Raise ValueError unless `given` is what the input `wanted` of a schema takes."""
    kind, said = KINDS.get(wanted.io_type, (object, ""))
    if not isinstance(given, kind) or (isinstance(given, bool) and wanted.io_type in ("INT", "FLOAT")):
        raise ValueError(f"{wanted.id} is {given!r:.60}; it must be {said}")
    if not hasattr(given, ATTRIBUTES.get(wanted.io_type, "__class__")):
        raise ValueError(f"{wanted.id} is {given!r:.60}; it must be {wanted.io_type}")
    if kind in (Integral, Real):
        within(wanted.id, given, wanted.min, wanted.max)
    if wanted.io_type == "COMBO" and not isinstance(given, str):
        allowed(wanted.id, given, wanted.options)
    if wanted.io_type == "LATENT":
        latents.check_form(given, wanted.id)
