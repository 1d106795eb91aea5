"""Data files in the form that `main_geom_drugs.py` of EDM and GeoLDM reads.

It looks into `data/geom` for `geom_drugs_30.npy`, whose rows (N, 5) are the number of a molecule,
the atomic number and x, y, z of every atom, and for `geom_permutation.npy`, the order (M,) of which
the first tenth validates, the second one tests and the rest trains. `geom_drugs_n_30.npy`, the
numbers of atoms (M,), comes with them as in upstream's own preparation. All files appear or none.

The elements and sizes that upstream has a place for are in its `configs/datasets_config.py`, which
is read here and not run. Upstream would take an atom of another element for one of no element, and
would stop in the first epoch at a molecule of another size.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from gaga_adapter.elements import SYMBOLS
from gaga_adapter.errors import DataError, GAGAError, warn
from gaga_adapter.files.atomic import replacing
from gaga_adapter.molecules.data import MoleculeSet

_CONFIG = "configs/datasets_config.py"
_DATASET = "geom_with_h"
_SEED = 42  # of the order, so that a second preparation gives the same split
_LEAST = 10  # molecules, of which a tenth is one


def geom_files(checkout: Path) -> list[Path]:
    """The files of a checkout."""
    names = ("geom_drugs_30.npy", "geom_drugs_n_30.npy", "geom_permutation.npy")
    return [checkout / "data" / "geom" / name for name in names]


@dataclass(frozen=True)
class Known:
    """What a checkout can train on.

    Attributes:
        numbers: Atomic numbers.
        sizes: Numbers of atoms.
    """

    numbers: frozenset[int]
    sizes: frozenset[int]

    @classmethod
    def of(cls, checkout: Path) -> Known:
        """The entries of a checkout's configuration.

        Raises:
            GAGAError: If it has none for GEOM-DRUGS with hydrogens.
        """
        file = checkout / _CONFIG
        try:
            tree = ast.parse(file.read_text(encoding="utf-8"))
            values = {
                target.id: node.value
                for node in tree.body
                if isinstance(node, ast.Assign)
                for target in node.targets
                if isinstance(target, ast.Name)
            }
            entry = ast.literal_eval(values[_DATASET])
            return cls(frozenset(entry["atomic_nb"]), frozenset(entry["n_nodes"]))
        except (OSError, SyntaxError, ValueError, KeyError, TypeError) as error:
            raise GAGAError(
                f"{file} has no dictionary {_DATASET} with atomic_nb and n_nodes, which "
                "main_geom_drugs.py asks for. Take a whole clone."
            ) from error

    def fault(self, numbers: NDArray[np.uint8]) -> str | None:
        """Why a molecule of these atomic numbers cannot be trained on; None if it can."""
        foreign = sorted(set(numbers.tolist()) - self.numbers)
        if foreign:
            known = ", ".join(SYMBOLS[number] for number in sorted(self.numbers))
            return f"has the element {SYMBOLS[foreign[0]]}. Upstream knows {known}"
        if len(numbers) not in self.sizes:
            return (
                f"has {len(numbers)} atoms, a number that is not in {_CONFIG}. Most from "
                f"{min(self.sizes)} to {max(self.sizes)} are"
            )
        return None

    def only(self, batches: Iterable[MoleculeSet], skip_bad: bool = False) -> Iterator[MoleculeSet]:
        """The batches, if all of their molecules can be trained on.

        Args:
            batches: Molecules.
            skip_bad: Whether others are left out, and counted in a warning, instead of refused.

        Raises:
            DataError: If one cannot, and is not to be left out.
        """
        start = left_out = 0
        first = ""
        for batch in batches:
            kept = []
            for row in range(len(batch)):
                fault = self.fault(batch.molecule(row)[1])
                if fault is None:
                    kept.append(row)
                    continue
                named = f"{batch.name}: molecule {start + row} {fault}."
                if not skip_bad:
                    raise DataError(f"{named} Leave such molecules out with --skip-bad.")
                left_out, first = left_out + 1, first or named
            start += len(batch)
            if kept:
                yield batch.subset(kept)
        if left_out:
            warn(f"left out {left_out:,} of {start:,} molecules, the first because {first}")


def write_geom(files: list[Path], batches: Iterable[MoleculeSet]) -> int:
    """Write the three files, one batch in memory at a time, and return the number of molecules.

    Raises:
        DataError: If there are fewer than ten, too few to validate and to test.
    """
    with ExitStack() as stack:
        rows, counts, order = [stack.enter_context(replacing(file)) for file in files]
        sizes = []
        with rows.open("wb") as stream:
            _write_header(stream, 0)
            n_molecules = n_atoms = 0
            for batch in batches:
                index = np.arange(n_molecules, n_molecules + len(batch))
                real = batch.mask
                table = np.empty((int(real.sum()), 5), "<f8")
                table[:, 0] = np.repeat(index, batch.n_atoms)
                table[:, 1] = batch.atomic_numbers[real]
                table[:, 2:] = batch.positions[real]
                stream.write(table.tobytes())
                sizes.append(batch.n_atoms)
                n_molecules, n_atoms = n_molecules + len(batch), n_atoms + len(table)
            stream.seek(0)
            _write_header(stream, n_atoms)
        if n_molecules < _LEAST:
            raise DataError(
                f"got {n_molecules} molecules. Upstream validates and tests with a tenth each; "
                f"pass {_LEAST} or more."
            )
        with counts.open("wb") as stream:
            np.save(stream, np.concatenate(sizes))
        with order.open("wb") as stream:
            permutation = np.random.RandomState(_SEED).permutation(n_molecules)
            np.save(stream, permutation.astype(np.int32))  # as upstream has it
    return n_molecules


def _write_header(stream: IO[bytes], n_atoms: int) -> None:
    """The header of the rows; numpy pads it so that it is as long for any number of them."""
    shape = (n_atoms, 5)
    npy.write_array_header_1_0(stream, {"descr": "<f8", "fortran_order": False, "shape": shape})
