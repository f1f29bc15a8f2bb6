"""Saved noise: bit-exact, with its recipe, only where it belongs, and nothing else is taken for it."""

import json
import multiprocessing
import os
import pickle
import signal
import struct
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import comfy.sample
import comfy.samplers
import folder_paths
import pytest
import torch
from comfy.model_base import ModelType
from comfy_api.latest import io
from comfy_extras.nodes_custom_sampler import Noise_RandomNoise
from ddim_toolkit.bench import analytic
from ddim_toolkit.host import latents, noise_files, schedule
from ddim_toolkit.host.noise import HeldNoise
from ddim_toolkit.nodes.inversion import DDIMInversion
from ddim_toolkit.nodes.noise import DDIMLoadNoise, DDIMNoiseArithmetic, DDIMSaveNoise
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

C = analytic.CONDITIONING


@pytest.fixture
def folders(tmp_path, monkeypatch):
    for name in ("input", "output", "temp"):
        (tmp_path / name).mkdir()
        monkeypatch.setattr(folder_paths, f"{name}_directory", str(tmp_path / name))
    return tmp_path


def saved(shape=(2, 4, 8, 8), seed=5, **more):
    return DDIMSaveNoise.execute(
        Noise_RandomNoise(seed), {"samples": torch.zeros(shape)}, "noise/DDIM", **more
    ).args[0]


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


@pytest.mark.parametrize(
    "prefix", ["../x", "a/../../x", "/x/y", "noise/../../../x/y", "nul\0/x", "nul\0", "..", "\ud800"]
)
def test_no_file_outside_the_output_folder(folders, prefix):
    with pytest.raises(ValueError, match="filename_prefix"):
        DDIMSaveNoise.execute(Noise_RandomNoise(0), {"samples": torch.zeros(1, 4, 8, 8)}, prefix)
    assert not list(folders.rglob("*.safetensors"))


@pytest.mark.parametrize(
    "name",
    [
        "../secret.safetensors",
        "../secret.safetensors [output]",
        "a/../../secret.safetensors",
        "x.safetensors [temp]",
        "link.safetensors",
        "a\0b",
        "",
        "missing.safetensors",
    ],
)
def test_no_file_from_outside_the_folders(folders, name):
    for place in ("secret.safetensors", "temp/x.safetensors"):
        save_file({"noise.0": torch.zeros(1, 4, 8, 8)}, folders / place, {"ddim_toolkit_noise": "1"})
    (folders / "input" / "link.safetensors").symlink_to(folders / "secret.safetensors")
    for wanted in (name, str(folders / "secret.safetensors")):
        with pytest.raises(ValueError, match="^file: "):
            DDIMLoadNoise.execute(wanted)
        assert DDIMLoadNoise.validate_inputs(wanted).startswith("file: ")


def rewritten(data, **changes):
    """A saved file with other header entries, as of the first version: no checksum refuses it first."""
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    del header["__metadata__"]["sha256"]
    header["__metadata__"].update({"ddim_toolkit_noise": "1"} | changes)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + size :]


class Bomb:
    def __reduce__(self):
        return (os.mkdir, ("pickle_was_run",))


def flipped(data, at, mask):
    return data[:at] + bytes([data[at] ^ mask]) + data[at + 1 :]


DAMAGE = {
    "empty": lambda data: b"",
    "no header": lambda data: data[:7],
    "half a header": lambda data: data[:60],
    "half the numbers": lambda data: data[:-500],
    "one byte short": lambda data: data[:-1],
    "one byte long": lambda data: data + b"\0",
    "zeros": lambda data: bytes(len(data)),
    "noise": lambda data: os.urandom(len(data)),
    "huge header": lambda data: struct.pack("<Q", 2**62) + data[8:],
    "text": lambda data: b"not a tensor " * 50,
    "pickle": lambda data: pickle.dumps(Bomb()),
    "no recipe mark": lambda data: rewritten(data, ddim_toolkit_noise="0"),
    "later layout": lambda data: rewritten(data, ddim_toolkit_noise="3"),
    "a bit of the noise": lambda data: flipped(data, len(data) - 9, 1),
    "another seed": lambda data: data.replace(b'seed\\": 5', b'seed\\": 6'),
    "another form": lambda data: data.replace(b'"form":"{}"', b'"form":"[]"'),
    "no checksum": lambda data: rewritten(data, ddim_toolkit_noise="2"),
    "a number for numbers": lambda data: rewritten(data, recipe='{"seed": null, "batch_index": 1}'),
    "recipe no JSON": lambda data: rewritten(data, recipe="{"),
    "recipe a list": lambda data: rewritten(data, recipe="[1]"),
    "recipe too deep": lambda data: rewritten(data, recipe="[" * 100000),
    "recipe without seed": lambda data: rewritten(data, recipe='{"batch_index": [0, 1]}'),
    "text for numbers": lambda data: rewritten(data, recipe='{"seed": 1, "batch_index": "01"}'),
    "no number": lambda data: rewritten(data, recipe='{"seed": NaN, "batch_index": [0, 1]}'),
    "other pictures": lambda data: rewritten(data, recipe='{"seed": 1, "batch_index": [0]}'),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_files_are_refused(folders, damage, monkeypatch):
    monkeypatch.chdir(folders)
    name = saved()
    path = folders / "output" / "noise" / "DDIM_00001_.safetensors"
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    with pytest.raises(ValueError, match=r"file: .*noise/DDIM_00001_"):
        DDIMLoadNoise.execute(name)
    assert not (folders / "pickle_was_run").exists()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_truncated_and_altered_headers_are_refused_or_harmless(folders, data):
    """Whatever happens to a file, loading gives finite noise or a ValueError that names the file."""
    name = saved((1, 4, 3, 3))
    path = folders / "output" / name.removesuffix(" [output]")
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    else:
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(content))
    try:
        noise = DDIMLoadNoise.execute(name).args[0]
    except ValueError as error:
        assert name.split(" ")[0] in str(error)
    else:
        assert len(content) > 0 and all(torch.isfinite(part).all() for part in noise.parts)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_flipped_bit_goes_unnoticed(folders, data):
    """Refused, or the same noise and recipe: a bit of the workflow, which is not the noise's, may flip."""
    noise, latent = Noise_RandomNoise(5), {"samples": torch.zeros(1, 4, 5, 5)}
    name = DDIMSaveNoise.execute(noise, latent, "a", prompt="red heart").args[0]
    recipe = noise_files.load(name)[2]
    path = folders / "output" / name.removesuffix(" [output]")
    content = path.read_bytes()
    path.write_bytes(
        flipped(content, data.draw(st.integers(0, len(content) - 1)), 1 << data.draw(st.integers(0, 7)))
    )
    try:
        loaded, _, found = noise_files.load(name)
    except ValueError as error:
        assert name.split(" ")[0] in str(error)
    else:
        assert torch.equal(loaded.generate_noise(latent), noise.generate_noise(latent)) and found == recipe


def test_files_of_the_first_version_load_as_before(folders):
    """Without a checksum and a form."""
    part = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    header = {"ddim_toolkit_noise": "1", "recipe": '{"seed": 7, "prompt": "x", "batch_index": [0, 1]}'}
    save_file({"noise.0": part}, folders / "input" / "old.safetensors", header)
    noise, latent, recipe = DDIMLoadNoise.execute("old.safetensors").args
    assert torch.equal(noise.generate_noise(latent), part) and noise.seed == 7
    assert json.loads(recipe)["prompt"] == "x"


@pytest.mark.parametrize("layout", ["1", "2"])
def test_a_file_does_not_ask_for_billions_of_pictures(folders, layout):
    """Picture 10^12 is drawn after all before it."""
    own = {"recipe": '{"seed": 0, "batch_index": [1000000000000]}', "form": "{}"}
    part = torch.zeros(1, 4, 2, 2)
    header = {"ddim_toolkit_noise": layout, **own, "sha256": noise_files._digest(own, [part])}
    save_file({"noise.0": part}, folders / "input" / "far.safetensors", header)
    with pytest.raises(ValueError, match="file: .*far.safetensors.*batch_index leaves 0 to 65535"):
        DDIMLoadNoise.execute("far.safetensors")
    latent = {"samples": part, "batch_index": [65536]}
    with pytest.raises(ValueError, match="latent_image: its batch_index goes up to 65536"):
        DDIMSaveNoise.execute(HeldNoise((part,), (65536,)), latent, "far")


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
    noise = DDIMInversion.execute(model, C, C, 1.0, latent, sigmas, "exact", 0.0, 1e-5, 40).args[0]
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
    inverted = DDIMInversion.execute(model, C, C, 1.0, pictures, sigmas, "exact", 0.0, 1e-5, 40).args[0]
    noise = DDIMNoiseArithmetic.execute(inverted, Noise_RandomNoise(1), Noise_RandomNoise(2), 0.3).args[0]
    name = DDIMSaveNoise.execute(noise, pictures, "mixed").args[0]
    for again in (name, DDIMSaveNoise.execute(DDIMLoadNoise.execute(name).args[0], pictures, "b").args[0]):
        loaded, empty, _ = DDIMLoadNoise.execute(again).args
        assert torch.equal(loaded.generate_noise(empty), noise.generate_noise(empty))
        with pytest.raises(ValueError, match="saved for an empty latent, and would be wrong on a picture"):
            loaded.generate_noise(pictures)


@pytest.mark.parametrize(
    "form",
    [
        '{"weight": NaN, "latent_format": "SD15"}',
        '{"weight": 1.0, "latent_format": "os"}',
        '{"weight": 1.0, "latent_format": "torch"}',
        '{"weight": 1.0}',
        '{"weight": 1.0, "latent_format": "Wan21"}',
        '{"weight": "1", "latent_format": "SD15"}',
        "[]",
        "7",
    ],
)
def test_a_hostile_form_is_refused(folders, form):
    own = {"recipe": '{"seed": 0, "batch_index": [0]}', "form": form}
    part = torch.zeros(1, 4, 2, 2)
    header = {"ddim_toolkit_noise": "2", **own, "sha256": noise_files._digest(own, [part])}
    save_file({"noise.0": part}, folders / "input" / "odd.safetensors", header)
    with pytest.raises(ValueError, match="^file: .*odd.safetensors"):
        DDIMLoadNoise.execute("odd.safetensors")


@pytest.mark.parametrize("tensors", [{"latent_tensor": torch.zeros(1, 4, 8, 8)}, {}])
def test_foreign_files_are_refused(folders, tensors):
    save_file(tensors, folders / "input" / "other.safetensors")
    with pytest.raises(ValueError, match="not written by DDIM Save Noise"):
        DDIMLoadNoise.execute("other.safetensors")


@pytest.mark.parametrize(
    "tensors",
    [
        {},
        {"noise.1": torch.zeros(1, 4)},
        {"noise.0": torch.zeros(1, 4, dtype=torch.int32)},
        {"noise.0": torch.zeros(2, 4)},
        {"noise.0": torch.zeros(1)},
        {"noise.0": torch.full((1, 4), torch.nan)},
    ],
)
def test_marked_files_with_other_tensors_are_refused(folders, tensors):
    save_file(
        tensors,
        folders / "input" / "other.safetensors",
        {"ddim_toolkit_noise": "1", "recipe": '{"seed": 0, "batch_index": [0]}'},
    )
    with pytest.raises(ValueError, match="other.safetensors"):
        DDIMLoadNoise.execute("other.safetensors")
