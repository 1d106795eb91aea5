"""Mutation testing of the rooms where an error of one step would show nowhere else.

    pip install "mutmut==3.8.1"
    python tests/mutants/run.py [--folder FOLDER] [MODULE ...]

mutmut changes one operator, number or argument at a time, in `selection.py`, `scheduler/grid.py`
and `noise/`, and runs the tests that call the function that it changed: first the quick ones of
these rooms, then, for the mutants that are left, the property tests. Mutants that no test notices
are shown at the end; `survivors.md` says which kinds of them cannot be noticed.

With modules, such as `gaga_adapter/noise/levels.py`, only these of them are mutated: a run over
all takes hours, and one over a small module minutes. A run that was broken off goes on where it was
if it is given the same FOLDER.

It works on two copies of the tracked files in FOLDER, which it makes (a new temporary folder by
default), since mutmut writes its mutants where it runs. In a copy two things are written in another
way, because mutmut would pass over the first and judge the wording of the second: properties are
made by a call below their function, and errors and warnings that are raised are fenced off. Their
conditions are mutated. What stands outside of functions, such as tables, is not. Property tests try
a third of their cases, since most mutants fail on the first ones (`GAGA_CASES` changes that), and
do not look for a smaller case when one fails.
"""

from __future__ import annotations

import argparse
import ast
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]
MUTATED = ["gaga_adapter/selection.py", "gaga_adapter/scheduler/grid.py", "gaga_adapter/noise/*.py"]
QUICK = [
    "tests/test_selection.py",
    "tests/noise",
    "tests/scheduler/test_grid.py",
    "tests/scheduler/test_log_snr.py",
    "tests/scheduler/test_last_step.py",
    "tests/scheduler/test_wrapper.py",
]
THOROUGH = [
    "tests/properties/test_fitted.py",
    "tests/properties/test_grid.py",
    "tests/properties/test_lists.py",
    "tests/properties/test_log_snr.py",
    "tests/properties/test_predictions.py",
    "tests/properties/test_selection.py",
    "tests/report/test_explanation.py",
    "tests/test_devices.py::test_paths",
    "tests/training/test_timesteps.py",
]
LEFT_OUT = "not type_checkers"  # a test that runs mypy has nothing to say here
SETTINGS = f"""
[tool.mutmut]
source_paths = ["gaga_adapter", "integrations"]
also_copy = ["README.md", "CHANGELOG.md", "docs", "benchmarks"]
pytest_add_cli_args = ["-p", "no:cacheprovider", "-k", "{LEFT_OUT}"]
use_git_change_detection = false
"""

#: Verdicts on mutants that no test noticed.
ALIVE = ("survived", "no tests", "not checked")


def in_other_words(source: str) -> str:
    """A module whose properties are functions at first, with fences around errors and warnings."""
    lines = source.splitlines()
    after: dict[int, list[str]] = {}
    before: dict[int, list[str]] = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef) and len(node.decorator_list) == 1:
            decorator = node.decorator_list[0]
            if isinstance(decorator, ast.Name) and decorator.id in ("property", "cached_property"):
                pad = " " * node.col_offset
                lines[decorator.lineno - 1] = ""
                after[node.end_lineno] = [f"{pad}{node.name} = {decorator.id}({node.name})"]
        is_warning = (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Call)
            and getattr(node.value.func, "id", "") == "warn"
        )
        if isinstance(node, ast.Raise) or is_warning:
            pad = " " * node.col_offset
            before.setdefault(node.lineno, []).append(f"{pad}# pragma: no mutate start")
            after.setdefault(node.end_lineno, []).insert(0, f"{pad}# pragma: no mutate end")
    out = []
    for number, line in enumerate(lines, 1):
        out += [*before.get(number, []), line, *after.get(number, [])]
    return "\n".join(out) + "\n"


def write(file: Path, text: str) -> None:
    """Write a file that says something else: mutmut begins anew with what is newer."""
    if not file.is_file() or file.read_text(encoding="utf-8") != text:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")


def prepare(folder: Path, tests: list[str], modules: list[str]) -> None:
    """Copy the tracked files, and write the mutated modules in other words."""
    folder.mkdir(parents=True, exist_ok=True)
    tracked = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True
    ).stdout.split("\0")
    for name in filter(None, tracked):
        source, target = ROOT / name, folder / name
        if not source.is_file():
            continue
        if any(Path(name).match(pattern) for pattern in MUTATED):
            write(target, in_other_words(source.read_text(encoding="utf-8")))
        elif name == "tests/properties/cases.py":
            write(target, source.read_text(encoding="utf-8").replace(", Phase.shrink]", "]"))
        elif name != "pyproject.toml" and not is_copy(target, source):
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())
    settings = (ROOT / "pyproject.toml").read_text(encoding="utf-8") + SETTINGS
    settings += f"only_mutate = {modules}\npytest_add_cli_args_test_selection = {tests}\n"
    write(folder / "pyproject.toml", settings)


def is_copy(one: Path, other: Path) -> bool:
    """Whether two files hold the same."""
    return one.is_file() and one.read_bytes() == other.read_bytes()


def mutmut(folder: Path, *words: str) -> str:
    """Run mutmut in a folder; what it says if it is asked for results, else on the screen."""
    return subprocess.run(
        [sys.executable, "-m", "mutmut", *words],
        cwd=folder,
        env={"GAGA_CASES": "0.3", **os.environ, "OMP_NUM_THREADS": "1"},
        stdout=None if words[0] == "run" else subprocess.PIPE,
        text=True,
    ).stdout


def verdicts(folder: Path) -> dict[str, str]:
    """What became of each mutant that was tried."""
    listed = mutmut(folder, "results", "--all", "true")
    return dict(re.findall(r"^\s*(\S+__mutmut_\d+): (.+)$", listed, re.MULTILINE))


def main() -> int:
    """Try all mutants, and show those that are left."""
    parser = argparse.ArgumentParser(description="Mutation testing, see the top of this file.")
    parser.add_argument("modules", nargs="*", help=f"files to mutate, all of {MUTATED} by default")
    parser.add_argument("--folder", type=Path, help="folder of the copies, a new one by default")
    asked = parser.parse_args()
    modules = asked.modules or MUTATED
    for module in asked.modules:
        if not any(Path(module).match(pattern) for pattern in MUTATED):
            parser.error(f"{module} is none of {', '.join(MUTATED)}.")
    folder = (asked.folder or Path(tempfile.mkdtemp())).resolve()
    print(f"The copies lie in {folder}.")
    found: dict[str, str] = {}
    for name, tests in (("quick", QUICK), ("thorough", THOROUGH)):
        left = [mutant for mutant, verdict in found.items() if verdict in ALIVE]
        if found and not left:
            break
        prepare(folder / name, tests, modules)
        mutmut(folder / name, "run", "--max-children", "1", *left)
        now = verdicts(folder / name)
        if all(now.get(mutant, "not checked") == "not checked" for mutant in left or now):
            print(f"mutmut tried no mutant with the {name} tests; what it says above tells why.")
            return 1
        silent = ("no tests", "not checked") if left else ()  # these say nothing new
        found |= {m: now[m] for m in left or now if now.get(m, "not checked") not in silent}
    for verdict, count in sorted(Counter(found.values()).items()):
        print(f"{verdict}: {count}")
    for mutant in sorted(mutant for mutant, verdict in found.items() if verdict in ALIVE):
        print(mutmut(folder / "quick", "show", mutant))
    return 0


if __name__ == "__main__":
    sys.exit(main())
