"""Mutation testing of the rooms where an error of one step would show nowhere else.

    python tests/mutants/run.py [FOLDER]

mutmut changes one operator, number or argument at a time, in `selection.py`, `scheduler/grid.py`
and `noise/`, and runs the tests that call the function that it changed. A mutant that no test
notices is named at the end. Those of them that say the same as the original are explained in
`survivors.md`; the script fails if there is another one.

It works on a copy of the tracked files in FOLDER, which it makes (a new temporary folder by
default), since mutmut writes its mutants where it runs. In that copy two things are written in
another way, because mutmut would pass over the first and judge the wording of the second:
properties are made by a call below their function, and raised errors and warnings are fenced off.
Their conditions are mutated. What stands outside of functions, such as tables, is not.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
MUTATED = ["gaga_adapter/selection.py", "gaga_adapter/scheduler/grid.py", "gaga_adapter/noise/*.py"]
TESTS = [
    "tests/test_selection.py",
    "tests/noise",
    "tests/scheduler/test_log_snr.py",
    "tests/scheduler/test_last_step.py",
    "tests/scheduler/test_wrapper.py",
    "tests/properties/test_grid.py",
    "tests/properties/test_log_snr.py",
    "tests/properties/test_selection.py",
    "tests/properties/test_predictions.py",
    "tests/properties/test_lists.py",
    "tests/properties/test_fitted.py",
    "tests/training/test_timesteps.py",
]
LEFT_OUT = "not type_checkers"  # a test that runs mypy has nothing to say here
SETTINGS = f"""
[tool.mutmut]
source_paths = ["gaga_adapter", "integrations"]
only_mutate = {MUTATED}
also_copy = ["README.md", "CHANGELOG.md", "docs", "benchmarks"]
pytest_add_cli_args = ["-p", "no:cacheprovider", "-k", "{LEFT_OUT}"]
pytest_add_cli_args_test_selection = {TESTS}
use_git_change_detection = false
"""
#: Verdicts of mutmut, in the order in which they are printed.
VERDICTS = ["killed", "timeout", "suspicious", "survived", "no tests", "skipped", "segfault"]


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


def prepare(folder: Path) -> None:
    """Copy the tracked files, and write the mutated modules in other words."""
    folder.mkdir(parents=True, exist_ok=True)
    tracked = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True
    ).stdout.split("\0")
    for name in filter(None, tracked):
        source, target = ROOT / name, folder / name
        if source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())
    for pattern in MUTATED:
        for file in folder.glob(pattern):
            file.write_text(in_other_words(file.read_text(encoding="utf-8")), encoding="utf-8")
    settings = (ROOT / "pyproject.toml").read_text(encoding="utf-8") + SETTINGS
    (folder / "pyproject.toml").write_text(settings, encoding="utf-8")


def explained() -> set[str]:
    """Names of the mutants in `survivors.md`."""
    text = (Path(__file__).parent / "survivors.md").read_text(encoding="utf-8")
    return set(re.findall(r"`(gaga_adapter\.[^`]*__mutmut_\d+)`", text))


def main() -> int:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp()).resolve()
    prepare(folder)
    quiet = {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    command = [sys.executable, "-m", "mutmut"]
    environment = {**os.environ, **quiet}
    subprocess.run([*command, "run", "--max-children", "1"], cwd=folder, env=environment)
    listed = subprocess.run(
        [*command, "results", "--all", "true"],
        cwd=folder, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    verdicts = dict(re.findall(r"^\s*(\S+__mutmut_\d+): (.+)$", listed.stdout, re.MULTILINE))
    for verdict in sorted(set(verdicts.values())):
        print(f"{verdict}: {sum(v == verdict for v in verdicts.values())}")
    alive = {name for name, verdict in verdicts.items() if verdict in ("survived", "no tests")}
    for name in sorted(alive - explained()):
        print(subprocess.run(
            [*command, "show", name], cwd=folder, env=environment, capture_output=True, text=True
        ).stdout)  # fmt: skip
        print(name)
    return bool(alive - explained())


if __name__ == "__main__":
    sys.exit(main())
