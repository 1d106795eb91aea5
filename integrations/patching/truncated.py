r"""The methods of a truncated model: a generated body around upstream's own, which run as they are.

- the network gets `round(t t_star) / T`, the time it was trained with;
- the first noise of a sample goes to the fitted Gaussian at t*; every later one stays as it is;
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
    """How a model is cut. It never changes, so copies of a model share it."""

    adapter: Adapter
    n_steps: int  # the model's own number of steps T
    t_star: int  # the step where the model starts
    reference: ReferenceGaussian | None = None  # at the level of the data; None for N(0, I)
    # The Gaussian of the prior term while the model trains. The density of `shape` takes seconds
    # for a batch, and with a fixed schedule its gradient is zero; so this is `size` for `shape`,
    # and `reference` for all others.
    prior: ReferenceGaussian | None = None
    stats: GAGAStats | None = None
    fix_last_class: bool = False
    origin: object = None  # the `LatePatch` that made this truncation, if one did

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
            swap(model, truncated_body, self.adapter.name)
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
            record_trained(model, self.adapter.log_snr(model, self.t_star))

    def absolute(self, t: Tensor) -> Tensor:
        """The time that schedule and network know, for a time in units of t*."""
        return torch.round(t * self.t_star) / self.n_steps

    def gamma(self, model: Model) -> Tensor:
        """`gamma = -log SNR` at t* (1, 1), by the schedule of the patched model as it stands."""
        return self.adapter.gamma_at(model, 1.0)


@dataclass(frozen=True)
class AbsoluteTime:
    """Forward pre-hook of a schedule: the time in units of t* becomes the time it knows."""

    truncation: Truncation

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """The arguments of the schedule."""
        return (self.truncation.absolute(args[0]), *args[1:])


# -- the generated methods -------------------------------------------------------------------------

# The model whose next noise is the start of a sample; a context variable, so that threads that
# sample from one model do not meet.
_NEXT_START: ContextVar[Any] = ContextVar("gaga_next_start", default=None)
# What a self-check sees: the width of the first noise, then the times of the network.
_SELF_CHECK: ContextVar[list[float] | None] = ContextVar("gaga_self_check", default=None)


class _Call:
    """A call of one of upstream's methods, which gets `arguments` as they are at `run`."""

    def __init__(self, name: str, method: Method, bound: inspect.BoundArguments) -> None:
        self.name, self.method, self._bound = name, method, bound
        self.arguments, self.model = bound.arguments, bound.args[0]
        self.truncation: Truncation = self.model._gaga

    def run(self) -> Any:  # noqa: ANN401 - upstream's own
        return self.method(*self._bound.args, **self._bound.kwargs)


def truncated_body(base: type[Any], adapter_name: str) -> dict[str, Any]:
    """Recipe of the generated subclass; its adapter goes by name, so that pickles stay small."""
    adapter = adapter_named(adapter_name)
    wrappers: dict[str, Callable[[_Call], Any]] = {adapter.network: _network, adapter.noise: _noise}
    wrappers |= {name: _start for name in adapter.starts if hasattr(base, name)}
    if adapter.prior_term is not None:
        wrappers[adapter.prior_term] = _prior_term
    return {
        **{name: _around(base, name, wrapper) for name, wrapper in wrappers.items()},
        **{name: _refusal(base, name, why) for name, why in adapter.refused.items()},
        **adapter.extra_methods(base),
    }


def _around(base: type[Any], name: str, wrapper: Callable[[_Call], Any]) -> Method:
    method: Method = getattr(base, name)
    signature = inspect.signature(method)

    @functools.wraps(method)
    def generated(self: Model, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        return wrapper(_Call(name, method, signature.bind(self, *args, **kwargs)))

    return generated


def _network(call: _Call) -> Any:  # noqa: ANN401
    """The network gets the time that it was trained with."""
    model, t = call.model, call.truncation.absolute(call.arguments["t"])
    observations = _SELF_CHECK.get()
    if observations is not None:
        observations.append(float(t.flatten()[0]))
        if observations[-1] == 0 or len(observations) > 4:
            raise _EndOfCheck
        return call.arguments["x"].clone()  # not zeros: these read as a failure upstream
    call.arguments["t"] = t
    output = call.run()
    if isinstance(output, Tensor) and output.requires_grad:
        output.register_hook(  # type: ignore[no-untyped-call]
            lambda gradient: model._gaga.note_training(model)
        )
    return output


def _noise(call: _Call) -> Any:  # noqa: ANN401
    """The first noise of a sample goes to the reference."""
    z = call.run()
    if _NEXT_START.get() is not call.model:
        return z
    _NEXT_START.set(None)
    truncation, observations = call.truncation, _SELF_CHECK.get()
    if observations is not None:
        observations.append(z.shape[-1])
        return z
    if truncation.reference is None:
        return z
    gamma = truncation.gamma(call.model)
    return start(truncation.reference, gamma, z, call.arguments["node_mask"])


def _start(call: _Call) -> Any:  # noqa: ANN401
    """A sample starts at t*, if statistics and weights allow it."""
    truncation, model = call.truncation, call.model
    truncation.adapter.prepare(model, call.name, call.arguments)
    if truncation.stats is not None and _SELF_CHECK.get() is None:
        check_fresh(truncation.adapter, model, truncation.stats)
    trained = trained_log_snr(model)
    if trained is not None:
        check_trained(trained, truncation.adapter.log_snr(model, truncation.t_star))
    if inspect.isgeneratorfunction(call.method):
        return _frames(call)
    with _next_noise_is_start(model):
        return call.run()


@contextmanager
def _next_noise_is_start(model: Model) -> Iterator[None]:
    token = _NEXT_START.set(model)
    try:
        yield
    finally:
        _NEXT_START.reset(token)


def _frames(call: _Call) -> Iterator[Any]:
    """A sampler that yields as it goes: its first noise is drawn for its first frame."""
    frames = call.run()
    with _next_noise_is_start(call.model):
        first = next(frames)
    yield first
    yield from frames


def _prior_term(call: _Call) -> Any:  # noqa: ANN401
    """The prior term is the divergence from the reference."""
    truncation, model = call.truncation, call.model
    reference = truncation.prior if model.training else truncation.reference
    if reference is None:
        return call.run()
    xh, node_mask = call.arguments["xh"], call.arguments["node_mask"]
    return divergence(reference, truncation.gamma(model), xh, node_mask)


def _refusal(base: type[Any], name: str, why: str) -> Method:
    @functools.wraps(getattr(base, name))
    def refuse(self: Model, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        raise UnsupportedModelError(
            f"{base.__name__}.{name} cannot run truncated: {why}. Call remove_patch(model) first."
        )

    return refuse


# -- the checks ------------------------------------------------------------------------------------


def check_fresh(adapter: Adapter, model: Model, stats: GAGAStats) -> None:
    """Refuse statistics of another space than the model diffuses now."""
    reason = adapter.stale(model, stats.provenance)
    if reason is not None:
        raise StatsMismatchError(f"{reason} Fit again: fit_from(model, loader).")


class _EndOfCheck(BaseException):
    """Ends the sampling of a self-check; no upstream `except Exception` stops it."""


def check_by_sampling(model: Model, truncation: Truncation) -> None:
    """See that an unpatched model would start at t*: sample three atoms, cut at step 2 or 1.

    A model is refused whose sampler does not start from noise or counts other steps, and so are
    statistics of other channels than its noise has. The network is stubbed, and afterwards torch's
    global random state is as it was.
    """
    name, n_steps = type(model).__name__, truncation.n_steps
    probe = replace(truncation, t_star=min(2, n_steps))
    device = next(model.parameters()).device
    node_mask = torch.ones(2, 3, 1, device=device)
    edge_mask = 1 - torch.eye(3, device=device).repeat(2, 1, 1).view(-1, 1)
    observations: list[float] = []
    probe.install(model)
    token = _SELF_CHECK.set(observations)
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.no_grad():
            truncation.adapter.draw(model, node_mask, edge_mask)
    except _EndOfCheck:
        pass
    except Exception as error:
        raise UnsupportedModelError(
            f"cannot patch {name}: sampling three atoms with a stubbed network failed "
            f"({type(error).__name__}: {error})."
        ) from error
    finally:
        _SELF_CHECK.reset(token)
        probe.uninstall(model)
    width, *times = observations or [0.0]
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
