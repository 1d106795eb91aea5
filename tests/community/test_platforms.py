"""What would break on Windows or macOS and can be read off the code: the package has none of it."""

import ast

import pytest
from folders import INTEGRATIONS, ROOT

FILES = sorted((ROOT / "gaga_adapter").rglob("*.py")) + sorted(INTEGRATIONS.rglob("*.py"))
#: Modules of POSIX systems alone.
POSIX = {"fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "posix"}


def is_text(mode):
    return mode is None or "b" not in mode


def mode_of(call, place):
    """The mode of a call that opens a file, as far as it is written there."""
    given = [k.value for k in call.keywords if k.arg == "mode"] + call.args[place : place + 1]
    return given[0].value if given and isinstance(given[0], ast.Constant) else None


def faults(code):
    """(line, what) of everything that depends on the system."""
    tree = ast.parse(code)
    guarded = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.Try)
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom) and id(node) not in guarded:
            names = {a.name for a in node.names} if isinstance(node, ast.Import) else {node.module}
            if names & POSIX:
                yield node.lineno, f"imports {', '.join(names & POSIX)} without a guard"
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        method, keys = name.rpartition(".")[2], {k.arg for k in node.keywords}
        if name == "os.rename":
            yield node.lineno, "os.rename fails on Windows where the target exists: os.replace"
        elif method in ("read_text", "write_text") and "encoding" not in keys:
            if len(node.args) < (1 if method == "read_text" else 2):
                yield node.lineno, f"{method} without an encoding"
        elif name == "open" and "encoding" not in keys and is_text(mode_of(node, 1)):
            yield node.lineno, "open without an encoding"
        elif method in ("run", "Popen") and "text" in keys and "encoding" not in keys:
            yield node.lineno, "a process is read without an encoding"
        elif method in ("geteuid", "getuid", "fork", "mkfifo", "sched_getaffinity", "uname"):
            if id(node) in guarded:
                continue
            yield node.lineno, f"{method} is of POSIX systems alone"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_depends_on_the_system(path):
    assert list(faults(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "code",
    [
        "import fcntl",
        "from fcntl import flock",
        "os.rename(a, b)",
        "path.read_text()",
        "path.write_text(text)",
        "open(path)",
        "open(path, 'w')",
        "subprocess.run(words, text=True)",
        "os.geteuid()",
    ],
)
def test_the_search_finds_what_it_is_for(code):
    assert len(list(faults(code))) == 1


@pytest.mark.parametrize(
    "code",
    [
        "try:\n    from fcntl import flock\nexcept ImportError:\n    flock = None",
        "try:\n    os.sched_getaffinity(0)\nexcept AttributeError:\n    pass",
        "os.replace(a, b)",
        "path.read_text('utf-8')",
        "path.write_text(text, encoding='utf-8')",
        "open(path, 'rb')",
        "open(path, mode='wb')",
        "subprocess.run(words, text=True, encoding='utf-8')",
        "run(words)",
    ],
)
def test_what_runs_everywhere_passes(code):
    assert list(faults(code)) == []
