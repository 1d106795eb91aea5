"""What a network is asked for, in the words of every scheduler class, against the formulas.

The oracle knows how each class scales the network's input and what its output means, from the
papers and from diffusers' own documentation; it is told the class, the configuration and the
timestep.
"""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from properties.cases import cases
from properties.test_grid import CASES, schedulers, wuerstchen_ratio
from scheduler.test_exactness import RATIO

from gaga_adapter.noise.conventions import convention_of
from gaga_adapter.noise.timesteps import timestep_range
from gaga_adapter.scheduler.options import plain_class

pytestmark = [
    pytest.mark.filterwarnings("ignore::gaga_adapter.errors.GAGAWarning"),
    pytest.mark.filterwarnings("ignore:__array:DeprecationWarning"),  # numpy 2, inside of diffusers
]


def words(scheduler):
    """How the class keeps its levels, and what its network says."""
    name, config = type(scheduler).__name__, scheduler.config
    where, output = CASES[name].kind
    output = output.removeprefix("consistent ")
    if config.get("use_flow_sigmas"):
        return "flow", "flow"
    if where == "table" and name != "RePaintScheduler":
        output = config.prediction_type
    if where in ("karras", "arctangent"):
        output = "karras v" if config.prediction_type == "v_prediction" else "karras"
    if config.get("timestep_type") == "continuous" and output == "v_prediction":
        where = "quarter log"
    if where == "flow" and config.get("invert_sigmas"):
        output = "backward flow"
    return where, output


def seen_level(scheduler, where, t):
    """Ratio, a and b of the network's input."""
    if where == "quarter log":
        ratio = math.exp(4 * t)
    elif where == "wuerstchen":
        ratio = wuerstchen_ratio(scheduler, t)
    elif where == "flow":
        share = t / scheduler.config.num_train_timesteps
        share = 1 - share if scheduler.config.get("invert_sigmas") else share
        ratio = share / (1 - share)
    elif where == "trigflow":
        ratio = scheduler.config.sigma_data * math.tan(t)
    else:
        ratio = RATIO[where](scheduler, t)
    if where in ("flow", "one minus flow", "data time"):
        return ratio, 1 / (1 + ratio), ratio / (1 + ratio)
    if where == "trigflow":
        return ratio, math.cos(t), math.sin(t) * scheduler.config.sigma_data
    preconditioned = where in ("karras", "karras in thousands", "arctangent")
    a = 1 / math.hypot(ratio, scheduler.config.sigma_data if preconditioned else 1)
    return ratio, a, ratio * a


def expected(scheduler, output, t, level, clean, noise):
    """What the network says of this clean prediction."""
    ratio, a, b = level
    x = a * clean + b * noise
    if output == "epsilon":
        return noise
    if output == "v_prediction":
        return a * noise - b * clean
    if output == "flow":
        return noise - clean
    if output == "backward flow":
        return clean - noise
    if output == "angle":
        return (math.cos(t) * x - clean) / math.sin(t)
    data = scheduler.config.sigma_data
    above = ratio - (scheduler.config.sigma_min if output == "boundary" else 0.0)
    c_skip = data**2 / (above**2 + data**2)
    c_out = above * data / math.sqrt(ratio**2 + data**2)
    c_out = -c_out if output == "karras v" else c_out
    return (clean - c_skip * (clean + ratio * noise)) / c_out


@cases(150)
@given(schedulers(), st.floats(0.01, 0.99), st.integers(0, 2**31))
def test_random_schedulers_in_their_own_words(made_by, share, seed):
    check(made_by[0], share, seed)


OPTIONS = [
    ("EDMEulerScheduler", {"prediction_type": "v_prediction", "sigma_data": 0.7}),
    ("EulerDiscreteScheduler", {"prediction_type": "v_prediction", "timestep_type": "continuous"}),
    ("FlowMatchEulerDiscreteScheduler", {"invert_sigmas": True}),
    ("UniPCMultistepScheduler", {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}),
    ("CMStochasticIterativeScheduler", {"sigma_data": 0.8, "sigma_min": 0.05}),
]


@pytest.mark.parametrize(("name", "options"), [*((name, {}) for name in CASES), *OPTIONS], ids=str)
def test_every_class_in_its_own_words(name, options):
    scheduler = plain_class(name)(**{**CASES[name].options, **options})
    for share in (0.3, 0.6):
        check(scheduler, share, 0)


def check(scheduler, share, seed):
    """What is asked of a network at one level."""
    at = convention_of(scheduler)
    low, high = timestep_range(scheduler)
    t = low + share * (high - low)
    where, output = words(scheduler)
    t = float(round(t)) if where == "table" else t
    level = seen_level(scheduler, where, t)
    if not 1e-3 < level[0] < 1e3:
        return
    # Wuerstchen keeps the end of its cosine in float32, which half of a small angle multiplies
    assert tuple(at.seen_level(t)) == pytest.approx(level[1:], rel=1e-5, abs=1e-5)
    a = {"flow": level[1], "one minus flow": level[1], "data time": level[1]}.get(where)
    if where in ("karras", "karras in thousands", "arctangent"):
        a = 1.0
    if where == "trigflow":
        a = math.cos(t)
    if hasattr(scheduler, "scale_model_input") and where in ("table", "quarter log"):
        explodes = abs(at.signal(level[0]) - 1) < 1e-12
        a = 1.0 if explodes else level[1]
        assert explodes == (
            type(scheduler).__name__.startswith(("Euler", "Heun", "LMS", "KDPM2", "DPMSolverSDE"))
        )
    if a is not None:
        sample = at.level(level[0])
        assert tuple(sample) == pytest.approx((a, level[0] * a), rel=1e-5, abs=1e-5)
    generator = torch.Generator().manual_seed(seed)
    clean, noise = torch.randn(2, 2, 3, generator=generator, dtype=torch.float64)
    said = expected(scheduler, output, t, level, clean, noise)
    seen = level[1] * clean + level[2] * noise
    near = {"rtol": 1e-4, "atol": 1e-4 * (1 + 1 / level[0] + level[0])}
    torch.testing.assert_close(at.output(clean, seen, t), said, **near)
    torch.testing.assert_close(at.clean(said, seen, t), clean, **near)
    assert at.wants_epsilon == (output == "epsilon")
    assert at.ratio_at(t) == pytest.approx(level[0], rel=1e-4, abs=1e-5)


def test_predictions_without_a_rule_are_named():
    from diffusers import DDPMScheduler, UniPCMultistepScheduler

    from gaga_adapter.errors import UnsupportedSchedulerError

    told = (
        r"UniPCMultistepScheduler \(prediction_type='flow_prediction'\) has no rule .*"
        "Known: epsilon, sample, v_prediction, flow_prediction with use_flow_sigmas=True"
    )
    with pytest.raises(UnsupportedSchedulerError, match=told):
        _ = convention_of(UniPCMultistepScheduler(prediction_type="flow_prediction")).relation
    told = r"prediction_type='x'\) has no rule .* Known: epsilon, sample, v_prediction\."
    with pytest.raises(UnsupportedSchedulerError, match=told):
        _ = convention_of(DDPMScheduler(prediction_type="x")).relation


def test_a_few_step_scheduler_borrows_all_of_another():
    from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler

    from gaga_adapter import FewStepScheduler

    for base in (DDPMScheduler(prediction_type="v_prediction"), FlowMatchEulerDiscreteScheduler()):
        mine, theirs = convention_of(FewStepScheduler.from_scheduler(base)), convention_of(base)
        assert mine.noise_is_bare is theirs.noise_is_bare
        assert mine.looks_up is theirs.looks_up
        assert mine.ends == theirs.ends
        assert mine.relation is theirs.relation
        assert (mine.table is None) == (theirs.table is None)
        for ratio in (0.1, 1.0, 7.0):
            assert mine.level(ratio) == theirs.level(ratio)
            assert mine.seen_signal(ratio) == theirs.seen_signal(ratio)
            assert mine.timestep_at(ratio) == theirs.timestep_at(ratio)
            assert mine.ratio_at(mine.timestep_at(ratio)) == pytest.approx(ratio, rel=0.02)
