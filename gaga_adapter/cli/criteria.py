"""`gaga criteria`: how Gaussian are these data? Every criterion on one table and one picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from gaga_adapter.cli import choices
from gaga_adapter.cli.console import Json, Quiet, out, print_json, progress_bar, say
from gaga_adapter.cli.data import (
    ChargeScale,
    Data,
    Elements,
    Embed,
    HydrogensOption,
    OnehotScale,
    PositionScale,
    SkipBad,
    Source,
    check_covariance,
    open_data,
)
from gaga_adapter.cli.judges import (
    NEEDS_MODEL,
    CovarianceOption,
    Model,
    ReferenceOption,
    make_criterion,
)
from gaga_adapter.cli.outputs import writable_file
from gaga_adapter.cli.show import t_star_table
from gaga_adapter.criteria import CRITERIA
from gaga_adapter.distributed import n_processes, process_index, started
from gaga_adapter.fitting import Comparison, compare
from gaga_adapter.selection import DEFAULT_TOLERANCES


def _check_names(context: typer.Context, only: str | None) -> str | None:
    if only is not None and not context.resilient_parsing:
        for name in _names(only):
            choices.require(name, choices.criteria())
    return only


def _complete_names(incomplete: str) -> list[str]:
    *before, last = incomplete.split(",")
    return [",".join([*before, name]) for name in choices.criteria() if name.startswith(last)]


def _names(only: str) -> list[str]:
    return [name.strip() for name in only.split(",")]


@started()
def run(
    data: Data,
    only: Annotated[
        str | None,
        typer.Option(
            "--criteria",
            help="Which, with commas: cumulant,two_sample,ks_mi,certificate. All if not given, "
            "the certificate with --model alone.",
            callback=_check_names,
            autocompletion=_complete_names,
        ),
    ] = None,
    model: Model = None,
    elements: Elements = "H,C,N,O,F",
    hydrogens: HydrogensOption = "keep",
    embed: Embed = False,
    skip_bad: SkipBad = False,
    position_scale: PositionScale = 1.0,
    onehot_scale: OnehotScale = 4.0,
    charge_scale: ChargeScale = None,
    reference: ReferenceOption = "auto",
    covariance: CovarianceOption = "channel",
    tolerance: Annotated[
        float, typer.Option(help="Nats per item that may remain at t*.")
    ] = DEFAULT_TOLERANCES["nats"],
    alpha: Annotated[
        float, typer.Option(help="False-alarm rate on a whole curve of p-values.")
    ] = DEFAULT_TOLERANCES["p-value"],
    samples: Annotated[int, typer.Option(help="Items that the criteria see.")] = 4000,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    plot: Annotated[
        Path | None,
        typer.Option(help="Picture of all curves: .png, .svg or .pdf.", callback=writable_file),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Ask every criterion how Gaussian data are, and where t* lies.

    Each gives a curve over the noise level, in nats per item or as p-values,
    and a t* with its 90 % bootstrap interval. Nothing is stored; to keep one,
    gaga fit --criterion.

      gaga criteria qm9 --plot curves.png
      gaga criteria latents.npy --covariance element
    """
    if plot is not None:
        from gaga_adapter.report.curves import check_picture

        check_picture(plot)
    names = _names(only) if only else list(CRITERIA)
    if only is None and model is None:
        names.remove(NEEDS_MODEL)
    judges = [make_criterion(name, model) for name in names]
    source = open_data(
        *(data, elements, position_scale, onehot_scale, charge_scale),
        *(hydrogens, embed, skip_bad, seed),
    )
    check_covariance(source, covariance)
    with progress_bar() as progress:
        found = compare(
            source.batches((process_index(), n_processes())),
            source.layout,
            judges,
            reference=reference,
            covariance=covariance,  # type: ignore[arg-type]  # a wrong one is refused by name
            tolerances={"nats": tolerance, "p-value": alpha},
            n_criterion=samples,
            seed=seed,
            progress=lambda what, done, total: progress(
                what, done, source.total if what == "moments" else total
            ),
            processes="own",
        )
    if process_index():
        return
    if as_json:
        print_json(_as_dict(found, source))
    else:
        _print(found, source)
    if all(verdict.curve is None for verdict in found.verdicts.values()):
        raise typer.Exit(2)  # no criterion could judge these data; the table says why
    if plot is not None:
        _save_plot(found, source, plot)
        say(f"wrote {plot}")


def _as_dict(found: Comparison, source: Source) -> dict[str, Any]:
    verdicts = {
        name: {
            "curve": None if verdict.curve is None else verdict.curve.to_dict(),
            "log_snr_star": None if chosen is None else chosen.log_snr_star,
            "interval": None if chosen is None or not chosen.interval else list(chosen.interval),
            "tolerance": None if chosen is None else chosen.tolerance,
            "reason": verdict.reason,
            "t_star": None if chosen is None else t_star_table(chosen.log_snr_star),
        }
        for name, verdict in found.verdicts.items()
        for chosen in [verdict.selection]
    }
    return {
        "data": source.name,
        "count": found.count,
        "n_criterion": found.n_criterion,
        "criteria": verdicts,
    }


def _print(found: Comparison, source: Source) -> None:
    from gaga_adapter.report.facts import starts

    out.print(
        f"[bold]{source.name}[/bold], {found.count:,} items, {source.layout.describe()}; "
        f"{found.n_criterion:,} judged",
        soft_wrap=True,
    )
    curves = {name: v.curve for name, v in found.verdicts.items() if v.curve is not None}
    if curves:
        reference = next(iter(curves.values())).reference
        out.print(f"against the {reference} reference; * counts as Gaussian")
        table = Table()
        table.add_column("log-SNR", justify="right")
        for name, curve in curves.items():
            table.add_column(f"{name}\n{curve.unit}", justify="right")
        for k, level in enumerate(next(iter(curves.values())).log_snr):
            table.add_row(f"{level:.2f}", *(_cell(found, name, k) for name in curves))
        out.print(table)
    table = Table()
    table.add_column("t* of 1000 steps")
    chosen = {name: v.selection for name, v in found.verdicts.items() if v.selection is not None}
    columns = [starts(selection.log_snr_star) for selection in chosen.values()]
    for name in chosen:
        table.add_column(name, justify="right")
    low_high = [selection.interval for selection in chosen.values()]
    table.add_row("log-SNR*", *(f"{s.log_snr_star:.2f}" for s in chosen.values()))
    table.add_row(
        "90 % interval", *("-" if i is None else f"{i[0]:.2f} to {i[1]:.2f}" for i in low_high)
    )
    table.add_section()
    for row in zip(*columns, strict=True):
        table.add_row(row[0].schedule, *(start.text for start in row))
    if chosen:
        out.print(table)
    for name, verdict in found.verdicts.items():
        out.print(f"{name}: {verdict.reason}", soft_wrap=True)


def _cell(found: Comparison, name: str, k: int) -> str:
    verdict = found.verdicts[name]
    assert verdict.curve is not None
    curve, chosen = verdict.curve, verdict.selection
    star = " *" if chosen and curve.log_snr[k] <= chosen.log_snr_star + 1e-9 else "  "
    if curve.value[k] != curve.value[k]:
        return "not computable" + star
    if curve.unit == "p-value":
        return f"{curve.value[k]:.3g}{star}"
    return f"{curve.value[k]:.3f} ± {curve.std_error[k]:.3f}{star}"


def _save_plot(found: Comparison, source: Source, plot: Path) -> None:
    from gaga_adapter.report.curves import save_curves

    curves = {name: v.curve for name, v in found.verdicts.items() if v.curve is not None}
    chosen = {name: v.selection for name, v in found.verdicts.items() if v.selection is not None}
    reference = next((c.reference for c in curves.values()), "")
    save_curves(
        plot, curves, chosen, f"{source.name}, {found.count:,} items, {reference} reference"
    )
