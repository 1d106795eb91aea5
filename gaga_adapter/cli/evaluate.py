"""`gaga evaluate`: the quality of molecules, whoever made them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch
import typer

from gaga_adapter.cli import console, options
from gaga_adapter.distributed import Processes, Progress, started
from gaga_adapter.elements import SYMBOLS
from gaga_adapter.errors import DataError, MissingExtraError

if TYPE_CHECKING:
    from gaga_adapter.molecules.data import MoleculeSet
    from gaga_adapter.molecules.formats import MoleculeStream, Tally
    from gaga_adapter.molecules.metrics.distances import DistanceFigures
    from gaga_adapter.molecules.metrics.evaluate import MoleculeMetrics
    from gaga_adapter.molecules.metrics.plausibility import Plausibility

_UNITS = {"v_x": "angstrom²", "bond_lengths": "angstrom", "bond_angles": "degrees"}


@dataclass(frozen=True, eq=False)
class _Evaluation:
    """What is said about a set of molecules; None where it was not asked for or cannot be known."""

    molecules: MoleculeSet
    unknown: tuple[str, ...]
    n_not_judged: int
    tally: Tally
    metrics: MoleculeMetrics | None
    plausibility: Plausibility | None
    distances: DistanceFigures | None
    against: str


@started()
def run(
    *,
    files: Annotated[
        list[str],
        typer.Argument(
            help="Files of molecules (as gaga fit takes them), folders, qm9:test, or - for "
            "standard input."
        ),
    ],
    novelty: Annotated[
        bool, typer.Option(help="Compare with the SMILES of QM9's training split.")
    ] = False,
    against: Annotated[
        str | None,
        typer.Option(
            help="Distances from these molecules: qm9:test, or a file of held-out data, read with "
            "the same options (but --hydrogens add)."
        ),
    ] = None,
    posebusters: Annotated[
        bool | None,
        typer.Option(
            "--posebusters/--no-posebusters",
            help="Run PoseBusters' checks; by default where it is installed.",
            show_default=False,
        ),
    ] = None,
    posebusters_items: Annotated[
        int, typer.Option(help="Most molecules that PoseBusters checks, drawn at random.", min=1)
    ] = 200,
    posebusters_samples: Annotated[
        str | None, options.renamed_option("--posebusters-samples", "--posebusters-items")
    ] = None,
    parsing: options.Parsing,
    seed: options.Seed = 0,
    as_json: console.Json = False,
) -> None:
    """Judge molecules: stability, validity, shape, distances.

    EDM's metrics, with standard errors; size and shape of the molecules;
    PoseBusters' checks where it is installed; with --against, Wasserstein
    distances from held-out molecules, beside what chance alone would give.
    EDM's rule takes bonds from distances, also where a file states them: sound
    aromatic rings may count as unstable. Judge real molecules for comparison.

      gaga evaluate samples.sdf
      gaga evaluate samples.sdf --against qm9:test --novelty --json
    """
    from gaga_adapter.molecules.data import MoleculeSet
    from gaga_adapter.molecules.formats import read_molecules, stream_molecules
    from gaga_adapter.molecules.metrics.bonds import known_elements
    from gaga_adapter.molecules.metrics.distances import distances
    from gaga_adapter.molecules.metrics.evaluate import evaluate
    from gaga_adapter.molecules.metrics.plausibility import MOST_ATOMS, has_posebusters
    from gaga_adapter.molecules.qm9.data import qm9_train_smiles

    if posebusters and not has_posebusters():
        raise MissingExtraError("posebusters", "posebusters")
    generator = torch.Generator().manual_seed(seed)
    with console.progress_bar() as progress:
        stream = stream_molecules(
            files,
            **parsing.arguments(),
            seed=seed,
            progress=progress,
        )
        if posebusters or (posebusters is None and has_posebusters()):
            stream.keep()  # their bonds are read in a second pass
        held_out = None
        if against is not None:
            progress(f"reading {against}", 0, None)
            held_out = read_molecules(
                against,
                # Those of the data are not ours to complete.
                hydrogens="remove" if parsing.hydrogens == "remove" else "keep",
                embed=parsing.embed,
                skip_bad=parsing.skip_bad,
                seed=seed,
                progress=progress,
            )
        parts = []
        for part in stream:
            parts.append(part)
            progress("reading", stream.tally.n_molecules, stream.total)
        molecules = MoleculeSet.concatenate(parts, stream.name)
        tally = stream.tally
        is_known = known_elements()[molecules.atomic_numbers]
        is_judged = is_known.all(axis=1)
        metrics, verdict, figures, n_large = None, None, None, 0
        if is_judged.any():
            smiles = qm9_train_smiles(progress=progress) if novelty else None
            judged = molecules.subset(np.flatnonzero(is_judged))
            metrics = evaluate(judged, smiles, Processes.of_the_run(), progress)
        elif held_out is None and posebusters is False:
            raise DataError(f"{molecules.name}: no molecule has elements of known valences alone.")
        if posebusters or (posebusters is None and has_posebusters()):
            order = torch.randperm(len(molecules), generator=generator)
            if posebusters is None:  # nobody has asked for a check that takes an hour
                n_atoms = torch.from_numpy(molecules.n_atoms)
                order = order[n_atoms[order] <= MOST_ATOMS]
                n_large = len(molecules) - len(order)
            rows = order[:posebusters_items].sort().values.tolist()
            if rows:
                verdict = _plausibility(molecules, stream, rows, progress)
        if held_out is not None:
            progress("distances", 0, None)
            figures = distances(molecules, held_out, generator)
    if Processes.of_the_run().index:
        return  # the first process prints for all of them
    if n_large:
        console.say(
            f"PoseBusters: {n_large:,} of {len(molecules):,} molecules are left out: they have "
            f"more than {MOST_ATOMS} atoms and take a minute each. --posebusters checks all."
        )
    unknown = tuple(SYMBOLS[z] for z in np.unique(molecules.atomic_numbers[~is_known]))
    n_not_judged = int((~is_judged).sum())
    against = "" if held_out is None else held_out.name
    result = _Evaluation(
        molecules, unknown, n_not_judged, tally, metrics, verdict, figures, against
    )
    if as_json:
        console.print_json(_as_dict(result))
    else:
        _print(result)


def _plausibility(
    molecules: MoleculeSet, stream: MoleculeStream, rows: list[int], progress: Progress
) -> Plausibility:
    """PoseBusters on some of the molecules, shared between the processes of the run."""
    from gaga_adapter.molecules.metrics.chemistry import to_rdkit
    from gaga_adapter.molecules.metrics.plausibility import answers, plausibility

    processes = Processes.of_the_run()
    mine = rows[processes.index :: processes.count]
    rows_here = set(mine)
    stated = {row: one.mol for row, one in enumerate(stream.records()) if row in rows_here}
    mols = [stated[row] or to_rdkit(molecules.subset([row]))[0] for row in mine]
    with processes.in_step(lambda done: progress("PoseBusters", done, len(rows))) as tick:
        results = answers(mols, tick)
    parts = [part for part in processes.everyones(results) if part]
    return plausibility({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})


def _as_dict(result: _Evaluation) -> dict[str, Any]:
    return {
        "data": result.molecules.name,
        **(result.metrics.to_dict() if result.metrics else {}),
        "n_read": len(result.molecules),
        "left_out": result.tally.n_malformed,
        "n_charged": result.tally.n_charged,
        "not_judged": {"n_molecules": result.n_not_judged, "elements": list(result.unknown)},
        "posebusters": None if result.plausibility is None else result.plausibility.to_dict(),
        "distances": None
        if result.distances is None
        else {"against": result.against, **result.distances.to_dict()},
    }


def _print(result: _Evaluation) -> None:
    if result.n_not_judged:
        console.say(
            f"not judged: {result.n_not_judged:,} of {len(result.molecules):,} molecules, which "
            f"have {', '.join(result.unknown)}: no valence or no bond length is known."
        )
    if result.tally.n_charged and result.metrics is not None:
        console.say(
            f"{result.tally.n_charged:,} molecules have formal charges in the file. EDM's valences "
            "are those of neutral atoms: charged ones count as unstable."
        )
    if result.metrics is not None:
        title = f"{result.molecules.name}: {result.metrics.n_molecules:,} molecules"
        metrics = console.table(title, "figure", "value ± s.e.")
        for name, text in console.metric_texts(result.metrics).items():
            metrics.add_row(name, text)
        console.out.print(metrics)
    if (verdict := result.plausibility) is not None:
        title = f"PoseBusters: {verdict.n_molecules:,} molecules"
        checks = console.table(title, "check", "passed % ± s.e.", "not computable")
        for name, check in verdict.checks.items():
            unknown = f"{check.n_not_computable:,}" if check.n_not_computable else ""
            checks.add_row(name.replace("_", " "), console.percent(check.passed), unknown)
        checks.add_section()
        checks.add_row("all checks", console.percent(verdict.passed), "")
        console.out.print(checks)
    if (figures := result.distances) is not None:
        title = f"distances from {figures.n_held_out:,} molecules of {result.against}"
        rows = console.table(title, "Wasserstein distance of", "value ± s.e.", "by chance alone")
        floor = {} if figures.noise_floor is None else vars(figures.noise_floor)
        for name, value in vars(figures.measured).items():
            unit = f", {_UNITS[name]}" if name in _UNITS else ""
            rows.add_row(
                name.replace("_", " ") + unit,
                console.figure(value),
                console.figure(floor.get(name)),
            )
        console.out.print(rows)
