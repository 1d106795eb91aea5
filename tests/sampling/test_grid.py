"""Numbers of steps and lists of levels in a pipeline: what its scheduler is asked for."""

import copy
import inspect

import diffusers
import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)
from fakes.cases import make_edm
from gaga_adapter.integrations.sampling.pipeline import as_pipeline

from gaga_adapter import FewStepScheduler, GAGAScheduler
from gaga_adapter.errors import TruncationError
from gaga_adapter.molecules.denoiser import MoleculeDenoiser
from gaga_adapter.molecules.pipeline import MoleculePipeline, edm_scheduler
from gaga_adapter.sampling import DEFAULT_STEPS, FEW_STEPS
from gaga_adapter.sampling.grid import wanted_grid
from gaga_adapter.sampling.solvers import scheduler_named

SIZES = [3, 5, 1]
FLOW_SIGMAS = [1.0, 0.8, 0.5, 0.1]
CASES = [
    (DDPMScheduler(), {"timesteps": [900, 700, 650, 20]}),
    (DDPMScheduler(), {"timesteps": np.array([900, 700, 650, 20])}),
    (scheduler_named("lcm", edm_scheduler()), {"timesteps": torch.tensor([1000, 650, 20])}),
    (scheduler_named("dpm++", edm_scheduler()), {"timesteps": (1000, 650, 300, 20)}),
    (EulerDiscreteScheduler(), {"sigmas": [14.0, 3.0, 1.0, 0.1, 0.0]}),
    (EulerDiscreteScheduler(), {"timesteps": [900, 700, 650, 20]}),
    (EDMEulerScheduler(), {"sigmas": torch.tensor([0.0, 0.4, 0.8, 1.0])}),  # its own ramp
    (FlowMatchEulerDiscreteScheduler(), {"sigmas": FLOW_SIGMAS}),
    (UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction"),
     {"sigmas": np.array(FLOW_SIGMAS)}),
    (scheduler_named("few-step", edm_scheduler()), {"sigmas": [14.0, 3.0, 1.0, 0.1]}),
    (scheduler_named("few-step", edm_scheduler()), {"timesteps": [900, 700, 650, 20]}),
]  # fmt: skip


@pytest.fixture(scope="module")
def pipe():
    torch.manual_seed(0)
    denoiser = MoleculeDenoiser(width=16, pair_width=8, n_layers=1, n_vectors=2, n_heads=2)
    pipeline = MoleculePipeline(denoiser, edm_scheduler())
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def run(pipe, **arguments):
    return pipe(n_atoms=SIZES, generator=torch.Generator().manual_seed(0), **arguments)


@pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")  # numpy 2 in diffusers
@pytest.mark.parametrize(("scheduler", "levels"), CASES)
def test_lists_give_the_grid_that_diffusers_pipelines_make_of_them(pipe, scheduler, levels):
    ((kind, entries),) = levels.items()
    theirs = copy.deepcopy(scheduler)
    if kind not in inspect.signature(theirs.set_timesteps).parameters:
        pytest.skip(f"{type(theirs).__name__} takes no {kind} in this diffusers")
    # The call in their retrieve_timesteps. Two classes calculate with what they get as it is.
    as_it_is = isinstance(theirs, EDMEulerScheduler | UniPCMultistepScheduler)
    plain = entries if as_it_is else np.asarray(entries).tolist()
    theirs.set_timesteps(**{kind: plain}, device="cpu")
    pipe.scheduler = copy.deepcopy(scheduler)
    totals = []
    result = run(
        pipe, **levels, batch_size=2, progress=lambda what, done, total: totals.append(total)
    )
    assert pipe.scheduler.timesteps.tolist() == theirs.timesteps.tolist()
    assert result.network_calls == len(theirs.timesteps)
    assert np.isfinite(result.molecules.positions).all()
    assert set(totals) == {2 * result.network_calls}  # two batches


def test_a_list_of_the_schedulers_own_levels_changes_nothing(pipe):
    for name, kind in (("ddpm", "timesteps"), ("few-step", "timesteps"), ("few-step", "sigmas")):
        pipe.scheduler = scheduler_named(name, edm_scheduler())
        expected = run(pipe, num_inference_steps=6, output_type="tensor").molecules
        own = getattr(pipe.scheduler, kind)[:6].clone()
        pipe.scheduler = scheduler_named(name, edm_scheduler())
        got = run(pipe, num_inference_steps=99, **{kind: own}, output_type="tensor").molecules
        torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)


def test_a_list_is_cut_at_t_star(pipe):
    gaga = GAGAScheduler.from_pretrained(DDPMScheduler(), stats="qm9", t_star=500)
    pipe.scheduler = gaga
    result = pipe(n_atoms=[5, 9], timesteps=[900, 700, 650, 400, 20])
    assert result.network_calls == 3
    assert gaga.timesteps.tolist() == [650, 400, 20]
    few = FewStepScheduler.from_scheduler(edm_scheduler())
    pipe.scheduler = GAGAScheduler.from_pretrained(few, stats="qm9", t_star=500, spacing="suffix")
    assert pipe(n_atoms=[5, 9], timesteps=[900, 700, 650, 400, 20]).network_calls == 3
    pipe.scheduler = GAGAScheduler.from_pretrained(few, stats="qm9", t_star=500)
    with pytest.raises(TruncationError, match="got timesteps, and the spacing log_snr"):
        pipe(n_atoms=[5, 9], timesteps=[650, 400, 20])


def test_a_checkpoint_takes_lists_too():
    pipe = as_pipeline(make_edm(100), "few-step")
    pipe.set_progress_bar_config(disable=True)
    assert run(pipe, timesteps=[90, 50, 10]).network_calls == 3 + 1  # and the model's own last step
    assert pipe.scheduler.timesteps.tolist() == [90, 50, 10]
    assert run(pipe, sigmas=[9.0, 0.5]).network_calls == 2 + 1
    assert run(pipe).network_calls == FEW_STEPS + 1
    pipe.scheduler = as_pipeline(make_edm(100)).scheduler
    assert run(pipe).network_calls == 101
    with pytest.raises(TruncationError, match=r"DDPMScheduler takes no list of sigmas\. Pass time"):
        run(pipe, sigmas=[9.0, 0.5])


@pytest.mark.parametrize(
    ("scheduler", "arguments", "message"),
    [
        (DDPMScheduler(), {"timesteps": [9, 5], "sigmas": [2, 1]}, "got timesteps and sigmas"),
        (DDPMScheduler(), {"sigmas": [2, 1]}, r"takes no list of sigmas\. Pass timesteps, or take"),
        (DDIMScheduler(), {"timesteps": [9, 5]}, r"no list of timesteps\. Pass num_inference_s"),
        (EDMEulerScheduler(), {"timesteps": [9, 5]}, r"no list of timesteps\. Pass sigmas, or"),
        (DDPMScheduler(), {"timesteps": []}, "must be a list of one number or more"),
        (DDPMScheduler(), {"timesteps": 5}, "must be a list of one number or more"),
        (DDPMScheduler(), {"timesteps": "95"}, "must be a list of one number or more"),
        (DDPMScheduler(), {"timesteps": [[9, 5]]}, "must be a list of one number or more"),
        (DDPMScheduler(), {"timesteps": [9, None]}, "must be a list of one number or more"),
        (DDPMScheduler(), {"timesteps": [True, False]}, "must be a list of one number or more"),
        (EulerDiscreteScheduler(), {"sigmas": [2, float("nan")]}, "a number that is not finite"),
        (DDPMScheduler(), {"timesteps": [5, 9]}, "refuses timesteps: .* descending order"),
        (DDPMScheduler(), {"timesteps": [1000, 9]}, "refuses timesteps: .* must start before"),
        (EulerDiscreteScheduler(), {"sigmas": [1.0, 3.0, 0.0]}, "do not fall from noise to data"),
        # diffusers 0.36 takes none at all
        (
            UniPCMultistepScheduler(),
            {"sigmas": [2, 1]},
            "refuses sigmas: .*use_flow_sigmas|takes no list of sigmas",
        ),
    ],
)
def test_lists_that_are_refused(pipe, scheduler, arguments, message):
    pipe.scheduler = scheduler
    with pytest.raises(TruncationError, match=message):
        run(pipe, **arguments)


def test_classes_that_want_the_number_beside_the_list(pipe):
    """SCM counts the levels between which it steps, the last of which has no network call."""
    if not hasattr(diffusers, "SCMScheduler"):
        pytest.skip(f"diffusers {diffusers.__version__} has no SCMScheduler")
    pipe.scheduler = diffusers.SCMScheduler()
    entries = [1.5, 1.0, 0.5, 0.0]
    result = run(pipe, timesteps=entries)
    assert pipe.scheduler.timesteps.tolist() == pytest.approx(entries)
    assert result.network_calls == 3


def test_default_numbers():
    few = FewStepScheduler.from_scheduler(edm_scheduler())
    assert wanted_grid(few).n_steps == FEW_STEPS
    assert wanted_grid(GAGAScheduler.from_pretrained(few, stats="qm9")).n_steps == FEW_STEPS
    assert wanted_grid(few, 7).n_steps == 7
    assert wanted_grid(edm_scheduler()).n_steps == DEFAULT_STEPS
    assert wanted_grid(DPMSolverMultistepScheduler(), default=31).n_steps == 31
