"""Grids that the caller names entry by entry, cut and resampled, in every container.

The oracle takes the list as a piecewise linear function of its index. What is respaced are as many
equal steps in that index, from the place of the first entry, which is at t*, to its end.
"""

import itertools

import diffusers
import numpy as np
import pytest
import torch
from diffusers import (
    DDPMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler,
)
from hypothesis import assume, given
from hypothesis import strategies as st
from properties.cases import cases
from scheduler.loops import wrap

from gaga_adapter.errors import TruncationError
from gaga_adapter.noise.timesteps import timestep_log_snr, training_timesteps

#: A class of its own, where diffusers has it.
LTX = (
    [diffusers.LTXEulerAncestralRFScheduler]
    if hasattr(diffusers, "LTXEulerAncestralRFScheduler")
    else []
)

pytestmark = [
    pytest.mark.filterwarnings("ignore::gaga_adapter.errors.GAGAWarning"),
    pytest.mark.filterwarnings("ignore:__array:DeprecationWarning"),  # numpy 2, inside of diffusers
]
CONTAINERS = {
    "list": list,
    "tuple": tuple,
    "array": lambda x: np.array(x),
    "float32": lambda x: np.array(x, dtype=np.float32),
}


@st.composite
def falling(draw, low, high, most=9):
    """Falling numbers between two ends, not too close to one another."""
    gaps = draw(st.lists(st.floats(0.2, 1), min_size=2, max_size=most))
    total = sum(gaps) * draw(st.floats(1.0, 1.2))
    return [high - (high - low) * sum(gaps[: k + 1]) / total for k in range(len(gaps))]


@cases(50)
@given(falling(0.02, 1.0), st.floats(0.1, 0.9), st.sampled_from(sorted(CONTAINERS)))
def test_sigmas_of_a_flow_whose_data_follow(sigmas, share, container):
    given_ = CONTAINERS[container](sigmas)
    base = FlowMatchEulerDiscreteScheduler()
    star = share * 1000
    for spacing in ("suffix", "respace"):
        cut = wrap(base, t_star=star, spacing=spacing, handover="init")
        cut.set_timesteps(sigmas=given_, device="cpu")
        got = cut.sigmas.double().numpy()
        assert got[-1] == 0
        torch.testing.assert_close(cut.timesteps.double(), 1000 * cut.sigmas[:-1].double())
        first = max((k for k, s in enumerate(sigmas) if s >= share - 1e-6), default=0)
        if spacing == "suffix" or not first:
            expected = np.array([*sigmas[first:], 0.0])
        else:
            n = len(sigmas)
            whole = [*sigmas, 0.0]
            place = np.interp(-share, -np.array(whole), np.arange(n + 1))
            # no further than the last place from which as many entries follow
            place = min(place, n - 1)
            expected = np.interp(np.linspace(place, n, n + 1), np.arange(n + 1), whole)
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)


@cases(50)
@given(
    falling(0.05, 100.0),
    st.integers(50, 900),
    st.sampled_from(sorted(CONTAINERS)),
    st.sampled_from([EulerDiscreteScheduler, *LTX]),
)
def test_sigmas_that_name_their_own_end(sigmas, t_star, container, made_by):
    base = made_by()
    if made_by in LTX:
        sigmas, container = [s / 101 for s in sigmas], "list"
    values = [*sigmas, 0.0]
    cut = wrap(base, t_star=t_star, spacing="respace", handover="init")
    star = timestep_log_snr(base, t_star)
    ratio = np.exp(-star / 2)
    sigma = ratio if made_by is EulerDiscreteScheduler else ratio / (1 + ratio)
    assume(sigma < 0.98 * values[1] and sigma > values[-2] * 1.05)
    cut.set_timesteps(sigmas=CONTAINERS[container](values), device="cpu")
    got = cut.sigmas.double().numpy()
    n = len(values)
    got = got[:n]
    place = np.interp(-sigma, -np.array(values), np.arange(n))
    expected = np.interp(np.linspace(place, n - 1, n), np.arange(n), values)
    # float32 rounds the place by some 1e-6 of a step, which is worth most in the steepest segment.
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5 * max(values))


@cases(50)
@given(
    st.lists(st.integers(0, 999), min_size=2, max_size=9, unique=True),
    st.integers(1, 998),
    st.sampled_from(["list", "tuple", "array"]),
    st.sampled_from([DDPMScheduler, HeunDiscreteScheduler]),
)
def test_timesteps_of_a_table_stay_whole(timesteps, t_star, container, made_by):
    values = sorted(timesteps, reverse=True)
    given_ = CONTAINERS[container](values)
    base = made_by()
    order = getattr(base, "order", 1)
    name = {"timesteps": given_}
    cut = wrap(base, t_star=t_star, spacing="suffix", handover="init")
    cut.set_timesteps(**name, device="cpu")
    first = max((k for k, t in enumerate(values) if t >= t_star), default=0)
    own = cut.timesteps[::order] if order == 1 else cut.timesteps
    expected = values[first:]
    if order == 2:  # every entry but the first is visited twice
        expected = [values[first], *np.repeat(values[first + 1 :], 2).tolist()]
    assert own.tolist() == expected
    cut = wrap(base, t_star=t_star, spacing="respace", handover="init")
    n = len(values)
    if values[1] < t_star:  # nothing to cut off
        cut.set_timesteps(**name, device="cpu")
        assert cut.timesteps[0] == values[0]
        return

    def line(first):
        place = np.interp(-first, -np.array(values, dtype=float), np.arange(n))
        return np.interp(np.linspace(place, n - 1, n), np.arange(n), values)

    try:
        cut.set_timesteps(**name, device="cpu")
    except TruncationError as error:
        if "not enough timesteps below" not in str(error):
            raise
        fresh = line(t_star).round()
        # Where t* lies in the last step, the list may begin an entry earlier.
        assert t_star <= values[-2] or any(a - b <= 1 for a, b in itertools.pairwise(fresh))
        return
    if t_star <= values[-1]:  # nothing lies below t*
        assert cut.timesteps[0] >= t_star
        return
    got = cut.timesteps.tolist()
    got = np.array(got if order == 1 else [got[0], *got[1::2]])
    # The first is rounded up to t*, so its place on the line lies between t* - 1 and t*.
    assert got[0] == t_star
    assert bool((got[1:] >= line(t_star - 1)[1:] - 0.51).all())
    assert bool((got[1:] <= line(t_star)[1:] + 0.51).all())
    assert got[-1] == values[-1]


@cases(40)
@given(st.floats(0.2, 6), st.floats(-8, 8))
def test_training_timesteps_of_a_flow_against_a_scan(shift, star):
    base = FlowMatchEulerDiscreteScheduler(shift=shift)
    share = torch.arange(1, 1001).double() / 1000
    sigma = shift * share / (1 + (shift - 1) * share)
    levels = 2 * ((1 - sigma) / sigma).log()
    assume(bool(((levels - star - 1e-5).abs() > 1e-3).all()))
    beyond = [k for k, level in enumerate(levels.tolist()) if level <= star + 1e-5]
    made = training_timesteps(base, star)
    assert len(made) == beyond[0] + 1
    torch.testing.assert_close(made.double(), 1000 * sigma[: len(made)], rtol=1e-4, atol=1e-3)
    cut = wrap(base, spacing="suffix")
    made += 1
    again = training_timesteps(base, star)
    assert not torch.equal(again, made)
    assert cut.timesteps.max() <= 1000.01
