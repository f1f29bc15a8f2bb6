"""Noise maps: recorded by an inversion at eta > 0, replayed exactly."""

import itertools
import pickle

import comfy.sample
import pytest
import torch
from comfy.model_base import ModelType
from ddim_toolkit.bench import analytic
from helpers import KINDS, rmse
from test_inversion import C, found, mixture, sample, sigmas_of


@pytest.mark.parametrize("eta", [0.01, 0.5, 1.0])
@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.name)
def test_noise_maps_replay(kind, eta):
    model, pictures = mixture(kind)
    sigmas = sigmas_of(model, 20)
    result = found(model, pictures, sigmas, eta=eta, measure_round_trip=True)
    assert result.run.calls == 20 and result.round_trip < 1e-5
    replay = pickle.loads(pickle.dumps(result.replay))
    assert rmse(sample(model, result.noise, torch.zeros_like(pictures), sigmas, replay), pictures) < 1e-5
    later = sigmas[8:]  # the low part of SplitSigmas
    assert rmse(sample(model, result.noise, pictures, later, replay), pictures) < 1e-5


def test_replays_outlive_a_callback_that_writes():
    """The host hands its state to the callbacks of other packs; on the CPU it was the recorded one."""
    model, pictures = mixture()
    sigmas = sigmas_of(model, 6)
    result = found(model, pictures, sigmas, eta=1.0)
    arguments = (model, torch.zeros_like(pictures), 1.0, result.replay, sigmas, C, C, pictures)
    first = comfy.sample.sample_custom(*arguments, disable_pbar=True)
    comfy.sample.sample_custom(*arguments, callback=lambda i, x0, x, n: x.mul_(2), disable_pbar=True)
    assert torch.equal(comfy.sample.sample_custom(*arguments, disable_pbar=True), first)


def test_a_replay_is_for_the_kind_of_model_that_was_recorded():
    flow, pictures = mixture(ModelType.FLOW)
    sigmas = sigmas_of(flow, 6)
    replay = found(flow, pictures, sigmas, eta=1.0).replay
    eps, _ = mixture(ModelType.EPS)
    with pytest.raises(ValueError, match="model: the replay sampler was recorded on another kind of model"):
        comfy.sample.sample_custom(eps, pictures, 1.0, replay, sigmas, C, C, pictures, disable_pbar=True)


def test_noise_maps_are_drawn_from_the_marginals():
    model, pictures = mixture(shape=(4, 64, 64), batch=1)
    states = found(model, pictures, sigmas_of(model, 5), eta=1.0).run.states
    sigmas = sigmas_of(model, 5).tolist()
    noises = [(x - pictures) / sigma for x, sigma in zip(states[:-1], sigmas[:-1], strict=True)]
    assert all(abs(noise.std().item() - 1) < 0.03 for noise in noises)
    assert all(abs((a * b).mean().item()) < 0.03 for a, b in itertools.pairwise(noises))


def test_editing_with_noise_maps_goes_towards_the_other_prompt():
    """Inverted with one mixture as model A, replayed with another as B: the picture lands on B's mode."""
    model, _ = mixture()
    means = analytic.four_modes()
    a, b = analytic.model(means=means[:1], deviation=0.5), analytic.model(means=means[1:2], deviation=0.5)
    picture = means[:1] + 0.1
    sigmas = sigmas_of(a, 20)
    result = found(a, picture, sigmas, eta=1.0)
    edited = sample(b, result.noise, picture, sigmas, result.replay)
    gentle = sample(b, result.noise, picture, sigmas[12:], result.replay)
    before, after, half = (rmse(x, means[1:2]) for x in (picture, edited, gentle))
    assert after < 0.5 * before and after < half < before


def test_replay_refuses_other_sigmas_and_sizes():
    model, pictures = mixture()
    sigmas = sigmas_of(model, 10)
    result = found(model, pictures, sigmas, eta=1.0)
    with pytest.raises(ValueError, match="sigmas"):
        sample(model, result.noise, pictures, sigmas_of(model, 9), result.replay)
    with pytest.raises(ValueError, match="shape"):
        comfy.sample.sample_custom(
            model, pictures[:2], 1.0, result.replay, sigmas, C, C, pictures[:2], disable_pbar=True
        )
