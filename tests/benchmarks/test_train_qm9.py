"""The training script: killed at any moment it ends at the same weights; t* is kept to."""

import json
import multiprocessing
import signal
from pathlib import Path

import pytest
import torch
from folders import TESTS

if not hasattr(torch.optim, "Muon"):
    pytest.skip("torch has its Muon from 2.9 on", allow_module_level=True)

import train_qm9
from qm9_training import (
    AVERAGED,
    BEST,
    METRICS,
    PATH,
    STATE,
    NoiseLevels,
    Recipe,
    Run,
    averaged,
    learning_rate,
    metadata_of,
    read_averaged,
    write_averaged,
)
from runners.training_runner import (
    NET,
    RECIPE,
    SAVE_EVERY,
    molecules,
    train,
    train_as,
    train_until_killed,
)
from systems import posix
from torch import multiprocessing as torch_multiprocessing

from gaga_adapter import GAGAScheduler
from gaga_adapter.errors import TruncationError
from gaga_adapter.molecules.pipeline import MoleculePipeline, edm_scheduler


def weights(folder):
    state = torch.load(Path(folder) / STATE, weights_only=True)
    return {**state["model"], **{f"average.{k}": v for k, v in state["average"].items()}}


def lines(folder):
    """Metrics without what a clock decides."""
    text = (Path(folder) / METRICS).read_text().splitlines()
    return [{k: v for k, v in json.loads(t).items() if k != "steps_per_second"} for t in text]


def assert_equal(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name


# -- killed --------------------------------------------------------------------------------------


KILLS = [
    ("update", 2),
    ("state", 3),
    ("line", 4),
    ("replaced", 6),
    ("saved", 9),
    ("update", 18),
    ("line", 30),
    ("replaced", 45),
    ("state", 57),
    ("saved", 60),
]


@posix
def test_killed_ten_times_it_ends_at_the_same_weights(tmp_path, monkeypatch):
    """By SIGKILL, each time at another place; what a kill leaves can always be read."""
    train(tmp_path / "whole")
    # So that the server of the children imports once for all of them.
    monkeypatch.setenv("PYTHONPATH", str(TESTS))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["runners.training_runner"])
    for place, step in KILLS:
        child = context.Process(target=train_until_killed, args=(tmp_path / "killed", place, step))
        child.start()
        child.join()
        assert child.exitcode == -signal.SIGKILL, (place, step)
        file = tmp_path / "killed" / STATE
        found = torch.load(file, weights_only=True)["step"] if file.exists() else 0
        behind = step if place == "saved" else step - 1
        assert found == behind // SAVE_EVERY * SAVE_EVERY, (place, step)
    train(tmp_path / "killed")
    assert_equal(weights(tmp_path / "killed"), weights(tmp_path / "whole"))
    assert lines(tmp_path / "killed") == lines(tmp_path / "whole")
    assert {file.name for file in (tmp_path / "killed").iterdir()} == {STATE, METRICS}


def test_half_a_line_and_lines_behind_the_state_are_written_again(tmp_path):
    train(tmp_path / "whole")
    train(tmp_path / "cut", until=21)
    with (tmp_path / "cut" / METRICS).open("a") as file:
        file.write('{"step": 22, "position": 1e9, "element": 0, "steps_per_second": 1}\n{"ste')
    train(tmp_path / "cut")
    assert lines(tmp_path / "cut") == lines(tmp_path / "whole")
    assert [line["step"] for line in lines(tmp_path / "cut")] == list(range(2, 61, 2))


def test_other_options_are_no_resumption(tmp_path):
    train(tmp_path, until=3)
    for other, said in (({"seed": 1}, "seed"), ({"net": NET | {"width": 32}}, "net")):
        with pytest.raises(SystemExit, match=f"another {said}"):
            train(tmp_path, Recipe(**{**vars(RECIPE), **other}))
    assert train(tmp_path, Recipe(**{**vars(RECIPE), "steps": 70}), until=4).step == 4


def test_states_of_before_go_on_and_ship(tmp_path):
    """States written before recipes were: step, config, model, average, optimizers."""
    old = train(tmp_path / "old", until=30).state()
    old = {name: old[name] for name in ("step", "config", "model", "average", "optimizers")}
    old["config"] = old["config"] | {"t_star_log_snr": None}
    torch.save(old, tmp_path / "old" / STATE)
    train(tmp_path / "whole")
    train(tmp_path / "old")
    assert_equal(weights(tmp_path / "old"), weights(tmp_path / "whole"))
    assert averaged(old).config.t_star_log_snr is None


# -- begun with other weights, made longer, of a given time ---------------------------------------


def test_a_run_begins_with_the_weights_that_it_is_given(tmp_path):
    before = train(tmp_path / "before", until=30).averaged()
    initial = {name: value.clone() for name, value in before.state_dict().items()}
    run = Run(RECIPE, tmp_path / "after", torch.device("cpu"), before.half())
    for name, value in run.model.state_dict().items():
        torch.testing.assert_close(value, initial[name], atol=1e-3, rtol=1e-3)
        assert value.dtype == torch.float32
    run.train(*molecules(), until=6)
    state = run.state()
    resumed = Run(RECIPE, tmp_path / "after", torch.device("cpu"), before)
    assert resumed.step == 6  # and not at the given weights again
    assert_equal(dict(resumed.model.state_dict()), dict(state["model"]))


def test_the_rate_falls_over_the_cooldown_alone():
    recipe = Recipe(steps=1000, warmup=100, cooldown=200)
    rates = [learning_rate(step, recipe) for step in range(1001)]
    assert rates[:100] == pytest.approx([(k + 1) / 100 for k in range(100)])
    assert set(rates[100:801]) == {1.0}
    assert rates[850] == pytest.approx(0.01 + 0.99 * (1 - 0.5), abs=1e-9)  # sqrt(1/4)
    assert rates[1000] == pytest.approx(0.01, abs=1e-9)
    assert rates[800:] == sorted(rates[800:], reverse=True)


def test_a_run_with_a_constant_rate_can_be_made_longer(tmp_path):
    recipe = Recipe(**{**vars(RECIPE), "cooldown": 10})
    train(tmp_path / "longer", recipe, until=40)
    longer = Recipe(**{**vars(recipe), "steps": 80})
    train(tmp_path / "longer", longer)
    train(tmp_path / "whole", longer)
    assert_equal(weights(tmp_path / "longer"), weights(tmp_path / "whole"))


def test_a_run_of_a_given_time_falls_over_its_last_third_and_is_judged(tmp_path, monkeypatch):
    """With a clock of our own: half a second a step, and a judge who takes ten."""
    now = 0.0
    monkeypatch.setattr("qm9_training.time.perf_counter", lambda: now)
    run = Run(Recipe(**{**vars(RECIPE), "steps": 5}), tmp_path, torch.device("cpu"))
    rates, update = [], run._update

    def timed_update(loss, spent):
        nonlocal now
        rates.append((now / 60, learning_rate(run.step, run.recipe, spent)))
        update(loss, spent)
        now += 0.5

    def judge(run):
        nonlocal now
        now += 10
        return {"valid_position": 1.0 / run.step, "valid_element": 0.0}

    monkeypatch.setattr(run, "_update", timed_update)
    run.train(*molecules(), minutes=1, log_every=20, judge=judge, judge_every=40, keep_every=60)
    assert 60 <= now <= 60 + 0.5 + 10  # whatever the recipe's steps, here five
    assert {rate for share, rate in rates[RECIPE.warmup :] if share < 2 / 3} == {1.0}
    for share, rate in rates:
        if share > 2 / 3:
            assert rate == pytest.approx(0.01 + 0.99 * (1 - (3 * share - 2) ** 0.5))
    assert rates[-1][1] < 0.03
    kept = [metadata_of(tmp_path / name)["step"] for name in (BEST, AVERAGED)]
    assert kept == [run.step, run.step] == 2 * [lines(tmp_path)[-1]["step"]]
    assert torch.load(tmp_path / STATE, weights_only=True)["step"] == run.step


def test_weights_whose_state_is_gone_are_not_replaced(tmp_path):
    train(tmp_path, until=3)
    write_averaged(torch.load(tmp_path / STATE, weights_only=True), tmp_path / BEST, loss=1.0)
    train(tmp_path, until=6)
    (tmp_path / STATE).unlink()
    with pytest.raises(SystemExit, match=r"holds best.safetensors of a run without its state"):
        train(tmp_path)
    assert metadata_of(tmp_path / BEST)["step"] == 3


def test_options_that_contradict_each_other_are_refused(tmp_path, capsys):
    for words, said in (
        (["--minutes", "0"], "is no time"),
        (["--minutes", "nan"], "is no time"),
        (["--minutes", "5", "--cooldown", "100"], "last third of the time"),
        (["--weights", "best"], "Give --ship FOLDER"),
    ):
        with pytest.raises(SystemExit):
            train_qm9.arguments(words)
        assert said in capsys.readouterr().err
    args = train_qm9.arguments(["--from", "qm9", "--width", "64"])
    net = MoleculePipeline.load().denoiser
    with pytest.raises(SystemExit, match="the weights of --from have 128"):
        train_qm9.recipe(args, net)
    args = train_qm9.arguments(["--from", "qm9"])
    assert train_qm9.recipe(args, net).net == {
        "width": 128, "pair_width": 32, "n_layers": 7, "n_vectors": 8, "n_heads": 8
    }  # fmt: skip
    with pytest.raises(SystemExit, match="there is no file"):
        train_qm9.initial_weights(str(tmp_path / "missing.safetensors"))
    with pytest.raises(SystemExit, match="nowhere"):
        train_qm9.initial_weights(str(tmp_path / "nowhere"))
    with pytest.raises(SystemExit, match="larger than the 96 molecules"):
        train(tmp_path, Recipe(**{**vars(RECIPE), "batch_size": 128}))


def test_averaged_weights_alone_make_the_same_network(tmp_path):
    run = train(tmp_path, Recipe(**{**vars(RECIPE), "t_star": 400, "steps": 6}))
    write_averaged(run.state(), tmp_path / AVERAGED)
    ours = averaged(read_averaged(tmp_path / AVERAGED))
    theirs = averaged(read_averaged(tmp_path / STATE))
    assert dict(ours.config) == dict(theirs.config)
    for name, value in theirs.half().state_dict().items():
        assert torch.equal(ours.half().state_dict()[name], value), name


def test_of_what_was_judged_the_best_is_kept(tmp_path):
    losses = iter([3.0, 2.0, 5.0, 1.0, 4.0])
    run = Run(RECIPE, tmp_path, torch.device("cpu"))

    def judge(run):
        return {"valid_position": next(losses), "valid_element": 0.0}

    run.train(*molecules(), until=6, log_every=2, judge=judge, judge_every=2)
    assert metadata_of(tmp_path / BEST)["step"] == 4
    again = Run(RECIPE, tmp_path, torch.device("cpu"))
    again.train(*molecules(), until=10, log_every=2, judge=judge, judge_every=2)
    found = metadata_of(tmp_path / BEST)
    assert (found["step"], found["loss"]) == (8, 1.0)


# -- t* ------------------------------------------------------------------------------------------


def test_levels_end_at_t_star_and_use_the_same_numbers():
    for t_star in (525, 200):
        limit = float(torch.exp(-0.5 * PATH.log_snr(t_star / 1000)))
        generator = torch.Generator().manual_seed(0)
        drawn = torch.cat([NoiseLevels(t_star).draw(64, generator) for _ in range(100)])
        assert 0.97 * limit < float(drawn.max()) <= limit * (1 + 1e-6)
        full = NoiseLevels(None).draw(64, torch.Generator().manual_seed(0))
        cut = NoiseLevels(t_star).draw(64, torch.Generator().manual_seed(0))
        assert float(full.max()) > 10 > limit
        t, of = (PATH.time_at_log_snr(-2 * one[:32].double().log()) for one in (cut, full))
        torch.testing.assert_close(t, of * t_star / 1000, atol=2e-3, rtol=1e-3)


def test_a_truncated_model_says_how_far_it_was_trained(tmp_path):
    recipe = Recipe(**{**vars(RECIPE), "t_star": 400, "steps": 4})
    run = train(tmp_path, recipe)
    pipeline = MoleculePipeline(run.averaged(), edm_scheduler())
    pipeline.save_pretrained(tmp_path / "shipped")
    pipeline = MoleculePipeline.load(tmp_path / "shipped")
    pipeline.set_progress_bar_config(disable=True)
    with pytest.raises(TruncationError, match="knows nothing noisier"):
        pipeline(n_atoms=[5], num_inference_steps=10)
    pipeline.scheduler = GAGAScheduler.from_pretrained(pipeline.scheduler, stats="qm9", t_star=400)
    assert pipeline(n_atoms=[5], num_inference_steps=10).network_calls <= 4


# -- several processes ---------------------------------------------------------------------------


@posix
def test_two_processes_share_the_batch_of_one(tmp_path):
    torch_multiprocessing.start_processes(
        train_as, (tmp_path / "two", tmp_path / "meeting"), nprocs=2, start_method="forkserver"
    )
    train(tmp_path / "one", Recipe(**{**vars(RECIPE), "steps": 6}))
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, atol=1.5e-3, rtol=0)  # half of one step
    for ours, theirs in zip(lines(tmp_path / "two"), lines(tmp_path / "one"), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)


# -- geometry under autocast ---------------------------------------------------------------------


def test_bfloat16_leaves_the_geometry_alone():
    """Squares of distances in 8 bits would be off by 0.1 at ten angstrom from the centre."""
    model = MoleculePipeline.load().denoiser
    x, mask = molecules()
    x = x.clone()
    x[..., :3] *= 4
    with torch.no_grad():
        exact = model(x, 0.1, mask).sample
        with torch.autocast("cpu", torch.bfloat16):
            rounded = model(x, 0.1, mask).sample
    assert rounded.dtype == torch.float32
    assert float((rounded - exact)[..., :3].abs().max()) < 0.02
