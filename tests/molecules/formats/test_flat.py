"""Atoms of all molecules in a row: EDM's GEOM-DRUGS and the folders of atomic-datasets."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from systems import posix

from gaga_adapter.cli.options import Reading, open_data
from gaga_adapter.errors import DataError, GAGAError
from gaga_adapter.layout import DenseLayout, MoleculeLayout
from gaga_adapter.molecules.data import MoleculeSet
from gaga_adapter.molecules.formats import read_molecules, stream_molecules

#: What the species of GEOMDrugs stand for, from the source of atomic-datasets 0.1.8.
GEOM = [1, 5, 6, 7, 8, 9, 13, 14, 15, 16, 17, 33, 35, 53, 80, 83]


def some(n=40, seed=0, elements=GEOM):
    """Molecules of 1 to 9 atoms, as pairs of positions and atomic numbers."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 10, size=n)
    return [
        (rng.normal(size=(size, 3)).astype(np.float32), rng.choice(elements, size=size))
        for size in sizes
    ]


MOLECULES = some()
SET = MoleculeSet.from_list(MOLECULES)


def same(one, other=SET):
    np.testing.assert_array_equal(one.atomic_numbers, other.atomic_numbers)
    np.testing.assert_array_equal(one.positions, other.positions)


def edm_rows(molecules):
    """As `extract_conformers` of EDM's build_geom_dataset.py stacks them."""
    parts = [
        np.hstack([np.full((len(z), 1), float(index)), z[:, None].astype(float), x.astype(float)])
        for index, (x, z) in enumerate(molecules)
    ]
    return np.vstack(parts)


def write_split(folder, molecules, split="train", elements=GEOM, kind="geom"):
    """A split as atomic-datasets keeps it on disk."""
    folder.mkdir(parents=True, exist_ok=True)
    sizes = np.array([len(z) for _, z in molecules])
    numbers = np.concatenate([z for _, z in molecules])
    arrays = {
        "positions": np.concatenate([x for x, _ in molecules]),
        "species": np.array([elements.index(z) for z in numbers], np.uint8),
        "offsets": np.concatenate([[0], np.cumsum(sizes)]),
    }
    names = [f"smiles {index}" for index in range(len(molecules))]
    if kind == "geom":
        arrays |= {"n_atoms": sizes, "mol_indices": np.arange(len(molecules)) // 3}
        (folder / f"{split}_smiles.json").write_text(json.dumps(names))
    else:
        arrays |= {
            name: np.zeros(len(numbers), np.int8)
            for name in ("charges", "is_aromatic", "is_in_ring", "hybridization")
        }
        text = json.dumps({"smiles": names, "chemblids": names})
        (folder / f"{split}_metadata.json").write_text(text)
    for name, array in arrays.items():
        np.save(folder / f"{split}_{name}.npy", array)
    return folder


# -- EDM's GEOM-DRUGS ------------------------------------------------------------------------------


@pytest.mark.parametrize("atoms", [1, 7, 1 << 16])
@pytest.mark.parametrize("change", [np.asarray, np.asfortranarray, lambda rows: rows.astype(">f4")])
def test_rows_of_edm_in_blocks_of_any_size(tmp_path, monkeypatch, atoms, change):
    monkeypatch.setattr("gaga_adapter.molecules.formats.flat._ATOMS", atoms)
    np.save(tmp_path / "geom_drugs_30.npy", change(edm_rows(MOLECULES)))
    same(read_molecules(tmp_path / "geom_drugs_30.npy"))


def test_a_molecule_ends_where_the_number_changes_as_in_edms_loader(tmp_path):
    """`load_split_data` splits at every change, whatever the numbers are."""
    rows = edm_rows(MOLECULES[:4])
    rows[:, 0] = np.array([7, 2, 7, 2.0])[rows[:, 0].astype(int)]
    np.save(tmp_path / "a.npy", rows)
    mol_id = rows[:, 0].astype(int)
    upstream = np.split(rows[:, 1:], np.nonzero(mol_id[:-1] - mol_id[1:])[0] + 1)  # EDM's own line
    read = read_molecules(tmp_path / "a.npy")
    assert len(upstream) == len(read) == 4
    for index, expected in enumerate(upstream):
        positions, numbers = read.molecule(index)
        np.testing.assert_array_equal(numbers, expected[:, 0])
        np.testing.assert_array_equal(positions, expected[:, 1:].astype(np.float32))


def test_of_a_folder_only_the_molecules_are_read(tmp_path):
    np.save(tmp_path / "geom_drugs_30.npy", edm_rows(MOLECULES))
    np.save(tmp_path / "geom_drugs_n_30.npy", SET.n_atoms)
    np.save(tmp_path / "geom_permutation.npy", np.arange(len(SET), dtype=np.int32))
    np.save(tmp_path / "latents.npy", np.random.default_rng(0).normal(size=(9, 5)))
    same(read_molecules(tmp_path))
    with pytest.raises(
        DataError, match=r"geom_drugs_n_30.npy has the shape \(40,\). Allowed: rows"
    ):
        read_molecules(tmp_path / "geom_drugs_n_30.npy")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ((0, 0.5), "the first column must number the molecules, and holds 0.5"),
        ((0, np.nan), "the first column must number the molecules, and holds nan"),
        ((1, 0.0), "molecule 3 has an atomic number that is not one of 1 to 118"),
        ((1, 6.5), "molecule 3 has the atomic number 6.5"),
        ((4, np.inf), "molecule 3 has NaN or infinite coordinates"),
    ],
)
def test_rows_that_are_no_molecules(tmp_path, change, message):
    rows = edm_rows(MOLECULES)
    rows[np.flatnonzero(rows[:, 0] == 3)[-1], change[0]] = change[1]
    np.save(tmp_path / "a.npy", rows)
    with pytest.raises(DataError, match=message):
        read_molecules(tmp_path / "a.npy")
    if "molecule 3" in message:
        with pytest.warns(UserWarning, match="skipped 1 of 40"):
            left = read_molecules(tmp_path / "a.npy", skip_bad=True)
        same(left, SET.subset([index for index in range(40) if index != 3]))


def test_a_number_that_never_changes_is_not_taken_for_one_endless_molecule(tmp_path, monkeypatch):
    monkeypatch.setattr("gaga_adapter.molecules.formats.flat.MOST_ATOMS", 100)
    monkeypatch.setattr("gaga_adapter.molecules.formats.flat._ATOMS", 50)
    rows = edm_rows(MOLECULES)
    rows[:, 0] = 0
    np.save(tmp_path / "a.npy", rows)
    with pytest.raises(DataError, match="molecule 0 has more than 100 atoms"):
        read_molecules(tmp_path / "a.npy")


def test_pickled_and_cut_off_arrays_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", edm_rows(MOLECULES).astype(object))
    with pytest.raises(DataError, match="pickled objects, which are never read"):
        read_molecules(tmp_path / "a.npy")
    np.save(tmp_path / "a.npy", edm_rows(MOLECULES))
    (tmp_path / "a.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:-8])
    with pytest.raises(DataError, match=r"a.npy has [\d,]+ bytes; its shape .* need"):
        read_molecules(tmp_path / "a.npy")
    (tmp_path / "a.npy").write_text("no array")
    with pytest.raises(DataError, match=r"cannot read .*a.npy behind 0 molecules"):
        read_molecules(tmp_path / "a.npy")


def test_the_command_line_tells_molecules_from_latents(tmp_path):
    """Both are .npy; one that holds neither pairs of numbers is an array as before."""
    np.save(tmp_path / "geom_drugs_30.npy", edm_rows(some(elements=[1, 6])))
    source = open_data(Reading([str(tmp_path / "geom_drugs_30.npy")], elements="auto"))
    assert isinstance(source.layout, MoleculeLayout)
    assert source.layout.elements == ("H", "C")
    np.save(tmp_path / "latents.npy", np.random.default_rng(0).normal(size=(50, 5)))
    assert isinstance(open_data(Reading([str(tmp_path / "latents.npy")])).layout, DenseLayout)
    with pytest.raises(DataError, match="first column must number the molecules"):
        open_data(Reading([str(tmp_path / "latents.npy")], elements="auto", format="npy"))


@posix
def test_what_is_no_file_is_not_waited_for(tmp_path):
    """A pipe of that name would never end."""
    os.mkfifo(tmp_path / "pipe.npy")
    (tmp_path / "folder.npy").mkdir()
    for name in ("pipe.npy", "folder.npy"):
        with pytest.raises(DataError, match="is no regular file"):
            open_data(Reading([str(tmp_path / name)]))
    with pytest.raises(DataError, match=r"is a pipe, and .npy files are not read from front to"):
        read_molecules(tmp_path / "pipe.npy")


# -- atomic-datasets -------------------------------------------------------------------------------


@pytest.mark.parametrize("atoms", [1, 11, 1 << 16])
def test_a_split_of_geom_drugs(tmp_path, monkeypatch, atoms):
    monkeypatch.setattr("gaga_adapter.molecules.formats.flat._ATOMS", atoms)
    folder = write_split(tmp_path / "geom_drugs", MOLECULES)
    same(read_molecules(folder / "train_positions.npy"))
    write_split(folder, MOLECULES[:5], "val")
    assert len(read_molecules(folder)) == 45  # all splits of the folder
    halves = [list(stream_molecules(folder, 10, share=(index, 2))) for index in range(2)]
    assert [[len(part) for part in parts] for parts in halves] == [[10, 10, 5], [10, 10]]
    same(halves[1][0], SET.subset(range(10, 20)))


def test_chembl3d_has_one_more_element(tmp_path):
    molecules = some(elements=[1, 6, 34])
    folder = write_split(tmp_path, molecules, "test_small", [*GEOM, 34], "chembl")
    same(read_molecules(folder), MoleculeSet.from_list(molecules))


def test_species_of_an_unknown_data_set_are_not_guessed(tmp_path):
    write_split(tmp_path, MOLECULES)
    species = np.load(tmp_path / "train_species.npy")
    species[0] = 16
    np.save(tmp_path / "train_species.npy", species)
    with pytest.raises(DataError, match="molecule 0 has a species that is not one of 0 to 15"):
        read_molecules(tmp_path)
    (tmp_path / "train_mol_indices.npy").unlink()
    with pytest.raises(DataError, match=r"has no list of its elements beside it. Known: GEOMDrugs"):
        read_molecules(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda offsets: offsets + 1, "the first of the offsets is 1"),
        (lambda offsets: offsets[:-1], "the offsets end at"),
        (lambda offsets: np.append(offsets, offsets[-1] + 1), "nor go beyond the"),
        (lambda offsets: offsets[[0, 2, 1, *range(3, len(offsets))]], "the offsets must not fall"),
        (lambda offsets: offsets.astype(float), "must be integers by their type"),
        (lambda offsets: offsets[:0], "do not fit positions"),
        (lambda offsets: np.append(offsets, offsets[-1]), "molecule 40 has no atoms"),
    ],
)
def test_offsets_that_do_not_fit(tmp_path, change, message):
    write_split(tmp_path, MOLECULES)
    offsets = np.load(tmp_path / "train_offsets.npy")
    np.save(tmp_path / "train_offsets.npy", change(offsets))
    with pytest.raises(DataError, match=message):
        read_molecules(tmp_path)


def test_npz_without_padding(tmp_path):
    """As QM9 and tmQM of atomic-datasets are cached, beside the files that they are made of."""
    arrays = {
        "positions": np.concatenate([x for x, _ in MOLECULES]),
        "atomic_numbers": np.concatenate([z for _, z in MOLECULES]).astype(np.int32),
        "offsets": np.concatenate([[0], np.cumsum(SET.n_atoms)]).astype(np.int32),
        "n_atoms": SET.n_atoms.astype(np.int32),
    }
    np.savez(tmp_path / "tmqm_preprocessed.npz", **arrays)
    same(read_molecules(tmp_path / "tmqm_preprocessed.npz"))
    (tmp_path / "X1_0.xyz").write_text("1\n\nHe 0 0 0\n")
    assert len(read_molecules(tmp_path)) == 1  # not everything twice
    np.savez(tmp_path / "a.npz", **arrays | {"atomic_numbers": arrays["atomic_numbers"][1:]})
    with pytest.raises(DataError, match="do not fit positions"):
        read_molecules(tmp_path / "a.npz")


def test_the_real_package_reads_the_same(tmp_path, capsys):
    package = pytest.importorskip(
        "atomic_datasets.datasets", reason="the package atomic-datasets is not installed"
    )
    write_split(tmp_path / "geom_drugs", MOLECULES)
    molecules = some(elements=[1, 6, 34])
    write_split(tmp_path / "chembl3d", molecules, "val", [*GEOM, 34], "chembl")
    geom = package.GEOMDrugs(str(tmp_path), split="train")
    same(read_molecules(geom))
    same(read_molecules(tmp_path / "geom_drugs"))
    assert read_molecules(geom).smiles[2] == "smiles 2"
    chembl = package.ChEMBL3D(str(tmp_path), split="val")
    same(read_molecules(chembl), MoleculeSet.from_list(molecules))
    same(read_molecules(tmp_path / "chembl3d"), MoleculeSet.from_list(molecules))
    assert len(read_molecules(package.Tetris())) == 8


# -- damage ----------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::gaga_adapter.errors.GAGAWarning")
@pytest.mark.parametrize("name", ["positions", "species", "offsets", "rows"])
def test_damaged_bytes_are_an_error_or_sound_molecules(tmp_path, name):
    """Each of 150 files has a few bytes changed; nothing but our own errors may come out."""
    rng = np.random.default_rng(0)
    write_split(tmp_path, MOLECULES)
    file = tmp_path / f"train_{name}.npy"
    if name == "rows":
        file = tmp_path / "rows.npy"
        np.save(file, edm_rows(MOLECULES))
    data = file.read_bytes()
    target = file if name == "rows" else tmp_path / "train_positions.npy"
    for _ in range(150):
        noisy = bytearray(data)
        for place in rng.integers(0, len(data) if rng.random() < 0.7 else 128, size=3):
            noisy[place] = rng.integers(256)
        file.write_bytes(bytes(noisy))
        try:
            read = read_molecules(target)
        except GAGAError:
            continue
        assert np.isfinite(read.positions).all()
        assert (read.n_atoms > 0).all()
