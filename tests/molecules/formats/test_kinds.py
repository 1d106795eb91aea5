"""Each format against another reader of it: rdkit, ase, numpy; and the mistakes people make."""

from __future__ import annotations

import gzip
import zipfile

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdDetermineBonds, rdDistGeom

from gaga_adapter.errors import DataError, GAGAWarning, MissingExtraError
from gaga_adapter.molecules.data import MoleculeSet
from gaga_adapter.molecules.formats import read_molecules, sdf_text, stream_molecules
from gaga_adapter.molecules.metrics.chemistry import to_rdkit

ASPIRIN, GLYCINE, BENZENE = "CC(=O)Oc1ccccc1C(=O)O", "[NH3+]CC(=O)[O-]", "c1ccccc1"
IMPOSSIBLE = "C1#CC1"  # a triple bond in a ring of three


def embedded(smiles, seed=7):
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert rdDistGeom.EmbedMolecule(mol, randomSeed=seed) == 0
    return mol


def atoms_of(mol):
    numbers = [atom.GetAtomicNum() for atom in mol.GetAtoms()]
    return mol.GetConformer().GetPositions(), numbers


def check(molecules, mols, atol=1e-4):
    assert len(molecules) == len(mols)
    for index, mol in enumerate(mols):
        positions, numbers = molecules.molecule(index)
        expected, kinds = atoms_of(mol)
        assert numbers.tolist() == kinds
        np.testing.assert_allclose(positions, expected, atol=atol)


@pytest.fixture(scope="module")
def mols():
    return [embedded(smiles) for smiles in (ASPIRIN, BENZENE, "CCO")]


def sdf_of(mols, v3000=False):
    return "".join(Chem.MolToMolBlock(mol, forceV3000=v3000) + "$$$$\n" for mol in mols)


@pytest.mark.parametrize("v3000", [False, True])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_sdf_of_both_versions_plain_and_compressed(tmp_path, mols, v3000, ending):
    text = sdf_of(mols, v3000).replace("\n", ending)
    assert ("V3000" in text) == v3000
    (tmp_path / "a.sdf").write_bytes(text.encode())
    (tmp_path / "a.SDF.gz").write_bytes(gzip.compress(text.encode()))
    check(read_molecules(tmp_path / "a.sdf"), mols)
    check(read_molecules(tmp_path / "a.SDF.gz"), mols)


def test_sdf_with_data_fields_and_without_its_last_line(tmp_path, mols):
    block = Chem.MolToMolBlock(mols[2])
    fields = "> <gap>\n0.3\n\n> <note>\nCafé $$$$ no end\n\n"
    (tmp_path / "a.sdf").write_bytes(f"{block}{fields}$$$$\n{block}\n\n".encode("latin-1"))
    check(read_molecules(tmp_path / "a.sdf"), [mols[2]] * 2)


def test_ligands_of_the_protein_data_bank_agree_with_rdkits_own_reader():
    datasets = pytest.importorskip("posebusters").__path__[0] + "/datasets/pdb"
    file = f"{datasets}/1of6/1of6_ligands.sdf"
    mols = list(Chem.SDMolSupplier(file, sanitize=False, removeHs=False))
    assert len(mols) > 5
    with pytest.warns(GAGAWarning, match=r"lack hydrogens that .*--hydrogens add"):
        check(read_molecules(file), mols)
    whole = [Chem.AddHs(mol, addCoords=True) for mol in Chem.SDMolSupplier(file)]
    check(read_molecules(file, hydrogens="add"), whole)


def test_a_drawing_is_no_geometry(tmp_path):
    flat = Chem.MolFromSmiles(BENZENE)
    nothing = Chem.MolToMolBlock(flat)
    Chem.rdDepictor.Compute2DCoords(flat)
    drawing = Chem.MolToMolBlock(flat)
    unmarked = drawing.replace("2D\n", "  \n", 1)
    assert unmarked != drawing
    for text in (nothing, drawing, unmarked):
        (tmp_path / "a.sdf").write_text(text + "$$$$\n")
        with pytest.raises(DataError, match=r"molecule 0 has no 3D coordinates.*--embed"):
            read_molecules(tmp_path / "a.sdf")
        made = read_molecules(tmp_path / "a.sdf", embed=True)
        assert made.n_atoms.tolist() == [12]
        ring = made.positions[0, :6]
        np.testing.assert_allclose(
            np.linalg.norm(ring - np.roll(ring, 1, 0), axis=1), 1.4, atol=0.05
        )


def test_flat_molecules_that_are_marked_3d_or_small_are_geometries(tmp_path):
    co2 = "\n\n\n  3  0  0  0  0  0  0  0  0  0999 V2000\n" + "".join(
        f"{x:10.4f}{0:10.4f}{0:10.4f} {s}   0  0\n"
        for x, s in ((0, "C"), (1.16, "O"), (-1.16, "O"))
    )
    (tmp_path / "a.sdf").write_text(co2 + "M  END\n$$$$\n")
    with pytest.warns(
        GAGAWarning, match="in several pieces .* lack hydrogens"
    ):  # without its bonds
        assert read_molecules(tmp_path / "a.sdf").n_atoms.tolist() == [3]
    benzene = embedded(BENZENE)
    positions = benzene.GetConformer().GetPositions()
    positions[:, 2] = 0
    benzene.GetConformer().SetPositions(positions)
    (tmp_path / "a.sdf").write_text(sdf_of([benzene]))
    with pytest.warns(GAGAWarning, match=r"1 molecules have z = 0 throughout, though .* 3D"):
        check(read_molecules(tmp_path / "a.sdf"), [benzene])


def test_charges_are_dropped_and_said_to_be(tmp_path):
    glycine = embedded(GLYCINE)
    (tmp_path / "a.sdf").write_text(sdf_of([glycine, embedded("O")]))
    stream = stream_molecules(tmp_path / "a.sdf")
    said = "^1 molecules have formal charges in the file: these are dropped, and the molecules stay"
    with pytest.warns(GAGAWarning, match=said):
        check(next(iter([*stream])), [glycine, embedded("O")])
    assert stream.tally.n_charged == 1


def test_hydrogens_in_and_out(tmp_path, mols):
    heavy = [Chem.RemoveHs(mol) for mol in mols]
    (tmp_path / "heavy.sdf").write_text(sdf_of(heavy))
    (tmp_path / "all.sdf").write_text(sdf_of(mols))
    with pytest.warns(GAGAWarning, match="3 molecules lack hydrogens"):
        check(read_molecules(tmp_path / "heavy.sdf"), heavy)
    check(read_molecules(tmp_path / "all.sdf", hydrogens="remove"), heavy)
    added = read_molecules(tmp_path / "heavy.sdf", hydrogens="add")
    assert added.n_atoms.tolist() == [mol.GetNumAtoms() for mol in mols]
    check(added, [Chem.AddHs(mol, addCoords=True) for mol in heavy], atol=2e-4)
    again = read_molecules(tmp_path / "all.sdf", hydrogens="add")
    check(again, mols)
    with pytest.raises(DataError, match=r"hydrogens='none'. Allowed: keep, remove, add"):
        read_molecules(tmp_path / "all.sdf", hydrogens="none")


def test_hydrogens_need_bonds_and_heavy_atoms(tmp_path):
    (tmp_path / "a.xyz").write_text("2\n\nH 0 0 0\nH 0 0 0.74\n")
    with pytest.raises(DataError, match=r"a.xyz states no bonds, so hydrogens cannot be added"):
        read_molecules(tmp_path / "a.xyz", hydrogens="add")
    with pytest.raises(DataError, match=r"molecule 0 has no atoms"):
        read_molecules(tmp_path / "a.xyz", hydrogens="remove")


def frames(mols):
    from ase import Atoms

    return [Atoms(numbers=kinds, positions=x) for x, kinds in map(atoms_of, mols)]


def test_extended_xyz_as_ase_writes_it(tmp_path, mols):
    io = pytest.importorskip("ase.io")
    images = frames(mols)
    for image in images:
        image.arrays["forces"] = np.random.default_rng(0).normal(size=(len(image), 3))
        image.info["energy of"] = 'a "strange" one'
    io.write(tmp_path / "a.extxyz", images)
    text = (tmp_path / "a.extxyz").read_text()
    (tmp_path / "a.xyz.gz").write_bytes(gzip.compress(text.encode()))
    check(read_molecules(tmp_path / "a.extxyz"), mols, atol=1e-6)
    check(read_molecules(tmp_path / "a.xyz.gz"), mols, atol=1e-6)


@pytest.mark.parametrize(
    ("properties", "row"),
    [
        ("forces:R:3:species:S:1:pos:R:3", "9 9 9 {symbol} {x}"),
        ("pos:R:3:mask:L:1:Z:I:1", "{x} T {number}"),
        ("id:I:1:species:S:1:charge:R:1:pos:R:3", "7 {symbol} 0.5 {x}"),
    ],
)
def test_extended_xyz_with_its_columns_in_any_order_agrees_with_ase(tmp_path, properties, row):
    io = pytest.importorskip("ase.io")
    text = "".join(
        f'2\nProperties={properties} pbc="F F F"\n'
        + "".join(
            row.format(symbol=symbol, number=number, x=f"{x} {2 * x} {3 * x}") + "\n"
            for symbol, number, x in (("Cl", 17, 0.5 * frame), ("H", 1, 1.75))
        )
        for frame in (1, 2)
    )
    (tmp_path / "a.xyz").write_text(text)
    read = read_molecules(tmp_path / "a.xyz")
    for index, image in enumerate(io.read(tmp_path / "a.xyz", ":", format="extxyz")):
        positions, numbers = read.molecule(index)
        assert numbers.tolist() == image.numbers.tolist() == [17, 1]
        np.testing.assert_allclose(positions, image.positions)


def test_extended_xyz_without_positions(tmp_path):
    (tmp_path / "a.xyz").write_text("1\nProperties=species:S:1:forces:R:3\nH 0 0 0\n")
    with pytest.raises(DataError, match=r"columns species:S:1:forces:R:3; need species .* and pos"):
        read_molecules(tmp_path / "a.xyz")


def test_periodic_cells_are_dropped_and_said_to_be(tmp_path, mols):
    io = pytest.importorskip("ase.io")
    image = frames(mols[2:])[0]
    image.set_cell([9, 9, 9])
    io.write(tmp_path / "open.xyz", image, format="extxyz")
    check(read_molecules(tmp_path / "open.xyz"), mols[2:], atol=1e-6)
    image.pbc = True
    io.write(tmp_path / "closed.xyz", image, format="extxyz")
    with pytest.warns(GAGAWarning, match="have a periodic cell in the file: this is dropped"):
        check(read_molecules(tmp_path / "closed.xyz"), mols[2:], atol=1e-6)


def test_ase_database_with_a_deleted_row(tmp_path, mols, monkeypatch):
    db = pytest.importorskip("ase.db")
    monkeypatch.setattr("gaga_adapter.molecules.formats.ase_database._ROWS", 2)
    with db.connect(tmp_path / "a.db") as database:
        for image in frames([*mols, *mols]):
            database.write(image, data={"large": [0.0] * 10}, gap=-1.0)
    database.delete([2])
    check(read_molecules(tmp_path / "a.db"), [mols[0], mols[2], *mols])
    share = stream_molecules(tmp_path / "a.db", batch_size=2, share=(1, 2))
    check(MoleculeSet.concatenate(list(share)), mols[:2])


def test_what_is_no_database(tmp_path, monkeypatch):
    pytest.importorskip("ase.db")
    (tmp_path / "a.db").write_text("no database" * 100)
    with pytest.raises(DataError, match=r"a.db is no ASE database"):
        read_molecules(tmp_path / "a.db")
    monkeypatch.setitem(__import__("sys").modules, "ase.db", None)
    with pytest.raises(MissingExtraError, match=r'needs ase: pip install "gaga-adapter\[ase\]"'):
        read_molecules(tmp_path / "a.db")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_is_read_in_blocks(tmp_path, monkeypatch, save):
    monkeypatch.setattr("gaga_adapter.molecules.formats.npz._ROWS", 3)
    rng = np.random.default_rng(0)
    n_atoms = rng.integers(1, 6, size=10)
    real = np.arange(5) < n_atoms[:, None]
    charges = np.where(real, rng.choice([1, 6, 8], size=real.shape), 0)
    positions = np.where(real[..., None], rng.normal(size=(10, 5, 3)), 0)
    save(tmp_path / "a.npz", num_atoms=n_atoms, charges=charges, positions=positions)
    read = read_molecules(tmp_path / "a.npz")
    np.testing.assert_array_equal(read.atomic_numbers, charges)
    np.testing.assert_array_equal(read.positions, positions.astype(np.float32))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"positions": np.zeros((2, 3))}, r"does not fit charges \(2, 2\)"),
        ({"charges": np.array([["H", "C"]] * 2)}, "array charges holds <U1"),
        ({"charges": np.array([[6, 1], [0, 1]])}, "molecule 1 has 1 charges, but num_atoms says 2"),
        ({"charges": np.array([[6, 1], [200, 1]])}, "molecule 1 has an atomic number"),
        ({"positions": np.full((2, 2, 3), np.inf)}, "molecule 0 has NaN or infinite"),
        ({"num_atoms": np.zeros(0, int), "charges": np.zeros((0, 2), int),
          "positions": np.zeros((0, 2, 3))}, "no molecules"),
    ],
)  # fmt: skip
def test_npz_that_makes_no_sense(tmp_path, arrays, message):
    good = {
        "num_atoms": np.array([2, 2]),
        "charges": np.array([[6, 1], [6, 1]]),
        "positions": np.zeros((2, 2, 3)),
    }
    np.savez(tmp_path / "a.npz", **{**good, **arrays})
    with pytest.raises(DataError, match=message):
        read_molecules(tmp_path / "a.npz")


def test_npz_with_a_gap_in_its_charges(tmp_path):
    arrays = {"num_atoms": [2], "charges": [[6, 0, 1]], "positions": np.zeros((1, 3, 3))}
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match="molecule 0 has charges that are no atomic numbers"):
        read_molecules(tmp_path / "a.npz")


GOOD = {
    "num_atoms": np.array([2, 1]),
    "charges": np.array([[6, 1], [8, 0]]),
    "positions": np.arange(12.0).reshape(2, 2, 3) * np.array([[[1], [1]], [[1], [0]]]),
}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize(
    "change",
    [
        np.asfortranarray,
        lambda array: array.astype(array.dtype.newbyteorder(">")),
        lambda array: array.astype(np.float64),
        lambda array: array.astype(np.float16 if array.dtype.kind == "f" else np.int8),
        lambda array: np.asfortranarray(array.astype(">f4")),
    ],
)
def test_npz_of_any_order_and_number(tmp_path, monkeypatch, save, change):
    monkeypatch.setattr("gaga_adapter.molecules.formats.npz._ROWS", 1)
    save(tmp_path / "a.npz", **{key: change(array) for key, array in GOOD.items()})
    read = read_molecules(tmp_path / "a.npz")
    np.testing.assert_array_equal(read.atomic_numbers, GOOD["charges"])
    np.testing.assert_array_equal(read.positions, GOOD["positions"].astype(np.float32))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            {"charges": [[6.5, 1.0], [8, 0]]},
            r"molecule 0 has the atomic number 6.5, which is",
        ),
        ({"charges": [[-6, 1], [8, 0]]}, r"molecule 0 has charges that are no atomic numbers"),
        ({"charges": [[np.nan, 1], [8, 0]]}, r"molecule 0 has charges that are no atomic numbers"),
        ({"num_atoms": [2.5, 1]}, r"molecule 0 has 2 charges, but num_atoms says 2.5"),
        ({"charges": [[True, True], [True, False]]}, r"array charges holds bool. Allowed: integ"),
        ({"positions": np.zeros((2, 2, 3), complex)}, r"array positions holds complex128"),
        (
            {"charges": np.array([[6, 1], [8, None]], object)},
            r"array charges holds pickled objects, which are never read",
        ),
        ({"num_atoms": np.int64(2)}, r"num_atoms \(\) does not fit charges \(2, 2\)"),
    ],
)
def test_npz_whose_numbers_are_none(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **{**GOOD, **arrays})
    with pytest.raises(DataError, match=message):
        read_molecules(tmp_path / "a.npz")


def test_npz_of_another_kind_is_told_by_its_arrays(tmp_path):
    np.savez(tmp_path / "a.npz", R=np.zeros((5, 2, 3)), z=[1, 1], E=np.zeros(5))
    with pytest.raises(DataError, match=r"has no num_atoms, charges, positions; it has R, z, E"):
        read_molecules(tmp_path / "a.npz")


def test_images_are_called_so(tmp_path):
    written = r"images \(M, C, H, W\), .*: write it with numpy\.save into a \.npy file"
    np.savez(tmp_path / "digits.npz", images=np.zeros((5, 8, 8)))
    with pytest.raises(DataError, match=rf"it has images\. Allowed: .* {written}"):
        read_molecules(tmp_path / "digits.npz")
    np.savez(tmp_path / "half.npz", charges=np.ones((5, 2)))
    with pytest.raises(DataError, match=r"\(M, N, 3\)\.$"):  # some of a molecule's arrays are there
        read_molecules(tmp_path / "half.npz")
    (tmp_path / "photos" / "more").mkdir(parents=True)
    with pytest.raises(DataError, match=r"has no file of molecules\. Allowed"):
        read_molecules(tmp_path / "photos")
    (tmp_path / "photos" / "more" / "a.JPG").touch()
    with pytest.raises(
        DataError, match=rf"photos has no file of molecules, but pictures.*{written}"
    ):
        read_molecules(tmp_path / "photos")
    with pytest.raises(DataError, match=rf"a\.JPG is a picture, .*{written}"):
        read_molecules(tmp_path / "photos" / "more" / "a.JPG")
    (tmp_path / "photos" / "a.xyz").write_text("1\n\nH 0 0 0\n")
    assert len(read_molecules(tmp_path / "photos")) == 1  # pictures beside molecules are usual


@pytest.mark.parametrize(
    "shape", ["(10**12, 2, 3)", "(2, 10**12, 3)", "(-2, 2, -3)", "(2, 2)", "()"]
)
def test_a_shape_that_the_file_cannot_hold_is_refused_before_it_is_read(tmp_path, shape):
    """The header says anything; numpy would ask for terabytes."""
    header = f"{{'descr': '<f8', 'fortran_order': True, 'shape': {eval(shape)}, }}"
    np.savez(tmp_path / "b.npz", **GOOD)
    with (
        zipfile.ZipFile(tmp_path / "b.npz") as source,
        zipfile.ZipFile(tmp_path / "a.npz", "w") as target,
    ):
        for name in source.namelist():
            data = source.read(name)
            if name == "positions.npy":
                text = header.ljust(117) + "\n"
                data = data[:8] + len(text).to_bytes(2, "little") + text.encode() + data[-96:]
            target.writestr(name, data)
    with pytest.raises(DataError, match=r"the array positions has 96 bytes; its shape .* need"):
        read_molecules(tmp_path / "a.npz")


def csv_of(tmp_path, text, **how):
    (tmp_path / "a.csv").write_text(text)
    return read_molecules(tmp_path / "a.csv", embed=True, **how)


@pytest.mark.parametrize("row", ['3,"O,c', '3,O,"c', '"3,O,c'])
def test_a_stray_quote_in_a_csv_spoils_one_row(tmp_path, row):
    rows = [f"{k},O,water" for k in range(40)]
    rows[3] = row
    text = "id,smiles,name\n" + "\n".join(rows) + "\n"
    with pytest.raises(DataError, match=r"molecule 3 has a stray quote in line 5: .*--skip-bad"):
        csv_of(tmp_path, text)
    with pytest.warns(GAGAWarning, match=r"skipped 1 of 40 molecules \(1 malformed\)"):
        assert len(csv_of(tmp_path, text, skip_bad=True)) == 39


@pytest.mark.parametrize(
    ("header", "row"),
    [
        ("id;SMILES;note", "1;O;a,b"),
        ("smiles\tid", "O\t1"),
        ("id,smiles", '1,"O"'),
        ("id,smiles,n", "1,O,2,,"),
        ('"id","smiles"', '"a ""b""",O'),
    ],
)
def test_csv_dialects(tmp_path, header, row):
    assert csv_of(tmp_path, f"{header}\n\n{row}\n").smiles == ("O",)


@pytest.mark.parametrize("row", ["1,acid, acetic,O", "1,O", ","])
def test_a_csv_row_of_another_length_is_not_read_from_the_wrong_column(tmp_path, row):
    with pytest.raises(DataError, match=r"molecule 0 has \d columns in line 2, and the he"):
        csv_of(tmp_path, f"id,name,smiles\n{row}\n")


def test_smiles_under_a_header_and_in_capital_files(tmp_path):
    (tmp_path / "a.smi").write_text("smiles zinc_id\nO ZINC1\n")
    assert read_molecules(tmp_path / "a.smi", embed=True).smiles == ("O",)
    (tmp_path / "B.CSV").write_text("id,smiles\n1,O\n")
    assert read_molecules(tmp_path / "B.CSV", embed=True).smiles == ("O",)
    (tmp_path / "b.smi").write_text("C(C\n")
    with pytest.raises(DataError, match=r"which rdkit cannot read: SMILES Parse Error: extra open"):
        read_molecules(tmp_path / "b.smi", embed=True)


def test_atomic_numbers_of_objects_that_are_no_whole_numbers():
    for numbers in ([6.5], [np.nan], [1e300]):
        with pytest.raises(DataError, match=r"molecule 0 has (the|an) atomic number"):
            read_molecules([([[0.0, 0, 0]], numbers)])
        with pytest.raises(DataError, match=r"molecule 0 has an atomic number that is not one of"):
            MoleculeSet.from_list([([[0.0, 0, 0]], numbers)])


def test_smiles_are_embedded_when_asked(tmp_path):
    (tmp_path / "a.smi").write_text(f"{ASPIRIN} aspirin\n\nO\twater\n")
    (tmp_path / "a.csv").write_text(f'id,SMILES,name\n1,{ASPIRIN},"acid, acetylsalicylic"\n2,O,w\n')
    with pytest.raises(
        DataError, match=r"a.smi holds SMILES, which have no geometry. Pass --embed"
    ):
        read_molecules(tmp_path / "a.smi")
    one = read_molecules(tmp_path / "a.smi", embed=True, seed=5)
    two = read_molecules(tmp_path / "a.csv", embed=True, seed=5)
    other = read_molecules(tmp_path / "a.csv", embed=True, seed=6)
    assert one.n_atoms.tolist() == [21, 3]
    assert one.smiles == two.smiles == (ASPIRIN, "O")
    np.testing.assert_array_equal(one.positions, two.positions)
    assert np.abs(one.positions - other.positions).max() > 0.1
    found = Chem.RWMol(to_rdkit(one)[0])  # its atoms and positions; bonds by rdkit's own rule
    for bond in list(found.GetBonds()):
        found.RemoveBond(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx())
    rdDetermineBonds.DetermineBonds(found)
    assert Chem.CanonSmiles(Chem.MolToSmiles(Chem.RemoveHs(found))) == Chem.CanonSmiles(ASPIRIN)


def test_smiles_that_are_none_and_columns_that_are_none(tmp_path):
    (tmp_path / "a.smi").write_text("CCO\nC(C\n")
    with pytest.raises(
        DataError, match=r"molecule 1 has the SMILES 'C\(C', which rdkit cannot read"
    ):
        read_molecules(tmp_path / "a.smi", embed=True)
    (tmp_path / "a.csv").write_text("id,structure\n1,CCO\n")
    with pytest.raises(DataError, match=r"a.csv has the columns id, structure. Name the one"):
        read_molecules(tmp_path / "a.csv", embed=True)
    (tmp_path / "b.csv").write_text("id,canonical_smiles,n\n1,O,3\n")
    assert read_molecules(tmp_path / "b.csv", embed=True).smiles == ("O",)
    (tmp_path / "b.csv").write_text("id,smiles\n1\n")
    with pytest.raises(DataError, match=r"has 1 columns in line 2, and the header has 2"):
        read_molecules(tmp_path / "b.csv", embed=True)


def test_what_etkdg_cannot_embed_is_counted(tmp_path):
    (tmp_path / "a.smi").write_text(f"CCO\n{IMPOSSIBLE}\nO\n")
    stream = stream_molecules(tmp_path / "a.smi", embed=True)
    with pytest.warns(GAGAWarning, match=r"skipped 1 of 3 molecules \(1 not embedded\): .*a.smi"):
        batches = [*stream]
    assert sum(map(len, batches)) == 2
    assert (stream.tally.n_molecules, stream.tally.n_not_embedded) == (2, 1)
    assert stream.found_elements() == ("H", "C", "O")


def test_a_truncated_archive_says_where_it_ends(tmp_path, mols):
    text = sdf_of(mols * 50)
    (tmp_path / "a.sdf.gz").write_bytes(gzip.compress(text.encode())[:-40])
    with pytest.raises(
        DataError, match=r"cannot read .*a.sdf.gz behind \d+ molecules: .*end-of-str"
    ):
        read_molecules(tmp_path / "a.sdf.gz")
    (tmp_path / "b.sdf.gz").write_text(text)
    with pytest.raises(
        DataError, match=r"b.sdf.gz ends in .gz, but does not begin like such a file"
    ):
        read_molecules(tmp_path / "b.sdf.gz")
    np.savez(tmp_path / "a.npz", num_atoms=[1], charges=[[6]], positions=np.zeros((1, 1, 3)))
    (tmp_path / "a.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:-100])
    with pytest.raises(DataError, match=r"cannot read .*a.npz"):
        read_molecules(tmp_path / "a.npz")


def test_a_truncated_sdf_file_names_its_last_molecule(tmp_path, mols):
    text = sdf_of(mols)
    (tmp_path / "a.sdf").write_text(text[: len(text) - len(sdf_of(mols[2:])) // 2])
    with pytest.raises(DataError, match=r"a.sdf: molecule 2 cannot be read by rdkit.*--skip-bad"):
        read_molecules(tmp_path / "a.sdf")


def test_folders_and_patterns(tmp_path, mols):
    (tmp_path / "deep").mkdir()
    (tmp_path / "b.sdf").write_text(sdf_of(mols[1:2]))
    (tmp_path / "deep" / "a.sdf").write_text(sdf_of(mols[:1]))
    (tmp_path / "deep" / "notes.txt").write_text("nothing")
    check(read_molecules(tmp_path), [mols[1], mols[0]])
    check(read_molecules(f"{tmp_path}/**/*.sdf"), [mols[1], mols[0]])
    check(read_molecules([tmp_path / "deep", f"{tmp_path}/?.sdf"]), mols[:2])
    with pytest.raises(DataError, match=r"no file matches .*\*.xyz"):
        read_molecules(f"{tmp_path}/*.xyz")
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match=r"the folder .*none has no file of molecules"):
        read_molecules(tmp_path / "none")


def test_an_element_that_is_not_allowed_comes_with_the_option_that_allows_it(tmp_path):
    (tmp_path / "a.xyz").write_text("2\n\nS 0 0 0\nH 1.3 0 0\n")
    with pytest.raises(
        DataError, match=r"molecule 0 has the element S. .*--elements H,C,S, or --e"
    ):
        read_molecules(tmp_path / "a.xyz", elements=("C", "H"))


def test_text_written_here_is_read_as_sdf_of_any_other_source(mols, tmp_path):
    (tmp_path / "a.sdf").write_text(sdf_of(mols))
    first = read_molecules(tmp_path / "a.sdf")
    (tmp_path / "b.sdf").write_text(sdf_text(first))
    check(read_molecules(tmp_path / "b.sdf"), mols)
