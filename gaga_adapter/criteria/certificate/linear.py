r"""The denoiser that is optimal for a reference, its error, and the step between two references.

For `y = x_0 + sigma eps` with x_0 drawn from a law Q, the posterior mean is the score of the noised
law in other words (Robbins 1956; Miyasawa 1961; often named after Tweedie),

    E_Q[x_0 | y] = y + sigma² ∇ log q_sigma(y),

which for `Q = N(mu, C)` is the linear denoiser `mu + C (C + sigma² P)^-1 (y - mu)`. Every reference
knows its density, so one line serves all.

Data at one point x leave nothing to be denoised, and Verdú's formula (`criterion.py`) says

    1/2 ∫_0^snr E_eps|x - E_Q[x_0 | y]|² ds = KL(N(x, sigma² P) || q_sigma),

the prior term of the bound. So the error follows from the prior term by a derivative; and of two
references g and q, per item and exactly,

    1/2 ∫ [error_Q - error_G] ds = E_eps[log g(y) - log q(y)] = prior term of q - prior term of g.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gaga_adapter.criteria.levels import add_noise, is_gaussian
from gaga_adapter.criteria.protocol import Task
from gaga_adapter.noise.levels import coefficients
from gaga_adapter.reference import ReferenceGaussian
from gaga_adapter.reference.base import workspace

_STEP = 1e-3  # in log-SNR; the central difference has a relative error of about its square


def posterior_mean(
    reference: ReferenceGaussian, noisy: Tensor, sigma: float, mask: Tensor | None
) -> Tensor:
    """`E_Q[x_0 | noisy]` of `noisy = x_0 + sigma eps` (B, ...), float64.

    Molecules have zero centre of mass. The result is on `workspace` of their device.
    """
    home = workspace(noisy.device)
    y = noisy.detach().to(home, torch.float64).requires_grad_()
    with torch.enable_grad():
        log_q = reference.at(1.0, sigma).log_prob(y, None if mask is None else mask.to(home))
        (score,) = torch.autograd.grad(log_q.sum(), y)
    return y.detach() + sigma**2 * score


def expected_error(
    reference: ReferenceGaussian, x: Tensor, mask: Tensor | None, log_snr: float
) -> Tensor:
    """Squared error (M,) of a Gaussian's denoiser, averaged over the noise in closed form.

    It is twice the derivative of the prior term by the snr, for clean data `x` (M, ...).
    """
    low, high = (
        reference.at(1.0, math.exp(-(log_snr + step) / 2)).kl_from_posterior(x, mask)
        for step in (-_STEP, _STEP)
    )
    return (high - low) / _STEP * math.exp(-log_snr)


def anchor_to_reference(
    anchor: ReferenceGaussian, reference: ReferenceGaussian, task: Task, level: float, n_noise: int
) -> Tensor:
    """`E_eps[log g(y) - log q(y)]` (M,) on the CPU: added to a KL from the anchor g, one from q.

    In closed form for two Gaussians, else averaged over `n_noise` noised copies of each item with
    exact densities.
    """
    x, mask = task.x, task.mask
    total = torch.zeros(len(x), dtype=torch.float64)
    if reference is anchor:
        return total
    q, g = (law.at(*coefficients(level)) for law in (reference, anchor))
    if is_gaussian(reference) and is_gaussian(anchor):
        return (q.kl_from_posterior(x, mask) - g.kl_from_posterior(x, mask)).cpu()
    for _ in range(n_noise):
        y = add_noise(x, mask, q, task.generator)
        total += (g.log_prob(y, mask) - q.log_prob(y, mask)).cpu() / n_noise
    return total
