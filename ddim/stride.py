"""Which timesteps to visit: S of the T rows of a model's own table.

Every function returns a list of S whole timesteps, strictly decreasing, within 0 .. T - 1; S means S model
calls. The names are those of Lin et al. (arXiv 2305.08891, table 2); quadratic is the DDIM paper's
(arXiv 2010.02502, appendix D.2).
"""

from .checks import allowed


def trailing(T: int, S: int) -> list[int]:
    """round(T - i T/S) - 1: starts exactly at T - 1, which few-step models want."""
    return [round(T - i * T / S) - 1 for i in range(S)]


def leading(T: int, S: int) -> list[int]:
    """i (T // S) + 1: diffusers' "leading", the stride of Stable Diffusion's code.

    Where S does not divide T it stops short of the noisiest rows; a few steps start far below them, and S = 1
    visits row 1 alone. The first DDIM code begins at row 0 and takes every (T // S)-th row to the end, so
    that S = 600 runs 1000 steps; here S stays the number of steps.
    """
    return [i * (T // S) + 1 for i in reversed(range(S))]


def linspace(T: int, S: int) -> list[int]:
    """round(linspace(T - 1, 0, S)): both ends of the table."""
    if S == 1:
        return [T - 1]
    return [round(i * (T - 1) / (S - 1)) for i in reversed(range(S))]


def quadratic(T: int, S: int) -> list[int]:
    """floor(linspace(0, sqrt(.8 T), S)^2), the paper's: dense at low noise, from .8 T down."""
    if S == 1:
        return [4 * T // 5]
    return [4 * T * i**2 // (5 * (S - 1) ** 2) for i in reversed(range(S))]  # whole numbers: exact


STRIDES = {"trailing": trailing, "leading": leading, "linspace": linspace, "quadratic": quadratic}


def timesteps(stride: str, T: int, S: int) -> list[int]:
    """S timesteps of the named stride over a table of T rows.

    Where the formula repeats a row or leaves the table (large S), the rows are moved up or down by the least
    that makes them distinct. Raises ValueError for an unknown stride or S outside 1 .. T.
    """
    allowed("stride", stride, STRIDES)
    if not 1 <= S <= T:
        raise ValueError(
            f"steps is {S}; this stride visits rows of a table of {T} timesteps, so 1 to {T} are allowed"
        )
    rising = STRIDES[stride](T, S)[::-1]
    for i in range(1, S):
        rising[i] = max(rising[i], rising[i - 1] + 1)
    rising = [min(t, T - S + i) for i, t in enumerate(rising)]
    return rising[::-1]
