"""Where the commands write, what they leave alone, and what of other people's text they print."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from contextlib import contextmanager

import numpy as np
import pytest
from systems import posix

from gaga_adapter import GAGAStats
from gaga_adapter.cli import console
from gaga_adapter.files import STEERING, visible
from gaga_adapter.files.atomic import locked
from gaga_adapter.molecules.formats import read_molecules
from gaga_adapter.report.card import card_section, merge_card
from gaga_adapter.report.curves import draw_curves
from gaga_adapter.report.page import report
from gaga_adapter.report.templates import plain

GAGA = [sys.executable, "-m", "gaga_adapter"]
SAMPLE = ["sample", "-n", 3, "--steps", 2, "--batch-size", 1]
#: The title of the terminal, a colour, a line that is overwritten, and a name turned around.
STEERED = "a\x1b]0;mine\x07\x1b[31m\r\x9b2J\u202efds.b"


# -- standard output, links and folders ------------------------------------------------------------


@contextmanager
def stdout_into(file):
    """The standard output of this process, from behind Python, in a file."""
    saved = os.dup(1)
    with file.open("w") as stream:
        os.dup2(stream.fileno(), 1)
    try:
        yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)


@posix
def test_molecules_go_to_standard_output_and_talk_to_stderr(gaga, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with stdout_into(tmp_path / "stdout"):
        code, out, err = gaga(*SAMPLE, "--out", "-")
    assert (code, out) == (0, "")
    assert "wrote 3 molecules to /dev/stdout" in err
    assert os.listdir(tmp_path) == ["stdout"]
    assert gaga(*SAMPLE, "--out", "a.sdf")[0] == 0
    assert (tmp_path / "a.sdf").read_text() == (tmp_path / "stdout").read_text()
    assert sorted(os.listdir(tmp_path)) == ["a.sdf", "stdout"]


def test_a_page_goes_to_standard_output(gaga, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with stdout_into(tmp_path / "stdout"):
        assert gaga("report", "qm9", "--out", "-", "--quiet") == (0, "", "")
    page = (tmp_path / "stdout").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>"), page[:99]
    assert page.rstrip().endswith("</html>"), page[-99:]
    assert os.listdir(tmp_path) == ["stdout"]


@posix
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sample", "--out", "-", "--json"], "the document would go to standard output, too"),
        (["report", "--out", "/dev/stdout", "--json"], "the document would go to standard output"),
        (["fit", "a.npy", "--out", "-"], "cannot write a folder to standard output"),
        (["demo", "--out", "-"], "./- is one of that name"),
        (["show", "--plot", "-"], "cannot draw into -. Name a file .png, .svg, .pdf"),
        (["sample", "--out", "a.sdf.gz"], "Name it a.sdf."),
        (["sample", "--out", "loop"], "cannot write loop: it is a link that leads back to itself"),
        (["report", "--out", "mine.html"], "cannot write mine.html: it is write-protected"),
        (["show", "--plot", "mine.html"], "cannot write mine.html: it is write-protected"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_what_cannot_be_written_is_one_line(gaga, arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "mine.html").touch(mode=0o400)
    code, out, err = gaga(*arguments)
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert message in err
    assert sorted(os.listdir(tmp_path)) == ["loop", "mine.html"]


@posix
def test_every_output_lands_where_its_link_leads(gaga, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "disk").mkdir()
    for name in ("a.sdf", "a.html", "a.svg", "stats"):
        (tmp_path / name).symlink_to(f"disk/{name}")
    np.save("x.npy", np.random.default_rng(0).normal(size=(1200, 2)).astype(np.float32))
    fit = ["fit", "x.npy", "--criterion", "cumulant", "--items", 1200]
    for words in (
        [*SAMPLE, "--out", "a.sdf"],
        ["report", "qm9", "--out", "a.html"],
        [*fit, "--out", "stats", "--plot", "a.svg"],
    ):
        assert gaga(*words)[0] == 0
    written = sorted(os.listdir(tmp_path / "disk"))
    assert written == ["a.html", "a.sdf", "a.svg", "stats"]
    assert all((tmp_path / name).is_symlink() for name in written)
    assert sorted(os.listdir(tmp_path)) == [*written[:3], "disk", "stats", "x.npy"]


# -- pieces of samples -----------------------------------------------------------------------------


def test_a_folder_of_the_user_is_never_touched(gaga, tmp_path):
    out, parts = tmp_path / "a.sdf", tmp_path / "a.sdf.parts"
    for name in ("notes.txt", "mine.sdf", "0-abc.sdf", ".hidden"):
        parts.mkdir()
        (parts / name).write_text("of the user")
        code, _, err = gaga(*SAMPLE, "--out", out)
        assert (code, err.count("\n")) == (2, 1)
        assert f"{parts} holds {name}, which no run of gaga wrote" in err
        assert (parts / name).read_text() == "of the user"
        assert os.listdir(parts) == [name]
        (parts / name).unlink()
        parts.rmdir()
    parts.write_text("a file")
    assert f"{parts} is in the way" in gaga(*SAMPLE, "--out", out)[2]
    assert parts.read_text() == "a file"
    assert not out.exists()


def test_what_comes_into_the_folder_meanwhile_stays(gaga, tmp_path, monkeypatch):
    from gaga_adapter.molecules import pieces

    text = pieces.sdf_text

    def put_and_text(molecules):
        (tmp_path / "a.sdf.parts" / "notes.txt").write_text("of the user")
        return text(molecules)

    monkeypatch.setattr(pieces, "sdf_text", put_and_text)
    assert gaga(*SAMPLE, "--out", tmp_path / "a.sdf")[0] == 0
    assert len(read_molecules(tmp_path / "a.sdf")) == 3
    assert os.listdir(tmp_path / "a.sdf.parts") == ["notes.txt"]


@pytest.mark.skipif(sys.platform == "win32", reason="no locks")
def test_a_second_run_with_the_same_output_is_refused_at_its_start(gaga, tmp_path):
    out, parts = tmp_path / "a.sdf", tmp_path / "a.sdf.parts"
    parts.mkdir()
    with locked(parts / ".gaga-lock") as descriptor:
        os.write(descriptor, b"process 7 on there")
        code, _, err = gaga(*SAMPLE, "--out", out)
        assert (code, err.count("\n")) == (2, 1)
        assert f"another run (process 7 on there) is writing {out}" in err
    assert (parts / ".gaga-lock").read_text() == "process 7 on there"
    assert gaga(*SAMPLE, "--out", out)[0] == 0, "the lock of a run that has ended is nobody's"
    assert os.listdir(tmp_path) == ["a.sdf"]


# -- text from elsewhere ---------------------------------------------------------------------------


@pytest.fixture
def steered(qm9, tmp_path):
    """Statistics whose provenance and curve want to be more than text."""
    from dataclasses import replace

    hostile = f"{STEERED} [red]x[/red] :smile: $\\frac$ <b>b</b> | `c` ![p](http://q) www.r.org"
    selection = qm9.selection
    curve = replace(selection.curve, criterion="two`_sample [red]x[/red]<i>")
    chosen = replace(selection, curve=curve, reason=f"- {hostile.replace(STEERED, '')}")
    stats = replace(
        qm9, selection=chosen, provenance={**qm9.provenance, "data": hostile, STEERED: STEERED}
    )
    stats.save_pretrained(tmp_path / "stats")
    return stats, tmp_path / "stats"


def is_harmless(text):
    return not STEERING.search(text.replace("\t", ""))


def test_no_artefact_steers_the_terminal_or_a_table(gaga, steered, tmp_path):
    _, folder = steered
    code, out, err = gaga("show", folder)
    assert code == 0, err
    assert is_harmless(out + err)
    assert "[red]x[/red] :smile:" in out
    assert r"a\x1b]0;mine\x07\x1b[31m\r\x9b2J\u202efds.b" in out
    code, out, _ = gaga("show", folder, "--json")
    assert is_harmless(out)
    assert json.loads(out)["provenance"]["data"].startswith(visible(STEERED))
    code, out, _ = gaga("push", folder, "me/mine", "--dry-run")
    assert (code, is_harmless(out)) == (0, True)
    assert gaga("report", folder, "--out", tmp_path / "a.html")[0] == 0
    assert gaga("show", folder, "--plot", tmp_path / "a.svg")[0] == 0


@pytest.mark.filterwarnings("default")  # of a set that is compared with itself
@pytest.mark.parametrize(
    "name",
    ["brack[v2].xyz", "smile:smile:.xyz", "a\x1b[31mb.xyz", "two\nlines.xyz", "dol$lar$.xyz"],
)
def test_names_of_files_are_printed_as_they_are(gaga, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_text("2\n\nH 0 0 0\nH 0 0 0.74\n")
    shown = visible(name)
    code, out, err = gaga("evaluate", name, "--no-posebusters", "--against", name)
    assert code == 0, err
    assert is_harmless(out + err)
    assert " ".join(shown.split()) in " ".join(out.split())
    code, out, err = gaga("evaluate", f"gone-{name}")
    assert (code, err.count("\n")) == (2, 1)
    assert f"gone-{' '.join(shown.split())}" in err
    assert is_harmless(err)


def test_a_file_name_that_is_no_text(gaga, tmp_path):
    file = os.fsencode(tmp_path) + b"/\xff.xyz"
    try:
        with open(file, "w", encoding="utf-8") as stream:
            stream.write("2\n\nH 0 0 0\nH 0 0 0.74\n")
    except OSError:
        pytest.skip("this disk has no such names")
    name = os.fsdecode(file)
    code, out, err = gaga("evaluate", name, "--no-posebusters")
    assert (code, r"\udcff.xyz" in out.replace("\n", "")) == (0, True), err
    words = [*GAGA, "evaluate", name, "--no-posebusters", "--json"]
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(words, capture_output=True, env=environment, check=True)
    assert json.loads(done.stdout)["data"] == name


def test_progress_and_warnings_are_plain(capsys, monkeypatch):
    import warnings

    from gaga_adapter.cli import _show_warning
    from gaga_adapter.errors import GAGAWarning

    monkeypatch.setattr(console.err, "quiet", False)
    monkeypatch.setattr(console, "_EVERY", 0.0)
    with console.progress_bar() as progress:
        progress(STEERED, 1, 2)
    monkeypatch.setattr(warnings, "showwarning", _show_warning)
    _show_warning(GAGAWarning(STEERED), GAGAWarning, "file", 1)
    err = capsys.readouterr().err
    assert err.count(visible(STEERED)) == 2
    assert is_harmless(err)


def test_a_page_and_a_card_show_text_and_no_more(steered):
    stats, _ = steered
    page = report(stats)
    assert is_harmless(page)
    for mark in ("<b>b</b>", "<i>"):
        assert mark not in page
    card = merge_card(card_section(stats, "me/mine", has_picture=False), "me/mine")
    assert is_harmless(card)
    for mark in ("<b>", "![p]", "http://", "www.r", "\n- a", "two`"):
        assert mark not in card
    assert re.search(r"\| criterion \| `two'_sample[^`|]*`, on", card)


def test_a_card_reads_no_line_of_others_as_a_list_or_an_address():
    for text in ("- a", "+ a", "1. a", "1) a", "=== a", "~~~ a", "# a", "> a", "*a*", "<a>"):
        assert not re.match(r"[-+=~#>*<]|\d+[.)] ", plain(text)), text
    assert plain("0.5 nats, torch 2.3.1") == "0.5 nats, torch 2.3.1"
    assert "http:" not in plain("see http://a.b")


def test_a_dollar_is_no_formula_in_a_picture(qm9):
    curve = qm9.selection.curve
    figure = draw_curves({"$\\frac{$": curve}, {}, title="a$b$c.sdf \x1b")
    figure.draw_without_rendering()
    assert figure._suptitle.get_text() == r"a\$b\$c.sdf \x1b"


def test_a_name_with_two_lines_is_one_line_of_an_sdf_file(tmp_path):
    from dataclasses import replace

    from gaga_adapter.molecules.data import MoleculeSet
    from gaga_adapter.molecules.formats import write_sdf

    water = ([[0.0, 0.0, 0.12], [0.0, 0.76, -0.48], [0.0, -0.76, -0.48]], [8, 1, 1])
    molecules = replace(MoleculeSet.from_list([water]), name="two\nlines")
    write_sdf(molecules, tmp_path / "a.sdf")
    assert (tmp_path / "a.sdf").read_text().startswith("two lines 0\n")
    assert len(read_molecules(tmp_path / "a.sdf")) == 1


def test_a_repository_without_an_owner_is_refused_before_the_hub_is_asked(gaga, monkeypatch):
    monkeypatch.setattr(GAGAStats, "push_to_hub", None)  # it is not reached
    for name in ("badname", "a b/c", "a/b/c"):
        code, _, err = gaga("push", "qm9", name)
        assert (code, err.count("\n")) == (2, 1)
        assert f"{name!r} is no hub id" in err


def test_a_card_in_the_folder_keeps_the_lines_of_its_owner(gaga, tmp_path):
    (tmp_path / "README.md").write_text("# Mine\n\nMy words.\n")
    for _ in range(2):
        assert gaga("push", "qm9", "me/mine", "--dry-run", "--out", tmp_path)[0] == 0
        text = (tmp_path / "README.md").read_text()
        assert "# Mine\n\nMy words.\n" in text
        assert text.count("<!-- gaga:begin") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["fit", "", "--out", "x"],
        ["fit", "a.npy", "--out", ""],
        ["fit", "a.npy", "--out="],
        ["evaluate", " "],
        ["evaluate", "a.xyz", "--against", ""],
        ["report", "--data", "", "--out", "a.html"],
        ["sample", "--model", "", "--out", "a.sdf"],
        ["run", "edm", "--stats", "", "--", "a.py", ""],
    ],
    ids=" ".join,
)
def test_an_empty_word_is_no_folder(gaga, arguments, tmp_path, monkeypatch):
    """As of a variable of the shell that is not set: it would name the folder the user is in."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.xyz").write_text("2\n\nH 0 0 0\nH 0 0 0.74\n")
    code, out, err = gaga(*arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "a word of the command line is empty" in err
    assert os.listdir(tmp_path) == ["a.xyz"]


def test_the_arguments_of_a_script_may_be_empty(gaga, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "is not a checkout of EDM" in gaga("run", "edm", "--", "a.py", "")[2]


# -- numbers and quiet -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit", "x.npy", "--out", "s", "--seed", "-1"], "'--seed': -1 is out of range"),
        (["sample", "--out", "a.sdf", "--seed", str(2**64)], f"Pass 0 to {2**63 - 1}"),
        (["evaluate", "a.xyz", "--seed", "-7"], "'--seed': -7 is out of range"),
        (["report", "--out", "a.html", "--seed", str(10**30)], "is out of range"),
        (["demo", "--out", "d", "--seed", "-1"], "'--seed': -1 is out of range"),
        (["criteria", "x.npy", "--items", "1"], "'--items': 1 is out of range. Pass 2 or more"),
        (["fit", "x.npy", "--out", "s", "--items", "-5"], "'--items': -5 is out of range"),
        (["fit", "x.npy", "--out", "s", "--by-size"], "--by-size is of molecules, and x.npy is an"),
        (["criteria", "empty.npy"], "empty.npy holds float32 (5, 0); need floats (M, C, ...)"),
        (
            ["sample", "--out", "a.sdf", "--steps", "2", "--t-star", "nan"],
            "t_star=nan is no finite number",
        ),
        (["sample", "--out", "a.sdf", "--model", "qm8"], "no molecule pipeline at qm8"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_numbers_and_names_that_are_none_are_one_line(
    gaga, arguments, message, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.zeros((5, 2), np.float32))
    np.save("empty.npy", np.zeros((5, 0), np.float32))
    code, out, err = gaga(*arguments)
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert message in err
    assert sorted(os.listdir(tmp_path)) == ["empty.npy", "x.npy"]


@pytest.mark.filterwarnings("ignore")  # warnings are heard with --quiet; they are not meant here
def test_quiet_is_quiet_in_every_command(gaga, tmp_path, monkeypatch):
    import toys

    from gaga_adapter.molecules.formats import write_sdf
    from gaga_adapter.molecules.qm9 import data as qm9_data

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(console, "_EVERY", 0.0)  # every sign of progress would be a line
    chains = toys.chains(120)
    write_sdf(chains, "a.sdf")
    monkeypatch.setattr(qm9_data, "load_qm9", lambda *args, **kwargs: chains)
    np.save("x.npy", np.random.default_rng(0).normal(size=(1200, 2)).astype(np.float32))
    model = ["--criteria", "certificate", "--model", "qm9"]  # whose loading has a bar of its own
    code, _, err = gaga("criteria", "x.npy", *model, "--quiet")
    assert (code, err.count("\n")) == (2, 1), err
    assert "the sample has 2 channels" in err
    few = ["--items", 1200]
    for words in (
        ["fit", "x.npy", "--criterion", "cumulant", *few, "--out", "s"],
        ["criteria", "x.npy", "--criteria", "cumulant", *few],
        ["show", "s", "--plot", "a.svg"],
        ["push", "s", "me/mine", "--dry-run", "--out", "card"],
        [*SAMPLE, "--out", "b.sdf"],
        ["evaluate", "a.sdf", "--no-posebusters", "--against", "a.sdf"],
        ["report", "qm9", "--data", "a.sdf", "--model", "qm9", "-n", 2, "--steps", 2, "--items", 50,
         "--criteria", "none", "--out", "a.html"],
        ["demo", "-n", 2, "--steps", 2, "--out", "demo"],
    ):  # fmt: skip
        code, _, err = gaga(*words, "--quiet")
        assert (code, err) == (0, ""), words
