"""EDM's npz: `num_atoms` (M,), `charges` (M, N) and `positions` (M, N, 3), zero-padded.

The three arrays are read side by side, some thousand rows at a time, and never held whole: numpy
stores each as a file of its own inside the archive, and its rows follow one another.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from gaga_adapter.errors import DataError
from gaga_adapter.molecules.formats.record import MOST_ATOMS, FileFormat, Record

_ROWS = 4096  # read at a time
_BYTES = 1 << 26  # of them, at most
_WHOLE = 1 << 31  # bytes of an array that is read whole, at most
_KEYS = ("num_atoms", "charges", "positions")
_ALLOWED = "Allowed: arrays num_atoms (M,), charges (M, N) and positions (M, N, 3)."

Row = tuple[float, NDArray[Any], NDArray[Any]]


class NpzFile(FileFormat[Row]):
    """One npz file; a piece is a number of atoms, atomic numbers (N,) and positions (N, 3)."""

    needs_file = True

    def records(self) -> Iterator[Row]:  # noqa: D102
        with ExitStack() as stack:
            archive = stack.enter_context(zipfile.ZipFile(self.source.path))
            names = archive.namelist()
            missing = [key for key in _KEYS if f"{key}.npy" not in names]
            if missing:
                found = ", ".join(name.removesuffix(".npy") for name in names)[:200]
                raise DataError(
                    f"{self.name} has no {', '.join(missing)}; it has {found or 'nothing'}. "
                    f"{_ALLOWED}"
                )
            arrays = [_Rows(stack, archive, key, self.name) for key in _KEYS]
            counts, charges, positions = arrays
            m = counts.shape[0] if counts.shape else 0
            n = charges.shape[-1] if charges.shape else 0
            if (counts.shape, charges.shape, positions.shape) != ((m,), (m, n), (m, n, 3)):
                raise DataError(
                    f"{self.name}: num_atoms {counts.shape} does not fit charges {charges.shape} "
                    f"and positions {positions.shape}. {_ALLOWED}"
                )
            if n > MOST_ATOMS:
                raise DataError(f"{self.name}: N = {n:,} atoms. Allowed: up to {MOST_ATOMS:,}.")
            step = max(1, min(_ROWS, _BYTES // max(1, sum(one.row_bytes for one in arrays))))
            for start in range(0, m, step):
                rows = min(step, m - start)
                yield from zip(
                    counts.read(rows).tolist(),
                    charges.read(rows),
                    positions.read(rows),
                    strict=True,
                )

    def molecule(self, piece: Row, index: int) -> Record:  # noqa: D102
        count, charges, positions = piece
        n_atoms = int(np.count_nonzero(charges))
        if n_atoms != count:
            raise DataError(f"has {n_atoms} charges, but num_atoms says {count}")
        if not (charges[:n_atoms] > 0).all():
            raise DataError(
                "has charges that are no atomic numbers: they must be positive, and padding with "
                "0 comes after the last atom"
            )
        return Record.of(positions[:n_atoms], charges[:n_atoms])


class _Rows:
    """Rows of one array in an archive, one block after the other.

    An array in Fortran's order, whose rows are scattered over all of it, is read whole.
    """

    def __init__(self, stack: ExitStack, archive: zipfile.ZipFile, key: str, source: str) -> None:
        self._file = stack.enter_context(archive.open(f"{key}.npy"))
        name = f"{source}: the array {key}"
        version = npy.read_magic(self._file)
        header = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
        if version not in header:
            raise DataError(f"{name} is of npy version {version}. Allowed: 1.0, 2.0.")
        try:
            self.shape, is_fortran, self._dtype = header[version](self._file)
        except Exception as error:  # the header is Python source, which fails in many ways
            reason = str(error).partition("\n")[0][:200]
            raise DataError(f"{name} has a damaged header: {reason}.") from error
        if self._dtype.kind not in "iuf":
            kind = "pickled objects, which are never read" if self._dtype.hasobject else self._dtype
            raise DataError(f"{name} holds {kind}. Allowed: integers or floats.")
        self.row_bytes = math.prod(self.shape[1:]) * self._dtype.itemsize
        stated = math.prod(self.shape) * self._dtype.itemsize
        present = archive.getinfo(f"{key}.npy").file_size - self._file.tell()
        if min(self.shape, default=0) < 0 or stated != present:
            raise DataError(
                f"{name} has {present:,} bytes; its shape {self.shape} and type {self._dtype} "
                f"need {stated:,}."
            )
        self._whole: NDArray[Any] | None = None
        self._start = 0
        if is_fortran and len(self.shape) > 1:
            if stated > _WHOLE:
                raise DataError(
                    f"{name} is in Fortran's order and has {stated:,} bytes. Allowed so: "
                    f"{_WHOLE:,}. Save numpy.ascontiguousarray({key}) instead."
                )
            self._whole = self._values(self.shape[::-1]).transpose()

    def read(self, rows: int) -> NDArray[Any]:
        if self._whole is None:
            return self._values((rows, *self.shape[1:]))
        self._start += rows
        return self._whole[self._start - rows : self._start]

    def _values(self, shape: tuple[int, ...]) -> NDArray[Any]:
        wanted = math.prod(shape) * self._dtype.itemsize
        data = self._file.read(wanted)
        if len(data) < wanted:
            raise EOFError("the array ends early")
        return np.frombuffer(data, self._dtype).reshape(shape)
