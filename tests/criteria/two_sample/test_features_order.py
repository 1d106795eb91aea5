"""Features of the order of the atoms: loops over places are the oracle, wherever padding lies."""

import math

import numpy as np
import pytest
import torch

from gaga_adapter.criteria import TwoSample
from gaga_adapter.criteria.protocol import copies
from gaga_adapter.criteria.two_sample.features_order import order_features
from gaga_adapter.criteria.two_sample.features_tokens import token_features
from gaga_adapter.moments.mixed import MixedMoments
from gaga_adapter.reference.invariants import molecule_features
from gaga_adapter.reference.mixed import MixedReference
from gaga_adapter.subspace import mask_from_sizes

SIZES = (1, 2, 3, 5, 9, 12)


def molecules(sizes=SIZES, n_types=3, seed=0):
    """Chains with one-hot types (B, N, 3 + K), atoms first, and their mask."""
    generator = torch.Generator().manual_seed(seed)
    mask = mask_from_sizes(torch.tensor(sizes))
    x = torch.randn(*mask.shape, 3, generator=generator, dtype=torch.float64).cumsum(1)
    kinds = torch.randint(n_types, mask.shape, generator=generator)
    x = torch.cat([x, torch.nn.functional.one_hot(kinds, n_types)], -1)
    return x * mask[..., None], mask


def spread(x, mask, layout, width=None, filler=0.0):
    """The same molecules with padding in front of the atoms, or between them at random."""
    width = width or mask.shape[1] + 4
    generator = torch.Generator().manual_seed(5)
    y = torch.full((len(x), width, x.shape[2]), filler, dtype=x.dtype)
    real = torch.zeros(len(x), width, dtype=torch.bool)
    for row, n in enumerate(mask.sum(1).tolist()):
        places = torch.arange(width - n, width)
        if layout == "gaps":
            places = torch.randperm(width, generator=generator)[:n].sort().values
        y[row, places], real[row, places] = x[row, :n], True
    return y, real


def by_loops(molecule, length):
    """One molecule (n, 3 + K), place by place, in the order of the module's columns."""
    r, kinds = molecule[:, :3] / length, molecule[:, 3:].argmax(1)
    r, n = r - r.mean(0), len(molecule)
    out = []
    for kind in range(molecule.shape[1] - 3):
        places = [i / n for i in range(n) if kinds[i] == kind]
        out.append(np.mean(places) if places else 0.0)
    for quarter in range(4):
        inside = [i for i in range(n) if quarter / 4 <= i / n < (quarter + 1) / 4]
        out.append(sum(r[i] @ r[i] for i in inside) / n)
    for lag in (1, 2, 3, 4, 6, 8):
        pairs = [(i, i + lag) for i in range(n - lag)]
        apart = [np.linalg.norm(r[i] - r[j]) for i, j in pairs]
        out += [sum(r[i] @ r[j] for i, j in pairs) / n, np.mean(apart) if pairs else 0.0]
        if lag <= 2:
            out.append(np.mean([kinds[i] == kinds[j] for i, j in pairs]) if pairs else 0.0)
            for centre in [0.3 + 0.4 * k for k in range(10)]:
                out.append(sum(math.exp(-0.5 * ((d - centre) / 0.3) ** 2) for d in apart) / n)
    return np.array(out)


@pytest.mark.parametrize("layout", ["atoms first", "front", "gaps"])
def test_they_are_those_of_a_loop_over_places(layout):
    x, mask = molecules()
    expected = [by_loops(y[:n].numpy(), 1.3) for y, n in zip(x, SIZES, strict=True)]
    if layout != "atoms first":
        x, mask = spread(x, mask, layout, filler=math.nan)
    before = x.clone()
    np.testing.assert_allclose(order_features(x, mask, 1.3), expected, rtol=1e-9, atol=1e-9)
    assert torch.equal(x[mask], before[mask])


@pytest.mark.parametrize("layout", ["front", "gaps"])
@pytest.mark.parametrize("width", [16, 90])
def test_the_other_features_are_blind_to_padding_as_well(layout, width):
    """Of wide batches, too, which are cut to their largest molecule."""
    x, mask = molecules()
    y, real = spread(x, mask, layout, width)
    units = torch.zeros(6, dtype=torch.float64), torch.ones(6, dtype=torch.float64)
    for features, more in ((molecule_features, (1.3, 0.4)), (token_features, units)):
        found = features(y, real, *more)
        torch.testing.assert_close(found, features(x, mask, *more), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("layout", ["front", "gaps"])
def test_the_criterion_does_not_judge_the_padding(layout):
    """Draws of the reference as data: a classifier that saw the layout would find nats of it.

    Nothing is there to be found, so the bound stays within 4.9 standard errors of zero.
    """
    moments = MixedMoments(3)
    moments.update(*molecules((4, 5, 6, 7) * 200))
    reference = MixedReference("mixed_order", moments)
    sizes = torch.arange(600) % 4 + 4
    x = reference.sample(sizes, torch.Generator().manual_seed(3))
    data = spread(x, mask_from_sizes(sizes), layout)
    quick = TwoSample(folds=2, max_iter=10, n_permutations=9, check_reference=False)
    with pytest.warns(match="make a loose lower bound"):
        curve = quick.curve(*data, reference, torch.tensor([0.0]), torch.Generator().manual_seed(1))
    assert curve.value[0] < 4.9 * curve.std_error[0] + 0.02
    assert curve.extra["auc"][0] < 0.6


def test_copies_are_copies_wherever_their_padding_lies():
    x, mask = molecules((4, 5, 6, 7) * 30)
    y, real = spread(x, mask, "gaps")
    z, also_real = spread(x, mask, "front")
    group = copies(torch.cat([y, z]), torch.cat([real, also_real]))
    assert (group == np.tile(np.arange(120), 2)).all()
