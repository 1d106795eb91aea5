"""Molecules that are in memory already, as objects of other packages.

They are recognised by the names of their attributes or keys: PyTorch Geometric's `Data` and
datasets of them (`pos`, `z`), rows of Hugging Face `datasets` (`positions` and `atomic_numbers`, or
similar names), graphs of atomic-datasets (the same names under `nodes`), ASE's `Atoms`, rdkit's
`Mol`, dictionaries of arrays, and pairs of positions and atomic numbers. None of these packages is
imported.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from gaga_adapter.elements import atomic_numbers
from gaga_adapter.errors import DataError
from gaga_adapter.molecules.formats.record import Format, Record, record_of

_POSITIONS = ("pos", "positions", "coordinates", "coords", "xyz")
_NUMBERS = ("z", "atomic_numbers", "numbers", "species", "symbols", "elements", "atoms")
#: In a graph of atomic-datasets, and of jraph that is made of one, `species` are places in a list.
_NUMBERS_OF_NODES = ("atomic_numbers", "atom_types")


class Objects(Format[Any]):
    """A data set of objects, or a single one.

    Args:
        objects: The data set. If it has a length and an index, this process loads only its own
            share; an iterable can be passed over as often as it allows that.
    """

    def __init__(self, objects: Any) -> None:  # noqa: ANN401  # of whoever made them
        self.name = f"{type(objects).__name__} of molecules"
        if not _is_dataset(objects) and _is_molecule(objects):
            objects = [objects]
        if isinstance(objects, Mapping):
            raise DataError(
                f"got a mapping with the keys {', '.join(map(str, objects))}. Pass one of its "
                f"values, or one molecule with {_ALLOWED}."
            )
        if not isinstance(objects, Iterable) and not hasattr(objects, "__getitem__"):
            raise DataError(f"got {type(objects).__name__}, no molecules. Allowed: {_ALLOWED}.")
        self._objects = objects

    def records(self) -> Iterator[Any]:
        """Places in the data set, or the objects themselves where it has no places."""
        if _has_places(self._objects):
            return iter(range(len(self._objects)))
        return iter(self._objects)

    def molecule(self, piece: Any, index: int) -> Record:  # noqa: ANN401, D102
        one = self._objects[piece] if _has_places(self._objects) else piece
        if hasattr(one, "GetConformer"):
            if not one.GetNumConformers():
                raise DataError("is an rdkit molecule without a conformer; embed it first")
            return record_of(one)
        if isinstance(one, Sequence) and not isinstance(one, str) and len(one) == 2:
            positions, kinds = one
        else:
            positions, kinds = _atoms(one)
        if positions is None or kinds is None:
            raise DataError(f"is a {type(one).__name__} of {_names(one)}; need {_ALLOWED}")
        kinds = kinds.detach().cpu().numpy() if isinstance(kinds, Tensor) else np.asarray(kinds)
        if kinds.dtype.kind in "UO":
            try:
                kinds = np.array(atomic_numbers(map(str, kinds.ravel())), np.int64)
            except DataError as error:
                raise DataError(f"has an {str(error).rstrip('.')}") from error
        if isinstance(positions, Tensor):
            positions = positions.detach().cpu().double().numpy()
        smiles = _get(one, ("smiles", "SMILES")) or _get(_part(one, "properties"), ("smiles",))
        cell = _get(one, ("pbc",))
        return Record.of(
            positions,
            kinds.ravel() if kinds.ndim == 2 and 1 in kinds.shape else kinds,
            smiles=smiles if isinstance(smiles, str) else None,
            is_periodic=cell is not None and bool(np.any(np.asarray(cell))),
        )


def _is_molecule(one: Any) -> bool:  # noqa: ANN401
    if hasattr(one, "GetConformer"):
        return True
    positions, kinds = _atoms(one)
    return positions is not None and kinds is not None and np.ndim(positions) == 2


def _atoms(one: Any) -> tuple[Any, Any]:  # noqa: ANN401
    """Positions and elements, each None where there are none."""
    nodes = _part(one, "nodes")
    if nodes:
        return _get(nodes, _POSITIONS), _get(nodes, _NUMBERS_OF_NODES)
    return _get(one, _POSITIONS), _get(one, _NUMBERS)


def _part(one: Any, name: str) -> Mapping[str, Any]:  # noqa: ANN401
    """A mapping inside of an object; an empty one if there is none."""
    part = _get(one, (name,))
    return part if isinstance(part, Mapping) else {}


def _is_dataset(objects: Any) -> bool:  # noqa: ANN401
    """Whether the first of these is a molecule.

    This question comes first, since a data set of PyTorch Geometric shows the atoms of all its
    molecules as its own `pos` and `z`.
    """
    if isinstance(objects, Mapping) or not _has_places(objects):
        return False
    try:
        return _is_molecule(objects[0])
    except (LookupError, TypeError, AttributeError):
        return False


def _has_places(objects: Any) -> bool:  # noqa: ANN401
    return hasattr(objects, "__len__") and hasattr(objects, "__getitem__")


def _get(one: Any, names: Iterable[str]) -> Any:  # noqa: ANN401
    """The value of the first of these keys or attributes that exists."""
    for name in names:
        value = one.get(name) if isinstance(one, Mapping) else getattr(one, name, None)
        if value is not None and not callable(value):
            return value
    return None


def _names(one: Any) -> str:  # noqa: ANN401
    keys = one.keys() if hasattr(one, "keys") else getattr(one, "__dict__", {})
    return ", ".join(map(str, keys)) or "no names"


_ALLOWED = f"positions ({' or '.join(_POSITIONS)}) and elements ({' or '.join(_NUMBERS)})"
