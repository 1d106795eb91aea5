"""What is judged of molecules beside EDM's figures, by `gaga evaluate` and by `gaga report`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray

from gaga_adapter.cli.options import one_of
from gaga_adapter.distributed import Processes, Progress, Tick
from gaga_adapter.errors import MissingExtraError

if TYPE_CHECKING:
    from gaga_adapter.molecules.data import MoleculeSet
    from gaga_adapter.molecules.formats import MoleculeStream
    from gaga_adapter.molecules.metrics.strain import Strain

#: Names that the library has too, for it is slow to load: a test says that they are the same.
METHODS = ("mmff94", "gfn2")
Answers = dict[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Judging:
    """Figures that take their time, so that they have to be asked for."""

    fcd: Annotated[
        bool,
        typer.Option(
            "--fcd",
            help="Fréchet ChemNet distance from the held-out molecules; needs the extra \\[fcd].",
        ),
    ] = False
    strain: Annotated[
        bool,
        typer.Option(
            "--strain", help="Energy an atom that a relaxation frees, beside that of the data."
        ),
    ] = False
    strain_by: Annotated[
        str | None,
        one_of(
            METHODS,
            "Relax in the force field mmff94 (if not given) or by GFN2-xTB, gfn2, which needs the "
            "extra \\[xtb]; implies --strain.",
        ),
    ] = None
    strain_items: Annotated[
        int | None,
        typer.Option(
            help="Most molecules that are relaxed, drawn at random: 1000 with mmff94 and 100 with "
            "gfn2 if not given.",
            min=1,
            show_default=False,
        ),
    ] = None

    @property
    def method(self) -> str | None:
        """Name of the energy behind the strain; None where nobody asks for it."""
        if not self.strain and self.strain_by is None:
            return None
        return self.strain_by or METHODS[0]

    def check(self, held_out: str | None, option: str) -> None:
        """Refuse, before the work, what cannot be computed; `option` names held-out molecules."""
        from gaga_adapter.molecules.metrics.fcd import has_fcd
        from gaga_adapter.molecules.metrics.strain import check_method

        if self.fcd and held_out is None:
            raise typer.BadParameter(
                f"it compares with held-out molecules. Pass {option} qm9:test, or a file of them.",
                param_hint="--fcd",
            )
        if self.fcd and not has_fcd():
            raise MissingExtraError("fcd", "fcd")
        if self.method is not None:
            check_method(self.method)
        elif self.strain_items is not None:
            raise typer.BadParameter(
                "nothing is relaxed. Pass --strain with it.", param_hint="--strain-items"
            )

    def strain_of(
        self,
        molecules: MoleculeSet,
        stream: MoleculeStream | None,
        seed: int,
        progress: Progress,
    ) -> Strain:
        """Strain of molecules drawn at random, shared between the processes of the run."""
        from gaga_adapter.molecules.metrics.strain import MOST_ITEMS, relaxations, summarised

        method = self.method or METHODS[0]
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(molecules), generator=generator)
        rows = order[: self.strain_items or MOST_ITEMS[method]].sort().values.tolist()
        found = in_shares(
            molecules,
            stream,
            rows,
            lambda mols, tick: relaxations(mols, method, tick),
            lambda done: progress(f"strain of {molecules.name}", done, len(rows)),
        )
        return summarised(found, method)


def refuse_values_of_flags(files: Sequence[str]) -> None:
    """Say what is meant where a value follows `--strain`, which takes none."""
    meant = {"xtb": "gfn2", "gfn2-xtb": "gfn2", "mmff": "mmff94", **{m: m for m in METHODS}}
    for name in files:
        if name.lower() in meant and not Path(name).exists():
            raise typer.BadParameter(
                f"there is no file {name}. Name the energy by --strain-by {meant[name.lower()]}.",
                param_hint="--strain",
            )


def in_shares(
    molecules: MoleculeSet,
    stream: MoleculeStream | None,
    rows: Sequence[int],
    work: Callable[[Iterable[Any], Tick], Answers],
    report: Tick,
) -> Answers:
    """Answers about the rdkit molecules at some rows, shared between the processes of the run.

    Bonds are those that the sources state, and else follow from distances, as they do without a
    stream. The answers come in the order of the processes.
    """
    from gaga_adapter.molecules.metrics.chemistry import to_rdkit
    from gaga_adapter.molecules.metrics.stated import mols_of

    processes = Processes.of_the_run()
    mine = rows[processes.index :: processes.count]
    mols: list[Any] = []
    if mine:
        mols = mols_of(molecules, stream, mine) if stream else to_rdkit(molecules.subset(mine))
    with processes.in_step(report) as tick:
        results = work(mols, tick)
    parts = [part for part in processes.everyones(results) if any(map(len, part.values()))]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
