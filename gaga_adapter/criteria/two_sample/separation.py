r"""How well held-out scores tell two samples apart: a divergence in nats, an AUC, exact tests.

Any function T bounds the divergence of the law p of one sample from the law q of the other,

    KL(p || q) >= E_p[T] - E_q[exp T] + 1           (Nguyen, Wainwright and Jordan 2010, section II)

with equality at `T = log p/q`. Averages of points that T has not seen are unbiased, so this is a
lower bound in expectation; the `log E_q[exp T]` of the Donsker-Varadhan form is biased upwards on
finite samples.

Copies of one item (`protocol.py`) stay in one fold, count as one in every standard error, are
swapped together, and meet copies of a draw, each with its own noise.

**Exact tests** that two samples have one law swap the members of pairs `(p_i, q_i)`, one from each
sample and alike in everything else, such as molecules of one size. If both samples have one law, a
swap changes nothing in law, so under a score that has not seen the pair the difference of its ranks
has a random sign: `d_i -> ± d_i` (Fisher 1935, section 21; Phipson and Smyth 2010 for the count),

    p = (1 + #{flips: sum ± d_i >= sum d_i}) / (1 + n_permutations).

With `d_i` the difference of ranks among all scores of both samples, `sum d_i` is `2 n² (AUC - ½)`:
the statistic is the area under the ROC curve.

**Several folds.** The scores of all folds of a cross-validation must not be permuted together: the
classifier of one fold has learnt from the labels of the others. Linear scores show what happens.
With `δ_k` the difference of the means of fold k, fold k scores `δ_k · sum_{j≠k} δ_j`, so each
product occurs twice, and the sum over the folds scatters by √2 as much as independent folds would.
In an order of the folds in which the classifier of each has learnt from earlier folds alone,
each product occurs once: the same evidence, and the p-value of a fold is uniform *given* the folds
before it. So they are independent, and Fisher's `-2 sum log p_k ~ χ²(2 m)` is exact (Fisher 1932,
section 21.1).
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
Numbers = NDArray[np.int64]  # an integer for each item, such as that of its fold
_CHUNK = 2**22  # signs at a time


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


def auc(scores_p: _Array, scores_q: _Array, group: Numbers | None = None) -> tuple[float, float]:
    """Area under the ROC curve and its standard error (DeLong et al. 1988).

    Scores (n,) and (m,) are high where the classifier believes in p. `group` numbers the distinct
    items where both samples have the same copies (n = m,).
    """
    shares = _share_below(scores_p, scores_q), 1 - _share_below(scores_q, scores_p)
    groups = (np.arange(len(share)) if group is None else group for share in shares)
    rows = [of_distinct(s[:, None], g) for s, g in zip(shares, groups, strict=True)]
    errors = (float(row.value_and_error("nats")[1]) for row in rows)
    return float(shares[0].mean()), math.hypot(*errors)


def _share_below(values: _Array, others: _Array) -> _Array:
    """Share of the others that lies below each value, ties counted half."""
    from scipy.stats import rankdata

    both = rankdata(np.concatenate([values, others]))[: len(values)]
    share: _Array = (both - rankdata(values)) / len(others)
    return share


def cells(group: Numbers, n_cells: int) -> NDArray[np.int64]:
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


def of_distinct(terms: _Array, group: Numbers, size: Tensor | None = None) -> Contributions:
    """Terms (M, L) of items as contributions of the distinct items, which `group` (M,) numbers."""
    _, first, index = np.unique(group, return_index=True, return_inverse=True)
    weight = torch.from_numpy(np.bincount(index)).to(torch.float64)
    sums = torch.zeros(len(weight), terms.shape[1], dtype=torch.float64)
    sums.index_add_(0, torch.from_numpy(index), torch.from_numpy(terms))
    size = None if size is None else size.cpu()[torch.from_numpy(first)]
    return Contributions(sums / weight[:, None], weight, size)


def rank_differences(scores_p: _Array, scores_q: _Array) -> _Array:
    """Differences (n,) of the ranks of paired scores (n,) among all 2 n."""
    from scipy.stats import rankdata

    n = len(scores_p)
    ranks = rankdata(np.concatenate([scores_p, scores_q]))
    difference: _Array = ranks[:n] - ranks[n:]
    return difference


def swap_p_value(differences: _Array, n_permutations: int, rng: np.random.Generator) -> float:
    """One-sided p-value of the hypothesis that the differences (n,) are symmetric about 0.

    Under the alternative they are large: the first member of a pair ranks above the second.
    """
    n, observed, reached = len(differences), differences.sum(), 0
    slack = 1e-12 * np.abs(differences).sum()  # a tie is a tie in floating point too
    step = max(1, _CHUNK // max(n, 1))
    for start in range(0, n_permutations, step):
        flips = rng.integers(0, 2, (min(step, n_permutations - start), n), dtype=np.int8)
        reached += int((differences @ (2.0 * flips.T - 1) >= observed - slack).sum())
    return (1 + reached) / (1 + n_permutations)
