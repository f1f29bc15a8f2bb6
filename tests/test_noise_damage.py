"""Saved noise that is damaged, hostile or of another program is refused, and no file outside the folders is
touched."""

import os
import pickle
import struct

import pytest
import torch
from comfy_extras.nodes_custom_sampler import Noise_RandomNoise
from ddim_toolkit.host import noise_files
from ddim_toolkit.host.noise import HeldNoise
from ddim_toolkit.nodes.noise_files import DDIMLoadNoise, DDIMSaveNoise
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from test_noise_files import rewritten, saved


@pytest.mark.parametrize(
    "prefix", ["../x", "a/../../x", "/x/y", "noise/../../../x/y", "nul\0/x", "nul\0", "..", "\ud800"]
)
def test_no_file_outside_the_output_folder(folders, prefix):
    with pytest.raises(ValueError, match="filename_prefix"):
        DDIMSaveNoise.execute(Noise_RandomNoise(0), {"samples": torch.zeros(1, 4, 8, 8)}, prefix)
    assert not list(folders.rglob("*.safetensors"))


@pytest.mark.parametrize(
    "sigmas, words",
    [
        ([3.0, torch.nan, 0.0], r"sigmas\[1\] is nan"),
        ([1.0, 2.0], "sigmas rise"),
        ([[3.0, 2.0], [1.0, 0.0]], r"sigmas has the shape \(2, 2\)"),
    ],
)
def test_sigmas_that_cannot_be_sampled_are_in_no_recipe(folders, sigmas, words):
    with pytest.raises(ValueError, match=words):
        DDIMSaveNoise.execute(
            Noise_RandomNoise(0), {"samples": torch.zeros(1, 4, 8, 8)}, "a", sigmas=torch.tensor(sigmas)
        )


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
