"""The host's side of a sampling loop: model calls that can be cancelled, the console's bar, the callback."""

from contextlib import contextmanager

import comfy.model_management
from tqdm.auto import trange


@contextmanager
def model_calls(model, x, sigmas, extra_args, callback, disable):
    """(denoise, report) for a run of ddim.solve or ddim.invert over SIGMAS on a batch x.

    denoise(x, i) -> x0_hat at sigmas[i]; the host's cancel works before each. report(i, x, x0_hat) tells the
    host's callback, None without one.
    """
    sigma = (
        sigmas.to(x.dtype)[:, None].repeat(1, x.shape[0]).unbind()
    )  # all steps at once: one small operation fewer in each
    progress = iter(trange(len(sigmas) - 1, disable=disable))

    def denoise(x, i):
        comfy.model_management.throw_exception_if_processing_interrupted()
        next(progress)
        return model(x, sigma[i], **extra_args)

    def report(i, x, x0):
        callback({"i": i, "x": x, "denoised": x0, "sigma": sigmas[i], "sigma_hat": sigmas[i]})

    try:
        yield denoise, callback and report
    finally:
        next(progress, None)  # lets the bar close
