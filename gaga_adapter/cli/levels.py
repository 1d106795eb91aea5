"""`gaga levels`: choose the noise levels of a few network calls for a model, and keep them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer

from gaga_adapter.cli import options
from gaga_adapter.cli.console import Json, out, print_json, progress_bar, quiet_loading, say, table
from gaga_adapter.errors import WriteError


def run(
    *,
    data: Annotated[
        list[str],
        typer.Argument(
            help="Held-out molecules that neither model nor statistics have seen: qm9:valid, or "
            "files as gaga fit takes them."
        ),
    ],
    calls: Annotated[
        list[int],
        typer.Option(
            "--calls",
            help="Number of network calls; give it several times for several.",
            min=2,
        ),
    ],
    model: options.Pipeline = "qm9",
    stats: Annotated[
        str,
        typer.Option(
            help="Statistics for the start at t*: folder, hub id, or qm9.",
            autocompletion=options.completion(options.STATISTICS),
        ),
    ] = "qm9",
    target: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Folder for statistics and levels, if not that of --stats.",
            callback=options.writable_folder,
        ),
    ] = None,
    t_star: options.TStar = None,
    reference: Annotated[
        str,
        options.one_of(
            options.MOLECULE_REFERENCES,
            "Start: auto (the default), shape, size, channel, paper or unit.",
        ),
    ] = "auto",
    method: Annotated[
        str,
        options.one_of(
            options.names_in("gaga_adapter.level_fitting.search", "METHODS"),
            "bound asks the model's errors alone, and is done soon; search compares samples on "
            "many levels with the data, for some minutes.",
        ),
    ] = "bound",
    items: Annotated[
        int, typer.Option(help="Number of molecules to use, drawn at random.", min=16)
    ] = 512,
    parsing: options.Parsing,
    skip_others: options.SkipOthers = False,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    force: options.Force = False,
    as_json: Json = False,
) -> None:
    """Choose the levels of a few network calls for a model.

    Nothing is trained. The levels, and how many of the last steps re-noise, are
    stored beside the statistics. A few-step scheduler that is wrapped with these
    takes them for this number of calls. The distance is that of samples from the
    molecules given, in units of that on even levels, measured on noise of its own.

      gaga levels qm9:valid --calls 8 --out stats/
      gaga levels held-out.sdf --model pipeline/ --stats stats/ --calls 6 --calls 8
    """
    from gaga_adapter.level_fitting import fit_levels
    from gaga_adapter.molecules.encoding import encode
    from gaga_adapter.molecules.formats import read_molecules
    from gaga_adapter.molecules.pipeline import MoleculePipeline
    from gaga_adapter.stats import EMBEDDED, GAGAStats

    fitted = GAGAStats.from_pretrained(stats)
    folder = target or Path(stats)
    if target is None and (not folder.is_dir() or stats in EMBEDDED):
        raise WriteError(
            f"{stats} is no folder of yours to keep levels in. Name one with --out, which gets the "
            "statistics, too."
        )
    if folder.resolve() != Path(stats).resolve():
        also = f"Pass --stats {folder} to add levels to these. "
        options.require_no_statistics(folder, force, also)
    quiet_loading()
    pipeline = MoleculePipeline.load(model)
    pipeline.to(options.torch_device(device))
    found = []
    with progress_bar() as progress:
        layout = pipeline.denoiser.layout
        molecules = read_molecules(
            data, layout.elements, **parsing.arguments(), seed=seed, progress=progress,
            skip_others=skip_others,
        )  # fmt: skip
        order = torch.randperm(len(molecules), generator=torch.Generator().manual_seed(seed))
        x, mask = encode(molecules.subset(order[:items].numpy()), layout)
        for n_calls in calls:
            one = fit_levels(
                pipeline, fitted, n_calls, (x, mask), t_star=t_star, reference=reference,
                method=method, n_items=items, seed=seed, progress=progress,
            )  # fmt: skip
            fitted = fitted.with_levels(one)
            found.append(one)
    fitted.save_pretrained(folder)
    if as_json:
        print_json({"levels": [one.to_dict() for one in found]})
    else:
        rows = table("", "calls", "log-SNR of the calls", "re-noised", "distance", "± s.e.")
        for one in found:
            rows.add_row(
                str(one.n_calls),
                ", ".join(f"{level:.2f}" for level in one.log_snrs),
                str(one.n_renoised),
                f"{one.distance:.3f}",
                f"{one.std_error:.3f}",
            )
        out.print(rows)
        out.print("A distance of 1 is that of even levels; less is closer to the molecules given.")
    say(f"wrote {folder}")
