"""LATENTs that still hold noise, marked so that they are not taken for pictures."""

from math import inf, isclose

import torch

from . import latents
from .latents import Latent

_MARK = "ddim_noise_left"  # a key of the LATENT: (sigma of the noise in it, the samples that are meant)


def mark(latent: Latent, sigma: float) -> Latent:
    """`latent` as one that holds the noise of `sigma`; inf: noise alone."""
    return latent | {_MARK: (sigma, latent["samples"])}


def level(latent: Latent) -> float | None:
    """The sigma of the noise that a marked LATENT holds; None without a mark, or where the samples are no
    longer among those that were marked: samplers hand the keys of a LATENT on with other samples, and what
    picks or repeats pictures hands on the same."""
    sigma, marked = latent.get(_MARK, (None, None))
    if sigma is None:
        return None
    held, given = (latents.parts({"samples": samples}) for samples in (marked, latent["samples"]))
    same = len(held) == len(given) and all(
        any(torch.equal(row, known) for known in before)
        for before, now in zip(held, given, strict=True)
        for row in now
    )
    return sigma if same else None


def check(latent: Latent, sigma_end: float) -> Latent:
    """`latent` without its mark. Raises ValueError for one whose noise is not that of `sigma_end`, the level
    at which a run is to end: 0 for pictures."""
    sigma = level(latent)
    if sigma == inf:
        raise ValueError(
            "latent_image is the noise that an inversion found (its output `latent`), and no picture. To go"
            " on from an inversion over the low sigmas, connect its output `state`"
        )
    if sigma is not None and not isclose(sigma, sigma_end, rel_tol=1e-4):
        raise ValueError(
            f"latent_image holds the noise of sigma {sigma:.6g} (output `state` of an inversion), so the"
            f" sigmas must end there; they end at {sigma_end:.6g}. SplitSigmas gives both parts"
        )
    return {key: value for key, value in latent.items() if key != _MARK}
