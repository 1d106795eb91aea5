"""Reading and writing molecules, and what is said about files that cannot be read."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest

from gaga_adapter.errors import DataError, GAGAWarning, WriteError
from gaga_adapter.molecules.data import MoleculeSet
from gaga_adapter.molecules.formats import read_molecules, sdf_text, write_sdf
from gaga_adapter.molecules.qm9 import data as qm9

CO2 = ([[0.0, 0.0, 0.0], [0.0, 0.0, 1.16], [0.0, 0.0, -1.16]], [6, 8, 8])
HCL = ([[0.5, 0.25, 0.0], [0.5, 0.25, 1.27]], [17, 1])
TWO = MoleculeSet.from_list([CO2, HCL], "two")
XYZ = """3
Lattice="1 0 0" a comment
C 0 0 0
o 0 0 1.16 0.1 0.2
8 0 0 -1.16

2

Cl 0.5 0.25 0
H  5e-1 .25 1.27

"""


def _write(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text)
    return folder / name


def _same(one: MoleculeSet, other: MoleculeSet, atol: float = 1e-6) -> None:
    np.testing.assert_array_equal(one.atomic_numbers, other.atomic_numbers)
    np.testing.assert_allclose(one.positions, other.positions, atol=atol)


def test_xyz_with_several_frames(tmp_path):
    _same(read_molecules(_write(tmp_path, "a.xyz", XYZ)), TWO)


def test_xyz_agrees_with_ase(tmp_path):
    ase_io = pytest.importorskip("ase.io")
    from ase import Atoms

    frames = [Atoms(numbers=z, positions=x) for x, z in (CO2, HCL)]
    ase_io.write(tmp_path / "a.xyz", frames, format="extxyz")
    _same(read_molecules(tmp_path / "a.xyz"), TWO)


def test_sdf_round_trip_keeps_atoms_bonds_and_four_decimals(tmp_path):
    from rdkit import Chem

    write_sdf(TWO, tmp_path / "new" / "a.sdf")
    _same(read_molecules(tmp_path / "new" / "a.sdf"), TWO, atol=1e-4)
    mols = list(Chem.SDMolSupplier(str(tmp_path / "new" / "a.sdf"), removeHs=False))
    assert [Chem.MolToSmiles(mol) for mol in mols] == ["O=C=O", "[H]Cl"]
    assert mols[1].GetProp("_Name") == "two 1"


def test_sdf_of_a_diverged_sample_can_be_read(tmp_path):
    far = MoleculeSet.from_list([([[0, 0, 0], [123456.75, 0, -54321.5]], [6, 1])])
    write_sdf(far, tmp_path / "far.sdf")
    with pytest.warns(GAGAWarning, match=r"^1 molecules have atoms 10,000 angstrom .* from the or"):
        _same(read_molecules(tmp_path / "far.sdf"), far)


def test_npz_in_the_layout_of_edm(tmp_path):
    np.savez(
        tmp_path / "a.npz",
        num_atoms=TWO.n_atoms,
        charges=TWO.atomic_numbers.astype(np.int64),
        positions=TWO.positions,
        alpha=np.zeros(2),
    )
    _same(read_molecules(str(tmp_path / "a.npz")), TWO)


def test_several_sources_follow_one_another(tmp_path):
    write_sdf(TWO, tmp_path / "a.sdf")
    both = read_molecules([_write(tmp_path, "a.xyz", XYZ), tmp_path / "a.sdf"])
    assert both.n_atoms.tolist() == [3, 2, 3, 2]


def test_qm9_goes_to_its_loader(monkeypatch):
    asked = []
    monkeypatch.setattr(qm9, "load_qm9", lambda split, progress: asked.append(split) or TWO)
    read_molecules("qm9")
    read_molecules("qm9:valid")
    assert asked == [None, "valid"]


def test_only_the_named_elements_are_allowed(tmp_path):
    path = _write(tmp_path, "a.xyz", XYZ)
    assert len(read_molecules(path, elements=("H", "C", "O", "Cl"))) == 2
    with pytest.raises(DataError, match=r"molecule 1 has the element Cl. Allowed: H, C, O\."):
        read_molecules(path, elements=("H", "C", "O"))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.xyz", "", r"a.xyz is empty"),
        ("a.xyz", "\n\n", r"a.xyz: no molecules"),
        ("a.xyz", "2\n\nH 0 0 0\n", r"molecule 0 begins in line 1: 2 atoms, but the file ends"),
        ("a.xyz", "1\n\nH 0 0 0\nH\n", r"molecule 1, line 4: got 'H', need the number of atoms"),
        ("a.xyz", "0\n\n", r"molecule 0 begins in line 1: it has no atoms"),
        ("a.xyz", "1\n\nH 0 0\n", r"molecule 0 has in line 3 'H 0 0', need `element x y z`"),
        ("a.xyz", "1\n\nH 0 0 z\n", r"in line 3 'H 0 0 z'"),
        (
            "a.xyz",
            "1\n\nQq 0 0 0\n",
            r"in line 3 an unknown element 'Qq'. Allowed: chemical symbols",
        ),
        ("a.xyz", "1\n\nH 0 0 nan\n", r"molecule 0 has NaN or infinite coordinates"),
        ("a.xyz", "1\n\nH 0 0 0\n1\n\nH 0 inf 0\n", r"molecule 1 has NaN or infinite"),
        ("a.sdf", "", r"a.sdf is empty"),
        ("a.sdf", "no molecule\n", r"a.sdf: molecule 0 cannot be read by rdkit"),
        ("a.npz", "no arrays", r"cannot read .*a.npz"),
    ],
)
def test_unreadable_files_are_named_with_their_record(tmp_path, name, text, message):
    with pytest.raises(DataError, match=message):
        read_molecules(_write(tmp_path, name, text))


def test_a_broken_sdf_record_is_named(tmp_path, capfd):
    first, second = sdf_text(TWO).split("$$$$\n")[:2]
    broken = second.replace("Cl  0", "Xx  0")
    path = _write(tmp_path, "a.sdf", f"{first}$$$$\n{broken}$$$$\n")
    with pytest.raises(DataError, match=r"molecule 1"):
        read_molecules(path)
    assert capfd.readouterr().err == ""  # rdkit's own log is held back


def test_missing_and_unknown_files_say_what_is_allowed(tmp_path):
    allowed = r"Allowed: qm9, qm9:train, .*, or a .sdf, .sd, .mol, .* .npz, .npy or .db"
    with pytest.raises(DataError, match=r"there is no file .*gone.sdf\.$"):
        read_molecules(tmp_path / "gone.sdf")
    (tmp_path / "gone2.sdf").write_text("x")
    with pytest.raises(DataError, match=r"no file .*gone.sdf\. Did you mean .*gone2.sdf\?"):
        read_molecules(tmp_path / "gone.sdf")
    with pytest.raises(DataError, match=r"no file or folder .*gone\. Did you mean .*gone2.sdf\?"):
        read_molecules(tmp_path / "gone")
    with pytest.raises(DataError, match=rf"cannot tell what mols.pdb is. {allowed}.*obabel"):
        read_molecules("mols.pdb")
    with pytest.raises(DataError, match=r"no split 'dev'"):
        read_molecules("qm9:dev")
    with pytest.raises(DataError, match=rf"no source of molecules. {allowed}"):
        read_molecules([])
    (tmp_path / "text.xyz").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"text.xyz: molecule 0, line 1: got "):
        read_molecules(tmp_path / "text.xyz")


def test_npz_with_other_arrays_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", charges=TWO.atomic_numbers)
    with pytest.raises(DataError, match=r"has no num_atoms, positions"):
        read_molecules(tmp_path / "a.npz")
    np.savez(
        tmp_path / "b.npz",
        num_atoms=TWO.n_atoms + np.array([0, 1]),
        charges=TWO.atomic_numbers,
        positions=TWO.positions,
    )
    with pytest.raises(DataError, match="molecule 1 has 2 charges, but num_atoms says 3"):
        read_molecules(tmp_path / "b.npz")


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()]
)
def test_a_full_disk_or_an_interrupt_leaves_the_old_file(tmp_path, monkeypatch, error):
    path = tmp_path / "a.sdf"
    write_sdf(TWO, path)
    before = path.read_bytes()

    def fail(self, text, encoding, newline):
        self.write_bytes(text.encode()[:10])
        raise error

    monkeypatch.setattr(Path, "write_text", fail)
    expected = WriteError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected):
        write_sdf(TWO.subset([0]), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
