"""What tells two samples apart: boosted trees and a logistic regression, their log-odds averaged.

The log-ratio of two Gaussians is linear in second moments, which the regression finds; the trees
find thresholds and interactions.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Rows = NDArray[np.floating]
Flags = NDArray[np.bool_]


def scores(rows: Rows, is_data: Flags, held_out: Rows, penalty: float, **trees: float) -> Floats:
    """Log-odds (m,) of held-out rows (m, D), learnt from rows (n, D); not calibrated.

    `TwoSample` explains the penalty of the regression and the settings of the trees.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    fixed = {"min_samples_leaf": 40, "max_bins": 64, "max_features": 0.3, "early_stopping": False}
    boosted = HistGradientBoostingClassifier(**trees, **fixed)
    linear = make_pipeline(StandardScaler(), LogisticRegression(C=1 / penalty, max_iter=1000))
    log_odds: Floats = sum(
        0.5 * model.fit(rows, is_data).decision_function(held_out) for model in (boosted, linear)
    )
    return log_odds


def calibrate(score: Floats, is_data: Flags, held_out: Floats) -> Floats:
    """Log-odds (m,) of held-out scores, by what other scores (n,) of the same classifier show.

    They are the scores times a slope, non-negative and from a logistic regression through 0, within
    limits: no log-odds are beyond those of a tail that holds some of the other scores. A classifier
    is surest where it extrapolates, and one wrong point there would outweigh a thousand others.
    """
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(fit_intercept=False).fit(score[:, None], is_data)
    slope = max(float(model.coef_[0, 0]), 0.0)
    log_odds: Floats = np.clip(
        slope * held_out,
        -_tail_log_odds(-score[~is_data], -score[is_data]),
        _tail_log_odds(score[is_data], score[~is_data]),
    )
    return log_odds


def _tail_log_odds(likely: Floats, unlikely: Floats) -> float:
    """Largest log-ratio, over thresholds, of the shares of two samples above; at least 0.

    The unlikely ones are counted as one more than there are, so n points show no ratio beyond n.
    """
    above = 1 - np.arange(len(likely)) / len(likely)
    count = len(unlikely) - np.searchsorted(np.sort(unlikely), np.sort(likely), "left")
    return max(float(np.log(above * len(unlikely) / (count + 1)).max()), 0.0)
