r"""Moments of dense tensors of one event shape: images, latents, signals, packed tokens.

Four descriptions of the same covariance, from the coarsest to the finest:

- `channel`:  one mean and variance per channel, pooled over the other axes (any resolution);
- `element`:  one per entry;
- `low_rank`: the leading eigenvectors and one residual variance for the rest;
- `full`:     every covariance, for at most `FULL_LIMIT` entries.

All are streaming and mergeable in float64 by Chan's formulas (`central.py`); covariances divide by
the count. The low-rank description keeps `2 rank` rows `S` with `S'S` close to the scatter
`sum (x - mean)(x - mean)'`. The union of two parts is the stack of both sketches and the row
`sqrt(n_a n_b / n) (mean_b - mean_a)` (Ross et al. 2008, Eq. 3), cut by a singular value
decomposition to its `2 rank` leading rows. This is exact for data of at most that rank. Otherwise
the part that is cut off, the least possible at each step, goes to the residual. The trace is exact.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from gaga_adapter.covariance import (
    Covariance,
    DiagonalCovariance,
    EigenCovariance,
    is_covariance,
)
from gaga_adapter.errors import DataError, StatsMismatchError
from gaga_adapter.files.checked import MOST_COUNTED, Fields, Tensors
from gaga_adapter.layout import DenseLayout
from gaga_adapter.moments.central import LARGEST, central_sums, merge_central, merge_scatter

DenseKind = Literal["channel", "element", "low_rank", "full"]

#: Most entries of an event whose full covariance is kept (128 MiB of float64).
FULL_LIMIT = 4096

_TENSORS = ("count", "entries", "sums", "std", "scatter", "sketch")


class DenseMoments:
    """Streaming, mergeable moments of tensors (B, *shape).

    A property that needs data raises a `DataError` before the first event.

    Args:
        shape: Shape of an event (C, ...).
        kind: Description of the covariance, one of the four above.
        rank: Number of eigenvectors that `low_rank` reports.
        channels: Axis of the event that holds the channels, as in `DenseLayout`.

    Raises:
        StatsMismatchError: If the kind is unknown, or the event too large for it.
        DataError: If `DenseLayout` refuses the shape or the axis.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        kind: DenseKind = "channel",
        rank: int = 64,
        channels: int = 0,
    ) -> None:
        if kind not in get_args(DenseKind):
            known = ", ".join(get_args(DenseKind))
            raise StatsMismatchError(f"unknown kind of moments {kind!r}. Known: {known}.")
        layout = DenseLayout(shape, channels)
        self.shape, self.channels = layout.shape, layout.channels
        self.kind = kind
        self.rank = rank
        size = math.prod(self.shape)
        if kind == "full" and size > FULL_LIMIT:
            raise StatsMismatchError(
                f"a full covariance of {size} entries exceeds the limit of {FULL_LIMIT}. "
                'Use kind="low_rank".'
            )
        own = (layout.n_channels,) if kind == "channel" else self.shape
        side = size if kind == "full" else 0
        width = size if kind == "low_rank" else 0
        self._count = torch.zeros((), dtype=torch.float64)
        self._entries = torch.zeros((), dtype=torch.float64)  # numbers behind each mean
        self._sums = torch.zeros(2, *own, dtype=torch.float64)  # mean and M_2
        self._std = torch.zeros((), dtype=torch.float64)  # mean standard deviation of one event
        self._scatter = torch.zeros(side, side, dtype=torch.float64)
        self._sketch = torch.zeros(0, width, dtype=torch.float64)

    def update(self, x: Tensor) -> None:
        """Take in a batch (B, *shape); nothing changes if it is refused.

        Raises:
            StatsMismatchError: If the events have another shape (for `channel`: other channels).
            DataError: If a number is not finite, or beyond 1e15; the first such event is named by
                index.
        """
        channels_only = self.kind == "channel"
        if not fits(x.shape[1:], self.shape, self.channels, any_size=channels_only):
            raise StatsMismatchError(
                f"these {self.kind} moments describe events of shape {self.shape}, "
                f"got {tuple(x.shape[1:])}. {next_step(x.shape[1:], self.shape, self.channels)}"
            )
        x = x.detach().to("cpu", torch.float64)
        bad = (~(x.abs() <= LARGEST).flatten(1).all(1)).nonzero().flatten()
        if len(bad):
            raise DataError(
                f"event {self.count + int(bad[0])} (number {int(bad[0])} of this batch) has a "
                f"number that is not finite, or beyond {LARGEST:g}. {len(bad)} of {len(x)} events "
                "of it are unusable."
            )
        if not len(x):
            return
        part = DenseMoments(self.shape, self.kind, self.rank, self.channels)
        part._count = torch.tensor(float(len(x)), dtype=torch.float64)
        rest = [axis for axis in range(1, x.dim()) if axis != 1 + self.channels]
        dims = (0, *rest) if channels_only else (0,)
        part._entries = part._count * (math.prod(x.shape[k] for k in rest) if channels_only else 1)
        part._sums = central_sums(x, dims)
        part._std = x.flatten(1).std(1, correction=0).mean()
        if not channels_only:
            rows = (x - part._sums[0]).flatten(1)
            if self.kind == "full":
                part._scatter = rows.T @ rows
            if self.kind == "low_rank":
                part._sketch = _leading_rows(rows, 2 * self.rank)
        self.merge(part)

    def merge(self, other: DenseMoments) -> DenseMoments:
        """Take in everything that `other` has seen; returns self.

        Raises:
            StatsMismatchError: If the two describe different things.
        """
        if self.metadata() != other.metadata():
            raise StatsMismatchError(
                f"cannot merge moments of {other.metadata()} into moments of {self.metadata()}."
            )
        n_a, n_b = self._count, other._count
        mean_a, mean_b = self._sums[0].flatten(), other._sums[0].flatten()
        if self.kind == "full":
            self._scatter = merge_scatter(n_a, mean_a, self._scatter, n_b, mean_b, other._scatter)
        if self.kind == "low_rank":
            between = (n_a * n_b / (n_a + n_b).clamp(min=1)).sqrt() * (mean_b - mean_a)
            stack = torch.cat([self._sketch, other._sketch, between[None]])
            self._sketch = _leading_rows(stack, 2 * self.rank)
        self._sums = merge_central(self._entries, self._sums, other._entries, other._sums)
        self._std = merge_central(n_a, self._std[None], n_b, other._std[None])[0]
        self._count = n_a + n_b
        self._entries = self._entries + other._entries
        return self

    @property
    def count(self) -> int:
        """Events seen."""
        return int(self._count)

    def _require_data(self) -> None:
        if not self.count:
            raise DataError("found 0 events, need at least 1 to have moments.")

    @property
    def mean(self) -> Tensor:
        """Mean per channel (C,) or per entry (*shape)."""
        self._require_data()
        return self._sums[0]

    @property
    def var(self) -> Tensor:
        """Variance per channel (C,) or per entry (*shape)."""
        self._require_data()
        return self._sums[1] / self._entries

    @property
    def channel_mean(self) -> Tensor:
        """Mean per channel (C,), whatever the kind."""
        return self._by_channel(self.mean).mean(1)

    @property
    def channel_var(self) -> Tensor:
        """Variance per channel (C,) over events and the other axes, whatever the kind."""
        mean = self._by_channel(self.mean)
        return self._by_channel(self.var).mean(1) + mean.var(1, correction=0)

    def _by_channel(self, values: Tensor) -> Tensor:
        """Values per channel (C,) or per entry (*shape) as (C, entries)."""
        if self.kind != "channel":
            values = values.movedim(self.channels, 0)
        return values.reshape(self.shape[self.channels], -1)

    @property
    def paper_variance(self) -> float:
        """What the published method uses as variance: the mean standard deviation of one event."""
        self._require_data()
        return float(self._std)

    def covariance(self) -> Covariance:
        """Covariance of the flattened event: diagonal (per entry), low rank or full.

        Raises:
            StatsMismatchError: If the moments are of kind `channel`, which knows no single entries
                (`channel_var` serves there).
            DataError: If nothing was seen.
        """
        if self.kind == "channel":
            raise StatsMismatchError("channel moments have no covariance of entries.")
        var = self.var.flatten()
        if self.kind == "element":
            return DiagonalCovariance(var)
        if self.kind == "full":
            return EigenCovariance.from_matrix(self._scatter / self._count)
        _, singular, basis = torch.linalg.svd(self._sketch, full_matrices=False)
        eigenvalues = (singular**2 / self._count)[: self.rank]
        rest = len(var) - len(eigenvalues)
        residual = (var.sum() - eigenvalues.sum()).clamp(min=0) / max(rest, 1)
        return EigenCovariance(basis[: self.rank].T.contiguous(), eigenvalues, residual)

    def metadata(self) -> dict[str, Any]:
        """Meaning of the tensors of `state_dict`, in a form that JSON can hold."""
        axis = {"channels": self.channels} if self.channels else {}  # as in `layout_to_dict`
        return {
            "moments": "dense",
            "shape": list(self.shape),
            **axis,
            "kind": self.kind,
            "max_order": 2,  # constant; version 0.1 reads it
            "rank": self.rank,
        }

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that the moments hold, as a flat dict of contiguous tensors."""
        return {name: getattr(self, f"_{name}").contiguous().clone() for name in _TENSORS}

    @classmethod
    def from_state_dict(cls, state: dict[str, Tensor], metadata: dict[str, Any]) -> DenseMoments:
        """The inverse of `state_dict` and `metadata`; higher sums of version 0.1 are dropped.

        Raises:
            ArtefactError: If something is missing or of another shape.
        """
        about = Fields(metadata, "the description of the moments")
        shape = about.integers("shape", 1, 2**31)
        kind = about.text("kind", get_args(DenseKind))
        rank = about.integer("rank", 1, 2**31)
        size = math.prod(shape)
        channels = (
            about.integer("channels", 0, max(len(shape), 1) - 1)
            if "channels" in about.names()
            else 0
        )
        if not shape or size > 2**31 or (kind == "full" and size > FULL_LIMIT):
            raise about.refuse("shape", f"a shape that moments of kind {kind} can have")
        tensors = Tensors(state, "the moments").only(_TENSORS)
        own = (shape[channels],) if kind == "channel" else shape
        orders = min(max(tensors.length("sums"), 2), 4)  # version 0.1 could stream M_3 and M_4 too
        side, width = size * (kind == "full"), size * (kind == "low_rank")
        rows = min(tensors.length("sketch"), 2 * rank) * (kind == "low_rank")
        double = torch.float64
        count = tensors.take("count", double, [])
        entries = tensors.take("entries", double, [])
        sums = tensors.take("sums", double, [orders, *own])[:2].contiguous()
        std = tensors.take("std", double, [])
        scatter = tensors.take("scatter", double, [side, side])
        sketch = tensors.take("sketch", double, [rows, width])

        tensors.within("count", count, 1, MOST_COUNTED)
        tensors.within("entries", entries, 1, MOST_COUNTED)
        tensors.within("std", std, 0, LARGEST)
        whole = bool(count == count.round()) and bool(entries == entries.round())
        same = entries >= count if kind == "channel" else entries == count
        tensors.require("entries", whole and same, "it does not go with the count of events")
        largest = float(entries) * LARGEST**2
        tensors.within("sums", sums[0], -LARGEST, LARGEST)
        tensors.within("sums", sums[1], 0, largest)
        tensors.within("scatter", scatter, -largest, largest)
        squares = sums[1].flatten()
        slack = 1e-6 * float(squares.max())
        if kind == "full":
            agrees = (scatter.diagonal() - squares).abs().max() <= slack
            proper = agrees and is_covariance(scatter, 1e-9)
            tensors.require("scatter", proper, "it is not a covariance with the variances of sums")
        if kind == "low_rank":
            tensors.within("sketch", sketch, -(largest**0.5), largest**0.5)
            fits = (sketch.square().sum(0) - squares).max() <= slack
            tensors.require("sketch", fits, "it has more variance than the sums")
        moments = cls(shape, kind, rank, channels)  # type: ignore[arg-type]  # one of those allowed
        moments._count, moments._entries, moments._std = count, entries, std
        moments._sums, moments._scatter, moments._sketch = sums, scatter, sketch
        return moments


def fits(event: Sequence[int], shape: Sequence[int], channels: int, any_size: bool) -> bool:
    """Whether events have this shape, or this axis of channels and any size of the other axes."""
    event, shape = tuple(event), tuple(shape)
    if not any_size:
        return event == shape
    return len(event) == len(shape) and event[channels] == shape[channels]


def next_step(event: Sequence[int], shape: Sequence[int], channels: int) -> str:
    """What to do about events of another shape than the fitted one, in a sentence or two."""
    event, n = tuple(event), shape[channels]
    if not event or min(event) < 1:
        return "Pass batches (B, *event) of such events."
    elsewhere = [axis for axis, size in enumerate(event) if size == n]
    if fits(event, shape, channels, any_size=True):
        return (
            f"Only covariance='channel' serves other sizes of the same {n} channels. Fit with it, "
            "or fit again on events of the size that is wanted."
        )
    if elsewhere:
        return (
            f"If axis {elsewhere[-1]} of these events holds the {n} channels, fit on such events "
            f"and say so: DenseLayout({event}, channels={elsewhere[-1]})."
        )
    return (
        "Fit on events as the scheduler sees them, packed as the pipeline packs them, and name "
        f"the axis of the channels: DenseLayout({event}, channels=...)."
    )


def _leading_rows(rows: Tensor, n: int) -> Tensor:
    """At most `n` rows `S` (n, D) with `S'S` the closest to that of `rows` (m, D).

    The singular value decomposition goes through the smaller Gram matrix of the rows.
    """
    if len(rows) <= n:
        return rows
    leading: Tensor = torch.linalg.eigh(rows @ rows.T).eigenvectors[:, -n:]
    return leading.T @ rows
