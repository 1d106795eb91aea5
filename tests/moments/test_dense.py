"""Dense moments against numpy, their algebra, and the low-rank sketch."""

import math

import numpy as np
import pytest
import torch

from gaga_adapter.covariance import DiagonalCovariance, EigenCovariance
from gaga_adapter.errors import ArtefactError, DataError, StatsMismatchError
from gaga_adapter.moments import DenseMoments, moments_from_state_dict
from gaga_adapter.moments.central import central_sums, merge_central

KINDS = ["channel", "element", "low_rank", "full"]
SHAPE = (3, 4, 2)


def toy_images(n=200, shape=SHAPE, seed=0):
    """Skewed, correlated, with different channels and an offset."""
    generator = torch.Generator().manual_seed(seed)
    d = math.prod(shape)
    mixing = torch.randn(d, d, generator=generator) / math.sqrt(d)
    noise = torch.empty(n, d).exponential_(generator=generator) - 1
    scale = torch.linspace(0.5, 2, shape[0]).reshape(-1, *[1] * (len(shape) - 1))
    return (noise @ mixing).reshape(n, *shape) * scale + 3 * scale


def moments_of(x, kind, batch=10**9, **options):
    moments = DenseMoments(tuple(x.shape[1:]), kind=kind, **options)
    for part in x.split(batch):
        moments.update(part)
    return moments


def axes_of(kind):
    return (0, 2, 3) if kind == "channel" else (0,)


# ------------------------------------------------------------------ against numpy


@pytest.mark.parametrize("kind", KINDS)
def test_moments_are_those_of_numpy(kind):
    x = toy_images()
    values = x.double().numpy()
    moments = moments_of(x, kind, batch=33)
    axes = axes_of(kind)
    assert moments.count == 200
    np.testing.assert_allclose(moments.mean, values.mean(axes), rtol=1e-12)
    np.testing.assert_allclose(moments.var, values.var(axes), rtol=1e-11)
    np.testing.assert_allclose(moments.channel_mean, values.mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(moments.channel_var, values.var((0, 2, 3)), rtol=1e-11)
    std = values.reshape(200, -1).std(1).mean()
    assert moments.paper_variance == pytest.approx(std, rel=1e-12)


def test_full_covariance_is_that_of_numpy():
    x = toy_images()
    covariance = moments_of(x, "full", batch=33).covariance()
    expected = np.cov(x.double().numpy().reshape(200, -1).T, ddof=0)
    np.testing.assert_allclose(covariance.sqrt() @ covariance.sqrt(), expected, atol=1e-11)
    element = moments_of(x, "element").covariance()
    assert isinstance(element, DiagonalCovariance)
    np.testing.assert_allclose(element.var, expected.diagonal(), rtol=1e-11)


def test_channels_pool_any_resolution():
    small, large = toy_images(50), toy_images(20, (3, 8, 5), seed=1)
    moments = DenseMoments(SHAPE)
    moments.update(small)
    moments.update(large)
    pooled = torch.cat([v.double().transpose(0, 1).flatten(1) for v in (small, large)], 1)
    torch.testing.assert_close(moments.mean, pooled.mean(1))
    torch.testing.assert_close(moments.var, pooled.var(1, correction=0))


def test_large_offsets_do_not_cancel():
    x = toy_images().double()
    torch.testing.assert_close(
        moments_of(x + 1e7, "channel", batch=20).var,
        moments_of(x, "channel").var,
        rtol=1e-8,
        atol=0,
    )


# ------------------------------------------------------------------ algebra


@pytest.mark.parametrize("kind", KINDS)
def test_batches_and_shards_give_the_same_moments(kind):
    x = toy_images()
    whole = moments_of(x, kind, rank=12)
    shards = [moments_of(x[i::3], kind, batch=17, rank=12) for i in range(3)]
    merged = shards[1].merge(shards[2]).merge(shards[0])
    for name, tensor in whole.state_dict().items():
        if name != "sketch":  # known up to a rotation of its rows, compared below
            torch.testing.assert_close(merged.state_dict()[name], tensor, rtol=1e-11, atol=1e-11)
    if kind == "low_rank":  # 2 rank = 24 rows hold everything there is
        one, other = whole.covariance(), merged.covariance()
        torch.testing.assert_close(one.eigenvalues, other.eigenvalues, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(one.sqrt(), other.sqrt(), rtol=1e-7, atol=1e-9)


def test_merging_parts_is_the_formula_on_the_whole():
    x = torch.empty(40, 3).exponential_(generator=torch.Generator().manual_seed(0)).double()
    n_a, n_b = torch.tensor([13.0, 27.0], dtype=torch.float64)
    merged = merge_central(n_a, central_sums(x[:13], (0,)), n_b, central_sums(x[13:], (0,)))
    torch.testing.assert_close(merged, central_sums(x, (0,)), rtol=1e-12, atol=1e-12)
    nothing = torch.zeros_like(merged)
    alone = merge_central(torch.zeros(()).double(), nothing, n_b, merged)
    torch.testing.assert_close(alone, merged)


# ------------------------------------------------------------------ low rank


def test_low_rank_data_are_exact():
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(24, 5, generator=generator).double()
    x = (torch.randn(300, 5, generator=generator).double() @ root.T).reshape(300, *SHAPE)
    covariance = moments_of(x, "low_rank", batch=11, rank=6).covariance()
    expected = np.cov(x.numpy().reshape(300, -1).T, ddof=0)
    np.testing.assert_allclose(covariance.sqrt() @ covariance.sqrt(), expected, atol=1e-9)
    assert float(covariance.residual) < 1e-12


def test_low_rank_keeps_the_trace_and_nears_the_leading_eigenvalues():
    """A decaying spectrum cut again and again: within 2% here, against exact eigenvalues."""
    generator = torch.Generator().manual_seed(0)
    scale = 0.7 ** torch.arange(40).double()
    turn = torch.linalg.qr(torch.randn(40, 40, generator=generator).double()).Q
    x = (torch.randn(1000, 40, generator=generator).double() * scale) @ turn + 5
    exact = moments_of(x, "full").covariance()
    covariance = moments_of(x, "low_rank", batch=25, rank=8).covariance()
    assert isinstance(covariance, EigenCovariance)
    assert covariance.basis.shape == (40, 8)
    torch.testing.assert_close(covariance.trace(), exact.trace(), rtol=1e-10, atol=0)
    leading = exact.eigenvalues.flip(0)[:8]
    torch.testing.assert_close(covariance.eigenvalues, leading, rtol=0.02, atol=0)
    orthonormal = covariance.basis.T @ covariance.basis
    torch.testing.assert_close(orthonormal, torch.eye(8).double(), rtol=0, atol=1e-9)


def test_memory_does_not_grow_with_the_count():
    one, many = (
        moments_of(toy_images(64), "low_rank", rank=4),
        DenseMoments(SHAPE, "low_rank", rank=4),
    )
    for seed in range(5):
        many.update(toy_images(64, seed=seed))
    sizes = [{k: v.shape for k, v in m.state_dict().items()} for m in (one, many)]
    assert sizes[0] == sizes[1]


# ------------------------------------------------------------------ artefact and refusals


@pytest.mark.parametrize("kind", KINDS)
def test_state_round_trips_exactly(kind):
    moments = moments_of(toy_images(), kind)
    state = moments.state_dict()
    again = moments_from_state_dict(state, moments.metadata())
    assert isinstance(again, DenseMoments)
    assert again.metadata() == moments.metadata()
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, state[name])
    with pytest.raises(ArtefactError, match="'sums' of the moments has shape"):
        moments_from_state_dict({**state, "sums": state["sums"][..., :-1]}, moments.metadata())
    with pytest.raises(ArtefactError, match="std"):
        moments_from_state_dict({k: v for k, v in state.items() if k != "std"}, moments.metadata())


def test_bad_batches_are_refused_whole():
    x = toy_images(50)
    moments = moments_of(x, "element")
    broken = toy_images(10)
    broken[4, 0, 0, 0] = math.nan
    with pytest.raises(DataError, match=r"event 54 \(number 4 of this batch\).* 1 of 10"):
        moments.update(broken)
    assert moments.count == 50
    with pytest.raises(StatsMismatchError, match=r"shape \(3, 4, 2\), got \(4, 2\)"):
        moments.update(x[:, 0])
    with pytest.raises(StatsMismatchError, match="cannot merge"):
        moments.merge(DenseMoments(SHAPE, "channel"))
    moments.update(x[:0])
    assert moments.count == 50


def test_bad_questions_are_refused():
    empty = DenseMoments(SHAPE)
    for ask in ("mean", "var", "channel_var", "paper_variance"):
        with pytest.raises(DataError, match="found 0 events"):
            getattr(empty, ask)
    with pytest.raises(StatsMismatchError, match="no covariance of entries"):
        moments_of(toy_images(), "channel").covariance()
    with pytest.raises(StatsMismatchError, match=r"unknown kind of moments 'x'\. Known: channel"):
        DenseMoments(SHAPE, "x")
    with pytest.raises(StatsMismatchError, match="limit of 4096"):
        DenseMoments((3, 64, 64), "full")


def test_input_is_not_changed():
    x = toy_images()
    before = x.clone()
    moments_of(x, "low_rank")
    assert torch.equal(x, before)
