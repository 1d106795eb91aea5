r"""Start a model of the EDM lineage at t*, in memory, without a line of its code changed.

Such a model counts its integer steps down from its attribute `T`, and divides them by it. The patch
sets `T = t_star`, so that the loop, the random times of the loss and its number of terms all end at
t*, and makes the model an instance of a generated subclass (`truncated.py`) that gives the network
the times it knows and draws its first noise from the fitted Gaussian. With the divergence from that
Gaussian as prior term, the loss

    KL(q(z_t* | x) || reference) + sum_{t <= t*} L_t + L_0

is a bound on the likelihood of the truncated model. At t* = T with the reference N(0, I) nothing
changes, bit for bit.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from gaga_adapter.errors import ArtefactError, GAGAWarning, TruncationError
from gaga_adapter.stats import GAGAStats

from .protocol import Adapter, Model, adapter_for
from .relayout import in_layout
from .swap import swap, swap_back
from .truncated import STATE, AbsoluteTime, Body, Truncation, check_by_sampling, check_fresh

Stats = GAGAStats | str | Path


@dataclass(frozen=True, eq=False)
class PatchHandle:
    """What `apply_patch` did to a model.

    Attributes:
        model: the patched model.
        truncation: how it is cut.
    """

    model: Model
    truncation: Truncation

    @property
    def t_star(self) -> int:
        """The step where the model starts, of its own `n_steps`."""
        return self.truncation.t_star

    @property
    def n_steps(self) -> int:
        """The model's own number of steps T."""
        return self.truncation.n_steps

    @property
    def log_snr(self) -> float:
        """Log-SNR at t*, by the schedule as it stands: a learned one moves it."""
        with torch.no_grad():
            schedule = self.truncation.adapter.schedule(self.model)
            ones = torch.ones(1, 1, device=next(self.model.parameters()).device)
            patched_now = truncation_of(self.model) is not None
            return -float(schedule(ones if patched_now else ones * self.t_star / self.n_steps))

    def remove(self) -> None:
        """Undo this patch; nothing happens if it was undone, or replaced by another."""
        if truncation_of(self.model) is self.truncation:
            _uninstall(self.model)


def apply_patch(
    model: Model,
    stats: Stats | None = None,
    t_star: int | None = None,
    reference: str = "auto",
    fix_last_class: bool = False,
) -> PatchHandle:
    """Start a model at t* from the fitted Gaussian: sampling, training and evaluation.

    A model that is patched already is patched anew. If anything is refused, it stays as it was.

    Args:
        model: `EnVariationalDiffusion`, `EnLatentDiffusion`, or what another adapter recognises.
        stats: fitted statistics: an object, a folder, a hub id or an embedded name (`qm9`); `None`
            to start at `t_star` from N(0, I).
        t_star: the step to start at, 1 to T; by default the first at or beyond the fitted log-SNR,
            by the model's own schedule as it stands.
        reference: kind of the Gaussian; `auto` is `shape`, and `unit` is the model's own N(0, I).
        fix_last_class: give samples their last element class, which EDM and GeoLDM drop where the
            model has no charges.

    Raises:
        UnsupportedModelError: no adapter recognises the model, or its sampler ignores T.
        TruncationError: `t_star` is no step of the model, or its schedule never gets that noisy.
        StatsMismatchError: the statistics describe something else than the model diffuses.
        ArtefactError: the statistics cannot be read, or there are none where they are needed.
    """
    model = _bare(model)
    adapter = adapter_for(model)
    before = truncation_of(model)
    if stats is not None and not isinstance(stats, GAGAStats):
        stats = GAGAStats.from_pretrained(stats)
    _uninstall(model)
    try:
        truncation = replace(
            _truncation(adapter, model, stats, t_star, reference), fix_last_class=fix_last_class
        )
        _install(model, replace(truncation, t_star=min(2, truncation.n_steps)))
        fitted = truncation.stats
        check_by_sampling(model, None if fitted is None else fitted.layout.n_channels)
        faults = adapter.faults(model)
        _uninstall(model)
        _install(model, truncation)
    except BaseException:
        _restore(model, before)
        raise
    if not fix_last_class:
        for fault in faults:
            warnings.warn(fault, GAGAWarning, stacklevel=2)
    return PatchHandle(model, truncation)


def remove_patch(model: Model) -> None:
    """Give a model its class, steps and schedule back; nothing happens if it is not patched."""
    _uninstall(_bare(model))


@contextmanager
def patched(
    model: Model,
    stats: Stats | None = None,
    t_star: int | None = None,
    reference: str = "auto",
    fix_last_class: bool = False,
) -> Iterator[PatchHandle]:
    """`apply_patch` for a `with` block; a patch from before the block is there after it."""
    before = truncation_of(_bare(model))
    handle = apply_patch(model, stats, t_star, reference, fix_last_class)
    try:
        yield handle
    finally:
        _restore(handle.model, before)


def truncation_of(model: Model) -> Truncation | None:
    """How a model is cut, or `None`."""
    found: Truncation | None = getattr(model, "__dict__", {}).get(STATE)
    return found


# -- in and out ----------------------------------------------------------------------------------


def _install(model: Model, truncation: Truncation) -> None:
    adapter = truncation.adapter
    model.__dict__[STATE] = truncation
    adapter.schedule(model).register_forward_pre_hook(AbsoluteTime(truncation))
    adapter.set_steps(model, truncation.t_star)
    for module, recipe in adapter.inner_swaps(model, truncation.fix_last_class):
        swap(module, recipe)
    swap(model, Body(adapter.name))


def _uninstall(model: Model) -> None:
    truncation = truncation_of(model)
    if truncation is None:
        return
    adapter = truncation.adapter
    swap_back(model)
    for module, _ in adapter.inner_swaps(model, truncation.fix_last_class):
        swap_back(module)
    adapter.set_steps(model, truncation.n_steps)
    hooks = adapter.schedule(model)._forward_pre_hooks
    for key in [key for key, hook in hooks.items() if isinstance(hook, AbsoluteTime)]:
        del hooks[key]
    del model.__dict__[STATE]


def _restore(model: Model, before: Truncation | None) -> None:
    _uninstall(model)
    if before is not None:
        _install(model, before)


def _bare(model: Model) -> Model:
    """The model inside of a data-parallel wrapper."""
    while isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        model = model.module
    return model


def _truncation(
    adapter: Adapter, model: Model, stats: GAGAStats | None, t_star: int | None, reference: str
) -> Truncation:
    n_steps = adapter.n_steps(model)
    name = f"{type(model).__name__}(T={n_steps})"
    gaussian = None
    if stats is None:
        if reference not in ("auto", "unit"):
            raise ArtefactError(
                f"the reference {reference!r} needs fitted statistics. Pass stats=..., or "
                "reference='unit' to start from N(0, I)."
            )
        if t_star is None:
            raise ArtefactError("neither stats nor t_star is given. Pass one, or both.")
    else:
        check_fresh(adapter, model, stats)
        elements = getattr(stats.layout, "elements", None)
        stats = in_layout(stats, adapter.layout(model, elements), reference)
        gaussian = None if reference == "unit" else stats.reference(reference)
    if t_star is None:
        assert stats is not None
        t_star = first_step(adapter, model, stats.log_snr_star)
    if isinstance(t_star, bool) or not 1 <= t_star <= n_steps or t_star % 1:
        raise TruncationError(
            f"t_star={t_star} is no step of {name}. Pass an integer from 1 to {n_steps}."
        )
    return Truncation(adapter, n_steps, int(t_star), gaussian, stats)


def first_step(adapter: Adapter, model: Model, log_snr_star: float) -> int:
    """The first step t >= 1 of an unpatched model with `-gamma(t / T) <= log_snr_star`.

    Raises:
        TruncationError: there is none.
    """
    n_steps = adapter.n_steps(model)
    device = next(model.parameters()).device
    steps = torch.arange(n_steps + 1, device=device)[:, None]
    with torch.no_grad():
        log_snr = -adapter.schedule(model)(steps / n_steps).flatten().double()
    beyond = (log_snr[1:] <= log_snr_star + 1e-6).nonzero()  # schedules are float32
    if not len(beyond):
        raise TruncationError(
            f"the schedule of {type(model).__name__}(T={n_steps}) never falls to a log-SNR of "
            f"{log_snr_star:.6g}: its range is [{float(log_snr.min()):.6g}, "
            f"{float(log_snr.max()):.6g}]. Pass t_star, or statistics with a higher log_snr_star."
        )
    return int(beyond[0]) + 1
