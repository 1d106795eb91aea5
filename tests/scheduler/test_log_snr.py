"""`spacing="log_snr"`: levels that are even in log-SNR, whatever the scheduler's own grid is."""

import inspect
import warnings

import diffusers
import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    LCMScheduler,
    UniPCMultistepScheduler,
)
from scheduler.loops import STATS, noise, run, wrap
from scheduler.test_exactness import EVERY_CLASS, RATIO, case, error, truncate

from gaga_adapter import FewStepScheduler, GAGAScheduler
from gaga_adapter.errors import GAGAWarning, TruncationError
from gaga_adapter.noise.fitted import FittedLevels, ModelMark
from gaga_adapter.noise.timesteps import timestep_log_snr

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array:DeprecationWarning"),  # numpy 2 in diffusers
    pytest.mark.filterwarnings("ignore:Should have t:UserWarning"),  # rounding inside of torchsde
]

FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
OPTIONS = [
    case("DPMSolverMultistep", use_karras_sigmas=True),
    case("EulerDiscrete", use_exponential_sigmas=True),
    case("EulerDiscrete", final_sigmas_type="sigma_min", timestep_spacing="leading"),
    case("DPMSolverMultistep", ("flow", "flow"), **FLOW),
    case("DEISMultistep", ("flow", "flow"), **FLOW),
    case("UniPCMultistep", ("flow", "flow"), flow_shift=3.0, **FLOW),
    case("FlowMatchEulerDiscrete", ("flow", "flow"), shift=3.0),
    case("FlowMatchEulerDiscrete", ("flow", "flow"), use_dynamic_shifting=True, call={"mu": 0.8}),
    case("FlowMatchEulerDiscrete", ("flow", "flow"), shift_terminal=0.1),
    case("FlowMatchEulerDiscrete", ("flow", "flow"), use_karras_sigmas=True),
    case("FlowMatchEulerDiscrete", ("flow", "backward flow"), invert_sigmas=True),
    case("EDMEuler", ("karras", "karras"), sigma_schedule="exponential"),
    case("DPMSolverSinglestep", solver_order=3),
]
#: Classes whose steps land on nothing but their own grid.
OWN_GRID = {
    "UnCLIPScheduler",
    "DDIMScheduler",
    "DDIMParallelScheduler",
    "CogVideoXDDIMScheduler",
    "CogVideoXDPMScheduler",
    "PNDMScheduler",
    "RePaintScheduler",
    "IPNDMScheduler",
    "KDPM2DiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "DPMSolverSDEScheduler",
    "RFD4ProteinaScheduler",
}
#: Levels further apart than those of a table near the data, in log-SNR.
COARSE = 0.4
LISTED = [case for case in EVERY_CLASS + OPTIONS if case.name not in OWN_GRID]


def levels(case, scheduler):
    """Log-SNRs of the steps with a network call, by timestep and by sigma."""
    tail = 1 if case.name in ("SCMScheduler", "DDPMWuerstchenScheduler") else 0
    timesteps = scheduler.timesteps[: len(scheduler.timesteps) - tail].tolist()
    order = getattr(scheduler, "order", 1)
    found = [RATIO[case.kind[0]](scheduler, t) for t in timesteps[::order]]
    sigmas = found
    if hasattr(scheduler, "sigmas"):
        assert len(scheduler.sigmas) == len(timesteps) + 1
        sigmas = scheduler.sigmas[:-1][::order].double()
        if case.kind[0] in ("flow", "one minus flow"):
            sigmas = 1 - sigmas if case.options.get("invert_sigmas") else sigmas
            sigmas = sigmas / (1 - sigmas)
    return [-2 * torch.as_tensor(x, dtype=torch.float64).log() for x in (found, sigmas)]


@pytest.mark.parametrize("case", LISTED, ids=repr)
def test_the_levels_of_every_class_are_even_from_t_star_on(case):
    scheduler = wrap(case.make(), spacing="log_snr", handover="init")
    call = {"num_inference_steps": 9, **case.call, "device": "cpu"}
    for _ in range(2):  # the second time like the first
        scheduler.set_timesteps(**call)
        by_time, by_sigma = levels(case, scheduler)
        n = 8 if case.name == "MiniMaxH3Scheduler" else 9  # whose ninth is the data
        last = -2 * np.log(0.3) if case.name.startswith("Cosine") else 6.0  # its sigma_min
        expected = torch.linspace(-1, last, n, dtype=torch.float64)
        is_table = case.kind[0] == "table"
        near = COARSE if is_table else 0.001
        torch.testing.assert_close(by_sigma, expected, atol=near, rtol=0)
        # The timesteps of some are whole numbers, which flows are not.
        whole = 0.1 if scheduler.timesteps.dtype == torch.int64 else 0.001
        torch.testing.assert_close(by_time, by_sigma, atol=whole, rtol=0)
        assert float(by_sigma[0]) <= -1 + 1e-5
        assert not is_table or timestep_log_snr(scheduler, float(scheduler.timesteps[0]) - 1) > -1
        assert scheduler.n_calls == n * getattr(scheduler, "order", 1) - (
            getattr(scheduler, "order", 1) - 1
        )


@pytest.mark.parametrize("case", [c for c in EVERY_CLASS if c.name in OWN_GRID], ids=repr)
def test_others_say_what_to_do(case):
    call = {"num_inference_steps": case.n, **case.call, "device": "cpu"}
    scheduler = truncate(case.make(), 0.4, spacing="log_snr")
    words = r"takes no levels but its own.*spacing=\"respace\", or FewStepScheduler\.from_scheduler"
    with pytest.raises(TruncationError, match=words):
        scheduler.set_timesteps(**call)


@pytest.mark.parametrize(
    "case",
    [c for c in LISTED if not c.is_sampled() and c.options.get("final_sigmas_type") is None],
    ids=repr,
)
def test_runs_on_these_levels_are_exact(case, monkeypatch):
    """With as many calls as a full run, whose steps are coarser, and a last one from log-SNR 6."""
    own = error(case.law(case.make(), monkeypatch))
    law = case.law(truncate(case.make(), 0.4, spacing="log_snr"), monkeypatch)
    assert error(law) <= own + 0.05
    assert law[2] == case.law(case.make(), monkeypatch)[2]


@pytest.mark.parametrize(
    ("base", "given", "plain"),
    [
        (FlowMatchEulerDiscreteScheduler(shift=3.0), {"sigmas": np.linspace(1, 1 / 7, 7)}, {}),
        (
            FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
            {"sigmas": np.linspace(1, 1 / 7, 7).tolist(), "mu": 0.8},
            {"mu": 0.2},
        ),
        *(
            (getattr(diffusers, name)(), {"sigmas": np.linspace(1, 0, 8).tolist()}, {})
            for name in ("LTXEulerAncestralRFScheduler",)
            if hasattr(diffusers, name)  # diffusers 0.36 does not have it
        ),
        (UniPCMultistepScheduler(**FLOW), {"sigmas": np.linspace(1, 1 / 7, 7)}, {}),
        (DDPMScheduler(), {"timesteps": list(range(600, 0, -90))}, {}),
        (DPMSolverMultistepScheduler(), {"timesteps": list(range(600, 0, -90))}, {}),
        (EulerDiscreteScheduler(), {"sigmas": [*np.geomspace(80, 0.1, 7), 0.0]}, {}),
        (FewStepScheduler(), {"timesteps": list(range(600, 0, -90))}, {}),
        (FewStepScheduler(), {"sigmas": [*np.geomspace(80, 0.1, 7), 0.0]}, {}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_of_a_list_that_the_caller_gives_only_the_number_counts(base, given, plain):
    """Pipelines of flow models give one by themselves; neither it nor a shift moves a level."""
    if not given.keys() <= inspect.signature(base.set_timesteps).parameters.keys():
        pytest.skip(f"{type(base).__name__} takes no {' or '.join(given)} in this diffusers")
    grids = []
    for call in (given, {"num_inference_steps": 7, **plain}):
        scheduler = wrap(base, spacing="log_snr", handover="init")
        scheduler.set_timesteps(**call, device="cpu")
        assert scheduler.n_calls == 7
        grids.append(scheduler.timesteps)
    assert torch.equal(*grids)


def test_a_strength_that_takes_levels_off_again():
    scheduler = wrap(LCMScheduler(), spacing="log_snr")
    with pytest.raises(TruncationError, match="changes the levels of the spacing log_snr"):
        scheduler.set_timesteps(4, strength=0.5)


@pytest.mark.parametrize("base", [DDPMScheduler, FewStepScheduler, EulerDiscreteScheduler])
def test_a_t_star_of_the_table_is_hit(base):
    for t_star in (20, 248, 301, 999):
        scheduler = wrap(base(), spacing="log_snr", t_star=t_star)
        scheduler.set_timesteps(3, device="cpu")
        assert scheduler.timesteps[0] == t_star


@pytest.mark.parametrize("base", [DDPMScheduler, FewStepScheduler, EulerDiscreteScheduler])
def test_no_step_begins_where_the_network_was_not_trained(base):
    """t* lies between 299 and 300, and training ended between t* and 300: 299, without a word."""
    near, far = (timestep_log_snr(base(), t) for t in (299, 300))
    scheduler = wrap(base(), spacing="log_snr")
    object.__setattr__(scheduler._gaga, "log_snr_star", near + 0.3 * (far - near))
    scheduler.set_timesteps(4, device="cpu")
    assert scheduler.timesteps[-4] == 300
    scheduler.keep_within(near + 0.6 * (far - near))
    with warnings.catch_warnings():
        warnings.simplefilter("error", GAGAWarning)
        scheduler.set_timesteps(4, device="cpu")
    assert scheduler.timesteps[-4] == 299
    with pytest.raises(
        TruncationError, match="of the 1000 timesteps of the table, 300 may be used"
    ):
        scheduler.set_timesteps(400, device="cpu")


def test_a_start_that_is_closer_to_the_data_than_the_last_level():
    scheduler = wrap(DDPMScheduler(), spacing="log_snr", t_star=1)
    with pytest.raises(TruncationError, match="The first level must be noisier than the last"):
        scheduler.set_timesteps(4)


def test_the_last_level_of_a_few_step_scheduler_is_its_own():
    scheduler = wrap(FewStepScheduler(log_snr_max=4.0))
    assert scheduler.spacing == "log_snr"
    scheduler.set_timesteps(4, device="cpu")
    assert timestep_log_snr(scheduler, scheduler.timesteps[-1]) == pytest.approx(4.0, abs=0.1)


@pytest.mark.parametrize("handover", ["init", "step", "scale"])
def test_every_handover_gives_the_same_sample(handover):
    ends = []
    for way in ("init", handover):
        scheduler = wrap(DPMSolverMultistepScheduler(), spacing="log_snr", handover=way)
        ends.append(run(scheduler, noise(), n=7)[0])
    torch.testing.assert_close(*ends, rtol=1e-5, atol=1e-5)
    assert wrap(DDIMScheduler()).spacing == "suffix"


def fitted_to(base, log_snrs, n_renoised, **options):
    """A wrapped scheduler whose statistics have these levels, for as many calls as they are."""
    kind = STATS.reference().kind
    levels = FittedLevels(log_snrs, n_renoised, ModelMark("f"), kind, 0.9, 0.01, 64)
    return GAGAScheduler.from_pretrained(
        base, STATS.with_levels(levels), spacing="fitted", **options
    )


def test_fitted_levels_are_the_grid_of_a_few_step_scheduler():
    """Where a timestep is a formula, they are met to the last bits of float32."""
    log_snrs = (-1.0, 0.123456789, 2.2, 5.75)
    like = FewStepScheduler.from_scheduler(FlowMatchEulerDiscreteScheduler())
    scheduler = fitted_to(like, log_snrs, 2)
    scheduler.set_timesteps(4, device="cpu")
    shares = [float(t) / 1000 for t in scheduler.timesteps[-4:]]
    assert [2 * np.log((1 - s) / s) for s in shares] == pytest.approx(log_snrs, abs=1e-5, rel=0)
    assert scheduler.renoised == 2
    other = fitted_to(EulerDiscreteScheduler(), log_snrs, 2)
    with pytest.raises(TruncationError, match="for the steps of a FewStepScheduler"):
        other.set_timesteps(4, device="cpu")


def test_fitted_levels_in_a_table_begin_within_what_was_trained():
    """The first is the entry at or beyond t*, or the noisiest one within the limit."""
    kept = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    table = np.log(kept / (1 - kept))
    beyond = int(np.argmax(table <= -1))
    scheduler = fitted_to(FewStepScheduler(), (-1.0, 1.0, 3.0), 1)
    for limit, first in ((None, beyond), (-1.0, beyond - 1)):
        if limit is not None:
            scheduler.keep_within(limit)
        scheduler.set_timesteps(3, device="cpu")
        nearest = [int(np.argmin(np.abs(table - level))) for level in (1.0, 3.0)]
        assert scheduler.timesteps[-3:].tolist() == [first, *nearest]
