"""Every operation of the covariance families against the explicit matrix."""

import pytest
import torch

from gaga_adapter.covariance import DiagonalCovariance, EigenCovariance

D = 5


def full(batch=()):
    root = torch.randn(*batch, D, D, generator=torch.Generator().manual_seed(1)).double()
    return EigenCovariance.from_matrix(root @ root.mT + 0.1 * torch.eye(D).double())


def low_rank(batch=()):
    root = torch.randn(*batch, D, 2, generator=torch.Generator().manual_seed(2)).double()
    basis = torch.linalg.qr(root).Q
    values = torch.rand(*batch, 2, generator=torch.Generator().manual_seed(3)).double() + 1
    return EigenCovariance(basis, values, torch.full(batch, 0.3, dtype=torch.float64))


def diagonal(batch=()):
    return DiagonalCovariance(
        torch.rand(*batch, D, generator=torch.Generator().manual_seed(4)).double() + 0.1
    )


def dense(covariance):
    """The matrix, built without the methods under test."""
    if isinstance(covariance, DiagonalCovariance):
        return torch.diag_embed(covariance.var)
    inside = covariance.basis @ torch.diag_embed(covariance.eigenvalues) @ covariance.basis.mT
    rest = torch.eye(D).double() - covariance.basis @ covariance.basis.mT
    return inside + covariance.residual[..., None, None] * rest


each_family = pytest.mark.parametrize("make", [full, low_rank, diagonal])
each_batch = pytest.mark.parametrize("batch", [(), (3,)], ids=["one", "batch"])


@each_batch
@each_family
@pytest.mark.parametrize(("a", "b"), [(1.0, 0.0), (0.6, 0.8), (1.0, 40.0), (0.0, 1.0)])
def test_operations_are_those_of_the_matrix(make, batch, a, b):
    covariance = make(batch).affine(a, b)
    matrix = a**2 * dense(make(batch)) + b**2 * torch.eye(D).double()
    torch.testing.assert_close(dense(covariance), matrix)
    x = torch.randn(*batch, D, generator=torch.Generator().manual_seed(5)).double()
    inverse = torch.linalg.inv(matrix)
    twice = covariance.sqrt_mul(covariance.sqrt_mul(x))
    torch.testing.assert_close(twice, (matrix @ x[..., None])[..., 0])
    torch.testing.assert_close(
        covariance.quadratic(x), (x[..., None, :] @ inverse @ x[..., None])[..., 0, 0]
    )
    torch.testing.assert_close(covariance.log_det(), torch.logdet(matrix))
    torch.testing.assert_close(covariance.trace(), matrix.diagonal(dim1=-2, dim2=-1).sum(-1))
    torch.testing.assert_close(
        covariance.inverse_trace(), inverse.diagonal(dim1=-2, dim2=-1).sum(-1)
    )
    if isinstance(covariance, EigenCovariance):
        torch.testing.assert_close(covariance.inverse(), inverse)
        torch.testing.assert_close(covariance.sqrt() @ covariance.sqrt(), matrix)


@each_family
def test_a_batch_of_vectors_shares_one_covariance(make):
    covariance = make()
    x = torch.randn(7, D, generator=torch.Generator().manual_seed(6)).double()
    rows = torch.stack([covariance.sqrt_mul(row) for row in x])
    torch.testing.assert_close(covariance.sqrt_mul(x), rows)
    torch.testing.assert_close(
        covariance.quadratic(x), torch.stack([covariance.quadratic(row) for row in x])
    )


def test_singular_covariance_has_a_root_and_no_volume():
    flat = EigenCovariance.from_matrix(torch.ones(3, 3).double())
    x = torch.tensor([1.0, -1.0, 0.0]).double()
    torch.testing.assert_close(flat.sqrt_mul(x), torch.zeros(3).double(), rtol=0, atol=1e-7)
    assert float(flat.affine(1.0, 0.1).log_det()) == pytest.approx(
        float(torch.logdet(torch.ones(3, 3).double() + 0.01 * torch.eye(3).double()))
    )


def test_batches_join_and_split():
    one = low_rank((3,))
    both = EigenCovariance.cat([one, one])
    torch.testing.assert_close(dense(both.map(lambda tensor: tensor[[4, 1]])), dense(one)[[1, 1]])


def test_moving_changes_dtype_only():
    for covariance in (low_rank(), diagonal()):
        assert covariance.to(torch.device("cpu"), torch.float32).trace().dtype == torch.float32
