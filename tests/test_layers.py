"""The layer table of the house: imports run downward only."""

import ast
import subprocess
import sys
from pathlib import Path

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
