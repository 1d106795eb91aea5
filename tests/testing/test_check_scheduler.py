"""`check_scheduler`: its checks on every class of diffusers, and on schedulers of a user's own."""

import pytest
import torch
from diffusers import (
    CosineDPMSolverMultistepScheduler,
    DDIMInverseScheduler,
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    LCMScheduler,
    SchedulerMixin,
)
from scheduler import test_exactness as exactness

from gaga_adapter.errors import UnsupportedSchedulerError
from gaga_adapter.noise.conventions import convention_of
from gaga_adapter.testing import (
    SCHEDULER_CHECKS,
    NotApplicable,
    SchedulerCase,
    check_scheduler,
)

#: On all classes `scheduler/test_exactness.py` says the same without chance, by other formulas.
BY_CHANCE = {"fine_full_runs_end_at_the_data", "truncated_runs_end_as_near_the_data_as_full_ones"}
ADD_NOISE = "add_noise_goes_to_the_levels_of_the_timesteps"
QUICK = [name for name in SCHEDULER_CHECKS if name not in BY_CHANCE]


def repaint(scheduler, noise, network, n_steps):
    """With nothing known; it walks up and down, which no ordinary loop does."""
    scheduler.set_timesteps(n_steps, device="cpu", jump_length=2, jump_n_sample=2)
    x, at = noise * getattr(scheduler, "init_noise_sigma", 1.0), convention_of(scheduler)
    return exactness.repaint(scheduler, x, lambda x, t: network(x, t, at))


def case_of(example):
    if example.loop is exactness.repaint:
        return SchedulerCase(example.make(), example.n, loop=repaint)
    jumps = example.kind[1].startswith("consistent")
    return SchedulerCase(example.make(), example.n, jumps=jumps)


@pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")  # numpy 2, inside of diffusers
@pytest.mark.parametrize("check", QUICK)
@pytest.mark.parametrize("example", exactness.EVERY_CLASS, ids=repr)
def test_every_class(example, check):
    if example.loop is exactness.repaint and check.startswith("cut_runs"):
        pytest.skip("how often it walks up and down depends on where it starts")
    try:
        SCHEDULER_CHECKS[check](case_of(example))
    except NotApplicable as reason:
        pytest.skip(str(reason))


@pytest.mark.parametrize(
    "scheduler",
    [
        DDPMScheduler(clip_sample=False),
        DPMSolverMultistepScheduler(),
        FlowMatchEulerDiscreteScheduler(shift=3.0),
    ],
    ids=lambda scheduler: type(scheduler).__name__,
)
def test_a_scheduler_is_enough(scheduler):
    state = torch.get_rng_state()
    report = check_scheduler(scheduler)
    report.assert_passed()
    assert list(report.to_dict()) == list(SCHEDULER_CHECKS)
    skipped = set() if hasattr(scheduler, "add_noise") else {ADD_NOISE}
    verdicts = report.to_dict()
    assert {name for name, verdict in verdicts.items() if verdict != "passed"} == skipped
    passed = len(SCHEDULER_CHECKS) - len(skipped)
    assert str(report).startswith(f"{type(scheduler).__name__}: {passed} passed")
    assert torch.equal(torch.get_rng_state(), state)
    assert getattr(scheduler, "num_inference_steps", None) is None


def test_the_network_of_a_consistency_model_jumps():
    assert check_scheduler(SchedulerCase(LCMScheduler(clip_sample=False), 8, jumps=True)).passed


@pytest.mark.parametrize("kind", [DDPMScheduler, DDIMScheduler])
def test_clipped_predictions_are_named(kind):
    """Both are 0.6 standard deviations off, in however many steps."""
    report = check_scheduler(kind())
    assert [verdict.check for verdict in report.failures] == ["fine_full_runs_end_at_the_data"]
    assert "It has clip_sample=True" in report.to_dict()["fine_full_runs_end_at_the_data"]


def test_a_scheduler_whose_last_step_leaves_from_a_noisy_level():
    """Its last sigma is 0.3, and a feature has the standard deviation 0.2."""
    scheduler = CosineDPMSolverMultistepScheduler()
    check = SCHEDULER_CHECKS["fine_full_runs_end_at_the_data"]
    with pytest.raises(AssertionError, match="leaves from a noisy level"):
        check(SchedulerCase(scheduler))
    check(SchedulerCase(scheduler, remains=0.45))


class HalfTimeScheduler(DDIMScheduler):
    """A scheduler that tells the network half of its time."""

    def set_timesteps(self, num_inference_steps=None, device=None):
        super().set_timesteps(num_inference_steps, device)
        self.timesteps = self.timesteps // 2

    def step(self, model_output, timestep, sample, **options):
        return super().step(model_output, 2 * timestep, sample, **options)


class OwnTableScheduler(EulerDiscreteScheduler):
    """A scheduler with a table of its own by the place of a step, which no cut knows of."""

    def set_timesteps(self, *args, **kwargs):
        super().set_timesteps(*args, **kwargs)
        self.own = self.sigmas.clone()

    def step(self, model_output, timestep, sample, **options):
        output = super().step(model_output, timestep, sample, **options)
        here, below = self.own[self.step_index - 1], self.own[self.step_index]
        output.prev_sample = sample + (below - here) * model_output
        return output


class CountingScheduler(DDIMScheduler):
    """A scheduler that finds its place by counting its steps, over all runs and one too few."""

    n = 0

    def step(self, model_output, timestep, sample, **options):
        self.n += 1
        timestep = self.timesteps[self.n % (len(self.timesteps) + 1) - 1]
        return super().step(model_output, timestep, sample, **options)


class PlainNoiseScheduler(DDIMScheduler):
    """A scheduler that forgets to scale the data down."""

    def add_noise(self, original_samples, noise, timesteps):
        return original_samples + (super().add_noise(0 * noise, noise, timesteps))


@pytest.mark.parametrize(
    ("scheduler", "check"),
    [
        (CountingScheduler, "a_second_run_gives_the_same_sample"),
        (PlainNoiseScheduler, ADD_NOISE),
    ],
)
def test_faults_of_single_calls_are_found_by_name(scheduler, check):
    for kind in (DDIMScheduler, scheduler):
        case = SchedulerCase(kind(clip_sample=False))
        if kind is DDIMScheduler:
            SCHEDULER_CHECKS[check](case)
            continue
        with pytest.raises(AssertionError):
            SCHEDULER_CHECKS[check](case)


@pytest.mark.parametrize(
    ("scheduler", "failed"),
    [
        (HalfTimeScheduler(clip_sample=False), BY_CHANCE),
        (OwnTableScheduler(), {"truncated_runs_end_as_near_the_data_as_full_ones"}),
    ],
)
def test_faults_are_found_by_name(scheduler, failed):
    report = check_scheduler(scheduler)
    assert {verdict.check for verdict in report.failures} & BY_CHANCE == failed
    for check in failed:
        assert "standard deviations from the data" in report.to_dict()[check]


def test_what_cannot_be_truncated_is_refused():
    with pytest.raises(UnsupportedSchedulerError, match="cannot use DDIMInverseScheduler"):
        check_scheduler(DDIMInverseScheduler())


def test_classes_of_one_name_do_not_meet():
    """A notebook keeps the class of a cell that is run again, and other modules have theirs."""

    def define(base):
        return type("SchedulerOfACell", (base,), {})

    kept = [define(SchedulerMixin), define(DDIMScheduler)]
    for base in (DDIMScheduler, DDPMScheduler):
        kept.append(define(base))
        check_scheduler(kept[-1](clip_sample=False)).assert_passed()
