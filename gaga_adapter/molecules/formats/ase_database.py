"""ASE databases (.db): rows of structures in SQLite (Larsen et al. 2017), read by ase."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gaga_adapter.errors import DataError, MissingExtraError
from gaga_adapter.molecules.formats.record import Format, Record

_ROWS = 1000  # fetched at a time; ase itself fetches all that is asked for
_COLUMNS = ["id", "numbers", "positions", "pbc", "charge"]


class AseDatabase(Format[Any]):
    """One ASE database.

    Args:
        path: the .db file.

    Raises:
        MissingExtraError: ase is not installed.
    """

    def __init__(self, path: Path) -> None:
        self.name, self._path = str(path), path
        try:
            import ase.db  # noqa: F401
        except ImportError as error:
            raise MissingExtraError("ase", "ase") from error

    def records(self) -> Iterator[Any]:
        """Rows in the order of their id."""
        import sqlite3

        from ase.db import connect

        try:
            database = connect(self._path, type="db")
            last = [row.id for row in database.select(sort="-id", limit=1, columns=["id"])]
            for start in range(0, last[0] + 1 if last else 0, _ROWS):
                yield from database.select(
                    [("id", ">=", start), ("id", "<", start + _ROWS)],
                    columns=_COLUMNS,
                    include_data=False,
                )
        except (sqlite3.Error, KeyError, ValueError) as error:
            raise DataError(f"{self.name} is no ASE database: {error}.") from error

    def molecule(self, piece: Any, index: int) -> Record:  # noqa: ANN401  # an ase row
        """Elements and positions of one row."""
        return Record.of(
            piece.positions,
            piece.numbers,
            is_charged=bool(getattr(piece, "charge", 0)),
            is_periodic=bool(piece.pbc.any()),
        )
