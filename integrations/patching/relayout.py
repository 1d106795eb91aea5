r"""The same statistics in the units of another model.

Element one-hots and atomic numbers are linear functions of the element, so statistics that were
fitted on one-hot / 4 are known, exactly, for one-hot / 8 or with charges / 10 beside it:

    x' = s x,    h' = A h,    v_x' = s² v_x,    m' = A m,    W' = A W A',    B' = A B A'.

What does not follow is t*: a channel that is scaled up is noised away later.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from gaga_adapter.elements import atomic_numbers
from gaga_adapter.errors import GAGAWarning, StatsMismatchError
from gaga_adapter.layout import Layout, MoleculeLayout
from gaga_adapter.moments import ExchangeableMoments
from gaga_adapter.stats import GAGAStats


def in_layout(stats: GAGAStats | str | Path, layout: Layout, reference: str = "auto") -> GAGAStats:
    """The statistics as a model with this layout sees its data; other units are a `GAGAWarning`.

    Args:
        stats: Statistics of the same elements, in these or other units, with charges or without;
            also a folder or a hub id.
        layout: Layout of what the model diffuses, such as `pipe.layout(elements)`.
        reference: Kind of the Gaussian that will be made; `paper` has no other units.

    Raises:
        StatsMismatchError: If the statistics describe something else.
    """
    if not isinstance(stats, GAGAStats):
        stats = GAGAStats.from_pretrained(stats)
    have = stats.layout
    if have == layout:
        return stats
    if (
        not isinstance(have, MoleculeLayout)
        or not isinstance(layout, MoleculeLayout)
        or have.elements != layout.elements
        or reference == "paper"
    ):
        raise StatsMismatchError(
            f"the statistics describe {have.describe()}, the model diffuses {layout.describe()}. "
            "Fit again: fit_from(model, loader)."
        )
    warnings.warn(
        f"the statistics were fitted on {have.describe()} and are used for "
        f"{layout.describe()}: the moments are exact, but t* was chosen for the former. "
        "fit_from(model, loader) chooses it for this model.",
        GAGAWarning,
        stacklevel=4,
    )
    assert isinstance(stats.moments, ExchangeableMoments)
    scale = have.position_scale / layout.position_scale
    moments = map_moments(stats.moments, scale, feature_map(have, layout))
    # A refinement speaks of the features of the former layout.
    return replace(stats, layout=layout, moments=moments, refinement=None)


def feature_map(have: MoleculeLayout, want: MoleculeLayout) -> Tensor:
    """The matrix A (F', F) from the features of one layout to those of another."""
    n = len(have.elements)
    matrix = torch.zeros(want.n_features, have.n_features, dtype=torch.float64)
    matrix[:n, :n] = torch.eye(n) * (have.onehot_scale / want.onehot_scale)
    if want.charge_scale is not None:
        numbers = torch.tensor(atomic_numbers(have.elements))
        matrix[n, :n] = numbers * (have.onehot_scale / want.charge_scale)
    return matrix


def map_moments(moments: ExchangeableMoments, scale: float, matrix: Tensor) -> ExchangeableMoments:
    """Moments of molecules with positions s x and features A h, for s and A (F', F).

    Cumulants beyond the second, and the published scalar, are not kept.
    """
    new, old = matrix.shape
    state = moments.state_dict()
    mean, rows = state["mean"], state["table_rows"].double()
    i, j = torch.triu_indices(old, old)
    within = rows.new_zeros(len(rows), old, old)
    within[:, i, j] = within[:, j, i] = rows[:, 3 + old :]
    i, j = torch.triu_indices(new, new)
    table = [
        rows[:, :3] * scale**2,
        rows[:, 3 : 3 + old] @ matrix.T,
        (matrix @ within @ matrix.T)[:, i, j],
    ]
    summary = [
        mean[:, :1] * scale**2,
        mean[:, 1 : 1 + old] @ matrix.T,
        torch.full_like(mean[:, :1], torch.nan),
        mean[:, 2 + old : 3 + old] * scale**4,
        (matrix @ mean[:, 3 + old :].reshape(-1, old, old) @ matrix.T).flatten(1),
    ]
    head = torch.zeros(1 + new, 1 + old, dtype=torch.float64)
    head[0, 0], head[1:, 1:] = scale**2, matrix
    return ExchangeableMoments.from_state_dict(
        {
            **state,
            "mean": torch.cat(summary, 1),
            "scatter": head @ state["scatter"] @ head.T,
            "table_rows": torch.cat(table, 1).to(state["table_rows"].dtype),
        },
        {**moments.metadata(), "n_features": new},
    )
