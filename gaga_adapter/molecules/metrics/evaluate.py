"""How good generated molecules are, by the definitions of the EDM codebase (Hoogeboom et al. 2022).

- atom stability: share of atoms whose bond orders sum to an allowed valence;
- molecule stability: share of molecules of which every atom is stable;
- validity: share of molecules that rdkit can sanitise, bonds taken from distances;
- uniqueness: share of distinct SMILES (largest fragments) among the valid molecules;
- novelty: share of the distinct SMILES that the training data does not have.

EDM prints 0 where a figure cannot be computed; here it is None. These figures do not see the form
of the molecules, so `evaluate` reports that beside them (`shape.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gaga_adapter.distributed import Processes, Progress
from gaga_adapter.molecules.data import MoleculeSet
from gaga_adapter.molecules.metrics.bonds import batches_with_bonds, stable_atoms
from gaga_adapter.molecules.metrics.chemistry import smiles_of
from gaga_adapter.molecules.metrics.estimate import (
    Estimate,
    estimate_distinct,
    estimate_mean,
    estimate_ratio,
)
from gaga_adapter.molecules.metrics.shape import ShapeFigures, shape_figures


@dataclass(frozen=True, eq=False)
class Verdicts:
    """The findings for each of M molecules."""

    n_atoms: NDArray[np.int64]  # (M,)
    n_stable: NDArray[np.int64]  # (M,) stable atoms
    smiles: tuple[str | None, ...]  # of the largest fragment; None where rdkit cannot sanitise

    @property
    def stable(self) -> NDArray[np.bool_]:
        """(M,) whether every atom is stable."""
        return np.equal(self.n_stable, self.n_atoms)

    @property
    def valid(self) -> NDArray[np.bool_]:
        """(M,) whether rdkit can sanitise the molecule."""
        return np.array([smiles is not None for smiles in self.smiles])


@dataclass(frozen=True)
class MoleculeMetrics:
    """Figures of a set of molecules, each with its standard error; None where not computable.

    Attributes:
        n_molecules: Number of molecules.
        atom_stability: Share of stable atoms.
        molecule_stability: Share of molecules with stable atoms only.
        validity: Share of valid molecules.
        uniqueness: Share of distinct SMILES among the valid; None if none is valid.
        novelty: Share of the distinct SMILES that are not in the reference; None without one.
        shape: The form of the molecules.
    """

    n_molecules: int
    atom_stability: Estimate
    molecule_stability: Estimate
    validity: Estimate
    uniqueness: Estimate | None
    novelty: Estimate | None
    shape: ShapeFigures

    def to_dict(self) -> dict[str, Any]:
        """JSON form: nested dictionaries of `value` and `std_error`, null where not computable."""
        return asdict(self)


def judge(
    molecules: MoleculeSet, processes: Processes | None = None, progress: Progress | None = None
) -> Verdicts:
    """The verdict on every single molecule; arguments and errors are those of `evaluate`."""
    processes = processes or Processes()
    order = np.arange(len(molecules))
    shares = [order[rank :: processes.count] for rank in range(processes.count)]
    n_stable: list[NDArray[np.int64]] = []
    smiles: list[str | None] = []

    def report(done: int) -> None:
        if progress is not None:
            progress("EDM's metrics", done, len(molecules))

    with processes.in_step(report) as tick:
        if len(shares[processes.index]):
            for part, bonds in batches_with_bonds(molecules.subset(shares[processes.index])):
                n_stable.append(stable_atoms(part, bonds).sum(axis=1, dtype=np.int64))
                smiles += smiles_of(part, bonds)
                tick(len(smiles))
    all_stable = np.zeros(len(molecules), np.int64)
    all_smiles: list[str | None] = [None] * len(molecules)
    for rows, (stable, some) in zip(shares, processes.everyones((n_stable, smiles)), strict=True):
        if len(rows):
            all_stable[rows] = np.concatenate(stable)
            all_smiles[rows[0] :: processes.count] = some
    return Verdicts(molecules.n_atoms, all_stable, tuple(all_smiles))


def evaluate(
    molecules: MoleculeSet,
    novelty_smiles: Collection[str] | None = None,
    processes: Processes | None = None,
    progress: Progress | None = None,
) -> MoleculeMetrics:
    """All figures of a set of molecules.

    Args:
        molecules: Generated molecules, the same on all processes.
        novelty_smiles: SMILES of the training data, such as `qm9_train_smiles()`.
        processes: The processes that share the work; this one alone by default.
        progress: Function that is called after each batch; with several processes once a second,
            on the first one.

    Returns:
        The figures, the same on all processes.

    Raises:
        DataError: If no valence is known for an element.
        ProcessError: If another process failed or is gone.
    """
    verdicts = judge(molecules, processes, progress)
    counts = Counter(smiles for smiles in verdicts.smiles if smiles is not None)
    novelty = None
    if novelty_smiles is not None:
        known = frozenset(novelty_smiles)
        novelty = estimate_mean([smiles not in known for smiles in counts])
    ones = np.ones(len(molecules))
    return MoleculeMetrics(
        n_molecules=len(molecules),
        atom_stability=estimate_ratio(verdicts.n_stable, verdicts.n_atoms),
        molecule_stability=estimate_ratio(verdicts.stable, ones),
        validity=estimate_ratio(verdicts.valid, ones),
        uniqueness=estimate_distinct(list(counts.values())),
        novelty=novelty,
        shape=shape_figures(molecules),
    )
