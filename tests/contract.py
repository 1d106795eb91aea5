"""What `apply_patch` promises of every codebase it knows: one list of checks.

A codebase gives a `Case`: how one of its models is made, sampled and trained. `CHECKS` holds the
checks by name; each takes the case and raises `AssertionError`, or `NotApplicable` where the
codebase has no such thing. The checks import nothing of pytest, so that they also run in a process
whose working directory is somebody else's repository.
"""

from __future__ import annotations

import copy
import functools
import io
import pickle
import threading
import warnings
from dataclasses import dataclass, replace
from unittest import mock

import torch
from gaga_adapter.integrations import apply_patch, patched, remove_patch
from gaga_adapter.integrations.patching.patch import state_of
from gaga_adapter.integrations.patching.prior import at_gamma
from gaga_adapter.integrations.protocol import adapter_for

from gaga_adapter.errors import (
    ArtefactError,
    GAGAWarning,
    StatsMismatchError,
    TruncationError,
    UnsupportedModelError,
)
from gaga_adapter.layout import AtomLayout
from gaga_adapter.moments import ExchangeableMoments
from gaga_adapter.stats import GAGAStats
from gaga_adapter.training import trained_log_snr

SIZES = (5, 9, 7)


class NotApplicable(Exception):
    """This codebase has no such thing."""


@dataclass
class Case:
    """One codebase, and how to use it; this one is of the EDM lineage.

    Attributes:
        name: of the codebase.
        make: `make(n_steps, **options)` gives a model with seeded weights, in evaluation mode.
        options: what `make` takes: of `schedule` (`learned`), `loss` (`vlb`), `charges` (False),
            `context` (channels) and `trainable` (the autoencoder).
        verbs: what the models can do, of `sample`, `fix_noise`, `chain` and `loss`.
        network: method of `model.dynamics` that the model calls.
    """

    name: str
    make: object
    options: frozenset = frozenset({"schedule", "loss", "charges", "context"})
    verbs: frozenset = frozenset({"sample", "fix_noise", "chain", "loss"})
    n_steps: int = 20
    elements: tuple = ("H", "C", "N", "O", "F")
    network: str = "_forward"

    def model(self, n_steps=None, **options):
        """A new model.

        Raises:
            NotApplicable: the codebase has no such option.
        """
        self.needs(*options)
        return self.make(n_steps or self.n_steps, **options)

    def needs(self, *names):
        missing = set(names) - self.options - self.verbs
        if missing:
            raise NotApplicable(f"{self.name} has no {', '.join(sorted(missing))}")

    def masks(self, sizes=SIZES):
        node_mask = (torch.arange(max(sizes)) < torch.tensor(sizes)[:, None]).float()[..., None]
        pairs = (node_mask * node_mask.mT) * (1 - torch.eye(max(sizes)))
        return node_mask, pairs.reshape(-1, 1)

    def context(self, model, node_mask):
        n = getattr(model.dynamics, "context_node_nf", 0) or getattr(model, "n_context", 0)
        return torch.linspace(-1, 1, n * len(node_mask)).view(-1, 1, n) * node_mask if n else None

    def sample(self, model, sizes=SIZES, seed=1, **options):
        """A draw: a tuple of tensors."""
        torch.manual_seed(seed)
        node_mask, edge_mask = self.masks(sizes)
        given = (len(sizes), max(sizes), node_mask, edge_mask, self.context(model, node_mask))
        x, h = model.sample(*given, **options)
        return x, h["categorical"], h["integer"]

    def chain(self, model, sizes=SIZES, seed=1, keep_frames=None):
        self.needs("chain")
        torch.manual_seed(seed)
        node_mask, edge_mask = self.masks(sizes)
        given = (len(sizes), max(sizes), node_mask, edge_mask, self.context(model, node_mask))
        return model.sample_chain(*given, keep_frames=keep_frames)

    def batch(self, model, sizes=SIZES, seed=2):
        """What the training loop would pass: x, h and node mask; and the batch of the loader."""
        generator = torch.Generator().manual_seed(seed)
        owner = getattr(model, "vae", model)
        node_mask, edge_mask = self.masks(sizes)
        x = torch.randn(len(sizes), max(sizes), 3, generator=generator) * node_mask
        x = (x - x.sum(1, keepdim=True) / node_mask.sum(1, keepdim=True)) * node_mask
        kinds = torch.randint(owner.num_classes, x.shape[:2], generator=generator)
        one_hot = torch.nn.functional.one_hot(kinds, owner.num_classes) * node_mask
        numbers = torch.tensor([1, 6, 7, 8, 9, 16, 17])[kinds][..., None] * node_mask
        return {
            "positions": x,
            "one_hot": one_hot > 0,
            "charges": numbers if owner.include_charges else torch.zeros(0),
            "atom_mask": node_mask[..., 0] > 0,
            "edge_mask": edge_mask,
        }

    def loss(self, model, sizes=SIZES, seed=1):
        """Loss per molecule (B,), in the mode the model is in."""
        self.needs("loss")
        batch = self.batch(model, sizes)
        node_mask = batch["atom_mask"].float()[..., None]
        h = {"categorical": batch["one_hot"].float(), "integer": batch["charges"]}
        torch.manual_seed(seed)
        context = self.context(model, node_mask)
        return model(batch["positions"], h, node_mask, batch["edge_mask"], context)

    def given_to_network(self, z, node_mask):
        """What the network gets of a first noise `z`, to the bit."""
        return z

    def network_inputs(self, model, draw):
        """The (t, z) that the model's network is called with while `draw` runs."""
        seen = []
        inner = getattr(model.dynamics, self.network)

        def record(t, x, *args, **kwargs):
            seen.append((t.clone(), x.clone()))
            return inner(t, x, *args, **kwargs)

        with mock.patch.object(model.dynamics, self.network, record):
            draw()
        return seen

    def stats(self, model, log_snr_star=0.5):
        """Statistics far from N(0, I) in what the model diffuses, for sizes 2 to 12."""
        layout = adapter_for(model).layout(model, self.elements[: _n_elements(model)])
        generator = torch.Generator().manual_seed(5)
        moments = ExchangeableMoments(layout.n_features)
        sizes = torch.randint(3, 12, (600,), generator=generator)
        mask = torch.arange(12) < sizes[:, None]
        scale = torch.tensor([2.0, 2.0, 2.0] + [0.3] * layout.n_features)
        spread = 0.5 + torch.rand(600, 1, 1, generator=generator)
        x = torch.randn(600, 12, layout.n_channels, generator=generator) * scale * spread
        x[..., 3:] += torch.linspace(-0.5, 0.8, layout.n_features)
        moments.update(x * mask[..., None], mask)
        return GAGAStats(
            layout, moments, log_snr_star, provenance=adapter_for(model).provenance(model)
        )


def _n_elements(model):
    return getattr(model, "vae", model).num_classes


def _quiet(model, *args, **kwargs):
    """`apply_patch` where a warning is not the subject."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GAGAWarning)
        return apply_patch(model, *args, **kwargs)


def _same(left, right):
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def _raises(error, *words):
    class Expect:
        def __enter__(self):
            return self

        def __exit__(self, kind, value, trace):
            assert kind is not None, f"{error.__name__} was not raised"
            if not issubclass(kind, error):
                return False
            for word in words:
                assert word in str(value), f"{word!r} is not in {value}"
            return True

    return Expect()


def _snapshot(model):
    """Everything that a patch could leave behind."""
    hooks = [len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules()]
    types = [type(m) for m in model.modules()]
    attributes = {k: id(v) for k, v in model.__dict__.items() if not isinstance(v, int)}
    numbers = {k: v for k, v in model.__dict__.items() if isinstance(v, int)}
    return types, hooks, attributes, numbers, list(model.state_dict())


def _everything(case, model):
    """Samples, chain and losses of a model, as one list of tensors."""
    outputs = [*case.sample(model)]
    if "fix_noise" in case.verbs:
        outputs += case.sample(model, fix_noise=True)
    if "chain" in case.verbs:
        outputs.append(case.chain(model, keep_frames=5))
    if "loss" in case.verbs:
        outputs += [case.loss(model.train()), case.loss(model.eval())]
    assert all(bool(torch.isfinite(x).all()) for x in outputs)
    return [*outputs, torch.get_rng_state()]


VARIANTS = (
    {},
    {"schedule": "learned", "loss": "vlb"},
    {"loss": "vlb"},
    {"charges": False},
    {"context": 2},
)


def _variants(case):
    return [v for v in VARIANTS if set(v) <= case.options]


# -- nothing changes where nothing should ---------------------------------------------------------


def at_the_end_with_unit_noise_everything_is_bit_identical(case):
    for options in _variants(case):
        model = case.model(**options)
        before = _everything(case, model)
        handle = _quiet(model, None, t_star=case.n_steps)
        assert handle.t_star == handle.n_steps == case.n_steps
        assert _same(before, _everything(case, model)), options


def after_removal_nothing_is_left(case):
    for options in _variants(case):
        model = case.model(**options)
        snapshot, before = _snapshot(model), _everything(case, model)
        handle = _quiet(model, case.stats(model), fix_last_class=True)
        _everything(case, model)
        handle.remove()
        assert _snapshot(model) == snapshot, options
        assert _same(before, _everything(case, model)), options


def the_state_dict_is_the_same(case):
    model, other = case.model(), case.model()
    keys = list(model.state_dict())
    apply_patch(model, case.stats(model))
    assert list(model.state_dict()) == keys
    other.load_state_dict(model.state_dict(), strict=True)
    model.load_state_dict(other.state_dict(), strict=True)
    names = [name for name, _ in model.named_parameters()]
    assert names == [name for name, _ in other.named_parameters()]


# -- sampling ------------------------------------------------------------------------------------


def the_network_is_called_once_per_step_from_t_star(case):
    for t_star in (1, 2, 11, case.n_steps):
        model = case.model()
        apply_patch(model, case.stats(model), t_star=t_star)
        seen = case.network_inputs(model, lambda m=model: case.sample(m))
        times = torch.stack([t.flatten()[0] for t, _ in seen])
        exact = torch.arange(t_star, -1, -1).float() / case.n_steps
        assert torch.equal(times, exact), (t_star, times)


def only_the_first_noise_is_sent_to_the_reference(case):
    for kind in ("shape", "size", "channel", "paper"):
        model = case.model()
        stats = case.stats(model)
        node_mask, _ = case.masks()
        torch.manual_seed(1)
        z = model.sample_combined_position_feature_noise(len(SIZES), max(SIZES), node_mask)
        gamma = float(model.gamma(torch.full((1, 1), 11 / case.n_steps)))
        mask = node_mask[..., 0] > 0
        expected = at_gamma(stats.reference(kind), gamma).transport(z, mask)
        expected = case.given_to_network(expected, node_mask)
        apply_patch(model, stats, t_star=11, reference=kind)
        seen = case.network_inputs(model, lambda m=model: case.sample(m))
        assert torch.equal(seen[0][1], expected), kind
        assert not torch.equal(z, expected)
        # later noise is as the model draws it
        torch.manual_seed(3)
        after = model.sample_combined_position_feature_noise(len(SIZES), max(SIZES), node_mask)
        remove_patch(model)
        torch.manual_seed(3)
        plain = model.sample_combined_position_feature_noise(len(SIZES), max(SIZES), node_mask)
        assert torch.equal(after, plain)


def no_random_number_more_is_drawn(case):
    states = []
    for reference in ("unit", "shape", "size"):
        model = case.model()
        apply_patch(model, case.stats(model), t_star=7, reference=reference)
        case.sample(model)
        states.append(torch.get_rng_state())
    assert _same(states[:1] * 2, states[1:])
    torch.manual_seed(9)
    before = torch.get_rng_state()
    apply_patch(model, case.stats(model))
    assert torch.equal(torch.get_rng_state(), before)


def fixed_noise_is_transformed_per_size(case):
    case.needs("fix_noise")
    model = case.model()
    stats = case.stats(model)
    apply_patch(model, stats, t_star=11, reference="size")
    sizes = (5, 9, 5)
    seen = case.network_inputs(model, lambda: case.sample(model, sizes, fix_noise=True))
    z = seen[0][1]
    assert torch.equal(z[0], z[2])
    node_mask, _ = case.masks(sizes)
    torch.manual_seed(1)
    unit = model.sample_combined_position_feature_noise(1, 9, node_mask)
    gamma = -apply_patch(model, stats, t_star=11, reference="size").log_snr
    expected = at_gamma(stats.reference("size"), gamma).transport(unit, node_mask[..., 0] > 0)
    expected = case.given_to_network(expected, node_mask)
    assert torch.equal(z, expected)


def a_chain_has_no_more_frames_than_steps(case):
    case.needs("chain")
    model = case.model()
    apply_patch(model, case.stats(model), t_star=4)
    for frames, kept in ((100, 4), (3, 3), (None, 4)):
        chain = case.chain(model, keep_frames=frames)
        assert len(chain) == kept * len(SIZES)
        assert bool(torch.isfinite(chain).all())


def the_lost_class_is_told_and_given_back(case):
    case.needs("charges")
    model = case.model(charges=False)
    if hasattr(model, "vae"):  # a random decoder may have no taste for the last class
        linear = [m for m in model.vae.decoder.modules() if isinstance(m, torch.nn.Linear)]
        last = [m for m in linear if m.out_features == _n_elements(model)][-1]
        last.bias.data[-1] += 1
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        apply_patch(model, None, t_star=2)
    assert any("last element class" in str(w.message) for w in told)

    def last_class_share():
        _, one_hot, _ = case.sample(model, sizes=(9,) * 40)
        assert torch.equal(one_hot.sum(-1), torch.ones(40, 9))
        return float(one_hot[..., -1].mean())

    assert last_class_share() == 0
    state = torch.get_rng_state()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        apply_patch(model, None, t_star=2, fix_last_class=True)
    assert not told
    assert last_class_share() > 0
    assert torch.equal(state, torch.get_rng_state())


# -- training ------------------------------------------------------------------------------------


def training_draws_times_up_to_t_star(case):
    case.needs("loss")
    for options in _variants(case):
        model = case.model(**options)
        _quiet(model, case.stats(model), t_star=3, reference="size")
        times = set()
        for mode in (True, False):
            model.train(mode)
            draw = functools.partial(case.loss, model, sizes=(4,) * 128)
            for t, _ in case.network_inputs(model, draw):
                times |= set((t * case.n_steps).round().int().flatten().tolist())
                steps = (t * case.n_steps).round() / case.n_steps
                assert torch.equal(t, steps.to(t))
        assert times == {0, 1, 2, 3}, (options, times)


def the_prior_term_is_the_divergence_at_t_star(case):
    case.needs("loss")
    model = case.model(loss="vlb") if "loss" in case.options else case.model()
    stats = case.stats(model)
    losses = {}
    for kind in ("unit", "size", "shape", "channel"):
        handle = apply_patch(model, stats, t_star=11, reference=kind)
        losses[kind] = case.loss(model.eval())
    nats, seen = {}, {}
    remove_patch(model)
    plain = type(model).kl_prior

    def spy(self, xh, node_mask):
        seen["x"], seen["mask"] = xh, node_mask[..., 0] > 0
        return plain(self, xh, node_mask)

    with mock.patch.object(type(model), "kl_prior", spy):
        case.loss(model)
    for kind in losses:
        reference = at_gamma(stats.reference(kind), -handle.log_snr)
        nats[kind] = reference.kl_from_posterior(seen["x"], seen["mask"])
    for kind in ("size", "shape", "channel"):
        moved = (losses[kind] - losses["unit"]).double()
        assert torch.allclose(moved, nats[kind] - nats["unit"], rtol=1e-4, atol=2e-3), kind


def a_learned_schedule_feels_the_prior_term(case):
    case.needs("loss", "schedule")
    stats = replace(case.stats(case.model(schedule="learned", loss="vlb")), provenance={})
    torch.set_default_dtype(torch.float64)  # so that a difference of losses is a slope
    try:
        _compare_slopes(case, case.model(schedule="learned", loss="vlb").train(), stats)
    finally:
        torch.set_default_dtype(torch.float32)


def _compare_slopes(case, model, stats):
    node_mask, _ = case.masks()
    node_mask = node_mask.double()
    xh = torch.randn(3, 9, stats.layout.n_channels, generator=torch.Generator().manual_seed(4))
    xh = xh * node_mask
    parameters = [p for p in model.gamma.parameters() if p.requires_grad]
    for kind in ("size", "unit", "shape"):
        apply_patch(model, stats, t_star=11, reference=kind)
        total = model.kl_prior(xh, node_mask).sum()
        gradient = torch.autograd.grad(total, parameters)
        steps = [
            torch.randn(p.shape, generator=torch.Generator().manual_seed(6)) for p in parameters
        ]
        slope = sum(float((g * s).sum()) for g, s in zip(gradient, steps, strict=True))
        values = []
        for sign in (1, -1):
            for p, s in zip(parameters, steps, strict=True):
                p.data += sign * 1e-5 * s
            with torch.no_grad():
                values.append(float(model.kl_prior(xh, node_mask).sum()))
            for p, s in zip(parameters, steps, strict=True):
                p.data -= sign * 1e-5 * s
        assert abs(slope) > 1e-3
        assert abs(slope - (values[0] - values[1]) / 2e-5) < 1e-4 * abs(slope), kind


def it_trains(case):
    case.needs("loss")
    for options in _variants(case):
        model = case.model(**options).train()
        _quiet(model, case.stats(model))
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 1e-4)
        loss = case.loss(model).mean()
        loss.backward()
        optimizer.step()
        assert bool(torch.isfinite(loss)), options
        assert any(p.grad is not None for p in model.dynamics.parameters())


# -- copies --------------------------------------------------------------------------------------


def a_deep_copy_is_patched_and_independent(case):
    model = case.model()
    plain = case.sample(model)
    apply_patch(model, case.stats(model), t_star=6)
    expected = case.sample(model)
    twin = copy.deepcopy(model)
    assert type(twin) is type(model)
    remove_patch(twin)
    assert _same(case.sample(twin), plain)
    assert _same(case.sample(model), expected)
    twin = copy.deepcopy(model)
    remove_patch(model)
    assert _same(case.sample(twin), expected)
    for parameter in twin.dynamics.parameters():
        parameter.data += 1
    assert _same(case.sample(model), plain)


def a_data_parallel_replica_is_patched(case):
    model = case.model()
    handle = apply_patch(model, case.stats(model), t_star=6)
    replica = model._replicate_for_data_parallel()
    assert type(replica) is type(model)
    assert state_of(replica) is handle.state
    assert replica.phi.__self__ is replica
    assert replica.T == model.T == 6
    wrapped = torch.nn.DataParallel(model)
    apply_patch(wrapped, case.stats(model), t_star=5)
    assert model.T == 5
    if "loss" in case.verbs:
        case.loss(wrapped.module)
    remove_patch(wrapped)
    assert state_of(model) is None


def a_whole_model_can_be_saved(case):
    model = case.model()
    apply_patch(model, case.stats(model), t_star=6)
    expected = case.sample(model)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for loaded in (
        torch.load(file, weights_only=False),  # our own bytes
        pickle.loads(pickle.dumps(model)),
    ):
        assert type(loaded) is type(model)
        assert _same(case.sample(loaded), expected)
        remove_patch(loaded)
        assert type(loaded) is type(case.model())


# -- lifecycle -----------------------------------------------------------------------------------


def applied_twice_is_applied_once(case):
    model = case.model()
    plain = case.sample(model)
    first = apply_patch(model, case.stats(model), t_star=6)
    second = apply_patch(model, case.stats(model), t_star=9)
    assert second.n_steps == case.n_steps
    assert len(type(model).__mro__) == len(type(case.model()).__mro__) + 1
    assert len(case.network_inputs(model, lambda: case.sample(model))) == 10
    first.remove()
    assert state_of(model) is second.state
    second.remove()
    second.remove()
    remove_patch(model)
    assert _same(case.sample(model), plain)


def a_with_block_leaves_what_was_before(case):
    model = case.model()
    outer = apply_patch(model, case.stats(model), t_star=9)
    with patched(model, case.stats(model), t_star=5) as inner:
        assert inner.t_star == model.T == 5
    assert state_of(model) is outer.state
    assert model.T == 9
    outer.remove()
    with _raises(ZeroDivisionError), patched(model, None, t_star=5):
        raise ZeroDivisionError
    assert state_of(model) is None


def an_exception_leaves_nothing_half_patched(case):
    model = case.model()
    snapshot = _snapshot(model)
    stats = case.stats(model)
    with (
        mock.patch.object(type(adapter_for(model)), "set_steps", side_effect=ZeroDivisionError),
        _raises(ZeroDivisionError),
    ):
        apply_patch(model, stats)
    assert _snapshot(model)[:2] == snapshot[:2]
    handle = apply_patch(model, stats, t_star=6)
    with _raises(TruncationError):
        apply_patch(model, stats, t_star=0)
    assert state_of(model) is handle.state
    assert model.T == 6


def an_exception_while_sampling_does_not_reach_the_next_noise(case):
    model = case.model()
    node_mask, _ = case.masks()
    torch.manual_seed(3)
    plain = model.sample_combined_position_feature_noise(len(SIZES), max(SIZES), node_mask)
    apply_patch(model, case.stats(model), t_star=6)
    with (
        mock.patch.object(model.dynamics, case.network, side_effect=ZeroDivisionError),
        _raises(ZeroDivisionError),
    ):
        case.sample(model)
    torch.manual_seed(3)
    after = model.sample_combined_position_feature_noise(len(SIZES), max(SIZES), node_mask)
    assert torch.equal(after, plain)


def threads_do_not_share_the_first_noise(case):
    model = case.model()
    node_mask, _ = case.masks()
    stats = case.stats(model)
    draws = []
    schedule = adapter_for(model).schedule(model)

    def other():
        torch.manual_seed(1)
        given = (len(SIZES), max(SIZES), node_mask)
        draws.append(model.sample_combined_position_feature_noise(*given))

    def interrupt(module, args):
        if not draws:  # the schedule is asked for the level of the start: the first noise is drawn
            draws.append(None)
            thread = threading.Thread(target=other)
            thread.start()
            thread.join()

    torch.manual_seed(1)
    unit = model.sample_combined_position_feature_noise(len(SIZES), max(SIZES), node_mask)
    apply_patch(model, stats, t_star=6)
    expected = case.network_inputs(model, lambda: case.sample(model))[0][1]
    hook = schedule.register_forward_pre_hook(interrupt)
    seen = case.network_inputs(model, lambda: case.sample(model))
    hook.remove()
    assert torch.equal(draws[1], unit)
    assert torch.equal(seen[0][1], expected)


# -- refusals ------------------------------------------------------------------------------------


def t_star_comes_from_the_models_own_schedule(case):
    for options in _variants(case):
        model = case.model(**options)
        stats = case.stats(model, log_snr_star=0.3)
        steps = torch.arange(case.n_steps + 1)[:, None] / case.n_steps
        with torch.no_grad():  # EDM's learned schedule is right to 4e-4 in float32
            log_snr = -model.gamma(steps).flatten()
        handle = _quiet(model, stats)
        assert log_snr[handle.t_star] <= 0.3 < log_snr[handle.t_star - 1]
        assert abs(handle.log_snr - float(log_snr[handle.t_star])) < 1e-3
        handle.remove()
        assert abs(handle.log_snr - float(log_snr[handle.t_star])) < 1e-3


def a_wrong_step_is_refused(case):
    model = case.model()
    for t_star in (0, -1, case.n_steps + 1, 2.5, True, float("nan")):
        with _raises(TruncationError, str(t_star), f"1 to {case.n_steps}"):
            apply_patch(model, None, t_star=t_star)
    with _raises(TruncationError, "never falls"):
        apply_patch(model, case.stats(model, log_snr_star=-40.0))
    with _raises(ArtefactError, "neither"):
        apply_patch(model)
    with _raises(ArtefactError, "needs fitted statistics"):
        apply_patch(model, None, t_star=3, reference="size")
    with _raises(ArtefactError, "no fitted statistics"):
        apply_patch(model, "no-such-folder")
    assert state_of(model) is None


def statistics_of_something_else_are_refused(case):
    model = case.model()
    stats = case.stats(model)
    width = stats.layout.n_features + 1
    moments = ExchangeableMoments(width)
    moments.update(torch.randn(8, 5, 3 + width, generator=torch.Generator().manual_seed(0)))
    other = GAGAStats(AtomLayout(width), moments, 0.0)
    with _raises(StatsMismatchError, "fit_from"):
        apply_patch(model, other)
    with _raises(StatsMismatchError, "unknown reference"):
        apply_patch(model, stats, reference="nonsense")
    assert state_of(model) is None


def a_model_that_ignores_the_number_of_steps_is_refused(case):
    model = case.model()
    kind = type(model)
    adapter = adapter_for(model)

    def stubborn(name):
        method = getattr(kind, name)

        def run(self, *args, **kwargs):
            cut = adapter.n_steps(self)
            adapter.set_steps(self, case.n_steps)
            try:
                return method(self, *args, **kwargs)
            finally:
                adapter.set_steps(self, cut)

        run.__signature__ = __import__("inspect").signature(method)
        return run

    body = {name: stubborn(name) for name in adapter.starts if hasattr(kind, name)}
    model.__class__ = type("Stubborn", (kind,), body)
    snapshot = _snapshot(model)
    with _raises(UnsupportedModelError, "ignores the number of steps"):
        apply_patch(model, case.stats(model), t_star=5)
    assert _snapshot(model) == snapshot


def another_class_is_refused_with_all_reasons(case):
    with _raises(UnsupportedModelError, "cannot patch Linear", "no attribute 'T'", "no method"):
        apply_patch(torch.nn.Linear(2, 2), None, t_star=1)
    with _raises(UnsupportedModelError, "cannot patch int"):
        apply_patch(3, None, t_star=1)


def checkpoints_say_how_far_the_model_was_trained(case):
    model = case.model()
    handle = apply_patch(model, case.stats(model), t_star=11)
    average = copy.deepcopy(model)
    assert trained_log_snr(average.state_dict()) is None
    case.loss(model.train()).mean().backward()
    trained = trained_log_snr(average.state_dict())
    assert abs(trained - handle.log_snr) < 1e-5
    file = io.BytesIO()
    torch.save(average.state_dict(), file)
    file.seek(0)
    again = case.model()
    apply_patch(again, case.stats(again), t_star=11)
    again.load_state_dict(torch.load(file, weights_only=True))
    for t_star in (11, 5):
        apply_patch(again, case.stats(again), t_star=t_star)
        case.sample(again)
    apply_patch(again, case.stats(again), t_star=15)
    said = None
    try:
        case.sample(again)
    except TruncationError as error:
        said = str(error)
    assert said is not None
    assert "knows nothing noisier" in said


CHECKS = {
    check.__name__: check
    for check in (
        at_the_end_with_unit_noise_everything_is_bit_identical,
        after_removal_nothing_is_left,
        the_state_dict_is_the_same,
        the_network_is_called_once_per_step_from_t_star,
        only_the_first_noise_is_sent_to_the_reference,
        no_random_number_more_is_drawn,
        fixed_noise_is_transformed_per_size,
        a_chain_has_no_more_frames_than_steps,
        the_lost_class_is_told_and_given_back,
        training_draws_times_up_to_t_star,
        checkpoints_say_how_far_the_model_was_trained,
        the_prior_term_is_the_divergence_at_t_star,
        a_learned_schedule_feels_the_prior_term,
        it_trains,
        a_deep_copy_is_patched_and_independent,
        a_data_parallel_replica_is_patched,
        a_whole_model_can_be_saved,
        applied_twice_is_applied_once,
        a_with_block_leaves_what_was_before,
        an_exception_leaves_nothing_half_patched,
        an_exception_while_sampling_does_not_reach_the_next_noise,
        threads_do_not_share_the_first_noise,
        t_star_comes_from_the_models_own_schedule,
        a_wrong_step_is_refused,
        statistics_of_something_else_are_refused,
        a_model_that_ignores_the_number_of_steps_is_refused,
        another_class_is_refused_with_all_reasons,
    )
}
