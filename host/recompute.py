"""Gradient checkpointing of the host's networks: less memory for more time.

torch.utils.checkpoint will not do: where a block changes a tensor in place that its gradient needs, as Flux's
do (`img += ...`), it gives wrong gradients and no error.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch.autograd.function import FunctionCtx
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._pytree import tree_flatten, tree_unflatten


@contextmanager
def checkpointed(network: torch.nn.Module, wanted: bool) -> Iterator[None]:
    """Inside, gradients of the network are right. wanted: the backward pass computes each block's activations
    again, so that those of one are held at a time."""
    if not wanted:
        with copies_saved():
            yield
        return
    found = list(blocks(network))
    try:
        for block in found:
            block.forward = partial(recomputed, block.forward)
        yield
    finally:
        for block in found:
            del block.forward


def copies_saved() -> saved_tensors_hooks:
    """Gradients use what a tensor held when it was saved for them."""
    return saved_tensors_hooks(lambda x: x if x.is_leaf else x.detach().clone(), lambda x: x)


def blocks(network: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """The topmost modules that are more than a list of others."""
    for child in network.children():
        if isinstance(child, (torch.nn.ModuleList, torch.nn.Sequential, torch.nn.ModuleDict)):
            yield from blocks(child)
        else:
            yield child


def recomputed(forward: Callable, *args, **kwargs) -> object:
    """forward(*args, **kwargs), of which nothing but the input is kept for the backward pass."""
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    inputs, form = tree_flatten((args, kwargs))
    places = [
        i for i, each in enumerate(inputs) if isinstance(each, torch.Tensor) and not each.is_inference()
    ]
    tensors = [inputs[i] for i in places]
    for i in places:
        inputs[i] = None
    of_output = []

    def run(*tensors):
        """The outputs as a flat tuple; `forward` may write into what it gets."""
        filled = list(inputs)
        for i, tensor in zip(places, tensors, strict=True):
            filled[i] = tensor.clone()
        args, kwargs = tree_unflatten(filled, form)
        outputs, form_of_output = tree_flatten(forward(*args, **kwargs))
        of_output.append(form_of_output)
        return tuple(outputs)

    anchor = torch.ones((), requires_grad=True)  # the first block's weights learn, though its input does not
    return tree_unflatten(Recomputed.apply(run, anchor, *tensors), of_output[0])


class Recomputed(torch.autograd.Function):
    """run(*tensors), computed again for its gradients."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, run: Callable, anchor: torch.Tensor, *tensors: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        ctx.run = run
        ctx.save_for_backward(*tensors)
        return run(*tensors)

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        learns = ctx.needs_input_grad[2:]
        given = [x.detach().requires_grad_(y) for x, y in zip(ctx.saved_tensors, learns, strict=True)]
        with torch.enable_grad(), copies_saved():
            outputs = ctx.run(*given)
            learned = [i for i, x in enumerate(outputs) if isinstance(x, torch.Tensor) and x.requires_grad]
            if learned:
                torch.autograd.backward([outputs[i] for i in learned], [gradients[i] for i in learned])
        return None, None, *(x.grad for x in given)
