"""DDIM Dial Grid against single runs of DDIM KSampler, bit for bit, and what it refuses."""

import itertools

import comfy.nested_tensor
import pytest
import torch
from comfy.model_base import ModelType
from ddim_toolkit.bench import analytic
from ddim_toolkit.host import grid
from ddim_toolkit.host.sampler import ddim_sampler, run
from ddim_toolkit.host.schedule import stride_sigmas
from ddim_toolkit.nodes.grid import DDIMDialGrid
from ddim_toolkit.nodes.sampling import DDIMKSampler
from helpers import empty
from test_cancel import Calls

C = analytic.CONDITIONING
MODEL = analytic.model(ModelType.V_PREDICTION, analytic.four_modes(), 0.3)
EMPTY = empty()
OWN = {"seed": 5, "steps": 4, "cfg": 2.0, "eta": 0.3, "stride": "trailing"}


def drawn(across, across_values, down, down_values, model=MODEL, latent=EMPTY, **changes):
    others = OWN | {"positive": C, "negative": C, "latent_image": latent, "denoise": 1.0} | changes
    return DDIMDialGrid.execute(model, across, across_values, down, down_values, **others)


def alone(model=MODEL, latent=EMPTY, denoise=1.0, **dials):
    """The picture of DDIM KSampler."""
    node = DDIMKSampler.execute(
        model, positive=C, negative=C, latent_image=latent, denoise=denoise, **(OWN | dials)
    )
    return node.args[0]["samples"]


WRITTEN = {
    "eta": ("0, .3, 1", [0.0, 0.3, 1.0]),
    "steps": ("steps: 1 2;5", [1, 2, 5]),
    "cfg": ("1, 4.5", [1.0, 4.5]),
    "stride": ("trailing, linspace", ["trailing", "linspace"]),
    "seed": (f"seed: 3, {2**64 - 1}", [3, 2**64 - 1]),
}


@pytest.mark.parametrize("across, down", list(itertools.permutations(WRITTEN, 2)))
def test_each_cell_is_the_picture_of_ddim_ksampler(across, down):
    (right, columns), (below, rows) = WRITTEN[across], WRITTEN[down]
    out = drawn(across, right, down, below)
    latent, labels, count = out.args
    assert count == len(columns) and len(latent["samples"]) == len(rows) * len(columns)
    cells = list(itertools.product(rows, columns))
    told, _ = grid.plan(MODEL, OWN | {"denoise": 1.0, "order": 1}, across, right, down, below)
    for picture, cell, (b, a) in zip(latent["samples"], told, cells, strict=True):
        assert torch.equal(picture, alone(**{across: a, down: b})[0])
        assert cell.dials == OWN | {"denoise": 1.0, "order": 1, across: a, down: b}
    lines = [line.split(", ") for line in labels.splitlines()]
    assert [[line[0].split()[0], line[1].split()[0]] for line in lines] == [[across, down]] * len(cells)
    assert out.ui is None  # older pages would count its entries as outputs


def test_order_is_that_of_ddim_sampler():
    pictures = drawn("order", "1, 2, 4", "seed", "7", eta=0.0).args[0]["samples"]
    sigmas, _ = stride_sigmas(MODEL, 4, "trailing")
    for picture, order in zip(pictures, (1, 2, 4), strict=True):
        single = run(MODEL, 7, 2.0, C, C, EMPTY, ddim_sampler(eta=0.0, order=order), sigmas)[0]["samples"]
        assert torch.equal(picture, single[0])
    assert not torch.equal(pictures[0], pictures[1])


def test_random_seeds_are_those_of_the_nodes_seed():
    first, again, other = (drawn("seed", "4 random", "steps", "2", seed=s) for s in (1, 1, 2))
    seeds, same, others = (
        [int(line.split(",")[0].removeprefix("seed ")) for line in each.args[1].splitlines()]
        for each in (first, again, other)
    )
    assert len(set(seeds)) == 4 and seeds == same and not set(seeds) & set(others)
    for picture, seed in zip(first.args[0]["samples"], seeds, strict=True):
        assert torch.equal(picture, alone(seed=seed, steps=2)[0])


def test_an_empty_list_is_the_nodes_own_value():
    latent, labels, columns = drawn("eta", "0, 1", "steps", " ").args
    assert (len(latent["samples"]), columns) == (2, 2) and labels == "eta 0, steps 4\neta 1, steps 4"


def test_the_picture_of_a_batch_keeps_its_noise_mask_and_index():
    samples = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., :32] = 1
    batch = {"samples": samples, "noise_mask": mask, "batch_index": [6, 1, 2]}
    latent = drawn("eta", "0, 1", "cfg", "1, 2", latent=batch, denoise=0.5).args[0]
    assert latent["batch_index"] == [6] * 4 and latent["noise_mask"].shape[0] == 4
    first = {"samples": samples[:1], "noise_mask": mask, "batch_index": [6]}
    assert torch.equal(latent["samples"][3], alone(latent=first, denoise=0.5, eta=1.0, cfg=2.0)[0])


def test_denoise_0_leaves_the_picture_alone():
    latent = {"samples": torch.full((1, 4, 8, 8), 0.5)}
    assert (drawn("eta", "0, 1", "seed", "1, 2", latent=latent, denoise=0.0).args[0]["samples"] == 0.5).all()


def test_equal_cells_are_computed_once():
    """eta 0 and .0 are one; so are all strides of one step that begin at the top."""
    for dials, calls in [
        (("eta", "0, .0, 0.3", "steps", "2, 3, 2"), 2 * (2 + 3)),
        (("stride", "trailing, linspace", "steps", "1, 4"), 1 + 2 * 4),
        (("seed", "1, 1, 1", "cfg", "2"), 4),
    ]:
        counted = Calls()
        shown = drawn(*dials, model=counted.watching(MODEL))
        assert counted.count == calls and len(shown.args[0]["samples"]) == len(shown.args[1].splitlines())


def test_the_limit_of_model_calls_is_checked_before_the_first():
    counted = Calls()
    model = counted.watching(MODEL)
    with pytest.raises(ValueError, match="9 pictures, 150 model calls; max_calls is 149"):
        drawn("eta", "0, .3, 1", "steps", "8, 12, 30", model=model, max_calls=149)
    assert counted.count == 0
    drawn("eta", "0, .3, 1", "steps", "8, 12, 30", model=model, max_calls=150)
    assert counted.count == 150


@pytest.mark.parametrize(
    "dials, words",
    [
        (("eta", "0, 1.5", "steps", "8"), "across_values holds '1.5'; eta takes numbers from 0 to 1"),
        (("eta", "0, nan", "steps", "8"), "across_values holds 'nan'; eta takes numbers from 0 to 1"),
        (("eta", "0", "steps", "1_0"), "down_values holds '1_0'; steps takes whole numbers from 1"),
        (("eta", "0", "steps", "8, 2.5"), "down_values holds '2.5'; steps takes whole numbers from 1"),
        (("eta", "0", "steps", "0"), "down_values holds '0'; steps takes whole numbers from 1 to 10000"),
        (("eta", "0", "steps", "8, 1001"), "eta 0, steps 1001: .* 1 to 1000 are allowed"),
        (("cfg", "-1", "steps", "8"), "across_values holds '-1'; cfg takes numbers from 0 to 100"),
        (("order", "1, 5", "steps", "8"), "across_values holds '5'; order takes whole numbers from 1 to 4"),
        (("seed", "-3", "steps", "8"), "across_values holds '-3'; seed takes whole numbers from 0"),
        (("stride", "golden", "eta", ""), "holds 'golden'; stride takes trailing, leading, linspace, quad"),
        (("eta", "4 random", "steps", "8"), "across_values holds '4'; eta takes"),
        (("seed", "0 random", "steps", "8"), "across_values asks for 0 values; 1 to 100 are allowed"),
        (("seed", "101 random", "steps", "8"), "across_values asks for 101 values"),
        (("eta", "0 " * 101, "steps", "8"), "across_values asks for 101 values"),
        (("eta", "steps: 8", "steps", "8"), "across_values begins with 'steps', but its dial is eta"),
        (("eta", "0", None, "1"), "down is None; allowed are eta, steps, cfg, stride, order, seed"),
        (("seed", "9" * 5000 + " random", "eta", "1"), "across_values holds '999"),
        (("eta", "0", "eta", "1"), "across and down are both eta; they must be two dials"),
    ],
)
def test_what_is_refused_is_named(dials, words):
    counted = Calls()
    with pytest.raises(ValueError, match=words):
        drawn(*dials, model=counted.watching(MODEL))
    assert counted.count == 0


def test_words_are_refused_before_anything_runs():
    assert DDIMDialGrid.validate_inputs("seed", "4 random", "eta", "")
    assert DDIMDialGrid.validate_inputs("eta", None, "steps", "8")  # None comes through a link
    for given, words in (
        (("eta", "0, 1.5", "steps", "8"), "across_values holds '1.5'"),
        (("eta", "0", "sigma", "8"), "down is 'sigma'; allowed are eta"),
    ):
        with pytest.raises(ValueError, match=words):
            DDIMDialGrid.validate_inputs(*given)


@pytest.mark.parametrize("denoise", [1.0, 0.0])
@pytest.mark.parametrize(
    "latent, words",
    [
        ({"samples": torch.zeros(0, 4, 8, 8)}, "latent_image is empty"),
        ({"samples": torch.full((1, 4, 8, 8), torch.nan)}, "latent_image holds NaN"),
    ],
)
def test_a_latent_that_holds_nothing_is_named(latent, words, denoise):
    with pytest.raises(ValueError, match=words):
        drawn("eta", "0", "steps", "1", latent=latent, denoise=denoise)


def test_the_progress_is_that_of_the_whole_grid(monkeypatch):
    """Newer hosts tell of a step only where the last one was a while ago."""
    import comfy.utils

    told = []
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", lambda *given, **_: told.append(given[:2]))
    drawn("eta", "0, 1", "steps", "2, 3")
    steps = [step for step, _ in told]
    assert steps == sorted(set(steps)) and steps[-1] == 10 and {total for _, total in told} == {10}


@pytest.mark.parametrize("count", [1, 3])
def test_video_with_sound(count):
    """Every part of a nested LATENT comes out as a batch."""
    parts = [torch.randn(2, 4, 3, 8, 8), torch.randn(2, 4, 8, 8)]
    nested = {"samples": comfy.nested_tensor.NestedTensor(parts)}
    cells, _ = grid.plan(MODEL, OWN | {"order": 1, "denoise": 0.0}, "eta", "0 " * count, "steps", "")
    out = grid.sample(MODEL, C, C, nested, cells)["samples"]
    assert [tuple(part.shape) for part in out.unbind()] == [(count, 4, 3, 8, 8), (count, 4, 8, 8)]
    assert all(torch.equal(a[:1], b[:1]) for a, b in zip(out.unbind(), parts, strict=True))
