"""Molecules of rdkit with the bonds that their source states, and by distances where it does not.

SDF files that this package wrote hold bonds that follow from distances, and say so: they count as
stating none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from gaga_adapter.distributed import Processes, Progress
from gaga_adapter.molecules.data import MoleculeSet
from gaga_adapter.molecules.formats.streaming import MoleculeStream
from gaga_adapter.molecules.formats.v2000 import BY_DISTANCES
from gaga_adapter.molecules.metrics.chemistry import mol_smiles, to_rdkit
from gaga_adapter.molecules.metrics.valencies import StatedVerdict, stated_verdict

_COMMENT = "_MolFileComments"  # rdkit's name for the third line of a record


@dataclass(frozen=True, eq=False)
class Stated:
    """What the sources of M molecules state of their bonds.

    Attributes:
        verdicts: Verdict on each molecule (M,); None where no bonds are stated.
        smiles: SMILES of each molecule (M,), None where rdkit cannot sanitise it; None in all if
            the graph of any molecule is not stated.
    """

    verdicts: tuple[StatedVerdict | None, ...]
    smiles: tuple[str | None, ...] | None


def read_stated(
    stream: MoleculeStream, processes: Processes | None = None, progress: Progress | None = None
) -> Stated:
    """Judge the bonds that the sources state, in one more pass over them.

    Every process reads all molecules and judges a share of them.
    """
    from rdkit import Chem, rdBase

    processes = processes or Processes()
    mine: list[tuple[StatedVerdict | None, str | None, bool]] = []

    def report(done: int) -> None:
        if progress is not None:
            progress("stated bonds", done, stream.tally.n_molecules)

    with processes.in_step(report) as tick, rdBase.BlockLogs():
        for row, record in enumerate(stream.records()):
            if row % processes.count != processes.index:
                continue
            mol = record.mol if _states_bonds(record.mol) else None
            verdict = None if mol is None else stated_verdict(mol)
            smiles = record.smiles if mol is None else mol_smiles(Chem.Mol(mol))
            mine.append((verdict, smiles, mol is not None or record.smiles is not None))
            tick(len(mine))
    shares = processes.everyones(mine)
    whole = [shares[row % len(shares)][row // len(shares)] for row in range(sum(map(len, shares)))]
    return Stated(
        tuple(verdict for verdict, _, _ in whole),
        tuple(smiles for _, smiles, _ in whole) if all(known for _, _, known in whole) else None,
    )


def mols_of(molecules: MoleculeSet, stream: MoleculeStream, rows: Sequence[int]) -> list[Any]:
    """The rdkit molecules at some rows of a set that was read from a stream.

    Their bonds are those that the source states, and else follow from distances.
    """
    wanted = set(rows)
    first = islice(stream.records(), max(rows, default=-1) + 1)
    found = {row: one.mol for row, one in enumerate(first) if row in wanted}
    return [found[row] or to_rdkit(molecules.subset([row]))[0] for row in rows]


def _states_bonds(mol: Any) -> bool:  # noqa: ANN401  # rdkit has no types
    """Whether a source has stated these bonds, and not this package by distances."""
    if mol is None:
        return False
    return not (mol.HasProp(_COMMENT) and mol.GetProp(_COMMENT).strip() == BY_DISTANCES)
