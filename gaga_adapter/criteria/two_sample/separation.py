r"""How well held-out scores tell two samples apart: a divergence in nats, an AUC, folds for both.

Any function T bounds the divergence of the law p of one sample from the law q of the other,

    KL(p || q) >= E_p[T] - E_q[exp T] + 1           (Nguyen, Wainwright and Jordan 2010, section II)

with equality at `T = log p/q`. Averages of points that T has not seen are unbiased, so this is a
lower bound in expectation; the `log E_q[exp T]` of the Donsker-Varadhan form is biased upwards on
finite samples.

Copies of one item (`task.py`) stay in one fold, count as one in every standard error, are swapped
together, and meet copies of a draw, each with its own noise.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gaga_adapter.criteria.contributions import Contributions

_Array = NDArray[np.float64]


@dataclass(frozen=True)
class Separation:
    """How well two samples were told apart."""

    kl: float  # lower bound of KL(data || reference), nats
    kl_std_error: float
    auc: float  # held-out area under the ROC curve; 0.5 is chance
    auc_std_error: float
    p_value: float  # probability of so much difference if both samples have one law
    saturated: bool  # whether the bound is within two nats of the most that so few points show
    terms: _Array  # `T(p_i) - exp T(q_i) + 1` (n,), whose average is `kl`


def bound_terms(log_odds_p: _Array, log_odds_q: _Array) -> _Array:
    """Terms `T(p_i) - exp T(q_i) + 1` (n,) of the Nguyen-Wainwright-Jordan bound of KL(p || q).

    `T` is given at draws from both (n,), which it has not seen.
    """
    terms: _Array = log_odds_p - np.exp(log_odds_q) + 1
    return terms


def auc(
    scores_p: _Array, scores_q: _Array, group: NDArray[np.int64] | None = None
) -> tuple[float, float]:
    """Area under the ROC curve and its standard error (DeLong et al. 1988).

    Scores (n,) and (m,) are high where the classifier believes in p. `group` numbers the distinct
    items where both samples have the same copies (n = m,).
    """
    parts = _share_below(scores_p, scores_q), 1 - _share_below(scores_q, scores_p)
    errors = []
    for share in parts:
        rows = of_distinct(share[:, None], np.arange(len(share)) if group is None else group)
        errors.append(float(rows.value_and_error("nats")[1]))
    return float(parts[0].mean()), math.hypot(*errors)


def _share_below(values: _Array, others: _Array) -> _Array:
    """Share of the others that lies below each value, ties counted half."""
    from scipy.stats import rankdata

    both = rankdata(np.concatenate([values, others]))[: len(values)]
    share: _Array = (both - rankdata(values)) / len(others)
    return share


def cells(group: NDArray[np.int64], n_cells: int) -> NDArray[np.int64]:
    """Cell (M,) of each item, of about equal sizes, with all copies of an item in one.

    Items without copies go round: item i to cell `i % n_cells`. `group` numbers the distinct items
    (M,) from 0 in the order of first appearance.
    """
    counts = np.bincount(group)
    fullness = [(0, cell) for cell in range(n_cells)]
    cell_of = np.empty(len(counts), dtype=np.int64)
    for one in np.argsort(-counts, kind="stable"):
        full, cell = heapq.heappop(fullness)
        cell_of[one] = cell
        heapq.heappush(fullness, (full + int(counts[one]), cell))
    return cell_of[group]


def of_distinct(
    terms: _Array, group: NDArray[np.int64], size: Tensor | None = None
) -> Contributions:
    """Terms (M, L) of items as contributions of the distinct items, which `group` (M,) numbers."""
    _, first, index = np.unique(group, return_index=True, return_inverse=True)
    weight = torch.from_numpy(np.bincount(index)).to(torch.float64)
    sums = torch.zeros(len(weight), terms.shape[1], dtype=torch.float64)
    sums.index_add_(0, torch.from_numpy(index), torch.from_numpy(terms))
    size = None if size is None else size.cpu()[torch.from_numpy(first)]
    return Contributions(sums / weight[:, None], weight, size)
