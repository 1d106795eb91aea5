"""`gaga evaluate`: the quality of molecules, whoever made them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch
import typer

from gaga_adapter.cli import console, options
from gaga_adapter.cli.judging import Judging, in_shares, refuse_values_of_flags
from gaga_adapter.distributed import Processes, Progress, started
from gaga_adapter.elements import SYMBOLS
from gaga_adapter.errors import DataError, MissingExtraError, warn

if TYPE_CHECKING:
    from gaga_adapter.molecules.data import MoleculeSet
    from gaga_adapter.molecules.formats import MoleculeStream, Tally
    from gaga_adapter.molecules.metrics.distances import DistanceFigures
    from gaga_adapter.molecules.metrics.evaluate import MoleculeMetrics
    from gaga_adapter.molecules.metrics.fcd import FrechetFigures
    from gaga_adapter.molecules.metrics.plausibility import Plausibility
    from gaga_adapter.molecules.metrics.stated import Stated
    from gaga_adapter.molecules.metrics.strain import Strain
    from gaga_adapter.molecules.metrics.valencies import Valencies

#: Name of the rule behind EDM's figures, for tables and json.
_RULE = "bonds from distances, EDM"
_STATED, _DISTANCES = "stated", "from distances, EDM"  # where the graphs behind FCD come from
_UNITS = {"v_x": "angstrom²", "bond_lengths": "angstrom", "bond_angles": "degrees"}


@dataclass(frozen=True, eq=False)
class _Evaluation:
    """What is said about a set of molecules; None where it was not asked for or cannot be known."""

    molecules: MoleculeSet
    unknown: tuple[str, ...]
    n_not_judged: int
    tally: Tally
    metrics: MoleculeMetrics | None
    valencies: Valencies | None
    plausibility: Plausibility | None
    distances: DistanceFigures | None
    fcd: FrechetFigures | None
    graphs: str  # where those behind FCD come from
    strain: Strain | None
    strain_held_out: Strain | None
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
    judging: Judging,
    parsing: options.Parsing,
    seed: options.Seed = 0,
    as_json: console.Json = False,
) -> None:
    """Judge molecules: stability, validity, shape, distances.

    EDM's metrics, with standard errors; size and shape of the molecules;
    PoseBusters' checks where it is installed; with --against, Wasserstein
    distances from held-out molecules, beside what chance alone would give.
    EDM's rule takes bonds from distances and knows no charges: sound aromatic
    rings may count as unstable. Where a file states bonds, valencies are judged
    by these, too. Judge real molecules for comparison.

      gaga evaluate samples.sdf
      gaga evaluate samples.sdf --against qm9:test --fcd --strain
    """
    from gaga_adapter.molecules.formats import stream_molecules
    from gaga_adapter.molecules.metrics.bonds import known_elements
    from gaga_adapter.molecules.metrics.distances import distances
    from gaga_adapter.molecules.metrics.evaluate import evaluate
    from gaga_adapter.molecules.metrics.plausibility import MOST_ATOMS, has_posebusters
    from gaga_adapter.molecules.metrics.valencies import summarised
    from gaga_adapter.molecules.qm9.data import qm9_train_smiles

    refuse_values_of_flags(files)
    judging.check(against, "--against")
    if against is not None and any(_is_same(name, against) for name in files):
        warn(
            f"{against} is judged and compared with itself: the distances say nothing. Pass other "
            "molecules to --against, such as held-out data."
        )
    if posebusters and not has_posebusters():
        raise MissingExtraError("posebusters", "posebusters")
    checks_poses = has_posebusters() if posebusters is None else posebusters
    generator = torch.Generator().manual_seed(seed)
    with console.progress_bar() as progress:
        stream = stream_molecules(
            files,
            **parsing.arguments(),
            seed=seed,
            progress=progress,
        )
        if stream.states_bonds or checks_poses or judging.method:
            stream.keep()  # their bonds are read in a second pass
        held_out_stream = held_out = None
        if against is not None:
            progress(f"reading {against}", 0, None)
            held_out_stream = stream_molecules(
                against,
                # Those of the data are not ours to complete.
                hydrogens="remove" if parsing.hydrogens == "remove" else "keep",
                embed=parsing.embed,
                skip_bad=parsing.skip_bad,
                seed=seed,
                progress=progress,
            )
            if judging.method or judging.fcd:
                held_out_stream.keep()
            held_out = _read(held_out_stream, progress, f"reading {against}")
        molecules = _read(stream, progress, "reading")
        tally = stream.tally
        is_known = known_elements()[molecules.atomic_numbers]
        is_judged = is_known.all(axis=1)
        metrics, verdict, figures, n_large = None, None, None, 0
        stated = _stated(stream, progress) if stream.states_bonds else None
        verdicts = [] if stated is None else [one for one in stated.verdicts if one is not None]
        strained, strained_held_out, frechet, graphs = None, None, None, ""
        if is_judged.any():
            smiles = qm9_train_smiles(progress=progress) if novelty else None
            judged = molecules.subset(np.flatnonzero(is_judged))
            metrics = evaluate(judged, smiles, Processes.of_the_run(), progress)
        elif held_out is None and posebusters is False and not verdicts and not judging.method:
            raise DataError(f"{molecules.name}: no molecule has elements of known valences alone.")
        if checks_poses:
            order = torch.randperm(len(molecules), generator=generator)
            if posebusters is None:  # nobody has asked for a check that takes an hour
                n_atoms = torch.from_numpy(molecules.n_atoms)
                order = order[n_atoms[order] <= MOST_ATOMS]
                n_large = len(molecules) - len(order)
            rows = order[:posebusters_items].sort().values.tolist()
            if rows:
                verdict = _plausibility(molecules, stream, rows, progress)
        if judging.method:
            strained = judging.strain_of(molecules, stream, seed, progress)
        if held_out is not None and held_out_stream is not None:
            progress("distances", 0, None)
            figures = distances(molecules, held_out, generator)
            if judging.method:
                strained_held_out = judging.strain_of(held_out, held_out_stream, seed, progress)
            if judging.fcd:
                both = ((molecules, stream, stated), (held_out, held_out_stream, None))
                frechet, graphs = _fcd(both, seed, progress)
    if Processes.of_the_run().index:
        return  # the first process prints for all of them
    if n_large:
        console.say(
            f"PoseBusters: {n_large:,} of {len(molecules):,} molecules are left out: they have "
            f"more than {MOST_ATOMS} atoms and take a minute each. --posebusters checks all."
        )
    result = _Evaluation(
        molecules,
        tuple(SYMBOLS[z] for z in np.unique(molecules.atomic_numbers[~is_known])),
        int((~is_judged).sum()),
        tally,
        metrics,
        summarised(verdicts) if verdicts else None,
        verdict,
        figures,
        frechet,
        graphs,
        strained,
        strained_held_out,
        "" if held_out is None else held_out.name,
    )
    if as_json:
        console.print_json(_as_dict(result))
    else:
        _print(result)


def _is_same(name: str, other: str) -> bool:
    """Whether two names of sources are of the same one."""
    if name == other:
        return True
    there = os.path.exists(name) and os.path.exists(other)
    return there and os.path.samefile(name, other)


def _read(stream: MoleculeStream, progress: Progress, what: str) -> MoleculeSet:
    """All molecules of a stream."""
    from gaga_adapter.molecules.data import MoleculeSet

    parts = []
    for part in stream:
        parts.append(part)
        progress(what, stream.tally.n_molecules, stream.total)
    return MoleculeSet.concatenate(parts, stream.name)


def _stated(stream: MoleculeStream, progress: Progress) -> Stated:
    from gaga_adapter.molecules.metrics.stated import read_stated

    return read_stated(stream, Processes.of_the_run(), progress)


def _fcd(
    both: Sequence[tuple[MoleculeSet, MoleculeStream, Stated | None]],
    seed: int,
    progress: Progress,
) -> tuple[FrechetFigures, str]:
    """FCD of two sets, and where their graphs come from.

    These are the stated ones if both sets state the graph of every molecule. Otherwise both sets
    get theirs from distances, since a rule that finds other graphs than were meant would tell the
    sets apart.
    """
    from gaga_adapter.molecules.metrics.chemistry import to_smiles
    from gaga_adapter.molecules.metrics.fcd import fcd

    stated_smiles: list[tuple[str | None, ...] | None] = []
    for molecules, stream, stated in both:
        if stated is None and molecules.smiles is None and stream.states_bonds:
            stated = _stated(stream, progress)
        stated_smiles.append(molecules.smiles or (None if stated is None else stated.smiles))
    ours, theirs = stated_smiles
    graphs = _STATED
    if ours is None or theirs is None:
        graphs = _DISTANCES
        ours, theirs = (to_smiles(molecules) for molecules, _, _ in both)
    generator = torch.Generator().manual_seed(seed)
    return fcd(ours, theirs, generator, Processes.of_the_run(), progress), graphs


def _plausibility(
    molecules: MoleculeSet, stream: MoleculeStream, rows: list[int], progress: Progress
) -> Plausibility:
    """PoseBusters on some of the molecules, shared between the processes of the run."""
    from gaga_adapter.molecules.metrics.plausibility import answers, plausibility

    def report(done: int) -> None:
        progress("PoseBusters", done, len(rows))

    return plausibility(in_shares(molecules, stream, rows, answers, report))


def _as_dict(result: _Evaluation) -> dict[str, Any]:
    return {
        "data": result.molecules.name,
        **(result.metrics.to_dict() if result.metrics else {}),
        "valency_rule": _RULE,
        "stated_bonds": None if result.valencies is None else result.valencies.to_dict(),
        "n_read": len(result.molecules),
        "left_out": result.tally.n_malformed,
        "n_charged": result.tally.n_charged,
        "not_judged": {"n_molecules": result.n_not_judged, "elements": list(result.unknown)},
        "posebusters": None if result.plausibility is None else result.plausibility.to_dict(),
        "distances": None
        if result.distances is None
        else {"against": result.against, **result.distances.to_dict()},
        "fcd": None
        if result.fcd is None
        else {"against": result.against, "graphs": result.graphs, **result.fcd.to_dict()},
        "strain": None
        if result.strain is None
        else {
            **result.strain.to_dict(),
            "against": result.against or None,
            "held_out": result.strain_held_out and result.strain_held_out.to_dict(),
        },
    }


def _print(result: _Evaluation) -> None:
    if result.n_not_judged:
        console.say(
            f"not judged: {result.n_not_judged:,} of {len(result.molecules):,} molecules, which "
            f"have {', '.join(result.unknown)}: no valence or no bond length is known."
        )
    if result.valencies is not None and result.valencies.n_not_judged:
        console.say(
            f"not judged by stated bonds: {result.valencies.n_not_judged:,} molecules, which have "
            f"{', '.join(result.valencies.elements_not_judged)}: the table has no valency of these."
        )
    if result.tally.n_charged and result.metrics is not None:
        console.say(
            f"{result.tally.n_charged:,} molecules have formal charges in the file. EDM's valences "
            "are those of neutral atoms: charged ones count as unstable there."
        )
    if result.metrics is not None and result.valencies is not None:
        console.say(
            "two tables: the first takes bonds from distances, by EDM's table, which was made for "
            "QM9 and knows no charges or aromatic bonds; the second takes those that the file "
            "states."
        )
    if result.metrics is not None:
        title = f"{result.molecules.name}: {result.metrics.n_molecules:,} molecules"
        metrics = console.table(title, "figure", "value ± s.e.")
        for name, text in console.metric_texts(result.metrics).items():
            if name != "novelty %" or result.metrics.novelty is not None:  # it was not asked for
                metrics.add_row(name, text)
        metrics.caption = _RULE
        console.out.print(metrics)
    if (stated := result.valencies) is not None:
        title = f"{result.molecules.name}: {stated.n_molecules:,} molecules as stated"
        bonds = console.table(title, "figure", "value ± s.e.")
        for name in ("atom_stability", "molecule_stability", "validity", "connected"):
            bonds.add_row(f"{name.replace('_', ' ')} %", console.percent(getattr(stated, name)))
        bonds.caption = stated.rule
        console.out.print(bonds)
    if (verdict := result.plausibility) is not None:
        some, whole = verdict.n_molecules, len(result.molecules)
        of_all = "" if some == whole else f" of {whole:,}"
        title = f"PoseBusters: {some:,}{of_all} molecules"
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
        if figures.noise_floor is None:
            rows.caption = "the value by chance needs twice as many held-out molecules"
        console.out.print(rows)
    if (frechet := result.fcd) is not None:
        title = f"FCD from {frechet.n_held_out:,} molecules of {result.against}"
        rows = console.table(title, "molecules", "without SMILES", "FCD ± s.e.", "by chance alone")
        rows.add_row(
            f"{frechet.n_molecules:,}",
            f"{frechet.n_left_out:,}",
            console.figure(frechet.measured),
            console.figure(frechet.by_chance),
        )
        rows.caption = f"bonds {result.graphs}; few molecules raise an FCD, as chance shows"
        console.out.print(rows)
    if result.strain is not None:
        _print_strain(result.strain, result.strain_held_out, result.against)


def _print_strain(strain: Strain, held_out: Strain | None, against: str) -> None:
    columns = [strain] if held_out is None else [strain, held_out]
    headings = [f"{strain.n_molecules:,} molecules"]
    headings += [] if held_out is None else [f"{held_out.n_molecules:,} of {against}"]
    rows = console.table(f"strain, relaxed by {strain.method}", "figure", *headings)
    rows.add_row("median, kcal/mol an atom", *(console.figure(one.energy) for one in columns))
    rows.add_row("relaxed %", *(console.percent(one.relaxed) for one in columns))
    for reason in strain.n_not_relaxed:
        counts = [one.n_not_relaxed[reason] for one in columns]
        if any(counts):
            rows.add_row(reason, *(f"{count:,}" for count in counts))
    console.out.print(rows)
