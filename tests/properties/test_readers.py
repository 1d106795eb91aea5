"""Molecules that nobody drew go through files of every kind, and through damage to them.

The text of XYZ files is made here, with the digits, line ends, columns and titles that are drawn;
SDF files are written by this package and by rdkit, extended XYZ and databases by ASE. `tests/
molecules/formats/test_fuzz.py` mixes up a corpus of files; here one byte or the end of a file is
lost, so that it is known which molecules must still be read.
"""

import gzip
import warnings

import numpy as np
import pytest
from hypothesis import event, example, given
from hypothesis import strategies as st
from properties.cases import cases

from gaga_adapter.elements import SYMBOLS
from gaga_adapter.errors import DataError, GAGAWarning
from gaga_adapter.molecules.data import MoleculeSet
from gaga_adapter.molecules.formats import read_molecules, stream_molecules, write_sdf

pytestmark = pytest.mark.filterwarnings("ignore::gaga_adapter.errors.GAGAWarning")
COMMON = [1, 1, 1, 6, 6, 7, 8, 9, 15, 16, 17, 35]
numbers = st.one_of(st.sampled_from(COMMON), st.integers(1, 118))
#: Titles of one line, of every alphabet, and of what means something elsewhere.
titles = st.one_of(
    st.text(
        st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"], exclude_characters="\x85"),
        max_size=30,
    ),
    st.sampled_from(["", "$$$$x", "M  END", "> <a>", "3D", "12", 'a "b" c', "Ångström 水 😀"]),
)
line_ends = st.sampled_from(["\n", "\r\n"])


@st.composite
def molecule_lists(draw, digits=4, largest=9e3, least=0.0):
    """Positions (n, 3) with so many decimals, and atomic numbers (n,), of some molecules."""
    made = []
    for _ in range(draw(st.integers(1, 4))):
        n = draw(st.integers(1, 8))
        z = draw(st.lists(numbers, min_size=n, max_size=n))
        scale = draw(st.sampled_from([1.0, 5.0, 100.0, largest]))
        coordinate = st.floats(-scale, scale, allow_subnormal=False)
        x = draw(st.lists(st.tuples(coordinate, coordinate, coordinate), min_size=n, max_size=n))
        made.append((np.round(np.array(x), digits), np.array(z)))
    if least:  # no two atoms of one place, and no flat record, which is a drawing
        made = [(x + least * np.arange(1, len(x) + 1)[:, None], z) for x, z in made]
    return made


def agree(found, made, digits):
    """Elements exactly; positions to the written digits and the rounding of float32."""
    assert found.n_atoms.tolist() == [len(z) for _, z in made]
    for index, (x, z) in enumerate(made):
        positions, kinds = found.molecule(index)
        np.testing.assert_array_equal(kinds, z)
        np.testing.assert_allclose(positions, x, rtol=2**-23, atol=0.51 * 10.0**-digits)


@st.composite
def xyz_texts(draw, digits=6):
    """Molecules, and the text of an XYZ file of them with its quirks."""
    made, end = draw(molecule_lists(digits, 1e5)), draw(line_ends)
    blank, columns = draw(st.sampled_from(["", "  ", "\t"])), draw(st.integers(0, 3))
    extended, lines = draw(st.booleans()), []
    for x, z in made:
        title = draw(titles).replace("=", "_")
        if extended:
            title = 'Properties=species:S:1:pos:R:3:forces:R:3 pbc="F F F" name="' + (
                title.replace('"', "'") + '"'
            )
            columns = 3
        lines += [f"{blank}{len(z)}", title]
        for row, number in zip(x, z, strict=True):
            symbol = draw(
                st.sampled_from(
                    [SYMBOLS[number], SYMBOLS[number].lower(), SYMBOLS[number].upper(), str(number)]
                )
            )
            text = [f"{value:.{digits}f}" for value in row]
            if draw(st.booleans()):
                text = [f"{value:.{digits + 6}e}" for value in row]
                if draw(st.booleans()):
                    text = [one.replace("e", "D") for one in text]
            more = ["0.125"] * columns
            lines.append(draw(st.sampled_from([" ", "\t", "   "])).join([symbol, *text, *more]))
        if draw(st.booleans()):
            lines.append("")
    return made, end.join(lines) + draw(st.sampled_from(["", end]))


@cases(60)
@given(xyz_texts(), st.booleans(), st.booleans())
def test_xyz_text(tmp_path_factory, case, packed, marked):
    made, text = case
    data = text.encode("utf-8-sig" if marked else "utf-8")
    path = tmp_path_factory.mktemp("xyz") / ("a.xyz.gz" if packed else "a.xyz")
    path.write_bytes(gzip.compress(data) if packed else data)
    agree(read_molecules(path), made, 6)


@cases(60)
@given(molecule_lists(4, 9.9e3, least=0.01), titles)
@example([(np.array([[1e4 - 0.01, 0.01, 0.02]]), np.array([6]))], "far")
@example([(np.array([[0.01, 0.01, 0.01]]), np.array([1]))], "$$$$")  # could not be read again
def test_sdf_of_this_package(tmp_path_factory, made, title):
    path = tmp_path_factory.mktemp("sdf") / "a.sdf"
    write_sdf(MoleculeSet.from_list(made, title), path)
    agree(read_molecules(path), made, 4)
    text = path.read_text(encoding="utf-8")
    assert text.count("$$$$\n") >= len(made)
    path.write_bytes(text.replace("\n", "\r\n").encode())
    agree(read_molecules(path), made, 4)


def inside(line):
    """A line that does not end its record, or what stands before its data fields."""
    return f"_{line}" if line.startswith(("$$$$", "M  END")) else line


@cases(40)
@given(molecule_lists(4, 9.9e3, least=0.01), st.data())
def test_sdf_of_rdkit(tmp_path_factory, made, data):
    """V2000 and V3000, with data fields, titles and either line end."""
    from rdkit import Chem
    from rdkit.Geometry import Point3D

    blocks = []
    for x, z in made:
        mol = Chem.RWMol()
        conformer = Chem.Conformer(len(z))
        for row, number in zip(x, z, strict=True):
            atom = Chem.Atom(int(number))
            atom.SetNoImplicit(True)
            conformer.SetAtomPosition(mol.AddAtom(atom), Point3D(*map(float, row)))
        conformer.Set3D(True)
        mol.AddConformer(conformer)
        title = data.draw(titles)
        mol.SetProp("_Name", title if title.startswith("M") else inside(title))
        block = Chem.MolToMolBlock(mol, kekulize=False, forceV3000=data.draw(st.booleans()))
        if data.draw(st.booleans()):
            block += f"> <name>\n{inside(data.draw(titles) or 'none')}\n\n"
        blocks.append(block)
    text = "".join(f"{block}$$$$\n" for block in blocks)
    text = text.replace("\n", data.draw(line_ends))
    path = tmp_path_factory.mktemp("sdf") / "a.sdf"
    path.write_bytes(text.encode())
    agree(read_molecules(path), made, 4)


@cases(40)
@given(molecule_lists(5, 1e5), st.sampled_from(["extxyz", "xyz", "db"]))
def test_files_of_ase(tmp_path_factory, made, kind):
    ase_io = pytest.importorskip("ase.io", reason='needs ase: pip install "gaga-adapter[ase]"')
    from ase import Atoms

    made = [(x, z) for x, z in made]
    frames = [Atoms(numbers=z, positions=x) for x, z in made]
    path = tmp_path_factory.mktemp("ase") / f"a.{kind}"
    if kind == "db":
        from ase.db import connect

        with connect(path) as database:
            for frame in frames:
                database.write(frame)
    else:
        ase_io.write(path, frames, format=kind)
    agree(read_molecules(path), made, 5)


@cases(60)
@given(
    molecule_lists(6, 1e6),
    st.sampled_from(["float32", "float64"]),
    st.sampled_from(["int64", "int32", "uint8", "float64"]),
    st.integers(0, 3),
    st.booleans(),
)
def test_npz(tmp_path_factory, made, dtype, kind, more, packed):
    whole = MoleculeSet.from_list(made)
    padding = ((0, 0), (0, more))
    arrays = {
        "num_atoms": whole.n_atoms,
        "charges": np.pad(whole.atomic_numbers, padding).astype(kind),
        "positions": np.pad(whole.positions, (*padding, (0, 0))).astype(dtype),
        "alpha": np.zeros(len(made)),
    }
    path = tmp_path_factory.mktemp("npz") / "a.npz"
    (np.savez_compressed if packed else np.savez)(path, **arrays)
    found = read_molecules(path)
    for index in range(len(made)):
        for one, other in zip(found.molecule(index), whole.molecule(index), strict=True):
            np.testing.assert_array_equal(one, other)


@cases(40)
@given(xyz_texts(), st.integers(1, 6), st.integers(1, 3))
def test_batches_and_shares_are_the_whole(tmp_path_factory, case, batch_size, world):
    made, text = case
    path = tmp_path_factory.mktemp("xyz") / "a.xyz"
    path.write_text(text, encoding="utf-8", newline="")
    parts = [list(stream_molecules(path, batch_size, share=(rank, world))) for rank in range(world)]
    n_batches = -(-len(made) // batch_size)
    ordered = [parts[k % world][k // world] for k in range(n_batches)]
    assert sum(map(len, parts)) == n_batches
    assert all(len(part) == batch_size for part in ordered[:-1])
    agree(MoleculeSet.concatenate(ordered), made, 6)


# -- damage ----------------------------------------------------------------------------------------


def read(path, **options):
    """The molecules of a file, or the message why there are none; nothing else may come."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GAGAWarning)
        try:
            return read_molecules(path, **options)
        except DataError as error:
            return str(error)


def check_damaged(path, made, digits, whole_before):
    """Molecules that end before the damage are read, and the rest is refused by its number."""
    strict, lenient = read(path), read(path, skip_bad=True)
    if isinstance(strict, str):
        event("refused")
        assert path.name in strict
        named = [int(word) for word in strict.replace(",", " ").split() if word.isdecimal()]
        assert any(index >= whole_before for index in named) or whole_before == 0, strict
    else:
        event("read")
    for found in (strict, lenient):
        if whole_before and not isinstance(found, str):
            n_before = min(whole_before, len(found))
            agree(found.subset(slice(0, n_before)), made[:n_before], digits)


@cases(60)
@given(molecule_lists(4, 1e3), st.data())
def test_xyz_whose_end_or_byte_is_lost(tmp_path_factory, made, data):
    frames = []
    for x, z in made:
        rows = [f"{SYMBOLS[k]} {a:.4f} {b:.4f} {c:.4f}" for k, (a, b, c) in zip(z, x, strict=True)]
        frames.append("\n".join([str(len(z)), "frame", *rows]) + "\n")
    whole, ends = "".join(frames).encode(), np.cumsum([len(frame) for frame in frames])
    place = data.draw(st.integers(0, len(whole) - 1))
    if data.draw(st.booleans()):
        damaged = whole[:place]
    else:
        damaged = whole[:place] + bytes([data.draw(st.integers(0, 255))]) + whole[place + 1 :]
    path = tmp_path_factory.mktemp("xyz") / "a.xyz"
    path.write_bytes(damaged)
    check_damaged(path, made, 4, int((ends <= place).sum()))


@cases(60)
@given(molecule_lists(4, 1e3, least=0.01), st.data())
def test_sdf_whose_end_or_byte_is_lost(tmp_path_factory, made, data):
    path = tmp_path_factory.mktemp("sdf") / "a.sdf"
    write_sdf(MoleculeSet.from_list(made, "m"), path)
    whole = path.read_bytes()
    records = whole.split(b"$$$$\n")[:-1]
    ends = np.cumsum([len(record) + 5 for record in records])
    place = data.draw(st.integers(0, len(whole) - 1))
    if data.draw(st.booleans()):
        damaged = whole[:place]
    else:
        damaged = whole[:place] + bytes([data.draw(st.integers(0, 255))]) + whole[place + 1 :]
    path.write_bytes(damaged)
    check_damaged(path, made, 4, int((ends <= place).sum()))
