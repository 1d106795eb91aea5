"""What tells two samples apart: boosted trees and a logistic regression, their log-odds averaged.

The log-ratio of two Gaussians is linear in second moments, which the regression finds; the trees
find thresholds and interactions.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_Array = NDArray[np.float64]


def scores(
    rows: NDArray[np.floating],
    is_data: NDArray[np.bool_],
    held_out: NDArray[np.floating],
    seed: int,
    max_iter: int,
    learning_rate: float,
    max_leaf_nodes: int,
    penalty: float,
) -> _Array:
    """Log-odds (m,) of held-out rows (m, D), learnt from rows (n, D); not calibrated.

    `TwoSample` explains the settings.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    trees = HistGradientBoostingClassifier(
        max_iter=max_iter,
        learning_rate=learning_rate,
        max_leaf_nodes=max_leaf_nodes,
        min_samples_leaf=40,
        max_bins=64,
        max_features=0.3,
        early_stopping=False,
        random_state=seed,
    )
    linear = make_pipeline(StandardScaler(), LogisticRegression(C=1 / penalty, max_iter=1000))
    log_odds: _Array = sum(
        0.5 * model.fit(rows, is_data).decision_function(held_out) for model in (trees, linear)
    )
    return log_odds


def calibrated(score: _Array, is_data: NDArray[np.bool_], held_out: _Array) -> _Array:
    """Log-odds (m,) of held-out scores, by what other scores (n,) of the same classifier show.

    A non-negative slope, by logistic regression through 0, and limits: no log-odds beyond those of
    a tail in which the others were seen. A classifier is surest where it extrapolates, and one
    wrong point there would outweigh a thousand others.
    """
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(fit_intercept=False).fit(score[:, None], is_data)
    slope = max(float(model.coef_[0, 0]), 0.0)
    log_odds: _Array = np.clip(
        slope * held_out,
        -_tail_log_odds(-score[~is_data], -score[is_data]),
        _tail_log_odds(score[is_data], score[~is_data]),
    )
    return log_odds


def _tail_log_odds(likely: _Array, unlikely: _Array) -> float:
    """Largest log-ratio, over thresholds, of the shares of two samples above; at least 0.

    One more of the unlikely is counted than was seen, so n points show no ratio beyond n.
    """
    threshold = np.sort(likely)
    above = 1 - np.arange(len(likely)) / len(likely)
    seen = len(unlikely) - np.searchsorted(np.sort(unlikely), threshold, "left")
    return max(float(np.log(above * len(unlikely) / (seen + 1)).max()), 0.0)
