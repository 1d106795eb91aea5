"""The moments of real QM9, all 130,831 molecules, against plain numpy and the published figures."""

import numpy as np
import pytest
import torch

from gaga_adapter import GAGAStats
from gaga_adapter.layout import MoleculeLayout
from gaga_adapter.molecules.encoding import encode
from gaga_adapter.molecules.qm9.data import load_qm9
from gaga_adapter.moments import ExchangeableMoments

pytestmark = pytest.mark.data


@pytest.fixture(scope="module")
def molecules():
    return load_qm9()


@pytest.fixture(scope="module")
def moments(molecules):
    streamed = ExchangeableMoments(5)
    for part in molecules.batches(4096):
        streamed.update(*encode(part, MoleculeLayout()))
    return streamed


def test_the_published_figures_to_the_last_digit(moments):
    assert moments.count == 130_831
    assert moments.position_variance_per_atom == pytest.approx(1.9535, abs=5.1e-5)
    assert moments.position_variance_per_dof == pytest.approx(2.0681, abs=5.1e-5)
    assert moments.mean_molecule_position_variance == pytest.approx(1.9266, abs=5.1e-5)
    assert moments.mean_molecule_feature_variance == pytest.approx(0.00745, abs=5.1e-6)
    assert moments.paper_variance == pytest.approx(0.8486, abs=5.1e-5)


@pytest.mark.parametrize("size", [5, 9, 15, 18, 20, 25, 29])
def test_every_size_equals_numpy(molecules, moments, size):
    chosen = molecules.n_atoms == size
    x = molecules.positions[chosen, :size].astype(np.float64)
    x -= x.mean(1, keepdims=True)
    onehot = (molecules.atomic_numbers[chosen, :size, None] == [1, 6, 7, 8, 9]) / 4
    mean = onehot.mean(1)
    around = onehot - mean[:, None]
    row = moments.sizes.tolist().index(size)
    assert moments.counts[row] == chosen.sum()
    # positions pass through float32 once, with their centre of mass removed
    v_x = (x**2).sum((1, 2)).mean() / (3 * (size - 1))
    np.testing.assert_allclose(moments.v_x[row], v_x, rtol=1e-6)
    np.testing.assert_allclose(moments.feature_mean[row], mean.mean(0), rtol=1e-9)
    within = np.einsum("mif,mig->fg", around, around) / (len(x) * (size - 1))
    np.testing.assert_allclose(moments.within[row], within, rtol=1e-9, atol=1e-12)
    between = size * np.cov(mean.T, ddof=0)
    np.testing.assert_allclose(moments.between[row], between, rtol=1e-9, atol=1e-12)


def test_the_shipped_statistics_are_these(moments):
    """Counts and hashes exactly; sums and eigenvalues to what another CPU's LAPACK rounds.

    A planar molecule has an eigenvalue of 0, which LAPACK returns as some 1e-17, and every one is
    off by a few roundings of the largest. The table's rows are rounded to float32 in the end.
    """
    shipped = GAGAStats.from_pretrained("qm9").moments.state_dict()
    for name, tensor in moments.state_dict().items():
        if tensor.is_floating_point() and tensor.numel():
            rtol = 1e-9 if tensor.dtype == torch.float64 else torch.finfo(tensor.dtype).eps
            atol = 64 * torch.finfo(torch.float64).eps * float(tensor.abs().max())
            torch.testing.assert_close(shipped[name], tensor, rtol=rtol, atol=atol, msg=name)
        else:
            assert torch.equal(shipped[name], tensor), name


def test_the_shipped_curve_lies_near_the_published_table():
    """Lower bounds of one KL by two classifiers, the exact `shape` at four steps of 1000."""
    curve = GAGAStats.from_pretrained("qm9").selection.curve
    assert curve.reference == "shape"
    published = {0.562: 0.43, 0.487: 0.28, 0.410: 0.16, 0.260: 0.04}
    for a2, nats in published.items():
        level = np.log(a2 / (1 - a2))
        found = np.interp(-level, -np.array(curve.log_snr), curve.value)
        assert 0.7 * nats < found < 1.6 * nats
