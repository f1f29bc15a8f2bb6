"""What handled noise does to pictures, rendered with the shipped model; no caption, for only there does noise decide everything."""

import pytest
import torch
from comfy_extras.nodes_custom_sampler import BasicGuider, Noise_RandomNoise, SamplerCustomAdvanced
from ddim_toolkit.nodes.noise import DDIMLoadNoise, DDIMNoiseInterpolation, DDIMSaveNoise
from ddim_toolkit.nodes.sampling import DDIMSampler
from ddim_toolkit.nodes.schedules import DDIMStrideScheduler
from nodes import LatentFromBatch

EMPTY = {"samples": torch.zeros(1, 4, 16, 16)}
FRAMES = 12


@pytest.fixture(scope="module")
def render(shipped):
    model, clip, vae = shipped

    @torch.inference_mode()
    def pictures(noise, latent, eta=0.0):
        guider = BasicGuider.execute(model, clip.encode_from_tokens_scheduled(clip.tokenize(""))).args[0]
        sampler = DDIMSampler.execute(eta, "posterior", 1, "none", "cpu", 0).args[0]
        sigmas = DDIMStrideScheduler.execute(model, 6, "trailing", 1.0).args[0]
        return vae.decode(SamplerCustomAdvanced.execute(noise, guider, sampler, sigmas, latent).args[0]["samples"])

    return pictures


def morph(first, last, mode="slerp", frames=FRAMES, **more):
    return DDIMNoiseInterpolation.execute(Noise_RandomNoise(first), Noise_RandomNoise(last), EMPTY, frames, mode, **more).args


@pytest.fixture(scope="module")
def slerp_frames(render):
    return render(*morph(1, 2))


def changes(frames):
    """Root mean square change from each frame to the next, and from end to end."""
    steps = (frames[1:] - frames[:-1]).square().mean(dim=(1, 2, 3)).sqrt()
    return steps, (frames[-1] - frames[0]).square().mean().sqrt()


def test_a_morph_is_smooth(slerp_frames):
    steps, whole = changes(slerp_frames)
    assert steps.max() < whole / 3


def test_eta_0_moves_more_smoothly_than_eta_1(render, slerp_frames):
    smooth, _ = changes(slerp_frames)
    jumpy, _ = changes(render(*morph(1, 2), eta=1.0))
    assert smooth.max() < jumpy.min()


def test_the_ends_are_the_pictures_of_the_two_seeds(render, slerp_frames):
    for seed, frame in ((1, slerp_frames[0]), (2, slerp_frames[-1])):
        assert (render(Noise_RandomNoise(seed), EMPTY)[0] - frame).abs().max() < 0.02


def test_one_frame_rendered_alone_is_the_same_picture(render, slerp_frames):
    noise, latent = morph(1, 2)
    alone = render(noise, LatentFromBatch().frombatch(latent, 5, 1)[0])
    assert (alone[0] - slerp_frames[5]).abs().max() < 0.02


def test_near_variations_stay_nearer(render, slerp_frames):
    def distance(strength):
        return (render(*morph(1, 3, "variation", 2, strength=strength)) - slerp_frames[0]).square().mean().sqrt()

    assert distance(0.05) < distance(1.0) / 3


def test_saved_noise_draws_the_same_picture(render, slerp_frames, tmp_path, monkeypatch):
    monkeypatch.setattr("folder_paths.output_directory", str(tmp_path))
    noise = DDIMLoadNoise.execute(DDIMSaveNoise.execute(Noise_RandomNoise(2), EMPTY, "noise").args[0]).args[0]
    assert torch.equal(render(noise, EMPTY), render(Noise_RandomNoise(2), EMPTY))
