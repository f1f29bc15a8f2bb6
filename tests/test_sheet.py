"""Draft, pick, finish: what the contact sheet passes on, and that a picked draft's final is its own."""

import pickle

import comfy.nested_tensor
import folder_paths
import graphs
import pytest
import torch
from comfy_execution.graph_utils import ExecutionBlocker
from comfy_extras.nodes_custom_sampler import CFGGuider, Noise_RandomNoise, SamplerCustomAdvanced
from ddim_toolkit.bench import analytic
from ddim_toolkit.host import sheet
from ddim_toolkit.nodes.drafting import DDIMContactSheet, DDIMSeed
from ddim_toolkit.nodes.sampling import DDIMKSampler, DDIMSampler
from ddim_toolkit.nodes.schedules import DDIMStrideScheduler
from ddim_toolkit.runner.comfyui import RunError
from safetensors.torch import load

from nodes import KSampler, LatentFromBatch

SEED, BATCH = 2**63 + 5, 8


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_paths, "temp_directory", str(tmp_path))
    return tmp_path


def pictures(count, size=16):
    return torch.rand(count, size, size, 3, generator=torch.Generator().manual_seed(0))


def picked(latent, picks, frames=1):
    images = pictures(len(sheet.latents.parts(latent)[0]) * frames)
    chosen, rows = DDIMContactSheet.execute(images, picks, 0, latent).args
    return images, chosen, rows


# ---- what is passed on


def test_rows_keep_masks_and_their_places():
    mask = torch.rand(BATCH, 1, 8, 8)
    latent = {"samples": torch.rand(BATCH, 4, 8, 8), "noise_mask": mask, "type": "kept"}
    images, chosen, rows = picked(latent, "3, 7")
    assert torch.equal(chosen, images[[2, 6]]) and torch.equal(rows["samples"], latent["samples"][[2, 6]])
    assert rows["batch_index"] == [2, 6] and torch.equal(rows["noise_mask"], mask[[2, 6]])
    assert rows["type"] == "kept" and "batch_index" not in latent

    again = picked(rows, "2")[2]  # a sheet of a sheet: places are those of the first batch
    assert again["batch_index"] == [6] and torch.equal(again["noise_mask"], mask[[6]])
    one_mask = picked(latent | {"noise_mask": mask[:1]}, "1 8")[2]
    assert torch.equal(one_mask["noise_mask"], mask[[0, 0]])


def test_rows_of_video_bring_all_their_frames():
    latent = {"samples": torch.rand(3, 16, 2, 8, 8)}
    images, chosen, rows = picked(latent, "2", frames=5)
    assert torch.equal(chosen, images[5:10]) and torch.equal(rows["samples"], latent["samples"][1:2])
    shown = DDIMContactSheet.execute(images, "", 0, latent).ui["ddim_sheet"][0]
    assert len(shown["pictures"]) == 3


def test_rows_of_nested_latents():
    parts = [torch.rand(4, 16, 2, 8, 8), torch.rand(4, 8, 50)]
    masks = [torch.rand(4, 1, 2, 8, 8), torch.rand(1, 1, 50)]
    latent = {
        "samples": comfy.nested_tensor.NestedTensor(parts),
        "noise_mask": comfy.nested_tensor.NestedTensor(masks),
    }
    _, _, rows = picked(latent, "4, 2", frames=5)
    for whole, part in zip(parts, rows["samples"].unbind(), strict=True):
        assert torch.equal(part, whole[[3, 1]])
    video, sound = rows["noise_mask"].unbind()
    assert torch.equal(video, masks[0][[3, 1]]) and torch.equal(sound, masks[1][[0, 0]])


def test_nothing_picked_blocks_silently_and_a_missing_latent_says_so():
    for blocked in DDIMContactSheet.execute(pictures(2), " ", 0).args:
        assert isinstance(blocked, ExecutionBlocker) and blocked.message is None
    chosen, rows = DDIMContactSheet.execute(pictures(2), "2", 0).args
    assert torch.equal(chosen, pictures(2)[1:]) and "latent_image" in rows.message


@pytest.mark.parametrize("picks", ["9", "0", "-1", "three", "1.5", "2;3", "³", "1" * 30])
def test_bad_picks(picks):
    with pytest.raises(ValueError, match="picks: .* allowed are the numbers 1 to 8"):
        DDIMContactSheet.execute(pictures(8), picks, 0)


def test_words_are_refused_before_anything_runs():
    assert DDIMContactSheet.validate_inputs(None) and DDIMContactSheet.validate_inputs("3, 99 1")
    with pytest.raises(ValueError, match='"three" names no picture'):
        DDIMContactSheet.validate_inputs("1, three")


def test_bad_pictures():
    with pytest.raises(ValueError, match="latent_image has 4 pictures, but images has 8"):
        DDIMContactSheet.execute(pictures(8), "", 0, {"samples": torch.zeros(4, 4, 8, 8)})
    with pytest.raises(ValueError, match="images holds NaN"):
        DDIMContactSheet.execute(pictures(8) * float("nan"), "", 0)
    for shape in ((2, 0, 8, 3), (2, 8, 8, 5), (2, 8, 8)):
        with pytest.raises(ValueError, match="images has the shape .*; pictures are"):
            DDIMContactSheet.execute(torch.zeros(shape), "", 0)


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"samples": torch.full((8, 4, 2, 2), torch.nan)}, "latent_image holds NaN"),
        ({"samples": torch.zeros(0, 4, 2, 2)}, "latent_image is empty"),
        ({"noise_mask": torch.zeros(0, 1, 16, 16)}, "its noise_mask is empty"),
        ({"noise_mask": torch.full((8, 1, 16, 16), torch.inf)}, "its noise_mask holds NaN"),
    ],
)
def test_bad_latents(wrong, words):
    with pytest.raises(ValueError, match=words):
        DDIMContactSheet.execute(pictures(8), "1", 0, {"samples": torch.zeros(8, 4, 2, 2)} | wrong)


def test_bad_labels_and_columns():
    for labels in ("", " \n", "a\nb\nc\n"):
        shown = DDIMContactSheet.execute(pictures(3), "", 0, labels=labels).ui["ddim_sheet"][0]
        assert len(shown["labels"]) in (0, 3)
    for labels, count in (("a", 1), ("a\nb\nc\nd", 4)):
        with pytest.raises(ValueError, match=f"labels has {count} lines, but there are 3 pictures"):
            DDIMContactSheet.execute(pictures(3), "", 0, labels=labels)
    with pytest.raises(ValueError, match="columns is -1; allowed are 0 to 64"):
        DDIMContactSheet.execute(pictures(3), "", -1)


@pytest.mark.parametrize("shape", [(1, 8, 3), (8, 1, 3), (1, 1, 3), (8, 8, 1), (8, 8, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pictures_of_any_shape_and_dtype_keep_their_size(temporary, shape, dtype):
    from PIL import Image

    sheet = DDIMContactSheet.execute(torch.rand(1, *shape).to(dtype), "", 0).ui["ddim_sheet"][0]
    assert Image.open(temporary / sheet["pictures"][0]["filename"]).size == (shape[1], shape[0])


def test_files_are_the_pictures_and_written_once(temporary):
    from PIL import Image

    wide = torch.rand(1, 3, 4, 3).repeat_interleave(300, 1).repeat_interleave(300, 2)
    shown = DDIMContactSheet.execute(wide, "", 2, labels="eta 0\n").ui["ddim_sheet"][0]
    assert shown["columns"] == 2 and shown["labels"] == ["eta 0"] and shown["picks"] == []
    [file] = shown["pictures"]
    whole, small = (Image.open(temporary / file[name]) for name in ("filename", "small"))
    assert whole.size == (1200, 900) and small.size == (512, 384)
    colour = torch.tensor(whole.getpixel((150, 150))) / 255
    assert (colour - wide[0, 150, 150]).abs().max() < 0.02

    written = {path.name: path.stat().st_mtime_ns for path in temporary.iterdir()}
    assert DDIMContactSheet.execute(wide, "1", 0).ui["ddim_sheet"][0]["pictures"] == [file]
    assert {path.name: path.stat().st_mtime_ns for path in temporary.iterdir()} == written


# ---- the picked draft's final


def test_the_seed_and_its_noise():
    number, noise = DDIMSeed.execute(SEED).args
    latent = {"samples": torch.zeros(3, 4, 8, 8)}
    assert number == SEED == noise.seed
    assert torch.equal(noise.generate_noise(latent), Noise_RandomNoise(SEED).generate_noise(latent))
    assert pickle.loads(pickle.dumps(noise)) == noise


def counting(model):
    """The model, and a list of the batch sizes that it is called with."""
    model, calls = model.clone(), []

    def count(apply, call):
        calls.append(len(call["input"]))
        return apply(call["input"], call["timestep"], **call["c"])

    model.set_model_unet_function_wrapper(count)
    return model, calls


def ksampler(model, condition, latent):
    return KSampler().sample(model, SEED, 3, 1.0, "dpmpp_2m", "karras", condition, condition, latent)[0]


def uni_pc(model, condition, latent):
    return KSampler().sample(model, SEED, 3, 1.0, "uni_pc", "normal", condition, condition, latent, 0.7)[0]


def ddim_ksampler(model, condition, latent):
    return DDIMKSampler.execute(model, SEED, 3, 1.0, 0.6, "trailing", condition, condition, latent, 1.0).args[
        0
    ]


def advanced(model, condition, latent):
    noise = DDIMSeed.execute(SEED).args[1]
    guider = CFGGuider.execute(model, condition, condition, 1.0).args[0]
    sampler = DDIMSampler.execute(0.6, "posterior", 2, "none", "cpu", 0, latent_image=latent).args[0]
    sigmas = DDIMStrideScheduler.execute(model, 3, "trailing", 1.0).args[0]
    return SamplerCustomAdvanced.execute(noise, guider, sampler, sigmas, latent).args[0]


FINALS = [ksampler, uni_pc, ddim_ksampler, advanced]


@torch.inference_mode()
@pytest.mark.parametrize("final", FINALS)
def test_the_final_of_a_pick_is_that_of_the_whole_batch(final):
    """On a model whose numbers do not depend on how many pictures it is given."""
    model, calls = counting(analytic.model(means=analytic.four_modes()))
    latent = {"samples": torch.zeros(BATCH, 4, 8, 8)}
    whole = final(model, analytic.CONDITIONING, latent)["samples"]
    once = len(calls)
    alone = final(model, analytic.CONDITIONING, picked(latent, "3")[2])["samples"]
    assert calls == [BATCH] * once + [1] * once
    assert torch.equal(alone[0], whole[2])
    two = final(model, analytic.CONDITIONING, picked(latent, "7, 3")[2])["samples"]
    assert torch.equal(two, whole[[6, 2]])


@torch.inference_mode()
@pytest.mark.parametrize("final", FINALS)
def test_the_final_of_a_pick_on_the_shipped_model(shipped, final):
    """Bit for bit that of its seed and place alone; a network rounds a batch of eight otherwise than one
    picture."""
    model, clip, _ = shipped
    condition = clip.encode_from_tokens_scheduled(clip.tokenize("face"))
    latent = {"samples": torch.zeros(BATCH, 4, 16, 16)}
    pick = final(model, condition, picked(latent, "3")[2])["samples"]
    alone = final(model, condition, LatentFromBatch().frombatch(latent, 2, 1)[0])["samples"]
    assert torch.equal(pick, alone)
    torch.testing.assert_close(pick, final(model, condition, latent)["samples"][2:3], rtol=0, atol=1e-4)


@torch.inference_mode()
def test_a_second_pass_over_the_drafts_themselves():
    model = analytic.model(means=analytic.four_modes())
    drafts = ddim_ksampler(model, analytic.CONDITIONING, {"samples": torch.zeros(BATCH, 4, 8, 8)})
    whole = uni_pc(model, analytic.CONDITIONING, drafts)["samples"]
    again = uni_pc(model, analytic.CONDITIONING, picked(drafts, "5")[2])["samples"]
    assert torch.equal(again[0], whole[4])


@pytest.mark.parametrize("final", [ksampler, ddim_ksampler])
def test_video_of_a_pick(final):
    model = analytic.model(means=analytic.four_modes((4, 2, 8, 8)))
    latent = {"samples": torch.zeros(3, 4, 2, 8, 8)}
    whole = final(model, analytic.CONDITIONING, latent)["samples"]
    alone = final(model, analytic.CONDITIONING, picked(latent, "3", frames=5)[2])["samples"]
    assert torch.equal(alone[0], whole[2])


# ---- in the queue


def draft_and_final(picks, seed=7):
    """Eight drafts, the sheet, and behind it a final of KSampler that is saved."""
    graph = graphs.Graph(batch=BATCH)
    number = graph.node("DDIMSeed", "seed", seed=seed).out(0)
    drafts = graph.node("VAEDecode", "drafts", samples=graph.ksampler("draft", number, 2), vae=graph.vae).out(
        0
    )
    shown = graph.node(
        "DDIMContactSheet", "sheet", images=drafts, picks=picks, columns=0, latent_image=graph.empty()
    )
    final = graph.node(
        "KSampler",
        "final",
        model=graph.model,
        seed=number,
        steps=3,
        cfg=1.0,
        sampler_name="dpmpp_2m",
        scheduler="karras",
        latent_image=shown.out(1),
        denoise=1.0,
        **graph.conds,
    ).out(0)
    prompt = graph.saved(final).finalize()
    return {key: node | {"_meta": {"title": key}} for key, node in prompt.items()}


def cached(entry):
    [nodes] = [data["nodes"] for event, data in entry["status"]["messages"] if event == "execution_cached"]
    return set(nodes)


def test_nothing_runs_behind_an_empty_sheet_and_drafts_come_from_the_cache(server):
    empty = server.queue(draft_and_final(""))
    [shown] = empty["outputs"]["sheet"]["ddim_sheet"]
    assert len(shown["pictures"]) == BATCH and "save latent" not in empty["outputs"]
    for picture in shown["pictures"]:
        assert server.image({"filename": picture["filename"], "type": "temp"}).startswith(b"\xff\xd8")

    entry = server.queue(draft_and_final("3"))
    assert {"drafts", "draft", "seed", "empty"} <= cached(entry)
    assert entry["outputs"]["sheet"]["ddim_sheet"] == [shown | {"picks": [3]}]
    alone = load(server.image(entry["outputs"]["save latent"]["latents"][0]))["latent_tensor"]
    entry = server.queue(draft_and_final("7, 3"))
    two = load(server.image(entry["outputs"]["save latent"]["latents"][0]))["latent_tensor"]
    assert alone.shape == (1, 4, 8, 8) and two.shape == (2, 4, 8, 8)
    torch.testing.assert_close(two[1:], alone, rtol=0, atol=1e-4)


def test_the_queue_says_what_is_wrong_with_picks(server):
    with pytest.raises(RunError, match='sheet: .*"three" names no picture'):
        server.queue(draft_and_final("three"))
    with pytest.raises(RunError, match='picks: "9" names no picture; allowed are the numbers 1 to 8'):
        server.queue(draft_and_final("9"))
