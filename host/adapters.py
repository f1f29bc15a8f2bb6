"""The host's LoRA adapters on a MODEL's network, to be trained and to be taken off again for a moment."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager

import comfy.model_management
import comfy.weight_adapter
import torch
from comfy.model_patcher import ModelPatcher


class Student:
    """A clone of a MODEL with a LoRA on every weight matrix of its network: the student while `active`, else
    the model itself, its teacher.

    What a node loaded are inference tensors, and autograd refuses them. So every weight is read through a
    function, which makes the host copy it, and what the host reads otherwise (the scale of a norm) is
    replaced by a copy. Make it outside inference mode. Raises ValueError where the LORA_MODEL `start` holds
    nothing for this network, or weights of other sizes.
    """

    def __init__(
        self, model: ModelPatcher, rank: int, seed: int, start: dict[str, torch.Tensor] | None = None
    ):
        dynamic = "disable_dynamic" in inspect.signature(model.clone).parameters
        self.model = model.clone(disable_dynamic=True) if dynamic else model.clone()
        self.active, self.adapters = False, {}
        generator = torch.Generator().manual_seed(seed)
        for name, module in self.model.model.diffusion_model.named_modules(prefix="diffusion_model"):
            if not hasattr(module, "weight_function"):
                self.copy_own(name, module)
                continue
            for part in ("weight", "bias"):
                value = getattr(module, part, None)
                if value is None:
                    continue
                if value.ndim >= 2:
                    self.adapters[name] = adapter(name, value, rank, generator, start)
                self.model.add_weight_wrapper(
                    f"{name}.{part}", Read(self, self.adapters[name] if value.ndim >= 2 else None)
                )
        if start and not any(f"{name}.alpha" in start for name in self.adapters):
            raise ValueError(
                "earlier_lora holds no weights for this model's network; it was trained on another one"
            )

    def copy_own(self, name: str, module: torch.nn.Module) -> None:
        """Parameters and buffers of the module itself, for as long as this model is loaded."""
        for part, value in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            copy = value.detach().clone()
            if isinstance(value, torch.nn.Parameter):
                copy = torch.nn.Parameter(copy, requires_grad=False)
            self.model.add_object_patch(f"{name}.{part}", copy)

    def parameters(self) -> list[torch.nn.Parameter]:
        """The weights that learn: not alpha, which is a number."""
        return [p for each in self.adapters.values() for p in each.parameters() if p.ndim]

    def lora(self) -> dict[str, torch.Tensor]:
        """A LORA_MODEL: the adapters' tensors by the names that the host's Save LoRA and loaders know."""
        return {
            f"{name}.{key}": value.detach().cpu().clone()
            for name, each in self.adapters.items()
            for key, value in each.state_dict().items()
        }


def adapter(
    name: str,
    weight: torch.Tensor,
    rank: int,
    generator: torch.Generator,
    start: dict[str, torch.Tensor] | None,
) -> torch.nn.Module:
    """The host's trainable LoRA of one weight, float32: that of `start`, or a new one that changes nothing
    yet. Raises ValueError for one of another size, or a damaged one."""
    lora = comfy.weight_adapter.LoRAAdapter
    known = start and lora.load(name, start, float(start.get(f"{name}.alpha", rank)), None)
    if not known:
        up = torch.zeros(weight.shape[0], rank)
        # The host makes up the random one; then the rate that suits depends on the number of inputs.
        down = torch.randn(rank, weight[0].numel(), generator=generator) / weight[0].numel() ** 0.5
        # alpha = rank: the update is up @ down
        known = lora(set(), (up, down, float(rank), None, None, None))
    up, down = known.weights[:2]
    if (len(up), down[0].numel()) != (len(weight), weight[0].numel()):
        raise ValueError(
            f"earlier_lora: {name} is for a weight of {len(up)} x {down[0].numel()}, and the model's is"
            f" {len(weight)} x {weight[0].numel()}; it was trained on another model"
        )
    if up[0].numel() != len(down) or not (up.isfinite().all() and down.isfinite().all()):
        raise ValueError(f"earlier_lora: {name} is damaged: it holds NaN or infinity, or parts of two ranks")
    with torch.random.fork_rng(devices=[]):  # the host's module draws its weights before they are set
        return known.to_train().float()


class Read:
    """How the host reads one weight of the student."""

    def __init__(self, student: Student, adapter: torch.nn.Module | None):
        self.student, self.adapter = student, adapter

    def __call__(self, weight: torch.Tensor) -> torch.Tensor:
        return self.adapter(weight) if self.adapter is not None and self.student.active else weight

    def move_to(self, device: torch.device) -> int:
        return self.adapter.move_to(device) if self.adapter is not None else 0


@contextmanager
def training() -> Iterator[None]:
    """The host's own sign that gradients are wanted, where it has one: some of its fast kernels know none."""
    host, sign = comfy.model_management, "in_training"
    before = getattr(host, sign, None)
    try:
        if before is not None:
            setattr(host, sign, True)
        yield
    finally:
        if before is not None:
            setattr(host, sign, before)
