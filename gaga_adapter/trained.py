r"""How far a network was trained, kept with its weights.

Training in [0, t*] leaves the network without any idea of what lies beyond. So the log-SNR at t*
goes where the weights go: into the configuration of a diffusers model (`config.json`), and into the
metadata of the state dict of every module, where code that does not know of it does not see it.
Samplers that call the network at a noisier level are refused.

The record follows the weights, in whatever order they are copied, loaded, trained and saved:

- copies of a network, such as averaged weights, are recorded with it, once their weights have
  changed as well: a copy that stays as it was knows what it knew;
- `load_state_dict` of any module restores the record that the weights bring. This needs a wrapper
  around `torch.nn.Module.load_state_dict`, because torch offers no hook for modules that nobody has
  prepared, and weights are mostly loaded first;
- weights of which nothing is known lift no record: a dict without metadata, or part of the weights.
"""

from __future__ import annotations

import functools
import gc
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from gaga_adapter.errors import ArtefactError, TruncationError, UnsupportedModelError
from gaga_adapter.noise.levels import TOLERANCE, check_log_snr

#: Entry of the configuration, and of the metadata of a state dict.
KEY = "t_star_log_snr"
# Entry beside it: t* / T of a model of integer steps. A learned schedule moves the log-SNR of a
# step, and averaged weights have a schedule of their own, but the network is given the time.
_TIME_KEY = "t_star_time"

_RECORD = "_gaga_trained"


@dataclass(frozen=True)
class Extent:
    """How far a network was trained.

    Attributes:
        log_snr: Log-SNR of the noisiest level in training.
        time: Time t* / T of that level, for a network that is given it; `None` if not known.
    """

    log_snr: float
    time: float | None = None

    def covers(self, log_snr: float, time: float | None = None) -> bool:
        """Whether a level lies within the training; by the time where both know it."""
        if self.time is not None and time is not None:
            return time <= self.time + 1e-9
        return log_snr >= self.log_snr - TOLERANCE


def record_trained(model: Any, log_snr: float | None) -> None:  # noqa: ANN401
    """Record how far a network was trained, in its checkpoints, too.

    Call it before the training begins. Then copies of the network, such as averaged weights, are
    recorded with it, unless they were trained less far: those of the same weights to the bit, and
    those that were copied from a network that had a record.

    Args:
        model: Diffusers model, its `EMAModel`, or any module.
        log_snr: Log-SNR of the noisiest level in training, such as `scheduler.trained_log_snr`;
            `None` for the whole path, of this network alone.

    Raises:
        TruncationError: If `log_snr` is no number, or not from -60 to 60.
    """
    if log_snr is not None:
        log_snr = check_log_snr("log_snr", log_snr)
    if not isinstance(model, nn.Module) and isinstance(getattr(model, "model_config", None), dict):
        model.model_config = {**model.model_config, KEY: log_snr}  # diffusers' EMAModel
        return
    model = unwrapped(model)
    _UNKNOWN.difference_update([root for root in _UNKNOWN if model in set(root.modules())])
    if log_snr is None:
        for module in model.modules():
            if extent_of(module) is not None:
                _write_extent(module, None)
        return
    _find_copies(model)
    _write_extent(model, Extent(float(log_snr)))
    _pass_on([model], at_once=True)  # the training may be over, and they have changed already


def trained_log_snr(model: Any) -> float | None:  # noqa: ANN401 - any model or state dict
    """Log-SNR of the noisiest level that a network was trained at; `None` for the whole path.

    Args:
        model: Network, or the state dict of one.

    Raises:
        ArtefactError: If the record is there and is no log-SNR.
    """
    extent = trained_extent(model)
    return None if extent is None else extent.log_snr


def trained_extent(model: Any) -> Extent | None:  # noqa: ANN401 - any model or state dict
    """How far a network was trained, by its shortest record; `None` for the whole path.

    Args:
        model: Network, or the state dict of one.
    """
    if isinstance(model, Mapping):
        return _shortest(_of_metadata(entry) for entry in _metadata(model).values())
    if isinstance(model, nn.Module):
        return _shortest(extent_of(module) for module in model.modules())
    return extent_of(model)


def check_trained(
    trained: float | Extent | None, log_snr: float, time: float | None = None
) -> None:
    """Check that a network was trained at the noisiest level at which it will be called.

    Args:
        trained: Log-SNR of the noisiest level in training, as `trained_log_snr` gives it, or what
            `trained_extent` gives.
        log_snr: Log-SNR of the noisiest level of the run.
        time: Time t / T of that level, for a network that is given it.

    Raises:
        TruncationError: If the run is noisier.
    """
    if trained is None:
        return
    extent = trained if isinstance(trained, Extent) else Extent(trained)
    if not extent.covers(log_snr, time):
        raise TruncationError(
            f"the network was trained down to log-SNR {extent.log_snr:.4g} and knows nothing "
            f"noisier; this start is at {log_snr:.4g}. Start at that level or closer to the data, "
            "with the statistics and the t_star of its training. If it was trained on the whole "
            "path since, say so: record_trained(network, None)."
        )


# -- the record of one module ----------------------------------------------------------------------


def _gone() -> None:
    """Stand in for a weak reference to a module that is not known."""


@dataclass(eq=False)
class _Record:
    """The extent of one module, and the records of its copies.

    A data-parallel replica shares the record of its original; a copy gets its own.
    """

    module: Callable[[], nn.Module | None]  # a weak reference
    extent: Extent | None = None
    family: weakref.WeakSet[_Record] = field(default_factory=weakref.WeakSet)
    source: object = None  # what recorded the extent, see `record_training`
    # The extent of its original, which is its own as soon as its weights are no longer these.
    pending: tuple[Extent, tuple[float, ...]] | None = None

    def __post_init__(self) -> None:
        self.family.add(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> _Record:
        copied = memo.get(id(self.module()))  # `copy` notes an object before it copies its contents
        where = weakref.ref(copied) if isinstance(copied, nn.Module) else _gone
        return _Record(where, self.extent, self.family, self.source, self.pending)

    def __reduce__(self) -> tuple[Any, ...]:
        return _Record, (_gone, self.extent)


def extent_of(module: Any) -> Extent | None:  # noqa: ANN401 - any object
    """How far one module was trained, by its own record alone."""
    log_snr = _of_config(module)
    record = getattr(module, "__dict__", {}).get(_RECORD)
    found = None if log_snr is None else Extent(_recorded(log_snr))
    if record is not None and record.pending is not None:
        extent, weights = record.pending
        if _weights_of(module) != weights:
            record.extent, record.pending = extent, None
    return _shortest((found, None if record is None else record.extent))


def _of_config(module: Any) -> Any:  # noqa: ANN401 - any object
    """The entry in the configuration of a module, which may be anybody's and anything."""
    try:
        config = module.config
        return config.get(KEY) if hasattr(config, "get") else None
    except Exception:  # a property of somebody else's class
        return None


def watch_checkpoints(model: nn.Module) -> None:
    """Let the state dicts of a module record how far it was trained, and its copies follow it.

    Nothing happens if they do already.
    """
    if isinstance(model, torch.jit.ScriptModule):
        raise UnsupportedModelError(
            "a scripted module cannot say how far it was trained. "
            "Record it before torch.jit.script."
        )
    if _RECORD not in model.__dict__:
        hooked: Any = model
        hooked._register_state_dict_hook(_write)
        model.__dict__[_RECORD] = _Record(weakref.ref(model))


def unwatch_checkpoints(model: nn.Module) -> None:
    """Undo `watch_checkpoints`, unless the module was trained on a shorter trajectory."""
    record = model.__dict__.get(_RECORD)
    if record is not None and record.extent is None and record.pending is None:
        hooks = model._state_dict_hooks
        for key in [key for key, hook in hooks.items() if hook is _write]:
            del hooks[key]
        record.family.discard(record)
        del model.__dict__[_RECORD]


def record_training(modules: Iterable[nn.Module], extent: Extent | None, source: object) -> None:
    """Record that modules are being trained, at each of their backward passes.

    Before the first optimiser step of a training, a copy has the same weights to the bit, however
    it was made: by `copy.deepcopy`, by `load_state_dict`, before or after the patch. So the copies
    are looked for then, among all living modules of the same class, and follow from then on.

    Args:
        modules: Modules that are trained.
        extent: Extent of the training; `None` for the whole path.
        source: Object that trains them; where it changes, their copies are looked for.
    """
    modules = list(modules)
    for module in modules:
        watch_checkpoints(module)
        record = module.__dict__[_RECORD]
        if record.source is not source:
            record.source = source
            _find_copies(module)
        _write_extent(module, extent)
    if extent is not None:
        _pass_on(modules, at_once=False)


def recorded(module: nn.Module) -> nn.Module:
    """The module itself, or that of which a data-parallel replica was made."""
    record: _Record | None = module.__dict__.get(_RECORD)
    if record is None or not getattr(module, "_is_replica", False):
        return module
    return record.module() or module


def last_source(module: nn.Module) -> object:
    """What trained a module last, as `record_training` was told; `None` after it was loaded."""
    record = module.__dict__.get(_RECORD)
    return None if record is None else record.source


def _write_extent(module: nn.Module, extent: Extent | None) -> None:
    """Give a module a record, in its configuration, too, if it has one."""
    write: Any = getattr(module, "register_to_config", None)
    if write is not None:
        before = module.config
        log_snr = None if extent is None else extent.log_snr
        write(**{KEY: log_snr})
        if isinstance(before, OrderedDict):
            # An `EMAModel` saves the configuration that the network had when it was made, so this
            # object gets the entry, too; diffusers freezes it for everyone else.
            OrderedDict.__setitem__(before, KEY, log_snr)
    watch_checkpoints(module)
    record = module.__dict__[_RECORD]
    record.extent, record.pending = extent, None


def _pass_on(modules: Iterable[nn.Module], at_once: bool) -> None:
    """Let the copies of modules know no more than these do, and exactly that if they did before.

    Unless `at_once`, this holds as soon as their weights change.
    """
    for module in modules:
        record = module.__dict__[_RECORD]
        for other in list(record.family):
            copied, now = other.module(), other.extent
            same = now is not None and now.time == record.extent.time is not None
            extent = record.extent if same else _shortest((now, record.extent))
            if other is record or extent is now:
                continue
            if copied is None or same:
                other.extent = extent
            elif at_once or hasattr(copied, "register_to_config"):  # which is saved unasked
                _write_extent(copied, extent)
            elif other.pending is not None:
                other.pending = extent, other.pending[1]
            else:
                other.pending = extent, _weights_of(copied)


def _weights_of(module: nn.Module) -> tuple[float, ...]:
    """Sums of the weights of a module, which change with them."""
    with torch.no_grad():
        sums = [p.double().sum().cpu() for p in module.parameters() if _is_plain(p)]
        return tuple(torch.stack(sums).tolist()) if sums else ()


def _find_copies(module: nn.Module) -> None:
    """Make one family of a module and all that equal it."""
    watch_checkpoints(module)
    family = module.__dict__[_RECORD].family
    for twin in _equal_modules(module):
        watch_checkpoints(twin)
        for record in list(twin.__dict__[_RECORD].family):
            record.family = family
            family.add(record)


def _equal_modules(module: nn.Module) -> list[nn.Module]:
    """The other living modules of the class of a module whose parameters are equal to the bit."""
    mine = list(module.parameters())
    if not all(map(_is_plain, mine)):
        return []
    base = vars(type(module)).get("_gaga_base", type(module))  # a patched model is of a subclass
    kinds = {base, *base.__subclasses__()}
    others = [other for other in gc.get_referrers(*kinds) if type(other) in kinds]
    return [
        other
        for other in others
        if mine and other is not module and _equal(mine, list(other.parameters()))
    ]


def _equal(left: list[nn.Parameter], right: list[nn.Parameter]) -> bool:
    return len(left) == len(right) and all(
        _is_plain(b)
        and a.shape == b.shape
        and torch.equal(a.detach().to(b.device, b.dtype), b.detach())
        for a, b in zip(left, right, strict=True)
    )


def _is_plain(parameter: Tensor) -> bool:
    """Whether a parameter has numbers here: it is not sharded, not lazy, and not on `meta`."""
    is_own = type(parameter) in (nn.Parameter, Tensor) and parameter.layout is torch.strided
    return is_own and parameter.device.type != "meta"


def _shortest(extents: Iterable[Extent | None]) -> Extent | None:
    """The extent that reaches least far; `None` if all are of the whole path."""
    known = [extent for extent in extents if extent is not None]
    return functools.reduce(_shorter, known) if known else None


def _shorter(left: Extent, right: Extent) -> Extent:
    return right if left.covers(right.log_snr, right.time) else left


# -- state dicts -----------------------------------------------------------------------------------


def unwrapped(model: Any) -> Any:  # noqa: ANN401 - any model
    """The model inside of what parallelises, compiles or averages it."""
    while True:
        if isinstance(
            model,
            nn.DataParallel
            | nn.parallel.DistributedDataParallel
            | torch.optim.swa_utils.AveragedModel,
        ):
            model = model.module
        elif isinstance(model, nn.Module) and "_orig_mod" in model._modules:
            model = model._orig_mod  # torch.compile
        else:
            return model


def _metadata(state_dict: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    return getattr(state_dict, "_metadata", None) or {}


def _of_metadata(entry: Mapping[str, Any]) -> Extent | None:
    log_snr, time = entry.get(KEY), entry.get(_TIME_KEY)
    return None if log_snr is None else Extent(_recorded(log_snr), time)


def _recorded(log_snr: Any) -> float:  # noqa: ANN401 - whatever a checkpoint holds
    """A log-SNR that was read from a checkpoint."""
    try:
        return check_log_snr(KEY, log_snr)
    except TruncationError as error:
        raise ArtefactError(
            f"the checkpoint does not say how far it was trained: {error} Save it again, with "
            "record_trained(model, log_snr), or train anew."
        ) from error


def _write(
    module: nn.Module, state_dict: dict[str, Any], prefix: str, metadata: dict[str, Any]
) -> None:
    extent = extent_of(module)
    if extent is not None:
        metadata[KEY] = extent.log_snr
        if extent.time is not None:
            metadata[_TIME_KEY] = extent.time


#: What was loaded last from a dict without metadata, which cannot say how far it was trained.
_UNKNOWN: weakref.WeakSet[nn.Module] = weakref.WeakSet()


def weights_say_nothing(model: nn.Module) -> bool:
    """Whether the weights of a model without record came from a dict without metadata."""
    return trained_extent(model) is None and any(
        module is model for root in _UNKNOWN for module in root.modules()
    )


def _loaded(root: nn.Module, state_dict: Mapping[str, Any]) -> None:
    """Give the modules that have just been loaded the records that came with their weights."""
    metadata = _metadata(state_dict)
    if isinstance(root, Hashable):  # a module that compares by value is none
        (_UNKNOWN.discard if metadata else _UNKNOWN.add)(root)
    brought: dict[int, Extent | None] = {}
    modules = dict(root.named_modules())
    for name, entry in metadata.items():
        extent = _of_metadata(entry)
        if extent is not None:
            # A name that is not here is that of a wrapper which the weights have left.
            target = unwrapped(modules.get(name, root))
            brought[id(target)] = _shortest((brought.get(id(target)), extent))
    for name, module in modules.items():
        now = extent_of(module)
        if unwrapped(module) is not module or (now is None and id(module) not in brought):
            continue
        extent = brought.get(id(module))
        if not _is_complete(module, f"{name}." if name else "", state_dict, metadata):
            extent = _shortest((now, extent))
        _write_extent(module, extent)
        module.__dict__[_RECORD].source = None


def _is_complete(
    module: nn.Module, prefix: str, state_dict: Mapping[str, Any], metadata: Mapping[str, Any]
) -> bool:
    """Whether a state dict has metadata, and all parameters of a module."""
    own = all(prefix + name in state_dict for name, _ in module.named_parameters())
    return own and prefix[:-1] in metadata


def _reading_records(load: Callable[..., Any]) -> Callable[..., Any]:
    """`torch.nn.Module.load_state_dict` that reads the record of the weights as well."""

    @functools.wraps(load)
    def load_state_dict(
        self: nn.Module,
        state_dict: Mapping[str, Any],
        *args: Any,  # noqa: ANN401 - torch's own
        **kwargs: Any,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        result = load(self, state_dict, *args, **kwargs)
        _loaded(self, state_dict)
        return result

    load_state_dict.__dict__[_RECORD] = True
    return load_state_dict


if _RECORD not in vars(nn.Module.load_state_dict):
    nn.Module.load_state_dict = _reading_records(nn.Module.load_state_dict)  # type: ignore[method-assign]
