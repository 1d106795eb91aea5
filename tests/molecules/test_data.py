"""The padded set of molecules, and its encoding to channels and back."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from gaga_adapter.elements import SYMBOLS, atomic_number
from gaga_adapter.errors import DataError, StatsMismatchError
from gaga_adapter.layout import MoleculeLayout
from gaga_adapter.molecules.data import MoleculeSet
from gaga_adapter.molecules.encoding import decode, encode

WATER = ([[0.0, 0.0, 0.12], [0.0, 0.76, -0.48], [0.0, -0.76, -0.48]], [8, 1, 1])
HYDROGEN = ([[1.0, 2.0, 3.0], [1.0, 2.0, 3.74]], [1, 1])
FLUORIDE = ([[5.0, 0.0, 0.0], [5.9, 0.0, 0.0]], [9, 1])
THREE = MoleculeSet.from_list([WATER, HYDROGEN, FLUORIDE], "three", ("O", "[H][H]", "F"))
LAYOUT = MoleculeLayout(position_scale=2.0, onehot_scale=4.0, charge_scale=10.0)


def test_elements_agree_with_rdkit():
    table = pytest.importorskip("rdkit.Chem").GetPeriodicTable()
    assert len(SYMBOLS) == 119
    assert all(table.GetElementSymbol(z) == SYMBOLS[z] for z in range(1, 119))
    assert atomic_number("cl") == atomic_number("CL") == atomic_number("17") == 17


def test_a_set_is_padded_and_counts_its_atoms():
    assert THREE.positions.shape == (3, 3, 3)
    assert THREE.positions.dtype == np.float32
    assert THREE.atomic_numbers.dtype == np.uint8
    assert THREE.n_atoms.tolist() == [3, 2, 2]
    assert len(THREE) == 3
    x, z = THREE.molecule(2)
    np.testing.assert_array_equal(x, np.float32(FLUORIDE[0]))
    assert z.tolist() == [9, 1]


def test_a_subset_keeps_order_and_drops_needless_padding():
    part = THREE.subset([2, 1])
    assert part.positions.shape == (2, 2, 3)
    assert part.smiles == ("F", "[H][H]")
    assert THREE.subset(slice(2)).smiles == ("O", "[H][H]")


def test_concatenation_is_the_inverse_of_taking_parts():
    whole = MoleculeSet.concatenate([THREE.subset([0]), THREE.subset([1, 2])])
    np.testing.assert_array_equal(whole.positions, THREE.positions)
    np.testing.assert_array_equal(whole.atomic_numbers, THREE.atomic_numbers)
    assert whole.smiles == THREE.smiles
    assert whole.name == "three+three"
    nameless = MoleculeSet.from_list([WATER])
    assert MoleculeSet.concatenate([THREE, nameless], "both").smiles is None


def test_batches_cover_the_set_once_in_the_order_of_the_generator():
    many = MoleculeSet.from_list([([[float(i), 0, 0]], [1]) for i in range(1, 11)])
    assert [len(b) for b in many.batches(4)] == [4, 4, 2]
    in_order = np.concatenate([b.positions[:, 0, 0] for b in many.batches(4)])
    assert in_order.tolist() == list(range(1, 11))
    drawn = [
        np.concatenate(
            [b.positions[:, 0, 0] for b in many.batches(4, torch.Generator().manual_seed(seed))]
        ).tolist()
        for seed in (0, 0, 1)
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    assert sorted(drawn[0]) == sorted(drawn[2]) == in_order.tolist()


def _arrays():
    return THREE.positions.copy(), THREE.atomic_numbers.copy()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_coordinates_that_are_not_finite_are_refused_by_index(value):
    positions, numbers = _arrays()
    positions[1, 0, 2] = value
    with pytest.raises(DataError, match=r"mine: molecule 1 has NaN or infinite coordinates"):
        MoleculeSet(positions, numbers, "mine")


def test_faulty_sets_are_refused_by_cause():
    positions, numbers = _arrays()
    with pytest.raises(DataError, match="no molecules"):
        MoleculeSet(positions[:0], numbers[:0])
    with pytest.raises(DataError, match="no molecules"):
        MoleculeSet.from_list([])
    with pytest.raises(DataError, match="no molecules"):
        THREE.subset([])
    with pytest.raises(DataError, match=r"positions \(3, 3, 3\) do not fit"):
        MoleculeSet(positions, numbers[:2])
    with pytest.raises(DataError, match="1 SMILES for 3 molecules"):
        MoleculeSet(positions, numbers, smiles=("O",))
    positions, numbers = _arrays()
    numbers[2, 0] = 0
    with pytest.raises(DataError, match="molecule 2 has a gap in its atomic numbers"):
        MoleculeSet(positions, numbers)
    positions, numbers = _arrays()
    numbers[1] = 0
    with pytest.raises(DataError, match="molecule 1 has no atoms"):
        MoleculeSet(positions, numbers)
    positions, numbers = _arrays()
    positions[2, 2, 0] = 1.0
    with pytest.raises(DataError, match="molecule 2 has coordinates in its padding"):
        MoleculeSet(positions, numbers)
    with pytest.raises(DataError, match="molecule 1 has an atomic number outside 1 to 118"):
        MoleculeSet.from_list([WATER, ([[0, 0, 0]], [300])])
    with pytest.raises(DataError, match=r"molecule 0 has positions \(1, 2\)"):
        MoleculeSet.from_list([([[0, 0]], [1])])


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        ("numbers", -1, "molecule 1 has an atomic number that is not one of 0 to 118"),
        ("numbers", 119, "molecule 1 has an atomic number that is not one of 0 to 118"),
        ("numbers", 6.5, "molecule 1 has an atomic number that is not one of 0 to 118"),
        ("positions", 1e39, "molecule 1 has NaN or infinite coordinates"),
        ("positions", "x", "Allowed: numbers"),
    ],
)
def test_numbers_that_the_arrays_cannot_hold_are_refused(where, value, message):
    positions, numbers = _arrays()
    kind = str if value == "x" else np.float64
    arrays = {"positions": positions.astype(kind), "numbers": numbers.astype(np.float64)}
    arrays[where][1, 0] = value
    with pytest.raises(DataError, match=message):
        MoleculeSet(arrays["positions"], arrays["numbers"])


@pytest.mark.parametrize(
    "arguments",
    [
        {"elements": ()},
        {"elements": ("H", "C", "H")},
        {"position_scale": 0.0},
        {"onehot_scale": math.nan},
        {"charge_scale": -1.0},
    ],
    ids=str,
)
def test_layouts_that_make_no_sense(arguments):
    with pytest.raises(DataError, match=f"{next(iter(arguments))}"):
        MoleculeLayout(**arguments)


def test_encoding_is_what_the_layout_says():
    x, mask = encode(THREE, LAYOUT)
    assert x.dtype == torch.float32
    assert mask.tolist() == [[True] * 3, [True, True, False], [True, True, False]]
    assert x.shape == (3, 3, 3 + 5 + 1)
    assert (x[~mask] == 0).all()
    # by hand: hydrogen, bond of 0.74 angstrom along z, divided by 2
    torch.testing.assert_close(x[1, :2, :3], torch.tensor([[0, 0, -0.185], [0, 0, 0.185]]))
    assert x[2, 0, 3:].tolist() == pytest.approx([0, 0, 0, 0, 0.25, 0.9])
    assert x[:, :, :3].sum(dim=1).abs().max() < 1e-6


def test_decoding_inverts_encoding_up_to_the_centre():
    x, mask = encode(THREE, LAYOUT)
    decoded = decode(x, mask, LAYOUT)
    np.testing.assert_array_equal(decoded.atomic_numbers, THREE.atomic_numbers)
    for index in range(3):
        there, _ = THREE.molecule(index)
        back, _ = decoded.molecule(index)
        np.testing.assert_allclose(back, there - there.mean(axis=0), atol=1e-6)


def test_decoding_takes_the_largest_channel_and_any_mask():
    layout = MoleculeLayout(elements=("C", "O"))
    x = torch.zeros(1, 3, 5, dtype=torch.float64)
    x[0, 0, 3:] = torch.tensor([-0.3, -0.1])
    x[0, 2, 3:] = torch.tensor([0.2, 0.1])
    decoded = decode(x, torch.tensor([[True, False, True]]), layout)
    assert decoded.atomic_numbers.tolist() == [[8, 6]]


def test_foreign_elements_and_channels_are_refused():
    with pytest.raises(DataError, match=r"molecule 2 has the element F. Allowed: H, O"):
        encode(THREE, MoleculeLayout(elements=("H", "O")))
    x, mask = encode(THREE, LAYOUT)
    with pytest.raises(StatsMismatchError, match="got 9 channels, the layout has 8"):
        decode(x, mask, MoleculeLayout())
    x[1, 0, 0] = torch.nan
    with pytest.raises(DataError, match="molecule 1 has NaN"):
        decode(x, mask, LAYOUT)


@pytest.mark.parametrize("batch_size", [0, -1, 2.5, True, None])
def test_sizes_of_batches_that_are_none(batch_size):
    """A negative one gave no molecule, without a word."""
    molecules = MoleculeSet.from_list([([[0, 0, 0]], [1])] * 3)
    with pytest.raises(DataError, match="batch_size="):
        list(molecules.batches(batch_size))
    assert [len(part) for part in molecules.batches(np.int64(2))] == [2, 1]
