"""What a cut grid says of itself, and what the search for a finer one remembers.

The grids themselves are checked scheduler by scheduler in `tests/properties/test_grid.py`.
"""

import inspect
import math

import diffusers
import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    PNDMScheduler,
    SCMScheduler,
    UnCLIPScheduler,
)

from gaga_adapter import FewStepScheduler
from gaga_adapter.errors import TruncationError
from gaga_adapter.scheduler.grid import FINEST, GridMaker, _like

SHARES = [1.0, 0.8, 0.6, 0.4, 0.2]  # of noise, whose log-SNRs are 2 log((1 - s) / s)


def newer(name):
    """A scheduler of a class that the oldest diffusers has not."""
    if not hasattr(diffusers, name):
        pytest.skip(f"diffusers {diffusers.__version__} has no {name}")
    return getattr(diffusers, name)()


def level(share):
    """Log-SNR of a flow at a share of noise."""
    return 2 * math.log((1 - share) / share) if share < 1 else -math.inf


def maker(scheduler, star, limit=None, make=None, **call):
    """The grid of a scheduler for the arguments of a call, before it is cut at `star`."""
    make = make or type(scheduler).set_timesteps
    arguments = inspect.signature(make).bind(scheduler, **call)
    return GridMaker(scheduler, make, arguments, star, limit)


def even(spoil=None, most=math.inf):
    """A `set_timesteps` whose shares of noise are 1, 1 - 1/n, ..., 1/n; finer ones are spoilt."""

    def set_timesteps(scheduler, num_inference_steps):
        n = scheduler.num_inference_steps = num_inference_steps
        shares = np.arange(n, 0, -1) / n
        shares = spoil(shares) if n > most else shares
        scheduler.timesteps = torch.tensor(1000 * shares)
        scheduler.sigmas = torch.tensor([*shares, 0.0])

    return set_timesteps


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


@pytest.mark.parametrize(
    ("t_star", "left", "is_whole"),
    # Of three even steps, 666, 333 and 0, the last two are from 300 on; of four, three are.
    [(300, [333, 0], False), (400, [500, 0], True), (600, [500, 0], True)],
)
def test_a_grid_of_which_nothing_is_cut_is_still_made_finer(t_star, left, is_whole):
    kept = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    star = float(np.log(kept[t_star] / (1 - kept[t_star])))
    table = DDPMScheduler()
    cut = maker(table, star, num_inference_steps=2).respace({})
    assert table.timesteps.tolist() == left
    assert cut.is_whole is is_whole
    assert cut.reaches is (left[0] >= t_star)


@pytest.mark.parametrize("n_steps", [1, 10])
def test_a_shifted_flow_begins_at_pure_noise_whatever_float32_makes_of_it(n_steps):
    flow = FlowMatchEulerDiscreteScheduler(shift=1 / 3)
    cut = maker(flow, -1.0, num_inference_steps=n_steps).suffix()
    assert cut.timesteps[0] > 1000  # by rounding
    assert cut.is_whole is (n_steps == 1)
    flow = FlowMatchEulerDiscreteScheduler()
    with pytest.raises(
        TruncationError, match=r"entries that are no noise levels: timesteps \[1000"
    ):
        maker(flow, -1.0, sigmas=[1.00001, 0.5])


def test_a_grid_that_training_limits_is_not_made_finer_for_nothing():
    """Of three steps, 333 would be the first that the network knows: inside of t*, which is met."""
    kept = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    star = float(np.log(kept[500] / (1 - kept[500])))
    table = DDPMScheduler()
    cut = maker(table, star, limit=star, num_inference_steps=2).respace({})
    assert table.timesteps.tolist() == [500, 0]
    assert (cut.is_whole, cut.reaches) == (True, True)


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


# -- the search for the finest grid ----------------------------------------------------------------


@pytest.mark.parametrize("n", [3, 5, 8])
@pytest.mark.parametrize("share", [0.31, 0.45, 0.61, 0.03, 1e-6])
def test_the_finest_even_grid_has_n_over_t_star_entries(share, n):
    """`ceil(share N)` of N steps lie from t* on, so the finest N is `floor(n / share)`."""
    flow = FlowMatchEulerDiscreteScheduler()
    cut = maker(flow, level(share), make=even(), num_inference_steps=n).respace({})
    finest = min(math.floor(n / share), FINEST - 1)
    expected = [1000 * k / finest for k in range(n, 0, -1)]
    assert flow.timesteps.tolist() == pytest.approx(expected, rel=1e-9, abs=0)
    assert cut.reaches is True
    assert flow.num_inference_steps == n


def repeated(shares):
    return np.concatenate([shares[:-1], shares[-2:-1]])


def climbing(shares):
    return np.concatenate([shares[:-1], shares[-2:-1] + 1e-3])


def short(shares):
    return shares[-4:]


def no_numbers(shares):
    return shares / np.zeros(len(shares)) - np.inf  # numpy warns of both


def no_signal(shares):
    return np.where(np.arange(len(shares)) == len(shares) - 2, 1.0, shares)


def refused(error):
    def spoil(shares):
        raise error

    return spoil


@pytest.mark.parametrize(
    "spoil",
    [repeated, climbing, short, no_numbers, no_signal]
    + [refused(kind("finer than I can")) for kind in
       (ValueError, IndexError, AssertionError, ZeroDivisionError, RuntimeError)],
)  # fmt: skip
def test_a_grid_that_is_not_sound_is_too_fine(spoil):
    """Sixteen steps would do for this share, and the class has no more than twelve sound ones."""
    flow = FlowMatchEulerDiscreteScheduler()
    make = even(spoil, most=12)
    cut = maker(flow, level(0.31), make=make, num_inference_steps=5).respace({})
    expected = [1000 * k / 12 for k in range(5, 0, -1)]
    assert flow.timesteps.tolist() == pytest.approx(expected, rel=1e-9, abs=0)
    assert cut.is_whole is False


@pytest.mark.parametrize(("star", "n"), [(3.0, 7), (2.0, 6), (4.0, 4), (1.0, 3)])
def test_a_table_is_searched_as_far_as_its_entries_differ(star, n):
    """Against all grids of the class, one by one: the next finer one has a step too many or two
    equal ones."""
    table = UnCLIPScheduler(num_train_timesteps=20)
    kept = table.alphas_cumprod.double().numpy()

    def last(n_fine):
        table.set_timesteps(n_fine)
        timesteps = table.timesteps.numpy()
        levels = np.log(kept / (1 - kept))[timesteps]
        beyond = np.flatnonzero(levels <= star + 1e-5)
        fits = n_fine - beyond.max() <= n and (np.diff(levels[-n:]) > 0).all()
        return timesteps[-n:].tolist() if fits else None

    finest = max(k for k in range(n, 40) if last(k) and not last(k + 1))
    cut = maker(table, star, num_inference_steps=n).respace({})
    got = table.timesteps.tolist()
    assert got == last(finest)
    assert cut.reaches is True


@pytest.mark.parametrize("shift", [0.1, 0.5, 20.0])
def test_a_memory_of_a_scheduler_that_has_changed_misleads_nobody(shift):
    call = {"star": level(0.31), "num_inference_steps": 5}
    changed, fresh, memory = (
        FlowMatchEulerDiscreteScheduler(),
        FlowMatchEulerDiscreteScheduler(),
        {},
    )
    maker(changed, **call).respace(memory)
    for scheduler in (changed, fresh):
        scheduler.set_shift(shift)
    maker(changed, **call).respace(memory)
    maker(fresh, **call).respace({})
    assert changed.timesteps.tolist() == fresh.timesteps.tolist()


# -- lists of the caller ---------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.7, 0.5, 0.25, 0.2, 0.1])
@pytest.mark.parametrize(
    ("name", "ends"),
    [("FlowMatchEulerDiscreteScheduler", []), ("LTXEulerAncestralRFScheduler", [0.0])],
)
def test_an_even_list_is_even_from_t_star_to_the_data(name, ends, share):
    """The data follow after the list, or stand at its end: either way it is a line to zero.

    It begins at an entry at the latest.
    """
    flow = newer(name)
    maker(flow, level(share), sigmas=SHARES + ends).respace({})
    first = share if ends else max(share, SHARES[-1])
    expected = [1000 * first * s for s in SHARES] + ends
    assert flow.timesteps.tolist() == pytest.approx(expected, rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("container", [list, tuple, np.array, torch.tensor])
def test_whole_timesteps_stay_whole(container):
    """On a line from t* to the end, to what rounding the first up and the others leaves."""
    kept = float(np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[420])
    table = DDPMScheduler()
    given = container([900, 700, 500, 300, 100])
    maker(table, math.log(kept / (1 - kept)), timesteps=given).respace({})
    got = table.timesteps.tolist()
    assert (len(got), got[0], got[-1]) == (5, 420, 100)
    assert got == pytest.approx([420, 340, 260, 180, 100], abs=1, rel=0)


def test_runge_kutta_needs_four_steps():
    pndm = PNDMScheduler()
    maker(pndm, 9.5, num_inference_steps=20).suffix()
    assert len(pndm._timesteps) == 4
    pndm = PNDMScheduler(skip_prk_steps=True)
    maker(pndm, 9.5, num_inference_steps=20).suffix()
    assert len(pndm._timesteps) == 1


def test_a_list_that_counts_from_noise_to_data_rises():
    few = FewStepScheduler.from_scheduler(newer("MiniMaxH3Scheduler"))
    maker(few, level(0.7), timesteps=[0.0, 0.2, 0.4, 0.6, 0.8]).respace({})
    expected = [0.3, 0.425, 0.55, 0.675, 0.8]  # a line from 1 - 0.7 to the end
    assert few.timesteps.tolist() == pytest.approx(expected, rel=1e-5, abs=0)


def test_a_list_that_rises_needs_room_for_its_entries():
    few = FewStepScheduler.from_scheduler(FlowMatchEulerDiscreteScheduler(invert_sigmas=True))
    with pytest.raises(TruncationError, match=r"^there are not enough timesteps below t"):
        maker(few, level(0.5), timesteps=[100, 500, 501, 502]).respace({})


def test_a_list_that_the_class_cannot_be_given_anew_is_named():
    given = {"num_inference_steps": 3, "intermediate_timesteps": None, "max_timesteps": None}
    grid = maker(SCMScheduler(), 0.0, timesteps=[1.5, 1.2, 0.3, 0.0], **given)
    with pytest.raises(TruncationError, match=r"^cannot respace the timesteps given to SCMSched"):
        grid.respace({})


def test_neighbours_may_be_equal():
    flow = FlowMatchEulerDiscreteScheduler()
    maker(flow, level(0.6), sigmas=[0.9, 0.9, 0.6, 0.6, 0.3]).suffix()
    assert flow.timesteps.tolist() == pytest.approx([600, 300])


def test_entries_of_a_solver_of_two_stages_are_named_once():
    """Every entry but the first is there twice."""

    def set_timesteps(scheduler, num_inference_steps):
        FlowMatchHeunDiscreteScheduler.set_timesteps(scheduler, num_inference_steps)
        scheduler.sigmas, scheduler.timesteps = 1.6 * scheduler.sigmas, 1.6 * scheduler.timesteps

    shares = np.linspace(1, 1e-3, 4) * 1600
    words = rf"timesteps \[{shares[0]:.0f}[\d.]*, {shares[1]:.0f}[\d.]*\]\."
    with pytest.raises(TruncationError, match=words):
        maker(FlowMatchHeunDiscreteScheduler(), -1.0, make=set_timesteps, num_inference_steps=4)


# -- what a cut says of itself ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shares", "limit", "reaches"),
    [
        ([1.0, 0.5, 0.2], -1.0, True),  # the first was cut off, since nobody was trained at it
        ([1.0, 0.9, 0.5, 0.2], -1.0, True),
        ([0.9, 0.5, 0.2], None, False),  # there was nothing to cut off
        ([0.9, 0.5, 0.2], -9.0, False),
        ([0.9], -1.0, False),  # a run needs one step
    ],
)
def test_a_start_where_training_ended_is_as_far_as_t_star(shares, limit, reaches):
    """`star` lies beyond all entries that have signal."""
    flow = FlowMatchEulerDiscreteScheduler()
    cut = maker(flow, -5.5, limit, sigmas=shares).suffix()
    assert cut.reaches is reaches
    n_left = len([s for s in shares if level(s) > (limit or -99)] or [1])
    assert len(flow.timesteps) == flow.num_inference_steps == n_left
    assert cut.level.log_snr == pytest.approx(level(shares[-n_left]), abs=1e-5)


@pytest.mark.parametrize(
    ("n_all", "n_left", "is_kept"),
    [(30, 10, True), (15, 14, True), (15, 15, False), (16, 15, False), (14, 10, False)],
)
def test_a_long_grid_that_is_cut_short_is_kept(n_all, n_left, is_kept):
    """The solver lowers its order at the end of runs of fewer than 15 steps, as it says itself."""
    long = DPMSolverMultistepScheduler()
    long.set_timesteps(n_all)
    own, sigmas = long.timesteps.tolist(), long.sigmas
    kept = float(long.alphas_cumprod[own[n_all - n_left]])
    star = math.log(kept / (1 - kept))
    cut = maker(long, star, num_inference_steps=n_all).suffix()
    assert (len(long.timesteps), long.num_inference_steps) == (n_left, n_left)
    assert (cut.whole is not None) is is_kept
    if is_kept:
        assert cut.whole["timesteps"].tolist() == own
        assert torch.equal(cut.whole["sigmas"], sigmas)
    for respaced in ("respace", "even_in_log_snr"):  # whose steps are other ones
        grid = maker(long, 0.0, num_inference_steps=n_all)
        cut = grid.respace({}) if respaced == "respace" else grid.even_in_log_snr()
        assert cut.whole is None
