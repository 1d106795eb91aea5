"""Damaged files of every kind: an error of ours or molecules that are sound, and nothing else.

Small files that are right are cut, mixed and overwritten, by hypothesis and in a fixed order of
cases. Whatever comes out must be finite and of known elements, in an amount of memory that the size
of the file bounds, whatever number the file states.
"""

from __future__ import annotations

import gzip
import io
import tracemalloc
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gaga_adapter.elements import SYMBOLS
from gaga_adapter.errors import GAGAError
from gaga_adapter.molecules.formats import read_molecules
from gaga_adapter.molecules.formats.opening import Input
from gaga_adapter.molecules.formats.sdf import SdfFile
from gaga_adapter.molecules.formats.streaming import UNREADABLE
from gaga_adapter.molecules.formats.v2000 import plain_record

CORPUS = {file.name: file.read_bytes() for file in (Path(__file__).parent / "corpus").iterdir()}
#: Numbers, marks and endings that mean something to one format or another.
TOKENS = [
    b"", b"\n", b"\r\n", b"\r", b" ", b"\t", b"\0", b"\x1a", b"\xff\xfe", b"\xef\xbb\xbf", b"\xe9",
    b"$$$$\n", b"M  END\n", b"M  CHG  1   1   1\n", b"M  ISO  1   1   2\n", b"M  RAD  1   1   2\n",
    b"V2000", b"V3000", b"M  V30 BEGIN ATOM\n", b"> <a>\n", b"999", b"1000000000", b"-1", b"0",
    b"nan", b"inf", b"1e400", b"-0", b"1e9", b"*^", b"D+00", b"1_0", b'"', b'""', b",", b";", b"C",
    b"D", b"R#", b"Xx", b"H", b"Properties=species:S:1:pos:R:3", b'Lattice="1 0 0 0 1 0 0 0 1"',
    b"3D", b"2D", b"InChI=", b"4294967296", b"\x1f\x8b", b"BZh9", b"\xfd7zXZ\x00", b"PK\x03\x04",
]  # fmt: skip
FIXED = settings(
    derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)


@st.composite
def damaged(draw, names):
    """A file of the corpus after one to four changes, and its suffix."""
    name = draw(st.sampled_from(sorted(names)))
    data = CORPUS[name]
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        stop = min(len(data), start + draw(st.sampled_from([0, 0, 1, 1, 2, 5, 30, 200])))
        kind = draw(st.integers(0, 3))
        if kind == 0:
            new = draw(st.sampled_from(TOKENS))
        elif kind == 1:
            new = draw(st.binary(max_size=6))
        elif kind == 2:  # the same file again, from somewhere else
            other = draw(st.integers(0, len(data)))
            new = data[other : other + draw(st.sampled_from([1, 3, 40, 300]))]
        else:
            new = bytes(draw(st.sampled_from(b"0123456789 .-+eE")) for _ in range(stop - start))
        data = data[:start] + new + data[stop:]
    return name.rpartition(".")[2], data


def outcome(folder, suffix, data):
    """What is read of a file, or the error; anything else than an error of ours is raised."""
    path = folder / f"a.{suffix}"
    path.write_bytes(data)
    found = []
    for skip_bad in (False, True):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                molecules = read_molecules(path, skip_bad=skip_bad)
            except GAGAError as error:
                found.append(str(error))
                continue
        assert np.isfinite(molecules.positions).all()
        assert molecules.atomic_numbers.max() < len(SYMBOLS)
        assert (molecules.n_atoms > 0).all()
        found.append(molecules)
    if isinstance(found[0], str):  # molecules can be left out, and then all others are there
        assert isinstance(found[1], str) or len(found[1]) > 0
    else:
        np.testing.assert_array_equal(found[0].positions, found[1].positions)
    return found


def names(*suffixes):
    return [name for name in CORPUS if name.endswith(suffixes)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


@settings(FIXED, max_examples=2200)
@given(damaged(names("sdf", "mol")))
def test_damaged_sdf(folder, case):
    outcome(folder, *case)


@settings(FIXED, max_examples=1800)
@given(damaged(names("xyz")))
def test_damaged_xyz(folder, case):
    outcome(folder, *case)


@settings(FIXED, max_examples=1300)
@given(damaged(names("npz")))
def test_damaged_npz(folder, case):
    outcome(folder, *case)


@settings(FIXED, max_examples=500)
@given(damaged(names("npz")), st.sampled_from(["num_atoms", "charges", "positions"]))
def test_damaged_arrays_in_a_sound_archive(folder, case, key):
    """A checksum would catch most damage, so one array is replaced by a damaged one."""
    arrays = {
        "num_atoms": np.array([2, 1]), "charges": np.array([[6, 1], [8, 0]]),
        "positions": np.zeros((2, 2, 3)),
    }  # fmt: skip
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name, array in arrays.items():
            stream = io.BytesIO()
            np.save(stream, array)
            data = bytearray(stream.getvalue())
            if name == key:  # the damage of the case, wherever it differs from its origin
                noise = case[1]
                for place in range(min(len(data), len(noise))):
                    if (place * 7919 + len(noise)) % 23 == 0:
                        data[place] = noise[place]
            archive.writestr(f"{name}.npy", bytes(data))
    outcome(folder, "npz", target.getvalue())


@st.composite
def damaged_table(draw):
    lines = CORPUS["a.csv"].decode().splitlines()
    for _ in range(draw(st.integers(1, 4))):
        row = draw(st.integers(0, len(lines) - 1))
        start = draw(st.integers(0, len(lines[row])))
        mark = draw(
            st.sampled_from(['"', '""', ",", ";", "\t", "\0", "\n", "(", "]", "%", "é", "é\r"])
        )
        lines[row] = lines[row][:start] + mark + lines[row][start + draw(st.integers(0, 3)) :]
    return "\n".join(lines).encode(draw(st.sampled_from(["utf-8", "latin-1", "utf-16"])))


@settings(FIXED, max_examples=500)
@given(damaged_table())
def test_damaged_csv(folder, data):
    """Cut into rows and read as graphs: geometries would take minutes."""
    from gaga_adapter.molecules.formats.smiles import CsvFile

    (folder / "a.csv").write_bytes(data)
    n_rows = len([line for line in read_text(folder / "a.csv").split("\n")[1:] if line.strip()])
    source = CsvFile(Input(folder / "a.csv"), embed=True)
    n_pieces = 0
    try:
        for place, piece in enumerate(source.records()):
            n_pieces += 1
            try:
                assert source.elements(piece, place) <= set(range(len(SYMBOLS)))
            except GAGAError:
                continue
    except (GAGAError, *UNREADABLE):
        return
    assert n_pieces == n_rows  # no row is swallowed by a quote


def read_text(path):
    with Input(path).text() as stream:
        return stream.read()


@settings(FIXED, max_examples=1000)
@given(damaged(names("sdf", "mol")))
def test_a_damaged_record_that_is_still_plain_is_what_rdkit_reads(folder, case):
    path = folder / "b.sdf"
    path.write_bytes(case[1])
    source = SdfFile(Input(path))
    try:
        pieces = list(source.records())
    except (GAGAError, *UNREADABLE):
        return
    for place, piece in enumerate(pieces):
        ours = plain_record(piece[1])
        if ours is not None:
            theirs = source.with_bonds(piece, place)
            np.testing.assert_array_equal(ours.positions, theirs.positions)
            np.testing.assert_array_equal(ours.atomic_numbers, theirs.atomic_numbers)
            assert (ours.is_bare, ours.is_split) == (theirs.is_bare, theirs.is_split)
            assert not theirs.is_charged | theirs.is_radical | theirs.is_isotopic | theirs.is_flat


HOSTILE = {
    "count.xyz": b"1000000000\n\nC 0 0 0\n",
    "allowed.xyz": b"1000000\n\nC 0 0 0\n",
    "columns.xyz": b"1\nProperties=species:S:999999999:pos:R:3\nC 0 0 0\n",
    "counts.sdf": b"\n\n\n999999  0  0  0  0  0  0  0  0999 V2000\nM  END\n$$$$\n",
    "v3000.sdf": b"\n\n\n  0  0  0  0  0  0  0  0  0  0999 V3000\nM  V30 BEGIN CTAB\n"
    b"M  V30 COUNTS 999999999 999999999 0 0 0\nM  V30 BEGIN ATOM\nM  V30 END ATOM\nM  END\n$$$$\n",
    "bomb.xyz.gz": gzip.compress(b"1\n" + b" " * 30_000_000),
    "bomb.sdf.gz": gzip.compress(b"x" * 80_000_000),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_numbers_in_a_file_allocate_nothing(tmp_path, name):
    (tmp_path / name).write_bytes(HOSTILE[name])
    tracemalloc.start()
    with pytest.raises(GAGAError):
        read_molecules(tmp_path / name)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    limit = 500_000_000 if name == "bomb.sdf.gz" else 50_000_000
    assert most < limit  # bytes; a record may have 64 million characters
