"""`gaga doctor` and `gaga explain` as a user types them."""

import json
import os
import re
import subprocess
import sys

import diffusers
import pytest
from folders import ROOT
from toys import dense_stats

from gaga_adapter.doctor import machine, packages

ISSUES = "https://github.com/gaga-adapter/gaga-adapter/issues"


@pytest.fixture(autouse=True)
def imported(monkeypatch):
    """Libraries are imported in a test of their own, which has a process of its own."""
    monkeypatch.setattr(packages, "import_error", lambda module: None)


@pytest.fixture
def home(monkeypatch, tmp_path):
    """A home folder whose name nobody shall see."""
    folder = tmp_path / "jane_doe"
    folder.mkdir()
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(folder))
    monkeypatch.delenv("GAGA_CACHE", raising=False)
    monkeypatch.setenv("HF_TOKEN", "hf_verysecret123")
    return folder


def test_nothing_is_wrong(gaga, home):
    code, out, err = gaga("doctor")
    assert code == 0, out
    assert out.startswith("gaga-adapter\n  version ")
    for heading in ("Libraries", "Devices", "Places", "Scheduler classes of diffusers"):
        assert f"\n\n{heading}\n" in out
    for name in ("torch", "diffusers", "numpy", "rdkit", "posebusters", "transformers"):
        assert re.search(rf"^  {name} +\S", out, re.MULTILINE)
    assert out.endswith("\n\nNothing is wrong.\n")
    assert ISSUES in err
    assert "secret" not in out
    assert "jane_doe" not in out
    assert f"  cache      ~{os.sep}.cache" in out
    assert "there is one" in out


def test_a_line_is_never_cut_off(gaga, home, monkeypatch):
    """Whatever the width of the terminal is."""
    wide = gaga("doctor", "--stats", "qm9").out
    monkeypatch.setenv("COLUMNS", "30")
    assert gaga("doctor", "--stats", "qm9").out == wide


def test_all_in_one_document(gaga, home):
    stats, base = home / "stats", home / "pipeline" / "scheduler"
    dense_stats().save_pretrained(stats)
    diffusers.DDIMScheduler().save_pretrained(base)
    words = ("doctor", "--stats", stats, "--scheduler", base.parent, "--steps", 25)
    code, out, err = gaga(*words, "--json", "--quiet")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found["is_well"] is True
    assert found["problems"] == []
    assert found["notes"][0].startswith("t* was given by hand")
    assert found["gaga_adapter"]["is_checkout"] is True
    assert found["libraries"]["torch"]["version"] == packages.installed_version("torch")
    assert found["devices"]["devices"]["cpu"]["error"] is None
    assert found["scheduler_classes_of_diffusers"]["unknown"] == []
    assert found["statistics"]["count"] == 50
    assert found["scheduler"]["before"]["network_calls"] == 25
    assert found["scheduler"]["after"]["network_calls"]["scaled"] < 25
    assert "jane_doe" not in out
    assert found["statistics"]["named"] == str(stats).replace(str(home), "~")
    text = gaga(*words).out
    assert "jane_doe" not in text
    assert "t* was given by hand" in text
    assert "25 network calls" in text


def test_faults_come_last_with_exit_code_2(gaga, home, monkeypatch):
    monkeypatch.setattr(machine, "product_error", lambda name: "RuntimeError: broken")
    code, out, _ = gaga("doctor", "--scheduler", "VQDiffusionScheduler")
    assert code == 2
    end = out[out.index("What is wrong\n") :]
    assert end.count("\n  - ") == 2
    assert "matrix product on cpu fails (RuntimeError: broken)" in end
    assert "cannot use VQDiffusionScheduler: it samples discrete tokens" in end
    assert end.endswith("\n\n2 faults to mend, see above.\n")
    code, out, _ = gaga("doctor", "--scheduler", "VQDiffusionScheduler", "--json")
    assert (code, json.loads(out)["is_well"], len(json.loads(out)["problems"])) == (2, False, 2)


def test_mistakes_that_users_make(gaga, home, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "molecules.sdf").touch()
    for words, told in (
        (("doctor", "stats/"), "(stats/). See gaga doctor --help"),
        (("doctor", "--steps", "0"), "invalid value for '--steps'"),
        (("explain", "molecules.sdf"), "is a file, and fitted statistics are a folder"),
        (("explain", "qm8"), "Did you mean qm9?"),
        (("explain", "stats/"), "no fitted statistics in stats/"),
    ):
        code, out, err = gaga(*words)
        assert (code, out) == (2, ""), words
        assert told in err
        assert err.count("\n") == 1
    code, out, _ = gaga("doctor", "--stats", "molecules.sdf")
    assert code == 2
    assert "  - Statistics molecules.sdf: molecules.sdf is a file, and fitted" in out


BROKEN = 'raise ImportError("libcudart.so.12: cannot open shared object file in " + __file__)'


def test_a_torch_that_cannot_be_imported_is_a_finding(home, tmp_path):
    """What makes users ask for help most often must not stop the doctor itself."""
    site = home / "site"
    for name in ("torch", "scipy", "sklearn", "rdkit"):  # the others would only take their time
        (site / name).mkdir(parents=True)
        (site / name / "__init__.py").write_text(BROKEN)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(site), str(ROOT)))}
    words = ["doctor", "--stats", "qm9", "--scheduler", "DDIMScheduler"]
    done = subprocess.run(
        [sys.executable, "-m", "gaga_adapter", *words],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "jane_doe" not in done.stdout
    assert "cannot be imported (ImportError: libcudart.so.12: cannot open" in done.stdout
    assert "pip install -U torch" in done.stdout
    assert done.stdout.count("examined  no, ImportError: libcudart") == 4


def test_a_diffusers_that_cannot_be_imported_is_a_finding(gaga, home, monkeypatch):
    """It is imported later than torch, and breaks more often: by a hub of another version."""

    def broken(library=None):
        raise ImportError("cannot import name 'cached_download' from 'huggingface_hub'")

    monkeypatch.setattr("gaga_adapter.noise.conventions.exported_schedulers", broken)
    code, out, _ = gaga("doctor", "--stats", "qm9", "--scheduler", "DDIMScheduler")
    assert "Traceback" not in out
    assert out.count("examined  no, ImportError: cannot import name 'cached_download'") == 2
    assert "  loads  " in out or re.search(r"^  loads +yes$", out, re.MULTILINE)
    assert code == 0  # the section of libraries finds the fault, and is not asked here


# -- in plain words --------------------------------------------------------------------------------


def test_what_is_explained_is_what_the_library_says(gaga, qm9):
    from gaga_adapter.report.explanation import explain

    told = explain(qm9, "qm9")
    code, out, err = gaga("explain")
    assert (code, err) == (0, "")
    words = " ".join(out.split())
    for heading, text in told.paragraphs:
        assert f"{heading} {text}" in words
    assert out.rstrip().endswith(told.code[-1])
    code, out, _ = gaga("explain", "qm9", "--json")
    assert json.loads(out) == {"stats": "qm9", **told.to_dict()}


def test_show_names_the_plain_words(gaga):
    _, out, err = gaga("show", "qm9")
    assert "In plain words: gaga explain qm9" in err
    assert "In plain words" not in out
