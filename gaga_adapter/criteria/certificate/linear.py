r"""The denoiser that is optimal for a reference, its error, and the step between two references.

For `y = x_0 + sigma eps` with x_0 drawn from a law Q, the posterior mean is the score of the noised
law in other words (Robbins 1956; Miyasawa 1961; often named after Tweedie),

    E_Q[x_0 | y] = y + sigma² ∇ log q_sigma(y),

which for `Q = N(mu, C)` is the linear denoiser `mu + C (C + sigma² P)^-1 (y - mu)`. Every reference
knows its density, so one line serves all.

Data at one point x leave nothing to be denoised, and Verdú's formula (`certificate.py`) says

    1/2 ∫_0^snr E_eps|x - E_Q[x_0 | y]|² ds = KL(N(x, sigma² P) || q_sigma),

the prior term of the bound. So the error follows from the prior term by a derivative; and of two
references g and q, per item and exactly,

    1/2 ∫ [error_Q - error_G] ds = E_eps[log g(y) - log q(y)] = prior term of q - prior term of g.
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from gaga_adapter.criteria.levels import coefficients, noised
from gaga_adapter.reference import (
    DenseReference,
    MoleculeReference,
    ReferenceGaussian,
    ShapeReference,
)
from gaga_adapter.reference.base import workspace

_STEP = 1e-3  # in log-SNR; the central difference has a relative error of about its square


def posterior_mean(
    reference: ReferenceGaussian, noisy: Tensor, sigma: float, mask: Tensor | None
) -> Tensor:
    """Denoise as is optimal if the data are drawn from the reference.

    Args:
        reference: at any level.
        noisy: `x_0 + sigma eps` (B, ...); molecules with zero centre of mass.
        sigma: noise standard deviation, positive.
        mask: molecules: real atoms (B, N), bool; `None` for dense data.

    Returns:
        `E_Q[x_0 | noisy]`, float64, same shape as `noisy`; on its device where that has float64.
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
    """Squared error of the linear denoiser, averaged over the noise in closed form.

    It is twice the derivative of the prior term by the snr.

    Args:
        reference: a Gaussian, at any level.
        x: clean data (M, ...).
        mask: molecules: real atoms (M, N), bool; `None` for dense data.
        log_snr: the level.

    Returns:
        Errors (M,), float64.
    """
    low, high = (
        reference.at(1.0, math.exp(-(log_snr + step) / 2)).kl_from_posterior(x, mask)
        for step in (-_STEP, _STEP)
    )
    return (high - low) / _STEP * math.exp(-log_snr)


def is_gaussian(reference: ReferenceGaussian) -> bool:
    """Whether the reference is one Gaussian per size or shape, with an exact prior term."""
    known = isinstance(reference, DenseReference | MoleculeReference)
    return known and not isinstance(reference, ShapeReference)


def anchor_of(reference: ReferenceGaussian) -> ReferenceGaussian:
    """The reference whose denoiser a model is compared with.

    For molecules the Gaussian `size` of the same moments, which is closest to the data; otherwise
    the reference itself.
    """
    if isinstance(reference, MoleculeReference) and reference.kind != "size":
        return MoleculeReference("size", reference.moments)
    return reference


def anchor_to_reference(
    anchor: ReferenceGaussian,
    reference: ReferenceGaussian,
    x: Tensor,
    mask: Tensor | None,
    log_snr: float,
    n_noise: int,
    generator: Generator | None,
) -> Tensor:
    """`E_eps[log g(y) - log q(y)]` of each item: what makes a KL from g one from q.

    In closed form for two Gaussians, else averaged over noised copies with exact densities.

    Args:
        anchor: g, at any level.
        reference: q, at any level.
        x: clean data (M, ...).
        mask: molecules: real atoms (M, N), bool; `None` for dense data.
        log_snr: the level.
        n_noise: noised copies of each item.
        generator: draws the noise.

    Returns:
        (M,), float64, on the CPU.
    """
    total = torch.zeros(len(x), dtype=torch.float64)
    if reference is anchor:
        return total
    q, g = (law.at(*coefficients(log_snr)) for law in (reference, anchor))
    if is_gaussian(reference) and is_gaussian(anchor):
        return (q.kl_from_posterior(x, mask) - g.kl_from_posterior(x, mask)).cpu()
    for _ in range(n_noise):
        y = noised(x, mask, q, generator)
        total += (g.log_prob(y, mask) - q.log_prob(y, mask)).cpu() / n_noise
    return total
