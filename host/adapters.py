"""The host's LoRA adapters on a MODEL's network, to be trained and to be taken off again for a moment."""

import inspect
from contextlib import contextmanager

import comfy.weight_adapter
import torch
from comfy_extras import nodes_train


class Student:
    """A clone of a MODEL with a LoRA on every weight matrix of its network: the student while `active`, else
    the model itself, its teacher.

    Every weight is read through a function, which makes the host copy it: those that a node loaded are
    inference tensors, and autograd refuses them. Make it outside inference mode. Raises ValueError where the
    LORA_MODEL `start` holds nothing for this network.
    """

    def __init__(self, model, rank: int, seed: int, start: dict[str, torch.Tensor] | None = None):
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


def adapter(name, weight, rank, seed, start):
    """The host's trainable LoRA of one weight, float32: that of `start`, or a new one that changes nothing
    yet."""
    lora = comfy.weight_adapter.LoRAAdapter
    known = start and lora.load(name, start, float(start.get(f"{name}.alpha", rank)), None)
    if known:
        return known.to_train().float()
    made = lora.create_train(weight, rank, float(rank)).float()  # alpha = rank: the update is up @ down
    draw = torch.randn(made.lora_down.weight.shape, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():  # the host draws from the global generator, and makes up the random one
        made.lora_down.weight.copy_(draw / draw.shape[1] ** 0.5)
        made.lora_up.weight.zero_()
    return made


class Read:
    """How the host reads one weight of the student."""

    def __init__(self, student, adapter):
        self.student, self.adapter = student, adapter

    def __call__(self, weight):
        return self.adapter(weight) if self.adapter is not None and self.student.active else weight

    def move_to(self, device):
        return self.adapter.move_to(device) if self.adapter is not None else 0


@contextmanager
def checkpointed(student, wanted):
    """The backward pass computes each block's activations again, by the host's own training helpers."""
    network = student.model.model.diffusion_model
    find = getattr(nodes_train, "find_modules_at_depth", None)  # of newer hosts; depth 1 is the network
    blocks = find(network, 2) if find else nodes_train.find_all_highest_child_module_with_forward(network)
    try:
        for block in blocks if wanted else ():
            nodes_train.patch(block)
        yield
    finally:
        for block in blocks if wanted else ():
            nodes_train.unpatch(block)
