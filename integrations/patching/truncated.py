r"""The methods of a truncated model: a generated body around upstream's own, which run as they are.

- the network gets `round(t t_star) / T`, the time it was trained with;
- the first noise of a sample goes to the fitted Gaussian at t*; every later one is as it was drawn;
- the prior term is the divergence from that Gaussian;
- a model that is trained says so in its state dict, and starts no sample at a noisier level;
- methods that mean absolute steps are refused.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from gaga_adapter.errors import StatsMismatchError, UnsupportedModelError
from gaga_adapter.reference import ReferenceGaussian
from gaga_adapter.stats import GAGAStats
from gaga_adapter.trained import (
    check_trained,
    record_trained,
    trained_log_snr,
    unwatch_checkpoints,
    watch_checkpoints,
)

from ..protocol import Adapter, Model, adapter_named
from .prior import divergence, start
from .subclass import swap, swap_back

STATE = "_gaga"  # the attribute of a patched model that holds its `Truncation`

Method = Callable[..., Any]


@dataclass(frozen=True, eq=False)
class Truncation:
    """How a model is cut. It never changes, so copies of a model share it.

    Attributes:
        adapter: what the model calls its parts.
        n_steps: its own number of steps T.
        t_star: the step where it starts.
        reference: the Gaussian, at the level of the data; `None` for the model's own N(0, I).
        prior: the Gaussian of the prior term while the model trains. The density of `shape` takes
            seconds for a batch, and with a fixed schedule its gradient is zero; so this is `size`
            for `shape`, and `reference` for all others.
        stats: the fitted statistics, if there are any.
        fix_last_class: whether samples get their last element class back.
        origin: the `Deferred` patch that this one settled.
    """

    adapter: Adapter
    n_steps: int
    t_star: int
    reference: ReferenceGaussian | None = None
    prior: ReferenceGaussian | None = None
    stats: GAGAStats | None = None
    fix_last_class: bool = False
    origin: object = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Truncation:
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "origin": None}

    def install(self, model: Model) -> None:
        """Cut an unpatched model; if that fails, it stays unpatched."""
        model.__dict__[STATE] = self
        try:
            self.adapter.schedule(model).register_forward_pre_hook(AbsoluteTime(self))
            self.adapter.set_steps(model, self.t_star)
            for module, recipe in self.adapter.inner_swaps(model, self.fix_last_class):
                swap(module, recipe)
            swap(model, Body(self.adapter.name))
            watch_checkpoints(model)
        except BaseException:
            self.uninstall(model)
            raise

    def uninstall(self, model: Model) -> None:
        """Undo `install`; what says how far the model was trained stays."""
        unwatch_checkpoints(model)
        swap_back(model)
        for module, _ in self.adapter.inner_swaps(model, self.fix_last_class):
            swap_back(module)
        hooks = self.adapter.schedule(model)._forward_pre_hooks
        for key in [key for key, hook in hooks.items() if isinstance(hook, AbsoluteTime)]:
            del hooks[key]
        del model.__dict__[STATE]
        self.adapter.set_steps(model, self.n_steps)

    def note_training(self, model: Model) -> None:
        """Write down that a model is trained in [0, t*]; a learned schedule moves that level."""
        schedule = self.adapter.schedule(model)
        learned = any(parameter.requires_grad for parameter in schedule.parameters())
        if self.t_star < self.n_steps and (learned or trained_log_snr(model) is None):
            with torch.no_grad():
                record_trained(model, -float(self.gamma(model)))

    def absolute(self, t: Tensor) -> Tensor:
        """The time that schedule and network know, for a time in units of t*."""
        return torch.round(t * self.t_star) / self.n_steps

    def gamma(self, model: Model) -> Tensor:
        """`gamma = -log SNR` at t* (1, 1), by the schedule of the patched model as it stands."""
        schedule = self.adapter.schedule(model)
        device = next(model.parameters()).device
        gamma: Tensor = schedule(torch.ones(1, 1, device=device))
        return gamma


class AbsoluteTime:
    """Forward pre-hook of a schedule: the time in units of t* becomes the time it knows."""

    def __init__(self, truncation: Truncation) -> None:
        self.truncation = truncation

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """The arguments of the schedule."""
        return (self.truncation.absolute(args[0]), *args[1:])


@dataclass(frozen=True)
class Body:
    """Recipe of the generated subclass (`swap.py`).

    Attributes:
        adapter: by name, so that a pickle of a model stays small.
    """

    adapter: str

    def __call__(self, base: type[Any]) -> dict[str, Any]:
        """The methods around those of `base`."""
        adapter = adapter_named(self.adapter)
        body = {
            adapter.network: _network(getattr(base, adapter.network)),
            adapter.noise: _noise(getattr(base, adapter.noise)),
            **{name: _start(base, name) for name in adapter.starts if hasattr(base, name)},
            **{name: _refused(base, name, why) for name, why in adapter.refused.items()},
            **adapter.extra_methods(base),
        }
        if adapter.prior_term is not None:
            body[adapter.prior_term] = _prior_term(getattr(base, adapter.prior_term))
        return body


# -- the wrappers --------------------------------------------------------------------------------

# The model whose next noise is the start of a sample; a context variable, so that threads that
# sample from one model do not meet.
_STARTING: ContextVar[Any] = ContextVar("gaga_starting", default=None)
# What a self-check saw: the width of the first noise, then the times of the network.
_CHECKING: ContextVar[list[float] | None] = ContextVar("gaga_checking", default=None)


class _Argument:
    """A named parameter of a method among the arguments that follow `self`."""

    def __init__(self, method: Method, name: str) -> None:
        self.name = name
        self.place = list(inspect.signature(method).parameters).index(name) - 1

    def of(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ANN401
        return kwargs[self.name] if self.name in kwargs else args[self.place]

    def replaced(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        value: Any,  # noqa: ANN401
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if self.name in kwargs:
            return args, {**kwargs, self.name: value}
        return (*args[: self.place], value, *args[self.place + 1 :]), kwargs


def _network(method: Method) -> Method:
    time, x = _Argument(method, "t"), _Argument(method, "x")

    @functools.wraps(method)
    def wrapped(self: Model, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        t = self._gaga.absolute(time.of(args, kwargs))
        seen = _CHECKING.get()
        if seen is not None:
            seen.append(float(t.flatten()[0]))
            if seen[-1] == 0 or len(seen) > 4:
                raise _Checked
            return x.of(args, kwargs).clone()  # not zeros: these read as a failure upstream
        args, kwargs = time.replaced(args, kwargs, t)
        output = method(self, *args, **kwargs)
        if isinstance(output, Tensor) and output.requires_grad:
            output.register_hook(  # type: ignore[no-untyped-call]
                lambda gradient: self._gaga.note_training(self)
            )
        return output

    return wrapped


def _noise(method: Method) -> Method:
    node_mask = _Argument(method, "node_mask")

    @functools.wraps(method)
    def wrapped(self: Model, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        z = method(self, *args, **kwargs)
        if _STARTING.get() is not self:
            return z
        _STARTING.set(None)
        seen = _CHECKING.get()
        if seen is not None:
            seen.append(z.shape[-1])
            return z
        truncation: Truncation = self._gaga
        if truncation.reference is None:
            return z
        mask = node_mask.of(args, kwargs)
        return start(truncation.reference, truncation.gamma(self), z, mask)

    return wrapped


def _start(base: type[Any], name: str) -> Method:
    method: Method = getattr(base, name)
    signature = inspect.signature(method)

    @functools.wraps(method)
    def wrapped(self: Model, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        truncation: Truncation = self._gaga
        bound = signature.bind(self, *args, **kwargs)
        truncation.adapter.prepare(self, name, bound.arguments)
        if truncation.stats is not None and _CHECKING.get() is None:
            check_fresh(truncation.adapter, self, truncation.stats)
        trained = trained_log_snr(self)
        if trained is not None:
            check_trained(trained, -float(truncation.gamma(self).detach()))
        if inspect.isgeneratorfunction(method):
            return _frames(self, method(*bound.args, **bound.kwargs))
        with _starting(self):
            return method(*bound.args, **bound.kwargs)

    return wrapped


@contextmanager
def _starting(model: Model) -> Iterator[None]:
    """The next noise of the model is the start of a sample."""
    token = _STARTING.set(model)
    try:
        yield
    finally:
        _STARTING.reset(token)


def _frames(model: Model, frames: Iterator[Any]) -> Iterator[Any]:
    """A sampler that yields as it goes: its first noise is drawn for its first frame."""
    with _starting(model):
        first = next(frames)
    yield first
    yield from frames


def _prior_term(method: Method) -> Method:
    xh, node_mask = _Argument(method, "xh"), _Argument(method, "node_mask")

    @functools.wraps(method)
    def wrapped(self: Model, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        truncation: Truncation = self._gaga
        if truncation.reference is None:
            return method(self, *args, **kwargs)
        reference = truncation.prior if self.training else truncation.reference
        assert reference is not None
        x0, mask = xh.of(args, kwargs), node_mask.of(args, kwargs)
        return divergence(reference, truncation.gamma(self), x0, mask)

    return wrapped


def _refused(base: type[Any], name: str, why: str) -> Method:
    @functools.wraps(getattr(base, name))
    def wrapped(self: Model, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        raise UnsupportedModelError(
            f"{base.__name__}.{name} cannot run truncated: {why}. Call remove_patch(model) first."
        )

    return wrapped


# -- the checks ---------------------------------------------------------------------------------


def check_fresh(adapter: Adapter, model: Model, stats: GAGAStats) -> None:
    """See that the statistics are of the space that the model diffuses.

    Raises:
        StatsMismatchError: they are not, any more.
    """
    reason = adapter.stale(model, stats.provenance)
    if reason is not None:
        raise StatsMismatchError(f"{reason} Fit again: fit_from(model, loader).")


class _Checked(BaseException):
    """Ends the sampling of a self-check; no upstream `except Exception` stops it."""


def check_by_sampling(model: Model, truncation: Truncation) -> None:
    """See that a model would start at t*: sample three atoms, twice, cut at step 2 or 1.

    The network is stubbed, and torch's global random state is as it was afterwards.

    Args:
        model: unpatched, now and afterwards.
        truncation: how it is to be cut.

    Raises:
        UnsupportedModelError: the sampler does not start from noise, or counts other steps.
        StatsMismatchError: its noise has other channels than the statistics.
    """
    name, n_steps = type(model).__name__, truncation.n_steps
    probe = replace(truncation, t_star=min(2, n_steps))
    device = next(model.parameters()).device
    node_mask = torch.ones(2, 3, 1, device=device)
    edge_mask = 1 - torch.eye(3, device=device).repeat(2, 1, 1).view(-1, 1)
    probe.install(model)
    token = _CHECKING.set([])
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.no_grad():
            truncation.adapter.draw(model, node_mask, edge_mask)
    except _Checked:
        pass
    except Exception as error:
        raise UnsupportedModelError(
            f"cannot patch {name}: sampling three atoms with a stubbed network failed "
            f"({type(error).__name__}: {error})."
        ) from error
    finally:
        seen = _CHECKING.get() or []
        _CHECKING.reset(token)
        probe.uninstall(model)
    width, *times = seen or [0.0]
    if width < 1 or width % 1:
        raise UnsupportedModelError(
            f"cannot patch {name}: its sampler calls the network before it draws noise with "
            f"{truncation.adapter.noise}, so there is nothing to start from the Gaussian."
        )
    expected = [step / n_steps for step in range(probe.t_star, -1, -1)]
    if len(times) != len(expected) or math.dist(times, expected) > 1e-6:
        raise UnsupportedModelError(
            f"cannot patch {name}: it ignores the number of steps. Cut at step {probe.t_star} of "
            f"{n_steps}, its network must see the times {expected}, it saw {times}."
        )
    channels = None if truncation.stats is None else truncation.stats.layout.n_channels
    if channels not in (None, int(width)):
        raise StatsMismatchError(
            f"the statistics have {channels} channels, {name} draws noise of {int(width)}. "
            "Fit again: fit_from(model, loader)."
        )
