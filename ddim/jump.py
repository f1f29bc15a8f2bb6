"""One DDIM jump: from x_t to x_s, with the eta dial.

Every model is a straight mixture x_t = alpha_t x_0 + sigma_t eps. The model predicts x0_hat, and

    eps_hat = (x_t - alpha_t x0_hat) / sigma_t
    x_s     = alpha_s x0_hat + sqrt(sigma_s^2 - c^2) eps_hat + c z,     z ~ N(0, I)

which is eq. 12 of Song, Meng, Ermon, "Denoising Diffusion Implicit Models" (arXiv 2010.02502) where
alpha^2 = alpha_bar and sigma^2 = 1 - alpha_bar.
"""

from math import sqrt

from torch import Tensor

from .checks import allowed, within

VARIANCES = ("posterior", "large", "full renoise")

Mixture = tuple[float, float]  # (alpha, sigma) of a noise level


def posterior_deviation(alpha_t: float, sigma_t: float, alpha_s: float, sigma_s: float) -> float:
    """Standard deviation of q(x_s | x_t, x_0): eq. 16 of 2010.02502 at eta = 1, DDPM's own noise."""
    forward_variance = sigma_t**2 - (alpha_t / alpha_s) ** 2 * sigma_s**2  # of q(x_t | x_s)
    return sigma_s / sigma_t * sqrt(max(forward_variance, 0.0))


def large_deviation(alpha_t: float, sigma_t: float, alpha_s: float, sigma_s: float) -> float:
    """The paper's sigma-hat, sqrt(1 - alpha_bar_t / alpha_bar_s), in units of x_s.

    The paper's x has unit scale alpha^2 + sigma^2 = 1; other frames (alpha = 1, flow) are brought there and
    back.
    """
    forward_variance = sigma_t**2 - (alpha_t / alpha_s) ** 2 * sigma_s**2
    scale_t, scale_s = sqrt(alpha_t**2 + sigma_t**2), sqrt(alpha_s**2 + sigma_s**2)
    return scale_s / scale_t * sqrt(max(forward_variance, 0.0))


def coefficients(
    alpha_t: float,
    sigma_t: float,
    alpha_s: float,
    sigma_s: float,
    eta: float = 0.0,
    variance: str = "posterior",
) -> tuple[float, float, float]:
    """Coefficients (a, b, c) of the jump x_s = a x_t + b x0_hat + c z, as Python floats.

    ``eta`` dials from 0 (DDIM, deterministic) to 1 (all of the noise that ``variance`` names):

    - ``posterior``: q(x_s | x_t, x_0), DDPM exactly at eta 1 (eq. 16).
    - ``large``: the noise grows to sigma-hat while the mean stays that of ``posterior``.
    - ``full renoise``: c = eta sigma_s; at eta 1 all of eps_hat is replaced (multistep consistency sampling).

    The jump to sigma_s = 0 adds no noise: x_s = alpha_s x0_hat.
    Raises ValueError for an unknown variance, eta outside 0 to 1, or levels that do not go down.
    """
    check_dial(eta, variance)
    if not 0.0 <= sigma_s <= sigma_t or sigma_t == 0.0:
        raise ValueError(f"a jump goes from a higher to a lower sigma; given {sigma_t} -> {sigma_s}")
    if sigma_s == 0.0:
        return 0.0, alpha_s, 0.0
    jump = alpha_t, sigma_t, alpha_s, sigma_s
    removed = eta * (sigma_s if variance == "full renoise" else posterior_deviation(*jump))
    a = sqrt(max(sigma_s**2 - removed**2, 0.0)) / sigma_t
    b = alpha_s - a * alpha_t
    c = eta * large_deviation(*jump) if variance == "large" else removed
    return a, b, c


def trajectory_eta(alpha_s: float, sigma_s: float, alpha_d: float, sigma_d: float) -> float:
    """The eta of `full renoise` that leaves of eps_hat what a jump to the lower level d leaves.

    Down to d without noise, then up to s by the forward process, is a x_t + b x0_hat + c z with
    a = alpha_s sigma_d / (alpha_d sigma_t): strategic stochastic sampling, algorithm 4 of Zheng et al.,
    "Trajectory Consistency Distillation" (arXiv 2402.19159), where d is (1 - gamma) s on the timesteps.
    """
    return sqrt(max(1 - (alpha_s * sigma_d / (alpha_d * sigma_s)) ** 2, 0.0))


def in_places(a: float, c: float, t: Mixture, s: Mixture, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(a, b, c) as tensors, of the jump from t to s, with eta scaled by mask in each place.

    a and c are those of the whole eta; the share of eps_hat that makes room for noise grows with eta.
    """
    (alpha_t, sigma_t), (alpha_s, sigma_s) = t, s
    a = (sigma_s**2 * (1 - mask**2) + (mask * a * sigma_t) ** 2).sqrt() / sigma_t
    return a, alpha_s - a * alpha_t, c * mask


def check_dial(eta: float, variance: str) -> None:
    """Raise ValueError for an unknown variance and for eta outside 0 (DDIM) to 1 (DDPM)."""
    allowed("variance", variance, VARIANCES)
    within("eta", eta, 0, 1)
