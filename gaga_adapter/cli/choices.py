"""Options whose values have names: completed by the shell, refused at once with the nearest name.

Each list has its home in the library; it is asked for when a value is checked or completed.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from typing import Any

import typer

Names = Callable[[], Sequence[str]]


def one_of(names: Names, help: str, *flags: str, show_default: bool = True) -> Any:  # noqa: ANN401
    """An option that takes one of some names.

    Args:
        names: what is allowed.
        help: of the option.
        flags: of the option, where they are not its name.
        show_default: of the option.
    """

    def check(context: typer.Context, value: str | None) -> str | None:
        if value is not None and not context.resilient_parsing:
            require(value, names())
        return value

    return typer.Option(
        *flags,
        help=help,
        callback=check,
        autocompletion=completed(names),
        show_default=show_default,
    )


def require(value: str, names: Sequence[str]) -> None:
    """Refuse what is none of the names.

    Raises:
        typer.BadParameter: with the names, and the nearest one.
    """
    if value not in names:
        near = difflib.get_close_matches(value.lower(), names, n=1, cutoff=0.5)
        meant = f" Did you mean {near[0]}?" if near else ""
        raise typer.BadParameter(f"{value!r} is none of {', '.join(names)}.{meant}")


def completed(names: Names) -> Callable[[str], list[str]]:
    """The names that begin with what was typed; for options that take other values, too."""

    def complete(incomplete: str) -> list[str]:
        return [name for name in names() if name.startswith(incomplete)]

    return complete


def criteria() -> Sequence[str]:
    """Criteria by name."""
    from gaga_adapter.criteria import CRITERIA

    return tuple(CRITERIA)


def references() -> Sequence[str]:
    """References of molecules and of arrays; which of them the data have, is seen later."""
    from gaga_adapter.reference import DenseReference

    return tuple(dict.fromkeys((*molecule_references(), *DenseReference.kinds)))


def molecule_references() -> Sequence[str]:
    """References of molecules, the richest first."""
    from gaga_adapter.reference import MoleculeReference, ShapeReference

    return ("auto", *ShapeReference.kinds, *reversed(MoleculeReference.kinds))


def covariances() -> Sequence[str]:
    """Moments of dense data."""
    return ("channel", "element", "low_rank", "full")


def schedulers() -> Sequence[str]:
    """Samplers by name."""
    from gaga_adapter.sampling.solvers import SCHEDULERS

    return tuple(SCHEDULERS)


def spacings() -> Sequence[str]:
    """What becomes of a scheduler's timesteps."""
    from gaga_adapter.scheduler.options import SPACINGS

    return SPACINGS


def hydrogens() -> Sequence[str]:
    """What becomes of the hydrogens of a file."""
    return ("keep", "remove", "add")


def statistics() -> Sequence[str]:
    """Statistics that ship with the package."""
    from gaga_adapter.stats import EMBEDDED

    return tuple(EMBEDDED)


def pipelines() -> Sequence[str]:
    """Molecule pipelines that ship with the package."""
    from gaga_adapter.molecules.pipeline import EMBEDDED

    return tuple(EMBEDDED)


def devices() -> Sequence[str]:
    """Where a model may run."""
    return ("auto", "cpu", "cuda", "mps")
