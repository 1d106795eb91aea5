r"""TABASCO by structure: `FlowMatchingModel` (github.com/carlosinator/tabasco).

Its time runs from noise, t = 0, to data, t = 1. Positions flow in a line,
`x_t = t x_1 + (1 - t) x_0`, with noise `x_0` of standard deviation `sigma` (one number, or one
times log N), and an atom shows its type with probability t, else one that is uniform. In units of
sigma that is the level a = t, b = 1 - t of a mixed reference, and `t* = sigmoid(log_snr_star / 2)`.

    stats = fit_from(model, train_loader)      # of what it diffuses, in its own order of the atoms
    handle = apply_patch(model, stats)         # model.sample(...) starts at t*, training ends there
    handle.remove()

Its network has positional encodings and it trains on atoms in the order of a SMILES, so the start
must have that order: kind `mixed_order`. Rotations of the training data leave the law as it is; it
is assumed to have no preferred axis, as TABASCO's loader makes it.

`suffix` keeps the entries of the schedule beyond t*, and begins with t* itself, so its first step
is shorter; `respace` compresses the whole schedule to [t*, 1].
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gaga_adapter.criteria import Criterion
from gaga_adapter.distributed import Progress
from gaga_adapter.errors import (
    ArtefactError,
    DataError,
    StatsMismatchError,
    TruncationError,
    UnsupportedModelError,
    warn,
)
from gaga_adapter.fitting import DEFAULT_LOG_SNR, fit
from gaga_adapter.layout import AtomLayout, MoleculeLayout
from gaga_adapter.reference import ReferenceGaussian, make_reference
from gaga_adapter.stats import GAGAStats
from gaga_adapter.trained import Extent, check_trained, last_source, record_training, trained_extent

from ..patching.patch import bare, remove_patch, state_of
from ..patching.subclass import original_class, swap, swap_back
from ..patching.truncated import STATE
from ..protocol import Model, lacks

#: Divisor of positions in angstrom in TABASCO's `MoleculeConverter`.
POSITION_SCALE = 2.0
_SLACK = 1e-6  # times are float32
_ATTRIBUTES = ("net", "coords_interpolant", "atomics_interpolant", "time_distribution")
_METHODS = {
    "sample": ("num_steps",),
    "_sample_noise_like_batch": (),
    "_get_sample_schedule": ("num_steps",),
    "_create_path": ("x_1", "t", "noise_batch"),
    "_call_net": ("batch", "t"),
}
_COORDS = ("noise_scale", "scale_noise_by_log_num_atoms", "sample_noise")


def reasons(model: Model) -> list[str]:
    """All reasons why this is no model that the patch knows; empty if it is one."""
    found = lacks(model, _ATTRIBUTES, _METHODS)
    if not found:
        found = [
            f"coords_interpolant.{why}" for why in lacks(model.coords_interpolant, _COORDS, {})
        ]
    if any("bond" in name for name in (*vars(model), *getattr(model, "_modules", {}))):
        found.append("bonds are refused until there is a law for them")
    return found


# -- statistics ------------------------------------------------------------------------------------


def fit_from(
    model: Model,
    loader: Iterable[Any],
    ordered: bool | None = None,
    criterion: str | Criterion = "two_sample",
    tolerance: float | None = None,
    log_snr: Iterable[float] = DEFAULT_LOG_SNR,
    n_criterion: int = 4000,
    n_bootstrap: int = 400,
    seed: int = 0,
    provenance: dict[str, Any] | None = None,
    progress: Progress | None = None,
) -> GAGAStats:
    """Fit statistics for a model from the loader that trains it, in units of the model's noise.

    Args:
        model: Model whose interpolants say what its noise is.
        loader: Batches with `coords`, one-hot `atomics` and `padding_mask`, true on padding.
        ordered: Whether the order of the atoms means something to the network; `None` asks it for
            positional encodings.
        criterion: Criterion of Gaussianity, as in `gaga_adapter.fit`, like everything that follows.
        tolerance: Nats that may remain at t*.
        log_snr: Levels at which the curve is drawn, `2 log(t / (1 - t))`.
        n_criterion: Size of the sample that the criterion sees.
        n_bootstrap: Number of resamples for the interval of t*; 0 for none.
        seed: Seed of the sample and the criterion.
        provenance: Facts to record about the data.
        progress: Function that is called with (what, done, total).

    Raises:
        UnsupportedModelError: If it is no such model.
        DataError: If the loader is empty, a batch has another form, or there are too few molecules.
        TruncationError: If the criterion never comes within the tolerance.
    """
    model = _flow_of(model)
    ordered = _has_order(model) if ordered is None else ordered
    batches = iter(loader)
    try:
        first = next(batches)
    except StopIteration:
        raise DataError("the loader is empty. Pass the one that trains the model.") from None

    def molecules() -> Iterator[tuple[Tensor, Tensor]]:
        yield diffused(model, first)
        for batch in batches:
            yield diffused(model, batch)

    return fit(
        molecules(),
        AtomLayout(int(first["atomics"].shape[-1])),
        criterion=criterion,
        reference="mixed_order" if ordered else "mixed",
        tolerance=tolerance,
        log_snr=log_snr,
        n_criterion=n_criterion,
        n_bootstrap=n_bootstrap,
        seed=seed,
        provenance={**(provenance or {}), **_noise(model)},
        progress=progress,
    )


def diffused(model: Model, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Positions in units of the noise beside one-hot types (B, N, 3 + K), and mask (B, N), bool.

    Raises:
        DataError: If the batch has bonds, or lacks something.
    """
    names = set(batch.keys())
    if any("bond" in name for name in names):
        raise DataError("the batch has bonds. Bonds are refused until there is a law for them.")
    if missing := {"coords", "atomics", "padding_mask"} - names:
        raise DataError(f"a batch has no {', '.join(sorted(missing))}; it has {sorted(names)}.")
    mask = ~batch["padding_mask"].bool()
    positions = batch["coords"] / _noise_std(model, mask)
    x = torch.cat([positions, batch["atomics"].to(positions)], -1)
    return torch.where(mask[..., None], x, 0), mask


def _noise(model: Model) -> dict[str, Any]:
    """What the statistics depend on of a model; JSON-able."""
    coords = model.coords_interpolant
    by_size = bool(coords.scale_noise_by_log_num_atoms)
    return {"noise_scale": float(coords.noise_scale), "noise_scale_by_log_size": by_size}


def _noise_std(model: Model, mask: Tensor) -> Tensor:
    """Standard deviation (B, 1, 1) of the noise of positions; 1 for a single atom."""
    noise, n_atoms = _noise(model), mask.sum(1)[:, None, None].float()
    scale = n_atoms.log() if noise["noise_scale_by_log_size"] else torch.ones_like(n_atoms)
    return torch.where(scale > 0, scale * noise["noise_scale"], 1.0)


def _has_order(model: Model) -> bool:
    """Whether the network knows the order of the atoms."""
    if not getattr(model.net, "add_sinusoid_posenc", False):
        return False
    return not getattr(getattr(model.net, "positional_encoding", None), "random_permute", False)


def _check_stats(model: Model, stats: GAGAStats) -> None:
    """Refuse statistics in other units, or of other types."""
    layout, noise = stats.layout, _noise(model)
    known = getattr(model, "data_stats", {}).get("atom_dim")
    if known is not None and getattr(layout, "n_features", None) != known:
        raise StatsMismatchError(
            f"the statistics describe {layout.describe()}, the model has {known} types. Fit again: "
            "fit_from(model, loader)."
        )
    if isinstance(layout, MoleculeLayout):
        scale = POSITION_SCALE * noise["noise_scale"]
        if noise["noise_scale_by_log_size"] or not math.isclose(layout.position_scale, scale):
            raise StatsMismatchError(
                f"the statistics describe {layout.describe()}; in units of the model's noise, "
                f"{noise}, positions are angstrom / {scale:g}. Fit again: fit_from(model, loader)."
            )
        return
    if fitted := {k: stats.provenance[k] for k in noise if k in stats.provenance}:
        if fitted != noise:
            raise StatsMismatchError(
                f"the statistics are in units of the noise {fitted}, the model has {noise}. Fit "
                "again: fit_from(model, loader)."
            )


# -- the patch -------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class FlowTruncation:
    """How a flow is cut. It never changes, so copies of a model share it.

    Attributes:
        t_star: Time where the model starts, 0 for noise.
        spacing: Word `suffix` or `respace`.
        reference: Mixed reference at the level of t*; `None` for the model's own noise.
    """

    t_star: float
    spacing: str
    reference: ReferenceGaussian | None

    def __deepcopy__(self, memo: dict[int, Any]) -> FlowTruncation:
        return self

    def install(self, model: Model) -> None:
        """Cut an unpatched model."""
        model.__dict__[STATE] = self
        swap(model, truncated_flow)

    def uninstall(self, model: Model) -> None:
        """Undo `install`; what says how far the model was trained stays."""
        swap_back(model)
        del model.__dict__[STATE]

    @property
    def log_snr(self) -> float:
        """Log-SNR at t*, in units of the noise."""
        return -math.inf if self.t_star == 0 else 2 * math.log(self.t_star / (1 - self.t_star))

    def times(self, schedule: Tensor) -> Tensor:
        """The part of a schedule (n,), rising from 0 to 1, that is walked."""
        if self.t_star == 0:
            return schedule
        if self.spacing == "respace":
            return self.t_star + (1 - self.t_star) * schedule
        rest = schedule[schedule > self.t_star + _SLACK]
        return torch.cat([schedule.new_tensor([self.t_star]), rest])

    def start(self, model: Model, noise: Any) -> Any:  # noqa: ANN401 - a batch of the codebase
        """The model's own noise, sent to the reference at t*; padding stays as it is."""
        if self.reference is None:
            return noise
        mask = ~noise["padding_mask"].bool()
        sigma, types = _noise_std(model, mask), noise["atomics"]
        z = torch.cat([noise["coords"] / sigma, types.to(noise["coords"])], -1)
        x = self.reference.transport(torch.where(mask[..., None], z, 0), mask)
        noise["coords"] = x[..., :3] * sigma
        own = F.one_hot(x[..., 3:].argmax(-1), types.shape[-1]).to(types)
        noise["atomics"] = torch.where(mask[..., None], own, types)
        return noise


@dataclass(frozen=True, eq=False)
class FlowHandle:
    """What `apply_patch` did to a model.

    Attributes:
        model: The patched model.
        state: How it is cut.
    """

    model: Model
    state: FlowTruncation

    @property
    def t_star(self) -> float:
        """Time where the model starts, 0 for noise and 1 for data."""
        return self.state.t_star

    def remove(self) -> None:
        """Undo this patch; nothing happens if it was undone, or replaced by another."""
        if state_of(self.model) is self.state:
            remove_patch(self.model)


def apply_patch(
    model: Model,
    stats: GAGAStats | str | Path | None = None,
    t_star: float | None = None,
    reference: str = "auto",
    spacing: str = "suffix",
) -> FlowHandle:
    """Start a flow at t* from a mixed reference: sampling, and the times of training.

    A model that is patched already is patched anew. If anything is refused, it stays as it was.

    Args:
        model: `FlowMatchingModel`, or the Lightning module around one.
        stats: Fitted statistics: an object, a folder or a hub id; `None` to start at `t_star` from
            the model's own noise.
        t_star: Time to start at, 0 (noise) to below 1; that of the fitted log-SNR when `None`.
        reference: Kind of the start: `mixed_order`, `mixed` or `mixed_size`; `auto` is the one that
            t* was chosen for, and `unit` the model's own noise.
        spacing: Word `suffix`, to keep the steps from t* on, or `respace`, to keep their number.

    Raises:
        UnsupportedModelError: If it is no such model, has bonds, or follows another path.
        TruncationError: If `t_star` is no such time, or the spacing is unknown.
        StatsMismatchError: If the statistics describe something else than the model diffuses.
        ArtefactError: If the statistics cannot be read, or there are none where they are needed.
    """
    model = _flow_of(model)
    if isinstance(stats, str | Path):
        stats = GAGAStats.from_pretrained(stats)
    if stats is None and (t_star is None or reference not in ("auto", "unit")):
        raise ArtefactError("pass stats, or t_star to start there from the model's own noise.")
    if t_star is None:
        assert stats is not None
        t_star = 1 / (1 + math.exp(-stats.log_snr_star / 2))
    if isinstance(t_star, bool) or not 0 <= t_star < 1:
        raise TruncationError(f"t_star={t_star} is no time from 0 (noise) to below 1 (data).")
    if spacing not in ("suffix", "respace"):
        raise TruncationError(f"spacing={spacing!r} is unknown. Known: suffix, respace.")
    law = None
    if stats is not None and reference != "unit":
        _check_stats(model, stats)
        law = make_reference(stats.moments, _kind(stats, reference)).at(t_star, 1 - t_star)
        if _has_order(model) and law.kind != "mixed_order":
            warn(
                f"the network knows the order of the atoms, and the {law.kind!r} start draws them "
                "in any order, which it has not seen. Fit with fit_from(model, loader)."
            )
    before = state_of(model)
    if before is not None:
        before.uninstall(model)
    try:
        _check_path(model)
        state = FlowTruncation(float(t_star), spacing, law)
        state.install(model)
    except BaseException:
        if before is not None:
            before.install(model)
        raise
    return FlowHandle(model, state)


@contextmanager
def patched(
    model: Model,
    stats: GAGAStats | str | Path | None = None,
    t_star: float | None = None,
    reference: str = "auto",
    spacing: str = "suffix",
) -> Iterator[FlowHandle]:
    """`apply_patch` for a `with` block; a patch from before the block is there after it."""
    before = state_of(_flow_of(model))
    handle = apply_patch(model, stats, t_star, reference, spacing)
    try:
        yield handle
    finally:
        handle.remove()
        if before is not None:
            before.install(handle.model)


def _kind(stats: GAGAStats, reference: str) -> str:
    if reference != "auto":
        if not reference.startswith("mixed"):
            raise StatsMismatchError(
                f"reference={reference!r} has no discrete types. Known: mixed_order, mixed, "
                "mixed_size, unit."
            )
        return reference
    judged = stats.judged_reference or ""
    return judged if judged.startswith("mixed") else "mixed"


def _flow_of(model: Model) -> Model:
    """The flow inside of what parallelises, compiles or trains it.

    Raises:
        UnsupportedModelError: If there is none.
    """
    model = bare(model)
    if not hasattr(model, "coords_interpolant") and hasattr(model, "model"):
        model = bare(model.model)  # a Lightning module
    if found := reasons(model):
        name = original_class(type(model)).__name__
        raise UnsupportedModelError(f"cannot patch {name}. tabasco: {', '.join(found)}.")
    return model


class _Batch(dict[str, Tensor]):
    device = torch.device("cpu")


def _check_path(model: Model) -> None:
    """Refuse a model whose path is not `t x_1 + (1 - t) x_0`, types shown with probability t."""
    t, shape = 0.25, (64, 32)
    device = next(model.parameters()).device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        ends = []
        for kind in (0, 1):
            coords = torch.randn(*shape, 3)
            types = F.one_hot(torch.full(shape, kind), 2)
            mask = torch.zeros(shape, dtype=torch.bool)
            coords = coords - coords.mean(1, keepdim=True)
            ends.append(_Batch(coords=coords, atomics=types, padding_mask=mask))
        path = original_class(type(model))._create_path(
            model, ends[0], torch.full(shape[:1], t), ends[1]
        )
    line = t * ends[0]["coords"] + (1 - t) * ends[1]["coords"]
    share, n = float(path.x_t["atomics"][..., 0].float().mean()), math.prod(shape)
    if not torch.allclose(path.x_t["coords"], line, rtol=1e-4, atol=1e-4) or (
        abs(share - t) > 6 * math.sqrt(t * (1 - t) / n)
    ):
        raise UnsupportedModelError(
            f"cannot patch {type(model).__name__}: its path is not t x_1 + (1 - t) x_0 with types "
            f"that show with probability t (at t = {t}, {share:.3f} of them showed)."
        )


# -- the generated methods -------------------------------------------------------------------------


@dataclass
class _Run:
    """A sample that is being drawn."""

    model: Model
    has_started: bool = False
    has_times: bool = False


# A context variable, so that threads that sample from one model do not meet.
_RUN: ContextVar[_Run | None] = ContextVar("gaga_flow_run", default=None)


def _running(model: Model) -> _Run | None:
    run = _RUN.get()
    return run if run is not None and run.model is model else None


def truncated_flow(base: type[Any]) -> dict[str, Callable[..., Any]]:
    """Recipe of the generated subclass, around upstream's own methods, which run as they are."""

    @functools.wraps(base.sample)
    def sample(self: Model, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        state: FlowTruncation = self._gaga
        extent = trained_extent(self)
        if extent is not None:
            check_trained(extent, state.log_snr, 1 - state.t_star)
        run = _Run(self)
        token = _RUN.set(run)
        try:
            drawn = base.sample(self, *args, **kwargs)
        finally:
            _RUN.reset(token)
        if not (run.has_started and run.has_times):
            raise UnsupportedModelError(
                f"{base.__name__}.sample drew no noise, or asked for no schedule, by the methods "
                "that the patch knows. Call remove_patch(model) first."
            )
        return drawn

    @functools.wraps(base._sample_noise_like_batch)
    def _sample_noise_like_batch(self: Model, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        noise, run = base._sample_noise_like_batch(self, *args, **kwargs), _running(self)
        if run is None or run.has_started:
            return noise
        run.has_started = True
        return self._gaga.start(self, noise)

    @functools.wraps(base._get_sample_schedule)
    def _get_sample_schedule(self: Model, *args: Any, **kwargs: Any) -> Tensor:  # noqa: ANN401
        schedule: Tensor = base._get_sample_schedule(self, *args, **kwargs)
        run = _running(self)
        if run is None:
            return schedule
        run.has_times = True
        return self._gaga.times(schedule)

    create_path = signature(base._create_path)

    @functools.wraps(base._create_path)
    def _create_path(self: Model, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        call = create_path.bind(self, *args, **kwargs)
        t_star = self._gaga.t_star
        if t_star > 0 and call.arguments.get("t") is None:
            x_1 = call.arguments["x_1"]
            times = _times_beyond(self.time_distribution, len(x_1["padding_mask"]), t_star)
            call.arguments["t"] = times.to(x_1.device)
        return base._create_path(*call.args, **call.kwargs)

    @functools.wraps(base._call_net)
    def _call_net(self: Model, batch: Any, t: Tensor) -> Any:  # noqa: ANN401
        state: FlowTruncation = self._gaga
        if not torch.compiler.is_compiling() and bool((t < state.t_star - _SLACK).any()):
            raise UnsupportedModelError(
                f"{base.__name__} asks its network for the time {float(t.min()):.4g}, noisier than "
                f"t* = {state.t_star:.4g}: this sampler (a guided one, or one with times of its "
                "own) does not follow the patch. Call remove_patch(model) first."
            )
        output = base._call_net(self, batch, t)
        coords = output["coords"]
        if coords.requires_grad:
            coords.register_hook(lambda gradient: _note_training(self))
        return output

    methods = (sample, _sample_noise_like_batch, _get_sample_schedule, _create_path, _call_net)
    return {method.__name__: method for method in methods}


def _times_beyond(distribution: Any, n: int, t_star: float) -> Tensor:  # noqa: ANN401
    """Times (n,) of the model's own distribution, given that they lie in [t*, 1]."""
    times: Tensor = distribution.sample((n,))
    for _ in range(10_000):
        early = times < t_star
        if not bool(early.any()):
            return times
        times = torch.where(early, distribution.sample((n,)), times)
    raise TruncationError(
        f"the model's own distribution of times hardly ever reaches t* = {t_star:.4g}, so it "
        "cannot be trained there. Choose a smaller t_star."
    )


def _note_training(model: Model) -> None:
    """Write down that a model is trained in [t*, 1] only."""
    state: FlowTruncation = model._gaga
    if last_source(model) is state:
        return
    extent = Extent(state.log_snr, 1 - state.t_star) if state.t_star > 0 else None
    if extent is not None or trained_extent(model) is not None:
        record_training([model, model.net], extent, state)
