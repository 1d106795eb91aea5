"""`gaga fit`: stream a data set once, write the artefact, print the curve and t*."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated

import torch
import typer

from gaga_adapter.cli.console import Json, Quiet, print_json, progress_bar, say
from gaga_adapter.cli.data import (
    ChargeScale,
    Data,
    Elements,
    Embed,
    HydrogensOption,
    OnehotScale,
    PositionScale,
    SkipBad,
    check_covariance,
    open_data,
)
from gaga_adapter.cli.devices import Device, torch_device
from gaga_adapter.cli.judges import (
    CovarianceOption,
    CriterionOption,
    Model,
    ReferenceOption,
    Tolerance,
    make_criterion,
)
from gaga_adapter.cli.outputs import writable_folder
from gaga_adapter.cli.show import Plot, document, print_stats, save_plot
from gaga_adapter.distributed import n_processes, process_index, started


@started()
def run(
    data: Data,
    out: Annotated[Path, typer.Option(help="Folder for the artefact.", callback=writable_folder)],
    elements: Elements = "H,C,N,O,F",
    hydrogens: HydrogensOption = "keep",
    embed: Embed = False,
    skip_bad: SkipBad = False,
    position_scale: PositionScale = 1.0,
    onehot_scale: OnehotScale = 4.0,
    charge_scale: ChargeScale = None,
    reference: ReferenceOption = "auto",
    covariance: CovarianceOption = "channel",
    criterion: CriterionOption = "two_sample",
    model: Model = None,
    tolerance: Tolerance = None,
    by_size: Annotated[
        bool, typer.Option("--by-size", help="Choose a t* for each molecule size, too.")
    ] = False,
    samples: Annotated[
        int, typer.Option(help="Items that the criterion sees, drawn at random.")
    ] = 4000,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    plot: Plot = None,
    device: Device = "auto",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Fit the statistics of a data set and choose t*.

    The data are read once, in the memory of one batch. A criterion then says
    how far the noised data are from the Gaussian start at each noise level; t*
    is the first level within the tolerance. Several processes share the pass.

      gaga fit molecules.sdf --elements auto --out stats/
      gaga fit latents.npy --covariance element --out stats/ --plot curve.png
      torchrun --nproc-per-node 4 -m gaga_adapter fit molecules.sdf --out stats/
    """
    from gaga_adapter.fitting import fit

    if plot is not None:
        from gaga_adapter.report.curves import check_picture

        check_picture(plot)
    judge = make_criterion(criterion, model, torch_device(device))
    source = open_data(
        *(data, elements, position_scale, onehot_scale, charge_scale),
        *(hydrogens, embed, skip_bad, seed),
    )
    check_covariance(source, covariance)
    with progress_bar() as progress:
        stats = fit(
            source.batches((process_index(), n_processes())),
            source.layout,
            criterion=judge,
            reference=reference,
            covariance=covariance,  # type: ignore[arg-type]  # a wrong one is refused by name
            tolerance=tolerance,
            n_criterion=samples,
            by_size=by_size,
            seed=seed,
            provenance={
                "data": "+".join(Path(name).name for name in data),  # no folders: it is published
                "date": datetime.now(timezone.utc).date().isoformat(),
                "hydrogens": hydrogens,
                "embed": embed,
                "skip_bad": skip_bad,
                "torch_threads": torch.get_num_threads(),
            },
            progress=lambda what, done, total: progress(
                what, done, source.total if what == "moments" else total
            ),
            processes="own",
        )
    if process_index():
        return
    stats.save_pretrained(out)
    if as_json:
        print_json(document(stats))
    else:
        print_stats(stats)
    say(f"wrote {out}")
    if plot is not None:
        save_plot(stats, plot)
        say(f"wrote {plot}")
