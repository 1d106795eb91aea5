"""From time to log-SNR and back, on paths and schedulers that nobody chose by hand.

Tolerances. A log-SNR is worked out from `a` and `b` that were rounded, relative to their own size,
by 2^-53 in double precision; its error is then absolute, a few 1e-15, but where `1 - abar` cancels
it is that of `abar`, divided by `1 - abar`. So round trips hold to 1e-9 in log-SNR over the levels
that are tried, and in time to that divided by the slope of the path, which is what is asserted.
"""

import math

import pytest
import torch
from hypothesis import assume, event, example, given
from hypothesis import strategies as st
from properties.cases import cases
from properties.test_grid import schedulers

from gaga_adapter.errors import DataError, TruncationError
from gaga_adapter.noise.conventions import Level, convention_of, log_snr
from gaga_adapter.noise.draws import batch_uniforms, entries
from gaga_adapter.noise.levels import (
    TOLERANCE,
    check_log_snr,
    coefficients,
    first_beyond,
    is_beyond,
)
from gaga_adapter.noise.paths import (
    NAMED_PATHS,
    FlowPath,
    TabulatedPath,
    VEPath,
    VPPath,
    named_path,
    starts,
)
from gaga_adapter.noise.timesteps import (
    t_star,
    timestep_log_snr,
    timestep_range,
    training_timesteps,
)
from gaga_adapter.noise.training_table import training_scheduler

pytestmark = [
    pytest.mark.filterwarnings("ignore::gaga_adapter.errors.GAGAWarning"),
    pytest.mark.filterwarnings("ignore:__array:DeprecationWarning"),  # numpy 2, inside of diffusers
]
DTYPES = st.sampled_from([torch.float32, torch.float64])
#: Levels further out than these are lost in the rounding of a table in double precision.
FAR = 25.0


@st.composite
def tables(draw, pure=True):
    """A table path: node levels that fall, with any scale, evenly spread or not."""
    n = draw(st.integers(2, 12))
    gaps = draw(st.lists(st.floats(0.02, 6), min_size=n, max_size=n))
    top = draw(st.floats(-3, 20))
    levels = top - torch.tensor(gaps, dtype=torch.float64).cumsum(0)
    assume(float(levels[-1]) > -FAR)
    scale = torch.tensor(draw(st.lists(st.floats(0.2, 5), min_size=n, max_size=n))).double()
    a, b = levels.sigmoid().sqrt() * scale, (-levels).sigmoid().sqrt() * scale
    if pure and draw(st.booleans()):
        a[-1] = 0.0  # noise alone
    if pure and draw(st.booleans()):
        b[0] = 0.0  # data alone
    times = None
    if draw(st.booleans()):
        steps = torch.tensor(draw(st.lists(st.floats(0.05, 1), min_size=n - 1, max_size=n - 1)))
        times = torch.cat([torch.zeros(1), steps.cumsum(0) / steps.sum()]).double()
        times[-1] = 1.0
        assume(bool((times.diff() > 0).all()))
    return TabulatedPath(a, b, times)


@st.composite
def betas(draw):
    """A variance preserving table of noising steps."""
    n = draw(st.integers(2, 300))
    low, high = draw(st.floats(1e-4, 0.01)), draw(st.floats(0.01, 0.5))
    return VPPath.from_betas(torch.linspace(low, high, n, dtype=torch.float64))


formulas = st.one_of(
    st.builds(FlowPath, st.floats(0.05, 20)),
    st.builds(
        VEPath,
        st.floats(1e-4, 0.5),
        st.floats(1, 1000),
        st.one_of(st.none(), st.floats(0.5, 12)),
    ),
)
named = st.builds(
    named_path, st.sampled_from(sorted(NAMED_PATHS)), st.sampled_from([2, 17, 200, 1000])
)
paths = st.one_of(tables(), betas(), formulas, named)
times = st.lists(st.floats(0, 1), min_size=1, max_size=8)


def within(path):
    low, high = path.log_snr_range
    return max(low, -FAR), min(high, FAR)


PURE = TabulatedPath(torch.tensor([1.0, 0.5]), torch.tensor([0.0, 0.5]))


def check_level(path, t, level):
    """The level of a time is the one that was asked for, as far as a time in float64 can say it.

    Beside an end of noise or data alone, the next time is another level.
    """
    step = 4 * torch.finfo(torch.float64).eps
    highest, lowest = path.log_snr((t - step).clamp(min=0)), path.log_snr((t + step).clamp(max=1))
    slack = 1e-9 * (1 + level.abs())
    assert bool(((level <= highest + slack) & (level >= lowest - slack)).all())


@cases(150)
@example(PURE, [5e-324], torch.float64)  # whose time was not a number
@given(paths, times, DTYPES)
def test_time_to_log_snr_and_back(path, t, dtype):
    t = torch.tensor(t, dtype=dtype)
    levels = path.log_snr(t)
    assert levels.dtype == torch.float64
    low, high = within(path)
    again = path.time_at_log_snr(levels)
    assert bool(((again >= 0) & (again <= 1)).all())
    near = (levels >= low) & (levels <= high)
    check_level(path, again[near], levels[near])
    ends = (t == 0) | (t == 1)
    torch.testing.assert_close(again[ends], t[ends].double(), rtol=0, atol=1e-12)


@cases(150)
@given(paths, st.floats(0, 1), DTYPES)
def test_log_snr_to_time_and_back(path, share, dtype):
    low, high = within(path)
    assume(high - low > 1e-3)
    level = torch.tensor(low + share * (high - low), dtype=dtype).double().clamp(low, high)
    check_level(path, path.time_at_log_snr(level), level)


@cases(100)
@given(paths, times)
def test_the_levels_of_a_path_fall_and_are_those_of_a_and_b(path, t):
    t = torch.tensor(sorted(t), dtype=torch.float64)
    levels, a, b = path.log_snr(t), path.a(t), path.b(t)
    assert bool((levels[1:] <= levels[:-1] + 1e-12).all())
    apart = (t.diff() > 1e-9) & (levels[1:].abs() < FAR) & (levels[:-1].abs() < FAR)
    assert bool((levels.diff()[apart] < 0).all())
    assert bool(((a >= 0) & (b >= 0)).all())
    near = levels.abs() < FAR
    ratio = 2 * (a.log() - b.log())
    torch.testing.assert_close(levels[near], ratio[near], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(path.snr(t)[near], (a / b)[near].square(), rtol=1e-8, atol=0)


@cases(100)
@given(paths, st.floats(-30, 30))
def test_the_first_time_at_or_beyond_a_level_against_a_scan(path, star):
    low, _ = path.log_snr_range
    n = path.n_steps
    nodes = torch.arange((n or 0) + 1, dtype=torch.float64) / (n or 1)
    levels = path.log_snr(nodes).tolist() if n else []
    if n:
        beyond = [k for k, level in enumerate(levels) if level <= star + 1e-5]
        assume(all(abs(level - star - 1e-5) > 1e-9 for level in levels))
        event("table")
        if not beyond:
            with pytest.raises(TruncationError, match="no node"):
                path.first_time(star)
            return
        assert path.first_time(star) == beyond[0] / n
        assert path.index_at_log_snr(star) == beyond[0]
        return
    if star < low - 1e-5:
        with pytest.raises(TruncationError, match="outside of"):
            path.first_time(star)
        return
    t = path.first_time(star)
    fine = torch.linspace(0, 1, 4001, dtype=torch.float64)
    is_beyond = path.log_snr(fine) <= star
    if bool(is_beyond.any()):
        first = float(fine[is_beyond][0])
        assert first - 1 / 4000 - 1e-9 <= t <= first + 1e-9


@cases(100)
@given(
    st.lists(st.floats(-20, 20), min_size=1, max_size=20).map(lambda x: sorted(x, reverse=True)),
    st.floats(-22, 22),
    DTYPES,
)
@example([1.0, 0.5 + 1e-5, 0.0], 0.5, torch.float64)
@example([1.0, 0.5 + 2e-5, 0.0], 0.5, torch.float64)
def test_first_beyond_against_a_scan(levels, star, dtype):
    levels = torch.tensor(levels, dtype=dtype)
    assume(bool(((levels.double() - star - TOLERANCE).abs() > 1e-9).all()))
    assume(dtype == torch.float64 or bool(((levels.double() - star).abs() > 1e-4).all()))
    expected = next(
        (k for k, level in enumerate(levels.tolist()) if level <= star + 1e-5), len(levels)
    )
    assert first_beyond(levels, star) == expected
    assert is_beyond(levels, star).tolist() == [k >= expected for k in range(len(levels))]


@cases(100)
@given(st.floats(-59.9, 59.9))
@example(0.0)
def test_the_coefficients_of_a_level(level):
    a, b = coefficients(level)
    assert a**2 + b**2 == pytest.approx(1, rel=1e-14)
    assert 2 * (math.log(a) - math.log(b)) == pytest.approx(level, rel=1e-13, abs=1e-13)
    assert Level(a, b).log_snr == pytest.approx(level, rel=1e-13, abs=1e-13)
    assert Level(3 * a, 3 * b).log_snr == pytest.approx(level, rel=1e-13, abs=1e-13)
    assert check_log_snr("level", level) == level
    ratio = torch.tensor(math.exp(-level / 2), dtype=torch.float64)
    assert float(log_snr(ratio)) == pytest.approx(level, rel=1e-13, abs=1e-13)


@cases(60)
@given(
    st.one_of(
        st.floats(60, 1e300, exclude_min=True),
        st.floats(-1e300, -60, exclude_max=True),
        st.sampled_from([math.nan]),
    )
)
def test_levels_that_no_schedule_has_are_refused(level):
    with pytest.raises(TruncationError, match="log_snr_star"):
        check_log_snr("log_snr_star", level)


# -- schedulers ------------------------------------------------------------------------------------


def level_of(at, t):
    """The log-SNR of a timestep, and that it belongs to the levels of sample and input."""
    level, seen = at.level(at.ratio_at(t)), at.seen_level(t)
    if math.isfinite(level.log_snr):
        assert level.log_snr == pytest.approx(seen.log_snr, rel=1e-9, abs=1e-9)
    return seen.log_snr


@cases(150)
@given(schedulers(), st.floats(0, 1), st.floats(0, 1))
def test_the_timesteps_of_a_scheduler_have_levels_and_levels_have_timesteps(made_by, one, other):
    base, _ = made_by
    at = convention_of(base)
    clean, noisy = timestep_range(base)
    event(type(at).__name__)
    nearer, further = sorted([one, other])
    times = [clean + share * (noisy - clean) for share in (nearer, further)]
    if at.table is not None:
        times = [float(round(t)) for t in times]
    levels = [timestep_log_snr(base, t) for t in times]
    assert levels == [level_of(at, t) for t in times]
    assert levels[0] >= levels[1] - 1e-9
    for t, level in zip(times, levels, strict=True):
        if abs(level) > FAR:
            continue
        ratio = math.exp(-level / 2)
        again = at.timestep_at(ratio)
        if at.table is not None:
            near = abs(2 * math.log(at.ratio_at(again) / ratio))
            assert near <= 1e-9, (again, t)
        else:
            # Eight digits of a time are those of a sigma, but where a flow's share is nearly one.
            assert at.ratio_at(again) == pytest.approx(ratio, rel=1e-6)
            if type(base).__name__ != "DDPMWuerstchenScheduler":  # whose ends are clamped
                assert again == pytest.approx(t, rel=1e-6, abs=1e-6 * abs(noisy - clean))


@cases(100)
@given(schedulers(), st.floats(-20, 20))
def test_t_star_of_a_scheduler_against_a_scan_of_its_path(made_by, star):
    base, _ = made_by
    clean, noisy = timestep_range(base)
    at = convention_of(base)
    if at.table is not None:
        abar = base.alphas_cumprod.double()
        levels = (abar / (1 - abar)).log().tolist()
        scanned = list(range(len(levels)))
    else:
        shares = torch.linspace(0, 1, 301).double()
        scanned = (clean + (noisy - clean) * shares).clamp(*sorted([clean, noisy])).tolist()
        levels = [timestep_log_snr(base, t) for t in scanned]
    assume(all(abs(level - star - 1e-5) > 1e-8 for level in levels))
    beyond = [k for k, level in enumerate(levels) if level <= star + 1e-5]
    event(type(at).__name__)
    if not beyond:
        with pytest.raises(TruncationError, match="is never reached by"):
            t_star(base, star)
        return
    found = t_star(base, star)
    first = scanned[beyond[0]]
    if at.table is not None:
        assert found == first
        if "FlowMatch" not in type(base).__name__:
            expected = torch.arange(int(first) + 1)
            assert torch.equal(training_timesteps(base, star), expected)
        return
    step = abs(noisy - clean) / 300
    assert abs(found - first) <= step * (1 + 1e-6)
    if beyond[0]:
        assert timestep_log_snr(base, found) == pytest.approx(star, abs=1e-5 + 1e-6)


@cases(40)
@given(
    schedulers(("DDPMScheduler", "DDIMScheduler", "EulerDiscreteScheduler", "LCMScheduler")),
    st.floats(0.05, 0.95),
    st.integers(2, 60),
)
def test_a_training_table_is_the_beginning_of_the_bases(made_by, share, count):
    base, _ = made_by
    ratios = convention_of(base).table
    assume(ratios is not None and bool((ratios.diff() > 0).all()))
    levels = log_snr(ratios).numpy()
    place = share * (len(levels) - 1)
    low = math.floor(place)
    star = float(levels[low] + (place - low) * (levels[low + 1] - levels[low]))
    assume(math.isfinite(star) and place / (count - 1) > 0.2)
    table = training_scheduler(base, star, count)
    assert table.config.num_train_timesteps == count
    made = log_snr(convention_of(table).table)
    times = torch.arange(count, dtype=torch.float64) / (count - 1) * place
    below = times.floor().long().clamp(max=len(levels) - 2)
    whole = torch.from_numpy(levels)
    expected = torch.lerp(whole[below], whole[below + 1], times - below)
    # `1 - beta` is kept in float32: 2^-24 of a level of log-SNR l is 2^-24 (1 + e^l)
    abar = expected.sigmoid()  # and of one step from abar to abar' it is 2^-24 abar / abar'
    step = torch.cat([torch.ones(1), abar[:-1]]) / abar
    slack = 2e-7 * (1 + expected.exp() + step) + 1e-6
    assert bool(((made - expected).abs() <= slack).all())
    assert float(made[-1]) <= star


# -- what a batch draws ----------------------------------------------------------------------------


@cases(60)
@given(st.integers(1, 40), st.integers(0, 2**31), st.booleans(), st.integers(1, 50))
def test_the_uniforms_of_a_batch(batch_size, seed, stratified, n_entries):
    made = batch_uniforms(batch_size, torch.Generator().manual_seed(seed), stratified)
    assert made.shape == (batch_size,)
    assert made.dtype == torch.float64
    assert bool(((made >= 0) & (made < 1)).all())
    if stratified:  # one in each share of the interval, whose places differ by equal steps
        assert sorted((made * batch_size).floor().tolist()) == list(range(batch_size)) or (
            torch.allclose(made.sort().values.diff(), torch.tensor(1 / batch_size).double())
        )
        offset = torch.rand(1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        expected = (offset + torch.arange(batch_size).double() / batch_size) % 1
        torch.testing.assert_close(made, expected, rtol=0, atol=1e-15)
    table = torch.arange(n_entries) * 7
    assert entries(table, made).tolist() == [7 * int(u * n_entries) for u in made.tolist()]
    assert entries(table, torch.ones(1)).tolist() == [7 * (n_entries - 1)]


@cases(40)
@given(st.floats(-15, 15), st.sampled_from([50, 1000]), st.booleans())
def test_t_star_under_every_named_schedule(star, n_steps, discrete):
    listed = starts(star, n_steps, discrete)
    assert [one.schedule for one in listed] == [
        name for name in NAMED_PATHS if name.startswith("flow") or not discrete
    ]
    for one in listed:
        path = named_path(one.schedule, n_steps)
        try:
            t = path.first_time(star)
        except TruncationError:
            assert (one.value, one.share, one.text) == (None, None, "never that noisy")
            assert one.share_text == "–"
            continue
        if path.n_steps:
            assert (one.kind, one.value, one.share) == ("timestep", round(t * path.n_steps), t)
            assert one.text == f"timestep {one.value}"
        elif one.schedule.startswith("flow"):
            assert (one.kind, one.value, one.share) == ("time", t, t)
            assert one.text == f"s = {t:.3f}"
        else:
            assert (one.kind, one.share) == ("sigma", None)
            assert one.value == pytest.approx(max(math.exp(-star / 2), 0.002), rel=1e-9)
            assert one.text == f"sigma = {one.value:.3f}"
        if one.share is not None:
            assert one.share_text == f"{100 * t:.0f} %"


@cases(60)
@given(st.lists(st.floats(0.01, 3), min_size=2, max_size=6), st.data())
def test_tables_that_do_not_fall_are_refused(gaps, data):
    levels = -torch.tensor(gaps, dtype=torch.float64).cumsum(0)
    place = data.draw(st.integers(0, len(gaps) - 2))
    levels[place + 1] = levels[place] + data.draw(st.floats(0, 2))
    with pytest.raises(DataError, match=f"does not fall from node {place} "):
        TabulatedPath(levels.sigmoid().sqrt(), (-levels).sigmoid().sqrt())
