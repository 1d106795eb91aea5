"""SDF files, V2000 and V3000, read and written by rdkit.

Records are cut at their `$$$$` lines, so that a file of any length streams, compressed or not, and
a record that rdkit cannot parse does not spoil the next one. Nothing is sanitised.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from gaga_adapter.errors import DataError
from gaga_adapter.files.atomic import replacing
from gaga_adapter.molecules.data import MoleculeSet
from gaga_adapter.molecules.formats.record import FileFormat, Record, record_of

_MOST_LINES = 1_000_000  # of one record; a file without `$$$$` is no SDF file


class SdfFile(FileFormat[str]):
    """One .sdf file, also .gz; its pieces are the texts of one record each."""

    states_bonds = True

    def records(self) -> Iterator[str]:  # noqa: D102
        lines: list[str] = []
        with self._text(errors="replace") as stream:
            for line in stream:
                if line.startswith("$$$$"):
                    yield "".join(lines)
                    lines = []
                    continue
                lines.append(line)
                if len(lines) > _MOST_LINES:
                    raise DataError(
                        f"{self.name}: no `$$$$` in {_MOST_LINES:,} lines: no SDF file."
                    )
        if "".join(lines).strip():
            yield "".join(lines)

    def molecule(self, piece: str, index: int) -> Record:  # noqa: D102
        from rdkit import Chem, rdBase

        with rdBase.BlockLogs():
            mol = Chem.MolFromMolBlock(piece, sanitize=False, removeHs=False)
            if mol is None:
                raise DataError("cannot be read by rdkit")
            if mol.GetNumAtoms() and not _is_spatial(piece, mol):
                if not self._embed:
                    raise DataError(
                        "has no 3D coordinates, only a graph or a drawing; --embed (embed=True) "
                        "makes some by ETKDG"
                    )
                from gaga_adapter.molecules.formats.rdkit_mol import embed, sanitise

                mol = embed(sanitise(mol), self._seed, index)
            elif self._hydrogens == "add":
                from gaga_adapter.molecules.formats.rdkit_mol import add_hydrogens, sanitise

                mol = add_hydrogens(sanitise(mol))
            return record_of(mol)


def sdf_text(molecules: MoleculeSet) -> str:
    """The text of an SDF file, bonds by EDM's distance rule."""
    from rdkit import Chem

    from gaga_adapter.molecules.metrics.chemistry import to_rdkit

    # The columns of the V2000 format end at 10,000 angstrom; a diverged sample may be beyond.
    is_far = bool((np.abs(molecules.positions) >= 1e4).any())
    blocks = []
    for index, mol in enumerate(to_rdkit(molecules)):
        mol.SetProp("_Name", " ".join(f"{molecules.name} {index}".split()))  # it is one line
        mol.UpdatePropertyCache(strict=False)
        blocks.append(Chem.MolToMolBlock(mol, kekulize=False, forceV3000=is_far))
    return "".join(f"{block}$$$$\n" for block in blocks)


def write_sdf(molecules: MoleculeSet, path: str | os.PathLike[str]) -> None:
    """Write an SDF file (see `sdf_text`); it appears whole or not at all.

    Raises:
        WriteError: If the file cannot be written.
    """
    text = sdf_text(molecules)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _is_spatial(block: str, mol: Any) -> bool:  # noqa: ANN401
    """Whether the coordinates are those of a geometry and not of a drawing.

    Columns 21 and 22 of the second line say `3D` or `2D`. Many programs leave them empty; then a
    record is taken as a drawing if all its z are 0 and it has more atoms than a plane always holds.
    """
    if not mol.GetNumConformers():
        return False
    positions = mol.GetConformer().GetPositions()
    if len(positions) > 1 and not positions.any():
        return False
    label = block.split("\n", 2)[1][20:22].upper() if "\n" in block else ""
    if label == "3D" or positions[:, 2].any():
        return True
    return label != "2D" and len(positions) <= 3
