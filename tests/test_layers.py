"""The layer table of the house: imports run downward only."""

import ast
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from folders import ROOT

PACKAGE = ROOT / "gaga_adapter"

# From the bottom up. A module may import from lower rows, and from its own room.
LAYERS = [
    ["errors"],
    ["layout", "files", "distributed", "elements", "hashing", "subspace", "covariance"],
    ["noise"],
    ["moments"],
    ["reference"],
    ["criteria"],
    ["selection"],
    ["stats"],
    ["streaming", "trained"],
    ["training"],
    ["fitting", "scheduler"],
    ["sampling"],
    ["molecules", "integrations"],  # side rooms: they import the core, only the cli imports them
    ["report"],
    ["cli"],
    ["__main__"],
]
RANK = {name: rank for rank, row in enumerate(LAYERS) for name in row}
# (importer, imported) pairs that point up or sideways, each with its reason.
LAZY = {
    ("stats", "scheduler"): "t_star(scheduler) reads the scheduler's levels when asked",
    ("stats", "report"): "what is pushed to the hub carries its card",
    ("integrations", "molecules"): "sampled molecules are handed over as a MoleculeSet",
}


def room(path: Path) -> str:
    if path.is_relative_to(ROOT / "integrations"):
        return "integrations"
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(path: Path):
    """Rooms that a file imports, with whether the import stands at module level."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    top = set(map(id, tree.body))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            top -= set(map(id, node.body))
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names = [node.module]
            if node.module == "gaga_adapter":
                names = [f"gaga_adapter.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "gaga_adapter" and len(parts) > 1:
                yield parts[1], id(node) in top


FILES = sorted(PACKAGE.rglob("*.py")) + sorted((ROOT / "integrations").rglob("*.py"))
MODULES = [f for f in FILES if f != PACKAGE / "__init__.py"]


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down(path):
    here = room(path)
    assert here in RANK, f"{here} is missing in the layer table"
    for there, at_top in imported_rooms(path):
        if there == here:
            continue
        if (here, there) in LAZY:
            assert not at_top, f"{here} may import {there} only lazily"
            continue
        assert RANK[there] < RANK[here], f"{path.name}: {here} may not import {there}"


def test_only_the_cli_and_its_entry_import_side_rooms():
    for path in MODULES:
        if room(path) in {"cli", "report", "__main__", "molecules", "integrations"}:
            continue
        assert not {r for r, _ in imported_rooms(path)} & {"molecules", "integrations"}, path


def test_only_the_cli_writes_on_the_screen():
    """Library code takes a callback instead, so that --quiet is quiet."""
    for path in MODULES:
        if room(path) == "cli":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [getattr(node, "module", None) or "", *(a.name for a in node.names)]
            assert not {name.split(".")[0] for name in names} & {"rich", "tqdm", "typer"}, path
            assert not (isinstance(node, ast.Name) and node.id == "print"), path


FIT = """
import sys
from gaga_adapter.cli import main
try:
    main()
except SystemExit as stopped:
    assert not stopped.code, stopped.code
files = {m.__file__ for n, m in sys.modules.items() if n.split(".")[0] == "gaga_adapter"}
print(*sorted(files))
"""


def test_a_fit_enters_few_files_of_the_house(tmp_path):
    """Files that hold code: an `__init__.py` is counted apart, for most are a docstring."""
    from gaga_adapter.molecules.data import MoleculeSet
    from gaga_adapter.molecules.formats import write_sdf

    water = [[0.0, 0.0, 0.12], [0.0, 0.76, -0.48], [0.0, -0.76, -0.48]]
    noise = np.random.default_rng(0).normal(size=(200, 3, 3)) / 20
    write_sdf(MoleculeSet.from_list([(water + n, [8, 1, 1]) for n in noise]), tmp_path / "x.sdf")
    words = ["fit", "x.sdf", "--out", "stats", "--items", "100", "--tolerance", "9", "--quiet"]
    done = subprocess.run(
        [sys.executable, "-c", FIT, *words], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    files = [Path(file) for file in done.stdout.splitlines()[-1].split()]
    entered = {".".join(f.relative_to(PACKAGE).with_suffix("").parts) for f in files}
    code = {name for name in entered if not name.endswith("__init__")}
    assert len(code) <= 40, sorted(code)
    assert len(entered) <= 50, sorted(entered)
    closed = ("report", "training", "integrations", "sampling", "scheduler", "molecules.metrics")
    assert not [name for name in entered if name.startswith((*closed, "molecules.qm9"))]
    readers = {name for name in entered if name.startswith("molecules.formats.")}
    assert not readers & {f"molecules.formats.{n}" for n in ("xyz", "npz", "smiles", "objects")}
    assert not {"moments.dense", "reference.dense", "criteria.cumulant.criterion"} & entered


def test_import_is_light():
    code = (
        "import sys, gaga_adapter; "
        "heavy = {'diffusers', 'rdkit', 'scipy', 'sklearn', 'matplotlib', 'typer', 'rich'}; "
        "print(*sorted(heavy & set(sys.modules)))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/"
    )
    assert out.stdout.strip() == ""


def test_every_public_name_resolves():
    import gaga_adapter

    for name in gaga_adapter.__all__:
        assert getattr(gaga_adapter, name) is not None
