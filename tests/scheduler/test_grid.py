"""What a cut grid says of itself, and what the search for a finer one remembers.

The grids themselves are checked scheduler by scheduler in `tests/properties/test_grid.py`.
"""

import inspect

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, FlowMatchEulerDiscreteScheduler

from gaga_adapter.errors import TruncationError
from gaga_adapter.scheduler.grid import GridMaker, _like

SHARES = [1.0, 0.8, 0.6, 0.4, 0.2]  # of noise, whose log-SNRs are 2 log((1 - s) / s)


def maker(scheduler, star, limit=None, **call):
    """The grid of a scheduler for the arguments of a call, before it is cut at `star`."""
    make = type(scheduler).set_timesteps
    arguments = inspect.signature(make).bind(scheduler, **call)
    return GridMaker(scheduler, make, arguments, star, limit)


@pytest.mark.parametrize(("share", "n_left"), [(0.9999, 5), (0.7, 4), (0.6, 3), (0.3, 2)])
@pytest.mark.parametrize("spacing", ["suffix", "respace"])
def test_a_list_says_whether_it_is_whole(spacing, share, n_left):
    """The last share at or above that of t* is the first that is left; respaced, all five are."""
    flow = FlowMatchEulerDiscreteScheduler()
    grid = maker(flow, 2 * np.log((1 - share) / share), sigmas=SHARES)
    cut = grid.suffix() if spacing == "suffix" else grid.respace({})
    assert cut.is_whole is (n_left == 5)
    assert cut.reaches is True
    assert cut.timesteps == pytest.approx([1000 * s for s in SHARES])
    n_steps = n_left if spacing == "suffix" else 5
    assert len(flow.timesteps) == n_steps
    if spacing == "suffix":
        left = SHARES[5 - n_left :]
        assert flow.timesteps.tolist() == pytest.approx([1000 * s for s in left])
        assert cut.place == 5 - n_left
        assert cut.before == (None if n_left == 5 else 1000 * SHARES[4 - n_left])


def test_a_finer_grid_says_that_it_is_none_of_the_schedulers_own():
    kept = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    for star, is_whole in ((-30.0, True), (0.0, False)):
        table = DDPMScheduler()
        cut = maker(table, star, num_inference_steps=10).respace({})
        assert cut.is_whole is is_whole
        assert len(table.timesteps) == 10
        first = int(table.timesteps[0])
        assert is_whole or np.log(kept[first] / (1 - kept[first])) <= star + 1e-5


def test_a_search_is_remembered_by_all_that_it_depends_on():
    flow = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    asked = [
        (-1.0, None, {"num_inference_steps": 10, "mu": 0.8}),
        (-1.0, None, {"num_inference_steps": 11, "mu": 0.8}),
        (-1.5, None, {"num_inference_steps": 10, "mu": 0.8}),
        (-1.0, -1.0, {"num_inference_steps": 10, "mu": 0.8}),
        (-1.0, None, {"num_inference_steps": 10, "mu": 0.5}),
    ]
    memory = {}
    for n_known, (star, limit, call) in enumerate(asked, 1):
        grids = []
        for _ in range(2):
            maker(flow, star, limit, **call).respace(memory)
            grids.append(flow.timesteps.tolist())
            assert len(memory) == n_known
        assert grids[0] == grids[1]


@pytest.mark.parametrize("star", [-1.0007, -1.0005, -1.0003])
def test_levels_that_are_met_to_float32_are_accepted(star):
    """One of eight lies next to log-SNR 0, where a share in float32 is off by more than 1e-8."""
    flow = FlowMatchEulerDiscreteScheduler()
    cut = maker(flow, star, num_inference_steps=8).even_in_log_snr()
    assert cut.is_whole is False
    assert cut.reaches is True
    shares = flow.timesteps.double().numpy() / 1000
    assert 2 * np.log((1 - shares) / shares) == pytest.approx(
        np.linspace(star, 6, 8), abs=1e-5, rel=0
    )


def test_a_class_that_moves_the_levels_it_is_given_is_named():
    def set_timesteps(scheduler, num_inference_steps=None, device=None, timesteps=None):
        moved = None if timesteps is None else [t + 1 for t in timesteps]
        DDPMScheduler.set_timesteps(scheduler, num_inference_steps, device, moved)

    scheduler = DDPMScheduler()
    call = inspect.signature(set_timesteps).bind(scheduler, num_inference_steps=5)
    grid = GridMaker(scheduler, set_timesteps, call, -1.0, None)
    with pytest.raises(TruncationError, match=r"^DDPMScheduler changes the levels"):
        grid.even_in_log_snr()
    own = maker(DDIMScheduler(), -1.0, num_inference_steps=5)
    with pytest.raises(TruncationError, match=r"^DDIMScheduler takes no levels but its own"):
        own.even_in_log_snr()
    with pytest.raises(TruncationError, match="given to FlowMatchEulerDiscreteScheduler do not"):
        maker(FlowMatchEulerDiscreteScheduler(), -1.0, sigmas=[0.2, 0.9, 0.1])


def test_entries_that_are_no_levels_are_named():
    """A share of noise above 1 has less than no signal."""
    words = (
        r"of FlowMatchEulerDiscreteScheduler has entries .*: timesteps \[1(200\.0|199\.9\d*)\]\."
    )
    with pytest.raises(TruncationError, match=words):
        maker(FlowMatchEulerDiscreteScheduler(), -1.0, sigmas=[0.9, 1.2, 0.2, 0.0])


def test_entries_that_are_all_one_or_rise_late_are_refused():
    with pytest.raises(TruncationError, match="no room for so many steps"):
        maker(FlowMatchEulerDiscreteScheduler(), -1.0, sigmas=[0.5, 0.5])
    with pytest.raises(TruncationError, match="do not fall from noise to data"):
        maker(FlowMatchEulerDiscreteScheduler(), -1.0, sigmas=[0.9, 0.2, 0.5])


def test_an_entry_at_the_limit_of_training_was_trained():
    """The tolerance of a log-SNR is 1e-5, and float32 leaves 1e-6 of it undecided."""
    for limit, n_left in ((0.0, 3), (2e-5, 2), (-2e-5, 3), (4e-6, 3), (-4e-6, 3)):
        flow = FlowMatchEulerDiscreteScheduler()
        cut = maker(flow, -30.0, limit, sigmas=[1.0, 0.8, 0.5, 0.4, 0.2]).suffix()
        assert len(flow.timesteps) == n_left
        assert cut.reaches is True


def test_steps_are_counted_without_the_data():
    flow = FlowMatchEulerDiscreteScheduler
    assert maker(DDPMScheduler(), -1.0, num_inference_steps=1).n_steps == 1
    assert maker(flow(), -1.0, sigmas=[0.9, 0.0]).n_steps == 1
    assert maker(flow(), -1.0, sigmas=[0.9, 0.5, 0.0]).n_steps == 2
    assert maker(flow(), -1.0, sigmas=[0.9, 0.5]).n_steps == 2


def test_the_last_entry_of_a_table_that_was_trained():
    """It is the one before the first that lies beyond the limit; a table that ends has none."""
    kept = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    table = np.log(kept / (1 - kept))
    for last in (300, 998):
        limit = float(table[last])
        grid = maker(DDPMScheduler(), -1.0, limit, num_inference_steps=5)
        asked = (last - 1, last, 999)
        assert [grid._is_last_trained(t) for t in asked] == [False, True, False]
    flow = maker(FlowMatchEulerDiscreteScheduler(), -1.0, -2.0, num_inference_steps=5)
    assert flow._is_last_trained(900.0) is False


@pytest.mark.parametrize("dtype", ["int64", "float32", "float64"])
def test_entries_come_back_in_the_container_and_type_of_the_callers(dtype):
    fresh = np.array([7.0, 4.0, 1.0])
    given = np.array([9, 5, 1], dtype=dtype)
    array, tensor = _like(given, fresh), _like(torch.from_numpy(given), fresh)
    assert (array.dtype, array.tolist()) == (given.dtype, [7, 4, 1])
    assert tensor.dtype == getattr(torch, dtype)
    assert tensor.tolist() == [7, 4, 1]
    for listed in (given.tolist(), tuple(given.tolist())):
        back = _like(listed, fresh)
        assert back == [7, 4, 1]
        assert all(type(one) is type(listed[0]) for one in back)
