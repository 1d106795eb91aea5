"""The law of a codebase's own noised states, against laws that are known.

Where two averages are compared, each side's standard error is estimated from its own items, and
5.5 of their root sum of squares are allowed: a false alarm in 3e7 for a single comparison.
"""

import math
import pickle
import warnings
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from toys import generator, normal

from gaga_adapter import (
    AtomLayout,
    Cumulant,
    DenseLayout,
    FittedStates,
    TokenLayout,
    TwoSample,
    fit_states,
)
from gaga_adapter.criteria.two_sample.separation import Separation
from gaga_adapter.errors import DataError, GAGAWarning, StatsMismatchError, TruncationError
from gaga_adapter.moments import DenseMoments, ExchangeableMoments
from gaga_adapter.reference import make_reference
from gaga_adapter.streaming import _HeldOut, _merge, collect
from gaga_adapter.subspace import mask_from_sizes, project

FAR = 5.5
QUICK = TwoSample(folds=2, max_iter=15, n_permutations=9)


@dataclass(frozen=True)
class Stated(TwoSample):
    """A criterion that says what it is told: (value, error) of each level, from data to noise."""

    answers: list = field(default_factory=list)
    fewest: ClassVar[int] = 1

    def of_states(self, x, mask, reference, generator=None):
        value, error = self.answers.pop(0)
        return Separation(value, error, 0.5, 0.1, 0.5, False, x.numpy())


def unjudged():
    return Stated(answers=[(0.0, 0.0)] * 9)


def agree(one, other):
    """Whether averages of two samples agree."""
    error = math.hypot(*(float(s.std() / len(s) ** 0.5) for s in (one, other)))
    return abs(float(one.mean() - other.mean())) < FAR * error


def square(x, mask):
    """`|x|² / (3 (N - 1))` of each molecule's positions."""
    return project(x, mask)[..., :3].square().sum((1, 2)) / (3 * (mask.sum(1) - 1))


def rods(count, seed):
    """Rods of six atoms with two features, in random orientation: far from Gaussian."""
    axis = torch.nn.functional.normalize(normal(count, 1, 3, seed=seed), dim=-1)
    place = torch.linspace(-2.5, 2.5, 6, dtype=torch.float64)[:, None]
    x = place * axis + 0.1 * normal(count, 6, 3, seed=seed + 1)
    h = (normal(count, 6, 2, seed=seed + 2) > 0.5).double()
    mask = torch.ones(count, 6, dtype=torch.bool)
    return project(torch.cat([x, h], -1), mask), mask


def unpaired(x, mask, seed):
    noise = project(normal(*x.shape, seed=seed), mask)
    return lambda t: (t * x + (1 - t) * noise, mask)


def paired(x, mask, seed):
    """States whose noise is reordered to lie near the data, as SemlaFlow and FlowMol do it."""
    noise = project(normal(*x.shape, seed=seed), mask)
    for one, other in zip(noise, x, strict=True):
        order = linear_sum_assignment(torch.cdist(other[:, :3], one[:, :3]).square())[1]
        one[:, :3] = one[order, :3]
    return lambda t: (t * x + (1 - t) * noise, mask)


def test_states_of_independent_noise_have_the_law_that_follows_from_the_data():
    x, mask = rods(4000, seed=1)
    states = unpaired(x, mask, seed=9)
    stats = fit_states(
        states, [0.2, 0.5], AtomLayout(2), reference="size", tolerance=50.0, criterion=QUICK
    )
    data = ExchangeableMoments(2)
    data.update(x, mask)
    for t in (0.2, 0.5):
        naive = make_reference(data, "size").at(t, 1 - t).gaussian(6)
        here = stats.reference_at(t).gaussian(6)
        clean, noisy = square(x, mask), square(states(t)[0], mask)
        error = math.hypot(t**2 * clean.std() / 4000**0.5, noisy.std() / 2000**0.5)
        assert abs(float(here.gyration[0, 0] - naive.gyration[0, 0])) < FAR * error
        n = 2000 * 6  # numbers of a channel that are measured: their variance is 1.25 at most
        assert torch.allclose(here.mean, naive.mean, rtol=0, atol=FAR * 1.2 * (2 / n) ** 0.5)
        covariances = zip(
            (here.within, here.between), (naive.within, naive.between), (n, 2000), strict=True
        )
        for one, other, count in covariances:
            atol = FAR * 1.25 * (2 * 2 / count) ** 0.5
            assert torch.allclose(one.sqrt() @ one.sqrt(), other.sqrt() @ other.sqrt(), 0, atol)


SCALE = torch.tensor([0.3, 2.0], dtype=torch.float64)[:, None]


def transported(t, count=4000):
    """Gaussian data with standard deviations `SCALE`, paired with noise by optimal transport."""
    noise = normal(count, 2, 8, seed=5)
    return (t * SCALE + (1 - t)) * noise


@pytest.mark.parametrize("t", [0.3, 0.7])
def test_transport_adds_amplitudes_and_not_variances(t):
    stats = fit_states(transported, [t], tolerance=50.0, criterion=QUICK)
    variance = stats.at(t).moments.channel_var
    exact = (t * SCALE[:, 0] + (1 - t)) ** 2
    n = 2000 * 8
    assert torch.allclose(variance, exact, rtol=FAR * (2 / n) ** 0.5, atol=0)
    naive = (t * SCALE[:, 0]) ** 2 + (1 - t) ** 2
    assert (naive / exact < 0.85).all()


def ends(x, t):
    """Where Euler steps of the exact velocity lead: the trajectories are straight lines."""
    step = (1 - t) / 4
    for place in range(4):
        now = t + place * step
        x = x + step * (SCALE - 1) / (now * SCALE + 1 - now) * x
    return x


def test_an_ode_from_the_measured_start_ends_at_the_data():
    start = fit_states(transported, [0.5], tolerance=50.0, criterion=QUICK).start()
    x = start.sample((20_000, 2, 8), generator=generator(3), dtype=torch.float64)
    unit = normal(20_000, 2, 8, seed=4)
    naive = unit * ((0.5 * SCALE) ** 2 + 0.5**2).sqrt()
    exact, spread = SCALE[:, 0] ** 2, (2 / (2000 * 8) + 2 / (20_000 * 8)) ** 0.5
    found, wrong = (ends(y, 0.5).square().mean((0, 2)) / exact - 1 for y in (x, naive))
    assert (found.abs() < FAR * spread).all()  # the spread of the fit and of these draws
    assert (wrong < -0.25).all()


def test_molecules_paired_by_assignment_are_larger_and_so_is_their_start():
    x, mask = rods(1200, seed=2)
    states = paired(x, mask, seed=8)
    stats = fit_states(states, [0.5], AtomLayout(2), tolerance=50.0, criterion=unjudged())
    data = ExchangeableMoments(2)
    data.update(x, mask)
    measured = square(states(0.5)[0], mask)
    sizes = mask.sum(1)
    draws = stats.start().sample(sizes, generator=generator(4), dtype=torch.float64)
    assert agree(square(draws, mask), measured)
    naive = make_reference(data, "shape").at(0.5, 0.5)
    small = square(naive.sample(sizes, generator=generator(4), dtype=torch.float64), mask)
    assert float(measured.mean() - small.mean()) > 0.15
    assert not agree(small, measured)


def test_draws_of_shape_have_the_tensor_and_the_mean_of_one_measured_state():
    x, mask = rods(300, seed=3)
    stats = fit_states(
        unpaired(x, mask, 4), [0.5], AtomLayout(2), tolerance=50.0, criterion=unjudged()
    )
    start = stats.start()
    y = start.sample([6] * 40, generator=generator(1), dtype=torch.float64)
    rows = stats.at(0.5).moments.at_size(6)
    tensors = torch.linalg.eigvalsh(y[..., :3].mT @ y[..., :3] / 5)
    found = torch.cat([tensors, y[..., 3:].mean(1)], 1)
    known = torch.cat([rows.gyration, rows.sample_mean], 1).double()
    nearest = torch.cdist(found, known, compute_mode="donot_use_mm_for_euclid_dist").amin(1)
    assert nearest.max() < 1e-5  # the table is kept in single precision
    assert len(torch.cdist(found, known).argmin(1).unique()) > 20


def test_features_of_shape_scatter_as_those_of_the_size():
    x = normal(400, 6, 5, seed=6)
    mask = torch.ones(400, 6, dtype=torch.bool)
    stats = fit_states(
        lambda t: (x, mask), [0.5], AtomLayout(2), tolerance=50.0, criterion=unjudged()
    )
    y = stats.start().sample([6] * 4000, generator=generator(1), dtype=torch.float64)[..., 3:]
    own = (y - y.mean(1, keepdim=True)).square().sum((1, 2)) / 10
    within = stats.at(0.5).moments.at_size(6).within
    assert abs(float(own.mean() - within.trace() / 2)) < FAR * float(own.std()) / 4000**0.5
    # Ten degrees of freedom of nearly unit variance; drawn with a state's own, twice as much.
    assert float(own.var()) == pytest.approx(2 / 10, rel=0.25)


@pytest.mark.parametrize("kind", ["unit", "paper", "channel", "element", "low_rank", "full"])
def test_dense_states_have_references_of_every_kind(kind):
    covariance = kind if kind not in ("unit", "paper") else "channel"
    stats = fit_states(
        lambda t: normal(600, 2, 3, seed=1) * SCALE,
        [0.5],
        covariance=covariance,
        reference=kind,
        tolerance=50.0,
        criterion=unjudged(),
    )
    assert stats.reference == kind
    draws = stats.start().sample((50, 2, 3), generator=generator())
    assert draws.shape == (50, 2, 3)
    assert torch.isfinite(draws).all()


def test_tokens_have_no_shape():
    mask = mask_from_sizes(torch.tensor([3, 5] * 150))
    h = normal(300, 5, 2) * mask[..., None]
    stats = fit_states(
        lambda t: (h, mask), [0.5], TokenLayout(2), tolerance=9.0, criterion=unjudged()
    )
    assert stats.reference == "size"
    with pytest.raises(StatsMismatchError, match="unknown reference 'shape'"):
        stats.reference_at(0.5, "shape")


def test_the_value_is_a_lower_bound_of_a_divergence_that_is_known():
    def states(t):  # two points under noise: a mixture of two Gaussians in each of two numbers
        sign = torch.where(normal(4000, 2, 1, seed=1) > 0, 1.0, -1.0)
        return t * sign + (1 - t) * normal(4000, 2, 1, seed=2)

    stats = fit_states(states, [0.1, 0.8], tolerance=9.0, criterion=TwoSample(max_iter=30))
    y = torch.linspace(-8, 8, 4001, dtype=torch.float64)
    for t in (0.1, 0.8):
        law = torch.distributions.Normal(torch.tensor([[-t], [t]]).double(), 1 - t)
        log_p = law.log_prob(y).logsumexp(0) - math.log(2)
        log_q = torch.distributions.Normal(0.0, math.hypot(t, 1 - t)).log_prob(y)
        exact = 2 * float(torch.trapezoid(log_p.exp() * (log_p - log_q), y))
        one = stats.at(t)
        assert one.value < exact + FAR * one.std_error
        assert one.value > 0.7 * exact - FAR * one.std_error
    assert stats.at(0.8).value > 1


@pytest.mark.parametrize("repeated", [1, 3])
def test_a_reference_at_the_level_of_the_states_is_drawn_from_as_it_is(repeated):
    """Its own law: 6 nats if it were moved to the level of the data. Copies meet copies."""
    a, b = 0.1, 0.9
    moments = DenseMoments((2, 10))
    moments.update(3 * normal(4000, 2, 10, seed=1))
    reference = make_reference(moments).at(a, b)
    states = 3 * a * normal(1200, 2, 10, seed=2) + b * normal(1200, 2, 10, seed=3)
    states = states[:, None].expand(-1, repeated, -1, -1).flatten(0, 1)[:1200]
    judge, source = TwoSample(folds=2, max_iter=10, n_permutations=99), generator(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = judge.of_states(states, None, reference, source)
        far = judge.of_states(states, None, reference.at(0.1, 1.2), source)
    assert abs(found.auc - 0.5) < FAR * math.sqrt(2) * found.auc_std_error
    assert found.kl <= FAR * found.kl_std_error  # both are 0 where nothing was learned
    assert far.kl > 0.3


def test_the_law_of_measured_states_has_no_density_and_no_second_noise():
    x, mask = rods(300, seed=3)
    molecules = fit_states(
        unpaired(x, mask, 4), [0.5], AtomLayout(2), tolerance=9.0, criterion=unjudged()
    )
    dense = fit_states(small, [0.5], tolerance=9.0, criterion=unjudged())
    points = {molecules: (x[:2], mask[:2]), dense: (small(0)[:2],)}
    for stats, given in points.items():
        for ask in (stats.start().log_prob, stats.start().kl_from_posterior):
            with pytest.raises(TruncationError, match="would add noise a second time"):
                ask(*given)
    clean = make_reference(dense.measured[0].moments)
    with pytest.raises(TruncationError, match="Take it at a noise level first"):
        clean.log_prob(small(0))
    assert clean.at(1.0, 0.5).log_prob(small(0)).shape == (60,)


# -- the choice ------------------------------------------------------------------------------------


def small(t):
    return normal(60, 2, 3, seed=7)


def chosen(values, levels=(0.1, 0.2, 0.3, 0.4), towards="data", tolerance=0.5):
    criterion = Stated(answers=list(values))
    return fit_states(small, levels, towards=towards, tolerance=tolerance, criterion=criterion)


def test_the_start_is_where_all_noisier_levels_hold():
    stats = chosen([(0.4, 0.0), (0.6, 0.0), (0.3, 0.05), (0.1, 0.0)])
    assert stats.levels == (0.4, 0.3, 0.2, 0.1)  # from data to noise
    assert stats.level_star == 0.2  # 0.4 holds too, but 0.3 does not
    assert [one.value for one in stats.measured] == [0.4, 0.6, 0.3, 0.1]
    assert "from level 0.2 on towards noise (at level 0.3 it is 0.6" in stats.reason
    assert "<- start" in next(x for x in stats.describe().splitlines() if "0.2 " in x)


def test_two_standard_errors_count():
    assert chosen([(0.9, 0.0), (0.45, 0.1), (0.45, 0.02), (0.1, 0.0)]).level_star == 0.2


def test_time_may_rise_towards_noise_and_levels_may_fall():
    values = [(0.9, 0.0), (0.2, 0.0), (0.1, 0.0), (0.0, 0.0)]
    assert chosen(values, (0.4, 0.3, 0.2, 0.1)).level_star == 0.3
    assert chosen(values, towards="noise").level_star == 0.2


def test_a_whole_curve_that_holds_says_so():
    stats = chosen([(0.1, 0.0)] * 4)
    assert stats.level_star == 0.4
    assert "levels nearer to the data may hold too" in stats.reason


def test_states_that_never_hold_are_refused_with_what_to_do():
    with pytest.raises(TruncationError) as refused:
        chosen([(0.1, 0.0), (0.2, 0.0), (0.3, 0.0), (0.9, 0.0)])
    assert "at the noisiest level, 0.1: 0.9" in str(refused.value)
    assert "pass towards='noise'" in str(refused.value)


@pytest.mark.parametrize(
    "levels", [torch.linspace(0.1, 0.4, 4), np.linspace(0.1, 0.4, 4, dtype=np.float32)]
)
def test_levels_in_float32_are_found_again(levels):
    stats = fit_states(small, levels, criterion=unjudged())
    for place, level in enumerate((0.4, 0.3, 0.2, 0.1)):
        for asked in (level, levels[3 - place], float(levels[3 - place])):
            assert stats.at(asked) is stats.measured[place]
    rest = (stats.layout, stats.measured, "data", "channel", 0.5)
    again = FittedStates(*rest, 0.4, "ours")
    assert again.level_star == stats.levels[0]
    assert "<- start" in again.describe().splitlines()[1]


@pytest.mark.parametrize("levels", [[100, 200], torch.tensor([100, 200]), np.array([100, 200])])
def test_whole_levels_stay_whole(levels):
    seen, schedule = [], torch.linspace(0, 1, 1000)

    def states(t):
        seen.append(t)
        return small(t) * (1 + schedule[t])

    stats = fit_states(states, levels, towards="noise", criterion=unjudged())
    assert seen == [100, 200]
    assert all(type(one) is int for one in seen)
    assert stats.at(100.0) is stats.measured[0]


def test_the_criterion_may_be_named():
    x = normal(400, 2, 3, seed=5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        one, other = (
            fit_states(lambda t: x, [0.5], tolerance=5.0, criterion=judge)
            for judge in ("two_sample", TwoSample())
        )
    assert one.to_dict() == other.to_dict()


def test_few_states_are_called_held_out():
    with pytest.warns(GAGAWarning, match="^200 held-out states make a loose lower bound"):
        fit_states(lambda t: normal(400, 2, 3), [0.5], tolerance=9.0, criterion=QUICK)


# -- what is held out ------------------------------------------------------------------------------


@pytest.mark.parametrize(("n_criterion", "held"), [(50, 50), (4000, 150)])
def test_held_out_states_and_moments_are_all_states_and_nothing_twice(n_criterion, held):
    x = normal(300, 2, 3, seed=1)
    layout = DenseLayout((2, 3))
    found = collect(
        x.split(64), layout, n_criterion, covariance="full", generator=generator(), hold_out=True
    )
    assert (len(found.x), found.moments.count) == (held, 300 - held)
    both, whole = DenseMoments((2, 3), kind="full"), DenseMoments((2, 3), kind="full")
    both.update(found.x)
    both.merge(found.moments)
    whole.update(x)
    for name, tensor in whole.state_dict().items():
        assert torch.allclose(both.state_dict()[name], tensor, rtol=1e-10, atol=1e-10), name


def test_processes_that_share_a_stream_hold_out_what_one_would():
    x, layout = normal(300, 2, 3, seed=1), DenseLayout((2, 3))
    alone = collect(
        x.split(30), layout, 40, covariance="full", generator=generator(), hold_out=True
    )
    seed = int(torch.randint(2**62, (), generator=generator()))
    shares = []
    for rank in (0, 1):
        moments = DenseMoments((2, 3), kind="full")
        sample = _HeldOut(40, seed, moments)
        for number in range(rank, 10, 2):
            sample.update(x[30 * number : 30 * number + 30], None, number)
        shares.append((moments, sample))
    moments, sample = _merge(shares[0], pickle.loads(pickle.dumps(shares[1])))
    assert torch.equal(sample.tensors()[0], alone.x)
    assert moments.count == alone.moments.count == 260
    for name, tensor in alone.moments.state_dict().items():
        assert torch.allclose(moments.state_dict()[name], tensor, rtol=1e-10, atol=1e-10), name


def test_the_same_states_are_held_out_at_every_level():
    seen = []

    class Watching(TwoSample):
        fewest = 1

        def of_states(self, x, mask, reference, generator=None):
            seen.append(x)
            return Separation(0.0, 0.0, 0.5, 0.1, 0.5, False, x.numpy())

    fit_states(lambda t: t * small(t), [0.2, 0.4], criterion=Watching())
    assert torch.allclose(seen[0] / 0.4, seen[1] / 0.2)


def test_progress_is_told_the_states_and_the_levels():
    told = []
    fit_states(small, [0.1, 0.2], criterion=unjudged(), progress=lambda *what: told.append(what))
    assert [what for what in told if what[0] == "two_sample"] == [
        ("two_sample", 1, 2),
        ("two_sample", 2, 2),
    ]
    assert ("moments", 60, None) in told


@pytest.mark.parametrize("reference", ["nope", "shape"])
def test_a_reference_that_there_is_not_is_refused_on_the_first_batch(reference):
    read = []

    def states(t):
        for place in range(30):
            read.append(place)
            yield normal(20, 2, 3, seed=place)

    with pytest.raises(StatsMismatchError, match=f"unknown reference '{reference}'"):
        fit_states(states, [0.1], reference=reference, criterion=unjudged())
    assert read in ([0], [0, 1])


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("levels", "what"),
    [
        ([], "levels is empty"),
        (0.3, "levels=0.3 is no list"),
        (torch.tensor(0.3), "levels=tensor(0.3000) is no list"),
        (np.array(0.3), "levels=array(0.3) is no list"),
        ("0.3", "levels='0.3' is no list"),
        (torch.tensor([0.1, 0.1 + 1e-8]), "levels holds 0.1 more than once"),
        ([0.1, 0.3, 0.2], "levels 0.1, 0.3, 0.2 neither rise nor fall"),
        ([0.1, 0.3, 0.1 + 0.2], "levels holds 0.3 more than once"),
        ([0.1, math.nan], "a level=nan is no finite number"),
        (["noise"], "a level='noise' is no finite number"),
    ],
)
def test_levels_that_are_none(levels, what):
    with pytest.raises(TruncationError, match="Pass") as refused:
        fit_states(small, levels)
    assert what in str(refused.value)


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ({"states_at_level": small(0)}, "states_at_level is a Tensor, and a function is needed"),
        ({"towards": "up"}, "towards='up' is unknown. Known: data, noise"),
        ({"criterion": "cumulant"}, "'cumulant' cannot judge states that have their noise already"),
        ({"criterion": Cumulant()}, "cannot judge states that have their noise already"),
        ({"criterion": "certificate"}, "cannot judge states that have their noise already"),
        ({"criterion": "other"}, "criterion='other' is no criterion. Pass 'two_sample'"),
        (
            {"criterion": TwoSample},
            "is no criterion. Pass 'two_sample', an object such as TwoSample()",
        ),
        ({"n_criterion": 0}, "n_criterion=0"),
        ({"states_at_level": lambda t: []}, "states at level 0.2: no data"),
        ({"states_at_level": lambda t: small(t) * math.nan}, "states at level 0.2"),
        (
            {"states_at_level": lambda t: small(t)[:41]},
            "states at level 0.2: 20 of 41 states are held out, and the criterion needs at least "
            "100 of these. Half of all are held out, n_criterion at most: pass 200 states or more",
        ),
        ({"n_criterion": 7}, "7 of 60 states are held out"),
        ({"states_at_level": lambda t: None}, "states at level 0.2: data is None"),
    ],
)
def test_arguments_that_make_no_sense(arguments, what):
    with pytest.raises(DataError) as refused:
        fit_states(**{"states_at_level": small, "levels": [0.1, 0.2], **arguments})
    assert what in str(refused.value)


def test_a_generator_that_was_used_up_is_named_with_its_level():
    once = iter(small(0).split(16))
    with pytest.raises(DataError, match=r"states at level 0\.1: no data.*read only once"):
        fit_states(lambda t: once, [0.1, 0.2], criterion=unjudged())


def test_every_level_has_the_layout_of_the_first():
    shapes = {0.2: (60, 2, 3), 0.1: (60, 2, 4)}
    with pytest.raises(StatsMismatchError, match=r"states at level 0\.1"):
        fit_states(
            lambda t: normal(*shapes[t]),
            [0.1, 0.2],
            covariance="full",
            criterion=unjudged(),
        )


def test_a_level_that_was_not_measured_is_refused_with_the_nearest():
    stats = chosen([(0.1, 0.0)] * 4)
    assert stats.reference_at(0.1 + 0.2).kind == "channel"  # 0.30000000000000004
    with pytest.raises(
        TruncationError, match=r"level 0\.33 was not measured; the nearest are 0\.3"
    ):
        stats.reference_at(0.33)
    with pytest.raises(TruncationError, match="no finite number"):
        stats.reference_at("start")
