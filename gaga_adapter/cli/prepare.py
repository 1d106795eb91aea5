"""`gaga prepare`: data in the form that a checkout of EDM or GeoLDM reads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from gaga_adapter.cli import options
from gaga_adapter.cli.console import Json, print_json, progress_bar, say
from gaga_adapter.errors import DataError

if TYPE_CHECKING:
    from gaga_adapter.molecules.data import MoleculeSet

DATA = ("qm9", "geom")


def run(
    data: Annotated[
        str, typer.Argument(help="qm9 or geom.", autocompletion=options.completion(DATA))
    ],
    into: Annotated[Path, typer.Option(help="Checkout of EDM or GeoLDM.")],
    parsing: options.Parsing,
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            help="Of geom: files or folders of drug-like molecules, as gaga fit reads them.",
            show_default=False,
        ),
    ] = None,
    force: options.Force = False,
    as_json: Json = False,
) -> None:
    """Write the data files that EDM and GeoLDM would download.

    qm9: the molecules, their order, the split and the properties are those of
    EDM's own preparation; they are read from the package qm9pack, without a
    network. geom: any molecules, for the scripts that train on GEOM-DRUGS.

      gaga prepare qm9 --into e3_diffusion_for_molecules/
      gaga prepare geom conformers.sdf --into e3_diffusion_for_molecules/
    """
    from gaga_adapter.integrations.launcher.checkouts import require_checkout

    if data not in DATA:
        raise DataError(f"cannot prepare {data!r}. Known: {', '.join(DATA)}.")
    require_checkout(into)
    if data == "qm9":
        if sources or parsing != options.Parsing():
            raise DataError(
                "qm9 is read from the package qm9pack and takes no sources, nor options of them. "
                "For molecules of your own: gaga prepare geom."
            )
        files = _qm9(into, force)
    else:
        files = _geom(into, sources or [], parsing, force)
    for file in files:
        say(f"wrote {file}")
    if as_json:
        print_json({"data": data, "wrote": [str(file) for file in files]})


def _qm9(into: Path, force: bool) -> list[Path]:
    """QM9, as EDM splits it."""
    from gaga_adapter.integrations.launcher.prepare import (
        SPLITS,
        edm_arrays,
        qm9_files,
        require_room,
        second_half,
        without_hydrogens,
        write_data,
    )
    from gaga_adapter.molecules.metrics.chemistry import to_smiles
    from gaga_adapter.molecules.qm9.data import load_qm9, split_indices
    from gaga_adapter.molecules.qm9.properties import atom_reference_sums, qm9_properties

    require_room(into, qm9_files(into), force)
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
    files: list[Path] = write_data(into, splits, valid, force)
    return files


def _geom(into: Path, sources: list[str], parsing: options.Parsing, force: bool) -> list[Path]:
    """Molecules of any source, for the scripts of GEOM-DRUGS."""
    from gaga_adapter.integrations.launcher.prepare import require_room
    from gaga_adapter.integrations.launcher.prepare_geom import Known, geom_files, write_geom
    from gaga_adapter.molecules.formats import stream_molecules

    if not sources:
        raise DataError(
            "geom is made of molecules that you name, and none are named. GEOM-DRUGS itself can be "
            "read from the folder of the package atomic-datasets: gaga prepare geom "
            "data/geom_drugs --into CHECKOUT."
        )
    files: list[Path] = geom_files(into)
    require_room(into, files, force)
    known = Known.of(into)
    stream = stream_molecules(sources, **parsing.arguments())
    with progress_bar() as progress:

        def counted() -> Iterator[MoleculeSet]:
            done = 0
            for batch in known.only(stream, parsing.skip_bad):
                yield batch
                done += len(batch)
                progress("molecules", done, stream.total)

        n = write_geom(files, counted())
    say(f"{n:,} molecules, of which {n // 10:,} validate and {n // 10:,} test")
    return files
