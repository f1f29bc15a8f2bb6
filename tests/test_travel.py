"""SAMPLER and NOISE values pickled here and opened in other processes, where the pack lies elsewhere."""

import copy
import importlib.util
import os
import pickle
import subprocess
import sys
from pathlib import Path

import elsewhere
import folder_paths
import pytest
import torch
from conftest import ROOT, TESTS
from ddim_toolkit.ddim.measured.coefficients import Coefficients
from ddim_toolkit.host import guiders, inversion, measured_sampler, noise, sampler, schedule

pytestmark = pytest.mark.server

COMFYUI = Path(folder_paths.__file__).parent


def host_noise(seed):
    """RandomNoise's value, of the module as the running host names it: by its path."""
    path = COMFYUI / "comfy_extras" / "nodes_custom_sampler.py"
    name = str(path.with_suffix(""))
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name].Noise_RandomNoise(seed)


def bound(model, sigmas):
    """Coefficients of four steps, under the guidance with which `elsewhere` samples."""
    weights = tuple((1.0, *[0.02] * (count - 1)) for count in (3, 5, 6, 6))
    return measured_sampler.BoundCoefficients(
        Coefficients(tuple(sigmas.tolist()), weights, True), measured_sampler.kind(model.model), 2.0
    )


@pytest.fixture(scope="module")
def values(shipped):
    """One of every kind that the pack gives."""
    model, clip, _ = shipped
    empty = clip.encode_from_tokens_scheduled(clip.tokenize(""))
    sigmas = schedule.stride_sigmas(model, 4, "linspace")[0]
    latent = {"samples": torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))}
    guider = guiders.cfg_guider(model, empty, empty, 1.0)
    found = inversion.invert_latent(guider, latent, sigmas, eta=1.0)
    held = noise.HeldNoise.of(latent, 5)
    host = host_noise(3)
    return {
        "sigmas": sigmas,
        "samplers": {
            "ddim": sampler.ddim_sampler(eta=0.5, variance="large"),
            "plms": sampler.ddim_sampler(order=3),
            "masked": sampler.ddim_sampler(
                eta=1.0, variance="trajectory", eta_end=0.5, mask=torch.ones(1, 8, 8) / 2
            ),
            "replay": found.replay,
            "measured": measured_sampler.as_sampler(bound(model, sigmas)),
        },
        "noises": {
            "seed": noise.SeedNoise(3),
            "held": held,
            "inverted": found.noise,
            "interpolated": noise.InterpolatedNoise((host, found.noise), (0,), 3),
            "shifted": noise.ShiftedNoise(host, held, found.noise, 0.5),
        },
    }


@pytest.fixture(scope="module")
def here(values):
    return elsewhere.samples(values)


@pytest.fixture
def packs(tmp_path):
    """A custom_nodes folder in which the pack has another name."""
    folder = tmp_path / "custom_nodes"
    folder.mkdir()
    (folder / "another.name").symlink_to(ROOT, target_is_directory=True)
    return folder


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def opened(values, packs, tmp_path, *how):
    """The finished process that opened `values`, and where its result is."""
    source, result = tmp_path / "values.pickle", tmp_path / "result.pt"
    source.write_bytes(pickle.dumps(values))
    command = [sys.executable, elsewhere.__file__, COMFYUI, packs, source, result, *how]
    # Away from the checkout: its own modules are not on the path there.
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=tmp_path)
    return done, result


@pytest.mark.parametrize("how", [(), ("load",)], ids=["not loaded yet", "loaded"])
def test_another_process_computes_the_same(values, here, packs, tmp_path, how):
    done, result = opened(values, packs, tmp_path, *how)
    assert done.returncode == 0, done.stderr
    assert equal(torch.load(result), here)


def test_without_the_pack_the_error_says_what_to_install(values, packs, tmp_path):
    (packs / "another.name").unlink()
    done, _ = opened(values, packs, tmp_path)
    assert done.returncode and "Install the node pack ddim-toolkit in its custom_nodes" in done.stderr


def test_values_open_in_the_process_that_made_them(values, here):
    again = pickle.loads(pickle.dumps(values))
    assert equal(elsewhere.samples(again), here)
    assert again["samplers"]["ddim"].sampler_function is sampler.sample_ddim
    assert type(again["noises"]["held"]) is noise.HeldNoise


def test_copies_hold_the_same_values(values):
    shifted = values["noises"]["shifted"]
    assert copy.copy(shifted) == shifted and copy.copy(shifted).base is shifted.base
    assert copy.deepcopy(shifted).base.seed == shifted.base.seed


def test_a_ray_actor_with_its_own_comfyui_computes_the_same(values, here, packs):
    ray = pytest.importorskip("ray", reason="Ray is not installed; run.py sweep installs it")
    from runner.sweep.cluster import local

    class Actor:
        def __init__(self, *place):
            import elsewhere

            elsewhere.start(*place)

        def samples(self, values):
            import elsewhere

            return elsewhere.samples(values)

    with local(workers=1):
        environment = {"PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": os.environ["OMP_NUM_THREADS"]}
        made = ray.remote(Actor).options(runtime_env={"env_vars": environment})
        actor = made.remote(str(COMFYUI), str(packs))
        assert equal(ray.get(actor.samples.remote(values)), here)
