"""QM9 through qm9pack: the whole set, EDM's split, and the cache."""

from __future__ import annotations

import ast
import csv
import importlib.util
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from gaga_adapter.errors import DataError, GAGAWarning, MissingExtraError
from gaga_adapter.molecules.data import MoleculeSet
from gaga_adapter.molecules.metrics.shape import shape_figures
from gaga_adapter.molecules.qm9 import data as qm9

# The training split: `qm9_with_h` in EDM's configs/datasets_config.py.
EDM_SIZES = {
    3: 1, 4: 4, 5: 5, 6: 9, 7: 16, 8: 49, 9: 124, 10: 362, 11: 807, 12: 1689, 13: 3060, 14: 5136,
    15: 7796, 16: 10644, 17: 13025, 18: 13364, 19: 13832, 20: 9482, 21: 9970, 22: 3393, 23: 4848,
    24: 539, 25: 1506, 26: 48, 27: 266, 29: 25,
}  # fmt: skip
EDM_ELEMENTS = {1: 923537, 6: 635559, 7: 101476, 8: 140202, 9: 2323}

SMALL = MoleculeSet.from_list([([[0, 0, 0], [0, 0, 0.74]], [1, 1])], "qm9", ("[H][H]",))


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    if importlib.util.find_spec("qm9pack") is None:
        pytest.skip("qm9pack is not installed")
    return tmp_path_factory.mktemp("qm9")


@pytest.fixture(scope="module")
def everything(cache):
    return qm9.load_qm9(cache_dir=cache)


def _histogram(values):
    return dict(zip(*(a.tolist() for a in np.unique(values, return_counts=True)), strict=True))


@pytest.mark.data
def test_training_split_has_the_histograms_of_edm(everything, cache):
    train = qm9.load_qm9("train", cache)
    assert train.name == "qm9:train"
    assert _histogram(train.n_atoms) == EDM_SIZES
    assert _histogram(train.atomic_numbers[train.mask]) == EDM_ELEMENTS


@pytest.mark.data
def test_the_splits_are_a_partition(everything, cache):
    rows = [qm9.split_indices(split) for split in ("train", "valid", "test")]
    assert [len(part) for part in rows] == [100_000, 17_748, 13_083]
    np.testing.assert_array_equal(np.sort(np.concatenate(rows)), np.arange(len(everything)))
    test = qm9.load_qm9("test", cache)
    np.testing.assert_array_equal(test.molecule(5)[0], everything.molecule(int(rows[2][5]))[0])


@pytest.mark.data
def test_rows_agree_with_a_plain_reading_of_the_csv(everything):
    folder = Path(importlib.util.find_spec("qm9pack").submodule_search_locations[0]) / "data"
    rows = {}
    for file in folder.glob("qm9_part*.csv"):
        with file.open(newline="") as stream:
            for count, row in enumerate(csv.DictReader(stream)):
                if count % 4001 == 0:
                    rows[int(row["Index"])] = row
    # Molecules are ordered by their index in GDB9, which has holes: locate them by SMILES.
    place = {smiles: index for index, smiles in enumerate(everything.smiles)}
    found = [place[rows[index]["SMILES"]] for index in sorted(rows)]
    assert found == sorted(found)
    numbers = {"H": 1, "C": 6, "N": 7, "O": 8, "F": 9}
    for row in rows.values():
        x, z = everything.molecule(place[row["SMILES"]])
        assert z.tolist() == [numbers[s] for s in ast.literal_eval(row["Elements"])]
        np.testing.assert_array_equal(x, np.float32(ast.literal_eval(row["XYZ_Ang"])))


@pytest.mark.data
def test_shape_figures_of_qm9(everything):
    figures = shape_figures(everything)
    found = (figures.v_x, figures.v_x_spread, figures.anisotropy, figures.connected)
    assert [f"{one.value:.4f}" for one in found] == ["2.0416", "0.4159", "0.6138", "0.9998"]


@pytest.mark.data
def test_the_cache_is_the_same_set(everything, cache):
    assert [path.name for path in cache.iterdir()] == ["qm9-1.npz"]
    again = qm9.load_qm9(cache_dir=cache)
    np.testing.assert_array_equal(again.positions, everything.positions)
    np.testing.assert_array_equal(again.atomic_numbers, everything.atomic_numbers)
    assert again.smiles == everything.smiles
    assert again.smiles[:3] == ("C", "N", "O")


def test_the_cache_is_built_once_and_again_when_corrupt(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(qm9, "_parse_qm9pack", lambda progress: calls.append(1) or SMALL)
    monkeypatch.setenv("GAGA_CACHE", str(tmp_path / "new"))
    for _ in range(2):
        loaded = qm9.load_qm9()
    assert len(calls) == 1
    assert loaded.smiles == SMALL.smiles
    np.testing.assert_array_equal(loaded.positions, SMALL.positions)
    cached = tmp_path / "new" / "qm9-1.npz"
    cached.write_bytes(cached.read_bytes()[:200])
    assert qm9.load_qm9().smiles == SMALL.smiles
    assert len(calls) == 2
    assert [path.name for path in cached.parent.iterdir()] == ["qm9-1.npz"]


def test_a_cache_that_cannot_be_written_is_a_warning(tmp_path, monkeypatch):
    monkeypatch.setattr(qm9, "_parse_qm9pack", lambda progress: SMALL)
    (tmp_path / "file").write_text("not a folder")
    with pytest.warns(GAGAWarning, match="QM9 is not cached: cannot write .* Set GAGA_CACHE"):
        assert len(qm9.load_qm9(cache_dir=tmp_path / "file")) == 1


def test_reading_for_the_first_time_reports_and_prints_nothing(tmp_path, monkeypatch, capfd):
    package = tmp_path / "qm9pack"
    (package / "data").mkdir(parents=True)
    header = "Index,SMILES,N_atoms,Elements,XYZ_Ang"
    for part, index in enumerate((7, 3)):
        row = f"{index},[H][H],2,\"['H', 'H']\",\"[[0, 0, 0], [0, 0, 0.{index}]]\""
        (package / "data" / f"qm9_part{part}.csv").write_text(f"{header}\n{row}\n")
    spec = SimpleNamespace(submodule_search_locations=[str(package)])
    monkeypatch.setattr(qm9, "find_spec", lambda name: spec)
    monkeypatch.setattr(qm9, "N_MOLECULES", 2)
    said = []
    read = qm9.load_qm9(cache_dir=tmp_path, progress=lambda *report: said.append(report))
    assert said == [("reading QM9 (once)", 0, 2), ("reading QM9 (once)", 1, 2)]
    np.testing.assert_allclose(read.positions[:, 1, 2], [0.3, 0.7])
    monkeypatch.setattr(qm9, "N_MOLECULES", 3)
    with pytest.raises(DataError, match=r"2 molecules\. QM9 has 3; reinstall qm9pack"):
        qm9.load_qm9(cache_dir=tmp_path / "other")
    assert capfd.readouterr() == ("", "")


def test_training_smiles_are_made_once(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(qm9, "load_qm9", lambda split, *_: calls.append(split) or SMALL)
    for _ in range(2):
        assert qm9.qm9_train_smiles(tmp_path) == frozenset({"[H][H]"})
    assert calls == ["train"]


def test_unknown_splits_and_a_missing_package_say_what_to_do(tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"no split 'dev'. Allowed: train, valid, test"):
        qm9.load_qm9("dev")
    monkeypatch.setattr(qm9, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r'pip install "gaga-adapter\[data\]"'):
        qm9.load_qm9(cache_dir=tmp_path)
