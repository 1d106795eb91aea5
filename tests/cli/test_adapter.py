"""`gaga adapter new`: the draft finds a model's own names, and keeps the contract as written."""

import importlib
import inspect
import json
import re
import sys

import pytest
from fakes import edm_like
from gaga_adapter.integrations import protocol
from gaga_adapter.integrations.protocol import adapters

from gaga_adapter.testing import check_adapter

RENAMED = {
    "self.T\\b": "self.num_steps",
    "self.dynamics, self.T": "self.dynamics, self.num_steps",
    r"\bphi\b": "denoiser",
    r"self\.gamma\b(?!\[| = nn)": "self.levels",
    "sample_combined_position_feature_noise": "draw_noise",
    "kl_prior": "kl_at_the_end",
}
MAKE = """

def make_model(n_steps=20):
    return Fork(TinyDynamics({width}), {width}, timesteps=n_steps)
"""


@pytest.fixture
def fork(tmp_path, monkeypatch):
    """Writes a module with a fork of the stand-in of EDM, under other names."""

    def write(name, *forget):
        text = inspect.getsource(edm_like)
        schedules, text = text.split("class TinyDynamics")
        text = "class TinyDynamics" + text.split("# -- models with seeded")[0]
        text = text.replace("EnVariationalDiffusion", "Fork")
        for word, other in RENAMED.items():
            text = re.sub(word, other, text)
        for word in forget:
            text = re.sub(rf"\b{word}\b", f"their_{word}", text)
        text += MAKE.format(width=6)
        (tmp_path / f"{name}.py").write_text(schedules + text, encoding="utf-8")

    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(protocol, "_ADAPTERS", dict(protocol._ADAPTERS))
    yield write
    for name in [n for n in sys.modules if re.fullmatch("(test_)?(alpha|beta)(_adapter)?", n)]:
        del sys.modules[name]


NAMES = {
    "steps": "num_steps",
    "schedule": "levels",
    "network": "denoiser",
    "noise": "draw_noise",
    "starts": ["sample", "sample_chain"],
    "loss": "forward",
    "prior_term": "kl_at_the_end",
    "n_features": 6,
}


@pytest.mark.parametrize(
    ("name", "forget", "base"), [("alpha", (), "EDM"), ("beta", ("norm_values",), "Adapter")]
)
def test_the_draft_keeps_the_contract_as_it_is_written(fork, gaga, tmp_path, name, forget, base):
    fork(name, *forget)
    before = adapters()
    done = gaga("adapter", "new", name, "--model", f"{name}:make_model", "--json")
    assert done.code == 0, done.err
    told = json.loads(done.out)
    assert {key: told["names"][key] for key in NAMES} == NAMES
    assert told["names"]["others"] == ["compute_loss", "_steps"]
    assert told["missing"] == []
    assert not [check for check, said in told["checks"].items() if said.startswith("failed")]
    assert told["checks"]["it_trains"] == "passed"
    assert adapters() == before
    text = (tmp_path / f"{name}_adapter.py").read_text()
    assert f"class {name.title()}({base}):" in text
    assert "# Read this one, it samples or uses num_steps: compute_loss" in text
    test = importlib.import_module(f"test_{name}_adapter")
    assert test.check_adapter is check_adapter
    test.test_contract()


def test_what_is_not_found_is_told(fork, gaga, tmp_path):
    fork("alpha")
    source = (tmp_path / "alpha.py").read_text()
    (tmp_path / "alpha.py").write_text(source.replace("num_steps", "horizon"))
    done = gaga("adapter", "new", "alpha", "--model", "alpha:make_model")
    assert done.code == 0, done.err
    assert "what Fork calls its parts" in done.out
    assert "missing: steps: no integer attribute of 16 or more is called T," in done.out
    assert "wrote alpha_adapter.py" in done.err


def test_without_a_model_the_names_are_those_of_edm(gaga, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = gaga("adapter", "new", "mycode", "--out", "there")
    assert done.code == 0, done.err
    text = (tmp_path / "there" / "mycode_adapter.py").read_text()
    assert 'network = "phi"' in text
    monkeypatch.setattr(protocol, "_ADAPTERS", dict(protocol._ADAPTERS))
    names = {}
    exec(compile(text, "mycode_adapter.py", "exec"), names)
    check_adapter(names["Mycode"](), lambda n_steps: edm_like.make_edm(n_steps)).assert_passed()
    assert "make a model of mycode here" in (tmp_path / "there/test_mycode_adapter.py").read_text()
    done = gaga("adapter", "new", "mycode", "--out", "there")
    assert done.code == 2
    assert "mycode_adapter.py is there already" in done.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["old", "mycode"], "'old' is unknown. Known: new."),
        (["new", "my-code"], "'my-code' cannot name a file of Python"),
        (["new", "mycode", "--model", "nowhere"], "is not of the form module:function"),
        (["new", "mycode", "--model", "nowhere:f"], "cannot be imported: No module named"),
        (["new", "mycode", "--model", "json:nothing"], "cannot be imported: module 'json' has no"),
        (["new", "mycode", "--model", "math:pi"], "math:pi is a float, not a function"),
        (["new", "mycode", "--model", "builtins:dict"], "made a dict. It must make a torch"),
    ],
)
def test_what_is_refused(gaga, tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    done = gaga("adapter", *words)
    assert done.code == 2
    assert said in " ".join(done.err.split())
    assert not list(tmp_path.iterdir())


def test_a_model_that_has_an_adapter_gets_another_only_by_force(gaga, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(
        edm_like, "made", lambda n_steps=20: edm_like.make_edm(n_steps), raising=False
    )
    words = ("adapter", "new", "alpha", "--model", "fakes.edm_like:made")
    done = gaga(*words)
    assert done.code == 2
    assert "the adapter edm recognises EnVariationalDiffusion" in done.err
    done = gaga(*words, "--force", "--json")
    assert done.code == 0, done.err
    checks = json.loads(done.out)["checks"]
    assert not [check for check, said in checks.items() if said.startswith("failed")]
    del sys.modules["alpha_adapter"]
