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
from .hooks import replaced


class NetworkCalls:
    """What was counted.

    Attributes:
        sampled: by (calls of the network, t*, T): how many batches were sampled so.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.sampled: Counter[tuple[int, int, int]] = Counter()
        self._say = say
        self._running: int | None = None
        self._told: set[str] = set()
        self._seen: object = None

    @contextmanager
    def of(self, model: Model, adapter: Adapter) -> Iterator[None]:
        """Count those of every model of this class, copies included.

        Args:
            model: not patched yet, so that the patch comes around the counters.
            adapter: knows the names of its methods.
        """
        with ExitStack() as stack:
            for cls in type(model).__mro__:
                for name in (adapter.network, *adapter.starts):
                    if name in vars(cls):
                        count = self._network if name == adapter.network else self._sample
                        wrapper = count(vars(cls)[name], adapter)
                        stack.enter_context(replaced(cls, name, wrapper))
            yield

    def lines(self) -> list[str]:
        """The report, for people."""
        return [
            f"network calls: {calls} per sample, from t* = {t_star} of T = {n_steps} "
            f"({n_steps + 1} without); {n} {'batch' if n == 1 else 'batches'} sampled"
            for (calls, t_star, n_steps), n in self.sampled.items()
        ]

    def _tell(self, line: str) -> None:
        """Report a line once: copies of a model are cut alike."""
        if line not in self._told:
            self._told.add(line)
            self._say(line)

    def _network(self, method: Callable[..., Any], adapter: Adapter) -> Callable[..., Any]:
        @functools.wraps(method)
        def counted(model: Model, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
            state = state_of(model)
            if isinstance(state, Truncation) and state is not self._seen:
                self._seen = state
                self._tell(_describe(model, state))
            if self._running is not None:
                self._running += 1
            return method(model, *args, **kwargs)

        return counted

    def _sample(self, method: Callable[..., Any], adapter: Adapter) -> Callable[..., Any]:
        @functools.wraps(method)
        def counted(model: Model, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
            if self._running is not None:  # a sampler that calls that of its base
                return method(model, *args, **kwargs)
            self._running = 0
            try:
                result = method(model, *args, **kwargs)
                state = state_of(model)
                t_star = adapter.n_steps(model)
                n_steps = state.n_steps if isinstance(state, Truncation) else t_star
                self.sampled[self._running, t_star, n_steps] += 1
                return result
            finally:
                self._running = None

        return counted


def _describe(model: Model, cut: Truncation) -> str:
    log_snr = -float(cut.gamma(model).detach())
    start = "N(0, I)" if cut.reference is None else f"the {cut.reference.kind} Gaussian"
    return (
        f"{cut.adapter.name} model starts at t* = {cut.t_star} of T = {cut.n_steps} "
        f"(log-SNR {log_snr:.3f}) from {start}"
    )
