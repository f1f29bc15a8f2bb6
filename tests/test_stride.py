"""Strides against numpy's own arithmetic and diffusers; the count of steps is exact for every S."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from ddim_toolkit.ddim.stride import STRIDES, timesteps
from diffusers import DDIMScheduler
from hypothesis import given
from hypothesis import strategies as st

T = 1000
SD = dict(
    num_train_timesteps=T,
    beta_start=0.00085,
    beta_end=0.012,
    beta_schedule="scaled_linear",
    steps_offset=1,
    clip_sample=False,
)


@pytest.mark.parametrize("stride", STRIDES)
def test_every_count_from_1_to_T(stride):
    for S in range(1, T + 1):
        visited = timesteps(stride, T, S)
        assert len(visited) == S and all(t > s for t, s in itertools.pairwise(visited)), S
        assert 0 <= visited[-1] and visited[0] <= T - 1, S


@given(st.sampled_from(list(STRIDES)), st.integers(1, 400), st.data())
def test_any_table(stride, table, data):
    S = data.draw(st.integers(1, table))
    visited = timesteps(stride, table, S)
    assert (
        len(set(visited)) == S
        and visited == sorted(visited, reverse=True)
        and set(visited) <= set(range(table))
    )


@pytest.mark.parametrize("stride", ["trailing", "leading", "linspace"])
@pytest.mark.parametrize("S", [5, 10, 17, 20, 50])
def test_diffusers(stride, S):
    scheduler = DDIMScheduler(**SD, timestep_spacing=stride)
    scheduler.set_timesteps(S)
    assert timesteps(stride, T, S) == scheduler.timesteps.tolist()


@pytest.mark.parametrize("S", [2, 5, 10, 17, 20, 28, 50, 100])
def test_quadratic_is_the_papers(S):
    """seq = linspace(0, sqrt(.8 T), S)^2 cut to whole numbers; rows it names twice (from S = 29 on) move up
    by a few."""
    paper = np.floor(np.linspace(0, np.sqrt(0.8 * T), S) ** 2 + 1e-9)
    moved = np.abs(paper - timesteps("quadratic", T, S)[::-1])
    repeats = S - len(set(paper))
    assert moved.max() <= repeats and (S > 28 or repeats == 0)


def test_quadratic_rounds_down_exactly():
    """Worked out in fractions: at S = 11 the row .8 T (7 / 10)^2 is 392, which floats miss by one."""
    assert timesteps("quadratic", T, 11)[3] == 392
    for S in range(2, T + 1):
        exact = [math.floor(Fraction(4, 5) * T * Fraction(i, S - 1) ** 2) for i in reversed(range(S))]
        assert len(set(exact)) < S or timesteps("quadratic", T, S) == exact


def test_trailing_starts_at_the_top():
    assert all(timesteps("trailing", T, S)[0] == T - 1 for S in range(1, T + 1))


@pytest.mark.parametrize("S", [0, -1, 1001])
def test_counts_outside_the_table(S):
    with pytest.raises(ValueError, match=f"steps is {S}.*1 to 1000"):
        timesteps("trailing", T, S)


def test_unknown_stride():
    with pytest.raises(ValueError, match="'cubic'; allowed are trailing, leading"):
        timesteps("cubic", T, 5)
