"""`gaga criteria`: how Gaussian are these data? Every criterion in one table and one picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from gaga_adapter.cli import options
from gaga_adapter.cli.console import Json, bold, out, print_json, progress_bar, say, table
from gaga_adapter.cli.show import t_star_table
from gaga_adapter.criteria import CRITERIA, CriterionCurve
from gaga_adapter.distributed import n_processes, process_index, started
from gaga_adapter.fitting import Comparison, compare
from gaga_adapter.noise.paths import starts
from gaga_adapter.selection import DEFAULT_TOLERANCES, LOWER_BOUNDS, Selection, noisiest


def _check_names(context: typer.Context, only: str | None) -> str | None:
    if only is not None and not context.resilient_parsing:
        for name in options.named_criteria(only, None):
            options.require(name, tuple(CRITERIA))
    return only


def _complete_names(incomplete: str) -> list[str]:
    *before, last = incomplete.split(",")
    return [",".join([*before, name]) for name in CRITERIA if name.startswith(last)]


@started()
def run(
    *,
    only: Annotated[
        str | None,
        typer.Option(
            "--criteria",
            help="Criteria to ask, with commas: cumulant,two_sample,ks_mi,certificate. By default "
            "all of them, the certificate only with --model.",
            callback=_check_names,
            autocompletion=_complete_names,
        ),
    ] = None,
    model: options.Model = None,
    reading: options.Reading,
    reference: options.ReferenceOption = "auto",
    covariance: options.CovarianceOption = "channel",
    tolerance: Annotated[
        float, typer.Option(help="Nats per item that may remain at t*.")
    ] = DEFAULT_TOLERANCES["nats"],
    alpha: Annotated[
        float, typer.Option(help="False-alarm rate on a whole curve of p-values.")
    ] = DEFAULT_TOLERANCES["p-value"],
    items: options.Items = 4000,
    samples: options.OldSamples = None,
    seed: options.Seed = 0,
    plot: Annotated[
        Path | None,
        typer.Option(help="Picture of all curves: .png, .svg or .pdf.", callback=options.picture),
    ] = None,
    device: options.Device = "auto",
    as_json: Json = False,
) -> None:
    """Ask every criterion how Gaussian data are, and where t* lies.

    Each gives a curve over the noise level, in nats per item or as p-values,
    and a t* with its 90 % bootstrap interval. Nothing is stored; use gaga fit
    with --criterion to keep one.

      gaga criteria qm9 --plot curves.png
      gaga criteria latents.npy --covariance element
    """
    where = options.torch_device(device)
    judges = [
        options.make_criterion(name, model, where) for name in options.named_criteria(only, model)
    ]
    with progress_bar() as progress:
        source = options.open_data(reading, seed, progress)
        options.check_covariance(source, covariance)
        comparison = compare(
            source.batches((process_index(), n_processes())),
            source.layout,
            judges,
            reference=reference,
            covariance=covariance,  # type: ignore[arg-type]  # a wrong one is refused by name
            tolerances={"nats": tolerance, "p-value": alpha},
            n_criterion=items,
            seed=seed,
            progress=source.with_total(progress),
            processes="own",
        )
    if process_index():
        return
    curves = {name: v.curve for name, v in comparison.verdicts.items() if v.curve is not None}
    chosen = {
        name: v.selection for name, v in comparison.verdicts.items() if v.selection is not None
    }
    if as_json:
        print_json(_as_dict(comparison, source))
    else:
        _print(comparison, source, curves, chosen)
    if not curves:
        raise typer.Exit(2)  # no criterion could judge these data; the table says why
    if plot is not None:
        from gaga_adapter.report.curves import save_curves

        reference = next(iter(curves.values())).reference
        title = f"{source.name}, {comparison.count:,} items, {reference} reference"
        save_curves(plot, curves, chosen, title)
        say(f"wrote {plot}")


def _as_dict(comparison: Comparison, source: options.Source) -> dict[str, Any]:
    verdicts = {}
    for name, verdict in comparison.verdicts.items():
        chosen = verdict.selection
        star: dict[str, Any] = dict.fromkeys(("log_snr_star", "interval", "tolerance", "t_star"))
        if chosen is not None:
            star = {
                "log_snr_star": chosen.log_snr_star,
                "interval": list(chosen.interval) if chosen.interval else None,
                "tolerance": chosen.tolerance,
                "t_star": t_star_table(chosen.log_snr_star),
            }
        curve = None if verdict.curve is None else verdict.curve.to_dict()
        verdicts[name] = {"curve": curve, **star, "reason": verdict.reason}
    return {
        "data": source.name,
        "count": comparison.count,
        "n_criterion": comparison.n_criterion,
        "criteria": verdicts,
    }


def _print(
    comparison: Comparison,
    source: options.Source,
    curves: Mapping[str, CriterionCurve],
    chosen: Mapping[str, Selection],
) -> None:
    rest = f", {comparison.count:,} items, {source.layout.describe()}; "
    rest += f"{comparison.n_criterion:,} judged"
    out.print(bold(source.name) + rest, soft_wrap=True)
    if curves:
        first = next(iter(curves.values()))
        out.print(f"against the {first.reference} reference; * counts as Gaussian")
        headings = (f"{name}\n{curve.unit}" for name, curve in curves.items())
        levels = table("", "log-SNR", *headings)
        for k, level in enumerate(first.log_snr):
            levels.add_row(
                f"{level:>7.2f}", *(_cell(c, chosen.get(name), k) for name, c in curves.items())
            )
        out.print(levels)
    if chosen:
        steps = table("", "t* of 1000 steps", *chosen)
        intervals = [selection.interval for selection in chosen.values()]
        steps.add_row("log-SNR*", *(f"{s.log_snr_star:.2f}" for s in chosen.values()))
        steps.add_row(
            "90 % interval", *("-" if i is None else f"{i[0]:.2f} to {i[1]:.2f}" for i in intervals)
        )
        steps.add_section()
        columns = [starts(selection.log_snr_star) for selection in chosen.values()]
        for row in zip(*columns, strict=True):
            steps.add_row(row[0].schedule, *(start.text for start in row))
        out.print(steps)
    for name, verdict in comparison.verdicts.items():
        out.print(f"{name}: {verdict.reason}", soft_wrap=True)
    bounds = {name: one for name, one in chosen.items() if name in LOWER_BOUNDS}
    if bounds:
        largest = noisiest(bounds)
        name, star = largest.curve.criterion, largest.log_snr_star
        out.print(
            f"largest lower bound: {name}, log-SNR* {star:.3g}. {largest.meaning}", soft_wrap=True
        )


def _cell(curve: CriterionCurve, chosen: Selection | None, k: int) -> str:
    star = " *" if chosen and curve.log_snr[k] <= chosen.log_snr_star + 1e-9 else "  "
    if curve.value[k] != curve.value[k]:
        return "not computable" + star
    if curve.unit == "p-value":
        return f"{curve.value[k]:.3g}{star}"
    return f"{curve.value[k]:.3f} ± {curve.std_error[k]:.3f}{star}"
