"""XYZ and extended XYZ, one or many frames, as ASE and other programs write them.

A frame is a line with the number of atoms, a comment line, and a line per atom. Extended XYZ names
the columns in the comment, `Properties=species:S:1:pos:R:3:forces:R:3`; without that they are
`element x y z ...`. A cell (`Lattice=`) is noted and dropped: molecules have no periodic images.

Three things are read around: labels such as `C12`, deuterium and tritium (hydrogen, and counted),
exponents of Fortran and Mathematica (`0.1D-03`, `6.1*^-6`), and the frequencies, SMILES and InChI
that follow the atoms in QM9's original files.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np

from gaga_adapter.elements import SYMBOLS, atomic_number
from gaga_adapter.errors import DataError
from gaga_adapter.molecules.formats.record import MOST_ATOMS, FileFormat, Record

_PROPERTIES = re.compile(r'\bProperties="?([^\s"]+)', re.IGNORECASE)
_LATTICE = re.compile(r'\bLattice="([^"]*)"', re.IGNORECASE)
_APERIODIC = re.compile(r'\bpbc="?(F|False|0)[\s,]+(F|False|0)[\s,]+(F|False|0)\b', re.IGNORECASE)
_LABEL = re.compile(r"([A-Za-z]{1,2})\d+", re.A)
_EXPONENT = re.compile(r"\*\^|[dD]")
_ISOTOPES = ("D", "T")  # of hydrogen
_NO_ATOMS = re.compile(r"(x|xx|q|bq|gh|da|lp|.*-bq|bq-.*|gh-.*|gh\(.*\)|[a-z]{1,2}[:@])\d*", re.I)


@dataclass(frozen=True)
class Frame:
    """One frame as text."""

    line: int  # number of its first line in the file, from 1
    n_atoms: int  # what that line says
    comment: str
    atoms: list[str]  # fewer where the file ends


class XyzFile(FileFormat[Frame]):
    """One .xyz or .extxyz file."""

    def records(self) -> Iterator[Frame]:  # noqa: D102
        with self.source.text() as stream:
            lines = self._lines(stream)
            line, index = 0, 0
            for first in lines:
                line += 1
                if not first.strip():
                    continue
                n_atoms = _count(first)
                if n_atoms is None:
                    tail = list(islice(lines, 2))
                    if index and len(tail) == 2 and tail[1].startswith("InChI="):
                        line += 2  # frequencies, SMILES and InChI of QM9's original files
                        continue
                    raise DataError(
                        f"{self.name}: molecule {index}, line {line}: got {first.rstrip()[:80]!r}, "
                        f"need the number of atoms, up to {MOST_ATOMS:,}."
                    )
                comment = next(lines, "")
                atoms = list(islice(lines, n_atoms))
                yield Frame(line, n_atoms, comment, atoms)
                line, index = line + 1 + len(atoms), index + 1

    def molecule(self, piece: Frame, index: int) -> Record:  # noqa: D102
        if not piece.n_atoms:
            raise DataError(f"begins in line {piece.line}: it has no atoms")
        if len(piece.atoms) < piece.n_atoms:
            raise DataError(
                f"begins in line {piece.line}: {piece.n_atoms} atoms, but the file ends"
            )
        species, pos = _columns(piece.comment)
        rows = [text.split() for text in piece.atoms]
        if (species, pos) == (0, 1) and _is_numbered(rows):
            raise DataError(
                f"begins in line {piece.line}: its first column counts the atoms; need "
                "`element x y z`"
            )
        numbers, positions, is_isotopic = [], [], False
        for line, fields in enumerate(rows, piece.line + 2):
            try:
                symbol = fields[species]
                is_isotopic |= symbol in _ISOTOPES
                numbers.append(_element(symbol))
                positions.append([_number(value) for value in fields[pos : pos + 3]])
                if len(positions[-1]) < 3:
                    raise IndexError
            except DataError as error:
                raise DataError(f"has in line {line} {str(error).rstrip('.')}") from error
            except (IndexError, ValueError) as error:
                text = piece.atoms[line - piece.line - 2].rstrip()[:80]
                need = "element x y z" if (species, pos) == (0, 1) else "the columns of its comment"
                raise DataError(f"has in line {line} {text!r}, need `{need}`") from error
        return Record.of(
            positions, numbers, is_periodic=_is_periodic(piece.comment), is_isotopic=is_isotopic
        )


def _count(text: str) -> int | None:
    """The number of atoms in a line that holds nothing else."""
    text = text.strip()
    is_number = text.isascii() and text.isdecimal() and len(text) <= len(str(MOST_ATOMS))
    return int(text) if is_number and int(text) <= MOST_ATOMS else None


def _element(symbol: str) -> int:
    """Atomic number of a symbol, a label or a number."""
    if symbol in _ISOTOPES:
        return 1
    label = _LABEL.fullmatch(symbol)  # `CA1` is no calcium, but an atom of a protein
    try:
        return atomic_number(label[1] if label and label[1] in SYMBOLS else symbol)
    except DataError as error:
        if _NO_ATOMS.fullmatch(symbol):
            raise DataError(
                f"the symbol {symbol[:20]!r} of a dummy or ghost atom, which has no element"
            ) from error
        raise DataError(f"an {error}") from error


def _number(text: str) -> float:
    """A coordinate, also with the exponents of Fortran and Mathematica."""
    try:
        value = float(text)
    except ValueError:
        value = float(_EXPONENT.sub("e", text, count=1))
    if "_" in text:
        raise ValueError(text)  # Python alone takes this for a number
    return value


def _is_numbered(rows: list[list[str]]) -> bool:
    """Whether atoms are counted from 1 in a column of its own, before the element."""
    return len(rows) > 2 and all(
        len(fields) > 4 and fields[0] == str(place) for place, fields in enumerate(rows, 1)
    )


def _columns(comment: str) -> tuple[int, int]:
    """Columns of the element and of x."""
    properties = _PROPERTIES.search(comment)
    if properties is None:
        return 0, 1
    fields = properties[1].split(":")
    at: dict[str, tuple[int, int]] = {}
    column = 0
    for name, width in zip(fields[::3], fields[2::3], strict=False):
        is_width = width.isascii() and width.isdecimal() and len(width) < 5
        size = int(width) if is_width else -MOST_ATOMS  # none that a line could have
        at[name.lower()] = column, size
        column += size
    species = at.get("species", at.get("z", at.get("numbers")))
    pos = at.get("pos", at.get("positions"))
    if species is None or pos is None or pos[1] != 3 or min(species[0], pos[0]) < 0:
        raise DataError(
            f"has the columns {properties[1][:200]}; need species (or Z) and pos with 3 columns"
        )
    return species[0], pos[0]


def _is_periodic(comment: str) -> bool:
    cell = _LATTICE.search(comment)
    if cell is None or _APERIODIC.search(comment):
        return False
    try:
        return len(cell[1].split()) == 9 and bool(np.any([float(v) for v in cell[1].split()]))
    except ValueError:
        return False
