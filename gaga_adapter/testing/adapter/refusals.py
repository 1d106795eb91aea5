"""Where t* comes from, and what is refused."""

from __future__ import annotations

import functools
import inspect
from typing import Any

import torch

from gaga_adapter.errors import (
    ArtefactError,
    StatsMismatchError,
    TruncationError,
    UnsupportedModelError,
)
from gaga_adapter.integrations import apply_patch
from gaga_adapter.integrations.patching.patch import state_of
from gaga_adapter.integrations.protocol import adapter_for
from gaga_adapter.layout import AtomLayout
from gaga_adapter.moments import ExchangeableMoments
from gaga_adapter.stats import GAGAStats
from gaga_adapter.testing.adapter.case import (
    Case,
    left_behind,
    quiet,
    raises,
    variants,
)


def t_star_is_found_on_the_own_schedule_of_the_model(case: Case) -> None:
    """t* is the first step whose log-SNR is at or below the fitted one."""
    for options in variants(case):
        model = case.model(**options)
        stats = case.stats(model, log_snr_star=0.3)
        steps = torch.arange(case.n_steps + 1)[:, None] / case.n_steps
        with torch.no_grad():  # EDM's learned schedule is right to 4e-4 in float32
            log_snr = -adapter_for(model).schedule(model)(steps).flatten()
        handle = quiet(model, stats)
        assert log_snr[handle.t_star] <= 0.3 < log_snr[handle.t_star - 1]
        assert abs(handle.log_snr - float(log_snr[handle.t_star])) < 1e-3
        handle.remove()
        assert abs(handle.log_snr - float(log_snr[handle.t_star])) < 1e-3


def a_wrong_step_is_refused(case: Case) -> None:
    """A t* that the model does not have is refused, and the model stays unpatched."""
    model = case.model()
    for t_star in (0, -1, case.n_steps + 1, 2.5, True, float("nan")):
        with raises(TruncationError, str(t_star), f"1 to {case.n_steps}"):
            apply_patch(model, None, t_star=t_star)
    with raises(TruncationError, "never falls"):
        apply_patch(model, case.stats(model, log_snr_star=-40.0))
    with raises(ArtefactError, "neither"):
        apply_patch(model)
    with raises(ArtefactError, "needs fitted statistics"):
        apply_patch(model, None, t_star=3, reference="size")
    with raises(ArtefactError, "no fitted statistics"):
        apply_patch(model, "no-such-folder")
    assert state_of(model) is None


def statistics_of_something_else_are_refused(case: Case) -> None:
    """Statistics of another number of channels are refused."""
    model = case.model()
    stats = case.stats(model)
    width = stats.layout.n_channels - 2
    moments = ExchangeableMoments(width)
    moments.update(torch.randn(8, 5, 3 + width, generator=torch.Generator().manual_seed(0)))
    other = GAGAStats(AtomLayout(width), moments, 0.0)
    with raises(StatsMismatchError, adapter_for(model).fit.partition("(")[0]):
        apply_patch(model, other)
    with raises(StatsMismatchError, "unknown reference"):
        apply_patch(model, stats, reference="nonsense")
    assert state_of(model) is None


def a_model_that_ignores_the_number_of_steps_is_refused(case: Case) -> None:
    """The self-check notices a sampler that does not follow `set_steps`."""
    model = case.model()
    kind = type(model)
    adapter = adapter_for(model)

    def stubborn(name: str) -> Any:  # noqa: ANN401 - a method
        method = getattr(kind, name)
        signature = inspect.signature(method)

        @functools.wraps(method)
        def run(self: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - of upstream
            cut = adapter.n_steps(self)
            adapter.set_steps(self, case.n_steps)
            call = signature.bind(self, *args, **kwargs)
            steps = set(adapter.frames) & set(call.arguments) - {"keep_frames", "n_frames"}
            call.arguments.update(dict.fromkeys(steps, case.n_steps))
            try:
                return method(*call.args, **call.kwargs)
            finally:
                adapter.set_steps(self, cut)

        return run

    body = {name: stubborn(name) for name in adapter.starts if hasattr(kind, name)}
    model.__class__ = type("Stubborn", (kind,), body)
    snapshot = left_behind(model)
    with raises(UnsupportedModelError, "ignores the number of steps"):
        apply_patch(model, case.stats(model), t_star=5)
    assert left_behind(model) == snapshot


def another_class_is_refused_with_reasons(case: Case) -> None:
    """Something that no adapter knows is refused, with the reasons of the nearest adapters."""
    with raises(UnsupportedModelError, "cannot patch Linear", "no attribute 'T'", "no method"):
        apply_patch(torch.nn.Linear(2, 2), None, t_star=1)
    with raises(UnsupportedModelError, "cannot patch int"):
        apply_patch(3, None, t_star=1)
