"""A draft LoRA trained on a MODEL: the host's adapters and guider around ddim.distill."""

import random
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

import comfy.model_management
import comfy.samplers
import comfy.utils
import latent_preview
import torch
from comfy.k_diffusion import sampling
from comfy.model_patcher import ModelPatcher

from ..ddim import distill, solve
from ..ddim.checks import within
from . import latents
from .adapters import Student, training
from .latents import Latent
from .model import ModelSampling, alphas, check_no_cache, check_sigmas, levels_at, model_sampling, rows_of
from .noise import batch_noise
from .recompute import checkpointed

SUBSTEPS = 4  # of the teacher in a jump of the student
FINE = 8  # of the reference that errors are measured against
HELD_OUT = 8  # pictures that are never trained on, and the share of the prompts kept for them: one in so many
WINDOW = 16  # batches of teacher runs kept, the newest
AVERAGED = 0.99  # what is kept of the weights' average in a round, once there were many
WARM_UP, FLAT = 10, 0.5  # rounds in which the rate rises; part of the rounds after which it falls to zero
PREVIEW = 10  # rounds from one preview of a held-out picture to the next
OWN = "DDIM with this LoRA"
RIVALS = {  # the host's samplers of one evaluation a step that are near at few; euler is DDIM at eta 0
    "DDIM": sampling.sample_euler,
    "dpmpp_2m": sampling.sample_dpmpp_2m,
    "ipndm": sampling.sample_ipndm,
    "deis": sampling.sample_deis,
    "res_multistep": sampling.sample_res_multistep,
}


@dataclass
class Draft:
    """What a training gave. Errors are RMSE of held-out pictures, in the LATENT, from the guided model's own
    with FINE substeps a jump."""

    lora: dict[str, torch.Tensor] = field(default_factory=dict)  # LORA_MODEL
    losses: list[float] = field(default_factory=list)  # one a round
    runs: int = 0  # of the teacher
    errors: dict[str, float] = field(default_factory=dict)  # all at the student's number of evaluations
    cancelled: bool = False


def train(
    model: ModelPatcher,
    prompts: list,
    negative: list,
    cfg: float,
    latent: Latent,
    sigmas: torch.Tensor,
    *,
    runs: int = 512,
    rounds: int = 500,
    rank: int = 16,
    rate: float = 1e-3,
    batch: int = 8,
    seed: int = 0,
    start: dict[str, torch.Tensor] | None = None,
    checkpointing: bool = True,
    progress: Callable[[int, float], None] = lambda done, loss: None,
) -> Draft:
    """A LoRA with which DDIM over `sigmas`, without guidance, comes where the guided model comes.

    prompts: CONDITIONING, each entry a prompt. latent: its first picture gives the size. sigmas: falling to
    0. runs: of the teacher, drawn evenly as the rounds go. start: a LORA_MODEL to go on from, of any rank.
    progress(rounds done, loss). The host's cancel ends the training, not the node: what there is comes back.
    Raises ValueError for bad input before any model call, FloatingPointError where a loss is not finite.
    """
    for name, value in (("teacher_runs", runs), ("rounds", rounds), ("rank", rank), ("batch", batch)):
        within(name, value, 1)
    within("learning_rate", rate, 1e-7, 1)
    if not prompts:
        raise ValueError("there are no prompts: connect positive, or clip and write captions")
    check_no_cache(model)
    levels = check_sigmas(sigmas, model_sampling(model))
    if levels[-1] != 0 or len(set(levels)) < len(levels):
        raise ValueError("sigmas must fall to 0, each level once; the last jump ends at the picture")
    samples = latents.check(latent, model)["samples"]
    if getattr(samples, "is_nested", False):
        raise ValueError("latent_image holds video with sound; a draft LoRA learns one kind of latent")
    draft = Draft()

    def school(network, x, sigmas, extra_args, callback, disable):
        lesson = Lesson(student, network, extra_args, levels, cfg, seed, x)
        bar, preview = comfy.utils.ProgressBar(rounds), latent_preview.prepare_callback(model, rounds)
        try:
            for loss in lesson.rounds(rounds, runs, rate, batch, checkpointing):
                draft.losses.append(loss)
                done = len(draft.losses)
                bar.update_absolute(done, rounds)
                progress(done, loss)
                if done % PREVIEW == 0 or done == rounds:
                    preview(done - 1, lesson.draft(*lesson.held_out(1)), None, rounds)
        except comfy.model_management.InterruptProcessingException:
            if not draft.losses:
                raise
            draft.cancelled = True
        draft.runs = lesson.runs
        lesson.settle()
        with suppress(comfy.model_management.InterruptProcessingException):
            draft.errors = lesson.errors(model.model.process_latent_out)
        return x

    with torch.inference_mode(False), torch.enable_grad():
        student = Student(model, rank, seed, start)
        guider = comfy.samplers.CFGGuider(student.model)
        guider.set_conds(prompts, negative)
        one = torch.zeros(1, *samples.shape[1:])
        with training():
            guider.sample(one, one, comfy.samplers.KSAMPLER(school), torch.tensor(levels), seed=seed)
        draft.lora = student.lora()
    return draft


class Lesson:
    """Student and teacher inside the host's guider: one loaded network, with and without its adapters."""

    def __init__(
        self,
        student: Student,
        network: Callable,
        extra_args: dict,
        levels: list[float],
        cfg: float,
        seed: int,
        x: torch.Tensor,
    ):
        self.student, self.network, self.extra_args = student, network, extra_args
        self.guider, self.cfg, self.seed = network.inner_model, cfg, seed
        self.levels, self.model_sampling = levels, model_sampling(student.model)
        self.alphas = alphas(self.model_sampling, levels)
        self.shape, self.device = x.shape[1:], x.device
        prompts = self.guider.conds["positive"]
        self.kept = prompts[::HELD_OUT] if len(prompts) >= HELD_OUT else prompts
        self.prompts = [p for i, p in enumerate(prompts) if i % HELD_OUT or len(prompts) < HELD_OUT]
        self.random = random.Random(seed)
        self.runs = 0
        self.average = [weight.detach().clone() for weight in student.parameters()]

    def ask(self, prompts: dict, cfg: float, student: bool) -> None:
        """Whose answer the network gives from now on, and to what."""
        comfy.model_management.throw_exception_if_processing_interrupted()
        self.student.active = student
        self.guider.conds["positive"], self.guider.cfg = [prompts], cfg

    def answer(self, x: torch.Tensor, sigma: float, prompts: dict, cfg: float, student: bool) -> torch.Tensor:
        """x0_hat of a batch, each picture under its own prompt."""
        self.ask(prompts, cfg, student)
        return self.network(x, x.new_full([len(x)], sigma), **self.extra_args).float()

    def noise(self, count: int, stream: int) -> torch.Tensor:
        """x at the first level. Stream 0, what a user's seed draws, is for held-out pictures alone."""
        drawn = batch_noise(self.seed, range(count), self.shape, stream=stream).to(self.device)
        top = torch.tensor(self.levels[:1], device=self.device)
        most = comfy.samplers.Sampler().max_denoise(self.guider, top)
        return self.model_sampling.noise_scaling(top, drawn, torch.zeros_like(drawn), most)

    @torch.no_grad()
    def teach(self, x: torch.Tensor, prompts: dict, substeps: int = SUBSTEPS) -> list[torch.Tensor]:
        """The guided model's states at the student's levels."""
        fine = subdivided(self.model_sampling, self.levels, substeps)
        return distill.teacher_states(
            lambda x, sigma: self.answer(x, sigma, prompts, self.cfg, False), x, fine, substeps
        )

    def rounds(self, rounds: int, runs: int, rate: float, batch: int, checkpointing: bool) -> Iterator[float]:
        """Train, and yield the loss of each round. Raises FloatingPointError where it is not finite."""
        parameters = self.student.parameters()
        optimizer = torch.optim.Adam(parameters, rate, betas=(0.9, 0.99))
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: pace(done, rounds))
        window = deque(maxlen=WINDOW)
        for done in range(rounds):
            while self.runs * rounds <= done * runs:
                prompts = together(self.choice(batch))
                window.append((self.teach(self.noise(batch, 1 + self.runs), prompts), prompts))
                self.runs += batch
            states, prompts = self.random.choice(window)
            losses = distill.walk_losses(
                lambda x, i, prompts=prompts: self.answer(x, self.levels[i], prompts, 1.0, True),
                states,
                self.alphas,
                self.levels,
            )
            total = 0.0
            with checkpointed(self.student.model.model.diffusion_model, checkpointing):
                for loss in losses:
                    loss.backward()
                    total += loss.item()
            if not total < float("inf"):
                raise FloatingPointError(f"the loss of round {done + 1} is {total}; lower learning_rate")
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            with torch.no_grad():
                for mean, weight in zip(self.average, parameters, strict=True):
                    mean.lerp_(weight, 1 - min(AVERAGED, done / (done + 10)))
            yield total / len(states[1:])

    @torch.no_grad()
    def settle(self) -> None:
        """The student takes the average of its weights: nearer than those of any one round."""
        for mean, weight in zip(self.average, self.student.parameters(), strict=True):
            weight.copy_(mean)

    def choice(self, count: int) -> list[dict]:
        """Prompts for one batch, such as the host can compute together."""
        first = self.random.choice(self.prompts)
        fitting = [p for p in self.prompts if fits(first, p)]
        return [first, *(self.random.choice(fitting) for _ in range(count - 1))]

    @torch.no_grad()
    def held_out(self, count: int) -> tuple[torch.Tensor, dict]:
        """(noise, prompts) that the student never sees."""
        kept = [p for p in self.kept if fits(self.kept[0], p)]
        return self.noise(count, 0), together([kept[i % len(kept)] for i in range(count)])

    @torch.no_grad()
    def draft(self, x: torch.Tensor, prompts: dict) -> torch.Tensor:
        """The student's pictures: DDIM over its levels, without guidance."""
        return solve.sample(
            lambda x, i: self.answer(x, self.levels[i], prompts, 1.0, True), x, self.alphas, self.levels
        )

    @torch.no_grad()
    def errors(self, seen: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, float]:
        """RMSE of seen(held-out pictures) from the teacher's: {what drew them: error}.

        All with as many network evaluations as the student has jumps; a guided step takes two (so where the
        jumps are odd in number, one more).
        """
        x, prompts = self.held_out(HELD_OUT)
        wanted = seen(self.teach(x, prompts, FINE)[-1])
        found = {OWN: self.draft(x, prompts)}
        rivals = {self.cfg: [*self.levels[:-1:2], 0.0], 1.0: self.levels}
        for name, sampler in RIVALS.items():
            for cfg, levels in rivals.items():
                self.ask(prompts, cfg, False)
                found[f"{name}, {len(levels) - 1} steps at cfg {cfg:g}"] = sampler(
                    self.network,
                    x,
                    torch.tensor(levels, device=x.device),
                    extra_args=self.extra_args | {"seed": 0},  # they draw nothing, and add to it
                    disable=True,
                )
        return {name: (seen(x) - wanted).square().mean().sqrt().item() for name, x in found.items()}


def pace(done: int, rounds: int) -> float:
    """Factor of the learning rate: rising over WARM_UP rounds, later falling to zero."""
    return min(1.0, (done + 1) / WARM_UP, (rounds - done) / (rounds * (1 - FLAT)))


def subdivided(model_sampling: ModelSampling, levels: list[float], parts: int) -> list[float]:
    """The levels with parts - 1 more in each jump, evenly by the model's timestep; floats, the last 0."""
    rows = [*rows_of(model_sampling, levels[:-1]), 0.0]
    found = []
    for level, t, s in zip(levels, rows, rows[1:], strict=False):
        found += [level, *levels_at(model_sampling, [t + (s - t) * part / parts for part in range(1, parts)])]
    return [*found, 0.0]


def fits(a: dict, b: dict) -> bool:
    """Whether the host can compute two of its conditionings as one batch: no ControlNet, area, mask or hooks
    that the other has not."""
    own = ("control", "area", "mask", "hooks", "gligen", "timestep_start", "timestep_end")
    return (
        a["model_conds"].keys() == b["model_conds"].keys()
        and all(value.can_concat(b["model_conds"][name]) for name, value in a["model_conds"].items())
        and all(a.get(name) is b.get(name) for name in own)
    )


def together(prompts: list[dict]) -> dict:
    """One of the host's conditionings, of a batch of pictures, from one for each picture."""
    first, *others = (prompt["model_conds"] for prompt in prompts)
    batched = {
        name: value._copy_with(value.concat([other[name] for other in others]))
        for name, value in first.items()
    }
    return prompts[0] | {"model_conds": batched}
