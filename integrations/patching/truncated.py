r"""The methods of a truncated model: a generated body around upstream's own, which run as they are.

- the network gets `round(t t_star) / T`, the time it was trained with;
- the first noise of a sample goes to the fitted Gaussian at t*; every later one stays as it is;
- the prior term is the divergence from that Gaussian;
- a model that is trained says so in its state dict, and starts no sample at a noisier level;
- methods that mean absolute steps are refused, and so is every network call beyond t*;
- a loss that the self-check (`self_check.py`) could not follow is refused where it is called.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from inspect import isfunction
from typing import Any

import torch
from torch import Tensor, nn

from gaga_adapter.errors import StatsMismatchError, UnsupportedModelError, warn
from gaga_adapter.reference import ReferenceGaussian
from gaga_adapter.selection import warn_of_condition
from gaga_adapter.stats import GAGAStats
from gaga_adapter.trained import (
    Extent,
    check_trained,
    last_source,
    record_training,
    recorded,
    trained_extent,
    unwatch_checkpoints,
    watch_checkpoints,
    weights_say_nothing,
)

from ..protocol import Adapter, Model
from .prior import divergence, start
from .subclass import original_class, swap, swap_back
from .weights import when_trained

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
    loss_fault: str | None = None  # why the loss of the model is refused, see `self_check.py`

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
            swap(model, truncated_body, self.adapter)
            watch(self.adapter, model)
        except BaseException:
            self.uninstall(model)
            raise

    def uninstall(self, model: Model) -> None:
        """Undo `install`; what says how far the model was trained stays."""
        unwatch(self.adapter, model)
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
        model = recorded(model)
        schedule = self.adapter.schedule(model)
        learned = any(parameter.requires_grad for parameter in schedule.parameters())
        known = last_source(model) is self
        if known and not learned:
            return
        before, extent = trained_extent(model), None
        if self.t_star < self.n_steps:
            extent = Extent(self.adapter.log_snr(model, self.t_star), self.time)
        elif before is None:
            return
        if not known and before is not None and not (extent and before.covers(*_level(extent))):
            warn(
                f"this {original_class(type(model)).__name__} was trained down to log-SNR "
                f"{before.log_snr:.4g}, and is trained up to t* = {self.t_star} of "
                f"{self.n_steps} from now on. Its checkpoints say so: train it until it knows the "
                "new levels as well, before you sample from there."
            )
        record_training(self.adapter.trained_parts(model), extent, self)

    @property
    def time(self) -> float:
        """Time of t* as the network is given it, 0 to 1."""
        return self.t_star / self.n_steps

    def absolute(self, t: Tensor) -> Tensor:
        """The time that schedule and network know, for a time in units of t*."""
        if self.t_star == self.n_steps:
            return t
        return torch.round(t * self.t_star) / self.n_steps

    def gamma(self, model: Model) -> Tensor:
        """`gamma = -log SNR` at t* (1, 1), by the schedule of the patched model as it stands."""
        return self.adapter.gamma_at(model, 1.0)


def _level(extent: Extent) -> tuple[float, float | None]:
    return extent.log_snr, extent.time


def watch(adapter: Adapter, model: Model) -> None:
    """Let the checkpoints of a model say how far it was trained."""
    for part in adapter.trained_parts(model):
        watch_checkpoints(part)


def unwatch(adapter: Adapter, model: Model) -> None:
    """Undo `watch`, except for a model that was trained on a shorter trajectory."""
    for part in adapter.trained_parts(model):
        unwatch_checkpoints(part)


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


@dataclass
class Observations:
    """What a self-check sees of a run, in which the network is stubbed.

    Attributes:
        noise: First noise of the sampler and the start that it became (B, N, 3 + F); `None` before
            it is drawn.
        given: Tensors that the sampler got for its first noise.
        inputs: Tensors that the network was first called with.
        times: Times of each call of the network, flat.
    """

    noise: tuple[Tensor, Tensor] | None = None
    given: list[Tensor] = field(default_factory=list)
    inputs: list[Tensor] = field(default_factory=list)
    times: list[Tensor] = field(default_factory=list)


def tensors_in(value: object) -> list[Tensor]:
    """Copies of the tensors of a value, also of those inside of tuples, lists and dicts."""
    if isinstance(value, Tensor):
        return [value.detach().clone()]
    if isinstance(value, dict):
        value = tuple(value.values())
    return (
        [t for part in value for t in tensors_in(part)] if isinstance(value, tuple | list) else []
    )


class EndOfCheck(BaseException):
    """Ends the sampling of a self-check; no upstream `except Exception` stops it."""


SELF_CHECK: ContextVar[Observations | None] = ContextVar("gaga_self_check", default=None)


class _Call:
    """A call of one of upstream's methods, which gets `arguments` as they are at `run`."""

    def __init__(
        self, model: Model, name: str, method: Method, bound: inspect.BoundArguments
    ) -> None:
        self.model, self.name, self.method, self._bound = model, name, method, bound
        self.arguments = bound.arguments
        self.truncation: Truncation = self.model._gaga

    def run(self) -> Any:  # noqa: ANN401 - upstream's own
        return self.method(*self._bound.args, **self._bound.kwargs)


def truncated_body(base: type[Any], adapter: Adapter) -> dict[str, Any]:
    """Recipe of the generated subclass."""
    wrappers: dict[str, Callable[[_Call], Any]] = {adapter.network: _network, adapter.noise: _noise}
    wrappers |= {name: _start for name in adapter.starts if hasattr(base, name)}
    if (loss := adapter.loss_method()) is not None and hasattr(base, loss):
        wrappers[loss] = _loss
    if adapter.prior_term is not None and hasattr(base, adapter.prior_term):
        wrappers[adapter.prior_term] = _prior_term
    refused = {**_other_samplers(base, adapter), **_unknown_loss(base, adapter), **adapter.refused}
    return {
        **{
            name: _around(base, name, wrapper) if hasattr(base, name) else _inside(name)
            for name, wrapper in wrappers.items()
        },
        **{name: _refusal(base, name, why) for name, why in refused.items() if hasattr(base, name)},
        **adapter.extra_methods(base),
    }


def _other_samplers(base: type[Any], adapter: Adapter) -> dict[str, str]:
    """Methods that sample molecules as `sample` does, and that the adapter does not know."""
    names = {name for cls in base.__mro__ for name, value in vars(cls).items() if isfunction(value)}
    return {
        name: "the patch does not know where this sampler starts"
        for name in sorted(names - {*adapter.starts, adapter.noise})
        if {"n_samples", "n_nodes", "edge_mask"}
        <= inspect.signature(getattr(base, name)).parameters.keys()
    }


def _unknown_loss(base: type[Any], adapter: Adapter) -> dict[str, str]:
    """A loss of the class, where the adapter knows no prior term that it could be cut with."""
    unknown = adapter.loss_method() is None and adapter.loss not in adapter.starts
    if not unknown or getattr(base, adapter.loss, nn.Module.forward) is nn.Module.forward:
        return {}
    return {
        adapter.loss: "its adapter names no prior term, so this is not known to be a loss of t*"
    }


def _around(base: type[Any], name: str, wrapper: Callable[[_Call], Any]) -> Method:
    method: Method = getattr(base, name)
    signature = inspect.signature(method)

    @functools.wraps(method)
    def generated(self: Model, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        return wrapper(_Call(self, name, method, signature.bind(self, *args, **kwargs)))

    return generated


def _inside(name: str) -> property:
    """The network as an attribute of its model, where it is a module and no method."""

    def network(model: Model) -> _NetworkModule:
        module = model._modules[name]
        if type(module) is _NetworkModule:  # one that was read here, and set again
            module = model._modules[name] = module._module
        return _NetworkModule(model, module)

    return property(network)


# The model whose network is running; in there the time is the network's own.
_RUNNING: ContextVar[Any] = ContextVar("gaga_running", default=None)


class _NetworkModule:
    """The network of a patched model, bound to it: called, it gets the time that it knows.

    In all else it is the module: what is read, written and deleted is the module's own. Kept beyond
    the patch, or inside of another module that becomes the network, its calls are the module's too.
    """

    __slots__ = ("__self__", "__weakref__", "_module")
    __class__ = property(lambda self: type(self._module))  # for isinstance

    def __init__(self, model: Model, module: nn.Module) -> None:
        object.__setattr__(self, "__self__", model)
        object.__setattr__(self, "_module", module)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - upstream's own
        model, module = self.__self__, self._module
        if STATE not in model.__dict__ or _RUNNING.get() is model:
            return module(*args, **kwargs)
        kind = type(module)
        bound = inspect.signature(kind.forward).bind(module, *args, **kwargs)
        token = _RUNNING.set(model)
        try:
            return _network(_Call(model, "forward", kind.__call__, bound))
        finally:
            _RUNNING.reset(token)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(self._module, name)

    def __setattr__(self, name: str, value: Any) -> None:  # noqa: ANN401
        setattr(self._module, name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self._module, name)

    def __eq__(self, other: object) -> bool:
        return self._module is (other._module if type(other) is _NetworkModule else other)

    def __hash__(self) -> int:
        return hash(self._module)

    def __repr__(self) -> str:
        return repr(self._module)

    def __dir__(self) -> list[str]:
        return dir(self._module)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:  # noqa: ANN401
        return _itself, (self._module,)  # copies and pickles are the module


def _itself(module: nn.Module) -> nn.Module:
    return module


def _network(call: _Call) -> Any:  # noqa: ANN401
    """The network gets the time that it was trained with, and none beyond t*."""
    model, truncation = call.model, call.truncation
    relative, t = call.arguments["t"], truncation.absolute(call.arguments["t"])
    observations = SELF_CHECK.get()
    if observations is not None:
        if not observations.times:
            observations.inputs = tensors_in(tuple(call.arguments.values()))
        observations.times.append(t.detach().flatten().cpu())
        ends = observations.noise is not None and float(t.flatten()[0]) == 0
        if ends or len(observations.times) > 4:
            raise EndOfCheck
        return truncation.adapter.stub(model, call.arguments)
    if not torch.compiler.is_compiling() and bool((relative > 1 + 1e-4).any()):
        raise UnsupportedModelError(
            f"{original_class(type(model)).__name__} asks its network for the time "
            f"{float(t.max()):.4g}, beyond t* = {truncation.t_star} of {truncation.n_steps}: this "
            "method does not follow the patch. Call remove_patch(model) first."
        )
    call.arguments["t"] = t
    output = call.run()
    for tensor in output if isinstance(output, tuple) else (output,):
        if isinstance(tensor, Tensor) and tensor.requires_grad:
            when_trained(tensor, model, lambda: model._gaga.note_training(model))
    return output


def _noise(call: _Call) -> Any:  # noqa: ANN401
    """The first noise of a sample goes to the reference."""
    z = call.run()
    if _NEXT_START.get() is not call.model:
        return z
    _NEXT_START.set(None)
    truncation, observations = call.truncation, SELF_CHECK.get()
    adapter = truncation.adapter
    if truncation.reference is None and observations is None:
        return z
    noise, node_mask = adapter.padded(z, call.arguments)
    begin = noise
    if truncation.reference is not None and (observations is None or _fits(truncation, noise)):
        begin = start(truncation.reference, truncation.gamma(call.model), noise, node_mask)
    given = z if begin is noise else adapter.unpadded(begin, call.arguments)
    if observations is not None:
        observations.noise, observations.given = (noise, begin), tensors_in(given)
    return given


def _fits(truncation: Truncation, z: Tensor) -> bool:
    """Whether a first noise has the channels of the statistics."""
    return truncation.stats is None or truncation.stats.layout.n_channels == z.shape[-1]


def _loss(call: _Call) -> Any:  # noqa: ANN401
    """The loss, unless the self-check found that it is none of the truncated model."""
    truncation, model = call.truncation, call.model
    if truncation.loss_fault is not None:
        raise UnsupportedModelError(
            f"{original_class(type(model)).__name__} can be sampled from t*, but not be trained or "
            f"evaluated there: {truncation.loss_fault} Call remove_patch(model) first."
        )
    truncation.adapter.prepare(model, call.name, call.arguments)
    return truncation.adapter.finish_loss(model, call.run())


def _start(call: _Call) -> Any:  # noqa: ANN401
    """A sample starts at t*, if statistics and weights allow it."""
    truncation, model = call.truncation, call.model
    truncation.adapter.prepare(model, call.name, call.arguments)
    if SELF_CHECK.get() is None:
        if truncation.stats is not None:
            check_fresh(truncation.adapter, model, truncation.stats)
        check_extent(truncation, model)
        if truncation.reference is not None and call.arguments.get("context") is not None:
            warn_of_condition("the context")
    if inspect.isgeneratorfunction(call.method):
        return _frames(call)
    try:
        with _next_noise_is_start(model):
            return call.run()
    finally:  # some samplers leave another number of steps behind
        if model.__dict__.get(STATE) is truncation:
            truncation.adapter.set_steps(model, truncation.t_star)


def check_extent(truncation: Truncation, model: Model) -> None:
    """Refuse to start where the network was not trained; say so if its weights say nothing."""
    extent = trained_extent(model)
    if extent is not None:
        check_trained(extent, truncation.adapter.log_snr(model, truncation.t_star), truncation.time)
    elif weights_say_nothing(model):
        warn(
            "the weights of this model were loaded from a dict without metadata, so they cannot "
            f"say how far they were trained; it starts at t* = {truncation.t_star} of "
            f"{truncation.n_steps}. Load the state dict as it was saved, or say it: "
            "record_trained(model, log_snr), with None for the whole path."
        )


@contextmanager
def _next_noise_is_start(model: Model) -> Iterator[None]:
    before = _NEXT_START.get()
    _NEXT_START.set(model)
    try:
        yield
    finally:  # a start that calls another one has had its first noise if the other had
        drawn = _NEXT_START.get() is None
        _NEXT_START.set(None if drawn and before is model else before)


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
    quick = model.training or SELF_CHECK.get() is not None
    reference = truncation.prior if quick else truncation.reference
    if reference is None and truncation.t_star < truncation.n_steps:
        reference = truncation.adapter.unit_reference(model)
    if reference is None:
        return call.run()
    xh, node_mask = truncation.adapter.padded(None, call.arguments)
    if truncation.stats is not None:  # elements that are predicted are not diffused
        xh = xh[..., : truncation.stats.layout.n_channels]
    return divergence(reference, truncation.gamma(model), xh, node_mask)


def _refusal(base: type[Any], name: str, why: str) -> Method:
    @functools.wraps(getattr(base, name))
    def refuse(self: Model, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        raise UnsupportedModelError(
            f"{base.__name__}.{name} cannot run truncated: {why}. Call remove_patch(model) first."
        )

    return refuse


def check_fresh(adapter: Adapter, model: Model, stats: GAGAStats) -> None:
    """Refuse statistics of another space than the model diffuses now."""
    reason = adapter.stale(model, stats.provenance)
    if reason is not None:
        raise StatsMismatchError(f"{reason} Fit again: {adapter.fit}.")
