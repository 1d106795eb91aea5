"""Molecules from SMILES: .smi files, and the SMILES column of .csv files, embedded by ETKDG."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from typing import Any

from gaga_adapter.errors import DataError
from gaga_adapter.molecules.formats.rdkit_mol import embed
from gaga_adapter.molecules.formats.record import FileFormat, Record, record_of


class SmilesFile(FileFormat[str]):
    """One file of SMILES, also .gz; every molecule gets all its hydrogens and a geometry.

    It is .smi (a SMILES and perhaps a name on each line), or .csv with a header.
    """

    states_bonds = True

    def records(self) -> Iterator[str]:  # noqa: D102
        with self._text() as stream:
            if ".csv" not in self._path.suffixes[-2:]:
                for line in stream:
                    if line.strip():
                        yield line.split()[0]
                return
            rows = csv.reader(stream)
            column = _smiles_column(next(rows, []), self.name)
            for number, row in enumerate(rows, 2):
                if len(row) > column:
                    yield row[column].strip()
                elif row:
                    raise DataError(f"{self.name}: line {number} has {len(row)} columns only.")

    def molecule(self, piece: str, index: int) -> Record:  # noqa: D102
        from rdkit import rdBase

        with rdBase.BlockLogs():
            return record_of(embed(_graph(piece), self._seed, index), piece)

    def elements(self, piece: str, index: int) -> set[int]:
        """Elements of the graph, without a geometry."""
        from rdkit import Chem, rdBase

        with rdBase.BlockLogs():
            return {atom.GetAtomicNum() for atom in Chem.AddHs(_graph(piece)).GetAtoms()}


def _graph(smiles: str) -> Any:  # noqa: ANN401  # rdkit has no types
    from rdkit import Chem

    mol = Chem.MolFromSmiles(smiles)
    if mol is None or not mol.GetNumAtoms():
        raise DataError(f"has the SMILES {smiles!r}, which rdkit cannot read")
    return mol


def _smiles_column(header: list[str], name: str) -> int:
    """The column named `smiles`, or else the only one with that word in its name."""
    names = [title.strip().lower() for title in header]
    if names.count("smiles") == 1:
        return names.index("smiles")
    columns = [column for column, title in enumerate(names) if "smiles" in title]
    if len(columns) != 1:
        raise DataError(
            f"{name} has the columns {', '.join(header) or '(none)'}. Name the one with the SMILES "
            "`smiles`."
        )
    return columns[0]
