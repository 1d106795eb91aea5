r"""Mixing weights of the `shape` reference by maximum likelihood (Kiefer and Wolfowitz 1956).

At one noise level the reference of a size is `sum_k pi_k p_k`, over the rows `k` of its table. The
divergence from data is convex in `pi`, so expectation and maximisation (EM),

    pi_k <- mean over data of  pi_k p_k(x) / sum_j pi_j p_j(x),

climb to the one maximum of the mean log-density. On the way there the weights first learn what the
data have, and then what these data alone have. So a quarter of the data says after how many passes
to stop; if the first pass is already no gain there, the weights stay equal. The weights belong to
the rows at every level, but are the best only at that of the fit: what the mixture lacks is blurred
differently at each.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gaga_adapter.noise.levels import coefficients
from gaga_adapter.reference.base import draw_noise
from gaga_adapter.reference.shape import ShapeReference

#: Fewest molecules of a size from which its weights are learnt.
FEWEST = 200
_PASSES = tuple(2**k for k in range(9))  # EM passes after which the held-out data are asked
_NEGLIGIBLE = 1e-3  # share of an equal weight below which a row is dropped


def fit_weights(
    reference: ShapeReference,
    x: Tensor,
    mask: Tensor,
    log_snr: float,
    generator: torch.Generator | None = None,
) -> Tensor | None:
    """Probabilities of the table's rows (T,), float64, of sum one per size; `None` for no gain.

    Args:
        reference: The mixture with equal weights, at any level.
        x: Clean molecules (M, N, 3 + F).
        mask: Real atoms (M, N), bool.
        log_snr: Level of the fit.
        generator: Source of the noise.
    """
    here, moments = reference.at(*coefficients(log_snr)), reference.moments
    noise = draw_noise(x.shape, generator, x.device, torch.float64)
    noised = here.project(here.a * x + here.b * noise, mask)
    n_atoms, of_row = mask.sum(1), moments.table_sizes
    weights = 1 / torch.bincount(of_row).to(torch.float64)[of_row]
    found = False
    for n in torch.unique(n_atoms).tolist():
        some = n_atoms == n
        if int(some.sum()) < FEWEST or moments.at_size(n).radius:
            continue
        fitted = _fitted(here.row_log_density(noised[some], mask[some]))
        if fitted is not None:
            weights[of_row == n] = fitted
            found = True
    return weights if found else None


def em_passes(log_density: Tensor, weights: Tensor, n: int) -> Tensor:
    """Weights (K,) after n passes, from the log-densities of the rows at the data (M, K)."""
    likelihood = (log_density - log_density.amax(1, keepdim=True)).exp()
    for _ in range(n):
        share = (likelihood @ weights).clamp(min=1e-300).reciprocal() @ likelihood / len(likelihood)
        weights = weights * share
    return weights / weights.sum()


def mean_log_density(log_density: Tensor, weights: Tensor) -> Tensor:
    """Mean over the data (M, K) of the log-density of the mixture."""
    return (log_density + weights.log()).logsumexp(1).mean()


def _fitted(log_density: Tensor) -> Tensor | None:
    """The weights (K,) of one size, or `None` if held-out data gain nothing by them."""
    n, k = log_density.shape
    equal = torch.full((k,), 1 / k, dtype=torch.float64)
    held_out = torch.arange(n) % 4 == 0
    best, passes, weights, done = mean_log_density(log_density[held_out], equal), 0, equal, 0
    for asked in _PASSES:
        weights, done = em_passes(log_density[~held_out], weights, asked - done), asked
        value = mean_log_density(log_density[held_out], weights)
        if value <= best:
            break
        best, passes = value, asked
    if not passes:
        return None
    weights = em_passes(log_density, equal, passes)
    weights = torch.where(weights < _NEGLIGIBLE / k, 0.0, weights)
    return weights / weights.sum()
