r"""Two-sample criterion: can a classifier tell noised data from draws of the reference?

At a noise level, data `x_t = a x_0 + b eps` (law p) meet as many draws of the reference (law q), of
the same sizes, as invariant features (`features.py`). Boosted trees and a logistic regression learn
to tell them apart on all folds but one; their average log-odds are the score of the fold left out.
Half of that fold calibrates the other half: a non-negative slope turns its scores into log-odds
`T`, an estimate of `log p/q` that has not seen the points it is averaged over. For every such T

    KL(p || q) >= E_p[T] - E_q[exp T] + 1           (Nguyen, Wainwright and Jordan 2010, section II)

with equality at `T = log p/q`. The averages of held-out points are unbiased, so this is a lower
bound in expectation; the `log E_q[exp T]` of the Donsker-Varadhan form is biased upwards on finite
samples. By data processing it is also below the KL of the full tensors. Weak features, classifiers
or few samples only loosen it: it is evidence *of* divergence, and a small value is as good as the
sample is large. Two draws of one law have a slope near 0 and a bound within its error of 0, on
average below it by what the slope's noise costs (about 3 / n nats).

`T` is clipped to `± log n`: n points cannot show a density ratio beyond n. The bound saturates at
`log n + 1` nats (9.3 at n = 4,000). Above `log n - 1` the column `saturated` is 1: that much *or
more*.

The standard error is that of the average given the classifiers; the AUC is averaged over the half
folds, with the error of DeLong et al. 1988. What the choice of the training samples adds is not in
them; where there is nothing to see the AUC scatters by 1.5 times as much.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from gaga_adapter.criteria.contributions import Contributions
from gaga_adapter.criteria.curve import CriterionCurve
from gaga_adapter.criteria.features import dense_features, molecule_features
from gaga_adapter.criteria.levels import check_data, coefficients, drawn, falling, noised
from gaga_adapter.errors import DataError, GAGAWarning
from gaga_adapter.reference import ReferenceGaussian
from gaga_adapter.subspace import mask_from_sizes

_Array = NDArray[np.float64]
_FEW = 1000  # below this many items the bound is loose


@dataclass(frozen=True)
class Separation:
    """How well two samples were told apart.

    Attributes:
        kl: lower bound of KL(data || reference), nats.
        kl_std_error: its standard error.
        auc: held-out area under the ROC curve; 0.5 is chance.
        auc_std_error: its standard error.
        saturated: the bound is within one nat of `log n`, the most that n points can show.
        contributions: `T(p_i) - exp T(q_i) + 1` (n,), whose average is `kl`.
    """

    kl: float
    kl_std_error: float
    auc: float
    auc_std_error: float
    saturated: bool
    contributions: _Array


@dataclass(frozen=True)
class TwoSample:
    """Two-sample criterion, in nats per data item.

    Attributes:
        n_samples: at most so many data items, and as many draws of the reference.
        folds: of the cross-validation.
        max_iter: trees of the boosted classifier.
        learning_rate: of the boosted classifier.
        max_leaf_nodes: leaves per tree.
        penalty: L2 weight of the logistic regression, for standardised features.
    """

    name: ClassVar[str] = "two_sample"
    unit: ClassVar[str] = "nats"

    n_samples: int = 12_000
    folds: int = 4
    max_iter: int = 100
    learning_rate: float = 0.06
    max_leaf_nodes: int = 8
    penalty: float = 100.0

    def __post_init__(self) -> None:
        if self.folds < 2 or self.n_samples < self._fewest:
            raise DataError(
                f"folds={self.folds}, n_samples={self.n_samples}: need at least 2 folds and "
                f"{self._fewest} samples."
            )

    @property
    def _fewest(self) -> int:
        """Data items without which nothing can be learnt: 25 to test on per fold."""
        return 25 * self.folds

    def curve(
        self,
        x: Tensor,
        mask: Tensor | None,
        reference: ReferenceGaussian,
        log_snr: Tensor,
        generator: Generator | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> CriterionCurve:
        """Lower bound of `KL(p_t || reference)` over log-SNR; see `Criterion.curve`.

        Args:
            x: molecules (M, N, 3 + F), or dense data (M, C, ...).
            mask: molecules: real atoms (M, N), bool. `None` says that the data are dense.
            reference: at any level.
            log_snr: levels (L,), in any order.
            generator: picks the items, draws the noise and the reference.
            progress: called with (levels done, levels in all).

        Returns:
            Curve with the extra columns `auc`, `auc_std_error` and `saturated` (0 or 1).

        Raises:
            DataError: too few items, a number that is not finite, or shapes that make no sense.
        """
        check_data(x, mask)
        levels = falling(log_snr)
        if len(x) < self._fewest:
            raise DataError(
                f"found {len(x)} data items, need at least {self._fewest} to tell them from "
                "the reference. Pass more data."
            )
        home = generator.device if generator is not None else None
        pick = torch.randperm(len(x), generator=generator, device=home)[: self.n_samples]
        pick = pick.to(x.device)
        x, mask = x[pick], None if mask is None else mask[pick]
        if len(x) < _FEW:
            warnings.warn(
                f"{len(x)} data items make a loose lower bound of the divergence, and so an "
                f"optimistic t*. Pass at least {_FEW} where you can.",
                GAGAWarning,
                stacklevel=2,
            )
        found = []
        for done, level in enumerate(levels, 1):
            data, draws = _features(x, mask, reference.at(*coefficients(level)), generator)
            seed = int(torch.randint(2**31, (), generator=generator, device=home))
            found.append(self.separate(data, draws, seed))
            if progress is not None:
                progress(done, len(levels))
        return CriterionCurve(
            criterion=self.name,
            reference=reference.kind,
            unit=self.unit,
            log_snr=tuple(levels),
            value=tuple(one.kl for one in found),
            std_error=tuple(one.kl_std_error for one in found),
            n_samples=len(x),
            extra={
                "auc": tuple(one.auc for one in found),
                "auc_std_error": tuple(one.auc_std_error for one in found),
                "saturated": tuple(float(one.saturated) for one in found),
            },
            contributions=Contributions.of_items(
                torch.from_numpy(np.stack([one.contributions for one in found], 1)), mask
            ),
        )

    def separate(self, data: Tensor, drawn: Tensor, seed: int) -> Separation:
        """Tell two samples apart by cross-validation.

        Args:
            data: features of the data (M, D).
            drawn: features of the reference (M, D); row i goes to the fold of row i of `data`.
            seed: of the boosted trees.
        """
        n = len(data)
        rows = torch.cat([data, drawn]).cpu().numpy()
        is_data = np.repeat([True, False], n)
        fold = np.tile(np.arange(n) % self.folds, 2)
        half = np.tile(np.arange(n) // self.folds % 2 == 0, 2)
        log_odds = np.empty(2 * n)
        areas = []
        for k in range(self.folds):
            rest = fold != k
            score = np.zeros(2 * n)
            score[~rest] = self._scores(rows[rest], is_data[rest], rows[~rest], seed)
            for test, other in ((~rest & half, ~rest & ~half), (~rest & ~half, ~rest & half)):
                log_odds[test] = _slope(score[other], is_data[other]) * score[test]
                areas.append(auc(score[test & is_data], score[test & ~is_data]))
        terms = bound_terms(log_odds[is_data], log_odds[~is_data])
        kl = float(terms.mean())
        return Separation(
            kl=kl,
            kl_std_error=float(terms.std(ddof=1)) / math.sqrt(n),
            auc=math.fsum(area for area, _ in areas) / len(areas),
            auc_std_error=math.hypot(*(error for _, error in areas)) / len(areas),
            saturated=kl > math.log(n) - 1,
            contributions=terms,
        )

    def _scores(
        self,
        rows: NDArray[np.floating],
        is_data: NDArray[np.bool_],
        held_out: NDArray[np.floating],
        seed: int,
    ) -> _Array:
        """Log-odds (m,) of held-out rows (m, D), the average of both classifiers."""
        from sklearn.ensemble import HistGradientBoostingClassifier
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        trees = HistGradientBoostingClassifier(
            max_iter=self.max_iter,
            learning_rate=self.learning_rate,
            max_leaf_nodes=self.max_leaf_nodes,
            min_samples_leaf=40,
            max_bins=64,
            max_features=0.3,
            early_stopping=False,
            random_state=seed,
        )
        linear = make_pipeline(
            StandardScaler(), LogisticRegression(C=1 / self.penalty, max_iter=1000)
        )
        log_odds: _Array = sum(
            0.5 * model.fit(rows, is_data).decision_function(held_out) for model in (trees, linear)
        )
        return log_odds


def _slope(score: _Array, is_data: NDArray[np.bool_]) -> float:
    """Slope of calibrated log-odds over a score, by logistic regression through 0; not negative."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(fit_intercept=False).fit(score[:, None], is_data)
    return max(float(model.coef_[0, 0]), 0.0)


def bound_terms(log_odds_p: _Array, log_odds_q: _Array) -> _Array:
    """Terms `T(p_i) - exp T(q_i) + 1` (n,) of the Nguyen-Wainwright-Jordan bound of KL(p || q).

    Args:
        log_odds_p: T at draws from p (n,), from a T that has not seen them.
        log_odds_q: T at draws from q (n,).
    """
    n = len(log_odds_p)
    p, q = (odds.clip(-math.log(n), math.log(n)) for odds in (log_odds_p, log_odds_q))
    terms: _Array = p - np.exp(q) + 1
    return terms


def auc(scores_p: _Array, scores_q: _Array) -> tuple[float, float]:
    """Area under the ROC curve and its standard error (DeLong et al. 1988).

    Args:
        scores_p: (n,), high where the classifier believes in p.
        scores_q: (m,).
    """
    above = _share_below(scores_p, scores_q)
    below = 1 - _share_below(scores_q, scores_p)
    error = math.sqrt(above.var(ddof=1) / len(above) + below.var(ddof=1) / len(below))
    return float(above.mean()), error


def _share_below(values: _Array, others: _Array) -> _Array:
    """Share of the others that lies below each value, ties counted half."""
    ordered = np.sort(others)
    ranks = np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")
    share: _Array = ranks / (2 * len(ordered))
    return share


def _features(
    x: Tensor, mask: Tensor | None, reference: ReferenceGaussian, generator: Generator | None
) -> tuple[Tensor, Tensor]:
    """Features (M, D) of noised data, and of as many draws of the reference at its level."""
    one, other = noised(x, mask, reference, generator), drawn(x, mask, reference, generator)
    if mask is None:
        return dense_features(one), dense_features(other)
    other_mask = mask_from_sizes(mask.sum(1))
    # Units from both samples alike, so that they say nothing of which is which.
    both = (one, mask), (other, other_mask)
    length = _root_mean_square([y[..., :3][real] for y, real in both])
    amplitude = _root_mean_square([y[..., 3:][real] for y, real in both])
    one, other = (molecule_features(y, real, length, amplitude) for y, real in both)
    return one, other


def _root_mean_square(parts: list[Tensor]) -> float:
    """Unit of length; 1 where there is none, as for the positions of single atoms."""
    square = torch.cat(parts).double().square()
    return math.sqrt(float(square.mean())) or 1.0 if square.numel() else 1.0
