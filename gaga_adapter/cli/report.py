"""`gaga report`: one html page of what was fitted, how Gaussian it is and what that saves."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch
import typer

from gaga_adapter.cli import options
from gaga_adapter.cli.console import Json, print_json, progress_bar, quiet_loading, say
from gaga_adapter.cli.judging import Judging, in_shares
from gaga_adapter.distributed import Progress
from gaga_adapter.errors import (
    DataError,
    MissingExtraError,
    UnsupportedModelError,
    WriteError,
    warn,
)
from gaga_adapter.files.atomic import is_stream
from gaga_adapter.layout import AtomLayout, DenseLayout, MoleculeLayout, TokenLayout
from gaga_adapter.sampling import DEFAULT_STEPS
from gaga_adapter.stats import CONFIG_NAME, GAGAStats
from gaga_adapter.streaming import collect

if TYPE_CHECKING:
    from gaga_adapter.molecules.data import MoleculeSet
    from gaga_adapter.report.facts import Samples
    from gaga_adapter.report.histograms import HeldOut

_POSEBUSTERS_ITEMS = 200  # most molecules that it checks; each takes seconds


def run(
    *,
    out: Annotated[
        Path,
        typer.Option(
            help="Page to write, .html; - is standard output.", callback=options.file_or_stdout
        ),
    ],
    stats: Annotated[str, typer.Argument(help="Artefact folder, hub id, or qm9.")] = "qm9",
    data: Annotated[
        str | None,
        typer.Option(
            help="Data to compare the start with, best held-out: qm9:test, a file of molecules, "
            "or one .npy."
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Sample molecules of this pipeline from t*: folder, hub id or qm9."),
    ] = None,
    samples: Annotated[
        str | None, typer.Option(help="Show these molecules instead of sampling: a file.")
    ] = None,
    criteria: Annotated[
        str | None,
        typer.Option(
            help="Draw these curves of --data too, such as cumulant,ks_mi,certificate (needs "
            "--model); cumulant by default, no curve for none."
        ),
    ] = None,
    items: Annotated[int, typer.Option(help="Number of items of --data to use.", min=2)] = 4000,
    n: Annotated[int, typer.Option("-n", "--number", help="Molecules to sample.", min=1)] = 16,
    steps: Annotated[
        int, typer.Option(help="Steps of the full trajectory.", min=1)
    ] = DEFAULT_STEPS,
    posebusters: Annotated[
        bool,
        typer.Option("--posebusters", help="Run PoseBusters' checks on up to 200 molecules."),
    ] = False,
    judging: Judging,
    parsing: options.Parsing,
    skip_others: Annotated[
        bool,
        typer.Option(
            "--skip-others",
            help="Leave molecules of --data out that have elements which the statistics lack, and "
            "count them.",
        ),
    ] = False,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    as_json: Json = False,
) -> None:
    """Write one html page: curve, t*, savings, data, molecules.

    The page is one file that loads nothing from the network. It takes the place
    of a file of that name without asking. The numbers of its plots and tables
    are in it as json; metrics have error bars. With --fcd, --strain and
    --posebusters the molecules are judged further, those of --data beside them,
    all with bonds from distances.

      gaga report stats/ --out report.html
      gaga report qm9 --data qm9:test --model qm9 --out report.html
    """
    from gaga_adapter.molecules.metrics.plausibility import has_posebusters
    from gaga_adapter.report.facts import report_facts
    from gaga_adapter.report.judges import verdicts
    from gaga_adapter.report.page import write_report

    if out.suffix.lower() not in ("", ".html", ".htm") and not is_stream(out):
        raise WriteError(
            f"cannot write {out}: a report is a page of HTML. Name it {out.with_suffix('.html')}."
        )
    options.require_one_document(out, as_json)
    judging.check(data, "--data")
    if posebusters and not has_posebusters():
        raise MissingExtraError("posebusters", "posebusters")
    if (posebusters or judging.fcd or judging.method) and samples is None and model is None:
        raise DataError("there are no molecules to judge. Pass --samples or --model.")
    fitted = GAGAStats.from_pretrained(stats)
    if skip_others and data is None:
        raise DataError("--skip-others is given and --data is not. Leave it out.")
    if criteria is not None and data is None and criteria != "none":
        raise DataError(f"--criteria {criteria} given without --data. Pass data to judge.")
    with progress_bar() as progress:
        held_out = None
        if data is not None:
            held_out = _held_out(fitted, data, parsing, skip_others, items, seed, progress)
        answers = {}
        if held_out is not None:
            names = _names(criteria, fitted)
            judges = [
                options.make_criterion(name, model, options.torch_device(device)) for name in names
            ]
            answers = verdicts(fitted, held_out, judges, seed, progress)
        shown = None
        if samples is not None:
            shown = _read(samples, parsing, seed, progress)
            _warn_of_elements(fitted, shown.molecules)
        elif model is not None:
            shown = _sample(fitted, model, n, steps, seed, device, progress)
        if shown is not None:
            further = _further(fitted, held_out, shown, judging, posebusters, seed, progress)
            shown = replace(shown, further=(*shown.further, *further))
        facts = report_facts(fitted, held_out, answers, shown, _date_written(stats), seed)
    write_report(out, facts)
    if as_json:
        print_json(facts.to_dict())
    say(f"wrote {out}")


def _names(criteria: str | None, stats: GAGAStats) -> list[str]:
    """Criteria that were asked for; otherwise the one that takes seconds, if it is a new one."""
    if criteria is None:
        stored = stats.selection.curve.criterion if stats.selection is not None else ""
        return [] if stored == "cumulant" else ["cumulant"]
    return [] if criteria == "none" else [name.strip() for name in criteria.split(",")]


def _held_out(
    stats: GAGAStats,
    data: str,
    parsing: options.Parsing,
    skip_others: bool,
    items: int,
    seed: int,
    progress: Progress,
) -> HeldOut:
    """A uniform sample of the data, in the layout of the statistics."""
    from gaga_adapter.report.histograms import HeldOut

    layout = stats.layout
    if isinstance(layout, AtomLayout | TokenLayout):
        raise DataError(
            "these statistics are of a model's own latents, which no file holds. Encode the data "
            "and call gaga_adapter.report.page.report in Python."
        )
    if isinstance(layout, DenseLayout) != data.lower().endswith(".npy"):
        kind = "one .npy file" if isinstance(layout, DenseLayout) else "molecules"
        raise DataError(
            f"--data {data} does not fit statistics of {layout.describe()}. Pass {kind}."
        )
    axis = layout.channels if isinstance(layout, DenseLayout) else None
    reading = options.Reading([data], channels=axis, skip_others=skip_others)
    if isinstance(layout, MoleculeLayout):
        reading = options.Reading(
            [data],
            ",".join(layout.elements),
            skip_others,
            **parsing.arguments(),
            position_scale=layout.position_scale,
            onehot_scale=layout.onehot_scale,
            charge_scale=layout.charge_scale,
        )
    source = options.open_data(reading, seed, progress)
    collected = collect(
        source.batches(),
        source.layout,
        items,
        reference="unit",
        generator=torch.Generator().manual_seed(seed),
        progress=lambda what, done, _: progress("reading", done, source.total),
        sharing="alone",
    )
    assert collected is not None
    return HeldOut(source.name, collected.x, collected.mask)


def _read(samples: str, parsing: options.Parsing, seed: int, progress: Progress) -> Samples:
    """Molecules of a file, and their valencies where it states bonds."""
    from gaga_adapter.molecules.data import MoleculeSet
    from gaga_adapter.molecules.formats import stream_molecules
    from gaga_adapter.molecules.metrics.stated import read_stated
    from gaga_adapter.molecules.metrics.valencies import summarised
    from gaga_adapter.report.facts import Samples
    from gaga_adapter.report.quality import valency_rows

    stream = stream_molecules(samples, **parsing.arguments(), seed=seed, progress=progress)
    if stream.states_bonds:
        stream.keep()
    molecules = MoleculeSet.concatenate(list(stream), stream.name)
    rows = []
    if stream.states_bonds:
        found = [one for one in read_stated(stream, progress=progress).verdicts if one is not None]
        rows = valency_rows(summarised(found)) if found else []
    return Samples(molecules, samples, further=tuple(rows))


def _warn_of_elements(stats: GAGAStats, molecules: MoleculeSet) -> None:
    """Say that samples have elements that the data behind the statistics do not have."""
    from gaga_adapter.elements import SYMBOLS

    if not isinstance(stats.layout, MoleculeLayout):
        return
    kinds, n_atoms = np.unique(molecules.atomic_numbers, return_counts=True)
    foreign = {
        SYMBOLS[z]: n
        for z, n in zip(kinds.tolist(), n_atoms.tolist(), strict=True)
        if z and SYMBOLS[z] not in stats.layout.elements
    }
    if foreign:
        warn(
            f"{sum(foreign.values()):,} atoms of the samples are {', '.join(foreign)}, and the "
            f"statistics are of {', '.join(stats.layout.elements)}: the samples are of other data. "
            "Pass the statistics of theirs, or other --samples."
        )


def _further(
    stats: GAGAStats,
    held_out: HeldOut | None,
    samples: Samples,
    judging: Judging,
    posebusters: bool,
    seed: int,
    progress: Progress,
) -> list[dict[str, Any]]:
    """Rows of the figures that somebody asked for."""
    from gaga_adapter.molecules.encoding import decode
    from gaga_adapter.molecules.metrics.chemistry import to_smiles
    from gaga_adapter.molecules.metrics.fcd import fcd
    from gaga_adapter.molecules.metrics.plausibility import answers, plausibility
    from gaga_adapter.report.quality import fcd_rows, plausibility_rows, strain_rows

    sets = [samples.molecules]
    if isinstance(stats.layout, MoleculeLayout) and held_out is not None:
        assert held_out.mask is not None
        sets.append(replace(decode(held_out.x, held_out.mask, stats.layout), name=held_out.name))
    rows = []
    if posebusters:
        found: list[Any] = []
        for one in sets:
            some = list(range(min(len(one), _POSEBUSTERS_ITEMS)))
            report = partial(_tell, progress, f"PoseBusters on {one.name}", len(some))
            found.append(plausibility(in_shares(one, None, some, answers, report)))
        rows += plausibility_rows(found[0], found[1] if len(found) > 1 else None)
    if judging.method:
        found = [judging.strain_of(one, None, seed, progress) for one in sets]
        rows += strain_rows(found[0], found[1] if len(found) > 1 else None)
    if judging.fcd and len(sets) > 1:
        ours, theirs = map(to_smiles, sets)
        generator = torch.Generator().manual_seed(seed)
        rows += fcd_rows(fcd(ours, theirs, generator, progress=progress))
    return rows


def _tell(progress: Progress, what: str, total: int, done: int) -> None:
    progress(what, done, total)


def _sample(
    stats: GAGAStats, model: str, n: int, steps: int, seed: int, device: str, progress: Progress
) -> Samples:
    from gaga_adapter.molecules.pipeline import MoleculePipeline
    from gaga_adapter.report.facts import Samples
    from gaga_adapter.scheduler import GAGAScheduler

    if not isinstance(stats.layout, MoleculeLayout):
        raise UnsupportedModelError(
            f"--model samples molecules; these statistics are of {stats.layout.describe()}. "
            "Leave it out."
        )
    quiet_loading()
    pipeline = MoleculePipeline.load(model)
    pipeline.scheduler = GAGAScheduler.from_pretrained(pipeline.scheduler, stats=stats)
    pipeline.to(options.torch_device(device))
    generator = torch.Generator().manual_seed(seed)
    done = pipeline(n, num_inference_steps=steps, generator=generator, progress=progress)
    source = f"Sampled from t* with the model {model}, DDPM in {steps} steps, seed {seed}"
    return Samples(done.molecules, source, done.network_calls)


def _date_written(stats: str) -> str | None:
    """The day a local artefact was written, UTC."""
    file = Path(stats) / CONFIG_NAME
    if not file.is_file():
        return None
    return f"{datetime.fromtimestamp(file.stat().st_mtime, timezone.utc):%Y-%m-%d}"
