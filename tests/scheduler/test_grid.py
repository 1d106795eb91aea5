"""What a cut grid says of itself, and what the search for a finer one remembers.

The grids themselves are checked scheduler by scheduler in `tests/properties/test_grid.py`.
"""

import inspect

import numpy as np
import pytest
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler

from gaga_adapter.scheduler.grid import GridMaker

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
