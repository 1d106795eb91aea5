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

import functools
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from gaga_adapter.errors import ArtefactError, GAGAWarning, TruncationError, plain_number, warn
from gaga_adapter.noise.levels import first_beyond
from gaga_adapter.stats import GAGAStats
from gaga_adapter.trained import trained_extent, unwrapped

from ..protocol import Adapter, Model, adapter_for
from .late import Fit, LatePatch
from .relayout import in_layout
from .self_check import check_by_running
from .subclass import original_class
from .truncated import STATE, Truncation, check_fresh

Stats = GAGAStats | str | Path | Fit
State = Truncation | LatePatch


@dataclass(frozen=True, eq=False)
class PatchHandle:
    """What `apply_patch` did to a model.

    Attributes:
        model: The patched model.
        state: Truncation of the model, or the patch that waits for its first use.
    """

    model: Model
    state: State

    def settle(self) -> Truncation:
        """How the model is cut; a model that waits for its first use is fitted now."""
        if isinstance(self.state, Truncation):
            return self.state
        if state_of(self.model) is self.state:
            self.state.settle(self.model)
        now = state_of(self.model)
        if not isinstance(now, Truncation) or now.origin is not self.state:
            raise TruncationError("this patch was removed before it was fitted. Apply it again.")
        return now

    @property
    def t_star(self) -> int:
        """The step where the model starts, of its own `n_steps`."""
        return self.settle().t_star

    @property
    def n_steps(self) -> int:
        """The model's own number of steps T."""
        return self.settle().n_steps

    @property
    def log_snr(self) -> float:
        """Log-SNR at t*, by the schedule as it stands: a learned one moves it."""
        cut = self.settle()
        return cut.adapter.log_snr(self.model, cut.t_star)

    def remove(self) -> None:
        """Undo this patch; nothing happens if it was undone, or replaced by another."""
        now = state_of(self.model)
        if now is not None and (now is self.state or getattr(now, "origin", None) is self.state):
            now.uninstall(self.model)
            _warn_of_the_whole_path(self.model)


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
        stats: Fitted statistics: an object, a folder, a hub id or an embedded name (`qm9`); `None`
            to start at `t_star` from N(0, I). A function of the model, such as
            `lambda model: fit_from(model, loader)`, is called when the model is first used.
        t_star: Step to start at, 1 to T; by default the first at or beyond the fitted log-SNR,
            by the model's own schedule as it stands.
        reference: Kind of the Gaussian; `auto` is `shape`, and `unit` is the model's own N(0, I).
        fix_last_class: Whether samples get their last element class, which EDM and GeoLDM drop
            where the model has no charges.

    Raises:
        UnsupportedModelError: If no adapter recognises the model, or its sampler ignores T.
        TruncationError: If `t_star` is no step of the model, or its schedule never gets that noisy.
        StatsMismatchError: If the statistics describe something else than the model diffuses.
        ArtefactError: If the statistics cannot be read, or there are none where they are needed.
    """
    model = bare(model)
    adapter = adapter_for(model)
    if isinstance(stats, str | Path):
        stats = GAGAStats.from_pretrained(stats)
    cut = functools.partial(
        _cut, adapter, t_star=t_star, reference=reference, fix_last_class=fix_last_class
    )
    with set_aside(model):
        if stats is None or isinstance(stats, GAGAStats):
            return PatchHandle(model, cut(model, stats))
        n_steps = adapter.n_steps(model)
        if t_star is not None:  # before hours may go into a fit
            checked_step("t_star", t_star, model, n_steps)
        check_by_running(model, Truncation(adapter, n_steps, 1))
        late = LatePatch(adapter, stats, cut)
        late.install(model)
        return PatchHandle(model, late)


def remove_patch(model: Model) -> None:
    """Give a model its class, steps and schedule back; nothing happens if it is not patched."""
    model = bare(model)
    state = state_of(model)
    if state is not None:
        state.uninstall(model)
        _warn_of_the_whole_path(model)


@contextmanager
def patched(
    model: Model,
    stats: Stats | None = None,
    t_star: int | None = None,
    reference: str = "auto",
    fix_last_class: bool = False,
) -> Iterator[PatchHandle]:
    """`apply_patch` for a `with` block; a patch from before the block is there after it.

    A model whose patch was removed inside of the block stays without one.
    """
    with put_back(bare(model)):
        yield apply_patch(model, stats, t_star, reference, fix_last_class)


@contextmanager
def set_aside(model: Model) -> Iterator[None]:
    """A block in which a model gets a patch in the place of another, which is back if it fails."""
    before = state_of(model)
    if before is not None:
        before.uninstall(model)
    try:
        yield
    except BaseException:
        if before is not None:
            before.install(model)
        raise


@contextmanager
def put_back(model: Model) -> Iterator[None]:
    """A block after which a model has the patch from before it, unless it lost all patches."""
    before = state_of(model)
    try:
        yield
    finally:
        now = state_of(model)
        if before is None:
            remove_patch(model)
        elif now is not None and now is not before:
            now.uninstall(model)
            before.install(model)


def state_of(model: Model) -> State | None:
    """How a model is cut or what it waits for; `None` if it is not patched."""
    state: State | None = getattr(model, "__dict__", {}).get(STATE)
    return state


def bare(model: Model) -> Model:
    """The model inside of what parallelises, compiles or averages it."""
    return unwrapped(model)


def _warn_of_the_whole_path(model: Model) -> None:
    """Say that a model that was trained up to t* would be sampled from T now."""
    extent = trained_extent(model)
    if extent is not None:
        warn(
            f"this {original_class(type(model)).__name__} was trained down to log-SNR "
            f"{extent.log_snr:.4g} only, and without its patch it samples from the whole path: "
            "it has never seen that noise. Patch it again before it samples."
        )


def checked_step(name: str, value: float, model: Model, n_steps: int) -> int:
    """A step of a model that a caller passed under a name, 1 to T.

    Raises:
        TruncationError: If it is no such step.
    """
    advice = f"Pass an integer from 1 to {n_steps}."
    step = plain_number(name, value, advice)
    if not 1 <= step <= n_steps or step % 1:
        raise TruncationError(
            f"{name}={value} is no step of {type(model).__name__}(T={n_steps}). {advice}"
        )
    return int(step)


def first_step(adapter: Adapter, model: Model, log_snr_star: float) -> int:
    """The first step t >= 1 of an unpatched model with `-gamma(t / T) <= log_snr_star`.

    Raises:
        TruncationError: If there is no such step.
    """
    n_steps = adapter.n_steps(model)
    steps = torch.arange(n_steps + 1, device=next(model.parameters()).device)[:, None]
    with torch.no_grad():
        log_snr = -adapter.schedule(model)(steps / n_steps).flatten().cpu().double()
    first = 1 + first_beyond(log_snr[1:], log_snr_star)
    if first > n_steps:
        raise TruncationError(
            f"the schedule of {type(model).__name__}(T={n_steps}) never falls to a log-SNR of "
            f"{log_snr_star:.6g}: its range is [{float(log_snr.min()):.6g}, "
            f"{float(log_snr.max()):.6g}]. Pass t_star, or statistics with a higher log_snr_star."
        )
    return first


# -- cutting -------------------------------------------------------------------------------------


def _cut(
    adapter: Adapter,
    model: Model,
    stats: GAGAStats | None,
    t_star: int | None,
    reference: str,
    fix_last_class: bool,
    origin: object = None,
) -> Truncation:
    """Cut an unpatched model; if that is refused, it stays unpatched."""
    n_steps = adapter.n_steps(model)
    gaussian, prior, chosen = None, None, None
    if t_star is not None:
        t_star = checked_step("t_star", t_star, model, n_steps)
        chosen = adapter.log_snr(model, t_star)
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
        layout = adapter.layout(model, getattr(stats.layout, "elements", None))
        stats = in_layout(stats, layout, reference)
        if reference != "unit":
            gaussian = prior = stats.start(reference, chosen)
            if gaussian.kind == "shape":
                prior = stats.reference("size")
        if t_star is None:
            t_star = first_step(adapter, model, stats.log_snr_star)
    truncation = Truncation(
        adapter, n_steps, t_star, gaussian, prior, stats, fix_last_class, origin
    )
    truncation = check_by_running(model, truncation)
    truncation.install(model)
    if not fix_last_class:
        for fault in adapter.faults(model):
            warnings.warn(fault, GAGAWarning, stacklevel=3)
    return truncation
