"""Symmetries of the compact denoiser, its limits, and its life on disk."""

import pytest
import torch

from gaga_adapter.errors import DataError, StatsMismatchError
from gaga_adapter.molecules.denoiser import MoleculeDenoiser
from gaga_adapter.subspace import mask_from_sizes, project


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    small = MoleculeDenoiser(width=32, pair_width=16, n_layers=3, n_vectors=4, n_heads=4).double()
    for parameter in small.parameters():  # symmetric initial values must not hide anything
        torch.nn.init.normal_(parameter, std=0.2)
    return small


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    mask = mask_from_sizes(torch.tensor([5, 8, 1]), 8)
    x = torch.randn(3, 8, 8, generator=generator, dtype=torch.float64)
    return project(x, mask), torch.tensor([0.1, 1.0, 5.0], dtype=torch.float64), mask


def orthogonal(determinant):
    q, _ = torch.linalg.qr(
        torch.randn(3, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    )
    return q * determinant * torch.linalg.det(q).sign()


@pytest.mark.parametrize("determinant", [1, -1])
def test_rotations_and_reflections(model, batch, determinant):
    x, sigma, mask = batch
    q = orthogonal(determinant)
    turned = torch.cat([x[..., :3] @ q, x[..., 3:]], -1)
    expected = model(x, sigma, mask).sample
    expected = torch.cat([expected[..., :3] @ q, expected[..., 3:]], -1)
    torch.testing.assert_close(model(turned, sigma, mask).sample, expected, rtol=1e-9, atol=1e-9)


def test_permutations(model, batch):
    x, sigma, mask = batch
    order = torch.tensor([3, 1, 4, 0, 2, 5, 6, 7])
    got = model(x[:1, order], sigma[:1], mask[:1]).sample
    torch.testing.assert_close(got, model(x[:1], sigma[:1], mask[:1]).sample[:, order])


def test_padding_and_company_change_nothing(model, batch):
    x, sigma, mask = batch
    alone = model(x[:1, :5], sigma[:1], mask[:1, :5]).sample
    together = model(x, sigma, mask).sample
    torch.testing.assert_close(together[:1, :5], alone)
    assert together[~mask].abs().max() == 0


def test_positions_are_mean_free_and_elements_are_probabilities(model, batch):
    x, sigma, mask = batch
    clean = model(x, sigma, mask).sample
    assert clean[..., :3].sum(1).abs().max() < 1e-12
    assert (clean[..., 3:].sum(-1)[mask] * 4 - 1).abs().max() < 1e-12


def test_nearly_clean_input_is_returned(model):
    mask = mask_from_sizes(torch.tensor([6]))
    onehot = torch.eye(5, dtype=torch.float64)[[0, 1, 1, 2, 3, 4]] / 4
    x = torch.randn(1, 6, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    x = project(torch.cat([x, onehot[None]], -1), mask)
    torch.testing.assert_close(model(x, 1e-3, mask).sample, x, atol=2e-2, rtol=0)


def test_charge_channel_is_the_expected_atomic_number():
    torch.manual_seed(0)
    model = MoleculeDenoiser(charge_scale=10.0, width=32, n_layers=1)
    mask = mask_from_sizes(torch.tensor([4]))
    x = project(torch.randn(1, 4, 9), mask)
    clean = model(x, 0.7, mask).sample
    numbers = torch.tensor([1.0, 6.0, 7.0, 8.0, 9.0])
    torch.testing.assert_close(clean[..., 8], clean[..., 3:8] @ numbers * 4 / 10)


def test_save_and_load(model, batch, tmp_path):
    x, sigma, mask = batch
    model.save_pretrained(tmp_path)
    again = MoleculeDenoiser.from_pretrained(tmp_path).double()
    torch.testing.assert_close(again(x, sigma, mask).sample, model(x, sigma, mask).sample)
    assert again.layout == model.layout


def test_wrong_channels_and_heads(model, batch):
    x, sigma, mask = batch
    with pytest.raises(StatsMismatchError, match=r"7 channels.*3\+5 channels"):
        model(x[..., :7], sigma, mask)
    with pytest.raises(DataError, match="width=30 is no multiple of n_heads=8"):
        MoleculeDenoiser(width=30)
