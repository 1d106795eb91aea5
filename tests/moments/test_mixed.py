"""Moments with discrete types against plain numpy over a list of molecules, and their algebra."""

import numpy as np
import pytest
import torch

from gaga_adapter.errors import ArtefactError, DataError, StatsMismatchError
from gaga_adapter.layout import AtomLayout, MoleculeLayout
from gaga_adapter.moments import ExchangeableMoments, moments_from_state_dict
from gaga_adapter.moments.mixed import MixedMoments, type_height
from gaga_adapter.stats import GAGAStats
from gaga_adapter.subspace import mask_from_sizes

K = 3


def toy(n_molecules=300, seed=0, height=1.0, sizes=(2, 7)):
    """Chains whose types depend on the place, with the centre of mass where it happens to be."""
    generator = torch.Generator().manual_seed(seed)
    mask = mask_from_sizes(torch.randint(*sizes, (n_molecules,), generator=generator))
    positions = torch.randn(*mask.shape, 3, generator=generator).cumsum(1)
    kinds = (
        torch.rand(mask.shape, generator=generator) * torch.linspace(1, K, mask.shape[1])
    ).long()
    one_hot = height * torch.nn.functional.one_hot(kinds.clamp(max=K - 1), K)
    return torch.cat([positions, one_hot], -1) * mask[..., None], mask


def fitted(x, mask, batch=10**9, **options):
    moments = MixedMoments(K, **options)
    for part, part_mask in zip(x.split(batch), mask.split(batch), strict=True):
        moments.update(part, part_mask)
    return moments


def assert_same(one, other):
    left, right = one.state_dict(), other.state_dict()
    assert left.keys() == right.keys()
    for name, values in left.items():
        torch.testing.assert_close(values, right[name], rtol=1e-6, atol=1e-6, equal_nan=True)


def test_they_are_those_of_a_list_of_molecules():
    x, mask = toy()
    moments = fitted(x, mask)
    atoms = [m[r].double().numpy() for m, r in zip(x, mask, strict=True)]
    state = moments.state_dict()
    for n in range(2, 7):
        mine = [a for a in atoms if len(a) == n]
        centred = [a[:, :3] - a[:, :3].mean(0) for a in mine]
        squares = [
            (a[:, 3:] * (p**2).sum(1)[:, None]).sum(0) for a, p in zip(mine, centred, strict=True)
        ]
        place = np.mean([p @ p.T for p in centred], 0) / 3
        row = moments.sizes.tolist().index(n)
        by_type = np.mean(squares, 0) / 3
        np.testing.assert_allclose(state["type_squares"][row], by_type, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(moments._places[n], place, rtol=1e-5, atol=1e-6)


def test_batches_parts_and_files_give_the_same():
    x, mask = toy()
    moments = fitted(x, mask)
    assert_same(moments, fitted(x, mask, batch=37))
    assert_same(moments, fitted(x[:120], mask[:120]).merge(fitted(x[120:], mask[120:])))
    assert_same(moments, MixedMoments(K).merge(moments))
    again = moments_from_state_dict(moments.state_dict(), moments.metadata())
    assert isinstance(again, MixedMoments)
    assert_same(moments, again)
    more, more_mask = toy(seed=1)
    assert_same(again.merge(fitted(more, more_mask)), moments.merge(fitted(more, more_mask)))


def test_gaps_of_padding_and_the_usual_moments_do_not_matter():
    x, mask = toy()
    order = torch.tensor([5, 0, 1, 4, 2, 3])  # real atoms keep their order up to padding
    keep = mask.clone()
    wide = torch.zeros(len(x), 12, 3 + K)
    wide[:, 1::2], real = x, torch.zeros(len(x), 12, dtype=torch.bool)
    real[:, 1::2] = keep
    assert len(order) == mask.shape[1]
    assert_same(fitted(x, mask), fitted(wide, real))
    usual = ExchangeableMoments(K)
    usual.update(x, mask)
    mixed = fitted(x, mask).state_dict()
    for name, values in usual.state_dict().items():
        torch.testing.assert_close(mixed[name], values, rtol=0, atol=0, equal_nan=True)


@pytest.mark.filterwarnings("ignore:.*outside of the sizes seen")
def test_rows_of_types_are_those_of_the_table():
    """The composition of a row is its mean feature, beside its gyration tensor."""
    x, mask = toy(2000)
    moments = fitted(x, mask, batch=111, table_size=40)
    for n in (3, 6, 9):  # the last is not seen, and borrows
        size = moments.at_size(n)
        types = moments.row_types(size)
        assert types.shape == (len(size.sample_mean), n)
        if not size.radius:
            shares = torch.nn.functional.one_hot(types, K).double().mean(1)
            torch.testing.assert_close(shares, size.sample_mean, rtol=1e-6, atol=1e-6)


def test_variances_by_type_are_found():
    """For positions that are Gaussian given types the linear system has the true solution."""
    generator = torch.Generator().manual_seed(3)
    n, m, s2 = 6, 40_000, torch.tensor([2.0, 0.5, 1.0])
    kinds = torch.multinomial(torch.tensor([0.2, 0.5, 0.3]), m * n, True, generator=generator)
    kinds = kinds.view(m, n)
    positions = torch.randn(m, n, 3, generator=generator) * s2[kinds].sqrt()[..., None]
    x = torch.cat([positions, torch.nn.functional.one_hot(kinds, K)], -1)
    moments = fitted(x, torch.ones(m, n, dtype=torch.bool))
    size = moments.at_size(n)
    # Some 48,000 atoms of the rarest type have a variance to 1 / sqrt(1.5 * 48,000) = 0.4 %.
    torch.testing.assert_close(
        moments.variance_ratios(size) * size.v_x, s2.double(), rtol=0.025, atol=0
    )
    # A type that was never seen has the average variance.
    two = torch.tensor([2.0, 0.5])[kinds.clamp(max=1)].sqrt()[..., None]
    clamped = torch.nn.functional.one_hot(kinds.clamp(max=1), K)
    moments = fitted(
        torch.cat([torch.randn(m, n, 3, generator=generator) * two, clamped], -1),
        torch.ones(m, n, dtype=torch.bool),
    )
    assert abs(float(moments.variance_ratios(moments.at_size(n))[2]) - 1) < 1e-6


@pytest.mark.filterwarnings("ignore:.*outside of the sizes seen")
def test_places_of_rare_sizes_are_stretched():
    x, mask = toy(3000)
    moments = fitted(x, mask)
    size = moments.at_size(8)
    place = moments.place_covariance(size)
    assert place.shape == (8, 8)
    assert float(torch.linalg.eigvalsh(place)[0]) > -1e-9
    assert abs(float(place.diagonal().sum()) - 7) < 1e-9
    assert place[0, 1] > 0 > place[0, 7]  # the ends of a chain lie on opposite sides


@pytest.mark.parametrize("height", [1.0, 0.25])
def test_an_artefact_holds_them(tmp_path, height):
    x, mask = toy(height=height)
    moments = fitted(x, mask)
    assert abs(type_height(moments) - height) < 1e-6
    layout = AtomLayout(K) if height == 1 else MoleculeLayout(("C", "N", "O"), onehot_scale=4)
    stats = GAGAStats(layout, moments, -0.5)
    stats.save_pretrained(tmp_path)
    again = GAGAStats.from_pretrained(tmp_path)
    assert_same(moments, again.moments)
    assert again.to_dict()["schema_version"] == 4
    assert again.reference().kind == "mixed"


def test_what_is_refused():
    x, mask = toy()
    moments = fitted(x, mask)
    for wrong in (x * 2 - 1, torch.cat([x[..., :3], x[..., 3:].flip(-1) + x[..., 3:]], -1)):
        with pytest.raises(DataError, match="one-hot"):
            MixedMoments(K).update(wrong, mask)
    with pytest.raises(DataError, match="one normalisation"):
        moments.update(*toy(height=0.25))
    assert moments.count == len(x)
    with pytest.raises(DataError, match="3 position channels"):
        MixedMoments(K, table_size=0)
    usual = ExchangeableMoments(K)
    usual.update(x, mask)
    with pytest.raises(StatsMismatchError, match="cannot merge"):
        moments.merge(usual)
    usual = ExchangeableMoments(K)
    usual.update(x + 0.1 * torch.randn(x.shape) * mask[..., None], mask)
    with pytest.raises(StatsMismatchError, match="no one-hot types"):
        type_height(usual)


@pytest.mark.parametrize("name", ["type_squares", "place_covariances", "row_types"])
def test_a_damaged_file_is_refused(name):
    moments = fitted(*toy())
    state = moments.state_dict()
    for damaged in (
        {k: v for k, v in state.items() if k != name},
        {**state, name: state[name][:-1]},
        {**state, name: state[name] - 3 * state[name].abs().max() - 1},
    ):
        with pytest.raises(ArtefactError):
            MixedMoments.from_state_dict(damaged, moments.metadata())
