"""The noise nodes on the host's own NOISE, LATENT and batch nodes, with no model."""

import pickle

import comfy.nested_tensor
import pytest
import torch
from comfy_extras.nodes_custom_sampler import Noise_EmptyNoise, Noise_RandomNoise
from ddim_toolkit.ddim import spherical
from ddim_toolkit.host import latents
from ddim_toolkit.host.noise import HeldNoise
from ddim_toolkit.nodes.noise import (
    DDIMLatentFromNoise,
    DDIMNoiseArithmetic,
    DDIMNoiseFromLatent,
    DDIMNoiseInterpolation,
)

import nodes as host

A, B, C, D = (Noise_RandomNoise(seed) for seed in (1, 2, 3, 4))


def empty(*shape):
    return {"samples": torch.zeros(shape)}


def interpolate(*arguments, **more):
    return DDIMNoiseInterpolation.execute(*arguments, **more).args


def drawn(noise, latent):
    return noise.generate_noise(latent)


@pytest.mark.parametrize("shape", [(1, 4, 16, 16), (1, 16, 3, 8, 8), (3, 4, 16, 16)])
@pytest.mark.parametrize("mode", ["slerp", "linear"])
def test_ends_and_norms(shape, mode):
    noise, latent = interpolate(A, B, empty(*shape), 12, mode)
    assert latent["samples"].shape == (shape[0] * 12, *shape[1:])
    frames = drawn(noise, latent).unflatten(0, (shape[0], 12))
    assert torch.equal(frames[:, 0], drawn(A, empty(*shape))) and torch.equal(
        frames[:, -1], drawn(B, empty(*shape))
    )
    radius = frames[0, 0].numel() ** 0.5
    norms = frames.flatten(2).norm(dim=2) / radius
    ends = norms[:, [0, -1]]
    if mode == "slerp":  # small pictures' own norms already scatter by a few percent
        assert (norms >= ends.min() - 1e-3).all() and (norms <= ends.max() + 1e-3).all()
    else:
        assert norms.min() < 0.8


def test_every_frame_is_a_gaussian_in_norm():
    noise, latent = interpolate(A, B, empty(1, 4, 64, 64), 12, "slerp")
    norms = drawn(noise, latent).flatten(1).norm(dim=1) / (4 * 64 * 64) ** 0.5
    assert (norms - 1).abs().max() < 0.05


def test_there_and_back_are_the_same_way():
    noise, latent = interpolate(A, B, empty(1, 4, 8, 8), 7, "slerp", easing="smooth")
    back, _ = interpolate(B, A, empty(1, 4, 8, 8), 7, "slerp", easing="smooth")
    assert torch.allclose(drawn(noise, latent), drawn(back, latent).flip(0), atol=1e-5)


def test_a_morph_of_a_morph_walks_the_same_arc():
    quarter, _ = interpolate(A, B, empty(1, 4, 16, 16), 5, "slerp")
    frames = drawn(quarter, latents.empty(empty(1, 4, 16, 16), range(5)))
    inner = [HeldNoise((frames[k : k + 1],), (0,)) for k in (1, 3)]
    middle, latent = interpolate(*inner, empty(1, 4, 16, 16), 3, "slerp")
    assert torch.allclose(drawn(middle, latent)[1], frames[2], atol=1e-4)


def test_grid_has_its_four_corners():
    noise, latent = interpolate(A, B, empty(1, 4, 8, 8), 5, "slerp", noise_c=C, noise_d=D, rows=3)
    cells = drawn(noise, latent).unflatten(0, (3, 5))
    for corner, cell in zip((A, B, C, D), (cells[0, 0], cells[0, 4], cells[2, 0], cells[2, 4]), strict=True):
        assert torch.equal(cell, drawn(corner, empty(1, 4, 8, 8))[0])
    upper = spherical.slerp(cells[0, 0], cells[2, 0], 0.5), spherical.slerp(cells[0, 4], cells[2, 4], 0.5)
    assert torch.allclose(cells[1, 2], spherical.slerp(*upper, 0.5), atol=1e-5)


def test_variations_are_different_neighbours_at_one_angle():
    noise, latent = interpolate(A, B, empty(1, 4, 32, 32), 6, "variation", strength=0.2)
    frames = drawn(noise, latent).double().flatten(1)
    start = drawn(A, empty(1, 4, 32, 32)).double().flatten()
    angles = torch.acos((frames @ start) / frames.norm(dim=1) / start.norm()) / (torch.pi / 2)
    assert torch.allclose(angles, torch.full((6,), 0.2, dtype=torch.float64), atol=1e-5)
    away = frames - (frames @ start)[:, None] / (start @ start) * start
    assert torch.corrcoef(away).fill_diagonal_(0).abs().max() < 0.1
    still, latent = interpolate(A, B, empty(1, 4, 8, 8), 2, "variation", strength=0.0)
    assert torch.equal(drawn(still, latent)[1:], drawn(A, empty(1, 4, 8, 8)))


def test_one_frame_alone_is_the_frame_of_the_batch():
    noise, latent = interpolate(A, B, empty(2, 4, 8, 8), 4, "slerp")
    alone = host.LatentFromBatch().frombatch(latent, 5, 1)[0]
    assert torch.equal(drawn(noise, alone), drawn(noise, latent)[5:6])


def test_pictures_of_a_batch_keep_their_index():
    picture = host.LatentFromBatch().frombatch(empty(8, 4, 8, 8), 5, 1)[0]
    noise, latent = interpolate(A, B, picture, 3, "slerp")
    whole = empty(8, 4, 8, 8)
    assert torch.equal(drawn(noise, latent)[0], drawn(A, whole)[5]) and torch.equal(
        drawn(noise, latent)[2], drawn(B, whole)[5]
    )


def test_mask_and_nested_latents_follow():
    latent = empty(2, 4, 8, 8) | {"noise_mask": torch.arange(2.0).reshape(2, 1, 1, 1).expand(2, 1, 64, 64)}
    _, frames = interpolate(A, B, latent, 3, "slerp")
    assert frames["noise_mask"][:, 0, 0, 0].tolist() == [0, 0, 0, 1, 1, 1]
    nested = {
        "samples": comfy.nested_tensor.NestedTensor([torch.zeros(1, 4, 2, 8, 8), torch.zeros(1, 8, 50)])
    }
    noise, frames = interpolate(A, B, nested, 3, "slerp")
    for part, first in zip(drawn(noise, frames).unbind(), drawn(A, nested).unbind(), strict=True):
        assert part.shape == (3, *first.shape[1:]) and torch.equal(part[:1], first)
    summed = DDIMNoiseArithmetic.execute(A, B, C, 0.5).args[0]
    assert [part.shape for part in drawn(summed, nested).unbind()] == [
        part.shape for part in nested["samples"].unbind()
    ]


def test_noise_is_lazy_about_shape_and_dtype():
    noise, _ = interpolate(A, B, empty(1, 4, 8, 8), 2, "slerp")
    wide = {"samples": torch.zeros(2, 16, 4, 6, dtype=torch.float16)}
    assert drawn(noise, wide).shape == (2, 16, 4, 6) and drawn(noise, wide).dtype == torch.float16


@pytest.mark.parametrize("other", [A, Noise_EmptyNoise()])
def test_identical_and_empty_noises_give_no_nan(other):
    for mode in ("slerp", "linear", "variation"):
        noise, latent = interpolate(A, other, empty(1, 4, 8, 8), 5, mode)
        assert torch.isfinite(drawn(noise, latent)).all()


def test_arithmetic():
    base, plus, minus = (drawn(noise, empty(2, 4, 32, 32)) for noise in (A, B, C))
    noise = DDIMNoiseArithmetic.execute(A, B, C, 0.7).args[0]
    result = drawn(noise, empty(2, 4, 32, 32))
    wanted = base + 0.7 * (plus - minus)
    for k in range(2):
        assert torch.allclose(result[k] / result[k].norm(), wanted[k] / wanted[k].norm(), atol=1e-6)
    assert (result.std(dim=(1, 2, 3)) - 1).abs().max() < 0.03
    assert noise.seed == A.seed
    assert torch.equal(drawn(DDIMNoiseArithmetic.execute(A, B, C, 0.0).args[0], empty(2, 4, 32, 32)), base)


def test_latent_and_back_is_exact():
    latent = DDIMLatentFromNoise.execute(A, empty(3, 4, 8, 8)).args[0]
    assert torch.equal(latent["samples"], drawn(A, empty(3, 4, 8, 8)))
    back = DDIMNoiseFromLatent.execute(latent, "keep").args[0]
    assert torch.equal(drawn(back, empty(3, 4, 8, 8)), latent["samples"])
    loud = latent | {"samples": latent["samples"] * 14.6}
    scaled = drawn(DDIMNoiseFromLatent.execute(loud, "unit variance").args[0], empty(3, 4, 8, 8))
    assert torch.allclose(scaled.square().mean(dim=(1, 2, 3)), torch.ones(3))


def test_values_pickle():
    latent = empty(1, 4, 8, 8)
    held = DDIMNoiseFromLatent.execute(DDIMLatentFromNoise.execute(A, latent).args[0], "keep").args[0]
    morph, frames = interpolate(
        held, DDIMNoiseArithmetic.execute(held, held, held, 1.0).args[0], latent, 3, "slerp"
    )
    again = pickle.loads(pickle.dumps(morph))
    assert torch.equal(drawn(again, frames), drawn(morph, frames)) and again.seed == morph.seed


def test_held_noise_follows_the_batch():
    held = HeldNoise.of(
        latents.empty(empty(1, 4, 8, 8), [2, 3, 4]) | {"samples": drawn(A, empty(3, 4, 8, 8))}
    )
    assert torch.equal(drawn(held, latents.empty(empty(1, 4, 8, 8), [4, 2])), held.parts[0][[2, 0]])
    one = HeldNoise.of({"samples": drawn(A, empty(1, 4, 8, 8))})
    assert torch.equal(drawn(one, empty(3, 4, 8, 8)), one.parts[0].repeat(3, 1, 1, 1))
    joined = HeldNoise.of(
        {"samples": drawn(A, empty(2, 4, 8, 8)), "batch_index": [0, 0]}
    )  # as LatentBatch numbers two pictures
    morph, frames = interpolate(
        joined, B, {"samples": torch.zeros(2, 4, 8, 8), "batch_index": [0, 0]}, 2, "slerp"
    )
    assert torch.equal(drawn(morph, frames)[[0, 2]], joined.parts[0])


def test_wrong_uses_are_named():
    held = HeldNoise.of({"samples": drawn(A, empty(2, 4, 8, 8))})
    nan = {"samples": torch.full((1, 4, 8, 8), torch.nan)}
    morph, frames = interpolate(A, B, empty(1, 4, 8, 8), 3, "slerp")
    wrong_shape, _ = interpolate(A, held, empty(2, 4, 16, 8), 3, "slerp")
    for words, use in {
        "shape 4x8x8, but the latent asks for 4x16x8": lambda: drawn(held, empty(2, 4, 16, 8)),
        "the latent asks for 4x16x8": lambda: drawn(wrong_shape, empty(2, 4, 16, 8)),
        r"holds the pictures \[0, 1\]": lambda: drawn(held, empty(3, 4, 8, 8)),
        "asks for picture 3, but the interpolation has the pictures 0 to 2": lambda: drawn(
            morph, empty(4, 4, 8, 8)
        ),
        "latent_image holds NaN": lambda: DDIMNoiseFromLatent.execute(nan, "keep"),
        "latent_image: a picture is all zeros": lambda: DDIMNoiseFromLatent.execute(
            empty(1, 4, 8, 8), "unit variance"
        ),
        "needs both of its lower corners": lambda: interpolate(
            A, B, empty(1, 4, 8, 8), 3, "slerp", noise_c=C
        ),
        "variation has no grid": lambda: interpolate(
            A, B, empty(1, 4, 8, 8), 3, "variation", noise_c=C, noise_d=D
        ),
        "mode is 'cubic'; allowed are slerp, linear, variation": lambda: interpolate(
            A, B, empty(1, 4, 8, 8), 3, "cubic"
        ),
    }.items():
        with pytest.raises(ValueError, match=words):
            use()


def test_noise_of_another_pack_is_checked():
    class Foreign:
        seed = 0

        def __init__(self, noise):
            self.noise = noise

        def generate_noise(self, latent):
            return self.noise

    for noise, words in (
        (torch.full((1, 4, 8, 8), torch.inf), "plus: its noise holds NaN or infinite"),
        (torch.zeros(1, 4, 9, 8), "plus: it gives noise of shape 1x4x9x8"),
    ):
        with pytest.raises(ValueError, match=words):
            drawn(DDIMNoiseArithmetic.execute(A, Foreign(noise), B, 1.0).args[0], empty(1, 4, 8, 8))


class AddedTo:
    """As inverted noise does: what is drawn makes up for the picture that it is added to."""

    seed = 0

    def __init__(self, noise):
        self.noise = noise

    def generate_noise(self, latent):
        return self.noise.generate_noise(latent) - latent["samples"]


def test_noise_that_looks_at_the_picture():
    picture = {"samples": torch.linspace(-1, 1, 2 * 4 * 8 * 8).reshape(2, 4, 8, 8)}
    noise, latent = interpolate(AddedTo(A), AddedTo(B), picture, 3, "slerp")
    frames = drawn(noise, latent)
    assert torch.equal(frames[[0, 3]], drawn(AddedTo(A), picture)) and torch.equal(
        frames[[2, 5]], drawn(AddedTo(B), picture)
    )
    alone = host.LatentFromBatch().frombatch(latent, 4, 1)[0]
    assert torch.equal(drawn(noise, alone), frames[4:5])
    as_latent = DDIMLatentFromNoise.execute(AddedTo(A), picture).args[0]
    assert torch.equal(as_latent["samples"], drawn(A, picture))
