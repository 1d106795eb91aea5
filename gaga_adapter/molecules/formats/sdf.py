"""SDF files, V2000 and V3000, read and written by rdkit.

Records are cut at their `$$$$` lines, so that a file of any length streams, compressed or not, and
a record that rdkit cannot parse does not spoil the next one. Nothing is sanitised. Plain records
are read without rdkit (`v2000`), which takes half of the time.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from gaga_adapter.errors import DataError
from gaga_adapter.files.atomic import replacing
from gaga_adapter.molecules.data import MoleculeSet
from gaga_adapter.molecules.formats.record import FileFormat, Record, record_of
from gaga_adapter.molecules.formats.v2000 import BY_DISTANCES, plain_record

_ARGON = 18
_END = re.compile(r"^M  END[^\n]*\n?", re.M)
_DATA = re.compile(r"^>", re.M)
_CHUNK = 1 << 14
_MOST = 1 << 26  # characters of one record; a file without `$$$$` is no SDF file
_BLANK = " \t\n\x00\x1a"  # the last one ends files of DOS

TextPiece = tuple[int, str]  # number of its first line, from 1, and the record


class SdfFile(FileFormat[TextPiece]):
    """One file of .sdf, .sd or .mol records, which are its pieces.

    A record ends at its `$$$$` line; in MOL files that were strung together, at its `M  END` line.
    """

    states_bonds = True

    def records(self) -> Iterator[TextPiece]:  # noqa: D102
        line = 1
        held = ["\n"]  # what stands behind the last `$$$$`, to the end of its line and beyond
        n_held = 1
        with self.source.text() as stream:
            while chunk := stream.read(_CHUNK):
                is_new = "\n$$$$" in held[-1][-4:] + chunk
                held.append(chunk)
                n_held += len(chunk)
                if n_held > _MOST and not is_new:
                    raise DataError(
                        f"{self.name}: no `$$$$` in {_MOST:,} characters: this is no SDF file."
                    )
                if not is_new:
                    continue
                *parts, rest = "".join(held).split("\n$$$$")
                held, n_held = [rest], len(rest)
                for part in parts:
                    _, has_lines, text = part.partition("\n")
                    yield from _molecules(line, text)
                    line += text.count("\n") + 2 if has_lines else 1
        text = "".join(held).partition("\n")[2]
        if text.strip(_BLANK):
            yield from _molecules(line, text)

    def molecule(self, piece: TextPiece, index: int) -> Record:  # noqa: D102
        if self._hydrogens != "add" and (record := plain_record(piece[1])) is not None:
            return record
        return self.with_bonds(piece, index)

    def with_bonds(self, piece: TextPiece, index: int) -> Record:  # noqa: D102
        line, text = piece
        try:
            return self._record(text, index)
        except DataError as error:
            title = text.partition("\n")[0].strip()
            named = f", titled {title[:60]!r}" if title else ""
            lines = re.sub(r"\bline ?(\d+)", lambda at: f"line {int(at[1]) + line - 1}", str(error))
            raise type(error)(f"{lines} (the record that begins in line {line}{named})") from error

    def _record(self, text: str, index: int) -> Record:
        from rdkit import rdBase

        from gaga_adapter.molecules.formats.rdkit_mol import complaint

        if not text.strip(_BLANK):
            raise DataError("is empty: two `$$$$` lines with nothing between them")
        if text.count("M  END") > 1 and len(_ends(text)) > 1:
            raise DataError("holds several molecules: a `$$$$` line is missing in it")
        with rdBase.BlockLogs():
            mol = _parsed(text)
            if mol is not None:
                return self._spatial(text, mol, index)
        raise DataError(f"cannot be read by rdkit{complaint(lambda: _parsed(text))}")

    def _spatial(self, text: str, mol: Any, index: int) -> Record:  # noqa: ANN401
        from gaga_adapter.molecules.formats.rdkit_mol import add_hydrogens, embed, sanitise

        label = text.split("\n", 2)[1][20:22].upper()
        is_geometry = bool(mol.GetNumAtoms()) and _is_geometry(label, mol)
        if mol.GetNumAtoms() and not is_geometry:
            if not self._embed:
                raise DataError(
                    "has no 3D coordinates, only a graph or a drawing; --embed (embed=True) "
                    "makes some by ETKDG"
                )
            mol = embed(sanitise(mol), self._seed, index)
        elif self._hydrogens == "add":
            mol = add_hydrogens(sanitise(mol))
        record = record_of(mol)
        if text.split("\n", 3)[2].strip() == BY_DISTANCES:
            is_bare = record.is_bare and 1 not in record.atomic_numbers
            record = replace(record, is_split=False, is_bare=is_bare)
        is_flat = is_geometry and len(record.positions) > 3 and not record.positions[:, 2].any()
        return replace(record, is_flat=True) if is_flat else record


def _molecules(line: int, text: str) -> Iterator[TextPiece]:
    """The molecules between two `$$$$` lines: one, or several without data fields between them."""
    if text.count("M  END") > 1:
        ends = _ends(text)
        start = 0
        for one, other in itertools.pairwise(ends):
            if not _DATA.search(text, one.end(), other.start()):
                yield line, text[start : one.end()]
                line += text.count("\n", start, one.end())
                start = one.end()
        text = text[start:]
    yield line, text


def _ends(text: str) -> list[re.Match[str]]:
    """The lines that end a molecule; the first line is a title, whatever it says."""
    return list(_END.finditer(text, text.find("\n") + 1))


def _parsed(text: str) -> Any:  # noqa: ANN401  # rdkit has no types
    from rdkit import Chem

    if not text.isascii():  # rdkit cuts what it quotes anywhere, and trips over halves of letters
        text = text.encode("ascii", "replace").decode("ascii")
    try:
        return Chem.MolFromMolBlock(text, sanitize=False, removeHs=False)
    except (RuntimeError, ValueError):  # a condition that the parser did not foresee
        return None


def sdf_text(molecules: MoleculeSet) -> str:
    """The text of an SDF file, bonds by EDM's distance rule."""
    from rdkit import Chem

    from gaga_adapter.molecules.metrics.chemistry import to_rdkit

    # The columns of the V2000 format end at 10,000 angstrom; a diverged sample may be beyond.
    is_far = bool((np.abs(molecules.positions) >= 1e4).any())
    blocks = []
    for index, mol in enumerate(to_rdkit(molecules)):
        mol.SetProp("_Name", _title(f"{molecules.name} {index}"))
        mol.UpdatePropertyCache(strict=False)
        block = Chem.MolToMolBlock(mol, kekulize=False, forceV3000=is_far)
        title, program, _, rest = block.split("\n", 3)
        blocks.append("\n".join((title, program, BY_DISTANCES, rest)))
    return "".join(f"{block}$$$$\n" for block in blocks)


def _title(name: str) -> str:
    """A name as the first line of a record, which must not begin like the end of one."""
    line = " ".join(name.split())
    return f"molecules {line}" if line.startswith("$") else line


def write_sdf(molecules: MoleculeSet, path: str | os.PathLike[str]) -> None:
    """Write an SDF file (see `sdf_text`); it appears whole or not at all.

    Raises:
        WriteError: If the file cannot be written.
    """
    text = sdf_text(molecules)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")  # alike on every system


def _is_geometry(label: str, mol: Any) -> bool:  # noqa: ANN401
    """Whether the coordinates are those of a geometry and not of a drawing.

    Columns 21 and 22 of the second line say `3D` or `2D`. Many programs leave them empty; then a
    record is taken as a drawing if all its z are 0 and it has more atoms than a plane always holds.
    Some programs write `3D` over drawings: four bonds of a light atom never lie in a plane.
    """
    if not mol.GetNumConformers():
        return False
    positions = mol.GetConformer().GetPositions()
    if len(positions) > 1 and not positions.any():
        return False
    if positions[:, 2].any():
        return True
    if label != "3D":
        return label != "2D" and len(positions) <= 3
    return not any(
        atom.GetDegree() >= 4 and atom.GetAtomicNum() <= _ARGON for atom in mol.GetAtoms()
    )
