r"""Two-sample criterion: can a classifier tell noised data from draws of the reference?

At a noise level, data `x_t = a x_0 + b eps` (law p) meet as many draws of the reference (law q), of
the same sizes, as features (`reference/invariants.py`, `features_dense.py`). Boosted trees and a
logistic regression learn to tell them apart on all folds but one; their average log-odds are the
score of the fold left out. Half of that fold calibrates the other half: a slope and limits turn its
scores into log-odds `T`, an estimate of `log p/q` that has not seen the points it is averaged over
(`classifier.py`), and so into a lower bound of `KL(p || q)` (`separation.py`). By data processing
it is also below the KL of the full tensors. Weak features, classifiers or few samples only loosen
it: it is evidence *of* divergence, and a small value is as good as the sample is large. Two draws
of one law have a slope near 0 and a bound within its error of 0, on average below it by what the
slope's noise costs (about 3 / n nats). Half a fold of n / 8 points shows no density ratio beyond
n / 8, so the bound saturates at `log(n / 8) + 1` nats (7.2 at n = 4,000). Within two nats of that
the column `saturated` is 1: that much *or more*.

The standard error is that of the average given the classifiers; the AUC is averaged over the half
folds, with the error of DeLong et al. 1988. What the choice of the training samples adds is not in
them; where there is nothing to see the AUC scatters by √2 times as much. The column `p_value` is
free of that: fold k is judged by classifiers that have learnt from the folds before it alone, by an
exact test that swaps pairs (`separation.py`).

**The check of the reference.** At one level of every curve, the data are replaced by draws of the
reference at the level of the data, noised just as the data are. If the classifier tells even these
from draws of the reference at that level, at p < 1e-4, then not the data are at fault but the
reference's own draws, its levels or the features, and a `GAGAWarning` says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from gaga_adapter.criteria.curve import CriterionCurve
from gaga_adapter.criteria.levels import draw_like
from gaga_adapter.criteria.protocol import BaseCriterion, Task
from gaga_adapter.criteria.two_sample.classifier import Flags, Floats, Rows, calibrate, scores
from gaga_adapter.criteria.two_sample.features import paired_features
from gaga_adapter.criteria.two_sample.separation import (
    Numbers,
    Separation,
    auc,
    bound_terms,
    cells,
    of_distinct,
    rank_differences,
    swap_p_value,
)
from gaga_adapter.errors import warn
from gaga_adapter.noise.levels import coefficients
from gaga_adapter.reference import ReferenceGaussian
from gaga_adapter.subspace import mask_from_sizes

#: Number of items below which the bound is loose.
FEW_ITEMS = 1000
_FAULT = 1e-4  # p-value of two draws of the reference below which it is at fault


@dataclass(frozen=True)
class TwoSample(BaseCriterion):
    """Two-sample criterion: a lower bound of `KL(p_t || reference)`, in nats per data item.

    Extra columns of its curve are `auc`, `auc_std_error`, `p_value`, `saturated` (0 or 1) and
    `null_p_value`, that of the check of the reference; NaN at levels without it.

    Attributes:
        n_samples: Largest number of data items, and of draws of the reference.
        folds: Number of folds of the cross-validation.
        max_iter: Number of trees of the boosted classifier.
        learning_rate: Learning rate of the boosted classifier.
        max_leaf_nodes: Number of leaves per tree.
        penalty: L2 weight of the logistic regression, for standardised features.
        n_permutations: Number of permutations for the p-value of each fold but the first.
        check_reference: Whether to check the reference against itself, at the cost of one more
            level.

    Raises:
        DataError: If a setting makes no sense.
    """

    name: ClassVar[str] = "two_sample"
    unit: ClassVar[str] = "nats"
    grows_with_items: ClassVar[bool] = True  # so a fit says what fewer items would have shown

    n_samples: int = 12_000
    folds: int = 4
    max_iter: int = 100
    learning_rate: float = 0.06
    max_leaf_nodes: int = 8
    penalty: float = 100.0
    n_permutations: int = 999
    check_reference: bool = True

    def __post_init__(self) -> None:
        self._require(folds=2, n_samples=self.fewest, n_permutations=1)

    def _classifier(self, seed: int) -> Callable[..., Floats]:
        names = ("max_iter", "learning_rate", "max_leaf_nodes", "penalty")
        settings = {name: getattr(self, name) for name in names}
        return partial(scores, random_state=seed, **settings)

    @property
    def fewest(self) -> int:
        """Fewest data items from which something can be learnt: 25 to test on per fold."""
        return 25 * self.folds

    def _draw(self, task: Task, reference: ReferenceGaussian) -> CriterionCurve:
        task, group = self._sample(task)
        levels, tick = task.levels, task.ticker(len(task.levels))
        outcomes = []
        for level in levels:
            here = reference.at(*coefficients(level))
            data, draws = paired_features(task, here, group)
            outcomes.append(self.separate(data, draws, _seed(task.generator), group))
            tick()
        null = [math.nan] * len(levels)
        if self.check_reference:
            middle = len(levels) // 2
            null[middle] = self._null_p_value(reference, task, levels[middle])
        parts = of_distinct(np.stack([one.terms for one in outcomes], 1), group, task.sizes)
        extra = {
            name: tuple(float(getattr(one, name)) for one in outcomes)
            for name in ("auc", "auc_std_error", "p_value", "saturated")
        }
        return self._curve(task, reference, parts, extra | {"null_p_value": tuple(null)})

    def _sample(self, task: Task, what: str = "data items") -> tuple[Task, Numbers]:
        """At most `n_samples` of the items, and the number of the distinct item of each (M,).

        Messages call the items `what`.
        """
        task = task.sample(self.n_samples).in_workspace()
        task.require(self.fewest, goal=" to tell them from the reference", what=what)
        group = task.copies("are kept in one fold and count as one in the errors")
        n_distinct = len(np.unique(group))
        if n_distinct < FEW_ITEMS:
            warn(
                f"{n_distinct} {what} make a loose lower bound of the divergence, and so an "
                f"optimistic t*. Pass at least {FEW_ITEMS} where you can."
            )
        return task, group

    def of_states(
        self,
        x: Tensor,
        mask: Tensor | None,
        reference: ReferenceGaussian,
        generator: Generator | None = None,
    ) -> Separation:
        """Tell states that have their noise already from draws of a reference of them.

        Args:
            x: States of one level, that the reference was not fitted on: (M, N, 3 + F) or
                (M, C, ...).
            mask: Real atoms (M, N) of molecules; `None` for dense data.
            reference: Reference of such states, drawn from at the level that it stands for. Pass
                that of clean data at the level of the states, `reference.at(a, b)`, or one of
                measured states (a = 1, b = 0). The states get no noise.
            generator: Source of all randomness.

        Raises:
            DataError: If the states are too few, not finite or of another shape.
        """
        task = self._task(x, mask, torch.zeros(1), generator, None)
        task, group = self._sample(task, "held-out states")
        features = paired_features(task, reference, group, has_noise=True)
        return self.separate(*features, _seed(generator), group)

    def null_check(
        self,
        reference: ReferenceGaussian,
        x: Tensor,
        mask: Tensor | None,
        log_snr: float,
        generator: Generator | None = None,
    ) -> Separation:
        """Tell two kinds of draws of the reference apart, in which no classifier should succeed.

        Draws at the level of the data, to which noise is added as to data, meet draws at the level
        `log_snr`. There are as many as data, of their shape or sizes. See `Criterion.curve` for the
        arguments.
        """
        clean = draw_like(x, mask, reference.at(1.0, 0.0), generator)
        mask = None if mask is None else mask_from_sizes(mask.sum(1))
        task, level = Task(clean, mask, [log_snr], generator), reference.at(*coefficients(log_snr))
        features = paired_features(task, level, np.arange(len(clean)))
        return self.separate(*features, _seed(generator))

    def _null_p_value(self, reference: ReferenceGaussian, task: Task, log_snr: float) -> float:
        """The p-value of `null_check`, with a warning if it shows a fault."""
        null = self.null_check(reference, task.x, task.mask, log_snr, task.generator)
        if null.p_value < _FAULT:
            warn(
                f"draws of the {reference.kind!r} reference at the level of the data, noised to "
                f"log-SNR {log_snr:.3g}, differ from its draws at that level (AUC {null.auc:.3f}, "
                f"p = {null.p_value:.1g}): the reference or the features are at fault, and this "
                "curve cannot be trusted. If the reference is your own, check its sample and at."
            )
        return null.p_value

    def separate(
        self, data: Tensor, drawn: Tensor, seed: int, group: NDArray[np.int64] | None = None
    ) -> Separation:
        """Tell two samples apart by cross-validation.

        Args:
            data: Features of the data (M, D).
            drawn: Features of the reference (M, D); row i pairs with row i of `data`.
            seed: Seed of the boosted trees and the permutations.
            group: Number of the distinct item (M,) behind each row; each its own when `None`.
        """
        n = len(data)
        group = np.arange(n) if group is None else group
        rows = torch.cat([data, drawn]).cpu().numpy()
        is_data = np.repeat([True, False], n)
        cell = np.tile(cells(group, 2 * self.folds), 2)
        fold, half = cell % self.folds, cell < self.folds
        score, log_odds = np.empty(2 * n), np.empty(2 * n)
        learn, areas = self._classifier(seed), []
        for k in range(self.folds):
            mine = fold == k
            score[mine] = learn(rows[~mine], is_data[~mine], rows[mine])
            for test, other in ((mine & half, mine & ~half), (mine & ~half, mine & half)):
                log_odds[test] = calibrate(score[other], is_data[other], score[test])
                areas.append(auc(score[test & is_data], score[test & ~is_data], group[test[:n]]))
        terms = bound_terms(log_odds[:n], log_odds[n:])
        kl, error = of_distinct(terms[:, None], group).value_and_error(self.unit)
        return Separation(
            kl=float(kl),
            kl_std_error=float(error),
            auc=math.fsum(area for area, _ in areas) / len(areas),
            auc_std_error=math.hypot(*(error for _, error in areas)) / len(areas),
            p_value=self._p_value(rows, is_data, fold, score[fold == self.folds - 1], group, seed),
            saturated=float(kl) > math.log(n / (2 * self.folds)) - 1,
            terms=terms,
        )

    def _p_value(
        self, rows: Rows, is_data: Flags, fold: Numbers, last: Floats, group: Numbers, seed: int
    ) -> float:
        """p-value over all folds but the first, each by a classifier of the folds before it.

        The data are the first half of the features (2 M, D), and copies swap together. The scores
        of the last fold are at hand (`last`), for their classifier knows all folds before it.
        """
        from scipy.stats import combine_pvalues

        learn, rng, p_values = self._classifier(seed), np.random.default_rng(seed), []
        for k in range(1, self.folds):
            mine, before, score = fold == k, fold < k, last
            if k < self.folds - 1:
                score = learn(rows[before], is_data[before], rows[mine])
            differences = rank_differences(score[is_data[mine]], score[~is_data[mine]])
            item = np.unique(group[mine[is_data]], return_inverse=True)[1]
            together = np.bincount(item, differences).astype(np.float64)
            p_values.append(swap_p_value(together, self.n_permutations, rng))
        return float(combine_pvalues(p_values, "fisher").pvalue)


def _seed(generator: Generator | None) -> int:
    home = generator.device if generator is not None else None
    return int(torch.randint(2**31, (), generator=generator, device=home))
