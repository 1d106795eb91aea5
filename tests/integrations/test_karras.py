"""Lists of sigmas, cut at sigma*: against diffusers' schedulers and a Gaussian oracle."""

import math
from itertools import pairwise

import diffusers
import pytest
import torch
from gaga_adapter.integrations.karras import truncate_sigmas

from gaga_adapter import GAGAScheduler, GAGAStats, RigidTarget
from gaga_adapter.errors import ArtefactError, GAGAWarning, StatsMismatchError, TruncationError
from gaga_adapter.layout import DenseLayout, MoleculeLayout
from gaga_adapter.moments import DenseMoments, ExchangeableMoments
from gaga_adapter.subspace import project

MEAN = torch.tensor([0.5, -0.3, 1.0], dtype=torch.float64).reshape(3, 1, 1)
STD = torch.tensor([0.6, 0.2, 1.1], dtype=torch.float64).reshape(3, 1, 1)


def gaussian_stats(sigma_star=1.5):
    """Statistics with exactly this mean and variance: those of the two points mean ± std."""
    moments = DenseMoments((3, 1, 1), kind="channel")
    moments.update(torch.stack([MEAN - STD, MEAN + STD]))
    return GAGAStats(DenseLayout((3, 1, 1)), moments, -2 * math.log(sigma_star))


STATS = gaussian_stats()


def karras_list(n, high=80.0, low=0.002, rho=7.0):
    """Karras et al. 2022, Eq. 5, with the zero that ends it."""
    ramp = torch.linspace(0, 1, n, dtype=torch.float64)
    roots = high ** (1 / rho) + ramp * (low ** (1 / rho) - high ** (1 / rho))
    return torch.cat([roots**rho, torch.zeros(1, dtype=torch.float64)])


# -- the list --------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.* steps are left from t")  # on purpose
@pytest.mark.parametrize("n", [5, 18, 40])
@pytest.mark.parametrize("sigma_star", [0.05, 1.5, 30.0])
@pytest.mark.parametrize(
    "scheduler",
    [
        diffusers.EDMEulerScheduler(),
        diffusers.EDMEulerScheduler(sigma_schedule="exponential"),
        diffusers.EDMEulerScheduler(final_sigmas_type="sigma_min"),
        diffusers.EDMDPMSolverMultistepScheduler(),
    ],
)
def test_the_list_is_that_of_the_truncated_scheduler(scheduler, sigma_star, n):
    stats = gaussian_stats(sigma_star)
    truncated = GAGAScheduler.from_pretrained(scheduler, stats=stats, handover="init")
    truncated.set_timesteps(n, device="cpu")
    scheduler.set_timesteps(n)
    sigmas, start = truncate_sigmas(scheduler.sigmas, stats)
    assert torch.equal(sigmas, truncated.sigmas)
    assert start.sigma == float(truncated.sigmas[0]) >= sigma_star * (1 - 1e-5)
    noise = torch.randn(4, 3, 1, 1, generator=torch.Generator().manual_seed(0))
    assert torch.equal(start.transport(noise), noise * truncated.init_noise_sigma)


@pytest.mark.parametrize("sigma_star", [0.05, 1.5, 30.0])
def test_respacing_gives_a_list_of_the_same_kind(sigma_star):
    """Karras' list from sigma* on, exactly; and a geometric one where rho is large."""
    sigmas, start = truncate_sigmas(karras_list(20), gaussian_stats(sigma_star), "respace")
    torch.testing.assert_close(sigmas, karras_list(20, high=sigma_star), rtol=1e-9, atol=0)
    assert start.sigma == pytest.approx(sigma_star)
    geometric = torch.logspace(2, -2, 30, dtype=torch.float64)
    sigmas, _ = truncate_sigmas(geometric, gaussian_stats(sigma_star), "respace", rho=1e6)
    expected = torch.logspace(math.log10(sigma_star), -2, 30, dtype=torch.float64)
    torch.testing.assert_close(sigmas, expected, rtol=1e-4, atol=0)


def test_a_sigma_of_ones_own_needs_no_statistics():
    levels = karras_list(20)
    sigmas, start = truncate_sigmas(levels, sigma_star=1.5)
    assert torch.equal(sigmas, truncate_sigmas(levels, STATS)[0])
    noise = torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(start.transport(noise), noise * start.sigma)
    drawn = start.initial_sample((8, 3, 4, 4), torch.Generator().manual_seed(0))
    assert torch.equal(drawn, noise * start.sigma)
    respaced, _ = truncate_sigmas(levels, None, "respace", sigma_star=1.5)
    assert torch.equal(respaced, truncate_sigmas(levels, STATS, "respace")[0])
    closer, start = truncate_sigmas(levels, STATS, sigma_star=0.3)  # statistics of another sigma*
    assert float(closer[1]) < 0.3 <= start.sigma
    assert start.reference.kind == "channel"


def test_a_rigid_target_says_where_to_cut():
    """The first sigma is the last of the list at which the target is within the tolerance."""
    target = RigidTarget.from_size(800, 12.7)
    levels = karras_list(200, 2560.0, 0.0064)
    sigmas, start = truncate_sigmas(levels, sigma_star=target.sigma_star(0.5))
    assert target.divergence(start.sigma) <= 0.5 < target.divergence(float(sigmas[1]))
    assert 60 < len(levels) - len(sigmas) < 90
    respaced, start = truncate_sigmas(levels, None, "respace", sigma_star=target.sigma_star(0.5))
    assert len(respaced) == len(levels)
    assert target.divergence(start.sigma) == pytest.approx(0.5, rel=1e-3)


def test_what_a_sigma_alone_cannot_say_is_refused():
    levels = karras_list(20)
    with pytest.raises(ArtefactError, match="neither stats nor sigma_star"):
        truncate_sigmas(levels)
    for options in ({"reference": "channel"}, {"data_scale": 0.5}):
        with pytest.raises(ArtefactError, match="need fitted statistics"):
            truncate_sigmas(levels, sigma_star=1.5, **options)
    for sigma_star in (0.0, -1.0, math.inf, math.nan, "1.5", True, torch.ones(2)):
        with pytest.raises(TruncationError, match="Pass a positive noise level"):
            truncate_sigmas(levels, sigma_star=sigma_star)
    for spacing in ("log_snr", "fitted", "auto"):  # words of the scheduler, not of a list
        with pytest.raises(TruncationError, match=r"is unknown\. Known: suffix, respace"):
            truncate_sigmas(levels, None, spacing, sigma_star=1.5)
    with pytest.raises(TruncationError, match="no layout of molecules"):
        truncate_sigmas(levels, sigma_star=1.5)[1].initial_sample(torch.tensor([3, 4]))


def test_containers_dtypes_and_the_trailing_zero():
    given = [10.0, 5.0, 2.0, 1.0, 0.5, 0.0]
    sigmas, start = truncate_sigmas(given, STATS)
    assert (sigmas.dtype, sigmas.tolist(), start.sigma) == (torch.float32, given[2:], 2.0)
    without, _ = truncate_sigmas(given[:-1], STATS)
    assert without.tolist() == given[2:-1]
    for dtype in (torch.float16, torch.float64):
        sigmas, _ = truncate_sigmas(torch.tensor(given, dtype=dtype), STATS, "respace")
        assert (sigmas.dtype, len(sigmas), float(sigmas[-1])) == (dtype, 6, 0.0)
        assert float(sigmas[0]) == pytest.approx(1.5, rel=1e-3)
    assert truncate_sigmas([8, 4, 1, 0], STATS)[0].tolist() == [4.0, 1.0, 0.0]


def test_an_entry_at_sigma_star_is_the_start():
    given = torch.tensor([10.0, 1.5, 0.5, 0.0])
    for spacing in ("suffix", "respace"):
        sigmas, start = truncate_sigmas(given, STATS, spacing)
        assert float(sigmas[0]) == start.sigma == 1.5
    assert torch.equal(given, torch.tensor([10.0, 1.5, 0.5, 0.0]))


@pytest.mark.parametrize("spacing", ["suffix", "respace"])
def test_short_lists(spacing):
    """Where only the first entry is at or beyond sigma*, the list is walked as it is."""
    for given in ([2.0, 0.0], [2.0], [2.0, 1.0, 0.0]):
        assert truncate_sigmas(given, STATS, spacing)[0].tolist() == given
    assert truncate_sigmas([9.0, 5.0, 0.0], STATS)[0].tolist() == [5.0, 0.0]


@pytest.mark.parametrize("spacing", ["suffix", "respace"])
def test_a_list_that_begins_below_sigma_star(spacing):
    with pytest.warns(GAGAWarning, match=r"begins at sigma=1, closer to the data than sigma\*=1.5"):
        sigmas, start = truncate_sigmas([1.0, 0.5, 0.0], STATS, spacing)
    assert sigmas.tolist() == [1.0, 0.5, 0.0]
    assert (start.reference.a, start.reference.b) == (1.0, 1.0)


def test_other_units_than_the_fit():
    """A model on 0.5 times the fitted data sees its SNR at half the sigma."""
    sigmas, start = truncate_sigmas(karras_list(40), STATS, data_scale=0.5)
    assert sigmas[0] >= 0.75 * (1 - 1e-5) > sigmas[1]
    x = start.initial_sample((20000, 3, 1, 1), torch.Generator().manual_seed(0))
    variance = 0.25 * STD**2 + start.sigma**2
    z = (x.double() - 0.5 * MEAN) / variance.sqrt()
    assert float(z.mean(0).abs().max()) < 5.2 / math.sqrt(20000)  # 1e-6 for three channels
    assert float((z.var(0) - 1).abs().max()) < 5.2 * math.sqrt(2 / 20000)


def test_molecules():
    """A start for sizes, or from a loop's own noise, on the zero-centre-of-mass subspace."""
    generator = torch.Generator().manual_seed(0)
    moments = ExchangeableMoments(5)
    moments.update(torch.randn(400, 6, 8, generator=generator))
    stats = GAGAStats(MoleculeLayout(), moments, 0.0)
    sigmas, start = truncate_sigmas(karras_list(20), stats)
    x = start.initial_sample([6, 5, 6], generator)
    assert x.shape == (3, 6, 8)
    assert float(x[..., :3].sum(1).abs().max()) < 1e-4
    assert float(x[1, 5:].abs().max()) == 0
    mask = torch.arange(6)[None] < torch.tensor([6, 5, 6])[:, None]
    noise = project(torch.randn(3, 6, 8, generator=generator), mask)
    expected = stats.reference().at(1.0, float(sigmas[0])).transport(noise, mask)
    assert torch.equal(start.transport(noise, mask), expected)


# -- loops -----------------------------------------------------------------------------------------


def denoise(x, sigma):
    """E[x_0 | x_0 + sigma eps = x], as both codebases' models return it."""
    return MEAN + STD**2 / (STD**2 + sigma**2) * (x - MEAN)


def euler(x, sigmas, calls):
    for sigma, after in pairwise(sigmas):
        calls.append(float(sigma))
        x = x + (x - denoise(x, sigma)) / sigma * (after - sigma)
    return x


def heun(x, sigmas, calls):
    """Karras et al. 2022, Algorithm 1."""
    for sigma, after in pairwise(sigmas):
        calls.append(float(sigma))
        slope = (x - denoise(x, sigma)) / sigma
        reached = x + slope * (after - sigma)
        if after > 0:
            calls.append(float(after))
            slope = (slope + (reached - denoise(reached, after)) / after) / 2
        x = x + slope * (after - sigma)
    return x


@pytest.mark.parametrize(
    ("loop", "n", "spacing", "n_calls", "most"),
    [
        (euler, 100, "suffix", 45, 0.04),
        (euler, 100, "respace", 100, 0.018),
        (heun, 40, "suffix", 37, 0.016),
        (heun, 40, "respace", 79, 0.003),
    ],
)
def test_loops_from_the_fitted_gaussian(loop, n, spacing, n_calls, most):
    """The law is that of the data, to the loop's own error, which is less than on the whole list.

    Both loops are linear: where mean and one standard deviation end says the law.
    """
    sigmas, start = truncate_sigmas(karras_list(n), STATS, spacing)
    calls = []
    unit = torch.stack([torch.zeros(3, 1, 1), torch.ones(3, 1, 1)]).double()
    low, high = loop(start.transport(unit), sigmas, calls)
    error = float(((high - low) / STD - 1).abs().max())
    assert len(calls) == n_calls
    assert error < most
    torch.testing.assert_close(low, MEAN, atol=1e-9, rtol=0)
    whole = karras_list(n)
    low, high = loop(unit * whole[0], whole, [])
    assert error < float(((high - low) / STD - 1).abs().max())


# -- what does not fit -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sigmas", "message"),
    [
        ([], r"sigmas are \(0,\)"),
        ([[2.0, 1.0]], r"sigmas are \(1, 2\)"),
        ([math.inf, 1.0], "finite"),
        ([math.nan], "finite"),
        ([0.0], r"end in \[0.0\]. They must be positive"),
        ([0.1, 1.0, 10.0], r"must fall: entries 0 and 1 are \[0.1"),
        ([3.0, 2.0, 2.5, 0.0], r"must fall: entries 1 and 2 are \[2.0, 2.5\]"),
        ([3.0, 0.0, 0.0], r"end in \[3.0, 0.0, 0.0\]"),
        ([3.0, -1.0], "must be positive"),
        ([-1.0], "must be positive"),
    ],
)
def test_lists_that_are_refused(sigmas, message):
    with pytest.raises(TruncationError, match=message):
        truncate_sigmas(sigmas, STATS)


def test_no_room_below_sigma_star():
    with pytest.raises(TruncationError, match=r"no room for 4 steps from sigma\*=1.5 to 2"):
        truncate_sigmas([8.0, 6.0, 4.0, 2.0, 0.0], STATS, "respace")
    assert truncate_sigmas([8.0, 6.0, 4.0, 2.0, 0.0], STATS)[0].tolist() == [2.0, 0.0]


def test_other_refusals(tmp_path):
    with pytest.raises(TruncationError, match=r"spacing='half' is unknown. Known: suffix, respace"):
        truncate_sigmas([2.0, 1.0], STATS, "half")
    with pytest.raises(TruncationError, match=r"data_scale=0.0 and rho=7.0 must be positive"):
        truncate_sigmas([2.0, 1.0], STATS, data_scale=0.0)
    for option in ({"data_scale": "2"}, {"rho": None}, {"rho": math.inf}):
        with pytest.raises(TruncationError, match=r"is no finite number\. Pass a positive number"):
            truncate_sigmas([2.0, 1.0], STATS, **option)
    with pytest.raises(StatsMismatchError, match="'size'"):
        truncate_sigmas([2.0, 1.0], STATS, reference="size")
    with pytest.raises(ArtefactError, match="no fitted statistics"):
        truncate_sigmas([2.0, 1.0], tmp_path)
    STATS.save_pretrained(tmp_path)
    assert truncate_sigmas([2.0, 1.0], tmp_path)[1].sigma == 2.0


@pytest.mark.parametrize("given", [1.5, [80.0, 1.0], RigidTarget.from_size(100, 10.0)])
def test_what_is_no_statistics_is_told_where_it_belongs(given):
    with pytest.raises(ArtefactError, match=r"not statistics of a fit.*sigma_star=target"):
        truncate_sigmas([80.0, 1.0, 0.0], given)
