"""`gaga run` on checkouts of stand-in models; on EDM and GeoLDM where they are checked out."""

import argparse
import importlib.util
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from fakes import edm_like
from fakes.checkout import write_checkout
from fakes.real_checkout import TINY, printed, real_checkout
from gaga_adapter.integrations.launcher.checkouts import FORKS
from gaga_adapter.integrations.protocol import adapter_named

from gaga_adapter import GAGAStats
from gaga_adapter.errors import GAGAWarning
from gaga_adapter.layout import AtomLayout, MoleculeLayout
from gaga_adapter.trained import trained_log_snr

STEPS = 40
KINDS = ("edm", "geoldm")
pytestmark = pytest.mark.filterwarnings("ignore::gaga_adapter.errors.GAGAWarning")


@pytest.fixture(params=KINDS)
def kind(request, tmp_path, monkeypatch):
    """The working directory is a checkout of this kind."""
    write_checkout(tmp_path, request.param)
    monkeypatch.chdir(tmp_path)
    return request.param


@pytest.fixture
def edm(tmp_path, monkeypatch):
    write_checkout(tmp_path, "edm")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def geoldm(tmp_path, monkeypatch):
    write_checkout(tmp_path, "geoldm")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def trained(gaga):
    """Train a model as upstream does."""

    def train(kind):
        whole = ("--stats", "none", "--t-star", STEPS)
        code, _, err = gaga("run", kind, *whole, "--", "main_qm9.py")
        assert code == 0, err

    return train


def alone(script):
    """What Python makes of a script without us."""
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    return done.stdout


def stats_beside(exp_name="x"):
    return GAGAStats.from_pretrained(Path("outputs", exp_name, "gaga"))


# -- what it does to the models --------------------------------------------------------------------


def test_training_and_evaluation_start_at_t_star(gaga, kind):
    code, out, err = gaga("run", kind, "--t-star", 22, "--", "main_qm9.py")
    assert code == 0, err
    assert printed(out, "calls") == "23"
    assert "t* = 22 of T = 40" in err
    assert "network calls: 23 per sample, from t* = 22 of T = 40 (41 without); 1 batch" in err
    code, out, err = gaga("run", kind, "--t-star", 13, "--", "eval_analyze.py")
    assert code == 0, err
    assert printed(out, "calls") == "14"


def test_the_whole_path_from_n01_is_what_the_script_does_alone(gaga, trained, kind):
    """Training, its loss and samples, and evaluation; to the last digit."""
    before = [alone("main_qm9.py"), alone("eval_analyze.py")]
    Path("outputs").rename("before")
    both = []
    for script in ("main_qm9.py", "eval_analyze.py"):
        code, out, err = gaga("run", kind, "--stats", "none", "--t-star", STEPS, "--", script)
        assert code == 0, err
        both.append(out)
    assert both == before
    for name in ("args.pickle", "generative_model_ema.npy"):
        assert Path("before/x", name).read_bytes() == Path("outputs/x", name).read_bytes()
    assert not Path("outputs/x/gaga").exists()


def test_auto_fits_once_and_keeps_the_artefact_beside_the_model(gaga, trained, kind):
    trained(kind)
    run = ("run", kind, "--criterion", "cumulant", "--tolerance", 1000)
    code, out, err = gaga(*run, "--", "eval_analyze.py")
    assert code == 0, err
    stats = stats_beside()
    assert stats.moments.count == 180
    assert stats.selection.curve.criterion == "cumulant"
    assert stats.provenance["data"].startswith("qm9")
    again = gaga(*run, "--", "eval_analyze.py")
    assert again[1] == out
    assert "statistics of outputs/x/gaga" in again[2]
    stamp = Path("outputs/x/gaga/gaga_config.json").stat().st_mtime_ns
    code, out, err = gaga(*run, "--refit", "--", "eval_analyze.py")
    assert code == 0, err
    assert Path("outputs/x/gaga/gaga_config.json").stat().st_mtime_ns > stamp


def test_evaluation_starts_where_training_did(gaga, kind):
    gaga("run", kind, "--t-star", 22, "--", "main_qm9.py")
    code, out, err = gaga("run", kind, "--", "eval_analyze.py")
    assert code == 0, err
    assert printed(out, "calls") == "23"


def test_a_t_star_beyond_that_of_the_training_is_refused(gaga, edm):
    gaga("run", "edm", "--t-star", 22, "--", "main_qm9.py")
    _, _, err = gaga("run", "edm", "--t-star", 22, "--", "eval_analyze.py")
    assert "trained" not in err
    with warnings.catch_warnings():
        warnings.simplefilter("always", GAGAWarning)
        code, _, err = gaga("run", "edm", "--t-star", 30, "--", "eval_analyze.py")
    assert code == 2
    assert "gaga: warning: t* = 30 is at log-SNR" in err
    assert "trained up to 0.028 only" in err
    assert "knows nothing noisier" in err


@pytest.mark.parametrize("stats", ["auto", "none"])
def test_every_checkpoint_says_how_far_it_was_trained(gaga, kind, stats):
    """The averaged weights are copied from a model that still waits to be fitted."""
    code, _, err = gaga("run", kind, "--t-star", 22, "--stats", stats, "--", "main_qm9.py")
    assert code == 0, err
    level = float(re.search(r"t\* = 22 of T = 40 \(log-SNR (\S+)\)", err)[1])
    for name in ("generative_model", "generative_model_ema"):
        state = torch.load(f"outputs/x/{name}.npy", weights_only=True)
        assert trained_log_snr(state) == pytest.approx(level, abs=1e-3), name
    argv = ("run", kind, "--stats", "none", "--t-star", 30, "--", "eval_analyze.py")
    code, _, err = gaga(*argv)
    assert code == 2
    assert "knows nothing noisier" in err


def test_a_resumed_training_keeps_its_statistics(gaga, edm):
    first = ("--criterion", "cumulant", "--tolerance", 1000)
    code, _, err = gaga("run", "edm", *first, "--", "main_qm9.py")
    assert code == 0, err
    assert re.search(r"gaga: fitted 180 molecules in \d+\.\d s, which the script counts", err)
    t_star = re.search(r"starts at t\* = (\d+)", err)[1]
    code, _, err = gaga("run", "edm", "--", "main_qm9.py", "--resume", "outputs/x")
    assert code == 0, err
    assert f"starts at t* = {t_star} " in err
    assert "gaga: statistics of outputs/x/gaga" in err
    assert "gaga: flow.npy: --resume asks for it" in err
    assert "fitted 180" not in err
    assert stats_beside("x_resume").log_snr_star == stats_beside().log_snr_star
    shutil.rmtree("outputs/x/gaga")
    code, _, err = gaga("run", "edm", *first, "--", "main_qm9.py", "--resume", "outputs/x")
    assert code == 0, err
    assert "no statistics in outputs/x/gaga: they are fitted anew, and t* may move" in err


@pytest.mark.skipif(os.name != "posix", reason="signals are those of POSIX")
@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGHUP", 129), ("SIGINT", 130)])
def test_a_run_that_is_stopped_says_what_its_samples_took(gaga, edm, name, code):
    if signal.getsignal(getattr(signal, name)) is signal.SIG_IGN:
        pytest.skip("this signal is ignored here, and stays so")
    before = [signal.getsignal(getattr(signal, each)) for each in ("SIGTERM", "SIGHUP", "SIGINT")]
    argv = ("run", "edm", "--stats", "none", "--t-star", 22, "--", "main_qm9.py", "--end", name)
    ended, _, err = gaga(*argv)
    assert ended == code
    line = "gaga: network calls: 23 per sample, from t* = 22 of T = 40 (41 without)"
    assert [text for text in err.splitlines() if "network calls" in text] == [
        line,  # when the first batch was sampled
        f"{line}; 1 batch sampled",
    ]
    after = [signal.getsignal(getattr(signal, each)) for each in ("SIGTERM", "SIGHUP", "SIGINT")]
    assert after == before


def test_max_t_of_the_papers_code_is_where_its_models_start(gaga, edm):
    train = ("main_qm9.py", "--max_t", 25)
    code, _, err = gaga("run", "edm", "--stats", "none", "--", *train)
    assert code == 0, err
    assert "gaga: --max_t=25: the model is trained up to this step, and starts there" in err
    assert "starts at t* = 25 of T = 40" in err
    code, _, err = gaga("run", "edm", "--stats", "none", "--t-star", 30, "--", "eval_analyze.py")
    assert code == 2
    assert "--t-star 30 is beyond --max_t=25" in err
    code, _, err = gaga("run", "edm", "--stats", "none", "--t-star", 9, "--", "eval_analyze.py")
    assert code == 0, err


def test_the_commands_of_the_page_train_geoldm(gaga, geoldm):
    moving = ("--", "main_qm9.py", "--trainable_ae")
    code, _, err = gaga("run", "geoldm", "--t-star", 22, *moving)
    assert code == 2
    assert "gaga run geoldm --stats none --t-star N" in err
    code, _, err = gaga("run", "geoldm", "--stats", "none", "--t-star", 22, *moving)
    assert code == 0, err
    code, _, err = gaga("run", "geoldm", "--t-star", 22, "--", "main_qm9.py", "--ae_path", "vae")
    assert code == 0, err
    page = Path(__file__).parents[3].joinpath("docs", "how-to", "geoldm.md").read_text()
    lines = [line for line in page.splitlines() if "--trainable_ae --" in line]
    assert lines
    assert all("--stats none --t-star" in line for line in lines)


def test_the_wish_of_one_evaluation_is_not_taken_for_a_choice(gaga, trained, edm):
    trained("edm")
    gaga("run", "edm", "--t-star", 22, "--", "eval_analyze.py")
    assert stats_beside().selection is None
    code, _, err = gaga("run", "edm", "--t-star", 30, "--", "eval_analyze.py")
    assert code == 0, err
    assert "t* = 30" in err
    code, _, err = gaga(
        "run", "edm", "--criterion", "cumulant", "--tolerance", 1000, "--", "eval_analyze.py"
    )
    assert code == 0, err
    assert "their t* was given, not chosen" in err
    assert stats_beside().selection is not None


def test_the_model_is_where_its_arguments_were_read(gaga, trained, edm):
    trained("edm")
    Path("outputs/x").rename("elsewhere")
    code, _, err = gaga(
        "run", "edm", "--t-star", 9, "--", "eval_analyze.py", "--model_path", "elsewhere"
    )
    assert code == 0, err
    assert Path("elsewhere/gaga/gaga_config.json").is_file()
    assert not Path("outputs/x").exists()


def test_layouts_are_those_of_the_loader(gaga, kind):
    gaga("run", kind, "--t-star", 9, "--", "main_qm9.py")
    layout = stats_beside().layout
    if kind == "edm":
        assert layout == MoleculeLayout(("H", "C", "N", "O", "F"), 1.0, 4.0, 10.0)
    else:
        assert layout == AtomLayout(2)


def test_a_latent_is_fitted_after_its_weights_are_loaded(gaga, trained, geoldm):
    """The script loads them after the model was made, and patched."""
    trained("geoldm")
    gaga("run", "geoldm", "--t-star", 9, "--", "eval_analyze.py")
    vae = edm_like.EnHierarchicalVAE(edm_like.TinyCoder(6, 2), edm_like.TinyCoder(2, 6), 6, 2)
    model = edm_like.EnLatentDiffusion(
        vae=vae, dynamics=edm_like.TinyDynamics(2), in_node_nf=2, timesteps=STEPS
    )
    fitted = stats_beside().provenance
    assert adapter_named("geoldm").stale(model, fitted) is not None
    model.load_state_dict(torch.load("outputs/x/generative_model_ema.npy"))
    assert adapter_named("geoldm").stale(model, fitted) is None


def test_statistics_of_an_older_autoencoder_are_fitted_anew(gaga, trained, geoldm):
    trained("geoldm")
    gaga("run", "geoldm", "--t-star", 9, "--", "eval_analyze.py")
    weights = torch.load("outputs/x/generative_model_ema.npy")
    weights["vae.encoder.scale"] *= 2
    torch.save(weights, "outputs/x/generative_model_ema.npy")
    v_x = stats_beside().moments.position_variance_per_dof
    code, _, err = gaga("run", "geoldm", "--t-star", 9, "--", "eval_analyze.py")
    assert code == 0, err
    assert "outputs/x/gaga are not used" in err
    assert "another latent" in err
    assert stats_beside().moments.position_variance_per_dof == pytest.approx(4 * v_x, rel=0.01)


def test_a_conditional_autoencoder_gets_its_context(gaga, kind):
    command = ("main_qm9.py", "--conditioning", "alpha")
    code, out, err = gaga("run", kind, "--t-star", 9, "--", *command)
    assert code == 0, err
    code, out, err = gaga("run", kind, "--", "eval_analyze.py")
    assert code == 0, err
    assert printed(out, "calls") == "10"


def test_a_latent_that_is_random_at_the_start_is_refused(gaga, geoldm):
    code, _, err = gaga("run", "geoldm", "--", "main_qm9.py", "--trainable_ae")
    assert code == 2
    assert "--trainable_ae and no --ae_path" in err
    code, _, err = gaga("run", "geoldm", "--t-star", 9, "--stats", "none", "--", "main_qm9.py",
                        "--trainable_ae")  # fmt: skip
    assert code == 0, err


def test_a_model_for_several_gpus_is_fitted_before_it_is_replicated(gaga, kind, monkeypatch):
    """Its replicas are thrown away after each call, so they cannot be fitted."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    code, out, err = gaga("run", kind, "--t-star", 9, "--", "main_qm9.py", "--end", "early")
    assert code == 1
    assert err.rstrip().endswith("early")
    assert out == ""  # before its first step
    assert stats_beside().moments.count == 180


def test_named_statistics_are_taken_and_checked(gaga, trained, edm):
    trained("edm")
    code, _, err = gaga("run", "edm", "--stats", "qm9", "--", "eval_analyze.py")
    assert code == 0, err
    assert "the shape Gaussian" in err
    assert not Path("outputs/x/gaga").exists()
    code, _, err = gaga("run", "edm", "--stats", "nowhere", "--", "eval_analyze.py")
    assert (code, "no fitted statistics in nowhere" in err) == (2, True)


def test_statistics_of_something_else_are_refused(gaga, trained, geoldm):
    trained("geoldm")
    code, _, err = gaga("run", "geoldm", "--stats", "qm9", "--", "eval_analyze.py")
    assert code == 2
    assert "StatsMismatchError" in err


@pytest.mark.parametrize("t_star", [0, STEPS + 1])
def test_a_t_star_that_the_model_does_not_have(gaga, trained, edm, t_star):
    trained("edm")
    for stats in ("none", "qm9", "auto"):
        code, _, err = gaga(
            "run", "edm", "--stats", stats, "--t-star", t_star, "--", "eval_analyze.py"
        )
        assert code == 2
        assert f"t_star={t_star} is no step of EnVariationalDiffusion(T=40)" in err
        assert "fitting statistics" not in err


def test_a_fit_is_announced_and_leaves_nothing_when_it_is_interrupted(
    gaga, trained, edm, tmp_path, monkeypatch
):
    trained("edm")
    model = ("eval_analyze.py", "--model_path", "outputs/x")
    before = sorted(tmp_path.rglob("*"))

    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    for words, quick in ((("--t-star", 9), False), ((), True), (("--criterion", "ks_mi"), True)):
        with monkeypatch.context() as patch:
            patch.setattr("gaga_adapter.integrations.patching.fitting.fit", interrupt)
            code, _, err = gaga("run", "edm", *words, "--", *model)
        assert code == 130
        (line,) = (line for line in err.splitlines() if "fitting statistics before" in line)
        assert f"they are kept in {Path('outputs/x/gaga')} for later runs" in line
        assert ("--criterion cumulant is quick" in line) == quick
        assert [path for path in sorted(tmp_path.rglob("*")) if "__pycache__" not in str(path)] == [
            path for path in before if "__pycache__" not in str(path)
        ]
    code, _, err = gaga("run", "edm", "--t-star", 9, "--", *model)
    assert code == 0
    assert err.index("fitting statistics before") < err.index("fitted ")
    assert "fitting" not in gaga("run", "edm", "--t-star", 9, "--", *model)[2]


def test_options_of_a_script_without_the_dashes(gaga, edm):
    words = ("eval_analyze.py", "--model_path", "outputs/my model")
    code, _, err = gaga("run", "edm", "--t-star", 9, *words)
    assert code == 2
    assert "gaga: no such option: --model_path. If it is an option of the script, put --" in err
    assert "gaga run edm --t-star 9 -- eval_analyze.py --model_path 'outputs/my model'" in err
    code, _, err = gaga("run", "edm", "--model_path", "x")
    assert (code, "put -- before the script. See gaga run --help" in err) == (2, True)
    code, _, err = gaga("run", "edm", "--refits", "--", "eval_analyze.py")  # gaga's own
    assert (code, "put --" in err, "Did you mean --refit?" in err) == (2, False, True)


# -- how the script runs ---------------------------------------------------------------------------


@pytest.mark.parametrize(("end", "code"), [("0", 0), ("3", 3), ("gone wrong", 1), ("raise", 1)])
def test_the_script_ends_as_it_wants(gaga, trained, edm, end, code):
    trained("edm")
    found, out, err = gaga("run", "edm", "--t-star", 9, "--", "eval_analyze.py", "--end", end)
    assert found == code
    assert printed(out, "calls") == "10"
    assert "network calls: 10" in err
    if end == "gone wrong":
        assert "gone wrong\n" in err
    if end == "raise":
        trace = err[err.index("Traceback") :]
        assert "RuntimeError: the script failed" in trace
        assert "launcher/run.py" not in trace
        assert "runpy" not in trace


@pytest.mark.parametrize(
    ("folder", "error", "is_told"),
    [
        ("prepare", "urllib.error.URLError('Name or service not known')", True),
        ("prepare", "ConnectionResetError('reset by peer')", True),
        ("prepare", "TimeoutError('timed out')", True),
        ("prepare", "ValueError('of something else')", False),
        ("other", "urllib.error.URLError('Name or service not known')", False),
    ],
)
def test_a_download_that_fails_names_the_command_that_needs_none(gaga, edm, folder, error, is_told):
    """The traceback stays, as everything that the script prints does."""
    place = Path("qm9", "data", folder)
    place.mkdir(parents=True)
    (place / "download.py").write_text(
        f"import urllib.error\ndef prepare_dataset():\n    raise {error}\n"
    )
    Path("get.py").write_text(
        f"from qm9.data.{folder}.download import prepare_dataset\nprepare_dataset()\n"
    )
    code, _, err = gaga("run", "edm", "--", "get.py")
    *lines, last = err.splitlines()
    assert "Traceback (most recent call last):" in lines
    assert any("in prepare_dataset" in line for line in lines)
    if is_told:
        assert code == 2
        assert last.startswith("gaga: DataError: get.py could not download its data (")
        assert "`gaga prepare qm9 --into .` writes them without a network." in last
    else:
        assert code == 1
        assert "prepare qm9" not in err


def test_a_script_without_a_model_runs_as_it_is(gaga, kind):
    code, out, err = gaga("run", kind, "--", "main_other.py", "--option", "-x", "a b")
    assert code == 0, err
    assert printed(out, "arguments") == "['main_other.py', '--option', '-x', 'a b']"
    assert printed(out, "main") == "__main__ True"
    assert "gaga: wandb: not installed" in err
    assert "made no diffusion model" in err


def test_afterwards_everything_is_as_before(gaga, kind):
    def state():
        own = ("qm9", "configs", "equivariant_diffusion", "wandb")
        return (
            sys.argv,
            list(sys.path),
            list(sys.meta_path),
            sorted(name for name in sys.modules if name.partition(".")[0] in own),
            pickle.load,
            sys.modules["__main__"],
            {k: v for k, v in os.environ.items() if k != "PYTEST_CURRENT_TEST"},
        )

    sys.modules["configs"] = mine = type(sys)("configs")  # another module of the same name
    try:
        gaga("run", kind, "--", "nothing.py")
        before = state()
        for script, end in (("main_qm9.py", ""), ("eval_analyze.py", "raise")):
            gaga("run", kind, "--t-star", 9, "--", script, "--end", end)
            after = state()
            assert after[1:] == before[1:]
        assert sys.modules["configs"] is mine
    finally:
        del sys.modules["configs"]


class Touch:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_checkpoint_that_runs_code_is_refused_and_nothing_runs(gaga, trained, kind, tmp_path):
    trained(kind)
    arguments, weights = (
        Path("outputs/x", name) for name in ("args.pickle", "generative_model_ema.npy")
    )
    args = pickle.loads(arguments.read_bytes())
    state = torch.load(weights)
    ran = tmp_path / "ran"
    arguments.write_bytes(pickle.dumps(argparse.Namespace(**vars(args), more=Touch(ran))))
    code, out, err = gaga("run", kind, "--t-star", 9, "--", "eval_analyze.py")
    assert (code, out) == (2, "")
    assert "outputs/x/args.pickle is refused: it asks for posix.mkdir" in err
    arguments.write_bytes(pickle.dumps(args))
    torch.save({**state, "more": Touch(ran)}, weights)
    code, out, err = gaga("run", kind, "--t-star", 9, "--", "eval_analyze.py")
    assert (code, out) == (1, "")
    assert "UnpicklingError" in err
    assert not ran.exists()


# -- where it runs ---------------------------------------------------------------------------------


def test_the_other_codebase_is_told(gaga, kind):
    other = KINDS[1 - KINDS.index(kind)]
    names = {"edm": "EDM", "geoldm": "GeoLDM"}
    code, _, err = gaga("run", other, "--", "eval_analyze.py")
    assert code == 2
    assert f"is a checkout of {names[kind]}, not of {names[other]}" in err
    assert f"`gaga run {kind}`" in err


@pytest.mark.parametrize("fork", FORKS, ids=lambda fork: fork.kind)
def test_a_fork_is_told_from_its_parent_by_its_mark(gaga, tmp_path, monkeypatch, fork):
    parent = "geoldm" if fork.factory == "get_latent_diffusion" else "edm"
    write_checkout(tmp_path, parent)
    monkeypatch.chdir(tmp_path)
    train = ("--stats", "none", "--t-star", 7, "--", "main_qm9.py")
    code, _, err = gaga("run", fork.kind, *train)
    assert code == 2
    assert f"`gaga run {parent}`" in err
    file, text = fork.mark
    with Path(file).open("a", encoding="utf-8") as module:
        module.write(f"\n# {text}\n")
    code, _, err = gaga("run", parent, *train)
    assert code == 2
    assert f"is a checkout of {fork.name}, not of" in err
    assert f"`gaga run {fork.kind}`" in err
    code, _, err = gaga("run", fork.kind, *train)
    assert code == 0, err
    assert "starts at t* = 7 of T = 40" in err


def test_the_statistics_of_a_given_last_step_need_no_criterion(gaga, edm):
    code, _, err = gaga("run", "edm", "--", "main_qm9.py", "--max_t", 25)
    assert code == 0, err
    assert "fitted 180 molecules" in err
    assert stats_beside().provenance["fitted for"] == "training at a given t*"


def test_no_checkout_and_no_script(gaga, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = gaga("run", "edm", "--", "eval_analyze.py")
    assert code == 2
    assert "is not a checkout of EDM: no qm9/models.py" in err
    assert "github.com/ehoogeboom/e3_diffusion_for_molecules" in err
    code, _, err = gaga("run", "gcdm", "--", "eval_analyze.py")
    assert (code, "unknown codebase 'gcdm'. Known: edm, geoldm, paper," in err) == (2, True)
    write_checkout(tmp_path, "edm")
    code, _, err = gaga("run", "edm", "--", "eval_nothing.py")
    assert code == 2
    assert "no script 'eval_nothing.py'" in err
    assert "Known: eval_analyze.py, main_other.py, main_qm9.py." in err


# -- the real repositories -------------------------------------------------------------------------


@pytest.fixture(scope="module", params=KINDS)
def upstream(request, tmp_path_factory):
    """A copy of a real checkout with a small data set, and a way to run `gaga` there."""
    return request.param, real_checkout(request.param, tmp_path_factory)


@pytest.mark.upstream
def test_551_instead_of_1001_network_calls_through_upstreams_own_scripts(upstream):
    kind, run = upstream
    train = ["main_qm9.py", *TINY]
    if kind == "geoldm":
        run("--", *train, "--latent_nf", 1, "--exp_name", "vae")
        train += ["--latent_nf", 1, "--train_diffusion", "--ae_path", "outputs/vae"]
    seen, _, err = run("--t-star", 550, "--", *train, "--exp_name", "cut")
    assert max(seen) <= 550
    assert "wandb: not installed" in err or importlib.util.find_spec("wandb")
    judge = ["eval_analyze.py", "--model_path", "outputs/cut", "--n_samples", 4,
             "--batch_size_gen", 4]  # fmt: skip
    cut, out, err = run("--", *judge)
    assert cut[:551] == list(range(550, -1, -1))
    assert max(cut) <= 550
    assert "network calls: 551 per sample, from t* = 550 of T = 1000 (1001 without)" in err
    assert "Final test nll" in out
    _, _, err = run("--stats", "none", "--t-star", 1000, "--", *judge, code=2)
    assert "knows nothing noisier" in err  # the averaged weights say how far they were trained
    whole_path = ["--stats", "none", "--t-star", 1000, "--", *train, "--exp_name", "whole"]
    run(*whole_path)
    judge[2] = "outputs/whole"
    whole, _, err = run("--stats", "none", "--t-star", 1000, "--", *judge)
    assert whole[:1001] == list(range(1000, -1, -1))
    assert len(whole) - len(cut) == 450  # the calls of the likelihood are as many
    _, _, err = run("--", "eval_analyze.py", "--model_path", "outputs/nowhere", code=1)
    assert "FileNotFoundError" in err
    assert "made no diffusion model" not in err
