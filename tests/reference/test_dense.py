"""Dense references against torch.distributions and against noised data."""

import math
import pickle

import pytest
import torch
from torch.distributions import MultivariateNormal, kl_divergence

from gaga_adapter.errors import DataError, StatsMismatchError, TruncationError
from gaga_adapter.moments import DenseMoments
from gaga_adapter.reference import DenseReference, make_reference

SHAPE = (2, 3, 2)
D = 12
KINDS = ["unit", "paper", "channel", "element", "low_rank", "full"]
LEVEL = (0.7, 0.4)


def toy_images(n=300, seed=0):
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(D, 4, generator=generator).double()
    x = torch.randn(n, 4, generator=generator).double() @ root.T
    x = x + 0.3 * torch.randn(n, D, generator=generator).double()
    return (x + torch.linspace(-1, 2, D).double()).reshape(n, *SHAPE)


def moments_for(kind):
    fitted = kind if kind in ("channel", "element", "low_rank") else "full"
    moments = DenseMoments(SHAPE, kind=fitted, rank=5)
    moments.update(toy_images())
    return moments


def explicit(kind, a, b):
    """The reference as a torch distribution, from the data by plain formulas."""
    x = toy_images().flatten(1)
    centred = x - x.mean(0)
    matrix = centred.T @ centred / len(x)
    mean, eye = x.mean(0), torch.eye(D).double()
    per_channel = x.reshape(len(x), 2, 6)
    if kind == "unit":
        mean, matrix = 0 * mean, eye
    if kind == "paper":
        mean, matrix = 0 * mean, x.std(1, correction=0).mean() * eye
    if kind == "channel":
        mean = per_channel.mean((0, 2)).repeat_interleave(6)
        var = per_channel.transpose(0, 1).flatten(1).var(1, correction=0)
        matrix = var.repeat_interleave(6).diag()
    if kind == "element":
        matrix = matrix.diagonal().diag()
    if kind == "low_rank":
        values, vectors = torch.linalg.eigh(matrix)
        values = torch.cat([values[:7].mean().expand(7), values[7:]])
        matrix = vectors @ values.diag() @ vectors.T
    return MultivariateNormal(a * mean, a**2 * matrix + b**2 * eye)


each_kind = pytest.mark.parametrize("kind", KINDS)


@each_kind
def test_log_prob_is_that_of_torch(kind):
    x = toy_images(20, seed=1)
    reference = make_reference(moments_for(kind), kind).at(*LEVEL)
    expected = explicit(kind, *LEVEL).log_prob(x.flatten(1))
    torch.testing.assert_close(reference.log_prob(x), expected, rtol=1e-9, atol=1e-9)


@each_kind
def test_kl_from_posterior_is_that_of_torch(kind):
    a, b = LEVEL
    x = toy_images(20, seed=1)
    posterior = MultivariateNormal(a * x.flatten(1), b**2 * torch.eye(D).double())
    reference = make_reference(moments_for(kind), kind).at(a, b)
    expected = kl_divergence(posterior, explicit(kind, a, b))
    torch.testing.assert_close(reference.kl_from_posterior(x), expected, rtol=1e-9, atol=1e-9)


@each_kind
def test_transport_is_affine_with_the_right_mean_and_covariance(kind):
    reference = make_reference(moments_for(kind), kind).at(*LEVEL)
    target = explicit(kind, *LEVEL)
    noise = torch.cat([torch.zeros(1, D), torch.eye(D)]).double().reshape(-1, *SHAPE)
    moved = reference.transport(noise).flatten(1)
    torch.testing.assert_close(moved[0], target.mean, rtol=1e-9, atol=1e-9)
    root = (moved[1:] - moved[0]).T
    torch.testing.assert_close(root @ root.T, target.covariance_matrix, rtol=1e-8, atol=1e-8)


@each_kind
def test_no_signal_is_unit_noise(kind):
    reference = make_reference(moments_for(kind), kind).at(0.0, 1.0)
    z = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(0)).double()
    torch.testing.assert_close(reference.transport(z), z, rtol=0, atol=1e-12)
    zero = torch.zeros(3).double()
    torch.testing.assert_close(reference.kl_from_posterior(z), zero, rtol=0, atol=1e-9)


def test_closest_kind_is_the_fullest():
    """E KL(q || reference) = E KL(q || p_t) + KL(p_t || reference): finer moments are closer."""
    x = toy_images()
    moments = moments_for("full")
    order = ["full", "element", "channel", "unit"]
    values = [
        float(make_reference(moments, kind).at(*LEVEL).kl_from_posterior(x).mean())
        for kind in order
    ]
    assert values == sorted(values)


def test_unit_returns_the_noise_bit_for_bit():
    z = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(0))
    reference = make_reference(moments_for("channel"), "unit")
    same = reference.at(math.sqrt(0.3), math.sqrt(0.7)).transport(z)
    assert torch.equal(same, z)
    assert same.data_ptr() != z.data_ptr()
    wide = reference.at(1.0, 80.0).transport(z)
    assert torch.equal(wide, z * math.sqrt(6401.0))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@each_kind
def test_dtype_is_kept(kind, dtype):
    reference = make_reference(moments_for(kind), kind).at(*LEVEL)
    generator = torch.Generator().manual_seed(0)
    x = reference.sample((4, *SHAPE), generator=generator, dtype=dtype)
    assert x.dtype == dtype
    assert x.shape == (4, *SHAPE)
    assert reference.log_prob(x).dtype == torch.float64
    again = reference.sample((4, *SHAPE), generator=generator.manual_seed(0), dtype=dtype)
    assert torch.equal(x, again)
    z = x.clone()
    reference.transport(x)
    assert torch.equal(x, z)


def test_channels_serve_any_resolution():
    reference = make_reference(moments_for("channel")).at(*LEVEL)
    assert reference.sample((2, 2, 9, 5)).shape == (2, 2, 9, 5)
    large = torch.zeros(1, 2, 6, 2).double()
    small = torch.zeros(1, *SHAPE).double()
    torch.testing.assert_close(reference.log_prob(large), 2 * reference.log_prob(small))


def test_auto_is_the_kind_of_the_moments():
    for kind in ("channel", "element", "low_rank", "full"):
        assert make_reference(moments_for(kind)).kind == kind


def test_reference_keeps_what_it_was_made_from():
    moments = moments_for("element")
    reference = make_reference(moments).at(*LEVEL)
    x = toy_images(5, seed=2)
    before = reference.log_prob(x)
    moments.update(toy_images(100, seed=3) * 10)
    assert torch.equal(reference.log_prob(x), before)
    assert torch.equal(pickle.loads(pickle.dumps(reference)).log_prob(x), before)


def test_refusals():
    moments = moments_for("channel")
    with pytest.raises(
        StatsMismatchError, match=r"unknown reference 'shape'\. Known here: auto, u"
    ):
        make_reference(moments, "shape")
    with pytest.raises(StatsMismatchError, match="needs moments of kind full, these are 'channel'"):
        make_reference(moments, "full")
    reference = make_reference(moments_for("full"))
    with pytest.raises(TruncationError, match=r"no density at b=0"):
        reference.log_prob(toy_images(1))
    with pytest.raises(TruncationError, match="no noise level"):
        reference.at(1.0, -1.0)
    with pytest.raises(TruncationError, match="no noise level"):
        reference.at(math.nan, 1.0)
    with pytest.raises(StatsMismatchError, match=r"shape \(2, 3, 2\), got \(2, 9, 2\)"):
        reference.transport(torch.zeros(1, 2, 9, 2))
    with pytest.raises(DataError, match="found 0 events"):
        make_reference(DenseMoments(SHAPE))
    assert repr(reference.at(0.5, 0.25)) == "DenseReference(kind='full', a=0.5, b=0.25)"
    assert isinstance(reference, DenseReference)
