"""SDF files, V2000 and V3000, read and written by rdkit.

Records are cut at their `$$$$` lines, so that a file of any length streams, compressed or not, and
one that rdkit cannot parse does not take the next one with it. Nothing is sanitised.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from gaga_adapter.errors import DataError
from gaga_adapter.files.atomic import replacing
from gaga_adapter.molecules.data import MoleculeSet
from gaga_adapter.molecules.formats.rdkit_mol import embedded, record_of, with_hydrogens
from gaga_adapter.molecules.formats.record import Format, Hydrogens, Record, open_text
from gaga_adapter.molecules.metrics.chemistry import to_rdkit

_MOST_LINES = 1_000_000  # of one record; a file without `$$$$` is no SDF file


class SdfFile(Format[str]):
    """One SDF file.

    Args:
        path: .sdf or .sdf.gz.
        hydrogens: `add` those that the bonds imply, with coordinates.
        embed: make a geometry by ETKDG for a record that has none.
        seed: of the embedding.
    """

    states_bonds = True

    def __init__(
        self, path: Path, hydrogens: Hydrogens = "keep", embed: bool = False, seed: int = 0
    ) -> None:
        self.name = str(path)
        self._path, self._hydrogens, self._embed, self._seed = path, hydrogens, embed, seed

    def records(self) -> Iterator[str]:
        """Texts of one record each."""
        lines: list[str] = []
        with open_text(self._path, errors="replace") as stream:
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

    def molecule(self, piece: str, index: int) -> Record:
        """Atoms and positions of one record, and the rdkit molecule behind them."""
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
                mol = embedded(_sanitised(mol), self._seed, index)
            elif self._hydrogens == "add":
                mol = with_hydrogens(_sanitised(mol))
            return record_of(mol)


def sdf_text(molecules: MoleculeSet) -> str:
    """The text of an SDF file, bonds by EDM's distance rule."""
    from rdkit import Chem

    # The columns of the V2000 format end at 10,000 angstrom; a diverged sample may be beyond.
    is_far = bool((np.abs(molecules.positions) >= 1e4).any())
    blocks = []
    for index, mol in enumerate(to_rdkit(molecules)):
        mol.SetProp("_Name", f"{molecules.name} {index}")
        mol.UpdatePropertyCache(strict=False)
        blocks.append(Chem.MolToMolBlock(mol, kekulize=False, forceV3000=is_far))
    return "".join(f"{block}$$$$\n" for block in blocks)


def write_sdf(molecules: MoleculeSet, path: str | os.PathLike[str]) -> None:
    """Write an SDF file (see `sdf_text`); it appears whole or not at all.

    Raises:
        WriteError: the file cannot be written.
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
    said = block.split("\n", 2)[1][20:22].upper() if "\n" in block else ""
    if said == "3D" or positions[:, 2].any():
        return True
    return said != "2D" and len(positions) <= 3


def _sanitised(mol: Any) -> Any:  # noqa: ANN401
    from rdkit import Chem

    try:
        Chem.SanitizeMol(mol)
    except ValueError as error:  # rdkit's AtomValenceException, KekulizeException, ...
        raise DataError(f"cannot be sanitised by rdkit: {error}") from error
    return mol
