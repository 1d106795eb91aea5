"""`gaga fit`: stream a data set once, write the artefact, print the curve and t*."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated

import torch
import typer

from gaga_adapter.cli import options
from gaga_adapter.cli.console import Json, print_json, progress_bar, say
from gaga_adapter.cli.show import document, print_stats, save_plot
from gaga_adapter.distributed import n_processes, process_index, started
from gaga_adapter.errors import DataError, StatsMismatchError
from gaga_adapter.layout import DenseLayout


@started()
def run(
    out: Annotated[
        Path, typer.Option(help="Folder for the artefact.", callback=options.writable_folder)
    ],
    reading: options.Reading,
    reference: options.ReferenceOption = "auto",
    covariance: options.CovarianceOption = "channel",
    criterion: options.CriterionOption = "two_sample",
    model: options.Model = None,
    tolerance: options.Tolerance = None,
    by_size: Annotated[
        bool, typer.Option("--by-size", help="Choose a t* for each molecule size, too.")
    ] = False,
    refine: options.Refine = None,
    refine_at: options.RefineAt = None,
    items: options.Items = 4000,
    samples: options.OldSamples = None,
    seed: options.Seed = 0,
    plot: options.Plot = None,
    device: options.Device = "auto",
    force: options.Force = False,
    as_json: Json = False,
) -> None:
    """Fit the statistics of a data set and choose t*.

    The data are read once, in the memory of one batch. A criterion then says
    how far the noised data are from the Gaussian start at each noise level; t*
    is the first level within the tolerance. Several processes share the pass.

      gaga fit molecules.sdf --elements auto --out stats/
      gaga fit molecules.sdf --out stats/ --refine tilt
      gaga fit latents.npy --covariance element --out stats/ --plot curve.png
      torchrun --nproc-per-node 4 -m gaga_adapter fit molecules.sdf --out stats/
    """
    from gaga_adapter.fitting import fit

    if refine_at is not None and not refine:
        raise DataError("--refine-at is given and --refine is not. Pass --refine tilt, too.")
    options.require_no_statistics(out, force)
    judge = options.make_criterion(criterion, model, options.torch_device(device))
    with progress_bar() as progress:
        source = options.open_data(reading, seed, progress)
        options.check_covariance(source, covariance)
        if by_size and isinstance(source.layout, DenseLayout):
            raise StatsMismatchError(
                f"--by-size is of molecules, and {source.name} is an array. Leave it out."
            )
        stats = fit(
            source.batches((process_index(), n_processes())),
            source.layout,
            criterion=judge,
            reference=reference,
            covariance=covariance,  # type: ignore[arg-type]  # a wrong one is refused by name
            tolerance=tolerance,
            n_criterion=items,
            by_size=by_size,
            seed=seed,
            provenance={
                # Names without their folders, for the artefact may be published.
                "data": "+".join(Path(name).name for name in reading.data),
                "date": datetime.now(timezone.utc).date().isoformat(),
                "hydrogens": reading.hydrogens,
                "embed": reading.embed,
                "skip_bad": reading.skip_bad,
                "skip_others": reading.skip_others,
                "torch_threads": torch.get_num_threads(),
            },
            progress=source.with_total(progress),
            processes="own",
            refine=refine or (),
            refine_at=refine_at,
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
