"""The choice of t* on random curves, against a rule that is written out level by level."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st
from properties.cases import cases
from scipy.optimize import brentq
from scipy.special import rel_entr

from gaga_adapter.criteria import CriterionCurve
from gaga_adapter.criteria.contributions import Contributions
from gaga_adapter.errors import ArtefactError, TruncationError
from gaga_adapter.selection import (
    DEFAULT_TOLERANCES,
    CurveRow,
    Selection,
    bootstrap,
    check_tolerance,
    curve_rows,
    first_that_holds,
    noisiest,
    select,
    select_by_size,
    threshold,
    upper_limits,
    worst_share,
)

NAN = math.nan


@st.composite
def curves(draw, units=("nats", "p-value")):
    unit = draw(st.sampled_from(units))
    n = draw(st.integers(1, 9))
    gaps = draw(st.lists(st.floats(0.1, 3), min_size=n, max_size=n))
    top = draw(st.floats(-5, 10))
    levels = [top - sum(gaps[:k]) for k in range(n)]
    number = st.floats(-0.5, 3) if unit == "nats" else st.floats(0, 1)
    value = draw(st.lists(st.one_of(number, st.just(NAN)), min_size=n, max_size=n))
    error = st.floats(0, 0.4) if unit == "nats" else st.just(0.0)
    errors = [NAN if math.isnan(v) else draw(error) for v in value]
    return CriterionCurve(
        criterion=draw(st.sampled_from(["two_sample", "cumulant", "ks_mi"])),
        reference="shape",
        unit=unit,
        log_snr=tuple(levels),
        value=tuple(value),
        std_error=tuple(errors),
        n_samples=draw(st.integers(1, 10**6)),
    )


def curve(value, unit="nats"):
    levels = tuple(float(-k) for k in range(len(value)))
    errors = tuple(0.0 for _ in value)
    return CriterionCurve("two_sample", "shape", unit, levels, tuple(value), errors, 100)


def by_hand(one, tolerance, consecutive):
    """The first level that holds and whose followers hold; `None` if there is none."""
    n = len(one.log_snr)

    def holds(k):
        if math.isnan(one.value[k]):
            return False
        if one.unit == "nats":
            return one.value[k] + 2 * one.std_error[k] <= tolerance
        return one.value[k] + 2 * one.std_error[k] >= tolerance / n

    for k in range(n):
        last = n - 1 if consecutive is None else k + consecutive - 1
        if last < n and all(holds(i) for i in range(k, last + 1)):
            return k
    return None


@cases(150)
@given(curves(), st.floats(0.01, 0.99), st.one_of(st.none(), st.integers(1, 9)))
@example(curve([2.0, 0.5, 0.0]), 0.5, None)
@example(curve([0.1, 0.25, 0.9, 0.7], "p-value"), 0.8, 2)
@example(curve([0.2, 0.8, 0.9], "p-value"), 0.6, None)
def test_the_choice_against_the_rule_level_by_level(one, tolerance, consecutive):
    assume(consecutive is None or consecutive <= len(one.log_snr))
    first = by_hand(one, tolerance, consecutive)
    limit = tolerance if one.unit == "nats" else tolerance / len(one.log_snr)
    assert threshold(one, tolerance) == limit
    upper = upper_limits(one.value, one.std_error)
    assert first_that_holds(upper, limit, one.unit, consecutive) == first
    if first is None:
        with pytest.raises(TruncationError, match=r"there is nothing to choose|does not stay"):
            select(one, tolerance, consecutive)
        return
    chosen = select(one, tolerance, consecutive)
    star, levels = chosen.log_snr_star, one.log_snr
    assert (chosen.tolerance, chosen.curve) == (tolerance, one)
    assert chosen.first_level == pytest.approx(levels[first], abs=1e-12)
    if first == 0 or one.unit == "p-value" or math.isnan(one.value[first - 1]):
        assert star == levels[first]
    else:
        assert levels[first] <= star <= levels[first - 1]
        # the line through both upper limits is at the tolerance
        high, low = upper[first - 1], upper[first]
        share = (star - levels[first]) / (levels[first - 1] - levels[first])
        assert low + share * (high - low) == pytest.approx(tolerance, rel=1e-9, abs=1e-9)
    words = f"{one.criterion} + 2 s.e. <= {limit:g} nats" if one.unit == "nats" else (
        f"p-value of {one.criterion} >= {limit:.2g}"
    )  # fmt: skip
    assert chosen.reason.startswith(words)
    assert ("whole curve" in chosen.reason) == (first == 0)
    if first:
        before = one.value[first - 1]
        told = "not computable" if math.isnan(before) else f"{upper[first - 1]:.3g} {one.unit}"
        assert f"at log-SNR {levels[first - 1]:.3g} it is {told}; " in chosen.reason
    columns = zip(curve_rows(one, star), levels, one.value, one.std_error, strict=True)
    for row, level, value, error in columns:
        assert isinstance(row, CurveRow)
        assert row.std_error == error or math.isnan(error)
        assert row.log_snr == level
        assert row.value == value or math.isnan(value)
        assert row.is_gaussian == (level <= star + 1e-9)
    assert not any(row.is_gaussian for row in curve_rows(one, None))


@cases(60)
@given(curves(("nats",)), st.floats(0.02, 1), st.floats(1, 3), st.floats(0, 1))
def test_a_looser_tolerance_and_smaller_errors_never_move_t_star_to_noise(one, t, wider, smaller):
    strict = by_hand(one, t, None)
    assume(strict is not None)
    star = select(one, t).log_snr_star
    assert select(one, t * wider).log_snr_star >= star - 1e-12
    sharp = replace(one, std_error=tuple(error * smaller for error in one.std_error))
    assert select(sharp, t).log_snr_star >= star - 1e-12


@cases(60)
@given(curves(), st.floats(0.01, 0.99), st.data())
def test_a_selection_goes_through_json_to_the_last_bit(one, tolerance, data):
    assume(by_hand(one, tolerance, None) is not None)
    chosen = select(one, tolerance)
    number = st.floats(-59, 59)
    whole = Selection(
        chosen.log_snr_star,
        chosen.tolerance,
        chosen.curve,
        chosen.reason,
        tuple(sorted(data.draw(st.tuples(number, number)))),
        data.draw(st.dictionaries(st.integers(1, 10**6), number, max_size=3)),
        data.draw(
            st.dictionaries(
                st.integers(1, 10**9),
                st.tuples(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6)),
                max_size=3,
            )
        ),
        data.draw(st.dictionaries(st.sampled_from(["a", "ks_mi"]), number, max_size=2)),
    )
    text = json.dumps(whole.to_dict())
    again = Selection.from_dict(json.loads(text))
    assert json.dumps(again.to_dict()) == text
    assert (again.interval, again.by_size) == (whole.interval, dict(whole.by_size))
    assert (again.by_items, again.others) == (dict(whole.by_items), dict(whole.others))
    key = data.draw(st.sampled_from(["interval", "by_size", "by_items", "others"]))
    wrong = {
        "interval": [[1.0, -1.0], [0.0], [0.0, 1.0, 2.0], [-61.0, 0.0], [0.0, 60.5]],
        "by_size": [{"0": 1.0}, {"01": 1.0}, {"1": 60.5}, {"1" * 10: 1.0}, {"x": 0.0}, {"": 0.0}],
        "by_items": [{"0": [1.0, 0.1]}, {"1": [1.0]}, {"1": [2e15, 0.1]}, {"1" * 13: [1.0, 0.1]}],
        "others": [{"a": 60.5}, {"a": -61.0}, {"a": "0"}],
    }[key]
    for entry in wrong:
        with pytest.raises(ArtefactError, match=key if key != "others" else "a"):
            Selection.from_dict(json.loads(text) | {key: entry})
    last, first = one.log_snr[-1], one.log_snr[0]
    for star in (last - 1e-3, first + 1e-3):
        with pytest.raises(ArtefactError, match="log_snr_star"):
            Selection.from_dict(json.loads(text) | {"log_snr_star": star})
    for tolerance in (0, -1.0, 2e15, *((1.0,) if one.unit == "p-value" else ())):
        with pytest.raises(ArtefactError, match="tolerance"):
            Selection.from_dict(json.loads(text) | {"tolerance": tolerance})


@cases(100)
@given(st.floats(0, 1), st.floats(0, 8))
@example(1.0, 0.5)
@example(0.0, 0.5)
@example(0.66, 0.5)
def test_the_worst_share_against_a_root_of_scipy(share, nats):
    def apart(q):
        return float(rel_entr(share, q) + rel_entr(1 - share, 1 - q)) - nats

    worst = worst_share(share, nats)
    assert 0 <= worst <= share
    if share > 1e-6 and nats > 1e-6:
        root = brentq(apart, 1e-300, share) if apart(1e-300) > 0 else 0.0
        assert worst == pytest.approx(root, abs=1e-9)
        assert share == 1 or apart(worst * (1 + 1e-9) + 1e-12) <= 1e-6


@cases(60)
@given(st.dictionaries(st.text("abc", min_size=1, max_size=3), st.floats(-9, 9), min_size=1))
def test_the_noisiest_of_several(stars):
    one = curve([0.1, 0.0])
    chosen = noisiest({name: Selection(star, 0.5, one, name) for name, star in stars.items()})
    assert chosen.log_snr_star == min(stars.values())
    assert chosen.others == {n: s for n, s in stars.items() if n != chosen.reason}


@cases(60)
@given(st.sampled_from(["nats", "p-value"]), st.floats(-2, 2))
@example("p-value", 1.0)
@example("p-value", 0.0)
@example("nats", 1.0)
@example("nats", math.inf)
def test_tolerances_of_both_units(unit, tolerance):
    assert check_tolerance(None, unit) == DEFAULT_TOLERANCES[unit]
    if 0 < tolerance < (1 if unit == "p-value" else math.inf):
        assert check_tolerance(tolerance, unit) == tolerance
    else:
        with pytest.raises(TruncationError, match="it must be positive and"):
            check_tolerance(tolerance, unit)


@st.composite
def parts(draw, sizes):
    """Rows of contributions, some of them of weight 2, that fall towards noise."""
    n = draw(st.integers(30, 60))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    noise = torch.randn(n, 1, generator=generator, dtype=torch.float64)
    size = torch.randint(3, 9, (n,), generator=generator) if sizes else None
    weight = 1 + torch.randint(2, (n,), generator=generator).double()
    levels = torch.arange(6, dtype=torch.float64)
    made = Contributions(1.5 - 0.5 * levels + draw(st.floats(0, 2)) * noise, weight, size)
    value, error = made.value_and_error("nats")
    one = curve(value.tolist())
    return replace(one, std_error=tuple(error.tolist()), contributions=made)


@cases(25)
@given(parts(sizes=False), st.integers(0, 2**31), st.sampled_from([20, 21, 50]))
def test_the_interval_against_resamples_one_by_one(one, seed, n):
    stars, generator = [], torch.Generator().manual_seed(seed)
    for _ in range(n):
        resampled = one.of_rows(one.contributions.resample(generator))
        first = by_hand(resampled, 0.5, None)
        stars.append(one.log_snr[-1] if first is None else select(resampled, 0.5).log_snr_star)
    expected = np.quantile(stars, [0.05, 0.95])
    again = bootstrap(one, 0.5, n, torch.Generator().manual_seed(seed))
    assert again == pytest.approx(tuple(expected), abs=1e-12)
    with pytest.raises(TruncationError, match="n_replicates=19"):
        bootstrap(one, 0.5, 19)


@cases(40)
@given(parts(sizes=True), st.integers(1, 70), st.floats(0.3, 2))
def test_the_choice_per_size_against_windows_one_by_one(one, least, tolerance):
    size, weight = one.contributions.size, one.contributions.weight
    expected = {}
    for n in sorted(set(size.tolist())):
        radius = 0
        while weight[(size - n).abs() <= radius].sum() < least and radius < 5:
            radius += 1
        radius = min(radius, int((size - n).abs().max()))
        window = one.of_rows((size - n).abs() <= radius)
        if by_hand(window, tolerance, None) is None:
            words = (
                rf"molecules of {n} atoms \(with those of {radius} more or fewer\): .*={2 * least}"
            )
            with pytest.raises(TruncationError, match=words):
                select_by_size(one, tolerance, least)
            return
        expected[n] = select(window, tolerance).log_snr_star
    assert select_by_size(one, tolerance, least) == expected


# -- words, and what stands at the edges -----------------------------------------------------------


def test_what_a_choice_claims_word_by_word():
    bound = replace(select(curve([2.0, 0.3, 0.1]), 0.5), by_items={500: (0.2, 0.04)})
    whole = (
        "The values are lower bounds at 100 items: more items would find more, and the divergence "
        "at t* may exceed 0.5 nats. 0.5 nats allow a share of good samples of 66 % to fall to 20 % "
        "at worst: compare samples from t* with those of the full path."
    )
    assert bound.meaning == whole
    two = replace(bound, by_items={500: (0.2, 0.04), 1000: (0.3, 0.03)})
    steps = " At log-SNR -1 it is 0.20 ± 0.04 at 500, 0.30 ± 0.03 at 1,000 items."
    assert two.meaning == whole.replace(" 0.5 nats allow", f"{steps} 0.5 nats allow")
    others = replace(bound, others={"certificate": -0.5, "a": 1.0})
    more = " It is the noisiest choice; the others are -0.5 by certificate, 1 by a."
    assert others.meaning == whole.replace(" 0.5 nats allow", f"{more} 0.5 nats allow")
    estimate = replace(bound, curve=replace(bound.curve, criterion="cumulant"))
    assert estimate.meaning == "The values are estimates, not bounds. " + whole.partition(". ")[2]
    close = replace(bound, tolerance=1e-4)  # whose share is 65.33 %
    assert " a share of good samples of 66 % to fall to 65 % at worst: " in close.meaning
    told = "A p-value says whether data can be told from the start, not how far they are."
    assert select(curve([0.0, 0.6], "p-value")).meaning == told


def test_the_first_level_of_a_choice():
    one = curve([2.0, 1.0, 0.0])
    for star, level in ((0.0, 0.0), (-1.0, -1.0), (-1.0 - 1e-10, -1.0), (-0.5, -1.0), (-9.0, -2.0)):
        assert Selection(star, 0.5, one, "drawn").first_level == level


def test_a_curve_that_holds_from_its_first_level_on_says_so():
    assert select(curve([0.3, 0.1]), 0.5).reason == (
        "two_sample + 2 s.e. <= 0.5 nats on the whole curve; its first level was taken, levels "
        "nearer to the data may hold too"
    )


def test_the_rule_counts_in_nats_and_refuses_unequal_columns():
    assert first_that_holds([2.0, 0.1, 0.2], 0.5) == 1
    with pytest.raises(ValueError, match="zip"):
        upper_limits([1.0, 0.5], [0.1])


def test_the_edges_of_what_is_read():
    data = select(curve([2.0, 0.3, 0.1]), 0.5).to_dict()
    for star in (0.0, -2.0, 0.9e-5, -2.0 - 0.9e-5):
        assert Selection.from_dict(data | {"log_snr_star": star}).log_snr_star == star
    assert Selection.from_dict(data | {"interval": [-1.0, -1.0]}).interval == (-1.0, -1.0)
    for tolerance in (3.0, 1e15):  # nats have no upper limit that anybody meets
        assert Selection.from_dict(data | {"tolerance": tolerance}).tolerance == tolerance
    without = {k: v for k, v in data.items() if k != "others"}
    assert Selection.from_dict(without).others == {}
    missing = {k: v for k, v in data.items() if k != "reason"}
    with pytest.raises(ArtefactError, match="the selection"):
        Selection.from_dict(missing)
    for counts in ({"1": [1.0]}, {"x": [1.0, 0.1]}, {"9" * 13: [1.0, 0.1]}):
        with pytest.raises(ArtefactError, match="by_items"):
            Selection.from_dict(data | {"by_items": counts})


def test_the_noisiest_is_no_matter_of_names():
    one, two = (Selection(star, 0.5, curve([0.1]), "drawn") for star in (1.0, -1.0))
    assert noisiest({"a": one, "b": two}).log_snr_star == -1.0
    assert noisiest({"a": two, "b": one}).log_snr_star == -1.0
