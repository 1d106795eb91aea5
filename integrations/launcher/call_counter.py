"""Network calls per sample, counted on the class of a model while a script runs.

A call of the network counts while a method that samples is running; those of a loss do not. A
model of T steps, cut at t*, takes t* + 1 calls for each batch of samples; uncut, T + 1.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from ..patching.patch import state_of
from ..patching.truncated import Truncation
from ..protocol import Adapter, Model
from .hooks import replace_attribute
from .options import Say


class CallCounter:
    """Counts the network calls of all models of a class."""

    def __init__(self, say: Say) -> None:
        self.batches: Counter[tuple[int, int, int]] = Counter()  # by (network calls, t*, T)
        self._say = say
        self._calls: int | None = None  # of the sample that is being drawn
        self._reports: set[object] = set()  # truncations and their lines: copies are cut alike

    @contextmanager
    def watch(self, model: Model, adapter: Adapter) -> Iterator[None]:
        """Count the calls of every model of the class of this model, copies included.

        The model must not be patched yet, so that the patch comes around the counters.
        """
        with ExitStack() as stack:
            for cls in type(model).__mro__:
                for name in {adapter.network, *adapter.starts} & vars(cls).keys():
                    count = self._count_call if name == adapter.network else self._count_batch
                    wrapper = _around(vars(cls)[name], count, adapter)
                    stack.enter_context(replace_attribute(cls, name, wrapper))
            yield

    def lines(self) -> list[str]:
        """The report, for people."""
        return [
            f"{_sentence(*key)}; {n} {'batch' if n == 1 else 'batches'} sampled"
            for key, n in self.batches.items()
        ]

    def _count_call(self, model: Model, adapter: Adapter, run: Callable[[], Any]) -> Any:  # noqa: ANN401
        state = state_of(model)
        if isinstance(state, Truncation) and state not in self._reports:
            log_snr = state.adapter.log_snr(model, state.t_star)
            start = "N(0, I)" if state.reference is None else f"the {state.reference.kind} Gaussian"
            line = (
                f"{state.adapter.name} model starts at t* = {state.t_star} of T = {state.n_steps} "
                f"(log-SNR {log_snr:.3f}) from {start}"
            )
            if line not in self._reports:
                self._say(line)
            self._reports |= {state, line}
        if self._calls is not None:
            self._calls += 1
        return run()

    def _count_batch(self, model: Model, adapter: Adapter, run: Callable[[], Any]) -> Any:  # noqa: ANN401
        if self._calls is not None:  # a sampler that calls that of its base
            return run()
        self._calls = 0
        try:
            result = run()
            state, t_star = state_of(model), adapter.n_steps(model)
            n_steps = state.n_steps if isinstance(state, Truncation) else t_star
            key = self._calls, t_star, n_steps
            self.batches[key] += 1
            if self.batches[key] == 1 and isinstance(state, Truncation):
                self._say(_sentence(*key))  # at once: scripts do other things for hours afterwards
            return result
        finally:
            self._calls = None


def _sentence(calls: int, t_star: int, n_steps: int) -> str:
    return (
        f"network calls: {calls} per sample, from t* = {t_star} of T = {n_steps} "
        f"({n_steps + 1} without)"
    )


def _around(method: Callable[..., Any], count: Callable[..., Any], adapter: Adapter) -> Any:  # noqa: ANN401
    @functools.wraps(method)
    def wrapper(model: Model, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        return count(model, adapter, functools.partial(method, model, *args, **kwargs))

    return wrapper
