"""`gaga adapter new`: the draft finds a model's own names, and keeps the contract as written."""

import importlib
import inspect
import json
import re
import sys
from pathlib import Path

import pytest
from fakes import edm_like, forks
from gaga_adapter.integrations import protocol
from gaga_adapter.integrations.edm import EDM
from gaga_adapter.integrations.protocol import adapter_for, adapters

from gaga_adapter.errors import UnsupportedModelError
from gaga_adapter.testing import check_adapter
from gaga_adapter.testing.skeleton import EDM_WORDS, Structure, text_of_test

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
    assert told["names"]["others"] == ["times", "compute_loss", "_steps"]
    assert told["missing"] == []
    assert not [check for check, said in told["checks"].items() if said.startswith("failed")]
    assert told["checks"]["it_trains"] == "passed"
    assert adapters() == before
    text = (tmp_path / f"{name}_adapter.py").read_text()
    assert f"class {name.title()}({base}):" in text
    assert told["names"]["parent"] == base
    assert "reasons" not in text
    assert 'methods = ("times",)  # what its models have, and EDM\'s have not' in text
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
    assert "attributes = ()" in text
    assert "List what does in attributes or methods of the draft" in done.err
    monkeypatch.setattr(protocol, "_ADAPTERS", dict(protocol._ADAPTERS))
    names = {}
    exec(compile(text, "mycode_adapter.py", "exec"), names)
    check_adapter(names["Mycode"](), lambda n_steps: edm_like.make_edm(n_steps)).assert_passed()
    protocol._ADAPTERS.pop("mycode")
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
    assert "alpha_adapter" not in sys.modules


# -- which models a draft takes --------------------------------------------------------------------

MARKED = {
    "": "class Fork(edm_like.EnVariationalDiffusion):\n    pass\n",
    "methods": """
class Fork(edm_like.EnVariationalDiffusion):
    def guide(self, strength):
        raise NotImplementedError
""",
    "parameters": """
class Fork(edm_like.EnVariationalDiffusion):
    def phi(self, x, t, node_mask, edge_mask, context, strength=None):
        return super().phi(x, t, node_mask, edge_mask, context)
""",
    "attributes": """
class Fork(edm_like.EnVariationalDiffusion):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._hidden, self.strength = 1, 0.5
""",
}


def of_others():
    """A model of every other stand-in, by the name of its adapter."""
    kinds = {"paper": "Paper", "unigem": "UniGEM", "edpo": "EDPO", "symdiff": "SymDiff"}
    kinds |= {"georcg": "GeoRCG", "eegsde": "EEGSDE"}
    models = {"edm": edm_like.make_edm(20), "geoldm": edm_like.make_geoldm(20)}
    for name, kind in kinds.items():
        models[name] = edm_like.make_edm(20)
        models[name].__class__ = getattr(forks, kind)
    return models


@pytest.mark.parametrize("mark", MARKED)
def test_a_draft_takes_its_own_models_and_no_others(gaga, tmp_path, monkeypatch, mark):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(protocol, "_ADAPTERS", dict(protocol._ADAPTERS))
    make = MAKE.format(width=6).replace("Tiny", "edm_like.Tiny")
    module = f"marked_{mark}"
    Path(f"{module}.py").write_text(
        f"from fakes import edm_like\n\n\n{MARKED[mark]}{make}", encoding="utf-8"
    )
    before = {name: adapter_for(model).name for name, model in of_others().items()}
    assert all(name == taken for name, taken in before.items())
    words = ("adapter", "new", "alpha", "--model", f"{module}:make_model", "--force", "--json")
    done = gaga(*words)
    assert done.code == 0, done.err
    told = json.loads(done.out)
    assert not [check for check, said in told["checks"].items() if said.startswith("failed")]
    assert "of that name in other codebases" not in done.err
    marks = {"methods": "guide", "parameters": "phi(strength)", "attributes": "strength"}
    found = told["names"]["methods"] + told["names"]["attributes"]
    assert found == ([marks[mark]] if mark else [])
    text = Path("alpha_adapter.py").read_text(encoding="utf-8")
    assert ('if "Fork" in kinds' in text) == (not mark)
    assert len([line for line in text.splitlines() if line.strip()]) <= 17
    names = {}
    exec(compile(text, "alpha_adapter.py", "exec"), names)
    assert {name: adapter_for(model).name for name, model in of_others().items()} == before
    model = sys.modules.pop(module).make_model(20)
    assert adapter_for(model).name == "alpha"

    class Bonds(names["Alpha"]):
        must_not = ("bonds",)

    protocol.register(Bonds())
    model.bonds = True
    with pytest.raises(UnsupportedModelError, match="bonds=True, not False"):
        adapter_for(model)


def test_a_draft_of_a_fork_that_has_an_adapter_is_a_child_of_it(gaga, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(forks, "made", lambda n_steps: of_others()["symdiff"], raising=False)
    done = gaga("adapter", "new", "alpha", "--model", "fakes.forks:made", "--force", "--json")
    assert json.loads(done.out)["names"]["parent"] == "SymDiff"
    text = Path("alpha_adapter.py").read_text(encoding="utf-8")
    assert "from gaga_adapter.integrations.forks.symdiff import SymDiff" in text
    assert "class Alpha(SymDiff):" in text


def test_a_class_of_a_common_name_without_a_mark_is_told():
    assert not Structure("Mine").doubts
    assert not Structure("EnVariationalDiffusion", methods=("guide",)).doubts
    (said,) = Structure("EnVariationalDiffusion").doubts
    assert "List what does in attributes or methods" in said


def test_what_edm_has_is_no_mark():
    adapter = EDM()
    words = [w for text in adapter._inherited("methods") for w in re.findall(r"\w+", text)]
    words += [*adapter._inherited("attributes"), adapter.network, adapter.noise, *adapter.starts]
    assert set(words) <= EDM_WORDS


# -- mistakes --------------------------------------------------------------------------------------


def test_the_draft_is_checked_and_no_file_of_its_name(fork, gaga, tmp_path):
    fork("alpha")
    (tmp_path / "alpha_adapter.py").write_text("raise RuntimeError('another file')")
    done = gaga("adapter", "new", "alpha", "--model", "alpha:make_model", "--out", "there")
    assert done.code == 0, done.err
    assert "passed  it trains" in done.out


MISTAKES = {
    "no_module": ("import not_there\n", "No module named 'not_there'. That is in"),
    "raises": ("1 / 0\n", "cannot be imported: ZeroDivisionError: division by zero. That is in"),
    "stops": ("import sys\nsys.exit(3)\n", "cannot be imported: SystemExit: 3. That is in"),
    "syntax": ("def f(:\n", "cannot be imported: SyntaxError: invalid syntax"),
    "function": (
        "def f():\n    raise ValueError('no weights')\n",
        "raised ValueError: no weights. That is in",
    ),
    "needs": (
        "def f(n_steps, device): pass\n",
        "f cannot be called with a number of steps alone: "
        "it needs device. Pass a function make_model(n_steps)",
    ),
    "class": ("class f:\n    def __init__(self, a, b): pass\n", "it needs a, b. Pass a function"),
    "nothing": ("def f(n_steps): pass\n", "f made a NoneType. It must make a torch nn.Module."),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_of_the_module_is_told(gaga, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    text, said = MISTAKES[name]
    Path(f"mistake_{name}.py").write_text(text, encoding="utf-8")
    done = gaga("adapter", "new", "mycode", "--model", f"mistake_{name}:f")
    sys.modules.pop(f"mistake_{name}", None)
    assert done.code == 2, done.err
    assert said in " ".join(done.err.split())
    assert "should not happen" not in done.err
    assert not Path("mycode_adapter.py").exists()


@pytest.mark.parametrize("place", ["./forkmod:f", "forkmod.py:f", "./forkmod.py:f"])
def test_a_file_in_place_of_a_module_is_told_the_right_form(gaga, tmp_path, monkeypatch, place):
    monkeypatch.chdir(tmp_path)
    Path("forkmod.py").write_text("def f(): pass\n", encoding="utf-8")
    done = gaga("adapter", "new", "mycode", "--model", place)
    assert done.code == 2
    assert "from this folder: --model forkmod:f." in " ".join(done.err.split())


@pytest.mark.parametrize("name", ["gaga", *adapters()])
def test_a_name_that_is_taken_is_refused(gaga, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    done = gaga("adapter", "new", name)
    assert done.code == 2
    said = " ".join(done.err.split())
    assert f"{name!r} is taken" in said
    assert all(taken in said for taken in adapters())
    assert not list(tmp_path.iterdir())


def test_a_function_with_the_name_of_the_adapter_keeps_its_place():
    text = text_of_test("mycode", "mycode:Mycode")
    assert "from mycode import Mycode as make_model" in text
    assert "check_adapter(Mycode(), make_model)" in text


def test_a_sampler_of_another_name_needs_no_more_lines(gaga, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = inspect.getsource(edm_like).replace("EnVariationalDiffusion", "Fork")
    source = re.sub(r"\b(def |super\(\)\.)sample\(", r"\1generate(", source)
    source = re.sub(r"\bsample_chain\(", "draw_with_frames(", source)
    Path("renamed.py").write_text(source + MAKE.format(width=6), encoding="utf-8")
    done = gaga("adapter", "new", "alpha", "--model", "renamed:make_model", "--json")
    sys.modules.pop("renamed", None)
    assert done.code == 0, done.err
    told = json.loads(done.out)
    assert told["names"]["starts"] == ["generate"]
    assert told["names"]["parent"] == "Adapter"  # EDM's has a `sample`
    assert not [check for check, said in told["checks"].items() if said.startswith("failed")]
    text = Path("alpha_adapter.py").read_text(encoding="utf-8")
    assert 'starts = ("generate",)' in text
    assert "def draw" not in text
