"""Noise of single pictures: the host's own at the start, independent of the batch, never shared by
accident."""

import comfy.model_management
import comfy.nested_tensor
import comfy.sample
import numpy
import pytest
import torch
from ddim_toolkit.host.noise import batch_noise, image_noise, latent_noise
from hypothesis import given, settings
from hypothesis import strategies as st

seeds = st.integers(0, 2**64 - 1)
shapes = st.one_of(
    st.tuples(st.integers(1, 5), st.integers(1, 6), st.integers(1, 6)),
    st.tuples(st.integers(1, 5), st.integers(1, 3), st.integers(1, 6), st.integers(1, 6)),
)
small = settings(max_examples=25, deadline=None)


@small
@given(seeds, shapes)
def test_single_picture_is_the_host_own_noise(seed, shape):
    ours = latent_noise({"samples": torch.zeros(1, *shape)}, seed)
    assert torch.equal(ours, comfy.sample.prepare_noise(torch.zeros(1, *shape), seed))


@pytest.mark.parametrize("shape", [(8, 4, 8, 8), (3, 16, 3, 4, 4)])
def test_batch_is_the_host_own_noise(shape):
    assert torch.equal(
        latent_noise({"samples": torch.zeros(shape)}, 11), comfy.sample.prepare_noise(torch.zeros(shape), 11)
    )


def test_batch_index_as_the_host():
    latent = {"samples": torch.zeros(3, 4, 5, 5), "batch_index": [7, 2, 2]}
    assert torch.equal(latent_noise(latent, 5), comfy.sample.prepare_noise(latent["samples"], 5, [7, 2, 2]))


@pytest.mark.parametrize("stream", [0, 1])
def test_a_seed_of_numpy_is_its_number(stream):
    """Other packs draw seeds with it."""
    latent = {"samples": torch.zeros(1, 4, 5, 5)}
    ours, plain = (latent_noise(latent, seed, stream=stream) for seed in (numpy.int64(5), 5))
    assert torch.equal(ours, plain)


def test_nested_picture_as_the_host():
    video_with_sound = comfy.nested_tensor.NestedTensor([torch.zeros(1, 4, 2, 8, 8), torch.zeros(1, 8, 50)])
    ours, host = (
        latent_noise({"samples": video_with_sound}, 7),
        comfy.sample.prepare_noise(video_with_sound, 7),
    )
    assert all(torch.equal(a, b) for a, b in zip(ours.unbind(), host.unbind(), strict=True))


@small
@given(seeds, shapes, st.lists(st.integers(0, 12), min_size=1, max_size=6), st.integers(0, 3))
def test_a_picture_does_not_depend_on_its_batch(seed, shape, indices, stream):
    together = batch_noise(seed, indices, shape, stream=stream)
    for noise, index in zip(together, indices, strict=True):
        assert torch.equal(noise, image_noise(seed, index, shape, stream=stream))


def test_nested_pictures_do_not_depend_on_their_batch():
    def draw(indices):
        samples = comfy.nested_tensor.NestedTensor(
            [torch.zeros(len(indices), 4, 5, 5), torch.zeros(len(indices), 3, 7)]
        )
        return latent_noise({"samples": samples, "batch_index": indices}, 3).unbind()

    assert all(torch.equal(a[2:3], b) for a, b in zip(draw([0, 1, 2, 3]), draw([2]), strict=True))


def test_seeds_indices_and_streams_are_unrelated():
    """Neighbouring seeds, pictures and steps: 216 noises, no two alike, correlations those of chance."""
    noises = torch.stack(
        [
            image_noise(seed, index, (4, 16, 16), stream=stream).flatten()
            for seed in range(6)
            for index in range(6)
            for stream in range(6)
        ]
    )
    correlation = torch.corrcoef(noises).fill_diagonal_(0).abs().max().item()
    assert correlation < 5.5 / noises.shape[1] ** 0.5  # 5.5 sigma; 23,220 pairs
    assert noises.mean().abs() < 0.01 and (noises.std() - 1).abs() < 0.01


def test_dtype_only_rounds():
    assert torch.equal(image_noise(1, 2, (4, 8, 8), torch.float16), image_noise(1, 2, (4, 8, 8)).half())
    assert latent_noise({"samples": torch.zeros(1, 4, 8, 8, dtype=torch.bfloat16)}, 1).dtype == torch.bfloat16


def test_the_global_generator_is_left_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    batch_noise(5, range(3), (4, 8, 8), stream=1)
    latent_noise({"samples": torch.zeros(2, 4, 8, 8)}, 9)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("indices", [[0], [0, 1, 2], [0, -1]])
def test_a_wrong_batch_index_is_named(indices):
    with pytest.raises(ValueError, match="batch_index"):
        latent_noise({"samples": torch.zeros(2, 4, 8, 8), "batch_index": indices}, 0)


def test_drawing_can_be_cancelled():
    """The noise of picture k is drawn after all before it, which may be many."""
    comfy.model_management.interrupt_current_processing(True)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        latent_noise({"samples": torch.zeros(1, 4, 8, 8), "batch_index": [10**12]}, 0)
