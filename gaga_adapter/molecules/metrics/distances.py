"""How far generated molecules are from held-out ones, quantity by quantity.

Every distance is a one-dimensional Wasserstein distance, in the unit of its quantity,

    W1(F, G) = ∫ |F(x) - G(x)| dx = E_F[f] - E_G[f],    f' = sign(G - F),

with the distribution functions F, G of both sets and the Kantorovich potential f (Villani 2003,
section 1.2). The second form is a difference of two means. The standard error is that of these
means with f held fixed, the delta method, both sets taken as independent draws *of molecules*:
values of one molecule are summed before they are squared.

- `v_x`, `anisotropy`: one value per molecule of two or more atoms (`shape.py`).
- `bond_lengths`: angstrom. Bonds are compared within their pair of elements, and the distances
  weighted by how often the pair occurs in the held-out set. Which pairs are bonded is a matter of
  the elements, and would drown the lengths if all bonds were pooled. The order of a bond is no
  part of its group: it is itself read off the length.
- `bond_angles`: degrees, between two bonds of an atom; likewise within its element.
- `elements`: atoms of an element in a molecule; the mean over elements that either set has.
- `rings`: rings in a molecule; `ring_sizes`: atoms of a ring, all rings pooled. Rings are those of
  rdkit, of the molecules that it can sanitise.

A finite set is at a distance even from its own law: W1 of samples is biased upward, by about
`1 / sqrt(M)`. The noise floor says by how much: the distance of as many held-out molecules from the
other held-out ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gaga_adapter.elements import SYMBOLS
from gaga_adapter.molecules.data import MoleculeSet
from gaga_adapter.molecules.metrics.bonds import Bonds, batches_with_bonds
from gaga_adapter.molecules.metrics.chemistry import sanitised
from gaga_adapter.molecules.metrics.estimate import Estimate
from gaga_adapter.molecules.metrics.shape import gyration_eigenvalues

_FLOOR_SETS = 8  # sets of held-out molecules behind a noise floor


@dataclass(frozen=True)
class Distances:
    """Wasserstein distances by quantity (see above); None where a set has nothing to compare."""

    v_x: Estimate | None
    anisotropy: Estimate | None
    bond_lengths: Estimate | None
    bond_angles: Estimate | None
    elements: Estimate | None
    rings: Estimate | None
    ring_sizes: Estimate | None


@dataclass(frozen=True)
class DistanceFigures:
    """Distances of a set of molecules from a held-out one, and what chance alone would make them.

    Attributes:
        n_molecules: Number of molecules in the set.
        n_held_out: Number of molecules in the held-out set.
        measured: Distances with their standard errors.
        noise_floor: Distances of `n_molecules` held-out molecules from the others: the mean over
            several such sets, and as `std_error` the standard deviation of a single one. None if
            the set is more than half as large as the held-out one.
    """

    n_molecules: int
    n_held_out: int
    measured: Distances
    noise_floor: Distances | None

    def to_dict(self) -> dict[str, Any]:
        """JSON form: nested dictionaries of `value` and `std_error`, null where not computable."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Values:
    """V values of one quantity."""

    value: NDArray[np.float64]
    group: NDArray[np.int64]  # values are compared within their group alone
    molecule: NDArray[np.int64]  # row of the molecule that the value belongs to

    def of(self, chosen: NDArray[np.bool_]) -> Values:
        """The values of the molecules chosen (M,)."""
        is_chosen = chosen[self.molecule]
        rows = chosen.cumsum() - 1
        return Values(self.value[is_chosen], self.group[is_chosen], rows[self.molecule[is_chosen]])


@dataclass(frozen=True, eq=False)
class Geometry:
    """All values of a set of molecules; measure a held-out set once to use it often."""

    n_molecules: int
    values: Mapping[str, Values]  # by quantity

    @classmethod
    def of(cls, molecules: MoleculeSet) -> Geometry:
        """Measure a set of molecules."""
        m = len(molecules)
        eigenvalues = gyration_eigenvalues(molecules)
        total = eigenvalues.sum(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            anisotropy = eigenvalues[:, 2] / total
        present = np.unique(molecules.atomic_numbers[molecules.atomic_numbers > 0])
        counts = [(molecules.atomic_numbers == z).sum(axis=1) for z in present]
        lengths, angles = _bonded(molecules)
        rings, ring_sizes = _rings(molecules)
        values = {
            "v_x": _per_molecule(total / 3),
            "anisotropy": _per_molecule(anisotropy),
            "bond_lengths": lengths,
            "bond_angles": angles,
            "elements": Values(
                np.concatenate(counts).astype(np.float64),
                np.repeat(present.astype(np.int64), m),
                np.tile(np.arange(m), len(present)),
            ),
            "rings": rings,
            "ring_sizes": ring_sizes,
        }
        return cls(m, values)

    def subset(self, chosen: NDArray[np.bool_]) -> Geometry:
        """The molecules chosen (M,)."""
        return Geometry(int(chosen.sum()), {k: v.of(chosen) for k, v in self.values.items()})


@dataclass(frozen=True, eq=False)
class Linearised:
    """A distance, and how far each molecule moves it in first order.

    With both parts taken as independent draws, the variance of the distance is the sum of their
    squares; that of the difference of two distances from the same held-out set is the sum of the
    squares of the differences, where the generated molecules are pairs.

    Attributes:
        value: The distance.
        generated: Contributions of the generated molecules (M,), of sum 0.
        held_out: Contributions of the held-out molecules (H,), of sum 0.
    """

    value: float
    generated: NDArray[np.float64]
    held_out: NDArray[np.float64]

    @property
    def std_error(self) -> float | None:
        """Standard error of the distance; None where a set has one molecule."""
        parts = (self.generated, self.held_out)
        if min(map(len, parts)) < 2:
            return None
        return float(np.sqrt(sum(len(d) / (len(d) - 1) * float(d @ d) for d in parts)))


def distances(
    molecules: MoleculeSet | Geometry, held_out: MoleculeSet | Geometry, generator: torch.Generator
) -> DistanceFigures:
    """Wasserstein distances of molecules from held-out ones, with standard errors and noise floor.

    Args:
        molecules: Generated molecules (M).
        held_out: Molecules of the data (H) that no model has seen.
        generator: Source of randomness for the sets behind the noise floor, on the CPU.
    """
    generated = molecules if isinstance(molecules, Geometry) else Geometry.of(molecules)
    data = held_out if isinstance(held_out, Geometry) else Geometry.of(held_out)
    m, h = generated.n_molecules, data.n_molecules
    floor = None
    if 2 * m <= h:
        sets = []
        for _ in range(_FLOOR_SETS):
            chosen = np.zeros(h, np.bool_)
            chosen[torch.randperm(h, generator=generator)[:m].numpy()] = True
            sets.append(_distances(data.subset(chosen), data.subset(~chosen)))
        floor = Distances(**{name: _spread([part[name] for part in sets]) for name in sets[0]})
    return DistanceFigures(m, h, Distances(**_distances(generated, data)), floor)


def linearised(generated: Geometry, data: Geometry) -> dict[str, Linearised | None]:
    """The distances by quantity with what each molecule adds; None where nothing is compared."""
    parts = {}
    for name, ours in generated.values.items():
        theirs = data.values[name]
        if name == "elements":  # an element that a set lacks occurs 0 times in each molecule
            ours, theirs = _with_zeros(ours, theirs, generated), _with_zeros(theirs, ours, data)
        parts[name] = _grouped(ours, theirs, generated.n_molecules, data.n_molecules)
    return parts


def _distances(generated: Geometry, data: Geometry) -> dict[str, Estimate | None]:
    return {
        name: None if part is None else Estimate(part.value, part.std_error)
        for name, part in linearised(generated, data).items()
    }


def _grouped(ours: Values, theirs: Values, m: int, h: int) -> Linearised | None:
    """Sum over groups of W1 times the share of the group among `theirs`.

    Groups that one side alone has are left out, and the shares are of the rest.
    """
    shared = np.intersect1d(ours.group, theirs.group)
    n_shared = int(np.isin(theirs.group, shared).sum())
    if n_shared == 0:
        return None
    total, influence = 0.0, (np.zeros(m), np.zeros(h))
    for group in shared:
        parts = (ours.group == group, theirs.group == group)
        share = float(parts[1].sum()) / n_shared
        distance, potentials = _wasserstein(ours.value[parts[0]], theirs.value[parts[1]])
        total += share * distance
        for side, part, f, sums in zip((ours, theirs), parts, potentials, influence, strict=True):
            centred = share * (f - f.mean()) / len(f)
            sums += np.bincount(side.molecule[part], centred, minlength=len(sums))
    return Linearised(total, *influence)


def _wasserstein(
    x: NDArray[np.float64], y: NDArray[np.float64]
) -> tuple[float, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """W1 of two samples (n,) and (m,), and the potential f at both."""
    points = np.unique(np.concatenate([x, y]))
    ahead = np.searchsorted(np.sort(x), points, "right") / len(x)
    ahead -= np.searchsorted(np.sort(y), points, "right") / len(y)
    width = np.diff(points)
    f = -np.append(0.0, np.cumsum(np.sign(ahead[:-1]) * width))
    at = (f[np.searchsorted(points, x)], f[np.searchsorted(points, y)])
    return float(np.abs(ahead[:-1]) @ width), at


def _spread(estimates: list[Estimate | None]) -> Estimate | None:
    """Mean of several estimates, and the standard deviation of one of them."""
    values = [estimate.value for estimate in estimates if estimate is not None]
    if len(values) < len(estimates):
        return None
    return Estimate(float(np.mean(values)), float(np.std(values, ddof=1)))


def _per_molecule(value: NDArray[np.float64]) -> Values:
    """One value per molecule (M,), left out where it is not finite."""
    rows = np.flatnonzero(np.isfinite(value))
    return Values(value[rows], np.zeros(len(rows), np.int64), rows)


def _with_zeros(counts: Values, others: Values, of: Geometry) -> Values:
    """Counts of elements, with 0 for the elements that only the other set has."""
    missing, m = np.setdiff1d(others.group, counts.group), of.n_molecules
    return Values(
        np.append(counts.value, np.zeros(m * len(missing))),
        np.append(counts.group, np.repeat(missing, m)),
        np.append(counts.molecule, np.tile(np.arange(m), len(missing))),
    )


def _bonded(molecules: MoleculeSet) -> tuple[Values, Values]:
    """Lengths by pair of elements, and angles in degrees by the element between the bonds."""
    lengths: list[tuple[NDArray[Any], ...]] = []
    angles: list[tuple[NDArray[Any], ...]] = []
    start = 0
    for part, bonds in batches_with_bonds(molecules):
        x, z = part.positions.astype(np.float64), part.atomic_numbers.astype(np.int64)
        m, i, j = bonds.molecule, bonds.first, bonds.second
        low, high = np.minimum(z[m, i], z[m, j]), np.maximum(z[m, i], z[m, j])
        length = np.linalg.norm(x[m, i] - x[m, j], axis=-1)
        lengths.append((length, low * len(SYMBOLS) + high, m + start))
        m, centre, i, j = _pairs_of_bonds(bonds)
        u, v = x[m, i] - x[m, centre], x[m, j] - x[m, centre]
        sine = np.linalg.norm(np.cross(u, v), axis=-1)
        angle = np.degrees(np.arctan2(sine, (u * v).sum(axis=-1)))
        angles.append((angle, z[m, centre], m + start))
        start += len(part)
    return (
        Values(*(np.concatenate(column) for column in zip(*lengths, strict=True))),
        Values(*(np.concatenate(column) for column in zip(*angles, strict=True))),
    )


def _pairs_of_bonds(bonds: Bonds) -> tuple[NDArray[np.int64], ...]:
    """Molecule, the atom that two bonds share, and the atoms at their other ends, in order."""
    m = np.tile(bonds.molecule, 2)
    centre = np.concatenate([bonds.first, bonds.second])
    end = np.concatenate([bonds.second, bonds.first])
    order = np.lexsort((end, centre, m))
    m, centre, end = m[order], centre[order], end[order]
    is_first = np.ones(len(m), np.bool_)  # of the bonds of its centre
    is_first[1:] = (m[1:] != m[:-1]) | (centre[1:] != centre[:-1])
    ends = np.append(np.flatnonzero(is_first)[1:], len(m))
    n_later = np.repeat(ends, np.diff(ends, prepend=0)) - np.arange(len(m)) - 1
    one = np.repeat(np.arange(len(m)), n_later)
    other = one + 1 + np.arange(len(one)) - np.repeat(np.cumsum(n_later) - n_later, n_later)
    return m[one], centre[one], end[one], end[other]


def _rings(molecules: MoleculeSet) -> tuple[Values, Values]:
    """Rings per molecule, and atoms per ring, of the molecules that rdkit can sanitise."""
    counts = np.full(len(molecules), np.nan)
    sizes: list[int] = []
    owners: list[int] = []
    for row, mol in sanitised(molecules):
        rings = mol.GetRingInfo().AtomRings()
        counts[row] = len(rings)
        sizes += [len(ring) for ring in rings]
        owners += [row] * len(rings)
    value, owner = np.array(sizes, np.float64), np.array(owners, np.int64)
    return _per_molecule(counts), Values(value, np.zeros(len(value), np.int64), owner)
