"""A patch is put on once, taken off whole, and survives an exception."""

from __future__ import annotations

import threading
from typing import Any
from unittest import mock

import torch

from gaga_adapter.errors import (
    TruncationError,
)
from gaga_adapter.integrations import apply_patch, patched, remove_patch
from gaga_adapter.integrations.patching.patch import state_of
from gaga_adapter.integrations.protocol import adapter_for
from gaga_adapter.testing.adapter.case import (
    Case,
    left_behind,
    raises,
    same,
)


def applied_twice_is_applied_once(case: Case) -> None:
    """The second patch takes the place of the first."""
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


def a_with_block_leaves_what_was_before(case: Case) -> None:
    """`patched` puts back the patch that was there before the block."""
    model = case.model()
    outer = apply_patch(model, case.stats(model), t_star=9)
    with patched(model, case.stats(model), t_star=5) as inner:
        assert inner.t_star == adapter_for(model).n_steps(model) == 5
    assert state_of(model) is outer.state
    assert adapter_for(model).n_steps(model) == 9
    with patched(model, case.stats(model), t_star=5):
        remove_patch(model)
    assert state_of(model) is None
    with patched(model, case.stats(model), t_star=5) as inner:
        inner.remove()
    assert state_of(model) is None
    with raises(ZeroDivisionError), patched(model, None, t_star=5):
        raise ZeroDivisionError
    assert state_of(model) is None


def an_exception_leaves_nothing_half_patched(case: Case) -> None:
    """A patch that fails leaves the model as it was."""
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
    assert adapter_for(model).n_steps(model) == 6


def an_exception_while_sampling_does_not_reach_the_next_noise(case: Case) -> None:
    """After a failed sample, the model's noise is unit noise again."""
    model = case.model()
    torch.manual_seed(3)
    plain = case.noise(model)
    apply_patch(model, case.stats(model), t_star=6)
    with raises(ZeroDivisionError), case.failing_network(model, ZeroDivisionError):
        case.sample(model)
    torch.manual_seed(3)
    after = case.noise(model)
    assert torch.equal(after, plain)


def threads_do_not_share_the_first_noise(case: Case) -> None:
    """Noise that another thread draws is not taken for the start of a sample."""
    model = case.model()
    stats = case.stats(model)
    draws: list[Any] = []
    schedule = adapter_for(model).schedule(model)

    def other() -> None:
        torch.manual_seed(1)
        draws.append(case.noise(model))

    def interrupt(module: Any, args: Any) -> None:  # noqa: ANN401 - of a hook
        if not draws:  # the schedule is asked for the level of the start: the first noise is drawn
            draws.append(None)
            thread = threading.Thread(target=other)
            thread.start()
            thread.join()

    torch.manual_seed(1)
    unit = case.noise(model)
    apply_patch(model, stats, t_star=6)
    expected = case.network_inputs(model, lambda: case.sample(model))[0][1]
    hook = schedule.register_forward_pre_hook(interrupt)
    seen = case.network_inputs(model, lambda: case.sample(model))
    hook.remove()
    assert torch.equal(draws[1], unit)
    assert torch.equal(seen[0][1], expected)
