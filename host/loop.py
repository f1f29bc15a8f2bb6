"""The host's side of a run: model calls that can be cancelled, the console's bar, the callback."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import comfy.model_management
import torch
from tqdm.auto import tqdm

from ..ddim.calls import Callback, Denoise


def batched(sigmas: torch.Tensor, x: torch.Tensor) -> list[torch.Tensor]:
    """SIGMAS as what the model takes, a (B,) tensor each: all at once, one small operation fewer in each
    step."""
    return list(sigmas.to(x.dtype)[:, None].repeat(1, x.shape[0]).unbind())


@contextmanager
def model_calls(
    model: Callable,
    x: torch.Tensor,
    sigmas: torch.Tensor | list[torch.Tensor],
    extra_args: dict,
    callback: Callable[[dict], None] | None,
    disable: bool | None,
) -> Iterator[tuple[Denoise, Callback | None]]:
    """(denoise, report) for a run of ddim.solve, ddim.invert or ddim.edit over SIGMAS, or
    `batched` ones, on a batch x.

    denoise(x, i) -> x0_hat at sigmas[i]; the host's cancel works before each. report(i, x, x0_hat) tells the
    host's callback, None without one. A run may ask at one sigma many times, and in either direction: the
    bar counts the sigmas that it has come to.
    """
    sigma = sigmas if isinstance(sigmas, list) else batched(sigmas, x)
    seen = set()
    with tqdm(total=len(sigmas) - 1, disable=disable) as bar:

        def denoise(x, i):
            comfy.model_management.throw_exception_if_processing_interrupted()
            if i not in seen:
                seen.add(i)
                bar.update()
            return model(x, sigma[i], **extra_args)

        def report(i, x, x0):
            callback({"i": len(seen) - 1, "x": x, "denoised": x0, "sigma": sigmas[i], "sigma_hat": sigmas[i]})

        yield denoise, callback and report
