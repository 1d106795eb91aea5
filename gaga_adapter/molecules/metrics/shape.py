"""The form of molecules: what stability cannot see.

A sampler that starts from a wrong Gaussian makes molecules too compact and all alike, while their
stability even rises. These figures show it. Per molecule of N >= 2 atoms, with the positions x
(N, 3) about their centre and the gyration tensor `x'x / (N-1)`:

- `v_x = |x|² / (3 (N-1))`, the variance per degree of freedom of the zero-centre-of-mass subspace;
- anisotropy, the largest eigenvalue of the gyration tensor over their sum: 1/3 for a ball, 1 for
  a line.

Over the set: the mean and spread of v_x, the mean anisotropy, the share of each element among the
atoms, and the share of molecules whose bond graph is connected.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gaga_adapter.elements import SYMBOLS
from gaga_adapter.molecules.data import MoleculeSet
from gaga_adapter.molecules.metrics.bonds import batch_rows, batches_with_bonds, connected
from gaga_adapter.molecules.metrics.estimate import (
    Estimate,
    estimate_mean,
    estimate_ratio,
    estimate_spread,
)


@dataclass(frozen=True)
class ShapeFigures:
    """Form of a set of molecules; None where no molecule has two atoms.

    Attributes:
        v_x: Mean of v_x over molecules, angstrom².
        v_x_spread: Standard deviation of v_x over molecules, angstrom².
        anisotropy: Mean over molecules of the largest gyration eigenvalue over their sum.
        connected: Share of molecules with one component, by EDM's bond rule.
        element_shares: Share of each element among all atoms, by symbol.
    """

    v_x: Estimate | None
    v_x_spread: Estimate | None
    anisotropy: Estimate | None
    connected: Estimate
    element_shares: Mapping[str, Estimate]


def gyration_eigenvalues(molecules: MoleculeSet) -> NDArray[np.float64]:
    """(M, 3), ascending, angstrom²: eigenvalues of `x'x / (N-1)`; NaN for single atoms."""
    parts = []
    for rows in batch_rows(molecules):
        mask = molecules.atomic_numbers[rows] > 0
        n_atoms, x = mask.sum(axis=1), molecules.positions[rows].astype(np.float64)
        x = (x - (x.sum(axis=1) / n_atoms[:, None])[:, None]) * mask[..., None]
        with np.errstate(invalid="ignore"):
            tensor = np.swapaxes(x, 1, 2) @ x / (n_atoms - 1)[:, None, None]
        eigenvalues = np.full((len(x), 3), np.nan)
        eigenvalues[n_atoms > 1] = np.linalg.eigvalsh(tensor[n_atoms > 1])
        parts.append(eigenvalues)
    return np.concatenate(parts)


def shape_figures(molecules: MoleculeSet) -> ShapeFigures:
    """Figures of the form of a set of molecules, with standard errors."""
    eigenvalues = gyration_eigenvalues(molecules)[molecules.n_atoms > 1]
    total = eigenvalues.sum(axis=1)
    whole = [connected(bonds, part.n_atoms) for part, bonds in batches_with_bonds(molecules)]
    numbers, n_atoms = molecules.atomic_numbers, molecules.n_atoms
    return ShapeFigures(
        v_x=estimate_mean(total / 3),
        v_x_spread=estimate_spread(total / 3),
        anisotropy=estimate_mean(eigenvalues[total > 0, 2] / total[total > 0]),
        connected=estimate_ratio(np.concatenate(whole), np.ones(len(molecules))),
        element_shares={
            SYMBOLS[z]: estimate_ratio((numbers == z).sum(axis=1), n_atoms)
            for z in np.unique(numbers[numbers > 0])
        },
    )
