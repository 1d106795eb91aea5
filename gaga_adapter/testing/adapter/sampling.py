"""A sample starts at t* from the reference, and is otherwise as the model draws it."""

from __future__ import annotations

import functools
import warnings

import torch

from gaga_adapter.integrations import apply_patch, remove_patch
from gaga_adapter.integrations.patching.prior import at_gamma
from gaga_adapter.integrations.protocol import Adapter, adapter_for
from gaga_adapter.testing.adapter.case import (
    SIZES,
    Case,
    same,
)
from gaga_adapter.testing.report import NotApplicable


def the_network_is_called_once_per_step_from_t_star(case: Case) -> None:
    """The network gets t*/T, ..., 1/T, 0, each of them once."""
    for t_star in (1, 2, 11, case.n_steps):
        model = case.model()
        apply_patch(model, case.stats(model), t_star=t_star)
        seen = case.network_inputs(model, functools.partial(case.sample, model))
        times = torch.stack([t.flatten()[0] for t, _ in seen])
        exact = torch.arange(t_star, -1, -1).float() / case.n_steps
        assert torch.equal(times, exact), (t_star, times)


def only_the_first_noise_is_sent_to_the_reference(case: Case) -> None:
    """The first noise becomes the start; every later noise is the model's own."""
    for kind in ("shape", "size", "channel", "paper"):
        model = case.model()
        stats = case.stats(model)
        node_mask, _ = case.masks()
        torch.manual_seed(1)
        z = case.noise(model)
        gamma = float(adapter_for(model).gamma_at(model, 11 / case.n_steps))
        mask = node_mask[..., 0] > 0
        expected = at_gamma(stats.reference(kind), gamma).transport(z, mask)
        expected = case.given_to_network(expected, node_mask)
        apply_patch(model, stats, t_star=11, reference=kind)
        seen = case.network_inputs(model, functools.partial(case.sample, model))
        assert torch.equal(seen[0][1], expected), kind
        assert not torch.equal(z, expected)
        # later noise is as the model draws it
        torch.manual_seed(3)
        after = case.noise(model)
        remove_patch(model)
        torch.manual_seed(3)
        plain = case.noise(model)
        assert torch.equal(after, plain)


def no_random_number_more_is_drawn(case: Case) -> None:
    """A patch and a start use no random numbers of their own."""
    states = []
    for reference in ("unit", "shape", "size"):
        model = case.model()
        apply_patch(model, case.stats(model), t_star=7, reference=reference)
        case.sample(model)
        states.append(torch.get_rng_state())
    assert same(states[:1] * 2, states[1:])
    torch.manual_seed(9)
    before = torch.get_rng_state()
    apply_patch(model, case.stats(model))
    assert torch.equal(torch.get_rng_state(), before)


def fixed_noise_is_transformed_per_size(case: Case) -> None:
    """One noise for all molecules becomes the start of each size."""
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
    unit = case.noise(model, sizes, n_samples=1)
    gamma = -apply_patch(model, stats, t_star=11, reference="size").log_snr
    expected = at_gamma(stats.reference("size"), gamma).transport(unit, node_mask[..., 0] > 0)
    expected = case.given_to_network(expected, node_mask)
    assert torch.equal(z, expected)


def a_chain_has_no_more_frames_than_steps(case: Case) -> None:
    """A chain keeps at most t* frames."""
    case.needs("chain")
    model = case.model()
    apply_patch(model, case.stats(model), t_star=4)
    for frames, kept in ((100, 4), (3, 3), (None, 4)):
        chain = case.chain(model, keep_frames=frames)
        assert len(chain) == kept * len(SIZES)
        assert bool(torch.isfinite(chain).all())


def a_lost_element_class_is_reported_and_given_back(case: Case) -> None:
    """`fix_last_class` gives samples without charges their last element class."""
    case.needs("charges")
    if not case.loses_class:
        raise NotApplicable(f"{case.name} does not lose it")
    model = case.model(charges=False)
    if type(adapter_for(model)).faults is Adapter.faults:
        raise NotApplicable(f"{case.name} drops no element class")
    if hasattr(model, "vae"):  # a random decoder may have no taste for the last class
        linear = [m for m in model.vae.decoder.modules() if isinstance(m, torch.nn.Linear)]
        last = [m for m in linear if m.out_features == model.vae.num_classes][-1]
        last.bias.data[-1] += 1
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        apply_patch(model, None, t_star=2)
    assert any("last element class" in str(w.message) for w in told)

    def last_class_share() -> float:
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
