"""`gaga fit`: stream a data set once, write the artefact, print the curve and t*."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor

from gaga_adapter.cli.console import err, progress_bar
from gaga_adapter.cli.show import print_stats
from gaga_adapter.layout import MoleculeLayout
from gaga_adapter.selection import DEFAULT_TOLERANCE


def run(
    data: Annotated[
        list[str],
        typer.Argument(
            help="qm9, qm9:train, or files: .sdf, .xyz (multi-frame), .npz (EDM layout)."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the artefact.")],
    elements: Annotated[
        str, typer.Option(help="Elements of the one-hot channels, in the model's order.")
    ] = "H,C,N,O,F",
    position_scale: Annotated[float, typer.Option(help="Positions are divided by it.")] = 1.0,
    onehot_scale: Annotated[float, typer.Option(help="One-hot entries are divided by it.")] = 4.0,
    charge_scale: Annotated[
        float | None,
        typer.Option(help="Atomic numbers are divided by it; no such channel without."),
    ] = None,
    reference: Annotated[
        str, typer.Option(help="Start to judge: shape, size, channel, paper or unit.")
    ] = "shape",
    criterion: Annotated[str, typer.Option(help="Criterion of Gaussianity.")] = "two_sample",
    tolerance: Annotated[
        float, typer.Option(help="Nats per molecule that may remain at t*.")
    ] = DEFAULT_TOLERANCE,
    samples: Annotated[int, typer.Option(help="Molecules that the criterion sees.")] = 4000,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
) -> None:
    """Fit the statistics of a data set and choose t*."""
    from gaga_adapter.fitting import fit
    from gaga_adapter.molecules.encoding import encode
    from gaga_adapter.molecules.formats import read_molecules

    layout = MoleculeLayout(
        tuple(e.strip() for e in elements.split(",")), position_scale, onehot_scale, charge_scale
    )
    molecules = read_molecules(data, layout.elements)

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for part in molecules.batches(2048):
            yield encode(part, layout)

    with progress_bar() as progress:
        stats = fit(
            batches(),
            layout,
            criterion=criterion,
            reference=reference,
            tolerance=tolerance,
            n_criterion=samples,
            seed=seed,
            provenance={"data": molecules.name, "torch_threads": torch.get_num_threads()},
            progress=lambda what, done, total: progress(
                what, done, len(molecules) if what == "moments" else total
            ),
        )
    stats.save_pretrained(out)
    print_stats(stats)
    err.print(f"wrote {out}", soft_wrap=True)
