r"""Exact tests that two samples have one law: swap the members of pairs.

Pairs `(p_i, q_i)`, one from each sample and alike in everything else, such as molecules of one
size. If both samples have one law, to swap a pair changes nothing in law, so under a score that has
not seen them the difference of its ranks has a random sign: `d_i -> ± d_i` (Fisher 1935, section
21; Phipson and Smyth 2010 for the count),

    p = (1 + #{flips: sum ± d_i >= sum d_i}) / (1 + n_permutations).

With `d_i` the difference of ranks among all scores of both samples, `sum d_i` is `2 n² (AUC - ½)`:
the statistic is the area under the ROC curve.

**Several folds.** The scores of all folds of a cross-validation must not be permuted together: the
classifier of one fold has learnt from the labels of the others. Linear scores show what happens.
With `δ_k` the difference of the means of fold k, fold k scores `δ_k · sum_{j≠k} δ_j`, so each
product occurs twice, and the sum over the folds scatters by √2 as much as independent folds would.
In an order of the folds in which each is judged by a classifier that knows earlier folds alone,
each product occurs once: the same evidence, and the p-value of a fold is uniform *given* the folds
before it. So they are independent, and Fisher's `-2 sum log p_k ~ χ²(2 m)` is exact (Fisher 1932,
section 21.1).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_Array = NDArray[np.float64]
_CHUNK = 2**22  # signs at a time


def rank_differences(scores_p: _Array, scores_q: _Array) -> _Array:
    """Differences (n,) of the ranks of paired scores (n,) among all 2 n."""
    from scipy.stats import rankdata

    n = len(scores_p)
    ranks = rankdata(np.concatenate([scores_p, scores_q]))
    difference: _Array = ranks[:n] - ranks[n:]
    return difference


def swap_p_value(differences: _Array, n_permutations: int, rng: np.random.Generator) -> float:
    """One-sided p-value of the hypothesis that the differences (n,) are symmetric about 0.

    They are large where the first member of a pair is as the alternative says.
    """
    n, observed, reached = len(differences), differences.sum(), 0
    slack = 1e-12 * np.abs(differences).sum()  # a tie is a tie in floating point too
    step = max(1, _CHUNK // max(n, 1))
    for start in range(0, n_permutations, step):
        flips = rng.integers(0, 2, (min(step, n_permutations - start), n), dtype=np.int8)
        reached += int((differences @ (2.0 * flips.T - 1) >= observed - slack).sum())
    return (1 + reached) / (1 + n_permutations)
