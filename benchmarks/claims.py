"""What `few_calls.py` claims of a few calls against many, with margins that stood before its rows.

A row is *non-inferior* to another one if each of its figures is shown, by a one-sided test at 5 %,
not to be worse by as much as its margin, `MARGINS`. The margins were written, and committed, before
the first row of `few_calls.json` was sampled:

- shares (stable atoms and molecules, valid, unique, connected, stable and new, plausible by
  PoseBusters): 2 points, the margin of `sampling.json`;
- v_x and anisotropy: 1 % of the held-out mean, and 5 % of the held-out spread of v_x, as there.
  The collapse that these figures are for is 17 % of v_x and half of the spread;
- Wasserstein distances of v_x and anisotropy: the same 1 % of the held-out means. A mean that is
  off by more is at a larger distance, so the margins say the same thing;
- of bond lengths 1.5 mÅ and of angles 0.15°: a few times less than B3LYP, of which QM9's molecules
  are, is off from experiment (5 mÅ and half a degree or more), and about what chance alone makes of
  1,024 molecules of QM9 (1.1 mÅ and 0.21°, `sampling.json`);
- of elements, rings and ring sizes: 0.05 of an atom or a ring, about what chance alone makes of
  1,024 molecules of QM9 (0.044, 0.045 and 0.029);
- strain: 0.05 kcal/mol an atom, a sixth of what the force field finds in QM9 itself.

Novelty is shown and not compared, since broken molecules are new, too. Its place is taken by the
share of molecules that are stable *and* new.

*Pairs.* Rows that are compared have the same seeds, so the k-th molecules of both have one size and
one starting noise. Each figure is kept with what every molecule adds to it in first order
(`Linearised`), and the error of a difference is that of the pairs. Matched moments scale the
molecules of a batch together, which makes them dependent; so the sums over the chunks of one seed
are taken as draws as well, and the larger of the two errors counts. The held-out molecules are the
same for both rows, and what they add to a difference is subtracted in the same way.

*Sizes.* The figures of form depend on the number of atoms, whose draw is chance. So they are taken
as deviations from what held-out molecules of the same sizes have, by a quadratic regression on the
number of atoms (a control variate). This was planned with the margins, and written after the first
2,048 pairs had been looked at; no margin has changed since then.

*About.* A figure of the form of molecules is better the nearer it is to that of the held-out ones,
on either side; see *Signs* in `verdicts.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from verdicts import FORM_MARGINS, FORMS, LEVEL, SHARE_MARGIN, HeldOut, judged_sides, summary

from gaga_adapter.molecules.data import MoleculeSet
from gaga_adapter.molecules.metrics.bonds import batches_with_bonds, connected
from gaga_adapter.molecules.metrics.distances import Geometry, Linearised, linearised
from gaga_adapter.molecules.metrics.evaluate import judge
from gaga_adapter.molecules.metrics.shape import gyration_eigenvalues

#: Shares of the molecules, the higher the better.
SHARES = (
    "atom_stability",
    "molecule_stability",
    "validity",
    "uniqueness",
    "connected",
    "stable_and_new",
    "plausible",
)
#: Loss of a figure that does not count. Those of `FORMS` are shares of the held-out figure.
MARGINS: dict[str, float] = {
    **dict.fromkeys(SHARES, SHARE_MARGIN),
    **FORM_MARGINS,
    "W1 v_x": 0.02,
    "W1 anisotropy": 0.006,
    "W1 bond_lengths": 0.0015,
    "W1 bond_angles": 0.15,
    "W1 elements": 0.05,
    "W1 rings": 0.05,
    "W1 ring_sizes": 0.05,
    "strain": 0.05,
}
FEWEST_CHUNKS = 8  # from which on the sums over chunks give an error of their own

Figures = Mapping[str, Linearised | None]


# -- the figures of one row ------------------------------------------------------------------------


def measured(molecules: MoleculeSet, held_out: HeldOut) -> dict[str, Linearised | None]:
    """All figures of a set of molecules but the plausible share and the strain.

    Those of `FORMS` are deviations from the held-out figure.
    """
    verdicts = judge(molecules)
    new = np.array([s is not None and s not in held_out.smiles for s in verdicts.smiles])
    whole = [connected(bonds, part.n_atoms) for part, bonds in batches_with_bonds(molecules)]
    n_data = len(held_out.molecules)
    figures: dict[str, Linearised | None] = {
        "atom_stability": share(verdicts.n_stable, verdicts.n_atoms, n_data),
        "molecule_stability": share(verdicts.stable, np.ones(len(molecules)), n_data),
        "validity": share(verdicts.valid, np.ones(len(molecules)), n_data),
        "uniqueness": distinct(verdicts.smiles, n_data),
        "connected": share(np.concatenate(whole), np.ones(len(molecules)), n_data),
        "stable_and_new": share(verdicts.stable & new, np.ones(len(molecules)), n_data),
        "novelty": novelty(verdicts.smiles, new, n_data),
    }
    figures |= forms(molecules, held_out.molecules)
    geometry = Geometry.of(molecules)
    for name, part in linearised(geometry, held_out.geometry).items():
        figures[f"W1 {name}"] = part
    return figures


def share(x: Any, weights: Any, n_data: int = 2) -> Linearised:  # noqa: ANN401 - arrays
    """Ratio of two sums over molecules (M,), which does not depend on held-out molecules."""
    x, w = np.asarray(x, np.float64), np.asarray(weights, np.float64)
    ratio = x.sum() / w.sum()
    return Linearised(float(ratio), (x - ratio * w) / w.sum(), np.zeros(n_data))


def distinct(smiles: tuple[str | None, ...], n_data: int = 2) -> Linearised | None:
    """Share of distinct SMILES among the known ones, as the jackknife moves it."""
    known = np.array([one is not None for one in smiles])
    if known.sum() < 2:
        return None
    names, place, counts = np.unique(
        [one or "" for one in smiles], return_inverse=True, return_counts=True
    )
    once = known * (counts[place] == 1)
    draws = known.sum()
    adds = known * (once - once.sum() / draws) / (draws - 1)
    return Linearised(float((names != "").sum() / draws), adds, np.zeros(n_data))


def novelty(
    smiles: tuple[str | None, ...], new: NDArray[np.bool_], n_data: int = 2
) -> Linearised | None:
    """Share of the new ones among the distinct SMILES; it is shown and not compared."""
    places = {one: place for place, one in reversed(list(enumerate(smiles))) if one is not None}
    first = np.zeros(len(smiles))
    first[list(places.values())] = 1
    return share(first * new, first, n_data) if len(places) > 1 else None


def forms(molecules: MoleculeSet, data: MoleculeSet) -> dict[str, Linearised | None]:
    """Deviations of v_x, its spread and anisotropy from held-out molecules of the same sizes."""
    (v_x, longest, sizes), (v_x_data, longest_data, sizes_data) = map(_form, (molecules, data))
    mean = deviation(v_x, sizes, v_x_data, sizes_data)
    centre = v_x_data.mean()
    square = deviation(
        (v_x - centre - mean.value) ** 2, sizes, (v_x_data - centre) ** 2, sizes_data
    )
    variance = float(((v_x_data - centre) ** 2).mean())
    spread = math.sqrt(max(variance + square.value, 1e-12))
    own = ((v_x_data - centre) ** 2 - variance) / len(v_x_data)
    of_data = square.held_out / (2 * spread) + own * (0.5 / spread - 0.5 / math.sqrt(variance))
    return {
        "v_x": mean,
        "v_x_spread": Linearised(
            spread - math.sqrt(variance), square.generated / (2 * spread), of_data
        ),
        "anisotropy": deviation(longest, sizes, longest_data, sizes_data),
    }


def _form(molecules: MoleculeSet) -> tuple[NDArray[np.float64], ...]:
    """v_x, anisotropy and size; a single atom, which has no form, counts as 0."""
    total = np.nan_to_num(gyration_eigenvalues(molecules)).sum(axis=1)
    largest = np.nan_to_num(gyration_eigenvalues(molecules)[:, 2])
    longest = np.divide(largest, total, out=np.zeros_like(total), where=total > 0)
    return total / 3, longest, molecules.n_atoms.astype(np.float64)


def deviation(
    ours: NDArray[np.float64],
    sizes: NDArray[np.float64],
    data: NDArray[np.float64],
    sizes_of_data: NDArray[np.float64],
) -> Linearised:
    """Mean of values (M,) less what held-out molecules (H,) of the same sizes have."""
    middle, width = sizes_of_data.mean(), sizes_of_data.std() or 1.0

    def powers(n: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.stack([((n - middle) / width) ** k for k in range(3)], axis=1)

    inverse = np.linalg.pinv(powers(sizes_of_data).T @ powers(sizes_of_data))
    slopes = inverse @ powers(sizes_of_data).T @ data
    left = ours - powers(sizes) @ slopes
    rest = data - powers(sizes_of_data) @ slopes
    of_data = -(powers(sizes_of_data) @ (inverse @ powers(sizes).mean(axis=0))) * rest
    return Linearised(float(left.mean()), (left - left.mean()) / len(left), of_data)


def median(values: NDArray[np.float64]) -> Linearised | None:
    """Median of those of M values that are no NaN.

    It moves by `(1/2 - [x <= median]) / f` a draw, with the density f there from the share of the
    values that lie between the 40th and the 60th percentile (Serfling 1980, section 2.5).
    """
    known = np.isfinite(values)
    m = int(known.sum())
    if m < 10:
        return None
    low, middle, high = np.quantile(values[known], [0.4, 0.5, 0.6])
    above = np.where(known, np.where(values > middle, 0.5, -0.5), 0.0)
    adds = known * (above - above.sum() / m) * (high - low) / (0.2 * m)
    return Linearised(float(middle), adds, np.zeros(2))


# -- one figure of two rows ------------------------------------------------------------------------


@dataclass(frozen=True)
class Difference:
    """A linear combination of a figure in two rows, and its error."""

    value: float
    error: float


def combined(ours: Linearised, theirs: Linearised, factor: float, chunk: int) -> Difference:
    """`ours + factor * theirs` of rows whose k-th molecules are pairs, in chunks of this many."""
    if len(ours.generated) != len(theirs.generated):
        raise ValueError(f"{len(ours.generated)} and {len(theirs.generated)} are no pairs")
    adds = ours.generated + factor * theirs.generated
    held_out = ours.held_out + factor * theirs.held_out
    own = _error(adds)
    sums = np.add.reduceat(adds, np.arange(0, len(adds), chunk))
    if len(sums) >= FEWEST_CHUNKS:
        wider = stats.t.ppf(1 - LEVEL, len(sums) - 1) / NormalDist().inv_cdf(1 - LEVEL)
        own = max(own, wider * _error(sums))
    return Difference(ours.value + factor * theirs.value, math.hypot(own, _error(held_out)))


def _error(adds: NDArray[np.float64]) -> float:
    n = len(adds)
    return math.sqrt(n / (n - 1) * float(adds @ adds)) if n > 1 else 0.0


def compared(
    name: str,
    ours: Linearised | None,
    theirs: Linearised | None,
    data: float,
    chunk: int,
    superior_by: float | None = None,
) -> dict[str, Any]:
    """The comparison of one figure.

    Args:
        name: A key of `MARGINS`.
        ours: The figure of the row that is judged.
        theirs: That of its rival.
        data: The held-out figure, for those of `FORMS`.
        chunk: Molecules of one seed.
        superior_by: A gain that is to be shown, in place of a margin that is allowed.
    """
    margin = MARGINS[name] * (data if name in FORMS else 1.0)
    if superior_by is not None:
        margin = -superior_by
    if ours is None or theirs is None:
        verdict = "worse" if theirs is not None else "not compared"
        empty = dict.fromkeys(("gain", "std_error", "z", "needs"))
        return {"margin": margin, "verdict": verdict, **empty}
    apart = combined(ours, theirs, -1.0, chunk)
    if name in FORMS:
        around = combined(ours, theirs, 1.0, chunk)
        values, errors = [apart.value, around.value], [apart.error, around.error]
        sides = [[-value for value in values], values]
        found = judged_sides(sides, [errors] * 2, margin)
    else:
        sign = 1.0 if name in SHARES else -1.0
        found = judged_sides([[sign * apart.value]], [[apart.error]], margin)
    del found["sides"]
    return found


def non_inferior(
    ours: Figures, theirs: Figures, data: Mapping[str, float], chunk: int
) -> dict[str, Any]:
    """The comparison of all figures that both rows have, or that only the rival has."""
    figures = {
        name: compared(name, ours[name], theirs[name], data.get(name, 1.0), chunk)
        for name in MARGINS
        if name in ours and name in theirs
    }
    return summary(figures)


def superior(
    ours: Figures, theirs: Figures, name: str, by: float, chunk: int, of: float = 1.0
) -> dict[str, Any]:
    """Whether a share is shown to exceed the rival's, times `of`, by more than `by`."""
    one, other = ours[name], theirs[name]
    assert one is not None
    assert other is not None
    scaled = Linearised(of * other.value, of * other.generated, of * other.held_out)
    found = compared(name, one, scaled, 1.0, chunk, superior_by=by)
    return found | {"verdict": _shown(found), "needs": None}


def within(ours: Figures, name: str, data: float, chunk: int) -> dict[str, Any]:
    """Whether a figure of the form is shown to be within its margin of the held-out one."""
    figure = ours[name]
    assert figure is not None
    margin = MARGINS[name] * data
    apart = combined(figure, figure, 0.0, chunk)
    found = judged_sides([[-apart.value], [apart.value]], [[apart.error]] * 2, margin)
    del found["sides"]
    return found | {"verdict": _shown(found), "deviation": apart.value / data}


def _shown(found: dict[str, Any]) -> str:
    return "shown" if found["verdict"] == "no worse" else "not shown"
