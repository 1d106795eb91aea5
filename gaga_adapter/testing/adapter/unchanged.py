"""Nothing changes where nothing should."""

from __future__ import annotations

from gaga_adapter.integrations import apply_patch
from gaga_adapter.testing.adapter.case import (
    Case,
    everything,
    left_behind,
    quiet,
    same,
    variants,
)


def at_the_end_with_unit_noise_everything_is_bit_identical(case: Case) -> None:
    """A patch at t* = T with N(0, I) changes nothing."""
    for options in variants(case):
        model = case.model(**options)
        before = everything(case, model)
        handle = quiet(model, None, t_star=case.n_steps)
        assert handle.t_star == handle.n_steps == case.n_steps
        assert same(before, everything(case, model)), options


def after_removal_nothing_is_left(case: Case) -> None:
    """After `remove`, samples, losses and attributes are what they were."""
    for options in variants(case):
        model = case.model(**options)
        snapshot, before = left_behind(model), everything(case, model)
        handle = quiet(model, case.stats(model), fix_last_class=True)
        everything(case, model)
        handle.remove()
        assert left_behind(model) == snapshot, options
        assert same(before, everything(case, model)), options


def the_state_dict_is_the_same(case: Case) -> None:
    """A patched model has the keys and parameters of an unpatched one."""
    model, other = case.model(), case.model()
    keys = list(model.state_dict())
    apply_patch(model, case.stats(model))
    assert list(model.state_dict()) == keys
    other.load_state_dict(model.state_dict(), strict=True)
    model.load_state_dict(other.state_dict(), strict=True)
    names = [name for name, _ in model.named_parameters()]
    assert names == [name for name, _ in other.named_parameters()]
