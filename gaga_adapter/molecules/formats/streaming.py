"""Any number of molecules in batches, one of which is in memory at a time.

Batch k holds the places k B to (k + 1) B of all sources in a row, without the molecules that are
skipped. Which batch a molecule is in thus depends on no other molecule, and process r of W reads
the batches r, r + W, ... and only cuts the others out of the file.
"""

from __future__ import annotations

import lzma
import struct
import warnings
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any
from zipfile import BadZipFile

import numpy as np

from gaga_adapter.elements import SYMBOLS, atomic_numbers
from gaga_adapter.errors import DataError, GAGAWarning
from gaga_adapter.molecules.data import MoleculeSet
from gaga_adapter.molecules.formats.record import (
    FileFormat,
    Format,
    Hydrogens,
    NotEmbedded,
    Record,
    Whole,
    without_hydrogens,
)

_EXAMPLES = 3  # of skipped molecules that are named
_FAR = 10_000  # angstrom; the columns of many formats end there
_MARKS = ("charged", "periodic", "bare", "radical", "isotopic", "split", "flat")


@dataclass(frozen=True)
class Tally:
    """Counts of what one pass gave and left out, in the share of this process.

    Attributes:
        n_molecules: Number of molecules in the batches.
        n_malformed: Number of molecules left out with `skip_bad`.
        n_not_embedded: Number of graphs left out, for which ETKDG found no geometry.
        n_charged: Number of these whose source states charges of atoms, which are dropped.
        n_periodic: Number of these whose source states a cell, which is dropped.
        n_bare: Number of these that lack the hydrogens which their bonds imply: all of them, or
            those on carbon.
        n_radical: Number of these whose source states unpaired electrons, which are dropped.
        n_isotopic: Number of these whose source states isotopes, which are dropped.
        n_split: Number of these that are in several pieces by the bonds of their source.
        n_flat: Number of these that lie in the plane z = 0 and are called spatial by their source.
        n_far: Number of these with an atom 10,000 angstrom or more from the origin.
        examples: The first molecules that were left out, and why.
        n_others: Number of molecules left out for an element that is not allowed.
    """

    n_molecules: int = 0
    n_malformed: int = 0
    n_not_embedded: int = 0
    n_charged: int = 0
    n_periodic: int = 0
    n_bare: int = 0
    n_radical: int = 0
    n_isotopic: int = 0
    n_split: int = 0
    n_flat: int = 0
    n_far: int = 0
    examples: tuple[str, ...] = ()
    n_others: int = 0

    def describe(self) -> str | None:
        """What was left out or dropped, in one sentence or two; None if nothing was."""
        sentences = []
        left_out = self.n_malformed + self.n_not_embedded + self.n_others
        if left_out:
            parts = [f"{self.n_malformed:,} malformed"] if self.n_malformed else []
            parts += [f"{self.n_not_embedded:,} not embedded"] if self.n_not_embedded else []
            parts += [f"{self.n_others:,} with other elements"] if self.n_others else []
            more = f"; and {left_out - len(self.examples):,} more" * (left_out > len(self.examples))
            sentences.append(
                f"skipped {left_out:,} of {left_out + self.n_molecules:,} molecules "
                f"({', '.join(parts)}): {'; '.join(self.examples)}{more}."
            )
        dropped = {
            "formal charges": self.n_charged,
            "unpaired electrons": self.n_radical,
            "isotopes": self.n_isotopic,
            "a periodic cell": self.n_periodic,
        }
        for what, count in dropped.items():
            if count:
                these = "this is" if what.startswith("a ") else "these are"
                sentences.append(
                    f"{count:,} molecules have {what} in the file: {these} dropped, and the "
                    "molecules stay."
                )
        if self.n_split:
            sentences.append(
                f"{self.n_split:,} molecules are in several pieces by the bonds in the file; each "
                "is taken as one molecule."
            )
        if self.n_far:
            sentences.append(
                f"{self.n_far:,} molecules have atoms {_FAR:,} angstrom or more from the origin, "
                "where single precision keeps three decimals or fewer. Are these angstrom?"
            )
        if 2 * self.n_flat > self.n_molecules:
            sentences.append(
                f"{self.n_flat:,} molecules have z = 0 throughout, though the file calls them 3D. "
                "If they are drawings, write them without that mark and pass --embed (embed=True)."
            )
        if 2 * self.n_bare > self.n_molecules:
            sentences.append(
                f"{self.n_bare:,} molecules lack hydrogens that their bonds imply (all of them, or "
                "those on carbon): --hydrogens add puts them there, --hydrogens remove says that "
                "this is meant."
            )
        return " ".join(sentences) or None


#: What the decompressors and archives of the standard library raise for damaged bytes.
UNREADABLE = (
    OSError, EOFError, ValueError, OverflowError, RuntimeError,
    zlib.error, lzma.LZMAError, struct.error, BadZipFile,
)  # fmt: skip


class MoleculeStream:
    """Batches of molecules; every `for` over it is a pass over the sources.

    A pass ends with a `GAGAWarning` if anything was left out or dropped.

    Attributes:
        name: Names of the sources.
        total: Number of molecules in all, where that is known without a pass.
        states_bonds: Whether a file of a format that states bonds is among the sources.
    """

    def __init__(
        self,
        formats: Sequence[Format[Any]],
        batch_size: int,
        elements: Sequence[str] | None,
        hydrogens: Hydrogens,
        skip_bad: bool,
        share: tuple[int, int],
    ) -> None:
        more = f"+{len(formats) - 3} more" if len(formats) > 3 else ""
        self.name = "+".join(one.name for one in formats[:3]) + more
        sizes = [one.total for one in formats if one.total is not None]
        self.total = sum(sizes) if len(sizes) == len(formats) else None
        self.states_bonds = any(one.states_bonds for one in formats)
        self._formats, self._batch_size, self._share = formats, batch_size, share
        self._hydrogens, self._skip_bad = hydrogens, skip_bad
        self._elements = None if elements is None else tuple(elements)
        self._skips_others = False
        self._counts: Counter[str] = Counter()
        self._examples: list[str] = []

    @property
    def tally(self) -> Tally:
        """The counts of the latest pass, so far."""
        return Tally(**self._counts, examples=tuple(self._examples))

    def shared(self, index: int, count: int) -> MoleculeStream:
        """The same stream, of which only every `count`-th batch is read, from `index` on."""
        one = copy(self)
        one._share, one._counts, one._examples = (index, count), Counter(), []
        return one

    def __iter__(self) -> Iterator[MoleculeSet]:
        self._counts, self._examples = Counter(), []
        index, count = self._share
        first = self._formats[0]
        is_as_it_is = self._hydrogens == "keep" and not self._skips_others
        if len(self._formats) == 1 and isinstance(first, Whole) and is_as_it_is:
            batches = first.molecules.batches(self._batch_size)
            for number, batch in islice(enumerate(batches), index, None, count):
                start = number * self._batch_size
                yield self._checked(batch, [(first.name, start + row) for row in range(len(batch))])
        else:
            yield from self._batches_of_records()
        if self.tally.n_molecules == 0 and count == 1:
            raise DataError(f"{self.name}: no molecule is left. {self.tally.describe() or ''}")
        if (report := self.tally.describe()) is not None:
            who = f" (process {index} of {count})" if count > 1 else ""
            warnings.warn(report + who, GAGAWarning, stacklevel=2)

    def records(self) -> Iterator[Record]:
        """The molecules of all batches one by one, with the bonds that their sources state."""
        whole = self.shared(0, 1)  # with a tally of its own
        for source, piece, place in whole._pieces():
            record = whole._read(source, piece, place, with_bonds=True)
            if record is not None:
                yield record

    def keep(self) -> None:
        """Keep what pipes give in temporary files, so that more than one pass is possible.

        It has to be called before the first pass, and does nothing for files and for objects.
        """
        for one in self._formats:
            if isinstance(one, FileFormat):
                one.source.keep()

    def only(self, elements: Sequence[str], skip_others: bool = False) -> MoleculeStream:
        """The same stream, in which other elements than these are an error, or left out.

        Args:
            elements: Chemical symbols that may occur.
            skip_others: Whether molecules with another element are left out and counted.
        """
        one = self.shared(*self._share)
        one._elements, one._skips_others = tuple(elements), skip_others
        return one

    def found_elements(self) -> tuple[str, ...]:
        """Chemical symbols that occur, by atomic number; one pass over all sources.

        Another pass is possible afterwards, since pipes are kept (`keep`).
        """
        self.keep()
        numbers: set[int] = set()
        for source, piece, place in self._pieces():
            try:
                numbers |= source.elements(piece, place)
            except DataError as error:
                if not self._skip_bad and not isinstance(error, NotEmbedded):
                    raise _malformed_error(source, place, error) from error
        if self._hydrogens == "remove":
            numbers.discard(1)
        return tuple(SYMBOLS[number] for number in sorted(numbers))

    def _batches_of_records(self) -> Iterator[MoleculeSet]:
        """The batches of this process, made of single molecules."""
        index, count = self._share
        records: list[Record] = []
        places: list[tuple[str, int]] = []
        current = 0

        def batch() -> MoleculeSet:
            smiles = [one.smiles for one in records if one.smiles is not None]
            whole = MoleculeSet.from_list(
                [(one.positions, one.atomic_numbers) for one in records],
                self.name,
                smiles if len(smiles) == len(records) else None,
            )
            for mark in _MARKS:
                count = sum(getattr(one, f"is_{mark}") for one in records)
                self._counts[f"n_{mark}"] += count
            return self._checked(whole, places)

        for at, (source, piece, place) in enumerate(self._pieces()):
            if at // self._batch_size != current:
                if records:
                    yield batch()
                records, places, current = [], [], at // self._batch_size
            if current % count != index:
                continue
            record = self._read(source, piece, place)
            if record is not None:
                if record.mol is not None:  # bonds would fill the memory
                    record = replace(record, mol=None)
                records.append(record)
                places.append((source.name, place))
        if records:
            yield batch()

    def _pieces(self) -> Iterator[tuple[Format[Any], Any, int]]:
        """All pieces of all sources, each with its source and its place there."""
        for source in self._formats:
            place = -1
            try:
                for place, piece in enumerate(source.records()):
                    yield source, piece, place
            except DataError:
                raise
            except UNREADABLE as error:
                raise DataError(
                    f"cannot read {source.name} behind {place + 1:,} molecules: {error}."
                ) from error
            if place < 0:
                raise DataError(f"{source.name}: no molecules. Pass at least one.")

    def _read(
        self,
        source: Format[Any],
        piece: Any,  # noqa: ANN401
        place: int,
        with_bonds: bool = False,
    ) -> Record | None:
        """One molecule, or None if it is left out."""
        try:
            parse = source.with_bonds if with_bonds else source.molecule
            record = parse(piece, place)
            record = without_hydrogens(record) if self._hydrogens == "remove" else record
        except DataError as error:
            is_graph = isinstance(error, NotEmbedded)
            if not is_graph and not self._skip_bad:
                raise _malformed_error(source, place, error) from error
            self._leave_out("n_not_embedded" if is_graph else "n_malformed", source, place, error)
            return None
        if self._skips_others and self._elements is not None:
            others = {*record.atomic_numbers.tolist()}.difference(atomic_numbers(self._elements))
            if others:
                why = f"has {', '.join(SYMBOLS[number] for number in sorted(others))}"
                self._leave_out("n_others", source, place, why)
                return None
        return record

    def _leave_out(self, count: str, source: Format[Any], place: int, why: object) -> None:
        """Count a molecule that is left out."""
        self._counts[count] += 1
        if len(self._examples) < _EXAMPLES:
            self._examples.append(f"{source.name}: molecule {place} {why}")

    def _checked(self, batch: MoleculeSet, places: Sequence[tuple[str, int]]) -> MoleculeSet:
        """The batch, if it has no other elements than allowed."""
        if self._elements is not None:
            allowed = atomic_numbers(self._elements)
            foreign = batch.mask & ~np.isin(batch.atomic_numbers, allowed)
            if foreign.any():
                row, atom = np.argwhere(foreign)[0]
                name, place = places[row]
                met = {*np.unique(batch.atomic_numbers[foreign]).tolist(), *allowed}
                wider = ",".join(SYMBOLS[number] for number in sorted(met))
                raise DataError(
                    f"{name}: molecule {place} has the element "
                    f"{SYMBOLS[batch.atomic_numbers[row, atom]]}. Allowed: "
                    f"{', '.join(self._elements)}. For these data pass `gaga fit` --elements "
                    f"{wider}, or --elements auto to have all of them looked up; or leave such "
                    "molecules out with --skip-others (skip_others=True)."
                )
        far = (np.abs(batch.positions) >= _FAR).any(axis=(1, 2))
        self._counts["n_far"] += int(np.count_nonzero(far))
        self._counts["n_molecules"] += len(batch)
        return batch


def _malformed_error(source: Format[Any], place: int, error: DataError) -> DataError:
    return DataError(
        f"{source.name}: molecule {place} {error}. Mend it, or leave such molecules out with "
        "--skip-bad (skip_bad=True)."
    )
