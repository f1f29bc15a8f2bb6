"""Saved noise: bit-exact, with its recipe, only where it belongs, and nothing else is taken for it."""

import json
import multiprocessing
import os
import signal
import struct
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import comfy.sample
import comfy.samplers
import pytest
import torch
from comfy.model_base import ModelType
from comfy_api.latest import io
from comfy_extras.nodes_custom_sampler import Noise_RandomNoise
from ddim_toolkit.bench import analytic
from ddim_toolkit.host import latents, noise_files, schedule
from ddim_toolkit.host.noise import HeldNoise
from ddim_toolkit.nodes.inversion import DDIMInversion
from ddim_toolkit.nodes.noise import DDIMNoiseArithmetic
from ddim_toolkit.nodes.noise_files import DDIMLoadNoise, DDIMSaveNoise
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

C = analytic.CONDITIONING


def saved(shape=(2, 4, 8, 8), seed=5, **more):
    return DDIMSaveNoise.execute(
        Noise_RandomNoise(seed), {"samples": torch.zeros(shape)}, "noise/DDIM", **more
    ).args[0]


def rewritten(data, **changes):
    """A saved file with other header entries, as of the first version: no checksum refuses it first."""
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    del header["__metadata__"]["sha256"]
    header["__metadata__"].update({"ddim_toolkit_noise": "1"} | changes)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + size :]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.integers(0, 2**64 - 1),
    st.sampled_from([(1, 4, 3, 5), (3, 4, 8, 8), (2, 16, 2, 3, 3)]),
    st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
)
def test_round_trip_is_bit_exact(folders, seed, shape, dtype):
    latent = {"samples": torch.zeros(shape, dtype=dtype)}
    noise = Noise_RandomNoise(seed)
    name = DDIMSaveNoise.execute(noise, latent, "noise/DDIM").args[0]
    loaded, fits, recipe = DDIMLoadNoise.execute(name).args
    assert torch.equal(loaded.generate_noise(latent), noise.generate_noise(latent)) and loaded.seed == seed
    assert torch.equal(loaded.generate_noise(fits), noise.generate_noise(latent))
    assert json.loads(recipe)["seed"] == seed


def test_recipe_batch_and_nested(folders):
    samples = latents.nest([torch.zeros(2, 4, 2, 8, 8), torch.zeros(2, 8, 5)])
    latent = {"samples": samples, "batch_index": [3, 1]}
    noise = HeldNoise(
        (torch.randn(2, 4, 2, 8, 8, generator=torch.Generator().manual_seed(0)), torch.ones(2, 8, 5)),
        (3, 1),
        9,
    )
    result = DDIMSaveNoise.execute(
        noise, latent, "a", sigmas=torch.tensor([14.5, 1.5, 0.0]), prompt="red heart"
    )
    loaded, fits, text = DDIMLoadNoise.execute(result.args[0]).args
    assert (
        result.args[0] == "a_00001_.safetensors [output]"
        and result.ui["noise"][0]["filename"] == "a_00001_.safetensors"
    )
    assert all(
        torch.equal(a, b) for a, b in zip(loaded.generate_noise(latent).unbind(), noise.parts, strict=True)
    )
    assert fits["batch_index"] == [3, 1] and fits["samples"].is_nested
    recipe = json.loads(text)
    assert recipe == {
        "version": noise_files.pack_version(),
        "seed": 9,
        "sigmas": [14.5, 1.5, 0.0],
        "prompt": "red heart",
        "batch_index": [3, 1],
    }


def test_the_workflow_and_the_model_name_lie_in_the_header(folders):
    graph = {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sd/dream.safetensors"}},
        "2": {"class_type": "LoraLoader", "inputs": {"model": ["1", 0], "lora_name": "style.safetensors"}},
        "3": {"class_type": "DDIMSaveNoise", "inputs": {"model": ["2", 0]}},
        "4": {"class_type": "DDIMDemoModel", "inputs": {}},
        "5": {"class_type": "DDIMSaveNoise", "inputs": {"model": ["4", 0]}},
    }
    names = [
        noise_files.model_name(
            io.HiddenHolder(key, graph, {}, None, None, None), SimpleNamespace(model=torch.nn.Identity())
        )
        for key in ("3", "5", "gone")
    ]
    assert names == ["sd/dream.safetensors", "DDIMDemoModel", "Identity"]
    header = noise_files.workflow(io.HiddenHolder("3", graph, {"workflow": {"nodes": []}}, None, None, None))
    noise_files.save({"samples": torch.zeros(1, 4, 8, 8)}, {"seed": 0}, "a", header)
    with safe_open(folders / "output" / "a_00001_.safetensors", "pt") as file:
        assert json.loads(file.metadata()["prompt"]) == graph and json.loads(file.metadata()["workflow"]) == {
            "nodes": []
        }


def test_files_are_numbered_and_listed(folders):
    first, second = saved(), saved()
    assert (first, second) == (
        "noise/DDIM_00001_.safetensors [output]",
        "noise/DDIM_00002_.safetensors [output]",
    )
    (folders / "input" / "mine.safetensors").write_bytes(
        (folders / "output" / "noise" / "DDIM_00001_.safetensors").read_bytes()
    )
    assert DDIMLoadNoise.define_schema().inputs[0].options == ["mine.safetensors", first, second]
    assert (
        DDIMLoadNoise.execute("mine.safetensors").args[0].seed
        == DDIMLoadNoise.execute("mine.safetensors [input]").args[0].seed
        == 5
    )
    assert not list(folders.rglob("*.part"))


def test_a_changed_file_is_read_again(folders):
    name = saved()
    before = DDIMLoadNoise.fingerprint_inputs(name)
    assert DDIMLoadNoise.fingerprint_inputs(name) == before and DDIMLoadNoise.validate_inputs(name) is True
    path = folders / "output" / "noise" / "DDIM_00001_.safetensors"
    path.write_bytes(path.read_bytes() + b" ")
    assert DDIMLoadNoise.fingerprint_inputs(name) != before


def test_wrong_shape_is_said_when_the_noise_is_used(folders):
    noise = DDIMLoadNoise.execute(saved()).args[0]
    with pytest.raises(
        ValueError, match=r"noise of noise/DDIM_00001_.*shape 4x8x8, but the latent asks for 4x16x16"
    ):
        noise.generate_noise({"samples": torch.zeros(2, 4, 16, 16)})


def test_files_of_the_first_version_load_as_before(folders):
    """Without a checksum and a form."""
    part = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    header = {"ddim_toolkit_noise": "1", "recipe": '{"seed": 7, "prompt": "x", "batch_index": [0, 1]}'}
    save_file({"noise.0": part}, folders / "input" / "old.safetensors", header)
    noise, latent, recipe = DDIMLoadNoise.execute("old.safetensors").args
    assert torch.equal(noise.generate_noise(latent), part) and noise.seed == 7
    assert json.loads(recipe)["prompt"] == "x"


@pytest.mark.parametrize(
    "prefix", ["noise/", "noise//", "", " ", "abc/.", "%year%/", "a/%year%/", ".", " a", "a b", "ä"]
)
def test_every_prefix_is_numbered_and_loads(folders, prefix):
    names = [
        DDIMSaveNoise.execute(Noise_RandomNoise(seed), {"samples": torch.zeros(1, 4, 8, 8)}, prefix).args[0]
        for seed in range(3)
    ]
    assert len(set(names)) == 3 and set(names) == set(DDIMLoadNoise.define_schema().inputs[0].options)
    for seed, name in enumerate(names):
        assert (
            DDIMLoadNoise.validate_inputs(name) is True and DDIMLoadNoise.execute(name).args[0].seed == seed
        )


def save_ten(seed):
    return [
        DDIMSaveNoise.execute(Noise_RandomNoise(seed), {"samples": torch.zeros(1, 4, 8, 8)}, "a").args[0]
        for _ in range(10)
    ]


def all_there(many, root):
    names = [name for names in many for name in names]
    assert len(set(names)) == len(names) == len(list(root.rglob("*.safetensors")))
    assert [noise_files.load(names[0])[0].seed for names in many] == list(range(len(many)))
    assert not list(root.rglob("*.part"))


def test_saves_of_ten_threads_have_numbers_of_their_own(folders):
    with ThreadPoolExecutor(10) as pool:
        all_there(list(pool.map(save_ten, range(10))), folders)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the processes are forks, so that each has the folders")
def test_saves_of_four_processes_have_numbers_of_their_own(folders):
    with ProcessPoolExecutor(4, multiprocessing.get_context("fork")) as pool:
        all_there(list(pool.map(save_ten, range(4))), folders)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a fork")
def test_a_kill_while_saving_leaves_nothing_that_is_seen(folders, monkeypatch):
    child = os.fork()
    if child == 0:  # dies between the last byte and the file's name
        monkeypatch.setattr(os, "replace", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        monkeypatch.setattr(Path, "touch", lambda *_, **__: None)
        save_ten(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    [left] = (folders / "output").iterdir()
    assert left.name.startswith(".") and noise_files.listing() == []
    saved()
    assert left.exists()  # somebody might still be writing it
    os.utime(left, (0, 0))
    DDIMSaveNoise.execute(Noise_RandomNoise(0), {"samples": torch.zeros(1, 4, 8, 8)}, "b")
    assert not left.exists()


@pytest.mark.skipif(os.name == "nt", reason="no umask")
def test_saved_files_have_the_users_mode(folders):
    saved()
    plain = folders / "plain"
    plain.touch()
    [file] = (folders / "output" / "noise").iterdir()
    assert file.stat().st_mode == plain.stat().st_mode


@pytest.mark.parametrize("kind", [ModelType.EPS, ModelType.FLOW], ids=lambda kind: kind.name)
@pytest.mark.parametrize("skipped", [0, 6])
def test_inverted_noise_comes_back_as_the_same_noise(folders, kind, skipped):
    """On an empty latent, on the picture's own, and on any other."""
    means, generator = analytic.four_modes(), torch.Generator().manual_seed(1)
    model = analytic.model(kind, means, 0.5)
    pictures = means[:2] + 0.5 * torch.randn(2, 4, 8, 8, generator=generator)
    latent = {"samples": pictures}
    sigmas = schedule.stride_sigmas(model, 12, "trailing")[0][skipped:]
    noise = DDIMInversion.execute(
        model, C, C, 1.0, latent, sigmas, method="exact", eta=0.0, tolerance=1e-5, max_iterations=40
    ).args[0]
    again = noise
    for _ in range(2):
        name = DDIMSaveNoise.execute(again, latent, "inverted").args[0]
        again = DDIMLoadNoise.execute(name).args[0]
    assert again.seed == noise.seed
    for samples in (pictures, torch.zeros_like(pictures), pictures.flip(0)):
        drawn = [each.generate_noise({"samples": samples}) for each in (again, noise)]
        assert torch.equal(*drawn)
    euler = comfy.samplers.sampler_object("euler")
    start = again.generate_noise(latent)
    back = comfy.sample.sample_custom(model, start, 1.0, euler, sigmas, C, C, pictures, disable_pbar=True)
    assert (back - pictures).abs().max() < 1e-4


def test_noise_mixed_from_inverted_noise_is_for_an_empty_latent(folders):
    model = analytic.model(ModelType.EPS, analytic.four_modes(), 0.5)
    pictures = {"samples": torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))}
    sigmas = schedule.stride_sigmas(model, 12, "trailing")[0]
    inverted = DDIMInversion.execute(
        model, C, C, 1.0, pictures, sigmas, method="exact", eta=0.0, tolerance=1e-5, max_iterations=40
    ).args[0]
    noise = DDIMNoiseArithmetic.execute(inverted, Noise_RandomNoise(1), Noise_RandomNoise(2), 0.3).args[0]
    name = DDIMSaveNoise.execute(noise, pictures, "mixed").args[0]
    for again in (name, DDIMSaveNoise.execute(DDIMLoadNoise.execute(name).args[0], pictures, "b").args[0]):
        loaded, empty, _ = DDIMLoadNoise.execute(again).args
        assert torch.equal(loaded.generate_noise(empty), noise.generate_noise(empty))
        with pytest.raises(ValueError, match="saved for an empty latent, and would be wrong on a picture"):
            loaded.generate_noise(pictures)
