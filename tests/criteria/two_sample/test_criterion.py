"""The two-sample criterion against closed-form divergences, and where there is nothing to see.

Statistical bounds are at 4.9 standard errors, a one-sided false-alarm rate of 5e-7 per assertion;
the generators are fixed.
"""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import roc_auc_score
from toys import dense_fitted, fitted, gaussian_molecules, generator, levels

from gaga_adapter import criteria
from gaga_adapter.criteria import CRITERIA, TwoSample, criterion
from gaga_adapter.criteria.protocol import Task, copies
from gaga_adapter.criteria.two_sample.classifier import calibrate
from gaga_adapter.criteria.two_sample.features import paired_features
from gaga_adapter.criteria.two_sample.separation import auc, bound_terms, cells, of_distinct
from gaga_adapter.errors import DataError, GAGAError, GAGAWarning
from gaga_adapter.moments import DenseMoments
from gaga_adapter.noise.levels import coefficients
from gaga_adapter.reference import DenseReference, make_reference
from gaga_adapter.selection import select
from gaga_adapter.subspace import mask_from_sizes, project

SIGMAS = 4.9
N = 1200
JUDGE = TwoSample(check_reference=False)  # the check has tests of its own, and costs a level


def kl_lower_bound(p, q):
    terms = bound_terms(p, q)
    return terms.mean(), terms.std(ddof=1) / math.sqrt(len(terms))


def rigid_triangles(n=N, seed=0):
    """Equilateral triangles of side 2 in random orientation, the first atom of another type."""
    corners = torch.tensor([[0.0, 2 / 3**0.5], [1.0, -1 / 3**0.5], [-1.0, -1 / 3**0.5]])
    frames = torch.linalg.qr(torch.randn(n, 3, 3, generator=generator(seed))).Q
    types = torch.tensor([[0.25], [0.0], [0.0]]).expand(n, 3, 1)
    x = torch.cat([corners @ frames[:, :2], types], -1)
    return x, torch.ones(n, 3, dtype=torch.bool)


def gaussian_kl(var, dimension):
    """KL(N(0, var I) || N(0, I))."""
    return dimension / 2 * (var - 1 - math.log(var))


# ---------------------------------------------------------------------------- the bound itself


def test_exact_log_ratio_gives_the_divergence_and_any_other_less():
    """p = N(1, 1), q = N(0, 1): log p/q = x - 1/2, KL = 1/2."""
    rng = np.random.default_rng(0)
    p, q = rng.normal(1, 1, 100_000), rng.normal(0, 1, 100_000)
    value, error = kl_lower_bound(p - 0.5, q - 0.5)
    assert abs(value - 0.5) < SIGMAS * error < 0.05
    for wrong in (lambda x: 0.5 * x, lambda x: 1.3 * x - 1, lambda x: 0 * x, lambda x: x):
        value, error = kl_lower_bound(wrong(p), wrong(q))
        assert value < 0.5 - SIGMAS * error


def test_standard_error_is_the_spread_over_repetitions():
    """400 repetitions: the ratio of variances is within 4.9 of its own relative errors of one."""
    rng = np.random.default_rng(1)
    p, q = rng.normal(1, 1, (400, 500)), rng.normal(0, 1, (400, 500))
    found = np.array([kl_lower_bound(a - 0.5, b - 0.5) for a, b in zip(p, q, strict=True)])
    ratio = found[:, 0].var(ddof=1) / (found[:, 1] ** 2).mean()
    z = (found[:, 0] - found[:, 0].mean()) ** 2 / (found[:, 1] ** 2).mean()
    assert abs(ratio - 1) < SIGMAS * z.std() / math.sqrt(400)


def test_calibration_finds_the_log_ratio_whatever_the_scale_of_the_score():
    """p = N(1, 1), q = N(0, 1) and scores 3 (x - 1/2): log p/q is a third of the score."""
    rng = np.random.default_rng(4)
    x = np.concatenate([rng.normal(1, 1, 20_000), rng.normal(0, 1, 20_000)])
    is_data, seen = np.repeat([True, False], 20_000), np.linspace(-1, 2, 7)
    found = calibrate(3 * (x - 0.5), is_data, 3 * (seen - 0.5))
    np.testing.assert_allclose(found, seen - 0.5, atol=0.1)
    assert np.all(calibrate(-x, is_data, seen) == 0)  # a score that is wrong is not believed


def test_calibration_believes_no_tail_that_it_has_not_seen():
    """Scores far outside: the log-odds of the tail with the largest ratio, one more q counted."""
    rng = np.random.default_rng(5)
    p, q = rng.normal(1, 1, 200), rng.normal(0, 1, 200)
    score, is_data = np.concatenate([p, q]), np.repeat([True, False], 200)
    low, high = calibrate(score, is_data, np.array([-100.0, 100.0]))
    tails = [(np.mean(p >= s), (np.sum(q >= s) + 1) / 200) for s in p]
    assert high == pytest.approx(max(np.log(up / down) for up, down in tails))
    tails = [(np.mean(q <= s), (np.sum(p <= s) + 1) / 200) for s in q]
    assert low == pytest.approx(-max(np.log(up / down) for up, down in tails))
    apart = calibrate(np.concatenate([p + 50, q]), is_data, np.array([100.0]))
    assert apart == pytest.approx(math.log(200))


def test_auc_is_that_of_scikit_learn_with_ties_and_its_error_the_spread():
    rng = np.random.default_rng(2)
    p, q = rng.integers(0, 6, 300).astype(float), rng.integers(0, 5, 200).astype(float)
    truth = roc_auc_score([1] * 300 + [0] * 200, [*p, *q])
    assert auc(p, q)[0] == pytest.approx(truth, abs=1e-12)
    p, q = rng.normal(1, 1, (400, 200)), rng.normal(0, 1, (400, 200))
    found = np.array([auc(a, b) for a, b in zip(p, q, strict=True)])
    ratio = found[:, 0].var(ddof=1) / (found[:, 1] ** 2).mean()
    assert abs(ratio - 1) < SIGMAS * math.sqrt(2 / 399)


# ---------------------------------------------------------------------------- known divergences


def test_molecules_of_another_size_reach_most_of_the_true_divergence():
    """Variance 2 against `unit`: KL = 9/2 (v - 1 - log v) with v = 1 + a², at a² = 1/2 and 3/4."""
    x, mask = gaussian_molecules([4] * 3000, n_features=1, variance=2.0)
    at = levels(math.log(3), 0.0)
    curve = JUDGE.curve(x, mask, fitted(x, mask, "unit"), at, generator())
    for value, error, a2 in zip(curve.value, curve.std_error, (0.75, 0.5), strict=True):
        truth = gaussian_kl(1 + a2, 9)
        assert 0.7 * truth < value < truth + SIGMAS * error


def test_dense_gaussians_reach_most_of_the_true_divergence():
    """Variance 3 in 8 dimensions against `unit` at a² = 1/2: KL = 4 (1 - log 2)."""
    x = math.sqrt(3) * torch.randn(3000, 8, generator=generator())
    moments = DenseMoments((8,))
    moments.update(x)
    curve = JUDGE.curve(x, None, make_reference(moments, "unit"), levels(0.0), generator())
    truth = gaussian_kl(2.0, 8)
    assert 0.7 * truth < curve.value[0] < truth + SIGMAS * curve.std_error[0]


def test_samples_that_never_overlap_saturate():
    near, far = torch.randn(400, 3, generator=generator()), torch.randn(400, 3) * 0.1 + 20
    found = JUDGE.separate(near, far, seed=0)
    assert found.saturated
    assert found.auc == 1.0
    assert math.log(50) - 1 < found.kl <= math.log(50) + 1


# ---------------------------------------------------------------------------- Gaussian and not


def test_gaussian_data_hold_at_every_level():
    """Draws of a `size` reference itself, as data: within the error of 0, AUC of one half.

    Scores of different folds are not quite independent, which widens the AUC's spread by up to 1.5.
    """
    seen, mask = gaussian_molecules([4] * N, variance=2.0)
    reference = fitted(seen, mask, "size")
    x = reference.sample(mask.sum(1), generator=generator(1))
    curve = JUDGE.curve(x, mask, reference, levels(6.0, 0.0, -3.0), generator(2))
    for k, value in enumerate(curve.value):
        assert -0.05 < value <= SIGMAS * curve.std_error[k] < 0.05
        assert abs(curve.extra["auc"][k] - 0.5) < 1.5 * SIGMAS * curve.extra["auc_std_error"][k]
    assert select(curve, 0.1).log_snr_star == 6.0


def test_rigid_molecules_fail_near_the_data_and_hold_in_noise():
    x, mask = rigid_triangles()
    at = levels(4.0, 2.0, 0.0, -4.0)
    curve = JUDGE.curve(x, mask, fitted(x, mask, "size"), at, generator())
    assert curve.value[0] > 2.0
    assert curve.value[-1] <= SIGMAS * curve.std_error[-1] + 1e-9
    for k in range(3):
        error = math.hypot(curve.std_error[k], curve.std_error[k + 1])
        assert curve.value[k + 1] < curve.value[k] + SIGMAS * error
    assert -4.0 < select(curve, 0.3).log_snr_star < 4.0


@pytest.mark.parametrize("shape", [(2,), (1, 12, 12)], ids=str)
def test_dense_mixture_fails_near_the_data_and_holds_in_noise(shape):
    """Signs ±1, of zero mean and unit variance like their reference."""
    x = torch.randint(0, 2, (N, *shape), generator=generator()) * 2.0 - 1.0
    moments = DenseMoments(shape)
    moments.update(x)
    reference = make_reference(moments)
    curve = JUDGE.curve(x, None, reference, levels(2.0, -4.0), generator())
    assert curve.value[0] > 0.3
    assert curve.value[1] <= SIGMAS * curve.std_error[1] + 1e-9


# ---------------------------------------------------------------------------- dense data


def coloured(n, side=12, seed=0):
    """Stationary Gaussian images of unit variance with a falling spectrum, and that spectrum."""
    f = torch.fft.fftfreq(side, dtype=torch.float64)
    spectrum = 1 / (f[:, None] ** 2 + f**2 + 1 / 64)
    spectrum = spectrum / spectrum.mean()
    white = torch.randn(n, 1, side, side, generator=generator(seed), dtype=torch.float64)
    return torch.fft.ifft2(torch.fft.fft2(white) * spectrum.sqrt()).real, spectrum


def test_coloured_images_reach_most_of_the_divergence_of_white_noise():
    """KL = 1/2 sum (s_k - 1 - log s_k) over the spectrum s of the noised images."""
    x, spectrum = coloured(2000)
    at = levels(-1.0)
    curve = JUDGE.curve(x, None, dense_fitted(x, "channel"), at, generator())
    level = torch.sigmoid(at) * spectrum + torch.sigmoid(-at)
    truth = float((level - 1 - level.log()).sum() / 2)
    assert 0.7 * truth < curve.value[0] < truth + SIGMAS * curve.std_error[0]
    assert curve.extra["p_value"][0] < 1e-6


@pytest.mark.parametrize("kind", ["full", "element"])
def test_gaussian_images_are_not_seen_by_their_own_reference(kind):
    """`full` of coloured images, `element` of white ones whose variance differs by place."""
    fitted_to, seen = (coloured(4000, 8, seed)[0] for seed in (0, 1))
    if kind == "element":
        place = torch.linspace(0.2, 3.0, 64, dtype=torch.float64).reshape(8, 8)
        fitted_to, seen = (
            place * torch.randn(n, 1, 8, 8, generator=generator(n), dtype=torch.float64)
            for n in (4000, 1500)
        )
    reference, at = dense_fitted(fitted_to, kind), levels(3.0)
    curve = JUDGE.curve(seen[:1500], None, reference, at, generator(2))
    assert -0.05 < curve.value[0] <= SIGMAS * curve.std_error[0] + 1e-9
    assert curve.extra["p_value"][0] > 1e-6


def test_heavy_tails_of_equal_covariance_are_seen():
    """Coloured images of random contrast: the covariance of Gaussian ones, but not their law."""
    x = coloured(N, 8)[0]
    contrast = torch.rand(N, 1, 1, 1, generator=generator(1), dtype=torch.float64) * 2
    reference = dense_fitted(coloured(4000, 8, seed=2)[0], "full")
    x = x * contrast / math.sqrt(4 / 3)
    curve = JUDGE.curve(x, None, reference, levels(1.0), generator())
    assert curve.value[0] > 0.2
    assert curve.extra["p_value"][0] < 1e-6


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_float_type_is_judged(dtype):
    x = torch.randn(N, 3, 4, 4, generator=generator()).to(dtype)
    made = TwoSample(check_reference=False, max_iter=5)
    curve = made.curve(x, None, dense_fitted(x, "channel"), levels(0.0), generator())
    assert curve.value[0] <= SIGMAS * curve.std_error[0] + 1e-9


# ---------------------------------------------------------------------------- p-value and check


def test_p_values_are_uniform_when_the_data_are_draws_of_the_reference():
    """100 data sets of 100 vectors against draws of one law; Kolmogorov-Smirnov at 1e-6."""
    made = TwoSample(folds=3, n_permutations=99, max_iter=3)
    one, other = torch.randn(2, 100, 100, 4, generator=generator())
    found = [made.separate(p, q, seed=0).p_value for p, q in zip(one, other, strict=True)]
    assert stats.kstest(found, "uniform").pvalue > 1e-6
    assert stats.binomtest(int((np.array(found) <= 0.05).sum()), 100, 0.05).pvalue > 1e-6


def test_p_value_finds_a_little_that_nats_do_not_show():
    """A shift of 0.15 in each of 4 directions: KL = 0.045 nats."""
    one, other = torch.randn(2, 2000, 4, generator=generator())
    found = JUDGE.separate(one + 0.15, other, seed=0)
    assert found.p_value < 1e-3
    assert found.kl < 0.045 + SIGMAS * found.kl_std_error


def test_check_sees_nothing_in_a_sound_reference():
    x, mask = rigid_triangles(n=400)
    reference = fitted(x, mask, "size")
    found = TwoSample().null_check(reference, x, mask, 1.0, generator())
    assert found.kl <= SIGMAS * found.kl_std_error + 1e-9
    assert found.p_value > 1e-6


class Loud(DenseReference):
    """A reference whose draws are too large at every level: not closed under noise."""

    def transport(self, z, mask=None):
        return 1.5 * super().transport(z, mask)


def test_check_names_a_reference_that_is_at_fault():
    x = torch.randn(N, 8, generator=generator())
    moments = DenseMoments((8,))
    moments.update(x)
    message = r"draws of the 'channel' reference .* differ from its draws at that level \(AUC 0\."
    with pytest.warns(GAGAWarning, match=message):
        curve = TwoSample().curve(x, None, Loud("channel", moments), levels(-2.0, 0.0), generator())
    assert math.isnan(curve.extra["null_p_value"][0])
    assert curve.extra["null_p_value"][1] < 1e-4
    curve = JUDGE.curve(x, None, Loud("channel", moments), levels(0.0), generator())
    assert math.isnan(curve.extra["null_p_value"][0])


# ---------------------------------------------------------------------------- copies


def test_copies_of_a_gaussian_sample_are_not_seen():
    """120 draws of the reference 15 times each, close to the data, where a fold knows the next.

    With the copies in one fold the classifier is at chance; spread over all folds, it is not.
    """
    x = torch.randn(120, 24, generator=generator()).repeat(15, 1)
    reference = dense_fitted(torch.randn(4000, 24, generator=generator(1)), "channel")
    with pytest.warns(GAGAWarning) as said:
        curve = JUDGE.curve(x, None, reference, levels(4.0), generator(2))
    assert curve.value[0] <= SIGMAS * curve.std_error[0] + 1e-9
    assert abs(curve.extra["auc"][0] - 0.5) < 1.5 * SIGMAS * curve.extra["auc_std_error"][0] < 0.4
    assert curve.extra["p_value"][0] > 1e-6
    assert "only 120 of 1800 data items are distinct" in str(said[0].message)
    assert "120 data items make a loose lower bound" in str(said[1].message)
    assert len(curve.contributions.values) == 120
    assert curve.contributions.n_items == 1800

    here, each = reference.at(*coefficients(4.0)), np.arange(len(x))
    task = Task(x, None, [4.0], generator(2))
    spread = JUDGE.separate(*paired_features(task, here, each), seed=0)
    assert spread.kl > SIGMAS * spread.kl_std_error


def test_copies_of_small_events_are_the_law_itself():
    """Two points, 600 times each: nothing but copies, and far from Gaussian."""
    x = torch.tensor([[1.0], [-1.0]]).repeat(N // 2, 1)
    curve = JUDGE.curve(x, None, dense_fitted(x, "channel"), levels(3.0), generator())
    assert curve.value[0] > 0.5


def test_items_that_are_all_the_same_are_a_gaussian_of_the_noise():
    """One image N times, of variance 0: `b eps` around it, and so is the reference."""
    x = torch.linspace(-1, 1, 36).reshape(1, 1, 6, 6).repeat(N, 1, 1, 1)
    reference = dense_fitted(x, "element")
    curve = JUDGE.curve(x, None, reference, levels(2.0), generator())
    assert curve.value[0] <= SIGMAS * curve.std_error[0] + 1e-9


def test_copies_are_found_by_value():
    x, mask = rigid_triangles(n=300)
    x = torch.cat([x, torch.full((300, 2, 4), torch.nan)], 1)
    mask = torch.nn.functional.pad(mask, (0, 2))
    x = torch.where(mask[..., None], x, 0)
    x, mask = x.repeat_interleave(2, 0), mask.repeat_interleave(2, 0)
    x[1::2] = torch.where(mask[1::2, :, None], x[1::2], torch.nan)  # what is in the padding is not
    pairs = np.repeat(np.arange(300), 2)
    assert np.array_equal(copies(x, mask), np.arange(600))  # 3 atoms of 4 numbers: may be discrete
    wide = torch.cat([x, x[..., :3]], -1)
    assert np.array_equal(copies(wide, mask), pairs)
    assert np.array_equal(copies(wide[:100], mask[:100]), np.arange(100))  # 50 distinct: discrete
    zeros = torch.zeros(200, 20)
    zeros[:, 0] = torch.arange(200)
    assert copies(torch.cat([zeros, -zeros]), None)[200] == 0  # -0 is 0


def test_cells_are_even_and_keep_copies_together():
    assert np.array_equal(cells(np.arange(10), 4), np.arange(10) % 4)
    rng = np.random.default_rng(0)
    _, group = np.unique(rng.geometric(0.02, 4000), return_inverse=True)
    cell = cells(group, 8)
    assert all(len(np.unique(cell[group == one])) == 1 for one in np.unique(group))
    sizes = np.bincount(cell, minlength=8)
    assert sizes.max() - sizes.min() <= np.bincount(group).max()


def test_errors_of_copies_are_those_of_the_distinct_items():
    """Every item k times: the errors of one of each, and the weights of all."""
    terms = np.random.default_rng(0).normal(size=(50, 2))
    one, k = of_distinct(terms, np.arange(50)), of_distinct(terms.repeat(4, 0), np.arange(200) // 4)
    for found, expected in zip(k.value_and_error("nats"), one.value_and_error("nats"), strict=True):
        torch.testing.assert_close(found, expected)
    p, q = np.random.default_rng(1).normal(size=(2, 50))
    group = np.arange(200) // 4
    assert auc(p.repeat(4), q.repeat(4), group) == pytest.approx(auc(p, q))


# ---------------------------------------------------------------------------- the contract


def test_curve_is_a_function_of_the_generator_alone():
    x, mask = rigid_triangles(n=300)
    kept, state = x.clone(), torch.random.get_rng_state()
    legacy = np.random.get_state()[1].copy()  # noqa: NPY002 - that it was not touched
    reference, steps = fitted(x, mask, "size"), []
    made = TwoSample(n_samples=200, max_iter=10)

    def draw(seed, at):
        with pytest.warns(GAGAWarning, match="200 data items make a loose lower bound"):
            return made.curve(x, mask, reference, at, generator(seed), lambda *p: steps.append(p))

    curve = draw(3, levels(-1.0, 1.0))
    assert curve == draw(3, levels(1.0, -1.0))
    assert curve != draw(4, levels(1.0, -1.0))
    assert steps == [("two_sample", 1, 2), ("two_sample", 2, 2)] * 3
    assert curve.log_snr == (1.0, -1.0)
    assert (curve.criterion, curve.reference, curve.unit) == ("two_sample", "size", "nats")
    assert curve.n_samples == 200
    columns = {"auc", "auc_std_error", "p_value", "saturated", "null_p_value"}
    assert set(curve.extra) == columns
    assert curve.value == curve.of_rows(torch.arange(200)).value
    assert torch.equal(x, kept)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], legacy)  # noqa: NPY002


def test_registry_holds_the_default_and_names_what_it_knows():
    assert "two_sample" in CRITERIA
    assert criterion("two_sample") == TwoSample()
    assert criterion("two_sample").name == "two_sample"
    with pytest.raises(GAGAError, match=r"unknown criterion 'psychic'\. Known: two_sample"):
        criterion("psychic")


def test_imports_load_neither_scikit_learn_nor_scipy():
    code = (
        "import sys; from gaga_adapter.criteria import KSMI, Certificate, Cumulant, TwoSample; "
        "print({'sklearn', 'scipy'} & set(sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"


def test_every_public_name_of_criteria_resolves():
    assert {name for name in criteria.__all__ if getattr(criteria, name) is None} == set()
    assert set(criteria.__all__) <= set(dir(criteria))
    with pytest.raises(AttributeError, match="has no attribute 'psychic'"):
        criteria.psychic  # noqa: B018


@pytest.mark.filterwarnings("ignore:150 data items make a loose lower bound")
def test_data_that_cannot_be_judged():
    x, mask = rigid_triangles(n=150)
    reference, at = fitted(x, mask, "size"), levels(0.0)
    broken = x.clone()
    broken[7, 1, 0] = torch.nan
    cases = [
        (x[:50], mask[:50], at, "found 50 data items, need at least 100"),
        (broken, mask, at, "item 7 of the data has a number that is not finite"),
        (x, mask[:, :2], at, r"mask must be bool \(150, 3\)"),
        (x, mask & (torch.arange(150) != 3)[:, None], at, "with an atom in every row"),
        (x[..., :2], mask, at, "have 2 channels, and the reference describes 4"),
        (x.long(), mask, at, "molecules are floats"),
        (x[:, 0, 0], None, at, "dense data are floats"),
        (x, mask, levels(), "list of finite levels"),
        (x, mask, levels(0.0, math.inf), "list of finite levels"),
        (x, mask, levels(1.0, 1.0), "a level twice"),
    ]
    for data, real, wanted, message in cases:
        with pytest.raises(DataError, match=message):
            JUDGE.curve(data, real, reference, wanted, generator())
    with pytest.raises(DataError, match="folds=1 must be at least 2"):
        TwoSample(folds=1)
    with pytest.raises(DataError, match="n_samples=99 must be at least 100"):
        TwoSample(n_samples=99)
    with pytest.raises(DataError, match="n_permutations=0 must be at least 1"):
        TwoSample(n_permutations=0)


def test_padding_of_the_data_is_not_seen():
    """Garbage in padded rows and a wider tensor: the same curve for the same generator."""
    sizes = torch.randint(3, 6, (150,), generator=generator())
    mask = mask_from_sizes(sizes, 7)
    x = project(torch.randn(150, 7, 4, generator=generator(1)), mask)
    dirty = torch.where(mask[..., None], x, torch.inf)
    made, reference = TwoSample(max_iter=5), fitted(x, mask, "channel")
    with pytest.warns(GAGAWarning):
        clean_curve, dirty_curve = (
            made.curve(y, mask, reference, levels(0.0), generator(2)) for y in (x, dirty)
        )
    assert clean_curve == dirty_curve


@pytest.mark.parametrize("n_features", [0, 1])
def test_molecules_of_few_or_constant_channels(n_features):
    """No features at all, or one that is the same everywhere: variance 0, and no divergence."""
    x, mask = gaussian_molecules([4] * N, n_features)
    x[..., 3:] = 0.25
    curve = JUDGE.curve(x, mask, fitted(x, mask, "size"), levels(3.0), generator())
    assert curve.value[0] <= SIGMAS * curve.std_error[0] + 1e-9


def test_single_atoms_have_types_alone():
    """One atom each: positions are the origin; a discrete type is seen, and gone in noise."""
    mask = torch.ones(N, 1, dtype=torch.bool)
    types = torch.eye(3)[torch.randint(0, 3, (N,), generator=generator())]
    x = torch.cat([torch.zeros(N, 3), types], -1)[:, None]
    at = levels(4.0, -5.0)
    curve = JUDGE.curve(x, mask, fitted(x, mask, "size"), at, generator())
    assert curve.value[0] > 1.0
    assert curve.value[1] <= SIGMAS * curve.std_error[1] + 1e-9


@pytest.mark.filterwarnings("ignore::gaga_adapter.errors.GAGAWarning")
def test_a_bound_at_few_items_is_no_estimate():
    """Gaussian against Gaussian, in closed form 1.41 nats: 100 items show far less of it than 1600.

    Averages over 4 data sets stay below the truth and rise with the number of items: each beyond
    4.9 standard errors of scatter between the sets and items, about 1e-6 false alarms.
    """
    variance = 0.5 * 4.4 + 0.5
    truth = 2 * (variance - 1 - math.log(variance))
    reference = make_reference(DenseMoments((4,)), "unit")
    found = {}
    for n in (100, 1600):
        judge = TwoSample(n_samples=n, check_reference=False, n_permutations=1)
        curves = []
        for seed in range(4):
            source = torch.Generator().manual_seed(seed)
            x = math.sqrt(4.4) * torch.randn(n, 4, generator=source, dtype=torch.float64)
            curves.append(judge.curve(x, None, reference, torch.zeros(1).double(), source))
        values = [one.value[0] for one in curves]
        errors = [one.std_error[0] for one in curves]
        found[n] = (sum(values) / 4, math.hypot(*errors) / 4)
    (few, few_error), (many, many_error) = found[100], found[1600]
    assert few < many - 4.9 * math.hypot(few_error, many_error)
    assert few + 4.9 * few_error < truth  # the value and its errors are no upper limit
    assert many < truth + 4.9 * many_error
