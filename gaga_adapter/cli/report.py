"""`gaga report`: one html page of what was fitted, how Gaussian it is and what that saves."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import torch
import typer

from gaga_adapter.cli import options
from gaga_adapter.cli.console import Json, print_json, progress_bar, quiet_loading, say
from gaga_adapter.distributed import Progress
from gaga_adapter.errors import DataError, UnsupportedModelError
from gaga_adapter.layout import AtomLayout, DenseLayout, MoleculeLayout, TokenLayout
from gaga_adapter.sampling import DEFAULT_STEPS
from gaga_adapter.stats import CONFIG_NAME, GAGAStats
from gaga_adapter.streaming import collect

if TYPE_CHECKING:
    from gaga_adapter.report.facts import Samples
    from gaga_adapter.report.histograms import HeldOut


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
    parsing: options.Parsing,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    as_json: Json = False,
) -> None:
    """Write one html page: curve, t*, savings, data, molecules.

    The page is one file that loads nothing from the network. The numbers of
    its plots and tables are in it as json; metrics have error bars.

      gaga report stats/ --out report.html
      gaga report qm9 --data qm9:test --model qm9 --out report.html
    """
    from gaga_adapter.molecules.formats import read_molecules
    from gaga_adapter.report.facts import Samples, report_facts
    from gaga_adapter.report.judges import verdicts
    from gaga_adapter.report.page import write_report

    options.require_one_document(out, as_json)
    fitted = GAGAStats.from_pretrained(stats)
    if criteria is not None and data is None and criteria != "none":
        raise DataError(f"--criteria {criteria} given without --data. Pass data to judge.")
    with progress_bar() as progress:
        held_out = None if data is None else _held_out(fitted, data, parsing, items, seed, progress)
        answers = {}
        if held_out is not None:
            names = _names(criteria, fitted)
            judges = [
                options.make_criterion(name, model, options.torch_device(device)) for name in names
            ]
            answers = verdicts(fitted, held_out, judges, seed, progress)
        shown = None
        if samples is not None:
            molecules = read_molecules(
                samples,
                **parsing.arguments(),
                seed=seed,
                progress=progress,
            )
            shown = Samples(molecules, samples)
        elif model is not None:
            shown = _sample(fitted, model, n, steps, seed, device, progress)
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
    reading = options.Reading([data], channels=axis)
    if isinstance(layout, MoleculeLayout):
        reading = options.Reading(
            [data],
            ",".join(layout.elements),
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
