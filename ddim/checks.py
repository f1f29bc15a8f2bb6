"""Bad input, said in one way: which input, what was given, what is allowed."""

import math
from collections.abc import Iterable
from typing import Any


def allowed(name: str, given: Any, options: Iterable) -> None:
    """Raise ValueError unless given is one of options."""
    options = list(options)
    if given not in options:
        raise ValueError(f"{name} is {given!r}; allowed are {', '.join(map(str, options))}")


def within(name: str, given: float, low: float, high: float = math.inf) -> None:
    """Raise ValueError unless low <= given <= high; NaN and infinity never pass."""
    if not (low <= given <= high and math.isfinite(given)):
        wanted = f"at least {low}" if math.isinf(high) else f"{low} to {high}"
        raise ValueError(f"{name} is {given}; allowed are {wanted}")
