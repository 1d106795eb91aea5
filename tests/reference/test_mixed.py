"""Positions with discrete types: the exact law by enumeration, rows that are kept, transport.

Statistical tests have a false-alarm rate of 1e-6 each, of z-scores over m figures 1e-6 / m.
"""

import itertools
import math

import pytest
import torch
from fakes.device import stand_in
from scipy.stats import chisquare, norm

from gaga_adapter import fit
from gaga_adapter.criteria import TwoSample
from gaga_adapter.errors import DataError, StatsMismatchError
from gaga_adapter.layout import AtomLayout, DenseLayout
from gaga_adapter.moments import ExchangeableMoments
from gaga_adapter.moments.mixed import MixedMoments
from gaga_adapter.noise.levels import coefficients
from gaga_adapter.reference import make_reference
from gaga_adapter.reference.mixed import MixedReference
from gaga_adapter.subspace import mask_from_sizes

pytestmark = pytest.mark.filterwarnings("ignore:.*make a loose lower bound")
LEVEL = (0.6, 0.4)
S2 = torch.tensor([2.0, 0.4], dtype=torch.float64)
COMPOSITIONS = {2: {(1, 1): 0.6, (2, 0): 0.4}, 3: {(2, 1): 0.3, (1, 2): 0.5, (0, 3): 0.2}}


def arrangements(n):
    """Types (n,) of every arrangement, with its probability."""
    found = {}
    for counts, share in COMPOSITIONS[n].items():
        types = tuple(itertools.chain.from_iterable([k] * c for k, c in enumerate(counts)))
        ways = set(itertools.permutations(types))
        found |= {way: share / len(ways) for way in ways}
    return found


def tiny_molecules(m, n, seed):
    """Molecules of the law itself: types of a table of compositions, positions Gaussian given."""
    generator = torch.Generator().manual_seed(seed)
    law = arrangements(n)
    weight = torch.tensor(list(law.values()))
    kinds = torch.tensor(list(law))[torch.multinomial(weight, m, True, generator=generator)]
    x = torch.randn(m, n, 3, generator=generator, dtype=torch.float64) * S2[kinds].sqrt()[..., None]
    x = x - x.mean(1, keepdim=True)
    one_hot = torch.nn.functional.one_hot(kinds, 2)
    return torch.cat([x, one_hot], -1), torch.ones(m, n, dtype=torch.bool)


def enumerated(n, a, b, shown, mask_type=None):
    """Probability of every state of the shown types, and E x_i · x_j / 3 (n, n) given it."""
    p = torch.eye(n, dtype=torch.float64) - 1 / n
    states = {}
    for observed in itertools.product(range(2), repeat=n):
        total, moment = 0.0, torch.zeros(n, n, dtype=torch.float64)
        for types, share in arrangements(n).items():
            for true, seen in zip(types, observed, strict=True):
                noise = 0.5 if mask_type is None else float(seen == mask_type)
                share *= shown * (true == seen) + (1 - shown) * noise
            covariance = p @ torch.diag(S2[list(types)]) @ p
            total, moment = total + share, moment + share * covariance
        if total > 0:
            states[observed] = total, a**2 * moment / total + b**2 * p
    return states


def z_limit(m):
    return norm.isf(1e-6 / (2 * m))


def check_law(draws, n, a, b, shown, slack=0.0, mask_type=None):
    """Draws (m, n, 5) have the enumerated law of the shown types, and its moments given them."""
    law = enumerated(n, a, b, shown, mask_type)
    code = (draws[..., 3:].argmax(-1) * 2 ** torch.arange(n)).sum(1)
    codes = {sum(s * 2**i for i, s in enumerate(state)): state for state in law}
    counts = torch.bincount(code, minlength=2**n)
    assert int(counts.sum()) == sum(int(counts[c]) for c in codes)
    expected = torch.tensor([law[state][0] for state in codes.values()]).double()
    observed = counts[list(codes)].double()
    if slack == 0:
        assert chisquare(observed, expected / expected.sum() * len(draws)).pvalue > 1e-6
    upper = torch.triu_indices(n, n)
    for c, state in codes.items():
        x = draws[code == c][..., :3].double()
        products = torch.einsum("bid,bjd->bij", x, x)[:, upper[0], upper[1]] / 3
        error = products.std(0) / len(x) ** 0.5
        wanted = law[state][1][upper[0], upper[1]]
        limit = z_limit(len(codes) * len(upper[0])) * error + slack
        assert bool(((products.mean(0) - wanted).abs() < limit).all()), (state, products.mean(0))


@pytest.fixture(scope="module")
def tiny():
    moments = MixedMoments(2, table_size=40_000)
    for n in COMPOSITIONS:
        moments.update(*tiny_molecules(40_000, n, seed=n))
    return moments


@pytest.mark.parametrize("n", COMPOSITIONS)
def test_noised_data_have_the_enumerated_law(tiny, n):
    """The oracle itself: what the path makes of molecules of the law."""
    reference = MixedReference("mixed_size", tiny).at(*LEVEL)
    x, mask = tiny_molecules(60_000, n, seed=10 + n)
    noised = reference.noised(x, mask, torch.Generator().manual_seed(5))
    check_law(noised, n, *LEVEL, shown=0.6)


@pytest.mark.parametrize("n", COMPOSITIONS)
def test_the_start_is_exact_for_data_of_its_law(tiny, n):
    """Moments given every state of the shown types; what the fit misses is a slack of 3 %."""
    reference = make_reference(tiny, "mixed_size").at(*LEVEL)
    assert abs(reference.shown - 0.6) < 1e-12
    generator = torch.Generator().manual_seed(6)
    draws = reference.sample([n] * 60_000, generator=generator, dtype=torch.float64)
    # 40,000 molecules know a share of their table to 0.25 %, and moments to about 1 %.
    check_law(draws, n, *LEVEL, shown=0.6, slack=0.03)
    law = enumerated(n, *LEVEL, shown=0.6)
    code = (draws[..., 3:].argmax(-1) * 2 ** torch.arange(n)).sum(1)
    for state, (share, _) in law.items():
        found = float((code == sum(s * 2**i for i, s in enumerate(state))).double().mean())
        assert abs(found - share) < 5.5 * math.sqrt(share * (1 - share) * (1 / 6e4 + 1 / 4e4))


def test_a_mask_hides_what_does_not_show():
    """Three types, of which the last is the mask."""
    moments = MixedMoments(3, table_size=4000)
    x, mask = tiny_molecules(4000, 3, seed=1)
    moments.update(torch.cat([x, torch.zeros(4000, 3, 1)], -1), mask)
    reference = MixedReference("mixed", moments, mask_type=2, shown=lambda a, b: a**2).at(0.6, 0.4)
    draws = reference.sample([3] * 8000, generator=torch.Generator().manual_seed(0))
    hidden = float((draws[..., 3:].argmax(-1) == 2).double().mean())
    assert abs(hidden - 0.64) < 5 * math.sqrt(0.64 * 0.36 / 24_000)
    noised = reference.noised(torch.cat([x, torch.zeros(4000, 3, 1)], -1), mask)
    hidden = float((noised[..., 3:].argmax(-1) == 2).double().mean())
    assert abs(hidden - 0.64) < 5 * math.sqrt(0.64 * 0.36 / 12_000)


def test_a_masked_law_is_judged_with_its_mask():
    """Where `b` is large beside `a` nearly all types are masks; uniform ones would be seen."""
    moments = MixedMoments(3, table_size=4000)
    x, mask = tiny_molecules(4000, 3, seed=1)
    x = torch.cat([x, torch.zeros(4000, 3, 1)], -1)
    moments.update(x, mask)
    law, uniform = (MixedReference("mixed", moments, mask_type=kind) for kind in (2, None))
    judge = TwoSample(folds=2, max_iter=10, n_permutations=99)
    here = {one: one.at(*coefficients(-4.0)) for one in (law, uniform)}
    generator = torch.Generator().manual_seed(2)
    draws = {one: at.sample([3] * 600, generator=generator) for one, at in here.items()}
    assert float((draws[law][..., 5] > 0).double().mean()) > 0.8
    assert float((draws[uniform][..., 5] > 0).double().mean()) < 0.4
    null = judge.null_check(law, x[:600], mask[:600], -4.0, generator)
    assert null.p_value > 1e-4  # 99 permutations of one fold know no less than 0.01
    curve = judge.curve(x[:600], mask[:600], law, torch.tensor([-4.0]), generator)
    assert curve.value[0] < 4.9 * curve.std_error[0] + 0.02


# -- rows of the table -----------------------------------------------------------------------------


def chains(m, seed=0, n_types=3):
    """Elongated chains of 4 to 7 atoms whose types depend on the place."""
    generator = torch.Generator().manual_seed(seed)
    mask = mask_from_sizes(torch.randint(4, 8, (m,), generator=generator))
    stretch = torch.tensor([1.5, 1.0, 0.5]) * (0.5 + torch.rand(m, 1, 1, generator=generator))
    x = torch.randn(*mask.shape, 3, generator=generator).cumsum(1) * stretch
    kinds = (torch.rand(mask.shape, generator=generator) * torch.linspace(1, n_types, 7)).long()
    one_hot = torch.nn.functional.one_hot(kinds.clamp(max=n_types - 1), n_types)
    return torch.cat([x, one_hot], -1) * mask[..., None], mask


@pytest.fixture(scope="module")
def chained():
    moments = MixedMoments(3, table_size=50)
    moments.update(*chains(4000))
    return moments


@pytest.mark.parametrize("kind", ["mixed", "mixed_order", "plain"])
def test_a_draw_has_the_tensor_and_the_types_of_one_molecule(chained, kind):
    moments = chained
    if kind == "plain":
        moments = ExchangeableMoments(3, table_size=50)
        moments.update(*chains(4000))
    reference = MixedReference("mixed" if kind == "plain" else kind, moments)
    draws = reference.sample([6] * 300, generator=torch.Generator().manual_seed(1))
    x, types = draws[..., :3].double(), draws[..., 3:].argmax(-1)
    tensors = torch.linalg.eigvalsh(x.mT @ x / 5)
    size = moments.at_size(6)
    apart = (tensors[:, None] - size.gyration).abs().amax(-1)
    row = apart.argmin(1)
    assert float(apart.amin(1).max()) < 1e-5
    assert len(row.unique()) > 40  # of 50
    counts = torch.nn.functional.one_hot(types, 3).double().mean(1)
    torch.testing.assert_close(counts, size.sample_mean[row], rtol=0, atol=1e-6)
    if kind == "mixed_order":
        assert torch.equal(types, chained.row_types(size)[row])


def test_positions_know_their_types_and_their_places():
    """Second moments by type, and by place, are near those of the data."""
    chained = MixedMoments(3)
    chained.update(*chains(4000))
    x, mask = chains(4000, seed=2)
    six = x[mask.sum(1) == 6][:, :6].double()
    six[..., :3] -= six[..., :3].mean(1, keepdim=True)
    generator = torch.Generator().manual_seed(3)
    size = [6] * 6000

    def by_type(y):
        square = y[..., :3].square().sum(-1)
        return torch.stack([square[y[..., 3 + k] > 0].mean() for k in range(3)])

    def by_place(y):
        return torch.einsum("bid,bjd->ij", y[..., :3], y[..., :3]) / len(y)

    draws = MixedReference("mixed", chained).sample(size, generator=generator).double()
    torch.testing.assert_close(by_type(draws), by_type(six), rtol=0.12, atol=0)
    draws = MixedReference("mixed_order", chained).sample(size, generator=generator).double()
    place, known = by_place(draws), by_place(six)
    assert float((place - known).norm() / known.norm()) < 0.2  # exact tensors bend it a little
    shape = make_reference(chained, "shape").sample(size, generator=generator).double()
    assert float((by_place(shape) - known).norm() / known.norm()) > 0.5


@pytest.mark.parametrize("kind", MixedReference.kinds)
@pytest.mark.parametrize("n", [1, 2, 3, 9])
@pytest.mark.filterwarnings("ignore:.*outside of the sizes seen")
def test_sizes_that_were_not_seen(chained, kind, n):
    draws = MixedReference(kind, chained).at(0.5, 0.5).sample([n] * 4)
    assert draws.shape == (4, n, 6)
    assert bool(torch.isfinite(draws).all())
    assert bool((draws[..., 3:].sum(-1) == 1).all())
    assert float(draws[..., :3].sum(1).abs().max()) < 1e-5


# -- transport -------------------------------------------------------------------------------------


def noise(sizes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mask = mask_from_sizes(torch.tensor(sizes))
    x = torch.randn(*mask.shape, 3, generator=generator, dtype=torch.float64)
    kinds = torch.randint(3, mask.shape, generator=generator)
    return torch.cat([x, torch.nn.functional.one_hot(kinds, 3)], -1) * mask[..., None], mask


@pytest.mark.parametrize("kind", MixedReference.kinds)
def test_transport_is_a_function_of_one_molecule(chained, kind):
    reference = MixedReference(kind, chained).at(*LEVEL)
    z, mask = noise([7, 4, 6, 5])
    together = reference.transport(z, mask)
    assert torch.equal(together, reference.transport(z, mask))
    for i, n in enumerate([7, 4, 6, 5]):
        alone = reference.transport(z[i : i + 1, :n])
        torch.testing.assert_close(alone[0], together[i, :n], rtol=1e-9, atol=1e-9)
    wide = torch.nn.functional.pad(z, (0, 0, 0, 3))
    torch.testing.assert_close(reference.transport(wide)[:, :7], together, rtol=1e-9, atol=1e-9)


def test_pure_noise_stays_what_it_is(chained):
    z, mask = noise([7, 4, 6])
    result = MixedReference("mixed", chained).at(0.0, 1.0).transport(z, mask)
    torch.testing.assert_close(result[..., 3:], z[..., 3:], rtol=0, atol=0)
    centred = z[..., :3] - (z[..., :3].sum(1) / mask.sum(1)[:, None])[:, None]
    centred = centred * mask[..., None]
    torch.testing.assert_close(result[..., :3], centred, rtol=0, atol=1e-12)


def test_draws_of_one_seed_are_the_same(chained):
    reference = MixedReference("mixed", chained).at(*LEVEL)
    one, two = (reference.sample([5, 7], torch.Generator().manual_seed(4)) for _ in range(2))
    assert torch.equal(one, two)
    assert one.dtype == torch.get_default_dtype()


@pytest.mark.parametrize("kind", MixedReference.kinds)
def test_a_gpu_gives_the_same(chained, kind):
    reference = MixedReference(kind, chained).at(*LEVEL)
    z, mask = noise([7, 4, 6, 5])
    x, x_mask = chains(100, seed=5)
    torch.manual_seed(3)
    here = reference.transport(z, mask), reference.noised(x, x_mask)
    with stand_in() as device:
        torch.manual_seed(3)
        there = [
            reference.transport(z.to(device), mask.to(device)).cpu(),
            reference.noised(x.to(device), x_mask.to(device)).cpu(),
        ]
        moments = MixedMoments(3)
        moments.update(x.to(device), x_mask.to(device))
        assert reference.sample([5, 6], device=device).device == device
    for one, other in zip(here, there, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
    assert moments.count == 100


# -- the criterion, and what is refused ------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mixed", "mixed_order"])
def test_the_criterion_tells_data_from_the_reference_and_not_its_own_draws(chained, kind):
    reference = MixedReference(kind, chained)
    x, mask = reference.sample([6] * 400, torch.Generator().manual_seed(7)), None
    mask = torch.ones(400, 6, dtype=torch.bool)
    judge = TwoSample(folds=2, max_iter=10, n_permutations=99)
    null = judge.null_check(reference, x, mask, 0.0, torch.Generator().manual_seed(8))
    assert null.p_value > 1e-4  # 99 permutations of one fold know no less than 0.01
    curled = x.clone()
    curled[..., :3] *= torch.linspace(0.2, 1.8, 6)[:, None]  # places that the law does not know
    curve = TwoSample(folds=2, max_iter=10, n_permutations=9, check_reference=False).curve(
        curled, mask, reference, torch.tensor([6.0]), torch.Generator().manual_seed(9)
    )
    assert curve.extra["auc"][0] > (0.8 if kind == "mixed_order" else 0.7)


def test_a_fit_asks_for_it_by_name():
    x, mask = chains(300, seed=4)
    quick = TwoSample(folds=2, max_iter=5, n_permutations=9, check_reference=False)
    stats = fit(
        [(x, mask)], AtomLayout(3), quick, "mixed_order", tolerance=5.0, log_snr=(0.0, -4.0),
        n_criterion=200, n_bootstrap=0,
    )  # fmt: skip
    assert stats.reference().kind == stats.judged_reference == "mixed_order"
    with pytest.raises(DataError, match="only the criterion 'two_sample'"):
        fit([(x, mask)], AtomLayout(3), "cumulant", "mixed")
    with pytest.raises(StatsMismatchError, match="unknown reference 'mixed'"):
        fit([torch.randn(8, 3, 4)], DenseLayout((3, 4)), reference="mixed")


def test_what_is_refused(chained):
    reference = MixedReference("mixed", chained).at(*coefficients(0.0))
    z, mask = noise([5, 6])
    for call in (reference.log_prob, reference.kl_from_posterior):
        with pytest.raises(StatsMismatchError, match="no density"):
            call(z, mask)
    with pytest.raises(StatsMismatchError, match="one-hot types beside unit noise"):
        reference.transport(z + 0.1, mask)
    with pytest.raises(StatsMismatchError, match="unknown reference"):
        MixedReference("mixed_up", chained)
    with pytest.raises(DataError, match="no type"):
        MixedReference("mixed", chained, mask_type=3)
    plain = ExchangeableMoments(3)
    plain.update(*chains(300))
    with pytest.raises(StatsMismatchError, match="order"):
        make_reference(plain, "mixed_order")
    with pytest.raises(DataError, match="sizes of at least 1"):
        reference.sample([0])
    with pytest.raises(DataError, match="no atoms"):
        reference.transport(z, torch.zeros_like(mask))
    empty = ExchangeableMoments(3, table_size=0)
    empty.update(*chains(300))
    with pytest.raises(DataError, match="no sample of molecules"):
        MixedReference("mixed", empty)
