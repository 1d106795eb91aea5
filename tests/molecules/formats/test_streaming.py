"""Batches: what is in them, who reads them, what they cost, and what is left out of them."""

from __future__ import annotations

import gc
import itertools
import tracemalloc
import weakref

import numpy as np
import pytest
import torch

from gaga_adapter.errors import DataError, GAGAWarning
from gaga_adapter.layout import MoleculeLayout
from gaga_adapter.molecules.data import MoleculeSet
from gaga_adapter.molecules.encoding import encode
from gaga_adapter.molecules.formats import Record, read_molecules, stream_molecules, write_sdf
from gaga_adapter.molecules.formats.record import Format
from gaga_adapter.molecules.formats.streaming import MoleculeStream
from gaga_adapter.streaming import collect


def chains(n, seed=0):
    rng = np.random.default_rng(seed)
    pairs = []
    for _ in range(n):
        size = int(rng.integers(2, 7))
        numbers = np.append(rng.choice([1, 6, 8], size=size - 1), 1)
        pairs.append((np.cumsum(rng.normal((1.1, 0, 0), size=(size, 3)), axis=0), numbers))
    return MoleculeSet.from_list(pairs, "chains")


def xyz(molecules):
    from gaga_adapter.elements import SYMBOLS

    text = []
    for index in range(len(molecules)):
        positions, numbers = molecules.molecule(index)
        rows = zip(numbers, positions, strict=True)
        text.append(f"{len(numbers)}\nmolecule {index}\n")
        text += [f"{SYMBOLS[z]} {x[0]:.6f} {x[1]:.6f} {x[2]:.6f}\n" for z, x in rows]
    return "".join(text)


@pytest.fixture
def folder(tmp_path):
    """25 molecules in three formats: 10, 5 and 10."""
    whole = chains(25)
    (tmp_path / "1.xyz").write_text(xyz(whole.subset(slice(10))))
    part = whole.subset(slice(10, 15))
    np.savez(
        tmp_path / "2.npz",
        num_atoms=part.n_atoms,
        charges=part.atomic_numbers,
        positions=part.positions,
    )
    write_sdf(whole.subset(slice(15, 25)), tmp_path / "3.sdf")
    return tmp_path, whole


def same(one, other):
    np.testing.assert_array_equal(one.atomic_numbers, other.atomic_numbers)
    np.testing.assert_allclose(one.positions, other.positions, atol=1e-4)


def test_batches_run_on_from_file_to_file(folder):
    path, whole = folder
    stream = stream_molecules(path, batch_size=7)
    for _ in range(2):  # a stream can be passed again
        batches = list(stream)
        assert [len(batch) for batch in batches] == [7, 7, 7, 4]
        same(MoleculeSet.concatenate(batches), whole)
    assert stream.tally.n_molecules == 25
    assert stream.total is None
    assert stream_molecules([whole, whole]).total == 50


@pytest.mark.parametrize("in_memory", [False, True])
@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_processes_read_every_batch_once(folder, count, in_memory):
    path, whole = folder
    sources = whole if in_memory else path
    alone = list(stream_molecules(sources, batch_size=7))
    shares = [list(stream_molecules(sources, 7, share=(r, count))) for r in range(count)]
    dealt = [
        batch for turn in itertools.zip_longest(*shares) for batch in turn if batch is not None
    ]
    assert [len(batch) for batch in dealt] == [7, 7, 7, 4]
    for one, other in zip(dealt, alone, strict=True):
        same(one, other)


class Counted(Format[int]):
    """A source without end in sight, which notes what was made of it."""

    def __init__(self, n):
        self.name, self._n, self.parsed = "counted", n, []
        self.live = weakref.WeakSet()

    def records(self):
        return iter(range(self._n))

    def molecule(self, piece, index):
        self.parsed.append(piece)
        record = Record.of([[0, 0, 0], [1 + piece % 7, 0, 0]], [6, 1])
        self.live.add(record)
        return record


def stream_of(source, batch_size, share=(0, 1), skip_bad=False):
    return MoleculeStream([source], batch_size, None, "keep", skip_bad, share)


def test_a_process_makes_nothing_of_the_batches_of_others():
    source = Counted(20)
    assert [len(batch) for batch in stream_of(source, 4, (1, 3))] == [4, 4]
    assert source.parsed == [*range(4, 8), *range(16, 20)]


def test_no_more_than_a_batch_is_alive():
    """Whatever the number of molecules: records and batches of the past are gone."""
    source = Counted(3000)
    batches = weakref.WeakSet()
    most_records = most_batches = 0
    for batch in stream_of(source, 50):
        batches.add(batch)
        del batch
        most_records = max(most_records, len(source.live))
        most_batches = max(most_batches, len(batches))
    assert len(source.parsed) == 3000
    assert most_records <= 2 * 50
    assert most_batches <= 2


@pytest.mark.parametrize("kind", ["xyz", "sdf", "npz", "npy"])
def test_memory_does_not_grow_with_the_file(tmp_path, kind, monkeypatch):
    monkeypatch.setattr("gaga_adapter.molecules.formats.npz._ROWS", 64)
    monkeypatch.setattr("gaga_adapter.molecules.formats.flat._ATOMS", 64)
    one = chains(150)

    def peak(times):
        many = MoleculeSet.concatenate([one] * times, "many")
        if kind == "sdf":
            write_sdf(many, tmp_path / "a.sdf")
        elif kind == "xyz":
            (tmp_path / "a.xyz").write_text(xyz(many))
        elif kind == "npy":
            index = np.repeat(np.arange(len(many)), many.n_atoms)
            numbers, positions = many.atomic_numbers[many.mask], many.positions[many.mask]
            np.save(tmp_path / "a.npy", np.column_stack([index, numbers, positions]))
        else:
            arrays = {"charges": many.atomic_numbers, "positions": many.positions}
            np.savez(tmp_path / "a.npz", num_atoms=many.n_atoms, **arrays)
        del many
        stream = stream_molecules(tmp_path / f"a.{kind}", batch_size=50)
        next(iter(stream))  # imports and caches
        gc.collect()
        tracemalloc.start()
        n = sum(len(batch) for batch in stream)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert n == 150 * times
        return most

    small, large = peak(1), peak(10)
    assert large < 1.3 * small + 50_000  # the tenfold file alone has 200 kB or more


def test_a_pass_over_a_stream_finds_what_it_finds_in_memory(tmp_path):
    whole = chains(600)
    (tmp_path / "a.xyz").write_text(xyz(whole))
    layout = MoleculeLayout(("H", "C", "O"))
    stream = stream_molecules(tmp_path / "a.xyz", batch_size=64, elements=layout.elements)

    def collected(batches):
        generator = torch.Generator().manual_seed(0)
        found = collect((encode(one, layout) for one in batches), layout, 200, generator=generator)
        return found.moments.state_dict(), found.x

    one = collected(stream)
    two = collected(read_molecules(tmp_path / "a.xyz").batches(64))
    for key, value in one[0].items():
        torch.testing.assert_close(value, two[0][key])
    torch.testing.assert_close(one[1], two[1])
    assert int(one[0]["count"].sum()) == 600


BROKEN = """1
first
H 0 0 0
2
second
H 0 0 0
Qq 0 0 1
1
third
C 0 0 zero
2
fourth
C 0 0 0
H 0 nan 0
1
fifth
O 1 2 3
2
sixth
C 0 0 0
"""


def test_malformed_molecules_are_named_or_skipped_and_counted(tmp_path):
    file = tmp_path / "a.xyz"
    file.write_text(BROKEN)
    with pytest.raises(DataError, match=r"a.xyz: molecule 1 has in line 7 an unknown .*--skip-bad"):
        read_molecules(file)
    stream = stream_molecules(file, batch_size=2, skip_bad=True)
    said = (
        r"skipped 4 of 6 molecules \(4 malformed\): .*a.xyz: molecule 1 .*; .*molecule 2 has in "
        r"line 10 .*; .*molecule 3 has NaN .*; and 1 more"
    )
    with pytest.warns(GAGAWarning, match=said):
        batches = list(stream)
    assert [batch.atomic_numbers.tolist() for batch in batches] == [[[1]], [[8]]]
    assert (stream.tally.n_molecules, stream.tally.n_malformed) == (2, 4)
    assert len(stream.tally.examples) == 3
    assert stream.found_elements() == ("H", "O")
    with pytest.warns(GAGAWarning):
        assert len(read_molecules(file, skip_bad=True)) == 2


def test_a_file_that_loses_its_order_cannot_be_skipped_through(tmp_path):
    (tmp_path / "a.xyz").write_text("1\n\nH 0 0 0\nH 0 0 0\n1\n\nH 0 0 0\n")
    with pytest.raises(DataError, match=r"molecule 1, line 4: got 'H 0 0 0', need the number of"):
        read_molecules(tmp_path / "a.xyz", skip_bad=True)


def test_nothing_left_is_an_error(tmp_path):
    (tmp_path / "a.xyz").write_text("1\n\nQq 0 0 0\n")
    with pytest.raises(DataError, match=r"no molecule is left. skipped 1 of 1 molecules"):
        read_molecules(tmp_path / "a.xyz", skip_bad=True)


def test_elements_are_looked_up_in_one_pass(folder):
    path, whole = folder
    assert stream_molecules(path).found_elements() == ("H", "C", "O")
    assert stream_molecules(path, hydrogens="remove").found_elements() == ("C", "O")
    assert stream_molecules(whole).found_elements() == ("H", "C", "O")


def test_molecules_with_other_elements_are_left_out_and_counted(folder):
    path, whole = folder
    kept = [i for i in range(len(whole)) if not (whole.atomic_numbers[i] == 8).any()]
    assert 0 < len(kept) < len(whole)
    for sources in (path, whole):
        stream = stream_molecules(sources, 4, elements=("C", "H"), skip_others=True)
        n = 25 - len(kept)
        said = rf"skipped {n} of 25 .* \({n} with other .*molecule \d+ has O;"
        with pytest.warns(GAGAWarning, match=said):
            batches = list(stream)
        found = [tuple(n[n > 0]) for batch in batches for n in batch.atomic_numbers]
        assert found == [tuple(n[n > 0]) for n in whole.atomic_numbers[kept]]
        assert (stream.tally.n_molecules, stream.tally.n_others) == (len(kept), 25 - len(kept))
        assert [tuple(one.atomic_numbers) for one in stream.records()] == found
        with pytest.warns(GAGAWarning):  # the shares of three processes are those of one
            shares = [list(stream.shared(index, 3)) for index in range(3)]
        assert sum(len(batch) for share in shares for batch in share) == len(kept)
        with pytest.warns(GAGAWarning):
            assert len(read_molecules(sources, ("C", "H"), skip_others=True)) == len(kept)
        with pytest.raises(DataError, match=r"no molecule is left. skipped 25 of 25 molecules"):
            read_molecules(sources, ("N",), skip_others=True)
        with pytest.raises(DataError, match="leaves nothing out without elements"):
            stream_molecules(sources, skip_others=True)
    with pytest.warns(GAGAWarning):  # hydrogens that go are no other element
        heavy = read_molecules(path, ("C",), "remove", skip_bad=True, skip_others=True)
    assert set(np.unique(heavy.atomic_numbers)) <= {0, 6}


def test_foreign_elements_are_named_by_their_place_in_any_batch(folder):
    path, whole = folder
    for sources in (path, whole):
        with pytest.raises(DataError, match=r"molecule \d+ has the element O. Allowed: C, H"):
            list(stream_molecules(sources, 4, elements=("C", "H")))
    numbers = whole.atomic_numbers.copy()
    numbers[21, 0] = 16
    sulphur = MoleculeSet(whole.positions, numbers, "sulphur")
    with pytest.raises(DataError, match=r"sulphur: molecule 21 has the .* S. .*--elements H,C,O,S"):
        list(stream_molecules(sulphur, 4, elements=("C", "H", "O")))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"share": (2, 2)}, r"share=\(2, 2\)"),
        ({"hydrogens": "some"}, "hydrogens='some'"),
        ({"sources": []}, "no source of molecules"),
    ],
)
def test_arguments_that_make_no_sense(arguments, message):
    with pytest.raises(DataError, match=message):
        stream_molecules(**{"sources": chains(2), **arguments})
