"""The commands as a user types them: real output, and one line with exit code 2 for a mistake."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
import toys
from systems import posix

from gaga_adapter import GAGAStats
from gaga_adapter.molecules.formats import read_molecules, write_sdf
from gaga_adapter.molecules.pipeline import MoleculePipeline, edm_scheduler
from gaga_adapter.molecules.qm9 import data as qm9
from gaga_adapter.sampling import FEW_STEPS


@pytest.fixture(scope="module")
def molecules():
    """Chains of carbon and hydrogen of 3 to 8 atoms: enough to fit, far from Gaussian."""
    return toys.chains(1200)


@pytest.fixture
def sdf(molecules, tmp_path):
    file = tmp_path / "chains.sdf"
    write_sdf(molecules, file)
    return file


@pytest.mark.filterwarnings("ignore:.* atoms is far outside")  # QM9's sizes, statistics of chains
@pytest.mark.filterwarnings("ignore:sizes are drawn as the model's")
def test_fit_then_show_then_sample_then_evaluate(gaga, sdf, tmp_path):
    stats = tmp_path / "stats"
    code, out, err = gaga("fit", sdf, "--out", stats, "--items", 1200, "--tolerance", 3)
    assert code == 0, err
    assert "log-SNR* =" in out
    assert "edm/polynomial_2" in out
    assert GAGAStats.from_pretrained(stats).moments.count == 1200

    code, out, _ = gaga("show", stats, "--json")
    shown = json.loads(out)
    assert code == 0
    assert shown["provenance"]["data"] == sdf.name  # whoever is sent the artefact sees no folders
    assert 0 < shown["t_star"]["edm/polynomial_2"] < 1000

    made = tmp_path / "made.sdf"
    code, _, err = gaga("sample", "-n", 3, "--out", made, "--steps", 6, "--stats", stats)
    assert code == 0, err
    assert "wrote 3 molecules" in err
    assert len(read_molecules(made)) == 3

    code, out, _ = gaga("evaluate", made, "--json", "--no-posebusters")
    assert code == 0
    assert json.loads(out)["n_molecules"] == 3
    code, out, _ = gaga("evaluate", made, "--no-posebusters")
    assert "atom stability %" in out


def test_sample_is_reproducible_and_truncation_saves_calls(gaga, tmp_path):
    def calls(*arguments):
        code, _, err = gaga("sample", "-n", 2, "--seed", 3, "--steps", 10, *arguments)
        assert code == 0, err
        return int(err.split("network calls")[0].split()[-1])

    one, two, cut = (tmp_path / name for name in ("1.sdf", "2.sdf", "3.sdf"))
    assert calls("--out", one) == calls("--out", two) == 10
    assert one.read_text() == two.read_text()
    ddpm = ("--scheduler", "ddpm", "--stats", "qm9", "--t-star", 400)
    assert calls("--out", cut, *ddpm) == 5
    cut = ("--force", "--out", cut)
    assert calls(*cut, *ddpm, "--spacing", "respace") == 10
    assert calls(*cut, *ddpm, "--spacing", "log_snr") == 10
    assert calls(*cut, "--stats", "qm9", "--scheduler", "dpm++") < 10


@pytest.mark.filterwarnings("default")  # the command prints them
def test_what_sample_does_unless_it_is_told(gaga, tmp_path):
    made = tmp_path / "a.sdf"

    def said(*arguments):
        code, _, err = gaga("sample", "-n", 2, "--force", "--out", made, *arguments)
        assert code == 0, err
        return err

    start = GAGAStats.from_pretrained("qm9").t_star(edm_scheduler())
    by_default = said()
    assert f"{FEW_STEPS} network calls from timestep {start:g} on" in by_default
    text = made.read_text()
    said("--scheduler", "few-step", "--stats", "qm9", "--steps", FEW_STEPS, "--spacing", "log_snr")
    assert made.read_text() == text
    assert "from timestep" in said("--steps", 60)  # ddpm, whose grid is cut at t*
    assert "60 network calls" not in said("--steps", 60)
    for steps, name in enumerate(("few-step", "lcm", "ddpm"), start=3):
        err = said("--scheduler", name, "--steps", steps, "--stats", "none")
        assert f"{steps} steps from noise are few" in err
        assert f"{steps} network calls, " in err
    for text in (by_default, said("--scheduler", "ddpm", "--steps", 4)):
        assert "from noise" not in text
    folder = tmp_path / "own"
    MoleculePipeline.load("qm9").save_pretrained(folder)
    assert "7 network calls, " in said("--model", folder, "--steps", 7)  # no statistics, ddpm


@pytest.mark.filterwarnings("default")  # the command prints them
@pytest.mark.filterwarnings("default")  # the command prints them
def test_sizes_that_the_statistics_have_not_seen_are_warned_of(gaga, tmp_path):
    write_sdf(toys.chains(200, (4, 9)), tmp_path / "small.sdf")
    words = ("--criterion", "cumulant", "--tolerance", 1e6, "--reference", "unit", "--quiet")
    assert gaga("fit", tmp_path / "small.sdf", *words, "--out", tmp_path / "stats").code == 0
    words = ("sample", "-n", 2, "--steps", 2, "--force", "--out", tmp_path / "made.sdf")
    code, _, err = gaga(*words, "--stats", tmp_path / "stats")
    assert code == 0, err
    counts = MoleculePipeline.load().config.size_counts
    share = (sum(counts) - sum(counts[4:9])) / sum(counts)
    assert f"{100 * share:.0f} % of these molecules are smaller or larger" in err
    assert "(4 to 8 atoms)" in err
    code, _, err = gaga(*words)
    assert (code, "smaller or larger" in err) == (0, False)


def test_sample_says_where_it_started_and_that_a_fraction_is_no_timestep(gaga, tmp_path):
    arguments = ("sample", "-n", 2, "--steps", 10, "--force", "--out", tmp_path / "a.sdf")
    arguments = (*arguments, "--scheduler", "ddpm")  # of the embedded model, with its statistics
    code, _, err = gaga(*arguments, "--t-star", 400)
    assert (code, "5 network calls from timestep 444 on" in err) == (0, True), err
    assert "accelerate" not in err
    assert "nearly clean" not in err
    code, out, err = gaga(*arguments, "--t-star", 0.3)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "is no share of the path: 0.3 of 1001 is 300." in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit", "nothing.sdf", "--out", "x"], "there is no file nothing.sdf"),
        (["fit", "nothing.txt", "--out", "x"], "cannot tell what nothing.txt is"),
        (["show", "nowhere"], "no fitted statistics in nowhere"),
        (["evaluate", "nothing.xyz"], "there is no file nothing.xyz"),
        (["sample", "--out", "a.xyz"], "cannot write a.xyz: molecules are written as SDF. Name it"),
        (["fit", "qm9", "--out", "x", "--covariance", "full"], "--covariance full is of arrays"),
        (["sample", "--out", "a.sdf", "--scheduler", "ddmp"], "'ddmp' is none of ddpm, ddim, "),
        (["sample", "--out", "a.sdf", "--calls", "12"], "there is no --calls here. Pass --steps"),
        (["sample", "--out", "a.sdf", "--model", "nowhere"], "no molecule pipeline at nowhere"),
        (["sample", "--out", "a.sdf", "--stats", "nowhere"], "no fitted statistics in nowhere"),
        (
            ["sample", "--out", "a.sdf", "--stats", "qm9", "--t-star", "1200"],
            r"t_star=1200",
        ),
        (
            ["sample", "--out", "a.sdf", "--stats", "qm9", "--reference", "sahpe"],
            "sahpe",
        ),
        (["sample", "--out", "a.sdf", "--stats", "qm9", "--spacing", "cut"], "cut"),
        (
            ["sample", "--out", "a.sdf", "--stats", "none", "--spacing", "respace"],
            "--spacing given without --stats",
        ),
        (["fit", "qm9", "--out", "x", "--elements", "H,C,H"], "elements are"),
        (["fit", "qm9", "--out", "x", "--onehot-scale", "0"], "onehot_scale=0.0"),
        (["fit", "qm9", "--out", "x", "--criterion", "gauss"], "'gauss' is none of two_sample"),
        (["fit", "qm9", "--out", "x", "--criterion", "certificate"], "Pass --model FOLDER"),
        (["fit", "qm9", "--out", "x", "--tolerance", "0"], "tolerance=0.0 nats"),
        (["fit", "qm9", "--out", "x", "--plot", "curve.gif"], "cannot draw into curve.gif"),
        (["fit", "images.npy", "--out", "x"], "no file images.npy"),
        (["criteria", "a.npy", "b.npy"], "one .npy file at a time"),
        (["criteria", "qm9", "--criteria", "cumulants"], "'cumulants' is none of two_sample"),
        (["criteria", "qm9", "--alpha", "5"], "tolerance=5.0 p-value"),
        pytest.param(["demo", "--out", "/proc/demo"], "cannot write /proc/demo", marks=posix),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_a_mistake_is_one_line_and_exit_code_2(gaga, arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = gaga(*arguments)
    assert code == 2
    assert message in err
    assert err.startswith("gaga: ")
    assert err.count("\n") == 1
    assert out == ""
    assert list(tmp_path.iterdir()) == []


def test_several_criteria_on_one_table_and_one_picture(gaga, sdf, tmp_path):
    picture = tmp_path / "curves.png"
    chosen = ["--criteria", "two_sample,cumulant", "--items", 1200, "--tolerance", 3]
    code, out, err = gaga("criteria", sdf, *chosen, "--plot", picture)
    assert code == 0, err
    for text in ("two_sample", "cumulant", "log-SNR*", "90 % interval", "edm/polynomial_2"):
        assert text in out
    assert picture.read_bytes().startswith(b"\x89PNG")
    code, out, _ = gaga("criteria", sdf, *chosen, "--json")
    found = json.loads(out)
    assert (found["count"], found["n_criterion"]) == (1200, 1200)
    verdict = found["criteria"]["two_sample"]
    assert verdict["interval"][0] <= verdict["log_snr_star"] <= verdict["interval"][1]
    assert 0 < verdict["t_star"]["ddpm/linear"] < 1000
    assert len(verdict["curve"]["value"]) == 15


def test_dense_arrays_fit_from_a_file(gaga, tmp_path):
    """Gaussian events with a covariance of their own: Gaussian at every level."""
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(6, 6)) / 2
    events = (rng.normal(size=(1500, 6)) @ mixing).astype(np.float32).reshape(1500, 2, 3)
    np.save(tmp_path / "events.npy", events)
    stats, picture = tmp_path / "stats", tmp_path / "curve.svg"
    code, out, err = gaga(
        *("fit", tmp_path / "events.npy", "--covariance", "full", "--items", 1500),
        *("--criterion", "cumulant", "--out", stats, "--plot", picture),
    )
    assert code == 0, err
    assert "cumulant against the full reference" in out
    fitted = GAGAStats.from_pretrained(stats)
    assert fitted.layout.shape == (2, 3)
    assert fitted.log_snr_star == 2.5
    code, _, err = gaga("show", stats, "--plot", tmp_path / "again.svg")
    assert code == 0, err
    assert (tmp_path / "again.svg").exists()


def test_data_that_no_criterion_can_judge(gaga, tmp_path):
    np.save(tmp_path / "few.npy", np.random.default_rng(0).normal(size=(10, 6)))
    code, out, _ = gaga("criteria", tmp_path / "few.npy", "--plot", tmp_path / "few.png")
    assert code == 2
    assert out.count("found 10 data items") == 3
    assert not (tmp_path / "few.png").exists()


def test_arrays_that_are_no_stack_of_events(gaga, tmp_path):
    file = tmp_path / "array.npy"
    for array in (np.zeros((5, 2), dtype=np.uint8), np.zeros(5), np.zeros((0, 2))):
        np.save(file, array)
        code, _, err = gaga("criteria", file)
        assert code == 2
        assert "need floats (M, C, ...)" in err
    file.write_bytes(b"no array")
    code, _, err = gaga("fit", file, "--out", tmp_path / "stats")
    assert code == 2
    assert "Write it with numpy.save" in err


def test_bad_molecules(gaga, tmp_path):
    bad = tmp_path / "bad.xyz"
    bad.write_text("2\n\nH 0 0 0\nH nan 0 0\n")
    assert gaga("evaluate", bad)[0] == 2
    bad.write_text("2\n\nH 0 0 0\nXx 1 0 0\n")
    code, _, err = gaga("evaluate", bad)
    assert code == 2
    assert "Xx" in err
    bad.write_text("2\n\nSi 0 0 0\nH 1.5 0 0\n")
    code, _, err = gaga("fit", bad, "--out", tmp_path / "stats")
    assert code == 2
    assert "Si" in err
    assert err.count("\n") == 1
    assert not (tmp_path / "stats").exists()


def test_one_molecule_is_too_few_to_fit(gaga, tmp_path):
    one = tmp_path / "one.xyz"
    one.write_text("3\nwater\nO 0 0 0\nH 0.96 0 0\nH -0.24 0.93 0\n")
    code, _, err = gaga("fit", one, "--out", tmp_path / "stats")
    assert code == 2
    assert "1 " in err
    assert not (tmp_path / "stats").exists()


def test_demo_writes_table_structures_and_picture(gaga, tmp_path, molecules, monkeypatch):
    monkeypatch.setattr(qm9, "load_qm9", lambda split, progress: molecules)
    torch.manual_seed(0)
    folder = tmp_path / "demo"
    code, out, err = gaga("demo", "--out", folder, "-n", 4, "--steps", 5, "--calls", 3)
    assert code == 0, err
    assert "from noise" in out
    record = json.loads((folder / "demo.json").read_text())
    rows = record["rows"]
    assert rows["full"]["network_calls"] == 5
    assert rows["from t*"]["network_calls"] == rows["from noise"]["network_calls"] == 3
    assert record["t_star"] == GAGAStats.from_pretrained("qm9").t_star(edm_scheduler())
    for name in ("full", "from_t_star", "from_noise"):
        assert len(read_molecules(folder / f"molecules_{name}.sdf")) == 4
    assert (folder / "molecules.png").read_bytes().startswith(b"\x89PNG")


def test_the_installed_command_and_the_module():
    for command in ([sys.executable, "-m", "gaga_adapter"],):
        done = subprocess.run([*command, "--help"], capture_output=True, text=True, check=True)
        for name in ("fit", "criteria", "show", "sample", "evaluate", "demo"):
            assert name in done.stdout


def test_a_foreign_element_is_named_by_its_place_in_the_file(gaga, tmp_path):
    file = tmp_path / "many.xyz"
    file.write_text("1\n\nC 0 0 0\n" * 2100 + "1\n\nSi 0 0 0\n")
    code, _, err = gaga("fit", file, "--out", tmp_path / "stats")
    assert code == 2
    assert "molecule 2100 has the element Si" in err
