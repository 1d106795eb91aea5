r"""A tilt is learnt: a regression tells noised data from draws of the start.

The law of its weight, which the density needs, comes from many draws of each size that had enough
data (`reference/refined/tilt.py`).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Generator, Tensor

from gaga_adapter.criteria.levels import add_noise, draw_like
from gaga_adapter.errors import DataError
from gaga_adapter.noise.levels import coefficients
from gaga_adapter.reference.invariants import molecule_features, unit_of
from gaga_adapter.reference.refined.tilt import Tilt, cells_of
from gaga_adapter.reference.shape import ShapeReference
from gaga_adapter.subspace import mask_from_sizes

#: Number of candidates of a tilted draw.
N_CANDIDATES = 16
_LIMIT = 4.0  # of the log-odds: beyond it one point in fifty decides
_PENALTY = 100.0  # L2 weight of the regression, as that of `two_sample`
_FEWEST_OF_SIZE = 50  # items of a size from which the tilt serves it
_N_DRAWS, _N_CELLS = 2048, 64  # draws per size for the law of a weight


def learn_tilt(
    reference: ShapeReference,
    x: Tensor,
    mask: Tensor,
    log_snr: float,
    n_candidates: int = N_CANDIDATES,
    generator: Generator | None = None,
) -> Tilt:
    """A tilt of a reference towards noised data, at one level.

    Args:
        reference: The reference, at any level.
        x: Clean data (M, N, 3 + F).
        mask: Real atoms (M, N), bool.
        log_snr: Level of the tilt.
        n_candidates: Number of candidates of a draw.
        generator: Source of randomness.

    Raises:
        DataError: If no size has enough items.
    """
    from sklearn.linear_model import LogisticRegression

    here = reference.at(*coefficients(log_snr))
    sizes, counts = torch.unique(mask.sum(1), return_counts=True)
    sizes = sizes[counts >= _FEWEST_OF_SIZE]
    if not len(sizes):
        raise DataError(
            f"no size has {_FEWEST_OF_SIZE} items to learn a tilt from. Pass more data."
        )
    x = x.double()
    samples = (
        (add_noise(x, mask, here, generator), mask),
        (draw_like(x, mask, here, generator), mask_from_sizes(mask.sum(1))),
    )
    numbers = torch.cat([y[real] for y, real in samples])
    length, amplitude = unit_of(numbers[:, :3]), unit_of(numbers[:, 3:])
    features = torch.cat([molecule_features(y, real, length, amplitude) for y, real in samples])
    mean, scale = features.mean(0), features.std(0, correction=0)
    scale = torch.where(scale > 1e-12 * mean.abs().clamp(min=1.0), scale, torch.inf)
    model = LogisticRegression(C=1 / _PENALTY, max_iter=2000)
    model.fit(((features - mean) / scale).numpy(), np.repeat([1, 0], len(x)))
    coefficient = torch.from_numpy(model.coef_[0]) / scale
    intercept = float(model.intercept_[0]) - float(coefficient @ mean)
    tilt = Tilt(
        log_snr=log_snr,
        length=length,
        amplitude=amplitude,
        coefficients=coefficient,
        intercept=intercept,
        limit=_LIMIT,
        n_candidates=n_candidates,
        sizes=sizes,
        cells=torch.ones(len(sizes), _N_CELLS, dtype=torch.float64),
    )
    cells = []
    for n in sizes.tolist():
        draws = here.sample([n] * _N_DRAWS, generator=generator, dtype=torch.float64)
        odds = tilt.log_odds(draws, torch.ones(draws.shape[:2], dtype=torch.bool))
        cells.append(cells_of(odds.exp(), _N_CELLS))
    return replace(tilt, cells=torch.stack(cells))
