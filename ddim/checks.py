"""Bad input, said in one way: which input, what was given, what is allowed."""

import math
from collections.abc import Iterable
from typing import Any


def allowed(name: str, given: Any, options: Iterable) -> None:
    """Raise ValueError unless given is one of options."""
    options = list(options)
    if given not in options:
        raise ValueError(f"{name} is {given!r}; allowed are {', '.join(map(str, options))}")


def number(word: str, kind: type = float) -> float:
    """The finite number that a word writes. Raises ValueError, also for what Python alone takes for one: 1_0,
    and digits of other scripts."""
    value = kind(word)
    if "_" in word or not word.isascii() or not -math.inf < value < math.inf:
        raise ValueError(f"{word!r} is not a finite number")
    return value


def within(name: str, given: float, low: float, high: float = math.inf) -> None:
    """Raise ValueError unless low <= given <= high; NaN and infinity never pass."""
    if not low <= given <= high or given == math.inf:
        wanted = f"at least {low}" if high == math.inf else f"{low} to {high}"
        raise ValueError(f"{name} is {given}; allowed are {wanted}")
