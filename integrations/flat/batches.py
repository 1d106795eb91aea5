"""Between flat batches of atoms (atoms, C) and padded molecules (B, N, C) with their mask.

Graph libraries concatenate the atoms of all molecules and say in `batch_index` (atoms,) to which
molecule each belongs; references, moments and criteria want one row a molecule. Atom `i` of a flat
batch stands at row `batch_index[i]`, and in that row at the number of atoms before it that are of
the same molecule. So `batch_index` need not be sorted, the order of the atoms of a molecule is
kept, and both directions are one indexing, through which gradients flow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gaga_adapter.errors import DataError
from gaga_adapter.reference import ReferenceGaussian
from gaga_adapter.subspace import mask_from_sizes, project

Channels = Sequence[str] | Callable[[Any], Tensor]
_WHAT = "Pass channels=(...) with the names of what the model diffuses."
_WHICH = (
    "Pass batch_index= with the name of the molecule of each atom, or batch_index=None if each "
    "batch is one molecule."
)
_REAL = "Pass real= with the name of the mask of existing atoms."


def to_padded(
    x: Tensor, batch_index: Tensor, real: Tensor | None = None, n_molecules: int | None = None
) -> tuple[Tensor, Tensor]:
    """Flat atoms as padded molecules.

    Args:
        x: Channels of the atoms (atoms, C).
        batch_index: Molecule of each atom (atoms,), integers from 0 to B - 1 in any order; a list
            or an array will do.
        real: Mask of existing atoms (atoms,), bool or 0 and 1, for batches that hold padding
            themselves; all of them exist when `None`.
        n_molecules: Number of molecules B; the largest index and one more when `None`.

    Returns:
        Molecules (B, N, C) with padding of exactly zero, N the largest number of atoms, and their
        mask (B, N), bool.

    Raises:
        DataError: If the shapes do not fit, the indices are no integers from 0 on, or a molecule
            has no atoms.
    """
    keep, row, column, n_atoms = _places(x, batch_index, real, n_molecules)
    mask = mask_from_sizes(n_atoms)
    padded = x.new_zeros(*mask.shape, x.shape[-1])
    return padded.index_put((row, column), x if keep is None else x[keep]), mask


def to_flat(padded: Tensor, batch_index: Tensor, real: Tensor | None = None) -> Tensor:
    """Padded molecules as flat atoms: the inverse of `to_padded` for the same indices.

    Args:
        padded: Molecules (B, N, C).
        batch_index: Molecule of each atom (atoms,), as it was given to `to_padded`.
        real: Mask of the atoms that exist (atoms,), bool; all of them when `None`.

    Returns:
        Channels of the atoms (atoms, C), exactly zero where an atom does not exist.

    Raises:
        DataError: If these are not the molecules of `batch_index`.
    """
    batch_index = _tensor(batch_index, "batch_index", padded.device)
    keep, row, column, n_atoms = _places(batch_index[..., None], batch_index, real, None)
    if padded.ndim != 3 or len(padded) != len(n_atoms) or padded.shape[1] < int(n_atoms.max()):
        raise DataError(
            f"molecules of shape {tuple(padded.shape)} are not those of this batch_index: it has "
            f"{len(n_atoms)} molecules of up to {int(n_atoms.max())} atoms."
        )
    atoms = padded[row, column]
    if keep is None:
        return atoms
    return padded.new_zeros(len(batch_index), padded.shape[-1]).index_put((keep,), atoms)


def transport(
    reference: ReferenceGaussian, z: Tensor, batch_index: Tensor, real: Tensor | None = None
) -> Tensor:
    """Unit noise of a flat batch sent to a reference: the start of a sample.

    Args:
        reference: Reference at the level where the sample starts, `stats.reference().at(a, b)`.
        z: Unit noise (atoms, 3 + F), positions first; their mean over each molecule is removed.
        batch_index: Molecule of each atom (atoms,), integers.
        real: Mask of the atoms that exist (atoms,), bool; all of them when `None`.

    Returns:
        Atoms (atoms, 3 + F) with positions of zero mean over each molecule, in the order of `z`.

    Raises:
        DataError: If `batch_index` does not fit, a molecule has no atoms, or these are integers.
        StatsMismatchError: If the reference describes other channels.
    """
    _check_floating(z, "the noise")
    return to_flat(reference.transport(*to_padded(z, batch_index, real)), batch_index, real)


def prior_term(
    reference: ReferenceGaussian, x0: Tensor, batch_index: Tensor, real: Tensor | None = None
) -> Tensor:
    """`KL(N(a x0, b² P) || reference)` of each molecule of a flat batch, in nats.

    Args:
        reference: Reference at the level where the loss ends, `stats.reference().at(a, b)`.
        x0: Clean atoms (atoms, 3 + F) as the model diffuses them, positions of zero mean.
        batch_index: Molecule of each atom (atoms,), integers.
        real: Mask of the atoms that exist (atoms,), bool; all of them when `None`.

    Returns:
        Divergences (B,), float64.

    Raises:
        DataError: If `batch_index` does not fit, a molecule has no atoms, or these are integers.
        StatsMismatchError: If the reference describes other channels.
        TruncationError: If the reference has no noise.
    """
    _check_floating(x0, "x0")
    return reference.kl_from_posterior(*to_padded(x0, batch_index, real))


def padded_batches(
    loader: Iterable[Any],
    channels: Channels = ("pos", "x"),
    batch_index: str | None = "batch",
    real: str | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of a graph loader as `gaga_adapter.fit` takes them.

    Args:
        loader: Iterable of batches: objects of torch_geometric, or anything with the attributes
            or keys that are named here. It is read once.
        channels: Names of what the model diffuses, positions first, each (atoms, C) or (atoms,);
            or a function of a batch that returns all channels (atoms, 3 + F), where the model
            scales or encodes them. The mean of the positions over each molecule is removed.
        batch_index: Name of the molecule of each atom (atoms,); `None` if each batch of the
            loader is one molecule.
        real: Name of the mask of existing atoms (atoms,), for loaders that keep padding.

    Yields:
        Molecules (B, N, 3 + F) and their mask (B, N), bool.

    Raises:
        DataError: If a batch lacks one of these, or they do not fit.
    """
    for batch in loader:
        x = _channels(batch, channels)
        if batch_index is None:
            index = torch.zeros(len(x), dtype=torch.long, device=x.device)
        else:
            index = named(batch, batch_index, _WHICH)
        exists = None if real is None else named(batch, real, _REAL)
        padded, mask = to_padded(x, index, exists)
        yield project(padded, mask), mask


def _places(
    x: Tensor, batch_index: Tensor, real: Tensor | None, n_molecules: int | None
) -> tuple[Tensor | None, Tensor, Tensor, Tensor]:
    """Which atoms exist (`None` for all), their rows and columns, and the sizes (B,)."""
    index, keep = _tensor(batch_index, "batch_index", x.device), None
    if index.ndim != 1 or index.is_floating_point() or index.dtype == torch.bool:
        raise DataError(
            f"batch_index is {index.dtype} of shape {tuple(index.shape)}; it must be "
            "integers (atoms,), the molecule of each atom."
        )
    if x.ndim != 2 or len(x) != len(index):
        raise DataError(
            f"atoms of shape {tuple(x.shape)} do not fit a batch_index of {len(index)} "
            "atoms; they must be (atoms, C)."
        )
    index = index.long()
    if real is not None:
        given = _tensor(real, "the mask of existing atoms", x.device).flatten()
        if len(given) != len(index):
            raise DataError(
                f"the mask of existing atoms has {len(given)} entries for {len(index)} atoms."
            )
        keep = given.bool()
        if not torch.equal(keep.to(given.dtype), given):
            raise DataError(
                "the mask of existing atoms must be bool, or 0 and 1: it holds "
                f"{given[keep.to(given.dtype) != given][0].item()}. For indices of atoms, pass "
                "mask = torch.zeros(atoms, dtype=torch.bool); mask[indices] = True."
            )
        keep = None if bool(keep.all()) else keep
    row = index if keep is None else index[keep]
    if len(index) and int(index.min()) < 0:
        raise DataError(f"batch_index begins at {int(index.min())}; it must count from 0.")
    known = int(index.max()) + 1 if len(index) else 0
    count = known if n_molecules is None else n_molecules
    if known > count:
        raise DataError(f"batch_index names molecule {known - 1}, and there are {count}.")
    if count > len(index):  # before that many sizes are counted
        raise DataError(
            f"batch_index is of {count} molecules, and there are {len(index)} atoms. It must count "
            "the molecules from 0 without gaps."
        )
    n_atoms = torch.bincount(row, minlength=count)
    empty = (n_atoms == 0).nonzero().flatten()
    if not len(n_atoms) or len(empty):
        which = f"molecule {int(empty[0])} of {len(n_atoms)}" if len(empty) else "the batch"
        raise DataError(
            f"{which} has no atoms. Leave empty molecules out: batch_index must count the others "
            "from 0 without gaps."
        )
    order = torch.argsort(row, stable=True)
    first = n_atoms.cumsum(0) - n_atoms
    column = torch.empty_like(row)
    column[order] = torch.arange(len(row), device=row.device) - first[row[order]]
    return keep, row, column, n_atoms


def _check_floating(x: Tensor, what: str) -> None:
    """Refuse integers, which would cut what is made of them."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise DataError(f"{what} is {kind}; it must be a tensor of floating point (atoms, 3 + F).")


def _tensor(value: Any, what: str, device: torch.device) -> Tensor:  # noqa: ANN401
    """A list, an array or a tensor as a tensor on a device."""
    try:
        return torch.as_tensor(value, device=device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            f"{what} is a {type(value).__name__} that makes no tensor ({error}). Pass one number "
            "for each atom."
        ) from error


def named(batch: Any, name: str, advice: str = _WHAT) -> Tensor:  # noqa: ANN401
    """A tensor of a batch by its name."""
    value = batch.get(name) if isinstance(batch, Mapping) else getattr(batch, name, None)
    if not isinstance(value, Tensor):
        keys = getattr(batch, "keys", None) or _attributes(batch)
        keys = keys() if callable(keys) else keys
        raise DataError(
            f"a batch ({type(batch).__name__}) has no tensor {name!r}. It has "
            f"{', '.join(map(str, keys))}. {advice}"
        )
    return value


def _attributes(batch: Any) -> Iterable[str]:  # noqa: ANN401
    """Names of what a batch holds."""
    return getattr(batch, "__dict__", None) or getattr(batch, "_fields", ()) or ("no names",)


def _channels(batch: Any, channels: Channels) -> Tensor:  # noqa: ANN401
    """What the model diffuses of a batch (atoms, 3 + F)."""
    if callable(channels):
        x = channels(batch)
        if not isinstance(x, Tensor) or x.ndim != 2 or x.shape[1] < 3:
            shape = f" of shape {tuple(x.shape)}" if isinstance(x, Tensor) else ""
            raise DataError(
                f"the function of a batch gave a {type(x).__name__}{shape}; it must give one "
                "tensor (atoms, 3 + F), positions first, such as "
                "torch.cat([batch.pos, batch.x], -1)."
            )
        return _column(x, "the function of a batch")
    if isinstance(channels, str):
        channels = (channels,)
    columns = [_column(named(batch, name), name) for name in channels]
    if not columns or columns[0].shape[1] != 3:
        shape = f"has the shape {tuple(columns[0].shape)}" if columns else "is missing"
        raise DataError(
            f"channels={tuple(channels)!r}: the first must be the positions (atoms, 3), and it "
            f"{shape}. Put their name first."
        )
    if len({len(column) for column in columns}) > 1:
        lengths = {name: len(c) for name, c in zip(channels, columns, strict=True)}
        raise DataError(f"the channels of a batch have different numbers of atoms: {lengths}.")
    return torch.cat(columns, -1)


def _column(value: Tensor, name: str) -> Tensor:
    """An entry as channels (atoms, C), floating point."""
    value = value[:, None] if value.ndim == 1 else value
    if value.ndim != 2:
        raise DataError(f"{name!r} has the shape {tuple(value.shape)}; it must be (atoms, C).")
    return value if value.is_floating_point() else value.to(torch.get_default_dtype())
