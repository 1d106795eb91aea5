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

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
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
    plain_number,
    warn,
)
from gaga_adapter.fitting import DEFAULT_LOG_SNR, fit
from gaga_adapter.layout import AtomLayout, MoleculeLayout
from gaga_adapter.stats import GAGAStats

from ..patching.patch import bare, put_back, remove_patch, set_aside, state_of
from ..patching.subclass import original_class
from ..protocol import Model, lacks
from .truncated import FlowTruncation, noise_of, noise_std

#: Divisor of positions in angstrom in TABASCO's `MoleculeConverter`.
POSITION_SCALE = 2.0
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
    try:
        batches = iter(loader)
    except TypeError:
        raise DataError(
            f"loader={loader!r} has no batches. Pass the loader of the model."
        ) from None
    try:
        first = next(batches)
    except StopIteration:
        raise DataError("the loader is empty. Pass the one that trains the model.") from None

    x, mask = diffused(model, first)

    def molecules() -> Iterator[tuple[Tensor, Tensor]]:
        yield x, mask
        for batch in batches:
            yield diffused(model, batch)

    return fit(
        molecules(),
        AtomLayout(x.shape[-1] - 3),
        criterion=criterion,
        reference="mixed_order" if ordered else "mixed",
        tolerance=tolerance,
        log_snr=log_snr,
        n_criterion=n_criterion,
        n_bootstrap=n_bootstrap,
        seed=seed,
        provenance={**(provenance or {}), **noise_of(model)},
        progress=progress,
    )


def diffused(model: Model, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Positions in units of the noise beside one-hot types (B, N, 3 + K), and mask (B, N), bool.

    Raises:
        DataError: If the batch has bonds, lacks something, or has another form.
    """
    if not hasattr(batch, "keys"):
        raise DataError(
            f"a batch is a {type(batch).__name__}. Pass batches with coords, atomics and "
            "padding_mask, as the loader of the model makes them."
        )
    names = set(batch.keys())
    if any("bond" in name for name in names):
        raise DataError("the batch has bonds. Bonds are refused until there is a law for them.")
    if missing := {"coords", "atomics", "padding_mask"} - names:
        raise DataError(f"a batch has no {', '.join(sorted(missing))}; it has {sorted(names)}.")
    parts = coords, types, padding = batch["coords"], batch["atomics"], batch["padding_mask"]
    shapes = [tuple(getattr(part, "shape", ())) for part in parts]
    places = shapes[2]
    if len(places) != 2 or shapes[0] != (*places, 3) or shapes[1][:-1] != places:
        raise DataError(
            f"a batch has coords {shapes[0]}, atomics {shapes[1]} and padding_mask {places}. Pass "
            "tensors (B, N, 3), (B, N, K) and (B, N)."
        )
    mask = ~padding.bool()
    positions = coords / noise_std(model, mask)
    x = torch.cat([positions, types.to(positions)], -1)
    return torch.where(mask[..., None], x, 0), mask


def _has_order(model: Model) -> bool:
    """Whether the network knows the order of the atoms."""
    if not getattr(model.net, "add_sinusoid_posenc", False):
        return False
    return not getattr(getattr(model.net, "positional_encoding", None), "random_permute", False)


def _check_stats(model: Model, stats: GAGAStats) -> None:
    """Refuse statistics in other units, or of other types."""
    layout, noise = stats.layout, noise_of(model)
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
    # A plain `fit` says nothing of the noise: then it is the unit noise of the levels.
    unit: dict[str, Any] = {"noise_scale": 1.0, "noise_scale_by_log_size": False}
    fitted = {name: stats.provenance.get(name, value) for name, value in unit.items()}
    if fitted != noise:
        raise StatsMismatchError(
            f"the statistics are in units of the noise {fitted}, the model has {noise}. Fit "
            "again: fit_from(model, loader)."
        )


# -- the patch -------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class FlowHandle:
    """What `apply_patch` did to a model.

    Attributes:
        model: The patched model.
        state: Truncation of the model.
    """

    model: Model
    state: FlowTruncation

    @property
    def t_star(self) -> float:
        """Time where the model starts, 0 for noise and 1 for data."""
        return self.state.t_star

    def remove(self) -> None:
        """Undo this patch; nothing happens if it was undone, or replaced by another."""
        now: Any = state_of(self.model)
        if now is self.state:
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
        chosen = None
    else:
        advice = "Pass a time from 0 (noise) to below 1 (data)."
        t_star = plain_number("t_star", t_star, advice)
        if not 0 <= t_star < 1:
            raise TruncationError(f"t_star={t_star:g} is no time of the path. {advice}")
        chosen = 2 * math.log(t_star / (1 - t_star)) if t_star else -math.inf
    if spacing not in ("suffix", "respace"):
        raise TruncationError(f"spacing={spacing!r} is unknown. Known: suffix, respace.")
    law = None
    if stats is not None and reference != "unit":
        _check_stats(model, stats)
        kind = _kind(stats, reference)
        law = stats.start(kind, chosen, discrete_types=True).at(t_star, 1 - t_star)
        if _has_order(model) and law.kind != "mixed_order":
            warn(
                f"the network knows the order of the atoms, and the {law.kind!r} start draws them "
                "in any order, which it has not seen. Fit with fit_from(model, loader)."
            )
    with set_aside(model):
        _check_path(model)
        state = FlowTruncation(float(t_star), spacing, law)
        state.install(model)
    return FlowHandle(model, state)


@contextmanager
def patched(
    model: Model,
    stats: GAGAStats | str | Path | None = None,
    t_star: float | None = None,
    reference: str = "auto",
    spacing: str = "suffix",
) -> Iterator[FlowHandle]:
    """`apply_patch` for a `with` block; a patch from before the block is there after it.

    A model whose patch was removed inside of the block stays without one.
    """
    with put_back(_flow_of(model)):
        yield apply_patch(model, stats, t_star, reference, spacing)


def _kind(stats: GAGAStats, reference: str) -> str:
    if reference != "auto":
        if not reference.startswith("mixed"):
            raise StatsMismatchError(
                f"reference={reference!r} has no discrete types. Known: mixed_order, mixed, "
                "mixed_size, unit."
            )
        return reference
    return (stats.judged_reference or "mixed") if stats.has_discrete_types else "mixed"


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
