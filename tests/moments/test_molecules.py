"""Molecule moments against plain numpy over a list of molecules, and their algebra."""

import math
import warnings

import numpy as np
import pytest
import torch

from gaga_adapter.errors import ArtefactError, DataError, GAGAWarning, StatsMismatchError
from gaga_adapter.moments import ExchangeableMoments, moments_from_state_dict
from gaga_adapter.subspace import mask_from_sizes


def toy_molecules(n_molecules=400, n_features=4, sizes=(3, 9), seed=0, dtype=torch.float32):
    """Elongated molecules of varied size, spread and composition; not centred."""
    generator = torch.Generator().manual_seed(seed)
    n_atoms = torch.randint(*sizes, (n_molecules,), generator=generator)
    mask = mask_from_sizes(n_atoms)
    shape = (n_molecules, mask.shape[1])
    stretch = torch.tensor([2.0, 1.0, 0.4]) * (
        0.5 + torch.rand(n_molecules, 1, 1, generator=generator)
    )
    positions = torch.randn(*shape, 3, generator=generator) * stretch + 1.5
    kinds = torch.rand(*shape, n_features, generator=generator) ** 3
    bias = torch.rand(n_molecules, 1, n_features, generator=generator)
    x = torch.cat([positions, kinds + bias], -1) * mask[..., None]
    return x.to(dtype), mask


def moments_of(x, mask, batch=10**9, **options):
    moments = ExchangeableMoments(x.shape[-1] - 3, **options)
    for part, part_mask in zip(x.split(batch), mask.split(batch), strict=True):
        moments.update(part, part_mask)
    return moments


def per_molecule(x, mask):
    """[(n, q, m, W, gyration, std, atoms)] by numpy, one molecule at a time."""
    rows = []
    for molecule, real in zip(x.double().numpy(), mask.numpy(), strict=True):
        atoms = molecule[real]
        n = len(atoms)
        positions = atoms[:, :3] - atoms[:, :3].mean(0)
        mean = atoms[:, 3:].mean(0)
        around = atoms[:, 3:] - mean
        std = math.sqrt((np.sum(positions**2) + np.sum(around**2)) / atoms.size)
        gyration = positions.T @ positions / max(n - 1, 1)
        within = around.T @ around / max(n - 1, 1)
        centred = np.concatenate([positions, atoms[:, 3:]], 1)
        rows.append((n, np.trace(gyration) / 3, mean, within, gyration, std, centred))
    return rows


def assert_same(one, other, exact_table=True):
    """Moments to rounding, the table to the last bit but for its eigenvalues.

    Those come from LAPACK, whose kernels may round by where a matrix lies in memory: an eigenvalue
    of 0, as of three atoms, is then another 1e-17, and any other the float32 beside it.
    """
    a, b = one.state_dict(), other.state_dict()
    assert a.keys() == b.keys()
    for name in a:
        if name == "table_rows" and exact_table:
            eps = torch.finfo(torch.float32).eps
            torch.testing.assert_close(a[name][:, :3], b[name][:, :3], rtol=eps, atol=1e-12)
            assert torch.equal(a[name][:, 3:], b[name][:, 3:])
        elif name.startswith("table"):
            assert not exact_table or torch.equal(a[name], b[name]), name
        else:
            torch.testing.assert_close(a[name], b[name], rtol=1e-12, atol=1e-12, msg=name)


# ------------------------------------------------------------------ against numpy


def test_every_moment_is_that_of_numpy():
    x, mask = toy_molecules()
    moments = moments_of(x, mask, batch=64)
    rows = per_molecule(x, mask)
    assert moments.count == len(rows)
    assert moments.sizes.tolist() == sorted({row[0] for row in rows})
    for i, n in enumerate(moments.sizes.tolist()):
        same = [row for row in rows if row[0] == n]
        assert int(moments.counts[i]) == len(same)
        q, means = np.array([row[1] for row in same]), np.array([row[2] for row in same])
        assert float(moments.v_x[i]) == pytest.approx(q.mean(), rel=1e-12)
        assert float(moments.v_x_std[i]) == pytest.approx(q.std(), rel=1e-10)
        np.testing.assert_allclose(moments.feature_mean[i], means.mean(0), rtol=1e-12)
        within = np.mean([row[3] for row in same], 0)
        np.testing.assert_allclose(moments.within[i], within, rtol=1e-11, atol=1e-14)
        between = n * np.cov(means.T, ddof=0)
        np.testing.assert_allclose(moments.between[i], between, rtol=1e-10, atol=1e-14)


def test_pooled_moments_are_those_of_numpy():
    x, mask = toy_molecules()
    moments = moments_of(x, mask)
    rows = per_molecule(x, mask)
    n = np.array([row[0] for row in rows])
    square = np.array([3 * (row[0] - 1) * row[1] for row in rows])
    atoms = np.concatenate([row[6] for row in rows])[:, 3:]
    assert moments.position_variance_per_atom == pytest.approx(square.sum() / (3 * n).sum())
    assert moments.position_variance_per_dof == pytest.approx(square.sum() / (3 * (n - 1)).sum())
    assert moments.mean_molecule_position_variance == pytest.approx(np.mean(square / (3 * n)))
    spread = [row[6][:, 3:].var(0).mean() for row in rows]
    assert moments.mean_molecule_feature_variance == pytest.approx(np.mean(spread))
    assert moments.paper_variance == pytest.approx(np.mean([row[5] for row in rows]))
    np.testing.assert_allclose(moments.pooled_feature_mean, atoms.mean(0), rtol=1e-12)
    np.testing.assert_allclose(moments.pooled_feature_variance, atoms.var(0), rtol=1e-11)


def test_the_position_cumulant_is_that_of_numpy():
    x, mask = toy_molecules(n_molecules=300)
    moments = moments_of(x, mask, batch=37)
    rows = per_molecule(x, mask)
    for i, size in enumerate(moments.sizes.tolist()):
        atoms = np.concatenate([row[6] for row in rows if row[0] == size])
        radius2 = (atoms[:, :3] ** 2).sum(1)
        expected = np.mean(radius2**2) / 15 - (np.mean(radius2) / 3) ** 2
        assert float(moments.position_fourth_cumulant()[i]) == pytest.approx(expected, rel=1e-9)


def test_fourth_position_cumulant_is_zero_for_gaussian_atoms_in_large_molecules():
    """Per-atom positions are exactly Gaussian here; 1e-6 false alarms at 4.9 standard errors."""
    generator = torch.Generator().manual_seed(3)
    x = torch.zeros(4000, 30, 4)
    x[..., :3] = torch.randn(4000, 30, 3, generator=generator)
    moments = moments_of(x, torch.ones(4000, 30, dtype=torch.bool), table_size=0)
    variance = 29 / 30
    # Var(|x|^4 / 15) = (945 - 225) v^4 / 225 for a Gaussian vector, atoms nearly independent.
    error = variance**2 * math.sqrt(720 / 225 / (4000 * 30)) * 1.2
    assert abs(float(moments.position_fourth_cumulant()[0])) < 4.9 * error


def test_large_offsets_do_not_cancel():
    x, mask = toy_molecules(dtype=torch.float64)
    shifted = x + 1e6 * mask[..., None]
    a, b = moments_of(x, mask), moments_of(shifted, mask)
    torch.testing.assert_close(a.v_x, b.v_x, rtol=1e-8, atol=0)
    torch.testing.assert_close(a.between, b.between, rtol=1e-6, atol=1e-7)


# ------------------------------------------------------------------ algebra


def test_batches_and_shards_give_the_same_moments():
    x, mask = toy_molecules()
    whole = moments_of(x, mask, table_size=16)
    assert_same(whole, moments_of(x, mask, batch=7, table_size=16))
    shards = [moments_of(x[i::3], mask[i::3], batch=50, table_size=16) for i in range(3)]
    assert_same(whole, shards[2].merge(shards[0]).merge(shards[1]))


def test_order_of_molecules_and_atoms_and_padding_do_not_matter():
    x, mask = toy_molecules()
    whole = moments_of(x, mask, table_size=16)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(1))
    assert_same(whole, moments_of(x[order], mask[order], table_size=16))
    wide = torch.nn.functional.pad(x, (0, 0, 0, 5))
    assert_same(whole, moments_of(wide, torch.nn.functional.pad(mask, (0, 5)), table_size=16))
    reversed_atoms = moments_of(x.flip(1), mask.flip(1), table_size=16)
    assert_same(whole, reversed_atoms, exact_table=False)
    rows, others = whole.state_dict(), reversed_atoms.state_dict()
    assert torch.equal(rows["table_priority"], others["table_priority"])
    torch.testing.assert_close(rows["table_rows"], others["table_rows"], rtol=1e-5, atol=1e-6)


def test_rotations_and_shifts_do_not_matter():
    x, mask = toy_molecules(dtype=torch.float64)
    generator = torch.Generator().manual_seed(2)
    turn = torch.linalg.qr(torch.randn(len(x), 3, 3, generator=generator).double()).Q
    moved = x.clone()
    moved[..., :3] = (x[..., :3] @ turn + 3) * mask[..., None]
    assert_same(moments_of(x, mask, table_size=0), moments_of(moved, mask, table_size=0))


def test_table_is_a_sample_of_the_data_and_holds_all_when_it_can():
    x, mask = toy_molecules(n_molecules=120)
    rows = [row for row in per_molecule(x, mask) if row[0] == 5]
    full = moments_of(x, mask, table_size=1000).at_size(5, min_count=1)
    assert len(full.gyration) == len(rows)
    torch.testing.assert_close(full.sample_weight.sum(), torch.tensor(1.0).double())
    by_size = full.gyration.sum(1).argsort()
    expected = sorted(rows, key=lambda row: row[1])
    for i, row in zip(by_size, expected, strict=True):
        np.testing.assert_allclose(full.gyration[i], np.linalg.eigvalsh(row[4]), rtol=1e-5)
        np.testing.assert_allclose(full.sample_mean[i], row[2], rtol=1e-5)
        np.testing.assert_allclose(full.sample_within[i], row[3], rtol=1e-4, atol=1e-7)
    few = moments_of(x, mask, table_size=4).at_size(5, min_count=1)
    assert len(few.gyration) == 4
    # rows are told by a mean, which depends on no other molecule; eigenvalues are LAPACK's
    assert {float(m) for m in few.sample_mean[:, 0]} <= {float(m) for m in full.sample_mean[:, 0]}


def test_table_is_a_uniform_sample():
    """Which half of 2000 molecules is kept tells nothing of their extent (1e-6 false alarms)."""
    from scipy.stats import ks_2samp

    x, mask = toy_molecules(n_molecules=2000, sizes=(6, 7))
    kept = moments_of(x, mask, table_size=1000).at_size(6)
    everything = moments_of(x, mask, table_size=2000).at_size(6)
    chosen = torch.isin(everything.sample_mean[:, 0], kept.sample_mean[:, 0])
    assert int(chosen.sum()) == 1000
    extent = everything.gyration.sum(1)
    assert ks_2samp(extent[chosen], extent[~chosen]).pvalue > 1e-6


def test_duplicates_are_kept():
    x, mask = toy_molecules(n_molecules=10)
    twice = moments_of(torch.cat([x, x]), torch.cat([mask, mask]))
    assert len(twice.state_dict()["table_rows"]) == 20


def test_input_is_not_changed():
    x, mask = toy_molecules()
    before = x.clone()
    moments_of(x, mask)
    assert torch.equal(x, before)


def test_mask_is_inferred_from_padding():
    x, mask = toy_molecules()
    inferred = ExchangeableMoments(4)
    inferred.update(x)
    assert_same(inferred, moments_of(x, mask))


def test_one_atom_has_no_positions():
    x = torch.tensor([[[1.0, 2.0, 3.0, 0.5]], [[4.0, 5.0, 6.0, 0.7]]])
    moments = moments_of(x, torch.ones(2, 1, dtype=torch.bool))
    assert moments.sizes.tolist() == [1]
    assert float(moments.v_x[0]) == 0
    assert float(moments.within.abs().max()) == 0
    assert float(moments.feature_mean[0, 0]) == pytest.approx(0.6)
    assert moments.at_size(1).count == 2
    with pytest.raises(DataError, match="1 atom only"):
        moments.at_size(2)


def test_positions_alone():
    x, mask = toy_molecules(n_features=0)
    moments = moments_of(x, mask)
    assert moments.at_size(5).within.shape == (0, 0)
    assert moments.mean_molecule_feature_variance == 0


# ------------------------------------------------------------------ rare and unseen sizes


def power_law(counts, slope=0.5, table_size=1024):
    """Moments with v_x exactly N^slope and a feature of N / 10, from `counts[N]` molecules each."""
    moments = ExchangeableMoments(1, table_size=table_size)
    generator = torch.Generator().manual_seed(0)
    for n, count in counts.items():
        x = torch.randn(count, n, 4, generator=generator, dtype=torch.float64)
        x[..., :3] -= x[..., :3].mean(1, keepdim=True)
        square = x[..., :3].square().sum((1, 2), keepdim=True)
        x[..., :3] *= torch.sqrt(3 * (n - 1) * n**slope / square)
        x[..., 3] = n / 10
        moments.update(x)
    return moments


def test_common_sizes_speak_for_themselves():
    size = power_law({5: 300, 6: 250}).at_size(5)
    assert (size.count, size.radius) == (300, 0)
    assert float(size.feature_mean) == pytest.approx(0.5)


def test_rare_sizes_borrow_along_the_slope():
    moments = power_law({5: 300, 8: 20, 9: 250, 12: 300})
    assert moments._log_slope() == pytest.approx(0.5, abs=1e-9)
    size = moments.at_size(8)
    assert (size.count, size.radius) == (270, 1)
    assert size.v_x == pytest.approx(8**0.5, rel=1e-9)
    assert float(size.feature_mean) == pytest.approx((20 * 0.8 + 250 * 0.9) / 270)
    unseen = moments.at_size(7)
    assert (unseen.count, unseen.radius) == (570, 2)
    assert unseen.v_x == pytest.approx(7**0.5, rel=1e-9)
    torch.testing.assert_close(
        unseen.gyration.mean(1), torch.full((570,), 7**0.5).double(), rtol=1e-6, atol=0
    )


def test_window_weights_sizes_by_their_molecules_not_by_their_samples():
    size = power_law({6: 60, 8: 180}, table_size=10).at_size(7)
    assert len(size.sample_weight) == 20
    assert float(size.sample_weight[:10].sum()) == pytest.approx(60 / 240)


def test_too_few_molecules_pool_everything():
    size = power_law({5: 30, 9: 20}).at_size(7)
    assert (size.count, size.radius) == (50, 2)


def test_far_sizes_warn_and_near_ones_do_not():
    moments = power_law({8: 300, 12: 300})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        moments.at_size(14)
    with pytest.warns(GAGAWarning, match="40 atoms is far outside of the sizes seen, 8 to 12"):
        size = moments.at_size(40)
    assert size.v_x == pytest.approx(40**0.5, rel=1e-9)


def test_one_size_has_no_slope():
    assert power_law({8: 10})._log_slope() == 0


# ------------------------------------------------------------------ artefact


def test_state_round_trips_exactly():
    moments = moments_of(*toy_molecules())
    state = moments.state_dict()
    assert {v.dtype for v in state.values()} <= {
        torch.float64, torch.float32, torch.int64, torch.int32,
    }  # fmt: skip
    again = moments_from_state_dict(state, moments.metadata())
    assert isinstance(again, ExchangeableMoments)
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, state[name])
        assert tensor.is_contiguous()
    again.merge(moments)
    assert again.count == 2 * moments.count


def test_broken_states_are_refused():
    moments = moments_of(*toy_molecules())
    state, metadata = moments.state_dict(), moments.metadata()
    with pytest.raises(ArtefactError, match="'x', and must be one of dense, exchangeable"):
        moments_from_state_dict(state, {**metadata, "moments": "x"})
    with pytest.raises(ArtefactError, match="scatter"):
        moments_from_state_dict({k: v for k, v in state.items() if k != "scatter"}, metadata)
    with pytest.raises(ArtefactError, match="shape"):
        moments_from_state_dict({**state, "mean": state["mean"][:, :-1]}, metadata)
    with pytest.raises(ArtefactError, match="shape"):
        moments_from_state_dict({**state, "count": state["count"][:-1]}, metadata)
    with pytest.raises(ArtefactError, match="shape"):
        moments_from_state_dict({**state, "table_rows": state["table_rows"][:-1]}, metadata)


# ------------------------------------------------------------------ refusals


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_numbers_that_are_not_finite_name_their_molecule(bad):
    x, mask = toy_molecules()
    moments = moments_of(x[:100], mask[:100])
    before = moments.state_dict()
    broken = x[100:200].clone()
    broken[17, 1, 2] = bad
    with pytest.raises(DataError, match=r"molecule 117 \(number 17 of this batch\).* 1 of 100"):
        moments.update(broken, mask[100:200])
    assert all(torch.equal(moments.state_dict()[k], v) for k, v in before.items())


def test_empty_molecules_and_wrong_shapes():
    x, mask = toy_molecules()
    moments = ExchangeableMoments(4)
    empty = mask.clone()
    empty[3] = False
    with pytest.raises(DataError, match=r"molecule 3 .* has no atoms"):
        moments.update(x, empty)
    with pytest.raises(StatsMismatchError, match=r"\(B, N, 3\+4\), got \(400, 8, 6\)"):
        moments.update(x[..., :-1], mask)
    with pytest.raises(StatsMismatchError, match="the mask must be bool"):
        moments.update(x, mask.float() / 2)
    with pytest.raises(StatsMismatchError, match="cannot merge"):
        moments.merge(ExchangeableMoments(5))
    moments.update(x[:0], mask[:0])
    assert moments.count == 0


def test_nothing_seen_is_an_error_when_asked_for_results():
    moments = ExchangeableMoments(4)
    for ask in ("sizes", "v_x", "between", "paper_variance", "pooled_feature_mean"):
        with pytest.raises(DataError, match="found 0 molecules"):
            getattr(moments, ask)
    with pytest.raises(DataError, match="found 0 molecules"):
        moments.at_size(5)
    with pytest.raises(DataError, match="at least 1 atom"):
        moments.at_size(0)


def test_sizes_seen_once_still_have_a_spread():
    """One molecule of every size has no covariance of its own; together they have."""
    generator = torch.Generator().manual_seed(0)
    moments = ExchangeableMoments(1)
    spread = []
    for n in range(20, 420):
        mean = 0.3 + 2.0 * torch.randn(1, generator=generator) / n**0.5  # B = 4
        x = torch.randn(1, n, 4, generator=generator)
        x[..., 3] = mean
        moments.update(x, torch.ones(1, n, dtype=torch.bool))
        spread.append(float(mean))
    pooled = moments.at_size(220, min_count=200)
    window = torch.tensor(spread)[220 - 20 - pooled.radius : 220 - 20 + pooled.radius + 1]
    assert pooled.count == len(window)
    expected = 220 * float(window.double().var(correction=0))
    np.testing.assert_allclose(float(pooled.between), expected, rtol=1e-4)
    # 201 draws: the variance is within 6 standard errors of 4, a false alarm in 1e8
    assert abs(float(pooled.between) - 4) < 4 * 6 * (2 / 200) ** 0.5
    assert pooled.v_x_std > 0
