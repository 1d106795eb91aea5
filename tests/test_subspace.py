"""The zero-centre-of-mass subspace: a projector of the right rank that minds its mask."""

import pytest
import torch

from gaga_adapter.subspace import (
    atoms_first,
    degrees_of_freedom,
    mask_from_padding,
    mask_from_sizes,
    project,
    remove_mean,
)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    mask = mask_from_sizes(torch.tensor([5, 1, 7, 3]))
    x = torch.randn(4, 7, 6, generator=generator, dtype=torch.float64) * mask[..., None]
    return x, mask


def test_masks(batch):
    x, mask = batch
    assert torch.equal(mask_from_padding(x), mask)
    assert mask.sum(1).tolist() == [5, 1, 7, 3]
    assert mask_from_sizes(torch.tensor([1, 2]), 4).tolist() == [[1, 0, 0, 0], [1, 1, 0, 0]]


def test_atoms_come_first_in_their_order(batch):
    x, mask = batch
    assert atoms_first(x, mask)[0] is x
    order = torch.tensor([2, 5, 0, 6, 3, 1, 4])
    y, real = atoms_first(x[:, order], mask[:, order])
    assert torch.equal(real, mask)
    for row, n in enumerate([5, 1, 7, 3]):
        assert torch.equal(y[row, :n], x[row, [i for i in order.tolist() if i < n]])
        assert not bool(y[row, n:].any())


def test_mean_is_gone_and_the_rest_stays(batch):
    x, mask = batch
    before = x.clone()
    y = project(x)
    torch.testing.assert_close(y[..., :3].sum(1), torch.zeros(4, 3).double(), rtol=0, atol=1e-14)
    assert torch.equal(y[..., 3:], x[..., 3:])
    assert torch.equal(y[~mask], torch.zeros(12, 6).double())
    assert torch.equal(x, before)


def test_padding_may_hold_anything(batch):
    x, mask = batch
    dirty = torch.where(mask[..., None], x, torch.nan)
    assert torch.equal(project(dirty, mask), project(x, mask))


def test_it_is_an_orthogonal_projector_of_rank_three_n_minus_one():
    n = 6
    mask = torch.ones(3 * n, n, dtype=torch.bool)
    basis = torch.eye(3 * n, dtype=torch.float64).reshape(3 * n, n, 3)
    matrix = remove_mean(basis, mask).reshape(3 * n, 3 * n)
    torch.testing.assert_close(matrix @ matrix, matrix)
    torch.testing.assert_close(matrix, matrix.T)
    assert round(float(matrix.trace())) == degrees_of_freedom(n) == 15
    assert degrees_of_freedom(torch.tensor([1, 5])).tolist() == [0, 12]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_dtype_is_kept(batch, dtype):
    x, mask = batch
    assert project(x.to(dtype), mask).dtype == dtype
