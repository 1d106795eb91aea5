"""A wrapped scheduler starts at t*, and its samples have the law that those of full runs have."""

from __future__ import annotations

import math

from gaga_adapter.noise.conventions import convention_of
from gaga_adapter.noise.timesteps import t_star, timestep_log_snr
from gaga_adapter.testing.scheduler.case import LOG_SNR_STAR, SchedulerCase

SHARES = (0.2, 0.4, 0.7)
#: Share of its error that a full run may keep in three times as many steps. Of diffusers' classes
#: that reach the data, TCD keeps most, 0.64; solvers of first order keep a third.
KEPT = 2 / 3
#: Options that change predictions which lie outside of [-1, 1], as the data of the checks do.
CLIPS = ("clip_sample", "thresholding")


def t_star_is_the_first_timestep_at_or_beyond_the_level(case: SchedulerCase) -> None:
    """No timestep closer to the data is as noisy as the fitted level."""
    scheduler = case.bare()
    found = t_star(scheduler, LOG_SNR_STAR)
    level = timestep_log_snr(scheduler, found)
    assert level <= LOG_SNR_STAR + 1e-9
    if isinstance(found, int):
        assert timestep_log_snr(scheduler, found - 1) > LOG_SNR_STAR
    else:
        assert abs(level - LOG_SNR_STAR) <= 1e-6
    assert case.wrapped().t_star == case.stats().t_star(scheduler) == found


def a_run_starts_at_or_beyond_t_star(case: SchedulerCase) -> None:
    """The first level is at least as noisy as t*, or the noisiest of the scheduler's own grid."""
    whole = case.bare()
    case.run(whole)
    most = float(convention_of(whole).grid()[0])
    for share in SHARES:
        for spacing in ("suffix", "respace"):
            wrapped = case.wrapped(share=share, spacing=spacing)
            case.run(wrapped)
            first = float(convention_of(wrapped).grid()[0])
            ratio = math.exp(-timestep_log_snr(case.bare(), wrapped.t_star) / 2)
            assert first >= min(ratio, most) * (1 - 1e-5), (share, spacing)


def cut_runs_call_the_network_less_often_and_respaced_ones_as_often(case: SchedulerCase) -> None:
    """`suffix` saves calls, `respace` keeps their number, and `n_calls` says how many they are."""
    full = case.run(case.bare()).n_calls
    for spacing in ("suffix", "respace"):
        wrapped = case.wrapped(share=0.4, spacing=spacing)
        n_calls = case.run(wrapped).n_calls
        assert n_calls == wrapped.n_calls, spacing
        assert n_calls < full if spacing == "suffix" else n_calls == full, spacing


def fine_full_runs_end_at_the_data(case: SchedulerCase) -> None:
    """The error falls with the steps, so the levels that are read off are those stepped between."""
    coarse, fine = (
        case.error(case.run(case.bare(), case.n_rows, times * case.n_steps).sample)
        for times in (1, 3)
    )
    config = getattr(case.scheduler, "config", {})
    clips = [f"{name}=True" for name in CLIPS if config.get(name)]
    cause = (
        f"It has {' and '.join(clips)}, which changes predictions outside of [-1, 1], where these "
        "data lie: check it without"
        if clips
        else "A scheduler whose last step leaves from a noisy level needs "
        "`SchedulerCase(..., remains=...)`; another one steps between other levels than it tells"
    )
    assert fine <= max(KEPT * coarse, case.remains) + case.chance, (
        f"a full run ends {coarse:.3f} standard deviations from the data in {case.n_steps} steps, "
        f"and {fine:.3f} in {3 * case.n_steps}. {cause}."
    )


def truncated_runs_end_as_near_the_data_as_full_ones(case: SchedulerCase) -> None:
    """Means and spreads, for three places of t*; a false alarm in 1e5 runs."""
    full = case.error(case.run(case.bare(), case.n_rows).sample)
    for share in SHARES:
        for spacing in ("suffix", "respace"):
            wrapped = case.wrapped(share=share, spacing=spacing)
            error = case.error(case.run(wrapped, case.n_rows).sample)
            assert error <= full + case.tolerance + case.chance, (
                f"from {share:.0%} of the path ({spacing}) a run ends {error:.3f} standard "
                f"deviations from the data, a full run {full:.3f}"
            )
