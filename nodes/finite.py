"""The one check that every number which a user gives passes."""

import functools
import inspect
import math


def finite(execute):
    """For every node's execute: a float that is NaN or infinite is refused by the name of its input.

    The host's limits do not hold NaN back (no comparison with it is true), nor what comes over a link.
    """
    signature = inspect.signature(execute)

    @functools.wraps(execute)
    def checked(*arguments, **named):
        for name, given in signature.bind(*arguments, **named).arguments.items():
            if isinstance(given, float) and not math.isfinite(given):
                raise ValueError(f"{name} is {given}; it must be a finite number")
        return execute(*arguments, **named)

    return checked
