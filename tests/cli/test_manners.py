"""What scripts and shells rely on: streams, exit codes, interrupts, pipes, completion, progress."""

import contextlib
import errno
import json
import math
import os
import re
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import typer
from systems import posix

from gaga_adapter import GAGAStats
from gaga_adapter.cli import console, failures, options
from gaga_adapter.cli.options import writable_file, writable_folder
from gaga_adapter.errors import AlreadyReportedError, DataError, GAGAWarning, WriteError

ISSUES = "https://github.com/gaga-adapter/gaga-adapter/issues"


@pytest.fixture(autouse=True)
def ctrl_c_is_heard():
    """Also where a shell started the tests in the background, and has SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def events(tmp_path):
    """Little Gaussian data: a fit takes a moment."""
    file = tmp_path / "events.npy"
    np.save(file, np.random.default_rng(0).normal(size=(1200, 2)).astype(np.float32))
    return file


def fit(events, out):
    return "fit", events, "--criterion", "cumulant", "--items", 1200, "--out", out


# -- streams ---------------------------------------------------------------------------------------


def test_json_is_one_document_and_quiet_leaves_stderr_empty(gaga, events, tmp_path):
    code, out, err = gaga(*fit(events, tmp_path / "stats"), "--json", "--quiet")
    assert (code, err) == (0, "")
    fitted = json.loads(out)
    assert fitted["log_snr_star"] == GAGAStats.from_pretrained(tmp_path / "stats").log_snr_star
    code, out, err = gaga("show", tmp_path / "stats", "--json", "-q")
    assert (code, err, json.loads(out)) == (0, "", fitted)
    code, out, err = gaga("criteria", events, "--criteria", "cumulant", "--json", "-q")
    assert (code, err, json.loads(out)["count"]) == (0, "", 1200)


def test_quiet_is_of_one_call(gaga, events, tmp_path):
    assert gaga(*fit(events, tmp_path / "a"), "--quiet")[2] == ""
    assert f"wrote {tmp_path / 'b'}" in gaga(*fit(events, tmp_path / "b"))[2]


def test_errors_are_heard_with_quiet(gaga):
    code, out, err = gaga("show", "nowhere", "--quiet")
    assert (code, out) == (2, "")
    assert err.startswith("gaga: ArtefactError: no fitted statistics in nowhere")


def test_figures_that_are_not_finite_are_null(capsys):
    console.print_json({"a": math.nan, "b": [1.5, -math.inf], "c": {"d": (math.nan, "µ")}})
    assert json.loads(capsys.readouterr().out) == {
        "a": None,
        "b": [1.5, None],
        "c": {"d": [None, "µ"]},
    }


def test_paths_are_printed_as_they_are(capsys, monkeypatch):
    monkeypatch.setattr(console.err, "quiet", False)
    console.say("wrote [bold]/stats[/bold]")
    assert capsys.readouterr().err == "wrote [bold]/stats[/bold]\n"


# -- mistakes --------------------------------------------------------------------------------------


#: The words of the parser where typer 0.15 and click 8.1, the oldest, have others.
OLDEST_WORDS = {
    "no such command 'ft'. Did you mean 'fit'? See gaga --help": "no such command 'ft'. See gaga",
    "missing argument 'data'. See gaga fit --help": "missing argument 'DATA...'. See gaga fit",
    "unexpected extra argument(s) (b). See gaga show --help": "unexpected extra argument (b). See",
}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], ""),
        (["ft"], "no such command 'ft'. Did you mean 'fit'? See gaga --help"),
        (
            ["criteria", "a.npy", "--criterai", "x"],
            "no such option: --criterai. Did you mean --criteria? See gaga criteria --help",
        ),
        (
            ["evaluate", "a.sdf", "--skip-others"],
            "no such option: --skip-others. See gaga evaluate --help",
        ),
        (["sample", "--colour", "x"], "no such option: --colour. See gaga sample --help"),
        (["sample", "--output", "x"], "no such option: --output. Did you mean --out? See gaga"),
        (["sample", "--ref", "x"], "no such option: --ref. Did you mean --reference? See gaga"),
        (["fit", "--out", "x"], "missing argument 'data'. See gaga fit --help"),
        (["show", "a", "b"], "unexpected extra argument(s) (b). See gaga show --help"),
        (["demo", "--out", "x", "--steps", "many"], "invalid value for '--steps'"),
        (["demo", "--out", "x", "-n", "1"], "invalid value for"),
        (["show", "--json=3"], "'--json' does not take a value"),
        (
            ["criteria", "a.npy", "--reference", "shap"],
            "'shap' is none of auto, shape, size, channel, paper, unit, element, low_rank, full. "
            "Did you mean shape? See gaga criteria --help",
        ),
        (
            ["criteria", "a.npy", "--criteria", "cumulant,two-sample"],
            "Did you mean two_sample? See gaga criteria --help",
        ),
        (
            ["fit", "a.npy", "--out", "x", "--samples", "9"],
            "the option --samples is called --items now. See gaga fit --help",
        ),
        (["criteria", "a.npy", "--samples", "9"], "the option --samples is called --items now"),
        (
            ["criteria", "a.npy", "--sample", "9"],
            "no such option: --sample. See gaga criteria --help",
        ),
        (["evaluate", "a.sdf", "--posebusters-samples", "9"], "is called --posebusters-items now"),
        (["criteria", "a.npy", "--device", "tpu9"], "no device 'tpu9' here"),
        (["criteria", "a.npy", "--plot", "."], "cannot write .: it is a folder"),
        pytest.param(
            ["criteria", "a.npy", "--plot", "/proc/a.png"], "cannot write /proc/a.png", marks=posix
        ),
        (["run", "edm", "--criterion", "certificates", "--", "a.py"], "'certificates' is none of"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_a_mistake_on_the_command_line_is_one_line(gaga, arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = gaga(*arguments)
    assert code == 2
    if version("typer") == "0.15.0":
        message = OLDEST_WORDS.get(message, message)
    assert message in err
    if arguments:
        assert err.startswith("gaga: ")
        assert (err.count("\n"), out) == (1, "")
    else:
        assert "A session:" in out
    assert list(tmp_path.iterdir()) == []


def test_places_that_cannot_be_written_are_found_before_the_work(tmp_path):
    context = typer.Context(typer.main.get_command(typer.Typer(callback=lambda: None)))
    file = tmp_path / "file"
    file.touch()
    for check in (writable_file, writable_folder):
        assert check(context, None) is None
        assert check(context, tmp_path / "new" / "place") == tmp_path / "new" / "place"
        with pytest.raises(WriteError, match=re.escape(f"{file} is a file")):
            check(context, file / "place")
    assert writable_file(context, file) == file
    assert writable_folder(context, tmp_path) == tmp_path
    with pytest.raises(WriteError, match="Name a file in it"):
        writable_file(context, tmp_path)
    with pytest.raises(WriteError, match="is a file"):
        writable_folder(context, file)
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "gaga: No space left on device\n"),
        (FileNotFoundError(2, "No such file", "x.npy"), "gaga: x.npy: No such file\n"),
        (MemoryError(), "gaga: out of memory: the system gave no reason. Pass fewer items"),
    ],
)
def test_what_the_machine_lacks_is_one_line(gaga, monkeypatch, error, line):
    monkeypatch.setattr("gaga_adapter.cli.show.print_stats", raising(error))
    code, _, err = gaga("show", "qm9")
    assert code == 2
    assert err.startswith(line)
    assert err.count("\n") == 1


def test_a_bug_keeps_its_traceback_and_asks_for_a_report(gaga, monkeypatch):
    monkeypatch.setattr("gaga_adapter.cli.show.print_stats", raising(KeyError("log_snr")))
    code, _, err = gaga("show", "qm9")
    assert code == 1
    assert err.startswith("Traceback (most recent call last):")
    assert "KeyError: 'log_snr'" in err
    assert err.endswith(f"Please report it with the lines above: {ISSUES}\n")


def raising(error):
    def fail(*_):
        raise error

    return fail


# -- interrupts and pipes --------------------------------------------------------------------------


def interrupt(*_args, **_kwargs):
    signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize(
    "moment",
    [
        "gaga_adapter.cli.options.open_data",
        "gaga_adapter.criteria.cumulant.criterion.Cumulant.curve",
        "gaga_adapter.files.atomic.os.replace",
        "gaga_adapter.cli.fit.print_stats",
    ],
)
def test_ctrl_c_leaves_the_old_artefact_or_the_new_one(gaga, events, tmp_path, monkeypatch, moment):
    stats = tmp_path / "stats"
    assert gaga(*fit(events, stats), "--quiet")[0] == 0
    before = {file.name for file in stats.iterdir()}
    monkeypatch.setattr(moment, interrupt)
    code, _, err = gaga(*fit(events, stats), "--seed", 1, "--force", "--quiet")
    assert (code, err) == (130, "gaga: interrupted\n")
    assert {file.name for file in stats.iterdir()} == before
    assert {file.name for file in tmp_path.iterdir()} == {"stats", "events.npy"}
    assert GAGAStats.from_pretrained(stats).moments.count == 1200


def test_ctrl_c_between_the_two_files_of_an_artefact(gaga, events, tmp_path, monkeypatch):
    stats, replaced = tmp_path / "stats", []
    assert gaga(*fit(events, stats), "--quiet")[0] == 0
    replace = os.replace

    def replace_one(source, target):
        if replaced:
            interrupt()
        replaced.append(target)
        replace(source, target)

    monkeypatch.setattr("gaga_adapter.files.atomic.os.replace", replace_one)
    assert gaga(*fit(events, stats), "--reference", "unit", "--force")[0] == 130
    assert len(replaced) == 1
    with pytest.warns(GAGAWarning, match="not as it was written"):  # the tensors are those of both
        assert GAGAStats.from_pretrained(stats).moments.count == 1200
    assert len(list(stats.iterdir())) == 2


def test_ctrl_c_while_sampling_leaves_no_sdf_and_the_next_run_goes_on(gaga, tmp_path, monkeypatch):
    made = tmp_path / "made.sdf"
    arguments = ("sample", "-n", 9, "--batch-size", 2, "--steps", 2, "--out", made, "--quiet")
    from gaga_adapter.molecules import pieces

    text, calls = pieces.sdf_text, []

    def interrupted_later(*args):
        calls.append(1)
        if len(calls) == 2:
            interrupt()
        return text(*args)

    with monkeypatch.context() as patch:
        patch.setattr(pieces, "sdf_text", interrupted_later)
        code, _, err = gaga(*arguments)
    assert (code, err.count("\n")) == (130, 1)
    assert f"gaga: interrupted: 8 of 9 molecules are kept in {made}.parts. The same command" in err
    assert not made.exists()
    code, out, err = gaga(*arguments, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["n_found"] == 8
    assert made.read_text().count("$$$$") == 9


def test_ctrl_c_before_the_first_piece_says_that_nothing_is_kept(gaga, tmp_path, monkeypatch):
    from gaga_adapter.molecules import pieces

    monkeypatch.setattr(pieces, "sdf_text", lambda *args: interrupt())
    words = ("sample", "-n", 99, "--batch-size", 2, "--steps", 2, "--quiet", "--out")
    code, _, err = gaga(*words, tmp_path / "made.sdf")
    assert (code, err.count("\n")) == (130, 1)
    assert "gaga: interrupted: no molecule is kept, since no piece was finished." in err
    assert "A piece is 4 batches, here 8 molecules: a smaller --batch-size" in err
    assert not list(tmp_path.iterdir())
    code, _, err = gaga(*words, "/dev/null")
    assert (code, err) == (130, "gaga: interrupted: 0 of 99 molecules were written.\n")


@pytest.mark.parametrize("at", ["the end of a piece", "the whole file"])
def test_a_finished_file_is_replaced_only_by_force(gaga, tmp_path, monkeypatch, at):
    from gaga_adapter.molecules import pieces

    made = tmp_path / "made.sdf"
    many = ("sample", "-n", 3, "--batch-size", 1, "--steps", 2, "--quiet", "--out", made)
    few = ("sample", "-n", 5, *many[3:])
    assert gaga(*many).code == 0
    finished = made.read_bytes()
    for words in (few, many):
        code, _, err = gaga(*words)
        assert (code, err.count("\n")) == (2, 1)
        assert f"{made} has 3 molecules already, which would be replaced." in err
        assert "Choose another --out, or pass --force" in err
        assert made.read_bytes() == finished
        assert list(tmp_path.iterdir()) == [made]
    with monkeypatch.context() as patch:  # with leave, but interrupted: the old file stays
        if at == "the whole file":
            patch.setattr(pieces.shutil, "copyfileobj", lambda *args: interrupt())
        else:
            text, calls = pieces.sdf_text, []
            patch.setattr(
                pieces, "sdf_text", lambda *a: interrupt() if calls else calls.append(1) or text(*a)
            )
        code, _, err = gaga(*few, "--force")
    kept = 5 if at == "the whole file" else 4
    assert (code, f"{kept} of 5 molecules are kept" in err) == (130, True)
    assert made.read_bytes() == finished
    assert gaga(*few).code == 0  # the leave was given when the run began
    assert made.read_text().count("$$$$") == 5


@pytest.mark.parametrize("is_first", [True, False])
def test_of_several_processes_the_first_one_speaks_first(capsys, monkeypatch, is_first):
    """The launcher ends the others meanwhile. Who lives longer than that speaks, too."""
    waited = []
    monkeypatch.setattr(failures.time, "sleep", waited.append)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "0" if is_first else "1")
    assert failures.explain(DataError("of this one")) == 2
    assert waited == []
    assert failures.explain(typer.BadParameter("of all")) == 2
    assert len(waited) == (0 if is_first else 1)
    assert failures.explain(AlreadyReportedError("of all")) == 2
    assert len(waited) == (1 if is_first else 2)
    assert capsys.readouterr().err.splitlines() == [
        "gaga: DataError: of this one",
        "gaga: invalid value: of all. See gaga --help",
    ]


def test_ctrl_c_while_the_first_process_speaks(capsys, monkeypatch):
    monkeypatch.setattr(failures.time, "sleep", interrupt)
    assert failures.explain(AlreadyReportedError("of all")) == 130
    assert capsys.readouterr().err == "gaga: interrupted\n"


def test_statistics_are_replaced_only_by_force_and_before_any_work(gaga, events, tmp_path):
    stats = tmp_path / "stats"
    assert gaga(*fit(events, stats)).code == 0
    finished = {file: file.read_bytes() for file in stats.iterdir()}
    nothing = tmp_path / "nothing.npy"  # which nobody misses before
    for words in (fit(nothing, stats), ("levels", nothing, "--calls", 2, "--out", stats)):
        code, out, err = gaga(*words)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert f"{stats} has statistics of events.npy (1,200 items) already, which would be" in err
        assert "hoose another --out, or pass --force to replace it." in err
        assert (f"Pass --stats {stats} to add levels to these." in err) == (words[0] == "levels")
        assert "nothing.npy" in gaga(*words, "--force").err
    assert {file: file.read_bytes() for file in stats.iterdir()} == finished
    assert gaga(*fit(events, stats), "--seed", 1, "--force").code == 0
    assert {file: file.read_bytes() for file in stats.iterdir()} != finished
    (stats / "gaga_config.json").write_text("{")  # somebody's, all the same
    assert f"{stats} has statistics already, which would be" in gaga(*fit(events, stats)).err


def test_levels_that_would_be_lost_are_named(gaga, events):
    stats = Path(__file__).parents[1] / "goldens" / "artefacts" / "levels"
    n_calls = len(json.loads((stats / "gaga_levels.json").read_text())["levels"][0]["log_snrs"])
    assert f"items) and levels of {n_calls} calls already, which" in gaga(*fit(events, stats)).err


def test_a_finished_demo_is_replaced_only_by_force(gaga, tmp_path):
    (tmp_path / "demo.json").write_text("{}")
    code, out, err = gaga("demo", "--out", tmp_path, "-n", 2)
    assert (code, out) == (2, "")
    assert err == (
        f"gaga: WriteError: {tmp_path} has demo.json already, which would be replaced. Choose "
        "another --out, or pass --force to replace it.\n"
    )


def test_an_empty_file_and_a_stream_have_nothing_to_lose(gaga, tmp_path):
    made = tmp_path / "made.sdf"
    made.touch()  # as mktemp makes one
    for out in (made, "/dev/null"):
        assert gaga("sample", "-n", 1, "--steps", 2, "--out", out, "--quiet").code == 0
    made.write_text("a note of mine")
    code, _, err = gaga("sample", "-n", 1, "--steps", 2, "--out", made, "--quiet")
    assert (code, "has 14 bytes already" in err) == (2, True)


_SLOW = """
import sys, time
from gaga_adapter import criteria
from gaga_adapter.cli import main
from gaga_adapter.criteria.cumulant.criterion import Cumulant

def curve(*args, **kwargs):
    print("judging", flush=True)
    time.sleep(60)

Cumulant.curve = curve
main()
"""


@posix
def test_sigint_from_outside(events, tmp_path):
    """The signal itself, to a process that is in the middle of it."""
    stats = tmp_path / "stats"
    words = [sys.executable, "-c", _SLOW, *map(str, fit(events, stats))]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        assert run.stdout.readline() == "judging\n"
        run.send_signal(signal.SIGINT)
        out, err = run.communicate(timeout=60)
    assert (run.returncode, out, err) == (130, "", "gaga: interrupted\n")
    assert list(tmp_path.iterdir()) == [events]


@posix
@pytest.mark.parametrize("option", ["--json", "--quiet"])
def test_a_reader_that_goes_away_hears_nothing(option):
    """As `gaga show qm9 | head -1`, where head has left before the first line."""
    read, write = os.pipe()
    os.close(read)
    words = [sys.executable, "-m", "gaga_adapter", "show", "qm9", option]
    done = subprocess.run(words, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


# -- completion ------------------------------------------------------------------------------------


@pytest.fixture
def complete(monkeypatch, gaga):
    def run(line):
        words = line.split(" ")
        monkeypatch.setenv("_GAGA_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", line)
        monkeypatch.setenv("COMP_CWORD", str(len(words) - 1))
        code, out, err = gaga()
        assert (code, err) == (0, "")
        return out.split()

    return run


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("gaga s", ["show", "sample"]),
        ("gaga show --j", ["--json"]),
        ("gaga show q", ["qm9"]),
        ("gaga criteria qm9 --criteria cu", ["cumulant"]),
        ("gaga criteria qm9 --criteria cumulant,two", ["cumulant,two_sample"]),
        ("gaga criteria qm9 --reference s", ["shape", "size"]),
        ("gaga criteria qm9 --covariance low", ["low_rank"]),
        ("gaga criteria qm9 --model q", ["qm9"]),
        ("gaga fit qm9 --criterion ", ["two_sample", "cumulant", "ks_mi", "certificate"]),
        ("gaga fit qm9 --reference u", ["unit"]),
        ("gaga fit qm9 --hydrogens r", ["remove"]),
        ("gaga sample --scheduler e", ["euler", "euler-a"]),
        ("gaga sample --spacing r", ["respace"]),
        ("gaga sample --stats q", ["qm9"]),
        ("gaga sample --device c", ["cpu", "cuda"]),
        ("gaga run e", ["edm", "edpo"]),
        ("gaga run edm --stats n", ["none"]),
        ("gaga run edm --criterion c", ["cumulant"]),
        ("gaga prepare q", ["qm9"]),
    ],
)
def test_completion_in_bash(complete, line, names):
    assert complete(line) == names


def test_the_names_are_those_of_the_library():
    from typing import get_args

    from gaga_adapter.molecules import formats
    from gaga_adapter.molecules.formats import Hydrogens
    from gaga_adapter.moments.dense import DenseKind
    from gaga_adapter.reference import DenseReference, MoleculeReference, ShapeReference

    assert set(options.COVARIANCES) == set(get_args(DenseKind))
    assert options.FORMATS == formats.FORMATS
    assert set(options.HYDROGENS) == set(get_args(Hydrogens))
    molecules = {"auto", *MoleculeReference.kinds, *ShapeReference.kinds}
    assert set(options.MOLECULE_REFERENCES) == molecules
    assert set(options.REFERENCES) == molecules | set(DenseReference.kinds)


@posix
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_scripts_of_the_shells(shell, tmp_path):
    environment = os.environ | {
        "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1",
        "HOME": str(tmp_path),
    }
    words = [sys.executable, "-m", "gaga_adapter", "--show-completion", shell]
    done = subprocess.run(words, capture_output=True, text=True, env=environment, check=True)
    assert "_GAGA_COMPLETE" in done.stdout
    words[-2] = "--install-completion"
    subprocess.run(words, capture_output=True, text=True, env=environment, check=True)
    assert any("gaga" in str(file) for file in tmp_path.rglob("*"))


# -- progress --------------------------------------------------------------------------------------


def test_progress_in_a_log_is_a_line_now_and_then(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(console.err, "quiet", False)
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    with console.progress_bar() as progress:
        for seconds, done in ((0, 0), (10, 100), (31, 310), (40, 400), (62, 600)):
            now[0] = float(seconds)
            progress("moments", done, 1000)
    assert capsys.readouterr().err.splitlines() == [
        "gaga: moments 310 of 1,000, 10.0/s, 1 min 9 s left",
        "gaga: moments 600 of 1,000, 9.7/s, 41 s left",
    ]


def test_progress_is_nothing_with_quiet(monkeypatch, capsys):
    monkeypatch.setattr(console, "_EVERY", 0.0)
    monkeypatch.setattr(console.err, "quiet", True)
    with console.progress_bar() as progress:
        progress("moments", 3, 4)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("done", "total", "seconds", "text"),
    [
        (0, 10, 9.0, ""),
        (5, 10, 0.1, ""),
        (3000, None, 2.0, "1,500/s"),
        (3, 10, 6.0, "2.0 s each, 14 s left"),
        (10, 10, 6.0, "1.7/s"),
        (1, 9001, 1.0, "1.0 s each, 2 h 30 min left"),
    ],
)
def test_rates_and_time_left(done, total, seconds, text):
    assert console._pace(done, total, seconds) == text


_BAR = """
import time
from gaga_adapter.cli import console
with console.progress_bar() as progress:
    for done in range(9):
        progress("moments", done, 20)
        time.sleep(0.1)
print("done")
"""


@posix
def test_progress_on_a_terminal_is_a_bar():
    """The terminal is read while the bar is drawn: on a slow machine it is drawn more often."""
    import pty  # of POSIX systems

    terminal, side = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "100"}
    words, shown = [sys.executable, "-c", _BAR], b""
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=side, env=environment) as run:
        os.close(side)
        with contextlib.suppress(OSError):  # EIO, once nobody has the other side open
            while part := os.read(terminal, 4096):
                shown += part
        out, _ = run.communicate()
    os.close(terminal)
    shown = shown.decode()
    assert (run.returncode, out) == (0, b"done\n")
    for text in ("moments", "8/20", "s left"):
        assert text in shown
