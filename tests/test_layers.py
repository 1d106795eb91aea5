"""The layer table of the house: imports run downward only, and never in a circle."""

import ast
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from folders import ROOT

PACKAGE = ROOT / "gaga_adapter"

# From the bottom up. A file may import from lower rows and from its own room, and there is no
# exception: an import inside of a function, or for a type checker alone, counts like any other.
LAYERS = [
    ["errors"],
    ["files"],
    [
        "layout",
        "distributed",
        "elements",
        "hashing",
        "subspace",
        "covariance",
    ],
    ["noise"],
    ["moments"],
    ["reference"],
    ["criteria"],
    ["selection"],
    ["stats"],
    ["streaming", "trained"],
    ["refining"],
    ["training"],
    ["few_step"],
    ["fitting", "noised_states", "scheduler"],
    ["sampling"],
    ["level_fitting"],
    ["molecules"],  # a side room: it imports the core, which does not know it
    ["integrations"],  # another one, which hands over what it sampled as molecules
    ["testing"],
    ["report"],
    ["doctor"],
    ["cli"],
    ["__main__"],
]
RANK = {name: rank for rank, row in enumerate(LAYERS) for name in row}
SIDE_ROOMS = {"molecules", "integrations"}
#: Folders of many small files of one kind: a format or a command each.
LONG_FOLDERS = {"gaga_adapter/molecules/formats", "gaga_adapter/cli"}
MOST_FILES = 12
SOURCES = {".py", ".j2", ".css"}


def module_name(path: Path) -> str:
    """The name under which a file is imported."""
    where = path.relative_to(ROOT).with_suffix("")
    parts = where.parts if where.parts[0] == "gaga_adapter" else ("gaga_adapter", *where.parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = sorted(PACKAGE.rglob("*.py")) + sorted((ROOT / "integrations").rglob("*.py"))
BY_NAME = {module_name(path): path for path in FILES}
#: The root names all rooms, by strings and for type checkers; no room names the root.
MODULES = {name: path for name, path in BY_NAME.items() if name != "gaga_adapter"}


def imported_files(name: str) -> set[str]:
    """Files of the package that a file imports anywhere in it, by module name."""
    path = BY_NAME[name]
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) + 1 - node.level]
            base = ".".join([*(above if node.level else []), *filter(None, [node.module])])
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                found.add(inner if inner in BY_NAME else base)
    return (found & BY_NAME.keys()) - {name}


IMPORTS = {name: imported_files(name) for name in BY_NAME}


def room(name: str) -> str:
    return name.split(".")[1]


def cycles(imports: dict[str, set[str]]) -> list[list[str]]:
    """The groups of files that reach one another (Tarjan's strongly connected components)."""
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    groups = []

    def visit(name: str) -> None:
        order[name] = lowest[name] = len(order)
        stack.append(name)
        for other in sorted(imports[name]):
            if other not in order:
                visit(other)
            if other in stack:
                lowest[name] = min(lowest[name], lowest[other])
        if lowest[name] == order[name]:
            place = stack.index(name)
            group = stack[place:]
            del stack[place:]
            if len(group) > 1:
                groups.append(sorted(group))

    for name in imports:
        if name not in order:
            visit(name)
    return groups


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_down(name):
    here = room(name)
    assert here in RANK, f"{here} is missing in the layer table"
    for other in IMPORTS[name] - {"gaga_adapter"}:
        there = room(other)
        assert there == here or RANK[there] < RANK[here], f"{name} may not import {other}"


def test_no_file_imports_the_root():
    """What is in the root is imported from where it is defined."""
    assert not [name for name in MODULES if "gaga_adapter" in IMPORTS[name]]


def test_no_files_import_one_another():
    circles = [
        "\n".join(f"  {name} -> {', '.join(sorted(IMPORTS[name] & set(group)))}" for name in group)
        for group in cycles(IMPORTS)
    ]
    assert not circles, "import cycles:\n" + "\nand\n".join(circles)


def test_the_search_for_cycles_finds_them():
    imports = {"a": {"b"}, "b": {"c", "d"}, "c": {"a"}, "d": {"d2"}, "d2": set()}
    assert cycles(imports) == [["a", "b", "c"]]
    assert cycles({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_a_folder_has_few_files():
    count: dict[str, int] = {}
    sources = [p for top in (PACKAGE, ROOT / "integrations") for p in top.rglob("*.*")]
    for path in sources:
        if path.suffix in SOURCES and path.stem not in {"__init__", "__main__"}:
            folder = path.parent.relative_to(ROOT).as_posix()
            count[folder] = count.get(folder, 0) + 1
    crowded = {folder: n for folder, n in count.items() if n > MOST_FILES}
    assert crowded.keys() <= LONG_FOLDERS, crowded


def test_only_the_upper_rooms_import_side_rooms():
    for name in MODULES:
        if room(name) not in SIDE_ROOMS | {"testing", "cli", "report", "__main__"}:
            assert not SIDE_ROOMS & {room(other) for other in IMPORTS[name]}, name


def test_only_the_cli_writes_on_the_screen():
    """Library code takes a callback instead, so that --quiet is quiet."""
    for path in FILES:
        if module_name(path).startswith("gaga_adapter.cli"):
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
    assert len(code) <= 46, sorted(code)
    assert len(entered) <= 56, sorted(entered)
    closed = ("report", "training", "testing", "integrations", "sampling", "scheduler")
    assert not [name for name in entered if name.startswith(closed)]
    assert not [name for name in entered if name.startswith(("molecules.metrics", "molecules.qm9"))]
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
