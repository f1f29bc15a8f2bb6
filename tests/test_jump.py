"""The coefficients of one jump against the paper's formulas, written out for alpha_bar."""

from math import isclose, sqrt

import pytest
import torch
from ddim_toolkit.ddim.jump import VARIANCES, coefficients

PAIRS = [(0.01, 0.2), (0.36, 0.64), (0.9, 0.99), (0.0047, 0.0048)]


def vp(alpha_bar):
    return sqrt(alpha_bar), sqrt(1 - alpha_bar)


def test_worked_example():
    x, eps = 0.90, 0.50
    (alpha_t, sigma_t), (alpha_s, sigma_s) = vp(0.36), vp(0.64)
    x0 = (x - sigma_t * eps) / alpha_t
    a, b, c = coefficients(alpha_t, sigma_t, alpha_s, sigma_s)
    assert round(x0, 4) == 0.8333
    assert abs(a * x + b * x0 - 0.9666) < 1e-4 and c == 0


@pytest.mark.parametrize("bar_t, bar_s", PAIRS)
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_equation_12_and_16(bar_t, bar_s, eta):
    """x_s by eq. 12 with the sigma of eq. 16, from x_t and eps in the paper's own variables."""
    x, eps = 0.7, -0.4
    sigma = eta * sqrt((1 - bar_s) / (1 - bar_t)) * sqrt(1 - bar_t / bar_s)
    x0 = (x - sqrt(1 - bar_t) * eps) / sqrt(bar_t)
    expected = sqrt(bar_s) * x0 + sqrt(1 - bar_s - sigma**2) * eps
    a, b, c = coefficients(*vp(bar_t), *vp(bar_s), eta)
    assert isclose(a * x + b * x0, expected, rel_tol=1e-9)
    assert isclose(c, sigma, rel_tol=1e-9, abs_tol=1e-12)


@pytest.mark.parametrize("bar_t, bar_s", PAIRS)
def test_eta_1_is_the_ddpm_posterior(bar_t, bar_s):
    """Mean and variance of q(x_s | x_t, x_0): eq. 6 and 7 of Ho, Jain, Abbeel (arXiv 2006.11239)."""
    x, x0, beta = 0.7, -0.2, 1 - bar_t / bar_s
    mean = sqrt(bar_s) * beta / (1 - bar_t) * x0 + sqrt(1 - beta) * (1 - bar_s) / (1 - bar_t) * x
    a, b, c = coefficients(*vp(bar_t), *vp(bar_s), 1.0)
    assert isclose(a * x + b * x0, mean, rel_tol=1e-9)
    assert isclose(c**2, (1 - bar_s) / (1 - bar_t) * beta, rel_tol=1e-9)


@pytest.mark.parametrize("bar_t, bar_s", PAIRS)
def test_large_variance_is_sigma_hat_around_the_posterior_mean(bar_t, bar_s):
    a, b, c = coefficients(*vp(bar_t), *vp(bar_s), 1.0, "large")
    assert isclose(c, sqrt(1 - bar_t / bar_s), rel_tol=1e-9)
    assert (a, b) == coefficients(*vp(bar_t), *vp(bar_s), 1.0)[:2]


@pytest.mark.parametrize("variance", VARIANCES)
@pytest.mark.parametrize("bar_t, bar_s", PAIRS)
def test_frames_agree(variance, bar_t, bar_s):
    """The jump in the frame alpha = 1 is the paper's, divided by sqrt(alpha_bar) at both ends."""
    x, x0 = 0.7, -0.2
    a, b, c = coefficients(*vp(bar_t), *vp(bar_s), 0.6, variance)
    a1, b1, c1 = coefficients(1.0, sqrt(1 / bar_t - 1), 1.0, sqrt(1 / bar_s - 1), 0.6, variance)
    assert isclose(a1 * x / sqrt(bar_t) + b1 * x0, (a * x + b * x0) / sqrt(bar_s), rel_tol=1e-6)
    assert isclose(c1, c / sqrt(bar_s), rel_tol=1e-6)


def test_flow_posterior_where_the_design_gives_it():
    """q(x_s | x_t, x_0) of a flow model by Bayes' rule; at sigma .8 -> .6 the old noise's share is not the
    host's."""
    alpha_t, sigma_t, alpha_s, sigma_s = 0.2, 0.8, 0.4, 0.6
    a, b, c = coefficients(alpha_t, sigma_t, alpha_s, sigma_s, 1.0)
    # q(x_s | x_t, x_0) from the product of N(x_s; alpha_s x0, sigma_s^2) and N(x_t; k x_s, forward variance).
    k = alpha_t / alpha_s
    forward = sigma_t**2 - k**2 * sigma_s**2
    precision = 1 / sigma_s**2 + k**2 / forward
    x, x0 = 0.7, -0.2
    assert isclose(c**2, 1 / precision, rel_tol=1e-9)
    assert isclose(a * x + b * x0, (alpha_s * x0 / sigma_s**2 + k * x / forward) / precision, rel_tol=1e-9)


def test_full_renoise_forgets_the_old_noise():
    assert coefficients(1.0, 5.0, 1.0, 2.0, 1.0, "full renoise") == (0.0, 1.0, 2.0)


@pytest.mark.parametrize("variance", VARIANCES)
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_last_jump_gives_x0(variance, eta):
    assert coefficients(1.0, 0.3, 1.0, 0.0, eta, variance) == (0.0, 1.0, 0.0)


def test_pure_noise_of_a_flow_model_is_a_valid_start():
    a, b, c = coefficients(0.0, 1.0, 0.1, 0.9, 0.5)
    assert all(torch.tensor([a, b, c]).isfinite()) and isclose(a**2 + c**2, 0.81)


@pytest.mark.parametrize(
    "bad, words",
    [
        (dict(eta=-0.1), "eta is -0.1"),
        (dict(eta=1.5), "eta is 1.5"),
        (dict(eta=float("nan")), "eta is nan"),
        (dict(variance="huge"), "variance is 'huge'"),
    ],
)
def test_bad_dials_are_named(bad, words):
    with pytest.raises(ValueError, match=words):
        coefficients(1.0, 2.0, 1.0, 1.0, **bad)


def test_rising_levels_are_refused():
    with pytest.raises(ValueError, match="1.0 -> 2.0"):
        coefficients(1.0, 1.0, 1.0, 2.0)
