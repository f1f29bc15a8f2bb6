"""DDIM Draft LoRA: its mathematics in closed form, training on the shipped model, its LoRA in core."""

import copy
from contextlib import nullcontext
from functools import partial

import comfy.model_management
import comfy.samplers
import comfy.utils
import folder_paths
import pytest
import torch
from comfy import supported_models
from comfy.ldm.flux.model import FluxParams
from comfy.model_base import ModelType
from comfy.model_patcher import ModelPatcher
from comfy_extras import nodes_train
from ddim_toolkit.bench import analytic
from ddim_toolkit.ddim import distill, solve
from ddim_toolkit.host import draft_lora, sampler, schedule
from ddim_toolkit.host.adapters import Student
from ddim_toolkit.host.model import alphas, model_sampling
from ddim_toolkit.host.recompute import checkpointed
from ddim_toolkit.nodes.training import DDIMDraftLoRA
from torch.optim.optimizer import register_optimizer_step_post_hook

import nodes

CAPTIONS = "red heart\nsmiling face\ncat\ndog\nblue car\ngreen apple\ntree\nhouse\nsun"
LATENT = {"samples": torch.zeros(1, 4, 8, 8)}
C = analytic.CONDITIONING


@pytest.mark.parametrize("kind", [ModelType.EPS, ModelType.FLOW])
def test_the_teacher_is_the_hosts_dpmpp_2m(kind):
    model = analytic.model(kind, analytic.four_modes(), 0.5)
    sigmas, _ = schedule.stride_sigmas(model, 8, "trailing")
    states = []

    def watch(network, x, sigmas, extra_args=None, callback=None, disable=None):
        ones = x.new_ones(len(x))
        states.append(
            distill.teacher_states(
                lambda x, sigma: network(x, sigma * ones, **extra_args), x, sigmas.tolist(), 2
            )
        )
        return states[0][-1]

    ours, host = (
        comfy.sample.sample_custom(
            model,
            torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)),
            1.0,
            each,
            sigmas,
            C,
            C,
            torch.zeros(2, 4, 8, 8),
            disable_pbar=True,
        )
        for each in (comfy.samplers.KSAMPLER(watch), comfy.samplers.sampler_object("dpmpp_2m"))
    )
    assert (ours - host).abs().max() < 1e-4
    assert len(states[0]) == 5  # 8 steps, every second state, and the noise


def test_the_teachers_steps_must_divide_into_jumps():
    with pytest.raises(ValueError, match="7 steps are not a multiple of 2"):
        distill.teacher_states(None, torch.zeros(1), [8.0, 7, 6, 5, 4, 3, 2, 0], 2)


def test_no_loss_where_the_student_lands_on_the_teachers_states():
    """Of one Gaussian, whose runs are known: the denoiser that makes each DDIM jump exact has no loss, and
    one that is off by d in v has the loss d^2 at the first jump."""
    model = analytic.model(ModelType.EPS)
    sigmas, _ = schedule.stride_sigmas(model, 4, "trailing")
    levels, alpha = sigmas.double().tolist(), [1.0] * 5
    mean, deviation = 0.3, 0.5
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(2, 4, 8, 8, dtype=torch.float64, generator=generator) * levels[0]
    spread = [(deviation**2 + s**2) ** 0.5 for s in levels]
    states = [mean + (start - mean) * s / spread[0] for s in spread]  # the exact run through each level

    def exact(x, i):
        ratio = levels[i + 1] / levels[i]
        return (mean + (x - mean) * spread[i + 1] / spread[i] - ratio * x) / (1 - ratio)

    losses = list(distill.walk_losses(exact, states, alpha, levels))
    assert len(losses) == 4 and max(losses) < 1e-20
    for off in (0.1, 0.4):
        # v = (eps - sigma x0_hat) / sqrt(1 + sigma^2): x0_hat is then off by sigma d / sqrt(1 + sigma^2).
        shift = off * levels[0] / (1 + levels[0] ** 2) ** 0.5
        student = partial(lambda x, i, shift: exact(x, i) + shift, shift=shift)
        first = next(distill.walk_losses(student, states, alpha, levels))
        assert float(first) == pytest.approx(off**2, rel=1e-6)


def test_the_walk_is_the_students_own_and_its_graph_one_jump_long():
    """The second loss depends on where the first jump led, but carries no gradient back to it."""
    levels, alpha = [4.0, 2.0, 0.0], [1.0] * 3
    states = [torch.full((1, 1, 1, 1), value) for value in (4.0, 1.0, 0.0)]
    weights = [torch.zeros(1, requires_grad=True), torch.zeros(1, requires_grad=True)]
    seen = []

    def student(x, i):
        seen.append(x)
        return x * 0.5 + weights[i]

    for loss in distill.walk_losses(student, states, alpha, levels):
        loss.backward()
    ours = solve.sample(lambda x, i: x * 0.5, states[0], alpha, levels)
    assert seen[1].item() == 3.0 and ours.item() == 1.5  # not the teacher's 1.0
    assert weights[0].grad.item() == pytest.approx((1 + 1 / 16) * 2 * (2.0 - (1.0 - 2.0) / 0.5))
    assert weights[1].grad.item() == pytest.approx((1 + 1 / 4) * 2 * (1.5 - 0.0))


@pytest.fixture(scope="module")
def parts(shipped):
    """The shipped model as nodes get it, in inference mode."""
    with torch.inference_mode():
        model, clip, _ = shipped
        yield model, clip, clip.encode_from_tokens_scheduled(clip.tokenize(""))


def trained(parts, captions=CAPTIONS, rounds=24, seed=0, **others):
    model, clip, negative = parts
    given = dict(
        model=model,
        negative=negative,
        cfg=4.0,
        latent_image=LATENT,
        calls=2,
        stride="trailing",
        teacher_runs=16,
        rounds=rounds,
        rank=4,
        learning_rate=2e-3,
        batch=4,
        seed=seed,
        gradient_checkpointing=False,
        clip=clip,
        captions=captions,
    )
    with torch.inference_mode():
        return DDIMDraftLoRA.execute(**given | others).args


@pytest.fixture(scope="module")
def lesson(parts):
    before = copy.deepcopy(parts[0].model.diffusion_model.state_dict())
    state = torch.random.get_rng_state()
    result = trained(parts)
    after = parts[0].model.diffusion_model.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)  # the model itself is left alone
    assert torch.equal(state, torch.random.get_rng_state())  # and the global generator
    return result


def test_training_brings_the_draft_nearer(lesson):
    _, losses, sigmas, report = lesson
    losses = losses["loss"]
    assert len(losses) == 24 and sum(losses[-8:]) < 0.8 * sum(losses[:8])
    errors = {line.split(maxsplit=1)[1]: float(line.split()[0]) for line in report.splitlines()[4:]}
    own = errors.pop("DDIM with this LoRA")
    assert own < errors["DDIM, 1 steps at cfg 4"]
    nearer = "nearer" if own < min(errors.values()) else "less near"
    assert report.startswith(f"Drafts with this LoRA come {nearer} to the model's own pictures than")
    assert "24 of 24 rounds, 16 teacher runs" in report and len(sigmas) == 3


def test_cores_nodes_take_it(parts, lesson, tmp_path, monkeypatch):
    """Load LoRA Model, Save LoRA Weights and LoraLoaderModelOnly: the pictures are the student's."""
    model, clip, negative = parts
    lora, _, sigmas, _ = lesson
    with torch.inference_mode():
        positive = clip.encode_from_tokens_scheduled(clip.tokenize("red heart"))

        def picture(model):
            ddim = sampler.ddim_sampler()
            return sampler.run(model, 5, 1.0, positive, negative, LATENT, ddim, sigmas)[0]["samples"]

        with torch.inference_mode(False):
            student = Student(model, 4, 0, lora)
            student.active = True
        wanted = picture(student.model)
        loaded = nodes_train.LoraModelLoader.execute(model, lora, 1.0).args[0]
        assert len(loaded.patches) == len(lora) // 3
        assert (picture(loaded) - wanted).abs().max() < 1e-4
        monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path))
        nodes_train.SaveLoRA.execute(lora, "loras/draft", 24)
        file = next(tmp_path.rglob("*.safetensors"))
        folder = ([str(file.parent)], {".safetensors"})
        monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", folder)
        from_file = nodes.LoraLoaderModelOnly().load_lora_model_only(model, file.name, 1.0)[0]
        assert (picture(from_file) - wanted).abs().max() < 1e-4
        assert (picture(model) - wanted).abs().max() > 0.01


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda value: value[:-1], "earlier_lora: .* is for a weight of"),
        (lambda value: value[:, :-1], "earlier_lora: .* parts of two ranks"),
        (lambda value: value * torch.nan, "earlier_lora: .* is damaged: it holds NaN"),
    ],
)
def test_an_earlier_lora_that_does_not_fit_is_named(shipped, lesson, change, words):
    key = next(name for name in lesson[0] if name.endswith("lora_up.weight"))
    with torch.inference_mode(False), pytest.raises(ValueError, match=words):
        Student(shipped[0], 1, 0, lesson[0] | {key: change(lesson[0][key])})


def test_going_on_begins_where_the_earlier_lora_was(parts, lesson):
    on = trained(parts, rounds=1, seed=9, earlier_lora=lesson[0], learning_rate=1e-7)
    assert on[0].keys() == lesson[0].keys()
    for key, value in lesson[0].items():
        assert (on[0][key] - value).abs().max() < 1e-6
    assert on[1]["loss"][0] < 0.8 * trained(parts, rounds=1, seed=9)[1]["loss"][0]


def test_the_lora_is_the_average_of_its_rounds(parts):
    rounds = []

    def keep(optimizer, *_):
        rounds.append([weight.detach().clone() for weight in optimizer.param_groups[0]["params"]])

    hook = register_optimizer_step_post_hook(keep)
    lora = trained(parts, rounds=3)[0]
    hook.remove()
    found = [value for name, value in lora.items() if not name.endswith(".alpha")]
    for value, first, second, third in zip(found, *rounds, strict=True):
        after_two = first / 11 + second * 10 / 11
        assert torch.allclose(value, after_two * 2 / 12 + third * 10 / 12, atol=1e-6)


def test_checkpointing_changes_memory_alone(parts):
    plain, saving = (trained(parts, rounds=2, gradient_checkpointing=each)[0] for each in (False, True))
    assert all((plain[key] - saving[key]).abs().max() < 1e-5 for key in plain)
    forwards = [m for m in parts[0].model.modules() if "forward" in vars(m)]
    assert not forwards  # the host's helper is taken off again


@torch.inference_mode(False)
@torch.enable_grad()
def test_gradients_are_right_where_a_block_writes_into_what_it_saved():
    """`x += ...` after a norm that needs x for its gradient, as in the host's Flux blocks."""

    class Block(torch.nn.Module):
        def __init__(self, in_place):
            super().__init__()
            self.weight, self.in_place = torch.nn.Parameter(torch.eye(4).double() + 0.3), in_place

        def forward(self, x, options):
            added = torch.tanh(torch.layer_norm(x, (4,)) @ self.weight)
            if self.in_place:
                x += added
            else:
                x = x + added
            return {"x": x * options["by"][0], "rest": (None, torch.arange(3))}

    x = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    gradients = []
    for in_place, wanted in ((False, None), (True, False), (True, True)):
        network = torch.nn.Sequential(Block(in_place), Block(in_place))
        with nullcontext() if wanted is None else checkpointed(network, wanted):
            y = x.clone()
            for block in network:
                y = block(y, options={"by": [torch.tensor(2.0).double()]})["x"]
            y.pow(3).sum().backward()
        gradients.append([block.weight.grad for block in network])
        assert not any("forward" in vars(block) for block in network)
    for found in gradients[1:]:
        assert all(torch.allclose(a, b, rtol=1e-12) for a, b in zip(found, gradients[0], strict=True))


def tiny(kind):
    """A MODEL around one of the host's own transformers, loaded in inference mode, in half precision."""
    flux = dict(vec_in_dim=8, context_in_dim=8, hidden_size=32, mlp_ratio=2.0, num_heads=2, depth=1)
    flux |= dict(in_channels=16, out_channels=16, patch_size=2, depth_single_blocks=1, axes_dim=[4, 6, 6])
    flux |= dict(image_model="flux", theta=10000, qkv_bias=True, guidance_embed=True)
    if "txt_ids_dims" in FluxParams.__dataclass_fields__:
        flux["txt_ids_dims"] = []
    wan = dict(image_model="wan2.1", model_type="t2v", text_len=8, dim=24, ffn_dim=32, freq_dim=16)
    wan |= dict(text_dim=8, num_heads=2, num_layers=1)
    of, settings = {"flux": (supported_models.Flux, flux), "wan": (supported_models.WAN21_T2V, wan)}[kind]
    config = of(settings | {"dtype": torch.bfloat16})
    config.set_inference_dtype(torch.bfloat16, torch.float32)
    cpu = torch.device("cpu")
    network = config.get_model({}, "", device=cpu)
    for index, weight in enumerate(network.diffusion_model.parameters()):
        drawn = torch.randn(weight.shape, generator=torch.Generator().manual_seed(index))
        weight.data.copy_(0.08 * drawn)
    return ModelPatcher(network, load_device=cpu, offload_device=cpu)


@pytest.mark.parametrize("kind, shape", [("flux", (1, 16, 8, 8)), ("wan", (1, 16, 2, 8, 8))])
def test_the_hosts_transformers_learn(kind, shape):
    with torch.inference_mode():
        model = tiny(kind)
        before = copy.deepcopy(model.model.state_dict())
        pooled = {"pooled_output": torch.ones(1, 8)}
        a, b, negative = ([[torch.full((1, 4, 8), value), pooled]] for value in (0.5, -0.5, 0.0))
        found = [
            trained(
                (model, None, negative),
                captions="",
                positive=a + b,
                latent_image={"samples": torch.zeros(shape)},
                teacher_runs=2,
                rounds=3,
                batch=2,
                seed=0xFFFFFFFFFFFFFFFF,
                gradient_checkpointing=wanted,
            )
            for wanted in (False, True)
        ]
    (plain, losses, _, _), saving = found[0], found[1][0]
    assert losses["loss"][2] < losses["loss"][0]
    assert all((plain[key] - saving[key]).abs().max() < 1e-5 for key in plain)
    assert max(plain[key].abs().max() for key in plain if key.endswith("lora_up.weight")) > 1e-4
    after = model.model.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(before[key], after[key]) for key in before)


def test_without_guidance_there_is_no_run_of_half_the_steps(parts):
    report = trained(parts, rounds=1, cfg=1.0)[3]
    assert "2 steps at cfg 1" in report and "1 steps" not in report


def test_cancel_keeps_what_there_is(parts, monkeypatch):
    tell = []
    monkeypatch.setattr("ddim_toolkit.nodes.training.page.tell", lambda text: tell.append(text))
    monkeypatch.setattr(
        "ddim_toolkit.nodes.training.duration",
        lambda seconds: comfy.model_management.interrupt_current_processing(len(tell) == 2) or "long",
    )
    lora, losses, _, report = trained(parts)
    assert len(losses["loss"]) == 3 and lora and "3 of 24 rounds, cancelled" in report
    assert "DDIM with this LoRA" in report and tell[0].startswith("round 1 of 24, loss ")


def test_cancel_before_the_first_round_is_a_cancel(parts):
    comfy.model_management.interrupt_current_processing(True)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        trained(parts)


def test_levels_between_are_even_in_timesteps():
    for kind in (ModelType.EPS, ModelType.FLOW, ModelType.EDM):
        sampling = model_sampling(analytic.model(kind))
        levels = schedule.stride_sigmas(analytic.model(kind), 4, "trailing")[0].double().tolist()
        fine = draft_lora.subdivided(sampling, levels, 4)
        assert len(fine) == 17 and fine[::4] == levels and fine == sorted(fine, reverse=True)
        rows = torch.searchsorted(sampling.sigmas.double(), torch.tensor(fine[:-1], dtype=torch.float64))
        assert (rows.diff() + 62).abs().max() <= 2
    assert alphas(model_sampling(analytic.model(ModelType.FLOW)), fine[:1]) != []


@pytest.mark.parametrize(
    "bad, words",
    [
        (dict(captions=""), "there are no prompts"),
        (dict(clip=None), "captions are given, but no clip"),
        (dict(sigmas=torch.tensor([14.0, 5.0])), "sigmas must fall to 0, each level once"),
        (dict(sigmas=torch.tensor([14.0, 5.0, 5.0, 0.0])), "sigmas must fall to 0, each level once"),
        (dict(learning_rate=0.0), "learning_rate is 0.0"),
        (dict(rank=0), "rank is 0; allowed are 1 to 512"),
        (
            dict(earlier_lora={"other.lora_up.weight": torch.zeros(1)}),
            "holds no weights for this model's network",
        ),
        (
            dict(
                earlier_lora={
                    "diffusion_model.time_embed.0.lora_up.weight": torch.zeros(3, 2),
                    "diffusion_model.time_embed.0.lora_down.weight": torch.zeros(2, 5),
                    "diffusion_model.time_embed.0.alpha": torch.tensor(2.0),
                }
            ),
            "earlier_lora: diffusion_model.time_embed.0 is for a weight of 3 x 5",
        ),
        (dict(latent_image={"samples": torch.zeros(1, 16, 8, 8) + 1}), "latent_image has 16 channels"),
        (dict(learning_rate=1.0, rounds=60), "the loss of round .*; lower learning_rate"),
    ],
)
def test_bad_input_is_named(parts, bad, words):
    with pytest.raises((ValueError, FloatingPointError), match=words):
        trained(parts, **bad)
