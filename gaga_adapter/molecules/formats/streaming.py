"""Molecules in batches, with memory for one batch, however many there are.

Batch k holds the places k B to (k + 1) B of all sources, one after the other, less those that are
skipped. Which batch a molecule is in thus depends on no other molecule, and process r of W reads
the batches r, r + W, ... and only cuts the others out of the file.
"""

from __future__ import annotations

import warnings
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import replace
from itertools import islice
from typing import Any, get_args
from zipfile import BadZipFile

import numpy as np

from gaga_adapter.elements import SYMBOLS, atomic_numbers
from gaga_adapter.errors import DataError, GAGAWarning
from gaga_adapter.molecules.data import MoleculeSet
from gaga_adapter.molecules.formats.objects import Whole
from gaga_adapter.molecules.formats.record import (
    Format,
    Hydrogens,
    NotEmbedded,
    Record,
    without_hydrogens,
)
from gaga_adapter.molecules.formats.sources import opened
from gaga_adapter.molecules.formats.tally import Tally

_ALL = 1 << 62  # molecules in one batch
_EXAMPLES = 3  # of skipped molecules that are named


class MoleculeStream:
    """Batches of molecules; every `for` over it is a pass over the sources.

    A pass ends with a `GAGAWarning` if anything was left out or dropped.

    Attributes:
        name: of the sources.
        total: molecules in all, where that is known without a pass.
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
        sizes = [len(one.molecules) for one in formats if isinstance(one, Whole)]
        self.total = sum(sizes) if len(sizes) == len(formats) else None
        self._formats, self._batch_size, self._share = formats, batch_size, share
        self._hydrogens, self._skip_bad = hydrogens, skip_bad
        self._elements = None if elements is None else tuple(elements)
        self._counts: Counter[str] = Counter()
        self._examples: list[str] = []

    @property
    def tally(self) -> Tally:
        """What the latest pass met, so far."""
        return Tally(**self._counts, examples=tuple(self._examples))

    def shared(self, index: int, count: int) -> MoleculeStream:
        """The same stream, of which only the batches r, r + W, ... are read.

        Args:
            index: r.
            count: W.
        """
        one = copy(self)
        one._share, one._counts, one._examples = (index, count), Counter(), []
        return one

    def __iter__(self) -> Iterator[MoleculeSet]:
        self._counts, self._examples = Counter(), []
        index, count = self._share
        first = self._formats[0]
        if len(self._formats) == 1 and isinstance(first, Whole) and self._hydrogens == "keep":
            batches = first.molecules.batches(self._batch_size)
            for number, batch in islice(enumerate(batches), index, None, count):
                start = number * self._batch_size
                yield self._checked(batch, [(first.name, start + row) for row in range(len(batch))])
        else:
            yield from self._packed()
        if self.tally.n_molecules == 0 and count == 1:
            raise DataError(f"{self.name}: no molecule is left. {self.tally.describe() or ''}")
        said = self.tally.describe()
        if said is not None:
            who = f" (process {index} of {count})" if count > 1 else ""
            warnings.warn(said + who, GAGAWarning, stacklevel=2)

    def records(self) -> Iterator[Record]:
        """The molecules of all batches one by one, with the bonds that their sources state."""
        apart = self.shared(0, 1)  # with a tally of its own
        for source, piece, place in apart._pieces():
            record = apart._read(source, piece, place)
            if record is not None:
                yield record

    def found_elements(self) -> tuple[str, ...]:
        """Chemical symbols that occur, by atomic number; one pass over all sources.

        Raises:
            DataError: as in a pass for molecules.
        """
        found: set[int] = set()
        for source, piece, place in self._pieces():
            try:
                found |= source.elements(piece, place)
            except DataError as error:
                if not self._skip_bad and not isinstance(error, NotEmbedded):
                    raise _malformed(source, place, error) from error
        if self._hydrogens == "remove":
            found.discard(1)
        return tuple(SYMBOLS[number] for number in sorted(found))

    def _packed(self) -> Iterator[MoleculeSet]:
        """The batches of this process, made of single molecules."""
        index, count = self._share
        records: list[Record] = []
        places: list[tuple[str, int]] = []
        current = 0

        def packed() -> MoleculeSet:
            smiles = [one.smiles for one in records if one.smiles is not None]
            whole = MoleculeSet.from_list(
                [(one.positions, one.atomic_numbers) for one in records],
                self.name,
                smiles if len(smiles) == len(records) else None,
            )
            self._counts["n_charged"] += sum(one.is_charged for one in records)
            self._counts["n_periodic"] += sum(one.is_periodic for one in records)
            self._counts["n_bare"] += sum(one.is_bare for one in records)
            return self._checked(whole, places)

        for at, (source, piece, place) in enumerate(self._pieces()):
            if at // self._batch_size != current:
                if records:
                    yield packed()
                records, places, current = [], [], at // self._batch_size
            if current % count != index:
                continue
            record = self._read(source, piece, place)
            if record is not None:
                records.append(replace(record, mol=None))  # bonds would fill the memory
                places.append((source.name, place))
        if records:
            yield packed()

    def _pieces(self) -> Iterator[tuple[Format[Any], Any, int]]:
        """All pieces of all sources, each with its place in its own."""
        for source in self._formats:
            place = -1
            try:
                for place, piece in enumerate(source.records()):
                    yield source, piece, place
            except DataError:
                raise
            except (OSError, EOFError, ValueError, zlib.error, BadZipFile) as error:
                raise DataError(
                    f"cannot read {source.name} behind {place + 1:,} molecules: {error}."
                ) from error
            if place < 0:
                raise DataError(f"{source.name}: no molecules. Pass at least one.")

    def _read(self, source: Format[Any], piece: Any, place: int) -> Record | None:  # noqa: ANN401
        """One molecule, or None if it is left out."""
        try:
            record = source.molecule(piece, place)
            return without_hydrogens(record) if self._hydrogens == "remove" else record
        except DataError as error:
            is_graph = isinstance(error, NotEmbedded)
            if not is_graph and not self._skip_bad:
                raise _malformed(source, place, error) from error
            self._counts["n_not_embedded" if is_graph else "n_malformed"] += 1
            if len(self._examples) < _EXAMPLES:
                self._examples.append(f"{source.name}: molecule {place} {error}")
            return None

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
                    f"{', '.join(self._elements)}. For these data pass --elements {wider}, or "
                    "--elements auto to have all of them looked up."
                )
        self._counts["n_molecules"] += len(batch)
        return batch


def stream_molecules(
    sources: Any,  # noqa: ANN401  # paths, or molecules of any package
    batch_size: int = 2048,
    elements: Sequence[str] | None = None,
    hydrogens: Hydrogens = "keep",
    embed: bool = False,
    skip_bad: bool = False,
    seed: int = 0,
    share: tuple[int, int] = (0, 1),
) -> MoleculeStream:
    """Molecules in batches, in memory for one batch.

    Args:
        sources: `qm9`, `qm9:train`, `qm9:valid`, `qm9:test`; a .sdf, .xyz, .extxyz (all three also
            .gz), .npz (EDM's arrays) or .db (ASE) file, a folder or a pattern of them; .smi or .csv
            with `embed`; a list of these; or molecules in memory: a `MoleculeSet`, a data set of
            PyTorch Geometric or of Hugging Face `datasets`, ASE's or rdkit's molecules, pairs of
            positions (n, 3) and atomic numbers (n,).
        batch_size: most molecules of a batch.
        elements: chemical symbols that may occur; every element if None.
        hydrogens: `keep` them as they are, `remove` all, or `add` those that the bonds of the
            source imply.
        embed: make geometries by ETKDG for molecules without one: SMILES, and SDF records in 2D.
            Those that ETKDG cannot embed are left out and counted.
        skip_bad: leave malformed molecules out and count them, instead of raising on the first.
        seed: of the embedding.
        share: (r, W): give the batches r, r + W, ... alone, as process r of W.

    Returns:
        an iterable of `MoleculeSet`s, which can be passed more than once.

    Raises:
        DataError: here or in a pass: a source is missing, of an unknown kind, empty or unreadable
            (the molecule is named), or holds an element that is not allowed.
        MissingExtraError: a format needs a package that is not installed.
    """
    if batch_size < 1:
        raise DataError(f"batch_size={batch_size} must be at least 1.")
    if hydrogens not in get_args(Hydrogens):
        raise DataError(f"hydrogens={hydrogens!r}. Allowed: {', '.join(get_args(Hydrogens))}.")
    if not 0 <= share[0] < share[1]:
        raise DataError(f"share={share} must be (r, W) with 0 <= r < W.")
    formats = opened(sources, hydrogens, embed, seed)
    return MoleculeStream(formats, batch_size, elements, hydrogens, skip_bad, share)


def read_molecules(
    sources: Any,  # noqa: ANN401
    elements: Sequence[str] | None = None,
    hydrogens: Hydrogens = "keep",
    embed: bool = False,
    skip_bad: bool = False,
    seed: int = 0,
) -> MoleculeSet:
    """All molecules of one or several sources, in memory.

    Args:
        sources: as for `stream_molecules`, like the other arguments.
        elements: chemical symbols that may occur; every element if None.
        hydrogens: `keep`, `remove` or `add`.
        embed: make geometries by ETKDG for molecules without one.
        skip_bad: leave malformed molecules out and count them.
        seed: of the embedding.

    Raises:
        DataError: as `stream_molecules`.
        MissingExtraError: a format needs a package that is not installed.
    """
    stream = stream_molecules(
        sources, _ALL, elements=elements, hydrogens=hydrogens, embed=embed, skip_bad=skip_bad,
        seed=seed,
    )  # fmt: skip
    parts = list(stream)
    return parts[0] if len(parts) == 1 else MoleculeSet.concatenate(parts, stream.name)


def _malformed(source: Format[Any], place: int, error: DataError) -> DataError:
    return DataError(
        f"{source.name}: molecule {place} {error}. Mend it, or leave such molecules out with "
        "--skip-bad (skip_bad=True)."
    )
