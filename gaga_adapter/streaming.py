r"""One pass over a data set: its moments, and a uniform sample of bounded size.

Several processes share the pass: process r of W takes batches r, r + W, ... and their results are
merged in the order of the ranks. Moments merge by Chan's formula, so they are those of one process
to float64 rounding (of the kind `low_rank`: to what its sketch cuts off). The sample is the same to
the last bit: item i of batch k keeps its place by the hash of the run's seed and of (k, i), not by
the process that read it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import torch
from torch import Tensor

from gaga_adapter.batches import Batch, check_layout, check_stream, layout_of, read_batch
from gaga_adapter.distributed import Processes, Progress
from gaga_adapter.errors import DataError
from gaga_adapter.hashing import splitmix64
from gaga_adapter.layout import DenseLayout, Layout
from gaga_adapter.moments import ExchangeableMoments
from gaga_adapter.reference import make_reference

if TYPE_CHECKING:
    from gaga_adapter.moments import DenseKind, Moments

#: How the processes of a run share a stream: `processes` of `fit`.
Sharing = Literal["deal", "own", "alone"]
_NO_DATA = (
    "no data: the stream was empty. Pass at least one batch; a generator can be read only once."
)


@dataclass(frozen=True, eq=False)
class Collected:
    """Result of one pass."""

    layout: Layout
    moments: Moments  # moments of all items
    x: Tensor  # uniform sample of the items (n, ...)
    mask: Tensor | None  # real atoms of sampled molecules (n, N), bool; `None` for dense data


def sharing_processes(sharing: Sharing) -> Processes:
    """The processes that work on one data set together."""
    if sharing not in get_args(Sharing):
        raise DataError(f"processes={sharing!r} is unknown. Known: {', '.join(get_args(Sharing))}.")
    return Processes() if sharing == "alone" else Processes.of_the_run()


def collect(
    data: Iterable[Batch],
    layout: Layout | None,
    n_criterion: int,
    reference: str = "auto",
    covariance: DenseKind = "channel",
    generator: torch.Generator | None = None,
    progress: Progress | None = None,
    sharing: Sharing = "deal",
    channels: int | None = None,
) -> Collected | None:
    """Stream a data set once; the result on the first of the processes, `None` on the others.

    Arguments and errors are those of `fit`. `reference` is tried on the first batch, so that an
    impossible one is refused before the stream is read. One number is drawn from `generator`, for
    the sample. `progress` is called after each batch; with several processes once a second, on the
    first one.
    """
    if n_criterion < 1:
        raise DataError(f"n_criterion={n_criterion}: the criterion needs items to see. Pass more.")
    check_stream(data)
    check_layout(layout, channels)
    processes = sharing_processes(sharing)
    if layout is None:
        layout, data = _peek(data, channels, processes)
    moments: Moments
    if isinstance(layout, DenseLayout):
        from gaga_adapter.moments.dense import DenseMoments

        moments = DenseMoments(layout.shape, covariance, channels=layout.channels)
    else:
        table = {} if layout.n_positions else {"table_size": 0}  # tokens have no shapes to draw
        moments = ExchangeableMoments(layout.n_features, n_positions=layout.n_positions, **table)
    seed = int(torch.randint(2**62, (), generator=generator))
    sample = _UniformSample(n_criterion, processes.everyones(seed)[0])

    def total(done: int) -> None:
        if progress is not None:
            progress("moments", done, None)

    share = islice(data, processes.index, None, processes.count) if sharing == "deal" else data
    is_checked = False
    with processes.in_step(total) as tick:
        for place, batch in enumerate(share):
            number = processes.index + processes.count * place  # in the whole stream
            try:
                x, mask = read_batch(batch, layout)
                if isinstance(moments, ExchangeableMoments):
                    moments.update(x, mask)
                else:
                    moments.update(x)
                sample.update(x, mask, number)
            except DataError as error:
                if processes.count == 1:
                    raise
                raise DataError(f"batch {number} of the stream: {error}") from error
            if not is_checked and moments.count:
                make_reference(moments, reference)
                is_checked = True
            tick(moments.count)
    if sum(processes.everyones(moments.count)) == 0:
        raise DataError(_NO_DATA)
    sample.shrink()
    whole = processes.merged((moments, sample), _merge)
    return None if whole is None else Collected(layout, whole[0], *whole[1].tensors())


def _peek(
    data: Iterable[Batch], channels: int | None, processes: Processes
) -> tuple[Layout, Iterable[Batch]]:
    """The layout of the first batch, and the same stream from its beginning."""
    batches = iter(data)
    with processes.in_step():  # a failure of one process ends all
        first = list(islice(batches, 1))
        mine = layout_of(first[0], channels) if first else None
    layout = next((one for one in processes.everyones(mine) if one is not None), None)
    if layout is None:
        raise DataError(_NO_DATA)
    return layout, chain(first, batches)


class _UniformSample:
    """A uniform sample without replacement: every item has a key, and the least keys stay."""

    def __init__(self, size: int, seed: int) -> None:
        self.size, self.seed = size, seed
        self.keys = torch.empty(0, dtype=torch.int64)
        self.x: Tensor | None = None
        self.mask: Tensor | None = None

    def update(self, x: Tensor, mask: Tensor | None, number: int) -> None:
        """Offer one batch: its items (B, ...), their atoms, and its number in the stream."""
        places = torch.arange(len(x)) + (number << 32)
        keys = splitmix64(splitmix64(places) + self.seed)  # wraps
        self._add(keys, x.detach().cpu(), None if mask is None else mask.detach().cpu())

    def merge(self, other: _UniformSample) -> None:
        """Offer all items of another sample."""
        if other.x is not None:
            self._add(other.keys, other.x, other.mask)

    def _add(self, keys: Tensor, x: Tensor, mask: Tensor | None) -> None:
        self.x = _stack(self.x, x, is_dense=mask is None)
        self.mask = None if mask is None else _stack(self.mask, mask, is_dense=False)
        self.keys = torch.cat([self.keys, keys])
        if len(self.keys) > 2 * self.size:
            self.shrink()

    def shrink(self) -> None:
        """Drop the items beyond the size of the sample, and order the others by their keys."""
        keep = self.keys.argsort()[: self.size]
        self.keys = self.keys[keep]
        self.x = None if self.x is None else self.x[keep]
        self.mask = None if self.mask is None else self.mask[keep]

    def tensors(self) -> tuple[Tensor, Tensor | None]:
        """The sample: x (n, ...) and, for molecules, its mask."""
        self.shrink()
        assert self.x is not None
        return self.x, self.mask


_Share: TypeAlias = "tuple[Moments, _UniformSample]"


def _merge(one: _Share, other: _Share) -> _Share:
    """The results of two processes together; changes the first."""
    one[0].merge(other[0])  # type: ignore[arg-type]  # of one kind
    one[1].merge(other[1])
    return one


def _stack(old: Tensor | None, new: Tensor, is_dense: bool) -> Tensor:
    """Concatenate batches; molecules (B, N, ...) of different width are padded with zeros."""
    if old is None:
        return new
    if old.shape[2:] != new.shape[2:] or (is_dense and old.shape[1:] != new.shape[1:]):
        raise DataError(
            f"batches of shapes {tuple(old.shape[1:])} and {tuple(new.shape[1:])}: the criterion "
            "needs one. Fit one resolution at a time; a fit with covariance='channel' then serves "
            "the others."
        )
    if old.shape[1:] != new.shape[1:]:
        width = max(old.shape[1], new.shape[1])
        old, new = (
            torch.cat([t, t.new_zeros(len(t), width - t.shape[1], *t.shape[2:])], 1)
            for t in (old, new)
        )
    return torch.cat([old, new])
