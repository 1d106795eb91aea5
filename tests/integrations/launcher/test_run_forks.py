"""`gaga run` on the scripts of the forks themselves, where their checkouts are named.

On a small data set, with tiny networks of 1000 steps: the step that a run starts at is printed, and
its network calls are counted by the test as well.
"""

import shutil

import pytest
from fakes.real_checkout import TINY, real_checkout

CALLS = "network calls: 551 per sample, from t* = 550 of T = 1000 (1001 without)"
TRAIN = [*TINY, "--batch_size", 16, "--exp_name", "cut"]
JUDGE = ["eval_analyze.py", "--model_path", "outputs/cut", "--n_samples", 4, "--batch_size_gen", 4]
pytestmark = pytest.mark.upstream


def starts_at_550(times, err):
    """A sample starts at step 550, no call is beyond, and the launcher says so."""
    assert CALLS in err
    assert "starts at t* = 550 of T = 1000" in err
    assert max(times) == 550
    whole = [times[i : i + 551] for i, time in enumerate(times) if time == 550]
    assert list(range(550, -1, -1)) in whole


def test_the_papers_scripts_train_and_sample_up_to_max_t(tmp_path_factory):
    run = real_checkout("paper", tmp_path_factory)
    times, _, err = run("--", "main_qm9.py", *TRAIN, "--max_t", 550)
    starts_at_550(times, err)  # its evaluation in training asks for step 800
    assert "shortcut_sample: it takes no sampling_name" in err
    how = "--sampling_step_size 1 --test_name QM9_GA --dataset_var 0.848 --iteration 1".split()
    judge = ["GAGA_test.py", *JUDGE[1:], *how, "--GA_timestep", 550]
    times, _, err = run("--", *judge)
    starts_at_550(times, err)
    assert "sampling_name: GAGA_test.py reads an option" in err
    _, _, err = run("--t-star", 700, "--", *judge, code=2)
    assert "--t-star 700 is beyond --max_t=550" in err


def test_unigem_trains_and_is_evaluated(tmp_path_factory):
    run = real_checkout("unigem", tmp_path_factory)
    own = "--prediction_threshold_t 10 --model DGAP --sep_noisy_node 1 --atom_type_pred 1".split()
    train = ["main_qm9.py", *TRAIN, *own, "--branch_layers_num", 1]
    times, _, err = run("--t-star", 550, "--", *train)
    starts_at_550(times, err)
    times, _, err = run("--", *JUDGE)
    starts_at_550(times, err)


def test_symdiff_trains_and_is_evaluated(tmp_path_factory):
    run = real_checkout("symdiff", tmp_path_factory)
    train = ["main_qm9.py", *TRAIN, "--n_epochs", 2, "--com_free", "--force_save_model"]
    times, _, err = run("--t-star", 550, "--", *train)
    assert "starts at t* = 550 of T = 1000" in err
    assert max(times) == 550
    times, _, err = run("--", *JUDGE, "--compute_chemical_metrics")
    starts_at_550(times, err)


def test_chemguide_trains_and_is_evaluated_as_geoldm_is(tmp_path_factory):
    run = real_checkout("chemguide", tmp_path_factory)
    train = ["main_qm9.py", *TINY, "--batch_size", 16, "--latent_nf", 1]
    run("--", *train, "--exp_name", "vae")
    latent = [*train, "--train_diffusion", "--ae_path", "outputs/vae", "--exp_name", "cut"]
    run("--t-star", 550, "--", *latent)
    times, _, err = run("--", *JUDGE)
    starts_at_550(times, err)


def test_edpo_evaluates_a_checkpoint_of_edm(tmp_path_factory):
    edm = real_checkout("edm", tmp_path_factory)
    edm("--t-star", 550, "--", "main_qm9.py", *TRAIN)
    run = real_checkout("edpo", tmp_path_factory)
    shutil.copytree(edm.folder / "outputs" / "cut", run.folder / "outputs" / "cut")
    times, _, err = run("--", *JUDGE)
    starts_at_550(times, err)
    assert "utils: not installed; EDPO left this file" in err
