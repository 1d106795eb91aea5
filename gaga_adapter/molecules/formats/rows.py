"""Rows of one array in numpy's format, one block after the other, never the whole array."""

from __future__ import annotations

import math
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from gaga_adapter.errors import DataError

_WHOLE = 1 << 31  # bytes of an array that is read whole, at most


class Rows:
    """Rows of one array, from the first one on.

    An array in Fortran's order, whose rows are scattered over all of it, is read whole with the
    first of them.

    Args:
        file: The array, at its beginning; whoever opened it closes it.
        n_bytes: Number of bytes of the file.
        name: The name for messages.

    Attributes:
        shape: Shape of the array.
        row_bytes: Number of bytes of a row.
        is_whole: Whether the numbers are integers by their type.
    """

    def __init__(self, file: IO[bytes], n_bytes: int, name: str) -> None:
        self._file = file
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
        self.is_whole = self._dtype.kind in "iu"
        self.row_bytes = math.prod(self.shape[1:]) * self._dtype.itemsize
        stated = math.prod(self.shape) * self._dtype.itemsize
        present = n_bytes - self._file.tell()
        if min(self.shape, default=0) < 0 or stated != present:
            raise DataError(
                f"{name} has {present:,} bytes; its shape {self.shape} and type {self._dtype} "
                f"need {stated:,}."
            )
        self._is_scattered = is_fortran and len(self.shape) > 1
        if self._is_scattered and stated > _WHOLE:
            raise DataError(
                f"{name} is in Fortran's order and has {stated:,} bytes. Allowed so: "
                f"{_WHOLE:,}. Save numpy.ascontiguousarray of it instead."
            )
        self._whole: NDArray[Any] | None = None
        self._start = 0

    def read(self, rows: int) -> NDArray[Any]:
        """The next rows."""
        if not self._is_scattered:
            return self._values((rows, *self.shape[1:]))
        if self._whole is None:
            self._whole = self._values(self.shape[::-1]).transpose()
        self._start += rows
        return self._whole[self._start - rows : self._start]

    def _values(self, shape: tuple[int, ...]) -> NDArray[Any]:
        wanted = math.prod(shape) * self._dtype.itemsize
        data = self._file.read(wanted)
        if len(data) < wanted:
            raise EOFError("the array ends early")
        return np.frombuffer(data, self._dtype).reshape(shape)
