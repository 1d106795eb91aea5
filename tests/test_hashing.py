"""Content hashes: published values, uniform bits, and sensitivity to the last bit."""

import pytest
import torch
from scipy.stats import kstest

from gaga_adapter.hashing import atom_hashes, splitmix64, stream, uniforms


def test_stream_is_that_of_splitmix64():
    """First outputs of the published generator for seed 1234567 (Vigna's splitmix64.c)."""
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert [v % 2**64 for v in stream(1234567, 3).tolist()] == published


def test_finaliser_is_a_bijection_on_a_sample():
    x = torch.arange(-5000, 5000)
    assert len(splitmix64(x).unique()) == 10000


def test_uniforms_are_uniform_and_independent():
    """1e-6 false alarms each, for consecutive seeds and for consecutive counters."""
    u = uniforms(torch.arange(20000), 3)
    assert float(u.min()) >= 0
    assert float(u.max()) < 1
    for column in u.T:
        assert kstest(column, "uniform").pvalue > 1e-6
    correlation = torch.corrcoef(u.T)[torch.triu_indices(3, 3, 1).unbind()]
    assert float(correlation.abs().max()) < 5.1 / 20000**0.5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_rows_hash_by_value(dtype):
    x = torch.randn(50, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert torch.equal(atom_hashes(x), atom_hashes(x.double()))
    assert torch.equal(atom_hashes(x[:, None])[:, 0], atom_hashes(x))
    assert len(atom_hashes(x).unique()) == 50
    zero = torch.zeros(1, 8, dtype=dtype)
    assert torch.equal(atom_hashes(zero), atom_hashes(-zero))


def test_one_bit_or_a_swap_changes_the_hash():
    x = torch.randn(1, 8, generator=torch.Generator().manual_seed(0))
    nudged = x.clone()
    nudged[0, 5] = torch.nextafter(x[0, 5], torch.tensor(9.0))
    assert atom_hashes(nudged) != atom_hashes(x)
    assert atom_hashes(x.flip(1)) != atom_hashes(x)
