"""A patch is put on once, taken off whole, and survives an exception."""

from __future__ import annotations

import threading
from unittest import mock

import torch
from gaga_adapter.integrations import apply_patch, patched, remove_patch
from gaga_adapter.integrations.patching.patch import state_of
from gaga_adapter.integrations.protocol import adapter_for

from gaga_adapter.errors import (
    TruncationError,
)

from .case import (
    SIZES,
    left_behind,
    raises,
    same,
)


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
    assert same(case.sample(model), plain)


def a_with_block_leaves_what_was_before(case):
    model = case.model()
    outer = apply_patch(model, case.stats(model), t_star=9)
    with patched(model, case.stats(model), t_star=5) as inner:
        assert inner.t_star == model.T == 5
    assert state_of(model) is outer.state
    assert model.T == 9
    outer.remove()
    with raises(ZeroDivisionError), patched(model, None, t_star=5):
        raise ZeroDivisionError
    assert state_of(model) is None


def an_exception_leaves_nothing_half_patched(case):
    model = case.model()
    snapshot = left_behind(model)
    stats = case.stats(model)
    with (
        mock.patch.object(type(adapter_for(model)), "set_steps", side_effect=ZeroDivisionError),
        raises(ZeroDivisionError),
    ):
        apply_patch(model, stats)
    assert left_behind(model)[:2] == snapshot[:2]
    handle = apply_patch(model, stats, t_star=6)
    with raises(TruncationError):
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
        raises(ZeroDivisionError),
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
