"""Which timesteps to visit: S of the T rows of a model's own table.

Every function returns a list of S whole timesteps, strictly decreasing, within 0 .. T - 1; S means S model
calls. The names are those of Lin et al. (arXiv 2305.08891, table 2); quadratic is the DDIM paper's
(arXiv 2010.02502, appendix D.2).
"""

from math import floor


def trailing(T, S):
    """round(T - i T/S) - 1: starts exactly at T - 1, which few-step models want."""
    return [round(T - i * T / S) - 1 for i in range(S)]


def leading(T, S, offset=1):
    """i (T // S) + offset: the stride of the first DDIM and Stable Diffusion code."""
    return [i * (T // S) + offset for i in reversed(range(S))]


def linspace(T, S):
    """round(linspace(T - 1, 0, S)): both ends of the table."""
    if S == 1:
        return [T - 1]
    return [round(i * (T - 1) / (S - 1)) for i in reversed(range(S))]


def quadratic(T, S, power=2.0, top=0.8):
    """floor(linspace(0, (top T)^(1/power), S)^power): dense at low noise; the paper's at power 2, top .8."""
    if S == 1:
        return [floor(top * T)]
    # (end i / (S-1))^power with end = (top T)^(1/power), written so that the last row is exactly top T.
    return [floor(top * T * (i / (S - 1)) ** power) for i in reversed(range(S))]


STRIDES = {"trailing": trailing, "leading": leading, "linspace": linspace, "quadratic": quadratic}


def timesteps(stride, T, S):
    """S timesteps of the named stride over a table of T rows.

    Where the formula repeats a row or leaves the table (large S), the rows are moved up or down by the least
    that makes them distinct. Raises ValueError for an unknown stride or S outside 1 .. T.
    """
    if stride not in STRIDES:
        raise ValueError(f"stride is {stride!r}; allowed are {', '.join(STRIDES)}")
    if not 1 <= S <= T:
        raise ValueError(
            f"steps is {S}; this stride visits rows of a table of {T} timesteps, so 1 to {T} are allowed"
        )
    rising = STRIDES[stride](T, S)[::-1]
    for i in range(1, S):
        rising[i] = max(rising[i], rising[i - 1] + 1)
    rising = [min(t, T - S + i) for i, t in enumerate(rising)]
    return rising[::-1]
