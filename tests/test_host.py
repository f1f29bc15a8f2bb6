"""What ComfyUI's graphs ask of a sampler: masks, areas, ControlNet, dtypes, checkpoints. At eta 0 the answer
is the host's euler."""

import inspect

import comfy.cldm.cldm
import comfy.controlnet
import comfy.ops
import comfy.sample
import comfy.samplers
import comfy.utils
import folder_paths
import pytest
import torch
from ddim_toolkit.host import sampler, schedule
from ddim_toolkit.host.model import alphas, model_sampling, rows_of
from ddim_toolkit.nodes.sampling import DDIMKSampler
from helpers import empty, encode

import nodes


def both(model, positive, negative, latent, denoise=1.0, steps=4):
    """(ours at eta 0, the host's euler) on the same trailing stride."""
    sigmas, _ = schedule.stride_sigmas(model, steps, "trailing", denoise)
    return [
        sampler.run(model, 5, 3.0, positive, negative, latent, s, sigmas)[0]["samples"]
        for s in (sampler.ddim_sampler(), comfy.samplers.sampler_object("euler"))
    ]


def same(pair, tolerance=2e-4):
    ours, host = pair
    assert ours.isfinite().all() and ours.std() > 0.05 and (ours - host).abs().max() < tolerance


@pytest.fixture(scope="module")
def prompts(shipped):
    return encode(shipped[1], "red heart"), encode(shipped[1], "")


EMPTY = empty(16)


def test_the_kind_of_model_tells_alpha(shipped):
    from comfy.model_base import ModelType
    from ddim_toolkit.bench import analytic

    assert alphas(model_sampling(shipped[0]), [14.0, 1.0, 0.0]) == [1.0, 1.0, 1.0]
    flow = alphas(model_sampling(analytic.model(ModelType.FLOW)), [1.0, 0.75, 0.0])
    assert flow == [0.0, 0.25, 1.0]


def test_noise_levels_find_their_rows_as_the_hosts_timestep_does(shipped):
    from comfy.model_base import ModelType
    from ddim_toolkit.bench import analytic

    for model, above in ((shipped[0], 0), (analytic.model(ModelType.FLOW), 1)):  # flow's first row is t = 1
        sampling = model_sampling(model)
        sigmas = torch.cat([sampling.sigmas[[999, 500, 3]].cpu(), sampling.sigmas[20:22].mean()[None].cpu()])
        found = torch.tensor(rows_of(sampling, sigmas.tolist())) + above
        assert found[:3].tolist() == pytest.approx(sampling.timestep(sigmas[:3]).tolist(), abs=1e-3)
        assert 20.4 < found[3] - above < 20.6


def test_ksampler_node_equals_its_parts_and_the_hosts_start(shipped, prompts):
    out = DDIMKSampler.execute(shipped[0], 5, 4, 3.0, 0.0, "trailing", *prompts, EMPTY, 1.0)
    ours, host = both(shipped[0], *prompts, EMPTY)
    assert torch.equal(out.args[0]["samples"], ours)
    assert (out.args[0]["samples"] - out.args[1]["samples"]).abs().max() < 1e-4
    same((ours, host))


def test_inpainting_keeps_what_the_mask_spares(shipped, prompts):
    picture = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(1, 1, 128, 128)
    mask[..., :64] = 1
    pair = both(shipped[0], *prompts, {"samples": picture, "noise_mask": mask})
    same(pair)
    assert (pair[0] - picture)[..., 9:].abs().max() < 1e-4 and (pair[0] - picture)[..., :7].abs().max() > 0.1


def test_denoise_below_1_starts_from_the_picture(shipped, prompts):
    picture = {"samples": 0.5 * torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))}
    near, far = (both(shipped[0], *prompts, picture, d)[0] for d in (0.2, 0.9))
    same(both(shipped[0], *prompts, picture, 0.5))
    assert (near - picture["samples"]).std() < (far - picture["samples"]).std()


def test_denoise_0_returns_the_latent(shipped, prompts):
    out = DDIMKSampler.execute(shipped[0], 5, 4, 3.0, 0.0, "trailing", *prompts, EMPTY, 0.0)
    assert torch.equal(out.args[0]["samples"], EMPTY["samples"])


def test_areas_masks_and_timestep_ranges(shipped, prompts):
    clip = shipped[1]
    area = nodes.ConditioningSetArea().append(encode(clip, "green apple"), 64, 64, 0, 0, 1.0)[0]
    masked = nodes.ConditioningSetMask().append(
        encode(clip, "pizza"), torch.ones(1, 128, 128), "default", 0.5
    )[0]
    late = nodes.ConditioningSetTimestepRange().set_range(encode(clip, "rocket"), 0.5, 1.0)[0]
    same(both(shipped[0], prompts[0] + area + masked + late, prompts[1], EMPTY))


def test_controlnet(shipped, prompts):
    config = shipped[0].model.model_config.unet_config
    known = inspect.signature(comfy.cldm.cldm.ControlNet).parameters
    arguments = {key: value for key, value in config.items() if key in known}
    arguments["transformer_depth"] = list(
        config["transformer_depth"]
    )  # it is emptied while the network is built
    net = comfy.cldm.cldm.ControlNet(hint_channels=3, **arguments, operations=comfy.ops.disable_weight_init)
    for parameter in net.parameters():
        parameter.data.normal_(0, 0.03, generator=torch.Generator().manual_seed(parameter.numel()))
    control = comfy.controlnet.ControlNet(net, load_device=shipped[0].load_device)
    positive, negative = nodes.ControlNetApplyAdvanced().apply_controlnet(
        *prompts,
        control,
        torch.rand(1, 128, 128, 3, generator=torch.Generator().manual_seed(1)),
        1.0,
        0.0,
        1.0,
    )
    pair = both(shipped[0], positive, negative, EMPTY)
    same(pair, 1e-3)
    assert (pair[0] - both(shipped[0], *prompts, EMPTY)[0]).abs().max() > 0.01


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_models_keep_a_float32_state(dtype):
    from comfy.model_base import ModelType
    from ddim_toolkit.bench import analytic

    model = analytic.model(ModelType.EPS, analytic.four_modes(), 0.3)
    model.model.manual_cast_dtype = dtype
    inputs, states = [], []
    model.model.diffusion_model.register_forward_pre_hook(lambda module, args: inputs.append(args[0].dtype))
    sigmas, _ = schedule.stride_sigmas(model, 6, "trailing")
    out = comfy.sample.sample_custom(
        model,
        torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)),
        1.0,
        sampler.ddim_sampler(eta=0.5),
        sigmas,
        analytic.CONDITIONING,
        analytic.CONDITIONING,
        torch.zeros(1, 4, 8, 8),
        seed=1,
        disable_pbar=True,
        callback=lambda i, x0, x, n: states.append(x.dtype),
    )
    assert set(inputs) == {dtype} and set(states) == {torch.float32} and out.isfinite().all()


def save_checkpoint(folder, name, network):
    generator = torch.Generator().manual_seed(0)
    weights = {
        f"model.diffusion_model.{key}": torch.randn(value.shape, generator=generator) * 0.02
        for key, value in network.state_dict().items()
    }
    comfy.utils.save_torch_file(weights, str(folder / name))


@pytest.fixture
def checkpoints(tmp_path, monkeypatch):
    monkeypatch.setitem(
        folder_paths.folder_names_and_paths, "checkpoints", ([str(tmp_path)], {".safetensors"})
    )
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    return tmp_path


def run_checkpoint(name, width, channels, extra=None, space=(8, 8)):
    model = nodes.CheckpointLoaderSimple().load_checkpoint(name)[0]
    conditioning = [[torch.randn(1, 77, width, generator=torch.Generator().manual_seed(0)), extra or {}]]
    latent = {"samples": torch.zeros(1, channels, *space)}
    return model, both(model, conditioning, conditioning, latent, steps=3)


def test_a_checkpoint_that_the_host_knows_as_sd15(checkpoints):
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    network = UNetModel(
        image_size=32,
        in_channels=4,
        out_channels=4,
        model_channels=320,
        num_res_blocks=[1, 1],
        channel_mult=[1, 1],
        num_heads=8,
        num_head_channels=-1,
        transformer_depth=[1, 1],
        transformer_depth_output=[1, 1, 1, 1],
        transformer_depth_middle=1,
        use_spatial_transformer=True,
        context_dim=768,
        use_linear_in_transformer=False,
        legacy=False,
        device="cpu",
        dtype=torch.float32,
        operations=comfy.ops.disable_weight_init,
    )
    save_checkpoint(checkpoints, "small_sd15.safetensors", network)
    model, pair = run_checkpoint("small_sd15.safetensors", 768, 4)
    assert type(model.model.model_config).__name__ == "SD15"
    same(pair, 1e-3)


def test_a_checkpoint_that_the_host_knows_as_a_flow_model(checkpoints):
    from comfy.ldm.modules.diffusionmodules.mmdit import MMDiT

    network = MMDiT(
        input_size=None,
        in_channels=16,
        patch_size=2,
        depth=2,
        pos_embed_max_size=16,
        num_patches=256,
        adm_in_channels=2048,
        mlp_ratio=4.0,
        context_embedder_config={
            "target": "torch.nn.Linear",
            "params": {"in_features": 4096, "out_features": 128},
        },
        qkv_bias=True,
        device="cpu",
        dtype=torch.float32,
        operations=comfy.ops.disable_weight_init,
    )
    save_checkpoint(checkpoints, "small_sd3.safetensors", network)
    model, pair = run_checkpoint("small_sd3.safetensors", 4096, 16, {"pooled_output": torch.zeros(1, 2048)})
    assert type(model.model.model_config).__name__ == "SD3" and alphas(model_sampling(model), [1.0]) == [0.0]
    same(pair, 1e-3)
