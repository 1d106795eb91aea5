"""From a curve to log_snr_star: the rule at its edges, and the JSON forms."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import rel_entr

from gaga_adapter.criteria import CriterionCurve
from gaga_adapter.criteria.contributions import Contributions
from gaga_adapter.errors import ArtefactError, DataError, GAGAError, GAGAWarning, TruncationError
from gaga_adapter.selection import (
    DEFAULT_TOLERANCE,
    DEFAULT_TOLERANCES,
    MARGIN,
    Selection,
    bootstrap,
    noisiest,
    right_guesses,
    select,
    select_by_size,
    warn_of_condition,
    worst_share,
)

NAN = math.nan


def curve(value, std_error=None, log_snr=None, **changes):
    value = tuple(map(float, value))
    made = CriterionCurve(
        criterion="two_sample",
        reference="shape",
        unit="nats",
        log_snr=tuple(log_snr or (float(-k) for k in range(len(value)))),
        value=value,
        std_error=tuple(std_error or (0.0 for _ in value)),
        n_samples=4000,
    )
    return replace(made, **changes)


# ------------------------------------------------------------------------------------- the rule


def test_the_crossing_is_found_on_the_line_between_levels():
    assert select(curve([2.0, 1.0, 0.0]), 0.25).log_snr_star == pytest.approx(-1.75)


def test_a_level_exactly_at_the_tolerance_holds():
    assert select(curve([2.0, 1.0, 0.5, 0.0]), 0.5).log_snr_star == -2.0


def test_standard_errors_count_against():
    sharp = curve([1.0, 0.4, 0.0])
    blurred = replace(sharp, std_error=(0.05, 0.1, 0.0))
    assert select(sharp, 0.5).log_snr_star == pytest.approx(-1 + 0.1 / 0.6)
    # upper limits 1.1, 0.6, 0: the level at -1 no longer holds
    assert select(blurred, 0.5).log_snr_star == pytest.approx(-2 + 0.5 / (0.4 + MARGIN * 0.1))


def test_one_lucky_level_does_not_count():
    assert select(curve([2.0, 0.1, 2.0, 0.0]), 0.5).log_snr_star == pytest.approx(-3 + 0.25)


def test_on_a_convex_curve_the_choice_is_on_the_side_of_noise():
    levels = [2.5 - 0.5 * k for k in range(13)]
    chosen = select(curve([math.exp(level) for level in levels], log_snr=levels), 0.5)
    assert math.log(0.5) - 0.1 < chosen.log_snr_star < math.log(0.5)


def test_everything_holds_takes_the_first_level_and_says_so():
    chosen = select(curve([0.3, 0.1, 0.0]), 0.5)
    assert chosen.log_snr_star == 0.0
    assert "whole curve" in chosen.reason


def test_values_that_were_not_computed_never_hold():
    chosen = select(curve([0.1, NAN, 0.2, 0.0], [0.0, NAN, 0.0, 0.0]), 0.5)
    assert chosen.log_snr_star == -2.0
    assert "at log-SNR -1 it is not computable" in chosen.reason
    half_known = curve([0.1, 0.2, 0.0], [0.0, NAN, 0.0])
    assert select(half_known, 0.5).log_snr_star == -2.0
    with pytest.raises(TruncationError, match="could not be computed at any level"):
        select(curve([NAN, NAN]), 0.5)


def test_never_holding_names_the_smallest_value_and_what_to_do():
    message = (
        r"does not stay within 0\.5 nats up to the noisiest level \(log-SNR -2\)\. "
        r"The smallest value is 0\.6 ± 0\.1 nats at log-SNR -1\. Extend the curve towards noise, "
        r"choose a richer reference, or raise the tolerance\.$"
    )
    with pytest.raises(TruncationError, match=message):
        select(curve([2.0, 0.6, 0.7], [0.1, 0.1, 0.1]), 0.5)


def test_a_noisiest_level_that_fails_is_never_gaussian():
    with pytest.raises(TruncationError, match=r"smallest value is 0\.1"):
        select(curve([2.0, 0.1, 0.6]), 0.5)


@pytest.mark.parametrize("tolerance", [0.0, -1.0, NAN, math.inf])
def test_tolerances_are_positive(tolerance):
    with pytest.raises(TruncationError, match="positive and finite"):
        select(curve([0.0]), tolerance)


def test_the_default_puts_the_design_curve_near_t_500():
    """The `shape` column that was measured on QM9, at the log-SNR of polynomial_2."""
    from gaga_adapter.noise.paths import named_path

    path = named_path("edm/polynomial_2")
    levels = [float(path.log_snr(t / 1000)) for t in (400, 500, 550, 600, 700)]
    chosen = select(curve([1.07, 0.50, 0.35, 0.22, 0.06], log_snr=levels))
    assert chosen.tolerance == DEFAULT_TOLERANCE
    assert 1000 * float(path.time_at_log_snr(chosen.log_snr_star)) == pytest.approx(500, abs=1)


# ------------------------------------------------------------------------------------- p-values


def test_p_values_hold_from_the_tolerance_up_and_are_not_interpolated():
    made = curve([0.0, 0.01, 0.05, 0.6], unit="p-value")
    assert select(made).log_snr_star == -2.0  # 0.05 over 4 levels is 0.0125 for each
    assert select(made).tolerance == DEFAULT_TOLERANCES["p-value"] == 0.05
    assert select(made, 0.3).log_snr_star == -3.0
    assert select(made, 0.001).log_snr_star == -1.0


@pytest.mark.parametrize("n_levels", [4, 11, 12])
@pytest.mark.parametrize("tolerance", [0.05, 0.3])
def test_a_p_value_exactly_at_its_share_of_the_rate_holds(tolerance, n_levels):
    """A level fails at a p-value below its share: by chance no more often than the share says."""
    share = tolerance / n_levels
    at, below = (
        [0.0, value, *[0.9] * (n_levels - 2)] for value in (share, math.nextafter(share, 0))
    )
    assert select(curve(at, unit="p-value"), tolerance).log_snr_star == -1.0
    assert select(curve(below, unit="p-value"), tolerance).log_snr_star == -2.0


def test_gaussian_data_fail_on_some_level_as_rarely_as_the_tolerance_says():
    """2,000 curves of 12 uniform p-values: 5 % of them, give or take 4.9 binomial errors."""
    values = torch.rand(2000, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    failed = 0
    for row in values.tolist():
        try:
            failed += select(curve(row, unit="p-value")).log_snr_star < 0
        except TruncationError:
            failed += 1
    expected = 1 - (1 - 0.05 / 12) ** 12
    assert abs(failed / 2000 - expected) < 4.9 * math.sqrt(expected * (1 - expected) / 2000)


def test_a_p_value_that_was_not_computed_never_holds():
    assert select(curve([0.9, NAN, 0.9], unit="p-value")).log_snr_star == -2.0
    with pytest.raises(TruncationError, match="could not be computed at any level"):
        select(curve([NAN, NAN], unit="p-value"))


def test_p_values_that_never_hold_name_the_largest():
    message = (
        r"largest p-value is 0\.02 at log-SNR -1\. Extend the curve towards noise, choose a richer "
        r"reference, or choose in nats: p-values fall with the sample size\.$"
    )
    with pytest.raises(TruncationError, match=message):
        select(curve([0.01, 0.02], unit="p-value"))


def test_tolerances_of_p_values_lie_below_one():
    with pytest.raises(TruncationError, match=r"tolerance=1.5 p-value: .* below 1, such as 0.05"):
        select(curve([0.5], unit="p-value"), 1.5)


# ---------------------------------------------------------------------------- so many in a row


def test_the_published_rule_takes_two_in_a_row_from_the_data():
    made = curve([2.0, 0.1, 2.0, 0.1, 0.1, 2.0, 0.1])
    assert select(made, 0.5).log_snr_star == pytest.approx(-6 + 0.4 / 1.9)
    assert select(made, 0.5, consecutive=1).log_snr_star == pytest.approx(-1 + 0.4 / 1.9)
    assert select(made, 0.5, consecutive=2).log_snr_star == pytest.approx(-3 + 0.4 / 1.9)
    with pytest.raises(TruncationError, match="does not stay"):
        select(made, 0.5, consecutive=3)
    with pytest.raises(TruncationError, match="consecutive=8: the curve has 7 levels"):
        select(made, 0.5, consecutive=8)


# ------------------------------------------------------------------------ intervals, and sizes


def noisy_line(n, seed=0, size=None, unit="nats"):
    """Rows around 1.6, 1.2, ..., 0 with standard deviation 2: the choice is near log-SNR -3."""
    levels = torch.arange(5, dtype=torch.float64)
    noise = torch.randn(n, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    parts = Contributions(1.6 - 0.4 * levels + 2 * noise, torch.ones(n).double(), size)
    value, error = parts.value_and_error(unit)
    return curve(value.tolist(), error.tolist(), contributions=parts, unit=unit)


def test_the_interval_holds_as_much_as_it_says():
    """120 data sets: the true crossing of value + 2 s.e. lies inside of 90 %, give or take 4.9."""
    truth = -(1.6 - 0.5 + MARGIN * 2 / math.sqrt(400)) / 0.4
    inside = 0
    for seed in range(120):
        low, high = bootstrap(noisy_line(400, seed), 0.5, 100, torch.Generator().manual_seed(seed))
        inside += low <= truth <= high
    assert abs(inside / 120 - 0.9) < 4.9 * math.sqrt(0.9 * 0.1 / 120)


def test_the_interval_is_a_function_of_the_generator_and_shrinks_with_the_data():
    few, many = (
        bootstrap(noisy_line(n), 0.5, 200, torch.Generator().manual_seed(1)) for n in (200, 20_000)
    )
    assert few == bootstrap(noisy_line(200), 0.5, 200, torch.Generator().manual_seed(1))
    assert few[0] < select(noisy_line(200), 0.5).log_snr_star < few[1]
    assert 0 < many[1] - many[0] < (few[1] - few[0]) / 3


def test_the_interval_is_that_of_the_tolerance():
    """At log-SNR 0, -1, ... the rows lie around 1.6, 1.2, ...: 1.3 nats are met near -1."""
    made = noisy_line(4000)
    loose, strict = (
        bootstrap(made, t, 60, torch.Generator().manual_seed(0)) for t in (1.3, DEFAULT_TOLERANCE)
    )
    assert strict[1] < -2.4 < -1.2 < loose[0] < select(made, 1.3).log_snr_star < loose[1] < -0.6


def test_a_window_that_never_holds_enough_is_all_of_the_data():
    """Even the one molecule that is further off than all others."""
    size = torch.tensor([3] * 59 + [8])
    made = noisy_line(60, size=size)
    everything = select(made.of_rows(torch.ones(60, dtype=torch.bool)), 1.0).log_snr_star
    assert select_by_size(made, 1.0, min_items=1000) == {3: everything, 8: everything}
    assert select(made.of_rows(size == 3), 1.0).log_snr_star - everything > 0.1


def test_resamples_that_never_hold_count_as_the_noisiest_level():
    low, high = bootstrap(noisy_line(30), 0.5, 100, torch.Generator().manual_seed(0))
    assert low == -4.0 < high


def test_every_size_has_its_own_choice():
    size = torch.arange(4, 8).repeat_interleave(500)
    parts = noisy_line(2000, size=size).contributions
    shifted = Contributions(
        parts.values + 0.2 * (size[:, None] - 4), parts.weight, size
    )  # half a level later per atom
    value, error = shifted.value_and_error("nats")
    made = curve([*value.tolist()], error.tolist(), contributions=shifted)
    with pytest.raises(TruncationError, match=r"molecules of 6 atoms .*min_items=800"):
        select_by_size(made, 0.5)
    found = select_by_size(replace(made, contributions=shifted.rows(size < 6)), 0.5)
    assert list(found) == [4, 5]
    for n_atoms, star in found.items():
        alone = select(made.of_rows(size == n_atoms), 0.5)
        assert star == alone.log_snr_star
        assert alone.curve.n_samples == 500
    assert found[5] < found[4] - 0.2
    # windows that hold both sizes give both the same
    pooled = replace(made, contributions=shifted.rows(size < 6))
    assert len(set(select_by_size(pooled, 0.9, min_items=700).values())) == 1


def test_curves_from_files_and_of_dense_data_have_no_such_parts():
    with pytest.raises(DataError, match="carries no contributions"):
        bootstrap(curve([1.0, 0.0]))
    with pytest.raises(DataError, match="needs molecules"):
        select_by_size(noisy_line(100))
    with pytest.raises(TruncationError, match="n_replicates=5"):
        bootstrap(noisy_line(100), n_replicates=5)
    for tolerance in (-1.0, math.nan):  # which no resample can meet
        with pytest.raises(TruncationError, match="positive and finite"):
            bootstrap(noisy_line(100), tolerance, 20)


# ------------------------------------------------------------------------------------- the forms


def test_selection_round_trips_through_json_exactly():
    third = 1 / 3
    extra = {"auc": (0.9, third, 0.5), "saturated": (0.0, 0.0, 0.0)}
    made = select(curve([2.0, third, 1e-17], [third, 1e-300, 0.0], extra=extra))
    text = json.dumps(made.to_dict(), allow_nan=False)
    assert Selection.from_dict(json.loads(text)) == made
    more = replace(made, interval=(-1.5, third), by_size={9: -1.0, 29: -third})
    text = json.dumps(more.to_dict(), allow_nan=False)
    assert Selection.from_dict(json.loads(text)) == more


def test_a_choice_says_what_it_is_not():
    bound = select(curve([1.0, 0.3, 0.1]), 0.5)
    assert "lower bounds at 4,000 items: more items would find more" in bound.meaning
    assert "may exceed 0.5 nats" in bound.meaning
    assert (
        "0.5 nats allow a share of good samples of 66 % to fall to 20 % at worst:" in bound.meaning
    )
    counted = replace(bound, by_items={250: (0.1, 0.05), 500: (0.2, 0.04), 1000: (0.3, 0.03)})
    assert "At log-SNR -1 it is 0.10 ± 0.05 at 250, 0.20 ± 0.04 at 500, 0.30" in counted.meaning
    estimate = replace(bound, curve=replace(bound.curve, criterion="cumulant"))
    assert "estimates, not bounds" in estimate.meaning
    assert "not how far" in select(curve([0.0, 0.6], unit="p-value")).meaning
    again = Selection.from_dict(json.loads(json.dumps(counted.to_dict())))
    assert again.by_items == counted.by_items


def test_the_largest_lower_bound_decides():
    low, high = select(curve([1.0, 0.3, 0.1]), 0.5), select(curve([2.0, 0.9, 0.4, 0.1]), 0.5)
    chosen = noisiest({"two_sample": low, "certificate": high})
    assert chosen.log_snr_star == high.log_snr_star < low.log_snr_star
    assert chosen.others == {"two_sample": low.log_snr_star}
    assert "noisiest choice; the others are" in chosen.meaning
    assert noisiest({"one": low}) == low
    assert Selection.from_dict(json.loads(json.dumps(chosen.to_dict()))).others == chosen.others


@pytest.mark.parametrize("share", [0.0, 0.05, 0.658, 0.95, 1.0])
@pytest.mark.parametrize("nats", [0.0, 0.05, 0.5, 3.0])
def test_the_worst_share_is_where_the_binary_divergence_is_the_nats(share, nats):
    """Against scipy's relative entropy; a share of 0 cannot fall, one of 1 falls to exp(-nats)."""
    worst = worst_share(share, nats)
    assert 0 <= worst <= share
    if share == 1:
        assert worst == pytest.approx(math.exp(-nats))
    elif share and nats:
        apart = rel_entr([share, 1 - share], [worst, 1 - worst]).sum()
        assert apart == pytest.approx(nats, rel=1e-6)
    else:
        assert worst == pytest.approx(share, abs=1e-6)
    assert worst_share(0.658, 0.5) == pytest.approx(0.1976, abs=1e-4)


def test_the_smallest_of_shares():
    """One that is so small that half of a half of it soon is zero."""
    assert 0 <= worst_share(1e-300, 0.5) <= 1e-300


@pytest.mark.parametrize(
    ("nats", "guesses"),
    [(0.0, 0.5), (0.02, 0.55), (0.5, 0.75), (2.0, 0.5 + 0.9298734950321937 / 2), (800.0, 1.0)],
)
def test_the_share_of_right_guesses(nats, guesses):
    """Half the square root of half the nats, until 1 - exp(-nats) is less than half of them."""
    assert right_guesses(nats) == pytest.approx(guesses, abs=1e-12, rel=0)


def test_an_artefact_of_an_older_version_reads_without_interval_and_sizes():
    data = select(curve([1.0, 0.0])).to_dict()
    del data["interval"], data["by_size"], data["by_items"], data["others"]
    again = Selection.from_dict(data)
    assert again.interval is None
    assert again.by_size == {}


def test_curve_with_unknown_values_round_trips_through_strict_json():
    made = curve([1.0, NAN, 0.0], [0.1, NAN, 0.0])
    text = json.dumps(made.to_dict(), allow_nan=False)
    again = CriterionCurve.from_dict(json.loads(text))
    assert math.isnan(again.value[1])
    assert math.isnan(again.std_error[1])
    assert again.to_dict() == made.to_dict()


def test_selections_that_are_no_selections():
    good = select(curve([1.0, 0.0])).to_dict()
    for broken in (
        {k: v for k, v in good.items() if k != "tolerance"},
        good | {"curve": good["curve"] | {"value": [1.0]}},
        good | {"curve": None},
        good | {"log_snr_star": None},
        good | {"curve": good["curve"] | {"extra": []}},
    ):
        with pytest.raises(ArtefactError, match=r"must be|not valid"):
            Selection.from_dict(broken)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"value": (1.0,)}, "columns of a curve have one length"),
        ({"extra": {"auc": ()}}, "auc 0"),
        ({"log_snr": (0.0, 0.0)}, "fall from data to noise"),
        ({"log_snr": (-1.0, 0.0)}, "fall from data to noise"),
        ({"log_snr": (math.inf, 0.0)}, "must be finite"),
        ({"log_snr": (NAN, 0.0)}, "must be finite"),
        ({"value": (math.inf, 0.0)}, "value holds an infinite number"),
        ({"std_error": (0.1, -0.1)}, "negative"),
        ({"unit": "bits"}, "unknown unit 'bits'. Known: nats, p-value"),
        ({"unit": "p-value", "value": (1.5, 0.0)}, "p-values lie in"),
        ({"contributions": Contributions.of_items(torch.zeros(4, 3), None)}, "3 levels, the curve"),
        ({"log_snr": (), "value": (), "std_error": ()}, "at least 1"),
    ],
)
def test_curves_that_are_no_curves(changes, message):
    with pytest.raises(DataError, match=message):
        replace(curve([1.0, 0.0]), **changes)


def test_errors_are_of_the_family():
    assert issubclass(TruncationError, GAGAError)


def test_a_condition_adds_its_mutual_information():
    """Gaussian x and c of correlation rho: E_c KL(p(x | c) || q) = KL(p(x) || q) + I(x; c)."""
    from torch.distributions import Normal, kl_divergence

    rho, start = 0.8, Normal(0.3, 1.4)
    nodes, weights = np.polynomial.hermite_e.hermegauss(20)
    given = Normal(torch.tensor(rho * nodes), (1 - rho**2) ** 0.5)
    average = float((kl_divergence(given, start) * torch.tensor(weights / weights.sum())).sum())
    alone = float(kl_divergence(Normal(0.0, 1.0), start))
    assert average == pytest.approx(alone - math.log(1 - rho**2) / 2, rel=1e-6)
    with pytest.warns(GAGAWarning, match="a pocket narrows what is to be sampled"):
        warn_of_condition("a pocket")
