"""What handled noise does to pictures, rendered with the shipped model; without a caption, where noise
decides everything, or with a short one."""

import pytest
import torch
from comfy_extras.nodes_custom_sampler import BasicGuider, Noise_RandomNoise, SamplerCustomAdvanced
from ddim_toolkit.demo import pictures
from ddim_toolkit.nodes.inversion import DDIMInversion
from ddim_toolkit.nodes.noise import DDIMNoiseInterpolation
from ddim_toolkit.nodes.noise_files import DDIMLoadNoise, DDIMSaveNoise
from ddim_toolkit.nodes.sampling import DDIMSampler
from ddim_toolkit.nodes.schedules import DDIMStrideScheduler
from helpers import empty

from nodes import LatentFromBatch

EMPTY = empty(16)
FRAMES = 12


@pytest.fixture(scope="module")
def render(shipped):
    model, clip, vae = shipped

    @torch.inference_mode()
    def draw(noise, latent, eta=0.0, caption=""):
        guider = BasicGuider.execute(model, clip.encode_from_tokens_scheduled(clip.tokenize(caption))).args[0]
        sampler = DDIMSampler.execute(eta, "posterior", 1, "none", "cpu", 0).args[0]
        sigmas = DDIMStrideScheduler.execute(model, 6, "trailing", 1.0).args[0]
        return vae.decode(
            SamplerCustomAdvanced.execute(noise, guider, sampler, sigmas, latent).args[0]["samples"]
        )

    return draw


def morph(first, last, mode="slerp", frames=FRAMES, **more):
    return DDIMNoiseInterpolation.execute(
        Noise_RandomNoise(first), Noise_RandomNoise(last), EMPTY, frames, mode, **more
    ).args


@pytest.fixture(scope="module")
def slerp_frames(render):
    return render(*morph(1, 2))


def changes(frames):
    """Root mean square change from each frame to the next, and from end to end."""
    steps = (frames[1:] - frames[:-1]).square().mean(dim=(1, 2, 3)).sqrt()
    return steps, (frames[-1] - frames[0]).square().mean().sqrt()


@pytest.mark.parametrize("caption", ["cat", "food"])
def test_a_morph_is_smooth(render, caption):
    """The largest change between neighbours against that from end to end; two seeds can happen to draw
    related pictures, so three pairs.

    Captions whose pictures blend into each other. Where they are things apart (a woman's face, a woman at
    work), the film is as sudden at the border between them as the model is sharp.
    """
    films = [render(*morph(first, first + 1), caption=caption) for first in (1, 3, 5)]
    largest = sorted((steps.max() / whole).item() for steps, whole in map(changes, films))
    assert largest[1] < 1 / 3, largest


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
        return (
            (render(*morph(1, 3, "variation", 2, strength=strength)) - slerp_frames[0]).square().mean().sqrt()
        )

    assert distance(0.05) < distance(1.0) / 3


def test_saved_noise_draws_the_same_picture(render, slerp_frames, tmp_path, monkeypatch):
    monkeypatch.setattr("folder_paths.output_directory", str(tmp_path))
    noise = DDIMLoadNoise.execute(DDIMSaveNoise.execute(Noise_RandomNoise(2), EMPTY, "noise").args[0]).args[0]
    assert torch.equal(render(noise, EMPTY), render(Noise_RandomNoise(2), EMPTY))


@torch.inference_mode()
def test_a_morph_between_two_real_pictures_ends_at_them(shipped):
    """Each picture inverted under the empty prompt; the film starts and stops at what the autoencoder makes
    of them."""
    model, clip, vae = shipped
    empty_prompt = clip.encode_from_tokens_scheduled(clip.tokenize(""))
    sigmas = DDIMStrideScheduler.execute(model, 10, "linspace", 1.0).args[0]
    noises, encoded = [], []
    for name in ("tiger", "rooster"):
        encoded.append({"samples": vae.encode(pictures.load(name))})
        noises.append(
            DDIMInversion.execute(
                model,
                empty_prompt,
                empty_prompt,
                1.0,
                encoded[-1],
                sigmas,
                method="exact",
                eta=0.0,
                tolerance=1e-4,
                max_iterations=40,
            ).args[0]
        )
    noise, latent = DDIMNoiseInterpolation.execute(*noises, EMPTY, 3, "slerp").args
    sampler = DDIMSampler.execute(0.0, "posterior", 1, "none", "cpu", 0).args[0]
    film = SamplerCustomAdvanced.execute(
        noise, BasicGuider.execute(model, empty_prompt).args[0], sampler, sigmas, latent
    ).args[0]["samples"]
    for end, picture in ((film[:1], encoded[0]), (film[-1:], encoded[1])):
        assert (vae.decode(end) - vae.decode(picture["samples"])).square().mean().sqrt() < 0.03
    assert torch.isfinite(film).all()
