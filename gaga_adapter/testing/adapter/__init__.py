"""What `apply_patch` promises of every codebase, as one list of checks.

    report = check_adapter(MyAdapter(), make_model)

`make_model(n_steps)` gives a new model. `CHECKS` holds the checks by name, those of each file in
its order. They import nothing of pytest, so that they also run in a process whose working directory
is somebody else's repository.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from gaga_adapter.errors import DataError
from gaga_adapter.integrations import protocol
from gaga_adapter.testing.adapter import (
    copies,
    lifecycle,
    refusals,
    sampling,
    training,
    unchanged,
)
from gaga_adapter.testing.adapter.case import Case, seeded
from gaga_adapter.testing.report import Check, Report, Verdict, report_of, sentences

#: Checks of adapters by name.
CHECKS: dict[str, Check] = sentences(unchanged, sampling, training, copies, lifecycle, refusals)
RECOGNISED = "the_adapter_recognises_its_model"


def check_adapter(
    adapter: protocol.Adapter, make_model: Callable[..., Any] | Case, n_steps: int = 20
) -> Report:
    """Run every check of the contract on the models of an adapter.

    The adapter need not be registered; for the length of the checks it is, as the last one, which
    is asked first.

    Args:
        adapter: Adapter to check.
        make_model: Function `make_model(n_steps)` that gives a new model of as many steps. It is
            seeded, and put into evaluation mode, by its caller. Parameters called `schedule`,
            `loss`, `charges`, `context` and `trainable` are used where it has them. A codebase
            that is sampled or trained in another way than EDM gives a `Case` instead.
        n_steps: Number of steps of the models, at least 16; the checks take longer with more.

    Returns:
        A verdict on each check. `report.assert_passed()` raises if one has failed.

    Raises:
        DataError: If an argument is of another kind, or the models have too few steps.
        UnsupportedModelError: If the function makes something else than models.
    """
    _check_arguments(adapter, make_model)
    with _registered(adapter), torch.random.fork_rng(devices=[]):
        make = make_model.make if isinstance(make_model, Case) else seeded(make_model)
        if reasons := adapter.reasons(make(n_steps)):
            why = f"{adapter.name} says of the model: {', '.join(reasons)}."
            return Report(adapter.name, (Verdict(RECOGNISED, "failed", why),))
        if isinstance(make_model, Case):
            case = make_model
        else:
            case = Case.of(adapter, make_model, n_steps)
        report = report_of(case.name, CHECKS, case)
        return Report(report.subject, (Verdict(RECOGNISED, "passed"), *report.verdicts))


def _check_arguments(adapter: object, make_model: object) -> None:
    """Refuse what is no adapter, and what makes no models."""
    if not isinstance(adapter, protocol.Adapter):
        known = isinstance(adapter, str) and adapter in protocol.adapters()
        instead = f"adapter_named({adapter!r})" if known else "an instance, such as MyAdapter()"
        if isinstance(adapter, type) and issubclass(adapter, protocol.Adapter):
            instead = f"an instance: {adapter.__name__}()"
        raise DataError(f"check_adapter got {_described(adapter)} as the adapter. Pass {instead}.")
    is_model = isinstance(make_model, torch.nn.Module)
    if isinstance(make_model, type) and issubclass(make_model, Case):
        instead = f"an instance of it, or {make_model.__name__}.of(adapter, make_model)"
    elif is_model or not (callable(make_model) or isinstance(make_model, Case)):
        instead = "a function make_model(n_steps) that gives a new model each time, or a Case"
    else:
        return
    what = f"a model ({type(make_model).__name__})" if is_model else _described(make_model)
    raise DataError(f"check_adapter got {what} as make_model. Pass {instead}.")


def _described(value: object) -> str:
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return f"{value!r:.60}, a {type(value).__name__},"


@contextmanager
def _registered(adapter: protocol.Adapter) -> Iterator[None]:
    """Put an adapter into the registry for the length of a block."""
    before = dict(protocol._ADAPTERS)
    protocol.register(adapter)
    try:
        yield
    finally:
        protocol._ADAPTERS.clear()
        protocol._ADAPTERS.update(before)


__all__ = ["CHECKS", "Case", "check_adapter"]
