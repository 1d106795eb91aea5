"""Refined starts: mixing weights by EM, the tilt and its law, levels, artefact, and `fit`."""

import copy
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import binom, norm
from toys import generator, same_stats

from gaga_adapter import GAGAStats, fit
from gaga_adapter.errors import (
    ArtefactError,
    DataError,
    GAGAWarning,
    StatsMismatchError,
    TruncationError,
)
from gaga_adapter.layout import AtomLayout, DenseLayout
from gaga_adapter.moments import DenseMoments, ExchangeableMoments
from gaga_adapter.noise.levels import coefficients
from gaga_adapter.reference import ShapeReference
from gaga_adapter.reference.refined.refinement import Refinement
from gaga_adapter.reference.refined.tilt import Tilt, cells_of, n_invariants
from gaga_adapter.reference.refined.tilted import TiltedReference
from gaga_adapter.reference.refined.weights import em_passes, fit_weights, mean_log_density
from gaga_adapter.refining.learning import learn_tilt
from gaga_adapter.refining.refine import METHODS
from gaga_adapter.stats import CONFIG_NAME
from gaga_adapter.subspace import mask_from_sizes, project

FIVE_SIGMA = norm.isf(1e-6 / 2)  # 4.89: 1e-6 false alarms for each number
LOG_SNR = 2.0
F = 1


def wheels(n_molecules, sizes=(4, 5), seed=0):
    """Atoms on a circle, evenly, turned at random: a form that no Gaussian with its tensor has."""
    random = generator(seed)
    n_atoms = torch.tensor(sizes)[torch.randint(len(sizes), (n_molecules,), generator=random)]
    mask = mask_from_sizes(n_atoms, max(sizes))
    angle = 2 * math.pi * torch.arange(max(sizes)) / n_atoms[:, None]
    angle = angle + 2 * math.pi * torch.rand(n_molecules, 1, generator=random)
    radius = 1 + 0.2 * torch.rand(n_molecules, 1, generator=random)
    flat = torch.stack([radius * angle.cos(), radius * angle.sin(), 0 * angle], -1)
    axes = torch.linalg.qr(torch.randn(n_molecules, 3, 3, generator=random)).Q
    features = torch.randn(n_molecules, max(sizes), F, generator=random)
    return project(torch.cat([flat @ axes.mT, features], -1).double(), mask), mask


@pytest.fixture(scope="module")
def moments():
    fitted = ExchangeableMoments(F, table_size=64)
    fitted.update(*wheels(2000))
    return fitted


@pytest.fixture(scope="module")
def plain(moments):
    return ShapeReference("shape", moments)


@pytest.fixture(scope="module")
def tilt(plain):
    return learn_tilt(plain, *wheels(2000, seed=1), LOG_SNR, generator=generator())


@pytest.fixture(scope="module")
def tilted(moments, tilt):
    return TiltedReference(moments, None, tilt).at(*coefficients(LOG_SNR))


def noised(n, seed, log_snr=LOG_SNR):
    """Data at a level, and their mask."""
    x, mask = wheels(n, seed=seed)
    a, b = coefficients(log_snr)
    noise = torch.randn(x.shape, generator=generator(seed + 1), dtype=torch.float64)
    return project(a * x + b * noise, mask), mask


def numbers(cells, n_candidates=16, limit=4.0):
    """A tilt of size 4 of which only the law of a weight matters."""
    cells = torch.as_tensor(cells, dtype=torch.float64)[None]
    zeros = torch.zeros(n_invariants(F), dtype=torch.float64)
    return Tilt(LOG_SNR, 1.0, 1.0, zeros, 0.0, limit, n_candidates, torch.tensor([4]), cells)


# ------------------------------------------------------------------ the law of 1 of K


@pytest.mark.parametrize("k", [1, 2, 7, 16, 200])
def test_the_law_is_that_of_binomial_counts(k):
    """Weights that are 3 in a quarter of the draws and 0.2 else: the sum S is a binomial count."""
    tilt = numbers([0.2, 0.2, 0.2, 3.0], k)
    log_odds = torch.tensor([-3.9, -1.0, 0.0, 1.1, 3.9], dtype=torch.float64)
    count = np.arange(k)
    total = 3.0 * count + 0.2 * (k - 1 - count)
    share = binom.pmf(count, k - 1, 0.25)
    weight = np.exp(log_odds.numpy())[:, None]
    expected = np.log((share * k * weight / (weight + total)).sum(1))
    got = tilt.log_ratio(log_odds, torch.full((5,), 4))
    np.testing.assert_allclose(got, expected, rtol=1e-8, atol=1e-8)


def test_the_law_integrates_to_one():
    """By exchange of the candidates, `E_q q_K / q = 1` for any law of the weights."""
    weights = torch.linspace(-3, 3, 24, dtype=torch.float64).exp()
    ratio = numbers(weights).log_ratio(weights.log(), torch.full((24,), 4)).exp()
    assert float(ratio.mean()) == pytest.approx(1, rel=1e-9)


def test_many_candidates_make_the_tilted_law():
    weights = torch.linspace(-2, 2, 24, dtype=torch.float64).exp()
    tilt = numbers(weights, 1000)
    limit = weights.log() - tilt.log_normaliser()[0]
    got = tilt.log_ratio(weights.log(), torch.full((24,), 4))
    torch.testing.assert_close(got, limit, rtol=0.02, atol=0.02)


def test_means_of_cells_make_the_density_smaller():
    """Jensen: with coarse cells the density is a lower bound of that with one cell per draw."""
    weights = torch.randn(1024, generator=generator(), dtype=torch.float64).clamp(-4, 4).exp()
    log_odds, size = torch.linspace(-4, 4, 33, dtype=torch.float64), torch.full((33,), 4)
    fine = numbers(weights.sort().values).log_ratio(log_odds, size)
    coarse = numbers(cells_of(weights, 64)).log_ratio(log_odds, size)
    assert bool((coarse <= fine + 1e-9).all())
    torch.testing.assert_close(coarse, fine, rtol=1e-3, atol=2e-3)


def test_draws_follow_the_law(plain, tilted, tilt):
    """The mean of the log-odds over tilted draws is that of plain draws, weighted by the law.

    The weights of the plain draws have a mean of one: the law integrates to one.
    """
    here, n = plain.at(*coefficients(LOG_SNR)), 2000
    mask = torch.ones(n, 4, dtype=torch.bool)
    drawn = tilt.log_odds(tilted.sample([4] * n, generator=generator(2)).double(), mask)
    odds = tilt.log_odds(here.sample([4] * n, generator=generator(3)).double(), mask)
    ratio = tilt.log_ratio(odds, mask.sum(1)).exp()
    terms = ratio * odds
    cells = float(tilt.log_normaliser()[1][0]) / math.sqrt(2048)  # of the draws behind the cells
    error = math.hypot(float(drawn.std()), float(terms.std())) / math.sqrt(n)
    gap = float(drawn.mean() - terms.mean())
    assert abs(gap) < FIVE_SIGMA * math.hypot(error, cells)
    error = math.hypot(float(ratio.std()) / math.sqrt(n), cells)
    assert float(ratio.mean()) == pytest.approx(1, abs=FIVE_SIGMA * error)
    assert float(drawn.mean() - odds.mean()) > 0.5  # it tilts


def test_held_out_data_gain_likelihood(plain, tilted, tilt):
    """What the tilt gains, in nats, by two densities and no classifier."""
    x, mask = noised(30, seed=5)
    gain = tilted.log_prob(x, mask) - plain.at(*coefficients(LOG_SNR)).log_prob(x, mask)
    ratio = tilt.log_ratio(tilt.log_odds(x, mask), mask.sum(1))
    torch.testing.assert_close(gain, ratio)
    x, mask = noised(2000, seed=6)
    gain = tilt.log_ratio(tilt.log_odds(x, mask), mask.sum(1))
    assert float(gain.mean()) > 0.1 + FIVE_SIGMA * float(gain.std()) / math.sqrt(2000)


def test_the_prior_term_is_that_of_many_noised_copies(plain, tilted, tilt):
    """The mean over 60 data, against 20 independent noised copies of each."""
    x0, mask = wheels(60, seed=6)
    here = plain.at(*coefficients(LOG_SNR))
    gained = here.kl_from_posterior(x0, mask) - tilted.kl_from_posterior(x0, mask)
    noise = torch.randn(20, *x0.shape, generator=generator(8), dtype=torch.float64)
    noised = (tilted.a * x0 + tilted.b * noise).flatten(0, 1)
    x, real = tilted.project(noised, mask.repeat(20, 1)), mask.repeat(20, 1)
    expected = tilt.log_ratio(tilt.log_odds(x, real), real.sum(1)).reshape(20, 60)
    gap = gained - expected.mean(0)  # each of the data has noise of its own
    spread = float(expected.std(0).mean()) * math.sqrt(1 / 8 + 1 / 20)
    assert abs(float(gap.mean())) < FIVE_SIGMA * float(gap.std()) / math.sqrt(60)
    assert 0.5 * spread < float(gap.std()) < 2 * spread
    alone = tilted.kl_from_posterior(x0[3:5], mask[3:5])
    torch.testing.assert_close(tilted.kl_from_posterior(x0[:9], mask[:9])[3:5], alone)


# ------------------------------------------------------------------ the transport


@pytest.mark.parametrize("log_snr", [LOG_SNR, LOG_SNR - 1])
def test_a_start_does_not_depend_on_its_batch_or_its_padding(tilted, log_snr):
    here = tilted.at(*coefficients(log_snr))
    z = torch.randn(6, 7, 3 + F, generator=generator(), dtype=torch.float32)
    mask = mask_from_sizes(torch.tensor([4, 5, 4, 5, 4, 5]), 7)
    z = project(z, mask)
    start = here.transport(z, mask)
    torch.testing.assert_close(here.transport(z[2:4, :5], mask[2:4, :5]), start[2:4, :5])
    torch.testing.assert_close(here.transport(z.flip(0), mask.flip(0)), start.flip(0))
    assert not start[~mask].any()
    assert start.dtype == torch.float32
    apart = torch.tensor([0, 2, 4, 5, 6])  # the padding may lie between
    spread = torch.zeros(1, 7, 3 + F)
    spread[0, apart] = z[1, :5]
    moved = torch.zeros(1, 7, dtype=torch.bool)
    moved[0, apart] = True
    torch.testing.assert_close(here.transport(spread, moved)[0, apart], start[1, :5])


def test_other_noise_makes_another_molecule(tilted):
    z, mask = torch.randn(1, 4, 3 + F, generator=generator()), torch.ones(1, 4, dtype=torch.bool)
    other = z.clone()
    other[0, 0, 3] = torch.nextafter(z[0, 0, 3], torch.tensor(9.0))
    assert (tilted.transport(z, mask) - tilted.transport(other, mask)).abs().max() > 0.01


def test_sizes_without_a_tilt_are_plain(plain, tilted):
    here = plain.at(*coefficients(LOG_SNR))
    z = project(torch.randn(3, 6, 3 + F, generator=generator()), torch.ones(3, 6) > 0)
    assert torch.equal(tilted.transport(z), here.transport(z))
    assert torch.equal(tilted.log_prob(z), here.log_prob(z))


def test_the_scale_of_a_level_does_not_matter(tilted):
    """Variance exploding: a = 1. The density changes by the volume, the draw by the scale."""
    sigma = math.exp(-LOG_SNR / 2)
    other = tilted.at(1.0, sigma)
    scale = math.hypot(1, sigma)
    x, mask = noised(20, seed=9)
    torch.testing.assert_close(other.transport(x, mask), scale * tilted.transport(x, mask))
    dimension = 3 * (mask.sum(1) - 1) + F * mask.sum(1)
    density = tilted.log_prob(x, mask) - dimension * math.log(scale)
    torch.testing.assert_close(other.log_prob(scale * x, mask), density)


def test_beyond_its_level_it_is_the_noised_start(tilted):
    """The mean square of the positions, 1e-6 false alarms, against noise of another generator."""
    a, b = coefficients(LOG_SNR - 1.5)
    here, sizes = tilted.at(a, b), [5] * 1000
    start = here.sample(sizes, generator=generator(1), dtype=torch.float64)
    x = tilted.sample(sizes, generator=generator(2), dtype=torch.float64)
    noise = torch.randn(x.shape, generator=generator(3), dtype=torch.float64)
    rest = math.sqrt(b**2 - (a / tilted.a * tilted.b) ** 2)
    expected = a / tilted.a * x + rest * tilted.project(noise)
    for power in (2, 4):
        one, other = (y[..., :3].square().sum((1, 2)) ** (power // 2) for y in (start, expected))
        error = math.hypot(float(one.std()), float(other.std())) / math.sqrt(1000)
        assert abs(float(one.mean() - other.mean())) < FIVE_SIGMA * error


def test_levels_and_what_is_known_there(plain, tilted):
    x, mask = noised(5, seed=3)
    noisier, cleaner = tilted.at(0.6, 0.8), tilted.at(0.99, 0.1)
    with pytest.raises(TruncationError, match=r"no density in closed form.*known\(\)"):
        noisier.log_prob(x, mask)
    known = noisier.known()
    torch.testing.assert_close(known.log_prob(x, mask), tilted.log_prob(x, mask))
    bound = noisier.kl_from_posterior(x, mask)
    torch.testing.assert_close(bound, tilted.kl_from_posterior(x, mask))
    with pytest.warns(GAGAWarning, match=r"plain `shape` at 4\.585, which is cleaner"):
        start = cleaner.transport(x, mask)
    assert torch.equal(start, plain.at(0.99, 0.1).transport(x, mask))
    assert torch.equal(cleaner.log_prob(x, mask), plain.at(0.99, 0.1).log_prob(x, mask))
    assert cleaner.known() is cleaner
    assert plain.known() is plain


# ------------------------------------------------------------------ what is learnt


def test_there_is_nothing_to_tilt_where_the_start_is_right(plain, moments):
    """Data that are draws of the start: log-odds near zero, and a normaliser of one."""
    x = plain.sample([4] * 3000, generator=generator(1), dtype=torch.float64)
    mask = torch.ones(3000, 4, dtype=torch.bool)
    tilt = learn_tilt(plain, x, mask, 0.0, generator=generator(2))
    here = plain.at(*coefficients(0.0))
    odds = tilt.log_odds(here.sample([4] * 1000, generator=generator(3)).double(), mask[:1000])
    # Of D coefficients learnt from 2 x 3000 points the log-odds have a variance of 4 D / 6000.
    assert float(odds.std()) < 2 * math.sqrt(4 * n_invariants(F) / 6000)
    assert abs(float(tilt.log_normaliser()[0])) < 0.1


def test_em_recovers_the_weights_of_a_mixture():
    """Three Gaussians of known weights; the maximum likelihood has the error of 20,000 draws."""
    true = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
    place = torch.tensor([-4.0, 0.0, 4.0], dtype=torch.float64)
    which = torch.multinomial(true, 20000, replacement=True, generator=generator())
    x = place[which] + torch.randn(20000, generator=generator(1), dtype=torch.float64)
    density = -0.5 * (x[:, None] - place) ** 2
    equal = torch.full((3,), 1 / 3, dtype=torch.float64)
    weights = em_passes(density, equal, 100)
    error = (true * (1 - true) / 20000).sqrt() * 1.2  # they overlap in one point in forty
    assert bool(((weights - true).abs() < FIVE_SIGMA * error).all())
    steps = [float(mean_log_density(density, em_passes(density, equal, n))) for n in range(6)]
    assert steps == sorted(steps)


def rods_and_balls(n_molecules, share, seed):
    """Molecules of which exactly this share is long, by their tensor, and the others are round."""
    random = generator(seed)
    turns = torch.linalg.qr(torch.randn(2, n_molecules, 5, 3, generator=random).double()).Q
    is_long = torch.arange(n_molecules) < share * n_molecules
    extent = torch.where(is_long[:, None], torch.tensor([0.3, 0.3, 2.0]), torch.ones(3)).double()
    mean_free = torch.linalg.qr(torch.eye(5).double() - 1 / 5).Q[:, :4]
    frame = mean_free @ torch.linalg.qr(turns[0, :, :4]).Q
    axes = torch.linalg.qr(turns[1, :, :3]).Q
    features = torch.randn(n_molecules, 5, F, generator=random).double()
    return torch.cat([2 * (frame * extent[:, None]) @ axes.mT, features], -1), is_long


def test_weights_follow_other_data_than_the_table():
    """A table of half rods, and data of 90 % rods: the rods' rows get the weight."""
    table = ExchangeableMoments(F, table_size=60)
    table.update(rods_and_balls(60, 0.5, seed=0)[0])
    reference = ShapeReference("shape", table)
    x, _ = rods_and_balls(400, 0.9, seed=1)
    x = x[torch.randperm(400, generator=generator(7))]
    mask = torch.ones(400, 5, dtype=torch.bool)
    weights = fit_weights(reference, x, mask, 3.0, generator(2))
    is_rod = table.sampled(5)[0][:, 2] > 2
    assert int(is_rod.sum()) == 30
    # The two forms are apart, so the rods' share has the error of 400 draws, if any.
    assert float(weights[is_rod].sum()) == pytest.approx(0.9, abs=0.06)
    assert float(weights.sum()) == pytest.approx(1)
    here = coefficients(3.0)
    refined, plain = (ShapeReference("shape", table, w).at(*here) for w in (weights, None))
    x, is_long = rods_and_balls(100, 0.9, seed=3)
    noise = torch.randn(x.shape, generator=generator(4), dtype=torch.float64)
    x = plain.project(here[0] * x + here[1] * noise, mask[:100])
    gain = refined.log_prob(x) - plain.log_prob(x)
    assert float(gain[is_long].mean() - gain[~is_long].mean()) == pytest.approx(
        math.log(0.9 / 0.1), abs=0.8
    )
    assert float(gain.mean()) > 0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5) - 0.15
    draws = ShapeReference("shape", table, weights).sample([5] * 2000, generator=generator(5))
    spread = torch.linalg.eigvalsh(draws[..., :3].double().mT @ draws[..., :3].double())
    share = float((spread[:, 2] > 8).double().mean())
    error = FIVE_SIGMA * math.sqrt(0.09 / 2000)
    assert share == pytest.approx(float(weights[is_rod].sum()), abs=error)


def test_rows_without_weight_are_dropped(moments):
    weights = torch.zeros(len(moments.table_sizes), dtype=torch.float64)
    for n in (4, 5):
        weights[(moments.table_sizes == n).nonzero()[:2, 0]] = 0.5
    few = ShapeReference("shape", moments, weights).at(0.8, 0.6)
    assert len(few.gaussian(4).mean) == 2
    x, mask = noised(3, seed=0)
    assert few.log_prob(x, mask).isfinite().all()
    equal = torch.full_like(weights, 1 / 64)
    same = ShapeReference("shape", moments, equal).at(0.8, 0.6)
    torch.testing.assert_close(
        same.log_prob(x, mask), ShapeReference("shape", moments).at(0.8, 0.6).log_prob(x, mask)
    )


# ------------------------------------------------------------------ the artefact


@pytest.fixture(scope="module")
def stats(moments, tilt):
    equal = torch.full((len(moments.table_sizes),), 1 / 64, dtype=torch.float64)
    refinement = Refinement(LOG_SNR, 2000, 1000, (0.9, 0.1), (0.1, 0.05), equal, tilt)
    return GAGAStats(AtomLayout(F), moments, LOG_SNR, refinement=refinement)


def test_an_artefact_keeps_its_refinement(stats, tmp_path):
    stats.save_pretrained(tmp_path)
    again = GAGAStats.from_pretrained(tmp_path)
    assert again.to_dict() == stats.to_dict()
    assert again.to_dict()["schema_version"] == 3
    assert again.refinement.methods == ("em", "tilt")
    assert "refined by em and tilt" in repr(again)
    z, mask = wheels(10, seed=11)
    here = coefficients(LOG_SNR)
    for kind in ("auto", "shape", "plain", "size"):
        one, other = (s.reference(kind).at(*here) for s in (stats, again))
        assert torch.equal(one.transport(z, mask), other.transport(z, mask))
        assert torch.equal(one.log_prob(z, mask), other.log_prob(z, mask))
    assert isinstance(again.reference(), TiltedReference)
    assert not isinstance(again.reference("plain"), TiltedReference)
    assert again.reference("plain").kind == again.reference().kind == "shape"


@pytest.mark.parametrize("left", ["weights", "tilt"])
def test_an_artefact_may_have_one_of_the_two(stats, left, tmp_path):
    one = replace(stats, refinement=replace(stats.refinement, **{left: None}))
    one.save_pretrained(tmp_path)
    again = GAGAStats.from_pretrained(tmp_path)
    assert again.refinement.methods == one.refinement.methods
    assert getattr(again.refinement, left) is None


def test_a_plain_artefact_has_the_former_schema(stats, tmp_path):
    plain = replace(stats, refinement=None)
    plain.save_pretrained(tmp_path)
    config = json.loads((tmp_path / CONFIG_NAME).read_text())
    assert config["schema_version"] == 2
    assert "refinement" not in config
    assert GAGAStats.from_pretrained(tmp_path).refinement is None


def damaged(stats, entries, changes):
    """Read the artefact from its parts, some of them exchanged; the digest is not asked."""
    config = copy.deepcopy(stats.to_dict())
    for path, value in entries.items():
        *way, last = path.split(".")
        inside = config
        for key in way:
            inside = inside[key]
        inside[last] = value
    tensors = stats._tensors()
    for name, change in changes.items():
        tensors[name] = change(tensors[name]) if name in tensors else change(torch.zeros(1))
    return GAGAStats._from_config(config, {k: v for k, v in tensors.items() if v is not None})


NAN = math.nan


@pytest.mark.parametrize(
    ("entries", "changes", "message"),
    [
        ({"refinement": 5}, {}, "object with entries"),
        ({"refinement": None}, {}, "unknown tensor"),
        ({"refinement.methods": []}, {}, "methods"),
        ({"refinement.methods": ["em"]}, {}, "unknown tensor 'tilt_"),
        ({"refinement.log_snr": 61}, {}, "log_snr"),
        ({"refinement.n_items": 0}, {}, "n_items"),
        ({"refinement.plain_nats": [1]}, {}, "plain_nats"),
        ({"refinement.refined_nats": ["x", 1]}, {}, "refined_nats"),
        ({"refinement.tilt": None}, {}, "object with entries"),
        ({"refinement.tilt.features": "others-2"}, {}, "one of invariants-1"),
        ({"refinement.tilt.n_candidates": 10**6}, {}, "n_candidates .* from 1 to 1024"),
        ({"refinement.tilt.n_candidates": True}, {}, "n_candidates"),
        ({"refinement.tilt.length": 0}, {}, "length"),
        ({"refinement.tilt.amplitude": -1}, {}, "amplitude"),
        ({"refinement.tilt.limit": 100}, {}, "limit"),
        ({"refinement.tilt.log_snr": 3.0}, {}, "log_snr"),
        ({}, {"refined_weights": lambda x: 2 * x}, "not one"),
        ({}, {"refined_weights": lambda x: -x}, "holds -"),
        ({}, {"refined_weights": lambda x: x * NAN}, "holds nan"),
        ({}, {"refined_weights": lambda x: x[1:]}, "has shape"),
        ({}, {"refined_weights": lambda x: None}, "missing"),
        ({}, {"tilt_coefficients": lambda x: x * NAN}, "holds nan"),
        ({}, {"tilt_coefficients": lambda x: x[1:]}, "has shape"),
        ({}, {"tilt_coefficients": lambda x: x.float()}, "float32"),
        ({}, {"tilt_sizes": lambda x: x.flip(0)}, "rising"),
        ({}, {"tilt_sizes": lambda x: x - 9}, "from 1"),
        ({}, {"tilt_sizes": lambda x: x[:0]}, "rising"),
        ({}, {"tilt_cells": lambda x: x.flip(1)}, "must not fall"),
        ({}, {"tilt_cells": lambda x: x * 0}, "holds 0"),
        ({}, {"tilt_cells": lambda x: x[:, :0]}, "no cells"),
        ({}, {"tilt_cells": lambda x: x[0]}, "has shape"),
        ({}, {"tilt_cells": lambda x: x[0, 0]}, "tilt_cells"),
        ({}, {"tilt_more": lambda x: x}, "unknown tensor"),
    ],
)
def test_a_damaged_refinement_is_refused_by_name(stats, entries, changes, message):
    with pytest.raises(ArtefactError, match=message):
        damaged(stats, entries, changes)


def test_dense_data_have_no_refinement(stats):
    dense = DenseMoments((2, 3, 3))
    dense.update(torch.randn(9, 2, 3, 3, generator=generator()))
    with pytest.raises(StatsMismatchError, match="refinement is of molecules"):
        GAGAStats(DenseLayout((2, 3, 3)), dense, 0.0, refinement=stats.refinement)


def test_a_refinement_of_other_data_is_refused(stats):
    def moments_of(n_features, **arguments):
        fitted = ExchangeableMoments(n_features, **arguments)
        x, mask = wheels(200)
        fitted.update(torch.cat([x, x[..., 3:]], -1) if n_features > F else x, mask)
        return fitted

    old = stats.moments.metadata()
    del old["shape_rows"]
    only_tilt = replace(stats.refinement, weights=None)
    for moments, refinement, message in (
        (moments_of(F, table_size=32), stats.refinement, r"shape \(128,\), and the table has 64"),
        (moments_of(F + 1, table_size=64), only_tilt, r"coefficients of shape .* of 2 features"),
        (
            ExchangeableMoments.from_state_dict(stats.moments.state_dict(), old),
            stats.refinement,
            "keep no exact tensors",
        ),
    ):
        with pytest.raises(StatsMismatchError, match=f"of other data: .*{message}"):
            GAGAStats(AtomLayout(moments.n_features), moments, LOG_SNR, refinement=refinement)


# ------------------------------------------------------------------ fit


SETTINGS = {
    "layout": AtomLayout(F),
    "criterion": "cumulant",
    "n_criterion": 1000,
    "n_bootstrap": 0,
    "log_snr": (1.0, 0.0, -2.0, -4.0),
}


def test_fit_refines_its_start():
    x, mask = wheels(2000, seed=12)
    plain = fit([(x, mask)], **SETTINGS, tolerance=0.05)
    stats = fit([(x, mask)], **SETTINGS, tolerance=0.05, refine="tilt", refine_at=LOG_SNR)
    assert same_stats(plain, replace(stats, refinement=None))  # t* and the curve are the plain ones
    found = stats.refinement
    assert (found.methods, found.n_items, found.n_judged) == (("tilt",), 1000, 1000)
    assert found.log_snr == LOG_SNR
    assert found.refined_nats[0] < found.plain_nats[0] - 0.1
    assert "two_sample finds" in found.describe()


def test_what_does_not_help_is_left_out():
    x, mask = wheels(2000, seed=13)
    with pytest.warns(GAGAWarning, match=r"by tilt does not help.* The start stays plain"):
        stats = fit([(x, mask)], **{**SETTINGS, "log_snr": (-8.0,)}, tolerance=5.0, refine=["tilt"])
    assert stats.refinement is None


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"refine": "forest"}, DataError, "refine='forest' is unknown. Known: em, tilt"),
        ({"refine": "tilt", "reference": "size"}, DataError, "this is size. Leave refine out"),
        ({"refine": "tilt", "layout": DenseLayout((5, 4))}, DataError, "Leave refine out"),
        ({"refine": "tilt", "refine_at": "late"}, TruncationError, "refine_at='late'"),
        ({"refine": True}, DataError, "refine=True names no way to refine.*em, tilt"),
        ({"refine_at": LOG_SNR}, DataError, "refine_at is given and refine is not. Pass refine="),
        ({"n_refine": 2000}, DataError, "n_refine is given and refine is not. Pass refine="),
        (
            {"refine": "tilt", "n_criterion": 1400, "n_refine": 1000},
            DataError,
            "200 items are left",
        ),
        ({"refine": "tilt", "n_refine": 999}, DataError, "n_refine=999.*1000 or more"),
    ],
)
def test_what_cannot_be_refined_is_refused(options, error, message):
    x, mask = wheels(1600, seed=14)
    with pytest.raises(error, match=message):
        fit([(x, mask)], **{**SETTINGS, "tolerance": 5.0, **options})


def test_dense_data_are_refused_before_the_pass():
    """Only the first batch, which shows the layout, is read."""

    def batches():
        yield torch.zeros(4, 3, 2)
        pytest.fail("a second batch was read")

    with pytest.raises(DataError, match="refine is of the shape reference of molecules, and this"):
        fit(batches(), refine="tilt")


@pytest.mark.filterwarnings("ignore:600 data items")
def test_a_level_beyond_t_star_leaves_the_start_plain():
    x, mask = wheels(1600, seed=14)
    settings = {**SETTINGS, "n_criterion": 600, "tolerance": 5.0}
    with pytest.warns(GAGAWarning, match=r"refine_at=-59 is noisier than t\*.* stays plain"):
        stats = fit([(x, mask)], **settings, refine="tilt", refine_at=-59.0)
    assert same_stats(stats, fit([(x, mask)], **settings))


def test_the_names_of_the_command_line_are_those_of_the_library():
    from gaga_adapter.cli.options import REFINEMENTS

    assert REFINEMENTS == METHODS
