"""ASE databases (.db): rows of structures in SQLite (Larsen et al. 2017), read by ase."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import Any

from gaga_adapter.errors import DataError, MissingExtraError
from gaga_adapter.molecules.formats.opening import Input
from gaga_adapter.molecules.formats.record import FileFormat, Record

_ROWS = 512  # number of rows in one query; ase fetches all rows of a query at once
_COLUMNS = ["id", "numbers", "positions", "pbc", "charge"]


class AseDatabase(FileFormat[int]):
    """One ASE database; its pieces are the ids of the rows, in order."""

    needs_file = True

    def __init__(self, source: Input, *how: Any) -> None:  # noqa: ANN401  # as `FileFormat`
        super().__init__(source, *how)
        self._fetched: dict[int, Any] = {}
        try:
            import ase.db  # noqa: F401
        except ImportError as error:
            raise MissingExtraError("ase", "ase") from error

    def records(self) -> Iterator[int]:  # noqa: D102
        try:
            with closing(
                sqlite3.connect(f"{self.source.path.resolve().as_uri()}?mode=ro", uri=True)
            ) as db:
                for (row,) in db.execute("SELECT id FROM systems ORDER BY id"):
                    yield row
        except sqlite3.Error as error:
            raise DataError(f"{self.name} is no ASE database: {error}.") from error

    def molecule(self, piece: int, index: int) -> Record:  # noqa: D102
        if piece not in self._fetched:  # fetch the rows after it, too
            self._fetched = self._fetch(piece)
        row = self._fetched.pop(piece)
        is_charged, is_periodic = bool(getattr(row, "charge", 0)), bool(row.pbc.any())
        return Record.of(row.positions, row.numbers, is_charged=is_charged, is_periodic=is_periodic)

    def _fetch(self, first: int) -> dict[int, Any]:
        from ase.db import connect

        try:
            with connect(self.source.path, type="db") as database:
                rows = database.select(
                    [("id", ">=", first), ("id", "<", first + _ROWS)],
                    columns=_COLUMNS,
                    include_data=False,
                )
                return {row.id: row for row in rows}
        except (sqlite3.Error, KeyError, ValueError, TypeError) as error:
            raise DataError(f"cannot be read by ase: {error}") from error
