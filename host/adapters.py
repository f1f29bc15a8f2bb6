"""The host's LoRA adapters on a MODEL's network, to be trained and to be taken off again for a moment."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import comfy.weight_adapter
import torch
from comfy.model_patcher import ModelPatcher
from torch.utils.checkpoint import checkpoint


class Student:
    """A clone of a MODEL with a LoRA on every weight matrix of its network: the student while `active`, else
    the model itself, its teacher.

    Every weight is read through a function, which makes the host copy it: those that a node loaded are
    inference tensors, and autograd refuses them. Make it outside inference mode. Raises ValueError where the
    LORA_MODEL `start` holds nothing for this network.
    """

    def __init__(
        self, model: ModelPatcher, rank: int, seed: int, start: dict[str, torch.Tensor] | None = None
    ):
        dynamic = "disable_dynamic" in inspect.signature(model.clone).parameters
        self.model = model.clone(disable_dynamic=True) if dynamic else model.clone()
        self.active, self.adapters = False, {}
        for name, module in self.model.model.diffusion_model.named_modules(prefix="diffusion_model"):
            if not hasattr(module, "weight_function"):
                continue
            for part in ("weight", "bias"):
                value = getattr(module, part, None)
                if value is None:
                    continue
                if value.ndim >= 2:
                    self.adapters[name] = adapter(name, value, rank, seed + len(self.adapters), start)
                self.model.add_weight_wrapper(
                    f"{name}.{part}", Read(self, self.adapters[name] if value.ndim >= 2 else None)
                )
        if start and not any(f"{name}.alpha" in start for name in self.adapters):
            raise ValueError("lora holds no weights for this model's network; it was trained on another one")

    def parameters(self) -> list[torch.nn.Parameter]:
        return [p for each in self.adapters.values() for p in each.parameters() if p.ndim]

    def lora(self) -> dict[str, torch.Tensor]:
        """A LORA_MODEL: the adapters' tensors by the names that the host's Save LoRA and loaders know."""
        return {
            f"{name}.{key}": value.detach().cpu().clone()
            for name, each in self.adapters.items()
            for key, value in each.state_dict().items()
        }


def adapter(
    name: str, weight: torch.Tensor, rank: int, seed: int, start: dict[str, torch.Tensor] | None
) -> torch.nn.Module:
    """The host's trainable LoRA of one weight, float32: that of `start`, or a new one that changes nothing
    yet."""
    lora = comfy.weight_adapter.LoRAAdapter
    known = start and lora.load(name, start, float(start.get(f"{name}.alpha", rank)), None)
    with torch.random.fork_rng(devices=[]), torch.no_grad():  # the host draws from the global generator
        torch.manual_seed(seed)
        if known:
            return known.to_train().float()
        made = lora.create_train(weight, rank, float(rank)).float()  # alpha = rank: the update is up @ down
        # The host makes up the random one; then the rate that suits depends on the number of inputs.
        made.lora_down.weight.normal_().div_(made.lora_down.weight.shape[1] ** 0.5)
        made.lora_up.weight.zero_()
        return made


class Read:
    """How the host reads one weight of the student."""

    def __init__(self, student: Student, adapter: torch.nn.Module | None):
        self.student, self.adapter = student, adapter

    def __call__(self, weight: torch.Tensor) -> torch.Tensor:
        return self.adapter(weight) if self.adapter is not None and self.student.active else weight

    def move_to(self, device: torch.device) -> int:
        return self.adapter.move_to(device) if self.adapter is not None else 0


@contextmanager
def checkpointed(student: Student, wanted: bool) -> Iterator[None]:
    """The backward pass computes each block's activations again, so that those of one are held at a time."""
    found = list(blocks(student.model.model.diffusion_model)) if wanted else []
    try:
        for block in found:
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)
        yield
    finally:
        for block in found:
            del block.forward


def blocks(network: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """The topmost modules that are more than a list of others."""
    for child in network.children():
        if isinstance(child, (torch.nn.ModuleList, torch.nn.Sequential, torch.nn.ModuleDict)):
            yield from blocks(child)
        else:
            yield child
