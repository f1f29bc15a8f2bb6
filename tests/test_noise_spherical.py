"""The arithmetic of noise: norms, ends, symmetry, composition, and no NaN anywhere."""

import math

import numpy
import pytest
import torch
from ddim_toolkit.ddim import spherical
from hypothesis import given, settings
from hypothesis import strategies as st

small = settings(max_examples=40, deadline=None)
shapes = st.one_of(
    st.tuples(st.integers(1, 4), st.integers(2, 9), st.integers(2, 9)),
    st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(2, 9), st.integers(2, 9)),
)
weights = st.floats(0, 1)


def gaussian(seed, shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


pairs = st.builds(
    lambda seed, shape: (gaussian(seed, shape), gaussian(seed + 1, shape)), st.integers(0, 10**6), shapes
)


@small
@given(pairs, weights)
def test_slerp_is_the_paper_formula_for_equal_norms(pair, w):
    a = pair[0].double().numpy()
    b = pair[1].double().numpy() * numpy.linalg.norm(a) / numpy.linalg.norm(pair[1].double().numpy())
    theta = numpy.arccos(numpy.clip((a * b).sum() / (numpy.linalg.norm(a) * numpy.linalg.norm(b)), -1, 1))
    paper = numpy.sin((1 - w) * theta) / numpy.sin(theta) * a + numpy.sin(w * theta) / numpy.sin(theta) * b
    assert numpy.allclose(
        spherical.slerp(torch.from_numpy(a), torch.from_numpy(b), w).numpy(), paper, atol=1e-6
    )


@small
@given(pairs, weights)
def test_slerp_symmetry_and_norm(pair, w):
    a, b = pair
    point = spherical.slerp(a, b, w)
    assert torch.allclose(point, spherical.slerp(b, a, 1 - w), atol=1e-5)
    assert point.norm().item() == pytest.approx((1 - w) * a.norm().item() + w * b.norm().item(), rel=1e-5)


@small
@given(pairs, weights, weights, weights)
def test_slerp_of_slerps_lies_on_the_same_arc(pair, start, end, w):
    a, b = pair
    twice = spherical.slerp(spherical.slerp(a, b, start), spherical.slerp(a, b, end), w)
    assert torch.allclose(twice, spherical.slerp(a, b, start + w * (end - start)), atol=1e-3)


@pytest.mark.parametrize("between", [spherical.slerp, spherical.lerp])
def test_ends_and_corners_are_bit_identical(between):
    corners = [gaussian(k, (4, 8, 8)) for k in range(4)]
    assert torch.equal(between(*corners[:2], 0), corners[0]) and torch.equal(
        between(*corners[:2], 1), corners[1]
    )
    for corner, (x, y) in zip(corners, [(0, 0), (1, 0), (0, 1), (1, 1)], strict=True):
        assert torch.equal(spherical.grid(*corners, x, y, between), corner)


def test_half_way_slerp_is_a_gaussian_where_linear_falls_to_71_percent():
    a, b = gaussian(1, (4, 64, 64)), gaussian(2, (4, 64, 64))
    radius = math.sqrt(a.numel())
    norms = [spherical.slerp(a, b, w).norm().item() / radius for w in spherical.weights(12)]
    assert max(abs(norm - 1) for norm in norms) < 0.05
    assert spherical.lerp(a, b, 0.5).norm().item() / radius == pytest.approx(math.sqrt(0.5), abs=0.02)


@pytest.mark.parametrize("shape", [(1, 1, 1), (4, 8, 8), (4, 2, 8, 8)])
@pytest.mark.parametrize("factor", [1.0, -1.0, 2.0, -2.0, 0.3, -0.3, 1 + 1e-6, -1 - 1e-6, 0.0])
def test_identical_opposite_and_parallel_noises(shape, factor):
    a = gaussian(3, shape)
    b = a * factor
    for w in spherical.weights(5):
        point = spherical.slerp(a, b, w)
        assert torch.isfinite(point).all()
        assert torch.allclose(point, spherical.slerp(b, a, 1 - w), atol=1e-4)
        if factor > 0:
            assert torch.allclose(point, a * (1 - w + w * factor), atol=1e-5)
    if factor == -1 and a.numel() > 1:
        middle = spherical.slerp(a, b, 0.5)
        assert middle.norm().item() == pytest.approx(a.norm().item(), rel=1e-4)
        assert abs((middle * a).sum().item()) < 1e-2


def test_zero_noises():
    zero = torch.zeros(4, 8, 8)
    assert torch.equal(spherical.slerp(zero, zero, 0.5), zero)
    assert torch.equal(spherical.turn(zero, gaussian(0, (4, 8, 8)), 1.0), zero)


@small
@given(pairs, st.floats(0, math.pi / 2))
def test_turn_is_a_neighbour_at_the_chosen_angle(pair, angle):
    a, b = pair
    neighbour = spherical.turn(a, b, angle)
    assert neighbour.norm().item() == pytest.approx(a.norm().item(), rel=1e-5)
    cosine = (neighbour.double() * a.double()).sum() / (neighbour.double().norm() * a.double().norm())
    assert cosine.item() == pytest.approx(math.cos(angle), abs=1e-5)


@small
@given(pairs, st.floats(-20, 20))
def test_shift_keeps_the_norm_and_the_direction(pair, weight):
    base, plus = pair
    minus = gaussian(12345, base.shape)
    moved = spherical.shift(base, plus, minus, weight)
    assert moved.norm().item() == pytest.approx(base.norm().item(), rel=1e-5)
    wanted = base.double() + weight * (plus.double() - minus.double())
    assert torch.allclose(moved.double() / moved.double().norm(), wanted / wanted.norm(), atol=1e-5)


def test_shift_by_nothing_is_the_base():
    base, other = gaussian(0, (4, 8, 8)), gaussian(1, (4, 8, 8))
    assert torch.equal(spherical.shift(base, other, base, 0), base)
    assert torch.allclose(spherical.shift(base, other, other, 3.0), base, atol=1e-6)


def test_shift_names_noises_that_cancel():
    base = gaussian(0, (4, 8, 8))
    with pytest.raises(ValueError, match="cancel"):
        spherical.shift(base, torch.zeros_like(base), base, 1.0)
    with pytest.raises(ValueError, match="base: the noise is all zeros"):
        spherical.shift(torch.zeros_like(base), base, -base, 1.0)


def test_unit_variance():
    scaled = spherical.unit_variance(gaussian(0, (4, 8, 8)) * 14.6)
    assert scaled.square().mean().item() == pytest.approx(1, rel=1e-6)
    with pytest.raises(ValueError, match="all zeros"):
        spherical.unit_variance(torch.zeros(4, 8, 8))


@pytest.mark.parametrize("easing", ["linear", "smooth"])
@pytest.mark.parametrize("frames", [1, 2, 3, 12, 13])
def test_weights(frames, easing):
    line = spherical.weights(frames, easing)
    assert len(line) == frames and line[0] == 0 and (frames == 1 or line[-1] == 1)
    assert line == sorted(line)
    if frames > 1:
        assert [1 - w for w in reversed(line)] == pytest.approx(line)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtype_is_kept(dtype):
    a, b = gaussian(0, (4, 8, 8)).to(dtype), gaussian(1, (4, 8, 8)).to(dtype)
    assert {
        f.dtype
        for f in (
            spherical.slerp(a, b, 0.5),
            spherical.lerp(a, b, 0.5),
            spherical.turn(a, b, 1.0),
            spherical.shift(a, b, a, 0.5),
        )
    } == {dtype}
