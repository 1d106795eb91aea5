"""EDM's npz: `num_atoms` (M,), `charges` (M, N) and `positions` (M, N, 3), zero-padded.

The three arrays are read side by side, some thousand rows at a time, and never held whole: numpy
stores each as a file of its own inside the archive, and its rows follow one another.

The package atomic-datasets keeps QM9 and tmQM as npz, too, without padding: `positions` (N, 3),
`atomic_numbers` (N,) and `offsets` (M + 1,).
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gaga_adapter.errors import DataError
from gaga_adapter.molecules.formats.flat import Atoms, by_offsets
from gaga_adapter.molecules.formats.record import IMAGES, MOST_ATOMS, FileFormat, Record
from gaga_adapter.molecules.formats.rows import Rows

_ROWS = 4096  # read at a time
_BYTES = 1 << 26  # of them, at most
_KEYS = ("num_atoms", "charges", "positions")
_FLAT = ("offsets", "atomic_numbers", "positions")
_ALLOWED = "Allowed: arrays num_atoms (M,), charges (M, N) and positions (M, N, 3)."

Row = tuple[float, NDArray[Any], NDArray[Any]]


class NpzFile(FileFormat[Row | Atoms]):
    """One npz file.

    A piece is a number of atoms, atomic numbers (N,) and positions (N, 3), or the latter two alone
    where there is no padding.
    """

    needs_file = True

    def records(self) -> Iterator[Row | Atoms]:  # noqa: D102
        with ExitStack() as stack:
            archive = stack.enter_context(zipfile.ZipFile(self.source.path))
            names = archive.namelist()
            missing = [key for key in _KEYS if f"{key}.npy" not in names]
            if missing and all(f"{key}.npy" in names for key in _FLAT):
                offsets, kinds, x = (self._rows(stack, archive, key) for key in _FLAT)
                yield from by_offsets(offsets, kinds, x, self.name)
                return
            if missing:
                found = ", ".join(name.removesuffix(".npy") for name in names)[:200]
                raise DataError(
                    f"{self.name} has no {', '.join(missing)}; it has {found or 'nothing'}. "
                    f"{_ALLOWED}" + ("" if set(missing) < set(_KEYS) else f" {IMAGES}")
                )
            arrays = [self._rows(stack, archive, key) for key in _KEYS]
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

    def molecule(self, piece: Row | Atoms, index: int) -> Record:  # noqa: D102
        if len(piece) == 2:
            return Record.of(piece[1], piece[0])
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

    def _rows(self, stack: ExitStack, archive: zipfile.ZipFile, key: str) -> Rows:
        file = stack.enter_context(archive.open(f"{key}.npy"))
        return Rows(file, archive.getinfo(f"{key}.npy").file_size, f"{self.name}: the array {key}")
