"""Several processes do what one does, and fail together; `processes_runner.py` is the group."""

import os
import subprocess
import sys
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from folders import RUNNERS
from systems import posix

from gaga_adapter import distributed
from gaga_adapter.distributed import Processes, gathered, started
from gaga_adapter.errors import ArtefactError, DataError, ProcessError
from gaga_adapter.molecules.pieces import piece_generator

pytestmark = posix  # it forks, and kills with SIGKILL
RUNNER = RUNNERS / "processes_runner.py"
GROUPS = {1: [0], 2: [0, 1], 3: [0, 1, 2]}
SEVERAL = [(n, rank) for n in (2, 3) for rank in GROUPS[n]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What all groups left behind."""
    place = tmp_path_factory.mktemp("processes")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(RUNNER), str(place)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,  # a group that hangs is a failure
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return place


@pytest.fixture(scope="module")
def seen(folder):
    """(number of processes, rank) -> scene -> what that process saw."""
    return {
        (n, rank): torch.load(folder / f"{n}-{rank}.pt", weights_only=False)
        for n, ranks in GROUPS.items()
        for rank in ranks
    }


def assert_equal_to_rounding(one, other):
    assert one.keys() == other.keys()
    for name, values in one.items():
        torch.testing.assert_close(values, other[name], rtol=1e-12, atol=1e-11, msg=name)


# -- fit -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.parametrize("sharing", ["deal", "own"])
def test_moments_are_those_of_one_process(seen, n, sharing):
    state, x, mask = seen[1, 0]["moments"]["deal"]
    found_state, found_x, found_mask = seen[n, 0]["moments"][sharing]
    assert_equal_to_rounding(found_state, state)
    assert torch.equal(found_x, x)
    assert torch.equal(found_mask, mask)
    assert all(seen[n, rank]["moments"] == {} for rank in GROUPS[n][1:])


@pytest.mark.parametrize("n", [2, 3])
def test_processes_without_a_batch(seen, n):
    assert_equal_to_rounding(seen[n, 0]["few_batches"], seen[1, 0]["few_batches"])


@pytest.mark.parametrize("n", [2, 3])
def test_the_layout_is_read_by_who_has_a_batch(seen, n):
    assert seen[n, 0]["layout_of_one"] == seen[1, 0]["layout_of_one"] == (5, 90)


@pytest.mark.parametrize(("n", "rank"), SEVERAL)
def test_curve_and_t_star_are_those_of_one_process_on_all(seen, n, rank):
    """The sample is the same to the bit; the reference's moments are to rounding."""
    config, state, _ = seen[1, 0]["fitted"]
    found_config, found_state, _ = seen[n, rank]["fitted"]
    assert_equal_to_rounding(found_state, state)
    curve, found_curve = config["selection"]["curve"], found_config["selection"]["curve"]
    assert found_curve["log_snr"] == curve["log_snr"]
    assert found_curve["value"] == pytest.approx(curve["value"], rel=1e-9, abs=1e-9)
    assert found_config["log_snr_star"] == pytest.approx(config["log_snr_star"], rel=1e-9)
    interval = config["selection"]["interval"]
    assert found_config["selection"]["interval"] == pytest.approx(interval, rel=1e-9)
    assert found_config == seen[n, 0]["fitted"][0]
    for name, values in found_state.items():
        assert torch.equal(values, seen[n, 0]["fitted"][1][name])


@pytest.mark.parametrize("n", [2, 3])
def test_the_first_process_alone_reports_what_all_have_done(seen, n):
    heard = seen[n, 0]["fitted"][2]
    assert ("moments", 2000) in heard
    assert heard[-1][0] == "cumulant"
    assert all(seen[n, rank]["fitted"][2] == [] for rank in GROUPS[n][1:])
    total = sum(40 * rank + 1 for rank in GROUPS[n])
    counts = seen[n, 0]["uneven_work"]
    assert counts == sorted(counts)
    assert counts[-1] == total
    assert all(seen[n, rank]["uneven_work"] == [] for rank in GROUPS[n][1:])


@pytest.mark.parametrize(("n", "rank"), SEVERAL)
def test_compare_says_the_same_on_all(seen, n, rank):
    expected, found = seen[1, 0]["compared"], seen[n, rank]["compared"]
    assert found.keys() == expected.keys() == {"cumulant", "ks_mi"}
    (_, curve), (_, found_curve) = expected["cumulant"], found["cumulant"]
    assert found_curve["value"] == pytest.approx(curve["value"], rel=1e-9, abs=1e-9)
    assert found["ks_mi"] == expected["ks_mi"]
    assert "Use another criterion" in found["ks_mi"][0]
    assert str(found) == str(seen[n, 0]["compared"])


def test_one_process_of_several_may_work_alone(seen):
    assert seen[2, 0]["alone"] == seen[3, 0]["alone"] == seen[1, 0]["alone"] == 90 + 100


# -- failures ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "rank"), SEVERAL)
@pytest.mark.parametrize(
    ("scene", "culprit", "message"),
    [
        ("no_batches", None, "no data: the stream was empty"),
        ("bad_data", 1, "batch 1 of the stream: "),
        ("failing_criterion", 0, "found 10 data items"),
        ("failing_merge", 0, "cannot be merged"),
    ],
)
def test_an_error_of_ours_is_raised_on_all(seen, n, rank, scene, culprit, message):
    kind, text, cause = seen[n, rank][scene]
    assert kind == "DataError"
    assert message in text
    if culprit is not None and rank != culprit:
        assert cause == f"process {culprit} of {n}: DataError: {text}"


@pytest.mark.parametrize(("n", "rank"), SEVERAL)
def test_an_error_of_others_names_the_process(seen, n, rank):
    last = n - 1
    expected = ("OSError", "the disk is gone", "None")
    if rank != last:
        expected = ("ProcessError", f"process {last} of {n}: OSError: the disk is gone", "None")
    assert seen[n, rank]["broken_reader"] == expected


@pytest.mark.parametrize(
    "scene", ["killed_at_work", "killed_while_others_wait", "killed_while_sampling"]
)
def test_a_killed_process_is_an_error_on_the_others(folder, scene):
    endings = torch.load(folder / "endings.pt")[scene]
    dead = 2 if scene == "killed_at_work" else 0
    assert [code for rank, code in enumerate(endings) if rank != dead] == [0, 0]
    assert endings[dead] == -9
    for rank in {0, 1, 2} - {dead}:
        kind, message, _ = torch.load(folder / f"{scene}-{rank}.pt")[scene]
        assert kind == "ProcessError"
        assert message.startswith("lost contact with the other processes")
        assert "Start the run again" in message


# -- the order of things -------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "rank"), SEVERAL)
def test_everything_is_in_the_order_of_the_ranks(seen, n, rank):
    everyone, merged, tensor = seen[n, rank]["order"]
    assert everyone == GROUPS[n]
    assert merged == ("012"[:n] if rank == 0 else None)
    assert tensor.tolist() == [[r] for r in GROUPS[n] for _ in range(2)]
    assert seen[n, rank]["long_conclusion"] == "done"


# -- training ------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 3])
def test_processes_share_one_stratified_batch_of_timesteps(seen, n):
    """Each stratum of (0, t*] is hit once by all processes together."""
    drawn = torch.cat([seen[n, rank]["timesteps"][0] for rank in GROUPS[n]]).double() / 0.5
    gaps = drawn.sort().values.diff()
    torch.testing.assert_close(gaps, torch.full_like(gaps, 1 / len(drawn)), rtol=0, atol=1e-6)
    apart = [set(seen[n, rank]["timesteps"][0].tolist()) for rank in GROUPS[n]]
    assert not apart[0] & apart[1]


@pytest.mark.parametrize("n", [2, 3])
def test_steps_of_the_scheduler_are_those_of_one_batch(seen, n):
    """Quantiles of an equal division of [0, t*]: neighbours are one rounding apart in distance."""
    drawn = torch.cat([seen[n, rank]["timesteps"][1] for rank in GROUPS[n]])
    gaps = drawn.sort().values.diff()
    assert len(set(drawn.tolist())) == len(drawn)
    assert gaps.max() - gaps.min() <= 1


@pytest.mark.parametrize(("n", "rank"), SEVERAL)
def test_importance_is_learnt_from_the_losses_of_all(seen, n, rank):
    assert torch.equal(seen[n, rank]["timesteps"][2], seen[n, 0]["timesteps"][2])


# -- sampling ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "rank"), SEVERAL)
def test_samples_are_those_of_one_process_in_the_same_order(seen, n, rank):
    done, text, left = seen[n, rank]["sampled"]
    expected, expected_text, _ = seen[1, 0]["sampled"]
    assert done == expected
    assert done.n_molecules == text.count("$$$$") == 21
    assert done.n_found == 0
    assert text == expected_text
    assert not [name for name in left if name.startswith(f"{n}.")]


def test_pieces_are_of_different_molecules(seen):
    records = seen[1, 0]["sampled"][1].split("$$$$\n")[:-1]
    names = [record.splitlines()[0] for record in records]
    bodies = ["".join(record.splitlines()[3:]) for record in records]
    assert names[:2] == ["piece 0 molecule 0", "piece 0 molecule 1"]
    assert names[-1] == "piece 2 molecule 4"
    assert len(set(bodies)) == 21


@pytest.mark.parametrize("n", [1, 2, 3])
def test_an_interrupted_run_goes_on_where_it_was(seen, n):
    stopped, left, other, done, text = seen[n, 0]["sampled_again"]
    assert stopped[:2] == ("DataError", "stopped")
    assert done.n_found == sum((8, 8, 5)[piece] for piece in left)
    assert text == seen[1, 0]["sampled"][1]
    if n == 1:
        assert left == [0]
    if left:
        assert other[0] == "DataError"
        assert "pieces of a run with other settings" in other[1]


def test_a_killed_run_loses_no_piece(folder):
    name = "sampled_after_the_kill"
    done, whole, same = torch.load(folder / f"{name}-0.pt", weights_only=False)[name]
    assert 0 < done.n_found <= done.n_molecules == whole.n_molecules == 53
    assert whole.n_found == 0
    assert same


@pytest.mark.parametrize(("n", "rank"), SEVERAL)
def test_processes_with_different_models_do_not_sample_together(seen, folder, n, rank):
    kind, message, _ = seen[n, rank]["different_models"]
    assert kind == "ProcessError"
    assert "different models, schedulers or settings" in message


def test_no_two_pieces_share_a_seed():
    """Torch reads 32 bits of a seed; those of neighbouring pieces wrap around, and differ."""
    seeds = [piece_generator(11, piece).initial_seed() for piece in (0, 1, 2**32 - 1)]
    assert all(0 <= seed < 2**32 for seed in seeds)
    assert (seeds[1] - seeds[0]) % 2**32 == 1
    assert (seeds[0] - seeds[2]) % 2**32 == 1
    assert piece_generator(12, 0).initial_seed() != seeds[0]


# -- metrics -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "rank"), SEVERAL)
def test_molecules_are_judged_as_by_one_process(seen, n, rank):
    assert seen[n, rank]["evaluated"] == seen[1, 0]["evaluated"]
    assert seen[1, 0]["evaluated"][0]["n_molecules"] == 25


# -- one process ---------------------------------------------------------------------------------


def test_without_a_group_there_is_one_process():
    run = Processes.of_the_run()
    assert run == Processes(0, 1)
    assert run.everyones("me") == ["me"]
    assert run.merged(3, max) == 3
    x = torch.ones(2)
    assert gathered(x) is x
    with pytest.raises(DataError, match="mine"), run.in_step():
        raise DataError("mine")


@pytest.mark.parametrize(
    ("machine", "local", "text", "is_reported"),
    [
        ("0", "1", "no file a", True),
        ("0", "1", "no file b", False),  # of this process alone
        ("1", "1", "no file a", False),  # whose user looks at another machine
        ("0", "0", "no file a", False),  # the first one itself
        ("0", None, "no file a", False),  # a launcher that does not number them
    ],
)
def test_the_first_process_of_a_machine_reports_what_all_have(
    monkeypatch, machine, local, text, is_reported
):
    monkeypatch.setattr(distributed, "_PATIENCE", timedelta(seconds=0.2))
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        monkeypatch.setenv("GROUP_RANK", "0")
        monkeypatch.setenv("LOCAL_RANK", "0")
        assert not distributed._is_reported_by_first(DataError("no file a"))
        monkeypatch.setenv("GROUP_RANK", machine)
        monkeypatch.delenv("LOCAL_RANK")
        if local is not None:
            monkeypatch.setenv("LOCAL_RANK", local)
        assert distributed._is_reported_by_first(DataError(text)) == is_reported
        assert not distributed._is_reported_by_first(ArtefactError(text))  # another kind
    finally:
        dist.destroy_process_group()


def test_a_launcher_that_is_not_reached(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(ProcessError, match="RANK"), started():
        pass


@pytest.mark.parametrize("asked_for_the_cpu", ["True", "False"])
def test_accelerate_without_a_gpu_says_that_it_starts_one_process(monkeypatch, asked_for_the_cpu):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setenv("ACCELERATE_USE_CPU", asked_for_the_cpu)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.warns(UserWarning, match="starts one process"), started():
        pass
