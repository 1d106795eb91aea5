"""Advice that can be followed: every option, command and extra that a message names is there.

A message is a string in the code that is no docstring. An option in it belongs to the command that
the message names before it (`gaga fit --by-size`), or else to every command that can print it.
"""

from __future__ import annotations

import ast
import inspect
import re
from importlib import import_module
from importlib.metadata import metadata

import pytest
import typer
from folders import ROOT

from gaga_adapter.cli import _COMMANDS, flatten

COMMANDS = [name for name, *_ in _COMMANDS]
READ = ("fit", "criteria", "evaluate", "report")
#: Commands that can print the messages of a file or a folder. One that is not here may be printed
#: by all of them.
REACHED_BY = {
    "gaga_adapter/cli/__init__.py": (),
    "gaga_adapter/cli/console.py": COMMANDS,
    "gaga_adapter/cli/failures.py": (),
    "gaga_adapter/cli/judging.py": ("evaluate", "report"),
    "gaga_adapter/cli/options.py": ("fit", "criteria"),
    "gaga_adapter/doctor": ("doctor",),
    "gaga_adapter/molecules/formats": (*READ, "prepare"),
    "gaga_adapter/molecules/pieces.py": ("sample",),
    "integrations/launcher/cached_stats.py": ("run",),
    "integrations/launcher/prepare.py": ("prepare",),
    "integrations/launcher/prepare_geom.py": ("prepare",),
    "integrations/launcher": ("run",),
    "integrations/forks": ("run",),
}
#: Messages of `cli/options.py` that other commands print, by a part of them.
OF_OTHERS = {
    "the certificate asks a trained denoiser": ("fit", "criteria", "report"),
    "Choose another --out, or pass --force": ("fit", "levels", "sample", "demo"),
    "the document would go to standard output": ("sample", "report"),
}
#: Options of other programs, by the words before them.
FOREIGN = re.compile(
    r"(--num_processes|--multi_gpu|--nproc-per-node|--trainable_ae|--ae_path|--resume|--model_path"
    r"|--n_epochs|--max_t|--num_train_timesteps|--dataset|--help|--version)\b"
)
OPTION = re.compile(r"(?<![\w-])(--[a-z][\w-]*|-n\b)")


def options_of(name):
    """All options that a command takes, hidden ones apart: an old name is no advice."""
    alone = typer.Typer(add_completion=False)
    alone.command(name)(flatten(import_module(f"gaga_adapter.cli.{name}").run))
    parameters = typer.main.get_command(alone).params
    shown = [one for one in parameters if not getattr(one, "hidden", False)]
    return {text for one in shown for text in (*one.opts, *one.secondary_opts)}


OPTIONS = {name: options_of(name) for name in COMMANDS}


def messages(path):
    """(line, text) of the strings of a file; what is worked out stands as {}."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    parts, documents = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts |= {id(value) for value in node.values}
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            documents.add(id(body[0].value))
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            texts = [v.value if isinstance(v, ast.Constant) else "{}" for v in node.values]
            yield node.lineno, "".join(texts)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            if id(node) not in parts | documents:
                yield node.lineno, node.value


def commands_of(where, text):
    """The commands that can print a message."""
    for part, names in OF_OTHERS.items():
        if part in text:
            return names
    own = re.fullmatch(r"gaga_adapter/cli/(\w+)\.py", where)
    if own and own[1] in COMMANDS:
        return (own[1],)
    near = [place for place in REACHED_BY if where == place or where.startswith(f"{place}/")]
    return REACHED_BY[max(near, key=len)] if near else COMMANDS


FILES = sorted([*(ROOT / "gaga_adapter").rglob("*.py"), *(ROOT / "integrations").rglob("*.py")])
ALL = [
    (path.relative_to(ROOT).as_posix(), line, text)
    for path in FILES
    for line, text in messages(path)
]


def faults(where, text):
    """Options that a message names and its commands do not have."""
    if OPTION.fullmatch(text):  # the declaration of an option
        return
    named = None
    for found in re.finditer(rf"\bgaga ({'|'.join(COMMANDS)})\b|{OPTION.pattern}", text):
        if found[1]:
            named = found[1]
        elif not FOREIGN.match(found[0]):
            for command in [named] if named else commands_of(where, text):
                if found[0] not in OPTIONS[command]:
                    yield f"{found[0]} is none of gaga {command}"


def test_every_option_in_a_message_is_one_of_its_command():
    wrong = [
        f"{where}:{line}: {fault}: {text[:80]!r}"
        for where, line, text in ALL
        for fault in faults(where, text)
    ]
    assert not wrong, "\n".join(wrong)


def test_the_search_finds_what_it_is_for():
    assert len([text for *_, text in ALL if OPTION.search(text)]) > 60
    assert list(faults("gaga_adapter/cli/evaluate.py", "Pass --elements H,C.")) == [
        "--elements is none of gaga evaluate"
    ]
    assert len(list(faults("gaga_adapter/molecules/formats/sdf.py", "--elements auto"))) == 3
    assert not list(faults("gaga_adapter/molecules/formats/sdf.py", "`gaga fit` --elements auto"))
    assert list(faults("gaga_adapter/stats.py", "Pass --by-size."))
    assert list(faults("gaga_adapter/cli/fit.py", "Pass --samples 9.")), "an old name is no advice"


def test_every_command_and_extra_in_a_message_is_there():
    extras = set(metadata("gaga-adapter").get_all("Provides-Extra"))
    n_commands = 0
    for where, line, text in ALL:
        for found in re.finditer(r"`gaga (\w+)", text):
            n_commands += 1
            assert found[1] in COMMANDS, f"{where}:{line}: {text!r}"
        for found in re.finditer(r"gaga-adapter\[([\w,]+)\]", text):
            assert set(found[1].split(",")) <= extras, f"{where}:{line}: {text!r}"
    assert n_commands >= 10
    for path in FILES:
        for found in re.finditer(
            r'MissingExtraError\("[\w-]+", "(\w+)"\)', path.read_text(encoding="utf-8")
        ):
            assert found[1] in extras, path


def test_every_python_argument_in_a_hint_is_one_of_a_reader():
    """Hints that name an option name the argument of Python, too: `--embed (embed=True)`."""
    from gaga_adapter.molecules.formats import stream_molecules

    known = inspect.signature(stream_molecules).parameters
    hints = [
        found
        for where, _, text in ALL
        if where.startswith("gaga_adapter/molecules/formats")
        for found in re.findall(r"--[\w-]+ \((\w+)=", text)
    ]
    assert len(hints) >= 3
    assert set(hints) <= known.keys()


# -- the advice, followed --------------------------------------------------------------------------

DRAWING = """ethane
     RDKit          2D

  2  1  0  0  0  0  0  0  0  0999 V2000
    0.0000    0.0000    0.0000 C   0  0
    1.5000    0.0000    0.0000 C   0  0
  1  2  1  0
M  END
$$$$
"""
BAD = "2\n\nH 0 0 0\nH 0 0 0.74\n2\n\nH 0 0 0\nQq 0 0 0\n"


@pytest.mark.filterwarnings("default")  # the commands print them
def test_drawings_and_bad_molecules_by_the_options_that_are_advised(gaga, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "drawn.sdf").write_text(DRAWING)
    (tmp_path / "bad.xyz").write_text(BAD)
    (tmp_path / "good.xyz").write_text(BAD[: BAD.index("2\n\nH 0 0 0\nQq")])
    evaluate = ["evaluate", "--no-posebusters", "--json"]
    report = ["report", "qm9", "--criteria", "none", "--out", "a.html", "--items", 2]
    for words, option in (
        ([*evaluate, "drawn.sdf"], "--embed"),
        ([*evaluate, "bad.xyz"], "--skip-bad"),
        ([*evaluate, "good.xyz", "--against", "bad.xyz"], "--skip-bad"),
        ([*evaluate, "good.xyz", "--against", "drawn.sdf"], "--embed"),
        ([*report, "--samples", "bad.xyz"], "--skip-bad"),
        ([*report, "--samples", "drawn.sdf"], "--embed"),
        ([*report, "--data", "bad.xyz"], "--skip-bad"),
    ):
        code, _, err = gaga(*words)
        assert (code, option in err) == (2, True), err
        code, _, err = gaga(*words, option)
        assert code == 0, err


@pytest.mark.filterwarnings("default")  # of a set that is compared with itself
def test_hydrogens_are_removed_from_both_sets_that_are_compared(gaga, tmp_path):
    import json

    file = tmp_path / "a.xyz"
    file.write_text("3\n\nC 0 0 0\nO 0 0 1.2\nH 0 0.9 -0.6\n" * 2)
    words = ["evaluate", file, "--no-posebusters", "--against", file, "--json"]
    code, out, err = gaga(*words, "--hydrogens", "remove")
    assert code == 0, err
    found = json.loads(out)["distances"]["measured"]
    assert found["elements"]["value"] == found["v_x"]["value"] == 0.0


def test_a_level_of_the_refinement_needs_one(gaga, tmp_path):
    file = tmp_path / "a.xyz"
    file.write_text("3\n\nC 0 0 0\nO 0 0 1.2\nH 0 0.9 -0.6\n")
    code, _, err = gaga("fit", file, "--out", tmp_path / "stats", "--refine-at", 1.0)
    assert code == 2
    assert "--refine-at is given and --refine is not. Pass --refine tilt, too." in err
