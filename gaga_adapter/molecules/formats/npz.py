"""EDM's npz: `num_atoms` (M,), `charges` (M, N) and `positions` (M, N, 3), zero-padded.

The three arrays are read side by side, some thousand rows at a time, and never held whole: numpy
stores each as a file of its own inside the archive, and its rows follow one another.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from gaga_adapter.errors import DataError
from gaga_adapter.molecules.formats.record import FileFormat, Record

_ROWS = 4096  # read at a time
_KEYS = ("num_atoms", "charges", "positions")

Row = tuple[int, NDArray[Any], NDArray[Any]]


class NpzFile(FileFormat[Row]):
    """One npz file; a piece is a number of atoms, atomic numbers (N,) and positions (N, 3)."""

    def records(self) -> Iterator[Row]:  # noqa: D102
        with ExitStack() as stack:
            archive = stack.enter_context(zipfile.ZipFile(self._path))
            missing = [key for key in _KEYS if f"{key}.npy" not in archive.namelist()]
            if missing:
                raise DataError(
                    f"{self.name} has no {', '.join(missing)}. "
                    "Allowed: arrays num_atoms (M,), charges (M, N) and positions (M, N, 3)."
                )
            files = [stack.enter_context(archive.open(f"{key}.npy")) for key in _KEYS]
            counts, charges, positions = (_Rows(file, self.name) for file in files)
            m = counts.shape[0] if counts.shape else 0
            n = charges.shape[-1] if charges.shape else 0
            if (counts.shape, charges.shape, positions.shape) != ((m,), (m, n), (m, n, 3)):
                raise DataError(
                    f"{self.name}: num_atoms {counts.shape} does not fit charges {charges.shape} "
                    f"and positions {positions.shape}. Allowed: (M,), (M, N) and (M, N, 3)."
                )
            for start in range(0, m, _ROWS):
                rows = min(_ROWS, m - start)
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
            raise DataError("has a gap in its charges: padding must come after the last atom")
        return Record.of(positions[:n_atoms], charges[:n_atoms])


class _Rows:
    """Rows of one array in an archive, one block after the other."""

    def __init__(self, file: IO[bytes], name: str) -> None:
        self._file = file
        version = npy.read_magic(file)
        header = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
        if version not in header:
            raise DataError(f"{name} holds an array of npy version {version}. Allowed: 1.0, 2.0.")
        self.shape, is_fortran, self._dtype = header[version](file)
        if self._dtype.kind not in "iuf" or (is_fortran and len(self.shape) > 1):
            raise DataError(
                f"{name} holds an array of {self._dtype}{' in Fortran order' * is_fortran}. "
                "Allowed: numbers in C order, as numpy.savez writes them."
            )

    def read(self, rows: int) -> NDArray[Any]:
        shape = (rows, *self.shape[1:])
        wanted = int(np.prod(shape)) * self._dtype.itemsize
        data = self._file.read(wanted)
        if len(data) < wanted:
            raise EOFError("the array ends early")
        return np.frombuffer(data, self._dtype).reshape(shape)
