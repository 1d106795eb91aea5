"""`gaga prepare geom`: the files of `main_geom_drugs.py`, as EDM's own code reads them."""

import json
import os
import shutil
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from fakes.checkout import write_checkout
from gaga_adapter.integrations.launcher.prepare_geom import Known, geom_files, write_geom

from gaga_adapter.errors import DataError, GAGAError, GAGAWarning
from gaga_adapter.molecules.data import MoleculeSet
from gaga_adapter.molecules.formats import read_molecules, write_sdf

#: In the form of EDM's configs/datasets_config.py.
CONFIG = """
import torch
limit = torch.tensor(3)
geom_with_h = {
    'name': 'geom',
    'atom_encoder': {'H': 0, 'C': 1, 'O': 2},
    'atomic_nb': [1, 6, 8],
    'n_nodes': {3: 7, 4: 9, 6: 1},
    'with_h': True}
"""
NAMES = ["geom_drugs_30.npy", "geom_drugs_n_30.npy", "geom_permutation.npy"]


def molecules(n=30, sizes=(3, 4, 6), elements=(1, 6, 8), seed=0):
    rng = np.random.default_rng(seed)
    counts = rng.choice(sizes, size=n)
    return MoleculeSet.from_list(
        [(rng.normal(size=(size, 3)), rng.choice(elements, size=size)) for size in counts]
    )


def load_split_data(file):
    """EDM's `load_split_data`, line by line, but for numpy's lost way to split a ragged list."""
    all_data = np.load(file)
    mol_id, conformers = all_data[:, 0].astype(int), all_data[:, 1:]
    data_list = np.split(conformers, np.nonzero(mol_id[:-1] - mol_id[1:])[0] + 1)
    perm = np.load(file.with_name("geom_permutation.npy"))
    data_list = [data_list[i] for i in perm]
    val_index = int(len(data_list) * 0.1)
    test_index = val_index + int(len(data_list) * 0.1)
    return data_list[test_index:], data_list[:val_index], data_list[val_index:test_index], perm


@pytest.fixture
def checkout(tmp_path):
    folder = write_checkout(tmp_path / "edm", "edm")
    (folder / "configs/datasets_config.py").write_text(CONFIG)
    return folder


def test_the_files_are_those_that_upstream_splits(tmp_path):
    whole = molecules(30)
    files = geom_files(tmp_path)
    assert [str(file.relative_to(tmp_path)) for file in files] == [f"data/geom/{n}" for n in NAMES]
    assert write_geom(files, whole.batches(7)) == 30
    train, valid, test, perm = load_split_data(files[0])
    assert (len(train), len(valid), len(test)) == (24, 3, 3)
    assert (sorted(perm), perm.dtype) == (list(range(30)), np.int32)
    for row, one in zip(perm, [*valid, *test, *train], strict=True):
        positions, numbers = whole.molecule(row)
        np.testing.assert_array_equal(one[:, 0], numbers)
        np.testing.assert_array_equal(one[:, 1:], positions)
        assert one.dtype == np.float64  # upstream makes a DoubleTensor of it
    np.testing.assert_array_equal(np.load(files[1]), whole.n_atoms)
    read = read_molecules(files[0])
    np.testing.assert_array_equal(read.positions, whole.positions)


def test_the_same_molecules_give_the_same_files(tmp_path):
    for name, size in (("a", 4), ("b", 30)):
        write_geom(geom_files(tmp_path / name), molecules(30).batches(size))
    for one, other in zip(geom_files(tmp_path / "a"), geom_files(tmp_path / "b"), strict=True):
        assert one.read_bytes() == other.read_bytes()


def test_the_command(gaga, checkout, tmp_path):
    whole = molecules(30)
    write_sdf(whole, tmp_path / "a.sdf")
    code, out, err = gaga("prepare", "geom", tmp_path / "a.sdf", "--into", checkout, "--json")
    assert code == 0, err
    assert json.loads(out) == {"data": "geom", "wrote": [str(f) for f in geom_files(checkout)]}
    assert "30 molecules, of which 3 validate and 3 test" in err
    read = read_molecules(checkout / "data/geom")
    np.testing.assert_array_equal(read.atomic_numbers, whole.atomic_numbers)
    code, _, err = gaga("prepare", "geom", tmp_path / "a.sdf", "--into", checkout)
    assert code == 2
    assert "has data/geom/geom_drugs_30.npy" in err
    assert "--force" in err
    code, _, err = gaga("prepare", "geom", tmp_path / "a.sdf", "--into", checkout, "--force")
    assert code == 0, err


def test_wrong_input_of_the_command(gaga, checkout, tmp_path):
    write_sdf(molecules(9), tmp_path / "few.sdf")
    few = tmp_path / "few.sdf"
    for words, message in (
        ([], "none are named. GEOM-DRUGS itself can be read from the folder of the package"),
        ([tmp_path / "gone.sdf"], "there is no file"),
        ([few], "got 9 molecules. Upstream validates and tests with a tenth each; pass 10 or"),
    ):
        code, _, err = gaga("prepare", "geom", *words, "--into", checkout)
        assert (code, message in err) == (2, True), err
    for words in ([few], ["--skip-bad"]):
        code, _, err = gaga("prepare", "qm9", *words, "--into", checkout)
        assert (code, "takes no sources" in err) == (2, True), err
    assert not (checkout / "data/geom").exists() or not list((checkout / "data/geom").iterdir())


@pytest.mark.filterwarnings("default")  # the command prints them
def test_what_upstream_has_no_place_for_is_refused_or_left_out(gaga, checkout, tmp_path):
    """Upstream would train on an atom of no element, and stop at a number of atoms."""
    good, foreign, odd = molecules(20), molecules(1, elements=(1, 7)), molecules(1, sizes=(5,))
    known = Known.of(checkout)
    assert known == Known(frozenset({1, 6, 8}), frozenset({3, 4, 6}))
    with pytest.raises(DataError, match=r"molecule 20 has the element N. Upstream knows H, C, O"):
        list(known.only([good, foreign]))
    with pytest.raises(DataError, match=r"molecule 0 has 5 atoms, .* Most from 3 to 6 are"):
        list(known.only([odd, good]))
    with pytest.warns(GAGAWarning, match=r"left out 2 of 22 molecules, the first .*molecule 0 has"):
        left = list(known.only([odd, good, foreign], skip_bad=True))
    assert [len(part) for part in left] == [20]
    write_sdf(MoleculeSet.concatenate([good, foreign]), tmp_path / "a.sdf")
    code, _, err = gaga("prepare", "geom", tmp_path / "a.sdf", "--into", checkout)
    assert (code, "--skip-bad" in err) == (2, True)
    assert not [file for file in geom_files(checkout) if file.exists()]
    command = ("prepare", "geom", tmp_path / "a.sdf", "--into", checkout, "--skip-bad")
    code, _, err = gaga(*command)
    assert (code, "left out 1 of 21 molecules" in err) == (0, True), err
    assert len(read_molecules(checkout / "data/geom")) == 20


@pytest.mark.parametrize(
    "text",
    ["", "geom_with_h = 3", "geom_with_h = {'atomic_nb': [1]}", "geom_with_h = dict(a=1)", "if"],
)
def test_a_checkout_without_the_data_set(checkout, text):
    (checkout / "configs/datasets_config.py").write_text(text)
    with pytest.raises(GAGAError, match="has no dictionary geom_with_h with atomic_nb and n_nodes"):
        Known.of(checkout)


def test_an_error_in_the_middle_leaves_the_files_as_they_were(tmp_path):
    files = geom_files(tmp_path)
    write_geom(files, molecules(30).batches(7))
    before = [file.read_bytes() for file in files]

    def broken():
        yield molecules(20)
        raise DataError("damaged")

    with pytest.raises(DataError, match="damaged"):
        write_geom(files, broken())
    assert [file.read_bytes() for file in files] == before
    assert len(list(files[0].parent.iterdir())) == 3


def test_memory_does_not_grow_with_the_molecules(tmp_path):
    """But for one number a molecule."""
    batch = molecules(200)

    def peak(times):
        tracemalloc.start()
        n = write_geom(geom_files(tmp_path), (batch for _ in range(times)))
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert n == 200 * times
        return most

    peak(2)  # imports
    assert peak(60) < peak(6) + 54 * 200 * 40


# -- EDM and GeoLDM themselves ---------------------------------------------------------------------

_TINY = [
    "main_geom_drugs.py", "--no_wandb", "--no-cuda", "--n_epochs", "1", "--batch_size", "4", "--nf",
    "8", "--n_layers", "1", "--diffusion_steps", "20", "--break_train_epoch", "True", "--exp_name",
    "tiny", "--test_epochs", "5",
]  # fmt: skip
#: Its own functions, in the order in which its script calls them.
_LOADED = """
import json
import numpy as np, torch
import build_geom_dataset as upstream
from configs.datasets_config import geom_with_h
found = {}
transform = upstream.GeomDrugsTransform(geom_with_h, False, "cpu", False)
parts = upstream.load_split_data("./data/geom/geom_drugs_30.npy", 0.1, 0.1, None)
for key, part in zip(("train", "val", "test"), parts):
    dataset = upstream.GeomDrugsDataset(part, transform=transform)
    loader = upstream.GeomDrugsDataLoader(False, dataset, 4, key == "train")
    batches = list(loader)
    found[key] = {
        "molecules": len(dataset),
        "atoms": sum(int(batch["atom_mask"].sum()) for batch in batches),
        "of an element": sum(int(batch["one_hot"].sum()) for batch in batches),
        "sum": sum(float(batch["positions"].sum()) for batch in batches),
    }
print(json.dumps(found))
"""


@pytest.mark.upstream
@pytest.mark.parametrize("kind", ["edm", "geoldm"])
def test_upstream_loads_the_files_and_trains_a_step(kind, tmp_path):
    variable = f"GAGA_{kind.upper()}_REPO"
    repo = os.environ.get(variable)
    if not repo:
        pytest.skip(f"{variable} does not name a checkout")
    pytest.importorskip("matplotlib", reason="upstream imports matplotlib")
    folder = tmp_path / "repo"
    shutil.copytree(repo, folder, ignore=shutil.ignore_patterns(".git", "outputs", "temp"))
    whole = molecules(40, sizes=range(20, 40), elements=(1, 6, 7, 8, 9, 16, 17, 35))
    write_sdf(whole, tmp_path / "a.sdf")
    (folder / "main_loaded.py").write_text(_LOADED)

    def gaga(*words):
        command = [sys.executable, "-m", "gaga_adapter", *map(str, words)]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done

    gaga("prepare", "geom", tmp_path / "a.sdf", "--into", folder)
    loaded = json.loads(gaga("run", kind, "--", "main_loaded.py").stdout.splitlines()[-1])
    assert {key: part["molecules"] for key, part in loaded.items()} == {
        "train": 32, "val": 4, "test": 4
    }  # fmt: skip
    order = np.load(folder / "data/geom/geom_permutation.npy")
    stored = read_molecules(tmp_path / "a.sdf")  # with the four decimals of SDF
    rows = {"val": order[:4], "test": order[4:8], "train": order[8:]}
    for key, part in loaded.items():
        own = stored.subset(rows[key])
        assert part["atoms"] == part["of an element"] == int(own.n_atoms.sum())
        assert part["sum"] == pytest.approx(own.positions.astype(float).sum(), abs=1e-3, rel=1e-6)
    if kind == "edm":
        done = gaga("run", kind, "--t-star", 8, "--", *_TINY)
        assert "fitted 32 molecules" in done.stderr
        assert "starts at t* = 8 of T = 20" in done.stderr
        assert "Best val loss" in done.stdout
        assert (Path(folder) / "outputs/tiny/generative_model.npy").exists()
