"""Molecules of other packages, known by what their parts are called."""

from __future__ import annotations

from collections import namedtuple

import numpy as np
import pytest
import torch

from gaga_adapter.errors import DataError
from gaga_adapter.molecules.data import MoleculeSet
from gaga_adapter.molecules.formats import read_molecules, stream_molecules

CO2 = ([[0.0, 0.0, 0.0], [0.0, 0.0, 1.16], [0.0, 0.0, -1.16]], [6, 8, 8])
HCL = ([[0.5, 0.25, 0.0], [0.5, 0.25, 1.27]], [17, 1])
TWO = MoleculeSet.from_list([CO2, HCL], "two")


def same(one, other=TWO):
    np.testing.assert_array_equal(one.atomic_numbers, other.atomic_numbers)
    np.testing.assert_allclose(one.positions, other.positions, atol=1e-6)


class Data:
    """As torch_geometric.data.Data: attributes, keys by name, a length that counts attributes."""

    def __init__(self, **parts):
        self.__dict__.update(parts)

    def __len__(self):
        return len(self.__dict__)

    def __getitem__(self, key):
        return self.__dict__[key]

    def keys(self):
        return self.__dict__.keys()


class InMemoryDataset:
    """As torch_geometric's: indexed, and its attributes are those of all molecules in a row."""

    def __init__(self, items):
        self._items, self.loaded = items, []

    def __len__(self):
        return len(self._items)

    def __getitem__(self, index):
        self.loaded.append(index)
        return self._items[index]

    def __getattr__(self, name):
        if name in ("pos", "z"):
            return torch.cat([getattr(item, name) for item in self._items])
        raise AttributeError(name)


def data(molecule):
    positions, numbers = molecule
    return Data(pos=torch.tensor(positions), z=torch.tensor(numbers), y=torch.zeros(1, 19))


def test_data_sets_of_pytorch_geometric():
    same(read_molecules([data(CO2), data(HCL)]))
    same(read_molecules(data(CO2)), TWO.subset([0]))
    dataset = InMemoryDataset([data(CO2), data(HCL)])
    same(read_molecules(dataset))
    dataset.loaded.clear()
    same(MoleculeSet.concatenate(list(stream_molecules(dataset, 1, share=(1, 2)))), TWO.subset([1]))
    assert dataset.loaded == [0, 1]  # the first to see what these are, then its share


def test_real_pytorch_geometric():
    geometric = pytest.importorskip("torch_geometric.data")
    items = [geometric.Data(pos=torch.tensor(x), z=torch.tensor(z)) for x, z in (CO2, HCL)]

    class Set(geometric.InMemoryDataset):
        def __init__(self):
            super().__init__(None)
            self.data, self.slices = self.collate(items)

    same(read_molecules(items))
    same(read_molecules(Set()))


@pytest.mark.parametrize(
    ("positions", "numbers"),
    [
        ("positions", "atomic_numbers"),
        ("pos", "z"),
        ("coordinates", "species"),
        ("coords", "atoms"),
    ],
)
def test_rows_of_hugging_face_datasets(positions, numbers):
    symbols = {6: "C", 8: "O", 17: "Cl", 1: "H"}
    name = (lambda z: symbols[z]) if numbers in ("species", "atoms") else (lambda z: z)
    rows = [
        {"id": "x", positions: x, numbers: [name(one) for one in z], "smiles": "C"}
        for x, z in (CO2, HCL)
    ]
    same(read_molecules(rows))
    assert read_molecules(rows).smiles == ("C", "C")
    same(read_molecules(iter(rows)))
    same(read_molecules(row for row in rows))


def test_real_hugging_face_datasets():
    datasets = pytest.importorskip("datasets")
    rows = {"positions": [CO2[0], HCL[0]], "atomic_numbers": [CO2[1], HCL[1]]}
    same(read_molecules(datasets.Dataset.from_dict(rows)))
    same(read_molecules(datasets.Dataset.from_dict(rows).to_iterable_dataset()))
    with pytest.raises(DataError, match="mapping with the keys train"):
        read_molecules(datasets.DatasetDict(train=datasets.Dataset.from_dict(rows)))


def test_atoms_of_ase_and_molecules_of_rdkit():
    ase = pytest.importorskip("ase")
    atoms = [ase.Atoms(numbers=z, positions=x) for x, z in (CO2, HCL)]
    same(read_molecules(atoms))
    same(read_molecules(atoms[0]), TWO.subset([0]))
    from gaga_adapter.molecules.metrics.chemistry import to_rdkit

    same(read_molecules(to_rdkit(TWO)))
    same(read_molecules(to_rdkit(TWO)[1]), TWO.subset([1]))


def test_pairs_named_tuples_and_arrays():
    Row = namedtuple("Row", ["pos", "z", "energy"])
    same(read_molecules([CO2, HCL]))
    same(read_molecules([Row(*CO2, 0.0), Row(*HCL, 1.0)]))
    same(read_molecules([{"pos": np.array(x), "z": np.array(z)[:, None]} for x, z in (CO2, HCL)]))
    same(read_molecules([TWO.subset([0]), TWO.subset([1])]))
    half = [(torch.tensor(x, dtype=torch.bfloat16), torch.tensor(z)) for x, z in (HCL,)]
    assert read_molecules(half).n_atoms.tolist() == [2]


def test_an_iterator_is_passed_once_and_a_data_set_as_often_as_one_likes():
    stream = stream_molecules(iter([CO2, HCL]))
    assert sum(map(len, stream)) == 2
    with pytest.raises(DataError, match="no molecules"):
        list(stream)


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        ([{"pos": CO2[0]}], r"molecule 0 is a dict of pos; need positions \(pos or .*\(z or"),
        ([CO2, ([[0, 0]], [1])], r"molecule 1 has positions \(1, 2\)"),
        ([CO2, ([[0, 0, 0]], ["Qq"])], r"molecule 1 has an unknown element 'Qq'"),
        ([CO2, ([[0, 0, 0], [0, 0]], [1, 1])], r"molecule 1 has no arrays of numbers"),
        ([CO2, ([[0, 0, 0]], [0])], r"molecule 1 has an atomic number that is not one of 1 to 118"),
        ([CO2, ([[0, 0, np.nan]], [1])], r"molecule 1 has NaN"),
        ([CO2, None], r"molecule 1 is a NoneType of no names"),
        ({"train": [CO2]}, r"mapping with the keys train"),
        (7, r"got int, no molecules"),
        ([], r"no source of molecules"),
    ],
)
def test_objects_that_are_no_molecules(objects, message):
    with pytest.raises(DataError, match=message):
        read_molecules(objects)


def graph(molecule, **more):
    """As a graph of atomic-datasets: `species` are places in the list of its data set."""
    positions, numbers = molecule
    kinds = np.array([0 if number == 1 else 1 for number in numbers])
    nodes = {"positions": np.array(positions), "species": kinds, **more}
    properties = {"smiles": "C"}
    return {"nodes": nodes, "edges": None, "n_node": np.array([len(numbers)]), "globals": None,
            "properties": properties}  # fmt: skip


def test_graphs_of_atomic_datasets():
    graphs = [graph(one, atomic_numbers=np.array(one[1])) for one in (CO2, HCL)]
    read = read_molecules(graphs)
    same(read)
    assert read.smiles == ("C", "C")
    same(read_molecules(graphs[0]), TWO.subset([0]))
    symbols = {6: "C", 8: "O", 17: "Cl", 1: "H"}
    named = [graph(one, atom_types=np.array([symbols[z] for z in one[1]])) for one in (CO2, HCL)]
    same(read_molecules(named))


def test_species_of_a_graph_are_not_taken_for_atomic_numbers():
    with pytest.raises(DataError, match="molecule 0 is a dict of nodes, edges"):
        read_molecules([graph(CO2)])


def test_graphs_of_jraph():
    """The same dictionary of nodes, as an attribute."""
    tuple_of = namedtuple("GraphsTuple", "nodes edges receivers senders globals n_node n_edge")
    graphs = []
    for one in (CO2, HCL):
        made = graph(one, atomic_numbers=np.array(one[1]))
        graphs.append(tuple_of(made["nodes"], None, None, None, made["properties"], 1, 0))
    same(read_molecules(graphs))
