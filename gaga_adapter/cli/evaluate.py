"""`gaga evaluate`: stability, validity, uniqueness, novelty and shape of anybody's molecules."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.table import Table

from gaga_adapter.cli.console import figure, out, percent


def run(
    files: Annotated[list[str], typer.Argument(help=".sdf, .xyz or .npz files, or qm9:test.")],
    novelty: Annotated[
        bool, typer.Option(help="Compare with the SMILES of QM9's training split.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print json.")] = False,
) -> None:
    """Judge molecules by EDM's metrics and by their shape."""
    from gaga_adapter.molecules.formats import read_molecules
    from gaga_adapter.molecules.metrics import evaluate
    from gaga_adapter.molecules.qm9 import qm9_train_smiles

    molecules = read_molecules(files)
    metrics = evaluate(molecules, qm9_train_smiles() if novelty else None)
    if as_json:
        print(json.dumps(metrics.to_dict(), indent=2))
        return
    table = Table(title=f"{molecules.name}: {metrics.n_molecules:,} molecules")
    table.add_column("figure")
    table.add_column("value ± s.e.", justify="right")
    for name, share in (
        ("atom stability %", metrics.atom_stability),
        ("molecule stability %", metrics.molecule_stability),
        ("validity %", metrics.validity),
        ("uniqueness %", metrics.uniqueness),
        ("novelty %", metrics.novelty),
        ("connected %", metrics.shape.connected),
    ):
        table.add_row(name, percent(share))
    for name, value in (
        ("v_x, angstrom²", metrics.shape.v_x),
        ("spread of v_x, angstrom²", metrics.shape.v_x_spread),
        ("anisotropy", metrics.shape.anisotropy),
    ):
        table.add_row(name, figure(value))
    for element, share in metrics.shape.element_shares.items():
        table.add_row(f"share of {element} %", percent(share))
    out.print(table)
