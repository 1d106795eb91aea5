"""`gaga prepare`: QM9 in the form that a checkout of EDM or GeoLDM reads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from gaga_adapter.cli import options
from gaga_adapter.cli.console import Json, print_json, progress_bar, say
from gaga_adapter.errors import DataError


def run(
    data: Annotated[str, typer.Argument(help="qm9.", autocompletion=options.completion(("qm9",)))],
    into: Annotated[Path, typer.Option(help="Checkout of EDM or GeoLDM.")],
    force: Annotated[bool, typer.Option("--force", help="Replace files that are there.")] = False,
    as_json: Json = False,
) -> None:
    """Write the data files that EDM and GeoLDM would download.

    The molecules, their order, the split and the properties are those of EDM's
    own preparation; they are read from the package qm9pack, without a network.

      gaga prepare qm9 --into e3_diffusion_for_molecules/
    """
    from gaga_adapter.integrations.launcher.checkouts import require_checkout
    from gaga_adapter.integrations.launcher.prepare import (
        SPLITS,
        edm_arrays,
        require_room,
        second_half,
        without_hydrogens,
        write_data,
    )
    from gaga_adapter.molecules.metrics.chemistry import to_smiles
    from gaga_adapter.molecules.qm9.data import load_qm9, split_indices
    from gaga_adapter.molecules.qm9.properties import atom_reference_sums, qm9_properties

    if data != "qm9":
        raise DataError(f"cannot prepare {data!r}. Known: qm9.")
    require_checkout(into)
    require_room(into, force)
    with progress_bar() as progress:
        progress("reading QM9", 0, None)
        everything = load_qm9(progress=progress)
        atoms = atom_reference_sums(everything.atomic_numbers)
        properties = {**qm9_properties(), **{f"{name}_thermo": atoms[name] for name in atoms}}
        splits = {}
        for name in SPLITS:
            rows = np.sort(split_indices(name))  # EDM reads its archive in QM9's order
            part = everything.subset(rows)
            own = {key: values[rows] for key, values in properties.items()}
            splits[name] = edm_arrays(part.positions, part.atomic_numbers, own)
        train = everything.subset(np.sort(split_indices("train")))
        smiles: list[str | None] = []
        heavy: list[str | None] = []
        for part in train.batches(1000):
            smiles += to_smiles(part, largest_fragment=False)
            heavy += to_smiles(without_hydrogens(part), largest_fragment=False)
            progress("SMILES", len(smiles), len(train))
    half = [smiles[row] for row in second_half(len(train))]
    lists = {"qm9": smiles, "qm9_second_half": half, "qm9_noH": heavy}
    valid = {name: [one for one in some if one is not None] for name, some in lists.items()}
    files = [str(file) for file in write_data(into, splits, valid, force)]
    for file in files:
        say(f"wrote {file}")
    if as_json:
        print_json({"data": data, "wrote": files})
