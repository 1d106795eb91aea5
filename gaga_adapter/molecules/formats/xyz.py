"""XYZ and extended XYZ, one or many frames, as ASE writes and reads them.

A frame is a line with the number of atoms, a comment line, and a line per atom. Extended XYZ names
the columns in the comment, `Properties=species:S:1:pos:R:3:forces:R:3`; without that they are
`element x y z ...`. A cell (`Lattice=`) is noted and dropped: molecules have no periodic images.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np

from gaga_adapter.elements import atomic_number
from gaga_adapter.errors import DataError
from gaga_adapter.molecules.formats.record import FileFormat, Record

_PROPERTIES = re.compile(r'\bProperties="?([^\s"]+)', re.IGNORECASE)
_LATTICE = re.compile(r'\bLattice="([^"]*)"', re.IGNORECASE)
_APERIODIC = re.compile(r'\bpbc="?(F|False|0)[\s,]+(F|False|0)[\s,]+(F|False|0)\b', re.IGNORECASE)


@dataclass(frozen=True)
class Frame:
    """One frame as text."""

    line: int  # number of its first line in the file, from 1
    n_atoms: int  # what that line says
    comment: str
    atoms: list[str]  # fewer where the file ends


class XyzFile(FileFormat[Frame]):
    """One .xyz or .extxyz file, also .gz."""

    def records(self) -> Iterator[Frame]:  # noqa: D102
        with self._text() as stream:
            line, index = 0, 0
            for first in stream:
                line += 1
                if not first.strip():
                    continue
                if not first.strip().isdecimal() or not int(first):
                    raise DataError(
                        f"{self.name}: molecule {index}, line {line}: got {first.rstrip()!r}, need "
                        "the number of atoms."
                    )
                n_atoms = int(first)
                comment = next(stream, "")
                atoms = list(islice(stream, n_atoms))
                yield Frame(line, n_atoms, comment, atoms)
                line, index = line + 1 + len(atoms), index + 1

    def molecule(self, piece: Frame, index: int) -> Record:  # noqa: D102
        if len(piece.atoms) < piece.n_atoms:
            raise DataError(
                f"begins in line {piece.line}: {piece.n_atoms} atoms, but the file ends"
            )
        species, pos = _columns(piece.comment)
        numbers, positions = [], []
        for line, text in enumerate(piece.atoms, piece.line + 2):
            fields = text.split()
            try:
                numbers.append(atomic_number(fields[species]))
                positions.append([float(value) for value in fields[pos : pos + 3]])
                if len(positions[-1]) < 3:
                    raise IndexError
            except DataError as error:
                raise DataError(f"has in line {line} an {str(error).rstrip('.')}") from error
            except (IndexError, ValueError) as error:
                need = "element x y z" if (species, pos) == (0, 1) else "the columns of its comment"
                raise DataError(f"has in line {line} {text.rstrip()!r}, need `{need}`") from error
        return Record.of(positions, numbers, is_periodic=_is_periodic(piece.comment))


def _columns(comment: str) -> tuple[int, int]:
    """Columns of the element and of x."""
    properties = _PROPERTIES.search(comment)
    if properties is None:
        return 0, 1
    fields = properties[1].split(":")
    at, column = {}, 0
    for name, count in zip(fields[::3], fields[2::3], strict=False):
        at[name.lower()] = column
        column += int(count) if count.isdecimal() else 1
    species = at.get("species", at.get("z", at.get("numbers")))
    if species is None or "pos" not in at:
        raise DataError(f"has the columns {properties[1]}; need species (or Z) and pos")
    return species, at["pos"]


def _is_periodic(comment: str) -> bool:
    cell = _LATTICE.search(comment)
    if cell is None or _APERIODIC.search(comment):
        return False
    try:
        return len(cell[1].split()) == 9 and bool(np.any([float(v) for v in cell[1].split()]))
    except ValueError:
        return False
