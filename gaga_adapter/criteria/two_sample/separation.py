r"""How well held-out scores tell two samples apart: a divergence in nats, an AUC, folds for both.

Any function T bounds the divergence of the law p of one sample from the law q of the other,

    KL(p || q) >= E_p[T] - E_q[exp T] + 1           (Nguyen, Wainwright and Jordan 2010, section II)

with equality at `T = log p/q`. Averages of points that T has not seen are unbiased, so this is a
lower bound in expectation; the `log E_q[exp T]` of the Donsker-Varadhan form is biased upwards on
finite samples.

**Copies.** Close to the data a classifier that has learnt one noised copy of an item knows the
others, and would find the points of the data set instead of the law behind it. So items that are
exactly equal stay in one fold, count as one in every standard error, are swapped together, and meet
copies of a draw, each with its own noise. Events of at most 16 numbers may well be discrete (a
type, a pixel): their copies are draws like any other, and so are those of data with fewer than 100
distinct items, which show no law but a discrete one. Copies that were turned or reordered are not
recognised.
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
_DISCRETE_NUMBERS, _DISCRETE_ITEMS = 16, 100


@dataclass(frozen=True)
class Separation:
    """How well two samples were told apart.

    Attributes:
        kl: lower bound of KL(data || reference), nats.
        kl_std_error: its standard error.
        auc: held-out area under the ROC curve; 0.5 is chance.
        auc_std_error: its standard error.
        p_value: of the hypothesis that both samples have one law.
        saturated: the bound is within two nats of the most that so few points can show.
        terms: `T(p_i) - exp T(q_i) + 1` (n,), whose average is `kl`.
    """

    kl: float
    kl_std_error: float
    auc: float
    auc_std_error: float
    p_value: float
    saturated: bool
    terms: _Array


def bound_terms(log_odds_p: _Array, log_odds_q: _Array) -> _Array:
    """Terms `T(p_i) - exp T(q_i) + 1` (n,) of the Nguyen-Wainwright-Jordan bound of KL(p || q).

    Args:
        log_odds_p: T at draws from p (n,), from a T that has not seen them.
        log_odds_q: T at draws from q (n,).
    """
    terms: _Array = log_odds_p - np.exp(log_odds_q) + 1
    return terms


def auc(
    scores_p: _Array, scores_q: _Array, group: NDArray[np.int64] | None = None
) -> tuple[float, float]:
    """Area under the ROC curve and its standard error (DeLong et al. 1988).

    Args:
        scores_p: (n,), high where the classifier believes in p.
        scores_q: (m,).
        group: copies in both samples alike (n = m,): number of the distinct item.
    """
    parts = _share_below(scores_p, scores_q), 1 - _share_below(scores_q, scores_p)
    errors = []
    for share in parts:
        rows = of_distinct(share[:, None], np.arange(len(share)) if group is None else group)
        errors.append(float(rows.value_and_error("nats")[1]))
    return float(parts[0].mean()), math.hypot(*errors)


def _share_below(values: _Array, others: _Array) -> _Array:
    """Share of the others that lies below each value, ties counted half."""
    ordered = np.sort(others)
    ranks = np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")
    share: _Array = ranks / (2 * len(ordered))
    return share


def copies(x: Tensor, mask: Tensor | None) -> NDArray[np.int64]:
    """Number (M,) of the distinct item that each item is a copy of, by first appearance.

    Args:
        x: clean data: molecules (M, N, 3 + F), or dense (M, C, ...).
        mask: molecules: real atoms (M, N), bool. `None` says that the data are dense.
    """
    if mask is None:
        numbers = torch.full((len(x),), math.prod(x.shape[1:]))
    else:
        numbers = mask.sum(1).cpu() * x.shape[2]
        x = torch.where(mask[..., None], x, 0)
    rows = (x.detach().flatten(1).to("cpu", torch.float32) + 0.0).numpy()  # -0 becomes 0
    known: dict[tuple[int, int], int] = {}
    group = np.empty(len(x), dtype=np.int64)
    for i, (row, n) in enumerate(zip(rows, numbers.tolist(), strict=True)):
        key = (0, i) if n <= _DISCRETE_NUMBERS else (n, hash(row.tobytes()))
        group[i] = known.setdefault(key, len(known))
    return group if len(known) >= _DISCRETE_ITEMS else np.arange(len(x))


def cells(group: NDArray[np.int64], n_cells: int) -> NDArray[np.int64]:
    """Cell (M,) of each item, of about equal sizes, with all copies of an item in one.

    Items without copies go round: item i to cell `i % n_cells`.

    Args:
        group: number of the distinct item (M,), from 0 in the order of first appearance.
        n_cells: how many.
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
    terms: NDArray[np.float64], group: NDArray[np.int64], size: Tensor | None = None
) -> Contributions:
    """Terms of items as contributions of the distinct items.

    Args:
        terms: (M, L).
        group: number of the distinct item (M,).
        size: molecules: number of atoms (M,).
    """
    _, first, index = np.unique(group, return_index=True, return_inverse=True)
    weight = torch.from_numpy(np.bincount(index)).to(torch.float64)
    sums = torch.zeros(len(weight), terms.shape[1], dtype=torch.float64)
    sums.index_add_(0, torch.from_numpy(index), torch.from_numpy(terms))
    size = None if size is None else size.cpu()[torch.from_numpy(first)]
    return Contributions(sums / weight[:, None], weight, size)
