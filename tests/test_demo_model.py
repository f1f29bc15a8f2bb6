"""The shipped model under the host's own nodes, and the parts of its training that can be checked without
training."""

import logging
import random
from pathlib import Path

import latent_preview
import pytest
import torch
from comfy_extras.nodes_custom_sampler import (
    BasicGuider,
    BasicScheduler,
    KSamplerSelect,
    RandomNoise,
    SamplerCustomAdvanced,
)
from ddim_toolkit.demo import pictures
from ddim_toolkit.demo.training.captions import vary
from ddim_toolkit.demo.training.data import is_held_out
from ddim_toolkit.demo.training.evaluate import FULL, SHORT, spread
from ddim_toolkit.demo.training.pace import Pace, rate
from helpers import encode
from safetensors import safe_open

import nodes

DEMO = Path(__file__).resolve().parent.parent / "demo"


def latents(shipped, positive, count=1, seed=0, steps=8, size=128):
    model, clip, _ = shipped
    latent = nodes.EmptyLatentImage().generate(size, size, count)[0]
    with torch.inference_mode():
        return nodes.KSampler().sample(
            model, seed, steps, 3.0, "ddim", "simple", positive, encode(clip, ""), latent
        )[0]["samples"]


def draw(shipped, caption, **options):
    _, clip, vae = shipped
    return nodes.VAEDecode().decode(vae, {"samples": latents(shipped, encode(clip, caption), **options)})[0]


@pytest.fixture(scope="module")
def heart(shipped):
    return draw(shipped, "red heart", count=2)


def test_weights_are_small_and_float16():
    files = list(DEMO.glob("*.safetensors"))
    assert sorted(f.stem for f in files) == ["draft_lora", "text", "unet", "vae"]
    sizes = {f.stem: f.stat().st_size for f in files}
    assert sizes.pop("draft_lora") < 2.2e6 and sum(sizes.values()) < 20e6
    for file in files:
        with safe_open(file, "pt") as weights:
            assert {weights.get_slice(name).get_dtype() for name in weights.keys()} == {"F16"}


def test_noise_levels_are_stable_diffusions(shipped):
    sampling = shipped[0].get_model_object("model_sampling")
    assert float(sampling.sigma_min) == pytest.approx(0.0292, abs=1e-4)
    assert float(sampling.sigma_max) == pytest.approx(14.615, abs=1e-3)
    assert len(sampling.sigmas) == 1000


def test_core_nodes_draw_a_red_heart_on_white(heart):
    assert heart.shape == (2, 128, 128, 3)
    corners = heart[:, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert corners.min() > 0.9
    red, green, blue = heart[:, 40:70, 45:85].mean((0, 1, 2)).tolist()
    assert red > 0.7 and red > green + 0.4 and red > blue + 0.2


def test_same_seed_same_picture_and_the_prompt_matters(shipped, heart):
    assert torch.equal(heart, draw(shipped, "red heart", count=2))
    assert (draw(shipped, "blue heart", count=2) - heart).abs().mean() > 0.05


def test_words_and_weights(shipped, caplog):
    clip = shipped[1]
    ((context, extra),) = encode(clip, "Red  heart!")
    assert context.shape == (1, 10, 192) and context.dtype == torch.float32 and context.isfinite().all()
    assert torch.equal(context, encode(clip, "red heart")[0][0])
    stronger, empty = encode(clip, "red (heart:1.5)")[0][0], encode(clip, "")[0][0]
    assert torch.allclose(stronger[:, 1], empty[:, 1] + 1.5 * (context[:, 1] - empty[:, 1]), atol=1e-5)
    assert torch.allclose(stronger[:, 0], context[:, 0], atol=1e-5)
    with caplog.at_level(logging.WARNING):
        assert torch.equal(encode(clip, "red florp heart")[0][0], context)
        encode(clip, "red " * 12)
    assert "florp" in caplog.text and "left out the last 2" in caplog.text


def test_clip_behaves_under_the_nodes_that_change_it(shipped):
    clip = nodes.CLIPSetLastLayer().set_last_layer(shipped[1], -2)[0]
    a, b = encode(clip, "cat"), encode(clip, "pizza")
    for mixed in (
        nodes.ConditioningAverage().addWeighted(a, b, 0.5)[0],
        nodes.ConditioningConcat().concat(a, b)[0],
        nodes.ConditioningZeroOut().zero_out(a)[0],
    ):
        assert latents(shipped, mixed, steps=2).isfinite().all()


def test_areas_masks_and_timestep_ranges(shipped):
    clip = shipped[1]
    left = nodes.ConditioningSetArea().append(encode(clip, "red heart"), 128, 128, 0, 0, 1.0)[0]
    right = nodes.ConditioningSetArea().append(encode(clip, "pizza"), 128, 128, 128, 0, 1.0)[0]
    masked = nodes.ConditioningSetMask().append(
        encode(clip, "pizza"), torch.ones(1, 256, 256), "default", 1.0
    )[0]
    early = nodes.ConditioningSetTimestepRange().set_range(encode(clip, "cat"), 0.0, 0.5)[0]
    late = nodes.ConditioningSetTimestepRange().set_range(encode(clip, "cat"), 0.5, 1.0)[0]
    for conditioning in (left + right, masked, early + late):
        out = latents(shipped, conditioning, steps=2, size=256)
        assert out.shape == (1, 4, 32, 32) and out.isfinite().all()


def test_custom_sampling_and_its_preview(shipped, heart):
    model, clip, vae = shipped
    sigmas = BasicScheduler.execute(model, "simple", 8, 1.0).result[0]
    with torch.inference_mode():
        _, clean = SamplerCustomAdvanced.execute(
            RandomNoise.execute(3).result[0],
            BasicGuider.execute(model, encode(clip, "red heart")).result[0],
            KSamplerSelect.execute("euler").result[0],
            sigmas,
            nodes.EmptyLatentImage().generate(128, 128, 1)[0],
        ).result
        picture = vae.decode(clean["samples"])
    latent_format = model.model.latent_format
    raw = clean["samples"]
    assert torch.allclose(latent_format.process_out(latent_format.process_in(raw)), raw, atol=1e-5)
    previewer = latent_preview.Latent2RGBPreviewer(
        latent_format.latent_rgb_factors, latent_format.latent_rgb_factors_bias
    )
    preview = (
        torch.tensor(list(previewer.decode_latent_to_preview(latent_format.process_in(raw)).tobytes())).view(
            16, 16, 3
        )
        / 255
    )
    small = torch.nn.functional.avg_pool2d(picture[0].movedim(-1, 0), 8).movedim(0, -1)
    assert (preview - small).abs().mean() < 0.12


def test_pictures_survive_the_autoencoder(shipped):
    vae = shipped[2]
    kept = torch.cat([pictures.load(name) for name in pictures.NAMES])
    encoded = nodes.VAEEncode().encode(vae, kept)[0]["samples"]
    assert encoded.shape == (len(kept), 4, 16, 16)
    error = (vae.decode(encoded) - kept).square().mean((1, 2, 3))
    assert (-10 * error.log10()).mean() > 27


def test_captions_lose_words_as_the_card_says():
    rng = random.Random(0)
    found = [vary(["smiling", "cat"], ["animal"], rng) for _ in range(4000)]

    def share(words):
        return sum(f == words for f in found) / len(found)

    assert 0.1 < share([]) < 0.17
    assert 0.2 < share(["smiling", "cat"]) < 0.5
    assert share(["cat"]) > 0.1 and share(["animal"]) > 0.05 and share(["animal", "smiling", "cat"]) > 0.03
    assert [vary(["a", "b"], ["c"], random.Random(1)) for _ in range(3)] == [
        vary(["a", "b"], ["c"], random.Random(1)) for _ in range(3)
    ]


def test_held_out_pictures_are_chosen_by_name():
    names = [f"1f{i:03x}" for i in range(2000)]
    assert 0.03 < sum(map(is_held_out, names)) / len(names) < 0.07
    assert is_held_out("1f63f") is is_held_out("1f63f")


def test_training_ends_on_time_and_continues_from_its_file(tmp_path):
    layer = torch.nn.Linear(2, 2)
    pace = Pace(tmp_path / "run.pt", 1 / 600, {"layer": layer})
    steps = sum(1 for _ in pace)
    assert steps >= 1 and pace.part == 1 and rate(1.0, 0.5) == 0 and rate(0.2, 0.5) == 1
    again = torch.nn.Linear(2, 2)
    later = Pace(tmp_path / "run.pt", 1, {"layer": again})
    assert (
        later.step == pace.step
        and later.spent == pytest.approx(pace.spent)
        and torch.equal(again.weight, layer.weight)
    )
    assert 0 < later.part < 1


def test_seeds_matter_as_much_as_the_caption_leaves_open(shipped):
    """Short captions name many pictures, full captions one."""
    between, within = spread(torch.stack([draw(shipped, caption, count=4, steps=10) for caption in SHORT]))
    assert within >= between / 2
    between, within = spread(torch.stack([draw(shipped, caption, count=4, steps=10) for caption in FULL[:5]]))
    assert within <= between / 4
