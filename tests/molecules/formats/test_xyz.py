"""XYZ files as chemists have them, against ase where it reads them."""

from __future__ import annotations

import numpy as np
import pytest

from gaga_adapter.errors import DataError, GAGAWarning
from gaga_adapter.molecules.formats import read_molecules

# As in dsgdb9nsd_000002.xyz of QM9: tabs, Mulliken charges, and three lines behind the atoms.
AMMONIA = """4
gdb 2\t293.60975\t293.54111\t191.39397\t1.6256\t9.46\t-0.257\t0.0829\t0.3399\t26.1563\t0.034358\t-56.525887\t-56.523026\t-56.522082\t-56.544961\t6.316\t
N\t-0.0404260543\t 1.0241077531\t 0.0625637998\t-0.707143
H\t 0.0172574639\t 0.0125452063\t-0.027377159\t 0.235712
H\t 0.9157893661\t 1.3587451948\t-2.8757780000*^-6\t 0.235712
H\t-0.5202777357\t 1.3435321258\t-0.7755426124\t 0.235712
1103.8733\t1684.1158\t1684.3072\t3458.7145\t3579.8715\t3580.2063
N\tN\t
InChI=1S/H3N/h1H3\tInChI=1S/H3N/h1H3
"""  # noqa: E501
HYDROGEN = """2
gdb 9\t0
H\t0.0\t0.0\t0.37\t0.0
H\t0.0\t0.0\t-0.37\t0.0
4401.21
[H][H]\t[H][H]\t
InChI=1S/H2/h1H\tInChI=1S/H2/h1H
"""


def read(tmp_path, text, **how):
    (tmp_path / "a.xyz").write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_molecules(tmp_path / "a.xyz", **how)


def test_the_original_files_of_qm9(tmp_path):
    read_back = read(tmp_path, AMMONIA + HYDROGEN + AMMONIA)
    assert read_back.n_atoms.tolist() == [4, 2, 4]
    positions, numbers = read_back.molecule(2)
    assert numbers.tolist() == [7, 1, 1, 1]
    np.testing.assert_allclose(positions[2], [0.9157893661, 1.3587451948, -2.875778e-6], rtol=1e-6)


def test_what_follows_the_atoms_is_read_around_only_where_it_is_qm9s(tmp_path):
    with pytest.raises(DataError, match=r"molecule 1, line 7: got '1103.8733"):
        read(tmp_path, AMMONIA.replace("InChI=", ""))
    with pytest.raises(DataError, match=r"molecule 0, line 1: got '4401.21'"):
        read(tmp_path, "".join(HYDROGEN.splitlines(True)[4:]) + HYDROGEN)


@pytest.mark.parametrize(
    "number", ["0.1D+01", "1.0d0", "1.0*^0", "10.E-1", "+1", "1.", ".1e1", "0.1E+01"]
)
def test_numbers_of_every_language(tmp_path, number):
    assert read(tmp_path, f"1\n\nC {number} 0 0\n").positions[0, 0, 0] == 1.0


@pytest.mark.parametrize("number", ["1_0", "1,5", "0x10", "1.0.0", "--1", "1D", "", "nan(1)"])
def test_what_is_no_number(tmp_path, number):
    with pytest.raises(DataError, match=r"molecule 0 has in line 3 'C .*', need `element x y z`"):
        read(tmp_path, f"1\n\nC {number} 0\n")


@pytest.mark.parametrize(
    ("symbol", "number"),
    [("Cl", 17), ("CL", 17), ("cl", 17), ("17", 17), ("C12", 6), ("Cl1", 17), ("H1", 1)],
)
def test_symbols_labels_and_numbers(tmp_path, symbol, number):
    assert read(tmp_path, f"1\n\n{symbol} 0 0 0\n").atomic_numbers.tolist() == [[number]]


def test_isotopes_of_hydrogen_are_counted(tmp_path):
    text = "3\n\nO 0 0 0\nD 0 0 1\nT 0 1 0\n1\n\nH 0 0 0\n"
    with pytest.warns(GAGAWarning, match="^1 molecules have isotopes in the file: these are"):
        assert read(tmp_path, text).atomic_numbers.tolist() == [[8, 1, 1], [1, 0, 0]]


@pytest.mark.parametrize("symbol", ["X", "Xx", "Bq", "Gh", "DA", "H-Bq", "H:", "C@", "Gh(C)", "Q"])
def test_dummies_and_ghosts_are_named_as_such(tmp_path, symbol):
    with pytest.raises(DataError, match=r"in line 4 the symbol '.*' of a dummy or ghost atom"):
        read(tmp_path, f"2\n\nC 0 0 0\n{symbol} 0 0 1\n")


@pytest.mark.parametrize("symbol", ["CA1", "13C", "0", "119", "1000", "6.0", "²"])
def test_what_is_no_element(tmp_path, symbol):
    with pytest.raises(DataError, match=r"has in line 3 an unknown element"):
        read(tmp_path, f"1\n\n{symbol} 0 0 0\n")


def test_a_column_that_counts_the_atoms_is_no_column_of_elements(tmp_path):
    rows = [(1, 6, 0.0), (2, 1, 1.1), (3, 1, -1.1)]
    text = "3\n\n" + "".join(f"{k} {z} {x} 0 0\n" for k, z, x in rows)
    with pytest.raises(DataError, match=r"molecule 0 begins in line 1: its first column counts"):
        read(tmp_path, text)


def test_frames_without_atoms_can_be_left_out(tmp_path):
    text = "1\n\nC 0 0 0\n0\nnothing\n2\n\nH 0 0 0\nH 0 0 1\n"
    with pytest.raises(DataError, match=r"molecule 1 begins in line 4: it has no atoms"):
        read(tmp_path, text)
    with pytest.warns(GAGAWarning, match=r"skipped 1 of 3"):
        assert read(tmp_path, text, skip_bad=True).n_atoms.tolist() == [1, 2]


@pytest.mark.parametrize("count", ["1000000000", "9" * 5000, "-3", "3.0", "3 atoms", "٣"])
def test_a_count_that_is_none_is_refused_before_anything_is_read(tmp_path, count):
    with pytest.raises(DataError, match=r"molecule 0, line 1: got .*, need the number of atoms"):
        read(tmp_path, f"{count}\n\n" + "C 0 0 0\n" * 3)


@pytest.mark.parametrize(
    "properties", ["species:S:1:pos:R:2", "species:S:1", "pos:R:3", "species:S:1:pos:R:x", ":::"]
)
def test_columns_that_hold_no_molecule(tmp_path, properties):
    with pytest.raises(DataError, match=r"molecule 0 has the columns"):
        read(tmp_path, f"1\nProperties={properties}\nC 0 0 0\n")


TEXTS = {
    "tabs and blanks": "2\n\tcomment\n  C\t0.5  0 0  \nO 0 0 1.2 9 9 9\n",
    "sizes": "1\n\nHe 0 0 0\n3\n\nO 0 0 0\nH 0 0 1\nH 0 1 0\n2\nx\nC 1 2 3\nO 0 0 1\n",
    "dos": "2\r\nx\r\nC 0 0 0\r\nO 0 0 1.2\r\n",
    "velocities": '1\nProperties=species:S:1:pos:R:3:vel:R:3 note="a b"\nC 1 2 3 4 5 6\n',
    "masses first": "1\nProperties=masses:R:1:pos:R:3:species:S:1\n12.0 1 2 3 C\n",
    "no newline": "1\n\nC 0 0 0",
}


@pytest.mark.parametrize("name", TEXTS)
def test_agrees_with_ase(tmp_path, name):
    io = pytest.importorskip("ase.io")
    molecules = read(tmp_path, TEXTS[name])
    kind = "extxyz" if "Properties" in TEXTS[name] else "xyz"
    images = io.read(tmp_path / "a.xyz", ":", format=kind)
    assert len(images) == len(molecules)
    for index, image in enumerate(images):
        positions, numbers = molecules.molecule(index)
        assert numbers.tolist() == image.numbers.tolist()
        np.testing.assert_allclose(positions, image.positions, rtol=1e-6, atol=1e-6)
