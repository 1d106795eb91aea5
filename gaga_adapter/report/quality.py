"""Figures of sampled molecules beside those of data, as the rows of one table.

A row has a name, a unit, and a pair of value and standard error for the samples and for the data.
`metric_rows` has what is always known; the other rows are of figures that somebody asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from gaga_adapter.molecules.metrics.estimate import Estimate
from gaga_adapter.molecules.metrics.evaluate import MoleculeMetrics, evaluate
from gaga_adapter.molecules.metrics.fcd import FrechetFigures
from gaga_adapter.molecules.metrics.plausibility import Plausibility
from gaga_adapter.molecules.metrics.strain import Strain
from gaga_adapter.molecules.metrics.valencies import Valencies

if TYPE_CHECKING:
    from gaga_adapter.molecules.data import MoleculeSet

Row = dict[str, Any]
_NONE = Estimate(0.0, 0.0)  # of an element that is not there


def metric_rows(samples: MoleculeSet, data: MoleculeSet | None) -> list[Row]:
    """EDM's figures and the form of the molecules."""
    metrics, truth = evaluate(samples), None if data is None else evaluate(data)
    shares = [found.shape.element_shares for found in (metrics, truth) if found is not None]
    elements = dict.fromkeys(element for one in shares for element in one)  # of either
    picks: list[tuple[str, str, Callable[[MoleculeMetrics], Any]]] = [
        ("atoms stable", "%", lambda m: m.atom_stability),
        ("molecules stable", "%", lambda m: m.molecule_stability),
        ("valid", "%", lambda m: m.validity),
        ("unique among valid", "%", lambda m: m.uniqueness),
        ("novel among distinct", "%", lambda m: m.novelty),
        ("connected", "%", lambda m: m.shape.connected),
        ("size v_x", "Å²", lambda m: m.shape.v_x),
        ("spread of v_x", "Å²", lambda m: m.shape.v_x_spread),
        ("anisotropy", "", lambda m: m.shape.anisotropy),
        *(
            (f"{element} atoms", "%", lambda m, e=element: m.shape.element_shares.get(e, _NONE))
            for element in elements
        ),
    ]
    rows = [_row(name, unit, pick(metrics), truth and pick(truth)) for name, unit, pick in picks]
    return [row for row in rows if row["samples"] is not None]


def valency_rows(samples: Valencies) -> list[Row]:
    """Valencies by the bonds that the file of the samples states."""
    picks = (
        ("atoms stable, bonds as stated", samples.atom_stability),
        ("molecules stable, bonds as stated", samples.molecule_stability),
        ("valid, bonds as stated", samples.validity),
    )
    return [_row(name, "%", estimate, None) for name, estimate in picks if estimate is not None]


def plausibility_rows(samples: Plausibility, data: Plausibility | None) -> list[Row]:
    """Each check of PoseBusters, and all of them."""
    theirs = {} if data is None else data.checks
    rows = [
        _row(
            f"PoseBusters: {name.replace('_', ' ')}",
            "%",
            check.passed,
            theirs[name].passed if name in theirs else None,
        )
        for name, check in samples.checks.items()
    ]
    return [*rows, _row("PoseBusters: all checks", "%", samples.passed, data and data.passed)]


def strain_rows(samples: Strain, data: Strain | None) -> list[Row]:
    """Median of the energy that a relaxation frees, and the share that could be relaxed."""
    name = f"strain by {samples.method}, median"
    rows = [_row(name, "kcal/mol an atom", samples.energy, data and data.energy)]
    rows += [_row(f"relaxed by {samples.method}", "%", samples.relaxed, data and data.relaxed)]
    return [row for row in rows if row["samples"] is not None]


def fcd_rows(figures: FrechetFigures) -> list[Row]:
    """FCD from the data, beside that of as many molecules of the data."""
    n, of = figures.n_molecules, figures.n_molecules + figures.n_left_out
    name = f"FCD of {n:,} of {of:,} molecules, and of as many of the data by chance"
    row = _row(name, "", figures.measured, figures.by_chance)
    return [] if row["samples"] is None else [row]


def _row(name: str, unit: str, samples: Any, data: Any) -> Row:  # noqa: ANN401
    """One row from two estimates that may be missing."""
    return {
        "name": name,
        "unit": unit,
        "samples": _figure(samples, unit),
        "data": _figure(data, unit),
    }


def _figure(estimate: Any, unit: str) -> tuple[float, float | None] | None:  # noqa: ANN401
    """Value and standard error of an estimate that may be missing."""
    if estimate is None:
        return None
    factor, error = 100 if unit == "%" else 1, estimate.std_error
    return estimate.value * factor, None if error is None else error * factor
