"""What the patch of a flow with discrete types promises: one list of checks.

They run on the stand-in in every test run, and on TABASCO itself in `runners/tabasco_runner.py`. A
case gives `make(**options)`, a seeded model in evaluation mode, and `batch(tensors)`, a batch in
the codebase's own form. Types are 4; statistics are of molecules whose types and places matter.
"""

import copy
import io
import math
import random
import warnings
from dataclasses import dataclass
from unittest import mock

import torch
from gaga_adapter.integrations import remove_patch
from gaga_adapter.integrations.flows import tabasco
from gaga_adapter.integrations.flows.truncated import noise_of, noise_std
from gaga_adapter.integrations.patching.patch import state_of

from gaga_adapter.criteria import TwoSample
from gaga_adapter.errors import (
    DataError,
    GAGAWarning,
    StatsMismatchError,
    TruncationError,
    UnsupportedModelError,
)
from gaga_adapter.fitting import fit
from gaga_adapter.layout import AtomLayout, MoleculeLayout
from gaga_adapter.moments import ExchangeableMoments
from gaga_adapter.moments.mixed import MixedMoments
from gaga_adapter.stats import GAGAStats
from gaga_adapter.trained import trained_log_snr

N_TYPES = 4
SIZES = (7, 4, 6, 6)


@dataclass
class Case:
    name: str
    make: object
    batch: object

    def given(self, sizes=SIZES, seed=2):
        coords, types, mask = molecules(torch.tensor(sizes), seed)
        return self.batch(coords=coords, atomics=types, padding_mask=~mask)

    def sample(self, model, num_steps=10, seed=1, **options):
        torch.manual_seed(seed)
        random.seed(seed)
        drawn = model.sample(num_steps=num_steps, **(options or {"batch": self.given()}))
        return drawn["coords"], drawn["atomics"], torch.get_rng_state()

    def loss(self, model, seed=1):
        torch.manual_seed(seed)
        return model(self.given(), compute_stats=False)[0]

    def seen(self, model, draw):
        """The times and states that the network is called with while `draw` runs."""
        calls, inner = [], model.net.forward

        def record(coords, atomics, padding_mask, t):
            calls.append((t.clone(), coords.clone(), atomics.clone()))
            return inner(coords, atomics, padding_mask, t)

        with mock.patch.object(model.net, "forward", record):
            draw()
        return calls

    def stats(self, model, log_snr_star=0.0, n=600):
        sizes = torch.randint(3, 8, (n,), generator=torch.Generator().manual_seed(3))
        coords, types, mask = molecules(sizes, 4)
        moments = MixedMoments(N_TYPES)
        batch = self.batch(coords=coords, atomics=types, padding_mask=~mask)
        moments.update(*tabasco.diffused(model, batch))
        stats = GAGAStats(AtomLayout(N_TYPES), moments, log_snr_star, provenance=noise_of(model))
        return stats


def molecules(sizes, seed):
    """Chains whose first half is of types 0 and 1 and lies inside; padding has type 3."""
    generator = torch.Generator().manual_seed(seed)
    n = int(sizes.max())
    mask = torch.arange(n) < sizes[:, None]
    late = torch.arange(n) >= sizes[:, None] / 2
    kinds = torch.randint(2, mask.shape, generator=generator) + 2 * late
    coords = torch.randn(*mask.shape, 3, generator=generator).cumsum(1) * (1 + late[..., None])
    coords = coords * mask[..., None]
    coords = (coords - coords.sum(1, keepdim=True) / sizes[:, None, None]) * mask[..., None]
    kinds = torch.where(mask, kinds, N_TYPES - 1)
    return coords, torch.nn.functional.one_hot(kinds, N_TYPES).float(), mask


def raises(error, words, call):
    said = None
    try:
        call()
    except error as found:
        said = str(found)
    assert said is not None, f"{error.__name__} was not raised"
    assert words in said, said


def same(left, right):
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def everything(case, model):
    return [
        *case.sample(model),
        *case.sample(model, batch_size=5),
        case.loss(model.train()).detach(),
        case.loss(model.eval()).detach(),
        torch.get_rng_state(),
    ]


# -- the checks ------------------------------------------------------------------------------------


def at_the_noise_end_everything_is_bit_identical(case):
    model = case.make()
    before = everything(case, model)
    for spacing in ("suffix", "respace"):
        tabasco.apply_patch(model, None, t_star=0.0, spacing=spacing)
        assert same(before, everything(case, model)), spacing


def after_removal_nothing_is_left(case):
    model = case.make()
    names, kind, before = list(model.__dict__), type(model), everything(case, model)
    handle = tabasco.apply_patch(model, case.stats(model), reference="mixed_order")
    case.sample(model)
    assert type(model) is not kind
    handle.remove()
    handle.remove()
    remove_patch(model)
    assert type(model) is kind
    assert list(model.__dict__) == names
    assert same(before, everything(case, model))


def the_state_dict_is_the_same(case):
    model, other = case.make(), case.make()
    keys = list(model.state_dict())
    tabasco.apply_patch(model, case.stats(model), reference="mixed_order")
    assert list(model.state_dict()) == keys
    model.load_state_dict(other.state_dict(), strict=True)


def it_starts_at_t_star_and_calls_less(case):
    model = case.make()
    assert len(case.seen(model, lambda: case.sample(model, num_steps=20))) == 20
    stats = case.stats(model)
    tabasco.apply_patch(model, stats, t_star=0.43, reference="mixed_order")
    calls = case.seen(model, lambda: case.sample(model, num_steps=20))
    left = int((model._get_sample_schedule(20)[:-1] > 0.43).sum()) + 1
    assert len(calls) == left < 20
    assert all(float((t - 0.43).abs().max()) < 1e-6 for t in calls[0][:1])
    tabasco.apply_patch(model, stats, t_star=0.43, reference="mixed_order", spacing="respace")
    calls = case.seen(model, lambda: case.sample(model, num_steps=20))
    times = [float(call[0][0]) for call in calls]
    assert len(times) == 20
    assert abs(times[0] - 0.43) < 1e-6
    assert times == sorted(times)


def the_first_state_is_of_the_mixed_law(case):
    """Second moments of the start, and the types that show, within five standard errors."""
    for kind in ("mixed_order", "mixed"):
        model = case.make()
        stats, t = case.stats(model, n=2000), 0.6
        tabasco.apply_patch(model, stats, t_star=t, reference=kind)
        given = case.given(sizes=(6,) * 3000)
        start = case.seen(model, lambda: case.sample(model, num_steps=2, batch=given))[0]  # noqa: B023
        x, types = start[1].double(), start[2].double()
        sigma = noise_std(model, torch.ones(1, 6, dtype=torch.bool)).item()
        assert float(x.sum(1).abs().max()) < 1e-4
        moments = stats.moments.at_size(6)
        per_degree = x.square().sum((1, 2)) / 15
        expected = sigma**2 * (t**2 * moments.v_x + (1 - t) ** 2)
        within = 5 * math.hypot(float(per_degree.std()) / 3000**0.5, 0.0)
        assert abs(float(per_degree.mean()) - expected) < within
        shares = t * moments.feature_mean + (1 - t) / N_TYPES
        error = (shares * (1 - shares) / 18_000).sqrt()
        assert bool(((types.mean((0, 1)) - shares).abs() < 5 * error).all())
        first, last = types[:, 0, :2].sum(-1).mean(), types[:, -1, :2].sum(-1).mean()
        if kind == "mixed_order":  # the first half is of types 0 and 1, and the second is not
            assert abs(float(first) - (t + (1 - t) / 2)) < 5 * 0.5 / 3000**0.5
            assert abs(float(last) - (1 - t) / 2) < 5 * 0.5 / 3000**0.5
        else:
            assert abs(float(first - last)) < 5 * 0.75 / 3000**0.5


def noise_in_other_units_gives_the_same_start_in_them(case):
    for options in ({"noise_scale": 2.0}, {"scale_noise_by_log_num_atoms": True}):
        model = case.make(**options)
        tabasco.apply_patch(model, case.stats(model), t_star=0.5, reference="mixed_size")
        case.sample(model)
        the_first_state_is_of_the_mixed_law(
            Case(case.name, lambda: case.make(**options), case.batch)  # noqa: B023
        )


def training_times_lie_beyond_t_star(case):
    model = case.make()
    stats = case.stats(model)
    for t_star in (0.2, 0.7):
        tabasco.apply_patch(model, stats, t_star=t_star, reference="mixed_order")
        torch.manual_seed(5)
        times = model._create_path(case.given(sizes=(5,) * 2000)).t
        assert float(times.min()) >= t_star
        # The law of Beta(1.8, 1) beyond t*: its distribution function there is uniform.
        u = ((times.double() ** 1.8 - t_star**1.8) / (1 - t_star**1.8)).sort().values
        steps = torch.arange(1, 2001, dtype=torch.float64) / 2000
        assert float((u - steps).abs().max()) < 2.7 / 2000**0.5  # Kolmogorov: 1e-6


def it_trains_and_its_checkpoint_says_how_far(case):
    model = case.make()
    tabasco.apply_patch(model, case.stats(model), t_star=0.5, reference="mixed_order")
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    loss = case.loss(model.train())
    loss.backward()
    optimizer.step()
    assert math.isfinite(float(loss.detach()))
    assert abs(trained_log_snr(model.state_dict())) < 1e-6
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    again = case.make()
    again.load_state_dict(torch.load(file, weights_only=True))
    tabasco.apply_patch(again, case.stats(again), t_star=0.5, reference="mixed_order")
    case.sample(again)
    tabasco.apply_patch(again, case.stats(again), t_star=0.4, reference="mixed_order")
    raises(TruncationError, "knows nothing noisier", lambda: case.sample(again))


def copies_are_patched_and_independent(case):
    model = case.make()
    plain = case.sample(model)
    tabasco.apply_patch(model, case.stats(model), reference="mixed_order")
    expected = case.sample(model)
    twin = copy.deepcopy(model)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)  # our own bytes
    for other in (twin, loaded):
        assert type(other) is type(model)
        assert same(case.sample(other), expected)
        remove_patch(other)
        assert same(case.sample(other), plain)
    assert same(case.sample(model), expected)


def applied_twice_is_applied_once(case):
    model = case.make()
    plain, stats = case.sample(model), case.stats(model)
    first = tabasco.apply_patch(model, stats, t_star=0.3, reference="mixed_order")
    second = tabasco.apply_patch(model, stats, t_star=0.5, reference="mixed_order")
    assert len(type(model).__mro__) == len(type(case.make()).__mro__) + 1
    first.remove()
    assert state_of(model) is second.state
    with tabasco.patched(model, None, t_star=0.2) as inner:
        assert inner.t_star == 0.2
    assert state_of(model) is second.state
    with tabasco.patched(model, None, t_star=0.2):
        remove_patch(model)
    assert state_of(model) is None
    with tabasco.patched(model, None, t_star=0.2):
        tabasco.apply_patch(model, None, t_star=0.3)
    assert state_of(model) is None
    second = tabasco.apply_patch(model, stats, t_star=0.5, reference="mixed_order")
    raises(TruncationError, "no time", lambda: tabasco.apply_patch(model, stats, t_star=1.0))
    assert state_of(model) is second.state
    second.remove()
    assert same(case.sample(model), plain)


def an_exception_leaves_the_next_noise_alone(case):
    model = case.make()
    torch.manual_seed(3)
    plain = model._sample_noise_like_batch(case.given())["coords"]
    tabasco.apply_patch(model, case.stats(model), reference="mixed_order")
    with mock.patch.object(model.net, "forward", side_effect=ZeroDivisionError):
        raises(ZeroDivisionError, "", lambda: case.sample(model))
    torch.manual_seed(3)
    assert torch.equal(model._sample_noise_like_batch(case.given())["coords"], plain)


def samplers_with_times_of_their_own_are_refused(case):
    model = case.make()
    tabasco.apply_patch(model, case.stats(model), t_star=0.5, reference="mixed_order")
    noise = model._sample_noise_like_batch(case.given())
    times = model._get_sample_schedule(10)
    assert float(times[0]) == 0  # outside of `sample` it is the whole schedule
    t = times[:1].repeat(len(SIZES))
    raises(UnsupportedModelError, "does not follow", lambda: model._step(noise, t, t + 0.1))


def bonds_are_refused(case):
    model = case.make()
    model.bonds_interpolant = model.atomics_interpolant
    raises(
        UnsupportedModelError, "bonds are refused", lambda: tabasco.apply_patch(model, None, 0.5)
    )
    model = case.make()
    batch = case.given()
    batch["bonds"] = batch["padding_mask"]
    raises(DataError, "Bonds are refused", lambda: tabasco.diffused(model, batch))


def another_path_is_refused(case):
    model = case.make()
    inner = model.atomics_interpolant.create_path

    def late(x_1, t, x_0=None):
        return inner(x_1=x_1, t=t**2, x_0=x_0)

    model.atomics_interpolant.create_path = late
    raises(UnsupportedModelError, "its path is not", lambda: tabasco.apply_patch(model, None, 0.5))


def statistics_of_something_else_are_refused(case):
    model, other = case.make(), case.make(noise_scale=2.0)
    stats = case.stats(model)
    raises(StatsMismatchError, "units of the noise", lambda: tabasco.apply_patch(other, stats))
    # Statistics of `fit` itself say nothing of the noise, so they are in units of unit noise.
    silent = GAGAStats(AtomLayout(N_TYPES), stats.moments, 0.0)
    tabasco.apply_patch(model, silent, reference="mixed_order")
    remove_patch(model)
    for options in ({"noise_scale": 20.0}, {"scale_noise_by_log_num_atoms": True}):
        other = case.make(**options)
        raises(StatsMismatchError, "'noise_scale': 1.0", lambda: tabasco.apply_patch(other, silent))  # noqa: B023
        assert state_of(other) is None
    model.set_data_stats({**model.data_stats, "atom_dim": 9})
    raises(StatsMismatchError, "9 types", lambda: tabasco.apply_patch(model, stats))


def molecules_of_a_plain_fit_serve_in_the_right_units(case):
    """Statistics of `gaga fit`: compositions, without positions given types and without order."""
    model = case.make()
    coords, types, mask = molecules(4 + torch.arange(1200) % 4, 4)
    moments = ExchangeableMoments(N_TYPES)
    moments.update(torch.cat([coords, types / 4], -1), mask)
    for scale in (2.0, 1.0):
        layout = MoleculeLayout(("C", "N", "O", "F"), position_scale=scale)
        stats = GAGAStats(layout, moments, 0.0)
        if scale == 2.0:
            tabasco.apply_patch(model, stats)
            case.sample(model)
            assert model._gaga.reference.kind == "mixed"
        else:
            expected = "positions are angstrom / 2"
            raises(StatsMismatchError, expected, lambda: tabasco.apply_patch(model, stats))  # noqa: B023
    stats = GAGAStats(AtomLayout(N_TYPES), moments, 0.0)
    raises(
        StatsMismatchError, "no discrete", lambda: tabasco.apply_patch(model, stats, 0.5, "shape")
    )


def a_start_that_t_star_was_not_chosen_for_is_told(case):
    model = case.make()
    coords, types, mask = molecules(3 + torch.arange(400) % 5, 9)
    x = torch.cat([coords, types], -1)
    quick = TwoSample(folds=2, max_iter=5, n_permutations=9, check_reference=False)
    options = {"tolerance": 9.0, "log_snr": (0.0, -6.0), "n_criterion": 200, "n_bootstrap": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GAGAWarning)
        judged = {
            kind: fit([(x, mask)], AtomLayout(N_TYPES), quick, kind, **options)
            for kind in ("shape", "mixed_order")
        }
    for fitted, asked, t_star, expected in (
        ("mixed_order", "auto", None, ""),
        ("mixed_order", "mixed_size", None, "t* was chosen for the 'mixed_order' reference"),
        ("mixed_order", "mixed_size", 0.4, ""),  # chosen by hand
        ("mixed_order", "mixed_size", 0.0, ""),
    ):
        told = _warnings(lambda: tabasco.apply_patch(model, judged[fitted], t_star, asked))  # noqa: B023
        assert ("t* was chosen" in told) == bool(expected), told
        assert expected in told
    told = _warnings(lambda: tabasco.apply_patch(model, judged["shape"]))
    assert "t* was chosen for the 'shape' reference" in told, told


def _warnings(call):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", GAGAWarning)
        call()
    return " ".join(str(one.message) for one in caught)


def bad_input_is_told(case):
    model = case.make()
    for t_star in ("0.5", True, math.nan, [0.5], -0.1, 1.0):
        raises(TruncationError, "t_star=", lambda: tabasco.apply_patch(model, None, t_star))  # noqa: B023
    assert tabasco.apply_patch(model, None, torch.tensor(0.5)).t_star == 0.5
    remove_patch(model)
    batch = case.given()
    short = {**{name: batch[name] for name in ("coords", "atomics")}, "padding_mask": torch.ones(4)}
    for loader, words in (
        ([], "loader is empty"),
        (5, "has no batches"),
        ([1], "a batch is a int"),
        ([{"coords": 1}], "a batch has no atomics, padding_mask"),
        ([{"coords": 1, "atomics": 1, "padding_mask": 1}], "a batch has coords ()"),
        ([short], "Pass tensors (B, N, 3)"),
    ):
        raises(DataError, words, lambda: tabasco.fit_from(model, loader))  # noqa: B023


def the_module_that_trains_it_stands_for_it(case):
    outer = torch.nn.Module()
    outer.model = case.make()
    handle = tabasco.apply_patch(outer, case.stats(outer.model), reference="mixed_order")
    assert handle.model is outer.model
    assert state_of(outer.model) is handle.state
    handle.remove()
    assert state_of(outer.model) is None
    raises(
        UnsupportedModelError,
        "no attribute",
        lambda: tabasco.apply_patch(torch.nn.Linear(2, 2), None, 0.5),
    )


def it_is_fitted_from_its_own_loader(case):
    model = case.make()
    sizes = torch.randint(3, 8, (600,), generator=torch.Generator().manual_seed(8))
    coords, types, mask = molecules(sizes, 9)
    loader = [
        case.batch(coords=c, atomics=a, padding_mask=p)
        for c, a, p in zip(*(x.split(200) for x in (coords, types, ~mask)), strict=True)
    ]
    quick = {
        "criterion": TwoSample(folds=2, max_iter=5, n_permutations=9, check_reference=False),
        "log_snr": (0.0, -6.0),
        "tolerance": 3.0,
        "n_bootstrap": 0,
        "n_criterion": 200,
    }
    stats = tabasco.fit_from(model, loader, **quick)
    assert stats.judged_reference == "mixed_order"
    assert stats.moments.count == 600
    # Padding in front of the atoms is no structure that the criterion would see.
    turned = [case.batch(**{k: v.flip(1) for k, v in batch.items()}) for batch in loader]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GAGAWarning)
        front = tabasco.fit_from(model, turned, **quick)
    assert front.log_snr_star == stats.log_snr_star
    handle = tabasco.apply_patch(model, stats)
    assert abs(handle.t_star - 1 / (1 + math.exp(-stats.log_snr_star / 2))) < 1e-12
    case.sample(model)


CHECKS = {
    name: check
    for name, check in list(globals().items())
    if getattr(check, "__module__", "") == __name__
    and callable(check)
    and name not in ("Case", "molecules", "raises", "same", "everything", "_warnings")
}
