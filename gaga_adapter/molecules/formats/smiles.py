"""Molecules from SMILES: .smi files, and the SMILES column of .csv files, embedded by ETKDG.

Every row of a .csv file is one line. A quote that is not closed on its line thus spoils one row,
and not all those up to the next quote.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from typing import Any

from gaga_adapter.errors import DataError
from gaga_adapter.molecules.formats.rdkit_mol import complaint, embed
from gaga_adapter.molecules.formats.record import FileFormat, Record, record_of

_DELIMITERS = ",;\t|"


class SmilesFile(FileFormat[str]):
    """One .smi file: a SMILES and perhaps a name on each line, under a header or not.

    Every molecule gets all its hydrogens and a geometry.
    """

    states_bonds = True

    def records(self) -> Iterator[str]:  # noqa: D102
        with self.source.text() as stream:
            rows = (line.split() for line in self._lines(stream))
            for number, row in enumerate(row for row in rows if row):
                if number or row[0].lower() not in ("smiles", "canonical_smiles"):
                    yield row[0]

    def molecule(self, piece: str, index: int) -> Record:  # noqa: D102
        from rdkit import rdBase

        smiles = self.smiles(piece)
        graph = _graph(smiles)
        with rdBase.BlockLogs():
            return record_of(embed(graph, self._seed, index), smiles)

    def elements(self, piece: str, index: int) -> set[int]:
        """Elements of the graph, without a geometry."""
        from rdkit import Chem

        graph = Chem.AddHs(_graph(self.smiles(piece)))
        return {atom.GetAtomicNum() for atom in graph.GetAtoms()}

    def smiles(self, piece: str) -> str:
        """The SMILES in a piece."""
        return piece


class CsvFile(SmilesFile):
    """One .csv file with a header; the columns are set apart by `,`, `;`, `|` or tabs."""

    def records(self) -> Iterator[str]:  # noqa: D102
        with self.source.text() as stream:
            lines = self._lines(stream)
            header = next(lines, "")
            self._delimiter = max(_DELIMITERS, key=header.count)
            try:
                titles = next(csv.reader([header], delimiter=self._delimiter), [])
            except csv.Error as error:  # python 3.10 raises it for a NUL
                raise DataError(
                    f"{self.name} has a header that is no text ({error}). Save the table as text"
                ) from error
            self._n_columns = len(titles)
            self._column = _smiles_column(titles, self.name)
            for number, line in enumerate(lines, 2):
                if line.strip():
                    yield f"{number} {line}"

    def smiles(self, piece: str) -> str:
        """The SMILES in a numbered row."""
        number, _, line = piece.partition(" ")
        try:
            row = next(csv.reader([line], delimiter=self._delimiter, strict=True))
        except csv.Error as error:
            raise DataError(
                f"has a stray quote in line {number}: {line.strip()[:80]!r}. A row is one line, "
                "and every quote in it has its counterpart"
            ) from error
        if len(row) < self._n_columns or any(row[self._n_columns :]):
            raise DataError(
                f"has {len(row)} columns in line {number}, and the header has {self._n_columns}"
            )
        return row[self._column].strip()


def _graph(smiles: str) -> Any:  # noqa: ANN401  # rdkit has no types
    from rdkit import Chem, rdBase

    if not smiles.isascii():
        raise DataError(f"has {smiles[:200]!r}, which is no SMILES: its letters are not ASCII")
    with rdBase.BlockLogs():
        mol = Chem.MolFromSmiles(smiles)
    if mol is None or not mol.GetNumAtoms():
        raise DataError(
            f"has the SMILES {smiles[:200]!r}, which rdkit cannot read"
            f"{complaint(lambda: Chem.MolFromSmiles(smiles))}"
        )
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
