"""`gaga prepare`: the files of a checkout, all or none, as upstream reads them."""

import importlib.util
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fakes.checkout import write_checkout
from gaga_adapter.integrations.launcher.prepare import (
    SMILES,
    SPLITS,
    edm_arrays,
    second_half,
    without_hydrogens,
    write_data,
)

from gaga_adapter.errors import DataError, WriteError
from gaga_adapter.molecules.data import MoleculeSet
from gaga_adapter.molecules.metrics.chemistry import to_smiles
from gaga_adapter.molecules.qm9 import properties as qm9_properties

# `n_nodes` and `atom_types` of `qm9_second_half` in EDM's configs/datasets_config.py.
SECOND_HALF_SIZES = {
    3: 1, 4: 3, 5: 3, 6: 5, 7: 7, 8: 25, 9: 62, 10: 178, 11: 412, 12: 845, 13: 1541, 14: 2587,
    15: 3865, 16: 5344, 17: 6461, 18: 6695, 19: 6944, 20: 4794, 21: 4962, 22: 1701, 23: 2380,
    24: 267, 25: 754, 26: 17, 27: 132, 29: 15,
}  # fmt: skip
SECOND_HALF_ELEMENTS = {1: 461622, 6: 317604, 7: 50852, 8: 70033, 9: 1164}


def split(n=4, elements=(1, 6, 8), **more):
    numbers = np.zeros((n, 6), np.uint8)
    numbers[:, :4] = np.resize(elements, (n, 4))
    positions = np.arange(n * 18, dtype=np.float32).reshape(n, 6, 3) * (numbers > 0)[..., None]
    return edm_arrays(positions, numbers, {"alpha": np.arange(n, dtype=np.float32), **more})


SPLIT = {name: split() for name in SPLITS}
LISTS = {"qm9": ["C", "O"], "qm9_second_half": ["O"], "qm9_noH": ["CO"]}


def test_files_hold_what_upstream_reads(tmp_path):
    files = write_data(tmp_path, SPLIT, LISTS)
    assert [str(file.relative_to(tmp_path)) for file in files] == [
        "qm9/temp/qm9/train.npz",
        "qm9/temp/qm9/valid.npz",
        "qm9/temp/qm9/test.npz",
        "qm9/temp/qm9_smiles.pickle",
        "qm9/temp/qm9_second_half_smiles.pickle",
        "qm9/temp/qm9_noH_smiles.pickle",
    ]
    for file in files[:3]:
        with np.load(file) as arrays:  # no pickle inside
            assert list(arrays)[:3] == ["num_atoms", "charges", "positions"]
            assert arrays["num_atoms"].tolist() == [4] * 4
            assert (arrays["charges"].dtype, arrays["num_atoms"].dtype) == (np.int64, np.int64)
            assert arrays["positions"].dtype == np.float32
            np.testing.assert_array_equal(arrays["alpha"], [0, 1, 2, 3])
    assert pickle.loads(files[3].read_bytes()) == ["C", "O"]
    assert type(pickle.loads(files[4].read_bytes())) is list


def test_nothing_is_overwritten_unless_it_is_asked_for(tmp_path):
    write_data(tmp_path, SPLIT, LISTS)
    other = {name: split(n=5) for name in SPLITS}
    with pytest.raises(WriteError, match=r"qm9/temp/qm9/train.npz.* --force"):
        write_data(tmp_path, other, LISTS)
    with np.load(tmp_path / "qm9/temp/qm9/train.npz") as arrays:
        assert len(arrays["alpha"]) == 4
    write_data(tmp_path, other, LISTS, force=True)
    with np.load(tmp_path / "qm9/temp/qm9/train.npz") as arrays:
        assert len(arrays["alpha"]) == 5


def test_one_file_that_is_there_is_enough_to_refuse(tmp_path):
    (tmp_path / "qm9/temp").mkdir(parents=True)
    (tmp_path / "qm9/temp/qm9_smiles.pickle").touch()
    with pytest.raises(WriteError, match=r"has qm9/temp/qm9_smiles\.pickle already"):
        write_data(tmp_path, SPLIT, LISTS)
    assert not list(tmp_path.rglob("*.npz"))


class Breaks:
    """SMILES that end in an error."""

    def __iter__(self):
        raise KeyboardInterrupt


def test_an_interrupt_leaves_all_files_as_they_were(tmp_path):
    write_data(tmp_path, SPLIT, LISTS)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    other = {name: split(n=5) for name in SPLITS}
    with pytest.raises(KeyboardInterrupt):
        write_data(tmp_path, other, {**LISTS, SMILES[1]: Breaks()}, force=True)
    assert {f: f.read_bytes() for f in tmp_path.rglob("*") if f.is_file()} == before


def test_splits_that_upstream_refuses_are_refused(tmp_path):
    with pytest.raises(DataError, match="the same elements"):
        write_data(tmp_path, {**SPLIT, "test": split(elements=(1, 6))}, LISTS)
    with pytest.raises(DataError, match="the same arrays"):
        write_data(tmp_path, {**SPLIT, "valid": split(mu=np.zeros(4))}, LISTS)
    assert not list(tmp_path.rglob("*.npz"))


def test_atoms_on_their_own():
    methane_and_fluorine = np.array([[6, 1, 1, 1, 1], [9, 9, 0, 0, 0]], np.uint8)
    sums = qm9_properties.atom_reference_sums(methane_and_fluorine)
    np.testing.assert_allclose(sums["U0"], [-37.846772 - 4 * 0.500273, -2 * 99.718730])
    np.testing.assert_allclose(sums["Cv"], [5 * 2.981, 2 * 2.981])
    assert list(sums) == ["zpve", "U0", "U", "H", "G", "Cv"]


def test_what_cannot_be_prepared_is_told(gaga, tmp_path):
    code, _, err = gaga("prepare", "qm9", "--into", tmp_path)
    assert code == 2
    assert "is not a checkout of EDM or GeoLDM" in err
    write_checkout(tmp_path, "edm")
    code, _, err = gaga("prepare", "zinc", "--into", tmp_path)
    assert (code, "cannot prepare 'zinc'. Known: qm9, geom." in err) == (2, True)
    (tmp_path / "qm9/temp").mkdir()
    (tmp_path / "qm9/temp/qm9_smiles.pickle").touch()
    code, _, err = gaga("prepare", "qm9", "--into", tmp_path)  # before anything is read
    assert (code, "already" in err) == (2, True)


def histogram(values):
    return dict(zip(*(a.tolist() for a in np.unique(values, return_counts=True)), strict=True))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A checkout with all of QM9."""
    if importlib.util.find_spec("qm9pack") is None:
        pytest.skip("qm9pack is not installed")
    folder = tmp_path_factory.mktemp("prepared")
    write_checkout(folder, "geoldm")
    command = [sys.executable, "-m", "gaga_adapter", "prepare", "qm9", "--into", str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    return folder


@pytest.mark.data
def test_qm9_is_that_of_edm(prepared):
    """Half of the training split depends on the order of the molecules, so it proves the order."""
    arrays = {}
    for name in SPLITS:
        with np.load(prepared / f"qm9/temp/qm9/{name}.npz") as file:
            arrays[name] = dict(file)
    assert [len(arrays[name]["index"]) for name in SPLITS] == [100_000, 17_748, 13_083]
    train = arrays["train"]
    rows = second_half(100_000)
    assert histogram(train["num_atoms"][rows]) == SECOND_HALF_SIZES
    charges = train["charges"][rows]
    assert histogram(charges[charges > 0]) == SECOND_HALF_ELEMENTS
    for part in arrays.values():
        assert (np.diff(part["index"]) > 0).all()
        assert set(part) >= {"alpha", "homo", "lumo", "gap", "mu", "Cv", "Cv_thermo", "U0_thermo"}
    # QM9's atomisation energies and gaps, mean and spread in eV (Gilmer et al. 2017 use the same)
    atomisation = (train["U0"] - train["U0_thermo"]) * 27.2114
    assert atomisation.mean() == pytest.approx(-76.1, abs=0.05)
    assert atomisation.std() == pytest.approx(10.32, abs=0.02)
    np.testing.assert_allclose(train["gap"], train["lumo"] - train["homo"], atol=2e-4)
    smiles = {
        name: pickle.loads((prepared / f"qm9/temp/{name}_smiles.pickle").read_bytes())
        for name in SMILES
    }
    assert set(smiles["qm9_second_half"]) < set(smiles["qm9"])
    assert 0.95 < len(smiles["qm9"]) / 100_000 <= 1
    assert 0.95 < len(smiles["qm9_second_half"]) / 50_000 <= 1
    assert 0.9 < len(smiles["qm9_noH"]) / 100_000 <= 1
    # hydrogens are named only where the valence of an aromatic nitrogen asks for one
    assert not any("H" in one.replace("[nH]", "") for one in smiles["qm9_noH"][:1000])


def test_models_without_hydrogens_are_compared_with_the_heavy_atoms():
    water = np.array([[0, 0, 0.96], [0, 0, 0], [0.93, 0, -0.24]], np.float32)
    ethanol = np.array([[0, 0, 0], [1.53, 0, 0], [0, -1.09, 0], [2.0, 1.34, 0]], np.float32)
    molecules = [(water, [1, 8, 1]), (ethanol, [6, 6, 1, 8])]
    heavy = without_hydrogens(MoleculeSet.from_list(molecules, "two"))
    assert [heavy.molecule(i)[1].tolist() for i in range(2)] == [[8], [6, 6, 8]]
    np.testing.assert_array_equal(heavy.molecule(1)[0], ethanol[[0, 1, 3]])
    assert to_smiles(heavy, largest_fragment=False) == ("O", "CCO")


_UPSTREAM = """
import json, sys
from types import SimpleNamespace
import numpy as np
sys.path.insert(0, ".")
from configs.datasets_config import get_dataset_info
from qm9 import dataset
checked = {}
for name in ("qm9", "qm9_second_half"):
    cfg = SimpleNamespace(dataset=name, batch_size=64, num_workers=0, filter_n_atoms=None,
                          datadir="qm9/temp", remove_h=False, include_charges=True)
    loaders, _ = dataset.retrieve_dataloaders(cfg)
    data = loaders["train"].dataset.data
    info = get_dataset_info(name, False)
    sizes = zip(*np.unique(data["num_atoms"].numpy(), return_counts=True))
    kinds = data["one_hot"].sum((0, 1)).tolist()
    checked[name] = {
        "sizes": {int(n): int(c) for n, c in sizes} == info["n_nodes"],
        "elements": {k: c for k, c in enumerate(kinds)} == info["atom_types"],
        "batches": len(list(zip(range(3), loaders["train"]))),
    }
print(json.dumps(checked))
"""


@pytest.mark.upstream
@pytest.mark.data
@pytest.mark.parametrize("variable", ["GAGA_EDM_REPO", "GAGA_GEOLDM_REPO"])
def test_upstream_finds_its_own_histograms(prepared, variable, tmp_path):
    repo = os.environ.get(variable)
    if not repo:
        pytest.skip(f"{variable} does not name a checkout")
    for name in ("configs", "qm9", "egnn", "equivariant_diffusion"):
        shutil.copytree(Path(repo, name), tmp_path / name, ignore=shutil.ignore_patterns("temp"))
    (tmp_path / "qm9/temp").symlink_to(prepared / "qm9/temp")
    done = subprocess.run(
        [sys.executable, "-c", _UPSTREAM], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    right = {"sizes": True, "elements": True, "batches": 3}
    assert json.loads(done.stdout.splitlines()[-1]) == {"qm9": right, "qm9_second_half": right}
