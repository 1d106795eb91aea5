"""What `gaga --help` and its relatives print, against the texts in tests/goldens/help."""

import re
import subprocess
import sys
from importlib.metadata import version

import pytest
from folders import ROOT
from goldens import help as goldens

from gaga_adapter.cli import app

MAKE = "Run `python tests/goldens/help.py` and look at the difference."
NAMES = goldens.commands()


def pinned(package):
    found = re.search(rf"^{package}==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    return found[1]


as_pinned = pytest.mark.skipif(
    any(version(package) != pinned(package) for package in ("typer", "rich")),
    reason="other versions of typer or rich lay the same text out differently",
)


@pytest.fixture(scope="module")
def pages():
    return goldens.texts()


@as_pinned
@pytest.mark.parametrize("name", ["gaga.txt", *(f"gaga_{name}.txt" for name in NAMES)])
def test_help_is_the_committed_text(pages, name):
    golden = goldens.FOLDER / name
    assert golden.is_file(), f"{name} is new. {MAKE}"
    assert pages[name] == golden.read_text(encoding="utf-8"), f"the help has changed. {MAKE}"


def test_no_text_of_a_command_that_is_gone(pages):
    assert {file.name for file in goldens.FOLDER.glob("*.txt")} == set(pages), MAKE


def test_help_depends_on_no_terminal(pages, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert goldens.help_text("show") == pages["gaga_show.txt"]
    assert max(len(line) for text in pages.values() for line in text.splitlines()) <= 80


@as_pinned
@pytest.mark.parametrize("name", NAMES)
def test_a_command_has_its_summary_a_paragraph_an_example_and_the_common_options(pages, name):
    """The summary in `gaga --help` is the first line of the command's own help."""
    text = pages[f"gaga_{name}.txt"]
    summary = next(c.help for c in app.registered_commands if c.name == name)
    _usage, first, *paragraphs = text.split("╭")[0].strip().split("\n\n")
    assert first.strip() == summary
    assert len(summary) <= 66, "it takes two lines of `gaga --help`"
    assert len(paragraphs) >= 2, "a paragraph and an example"
    assert re.search(rf"^\s+gaga {name} ", paragraphs[-1], re.MULTILINE), "the example is the end"
    assert "--quiet" in text
    assert name == "run" or "--json" in text  # what a script of others prints is its own


def test_help_and_version_load_no_torch():
    code = (
        "import sys; from gaga_adapter.cli import main\n"
        "sys.argv = ['gaga', sys.argv[1]]\n"
        "try: main()\n"
        "except SystemExit as stopped: print(stopped.code)\n"
        "heavy = {'torch', 'numpy', 'diffusers', 'rdkit', 'scipy', 'sklearn', 'matplotlib'}\n"
        "print(*sorted(heavy & set(sys.modules)))"
    )
    for option, said in (("--help", "A session:"), ("--version", version("gaga-adapter"))):
        done = subprocess.run(
            [sys.executable, "-c", code, option], capture_output=True, text=True, check=True
        )
        assert said in done.stdout
        assert done.stdout.endswith("0\n\n"), done.stdout[-200:]
