r"""One pass over a data set: its moments, and a uniform sample of bounded size.

Several processes share the pass: process r of W takes batches r, r + W, ... and what they found is
merged in the order of the ranks. Moments merge by Chan's formula, so they are those of one process
to float64 rounding (of the kind `low_rank`: to what its sketch cuts off). The sample is the same to
the last bit: item i of batch k keeps its place by the hash of the run's seed and of (k, i), not by
who read it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import torch
from torch import Tensor

from gaga_adapter.distributed import Processes, Progress
from gaga_adapter.errors import DataError
from gaga_adapter.hashing import splitmix64
from gaga_adapter.layout import DenseLayout, Layout
from gaga_adapter.moments import ExchangeableMoments
from gaga_adapter.reference import make_reference

if TYPE_CHECKING:
    from gaga_adapter.moments import DenseKind, Moments

Batch = Tensor | Sequence[Tensor]
#: How the processes of a run stand to a stream. `deal`: all pass the same one, and each takes its
#: share of the batches. `own`: each passes its own share. `alone`: this process has nothing to do
#: with the others.
Sharing = Literal["deal", "own", "alone"]


@dataclass(frozen=True, eq=False)
class Collected:
    """What one pass leaves.

    Attributes:
        moments: of all items.
        x: a uniform sample of them (n, ...).
        mask: molecules: its real atoms (n, N), bool; `None` for dense data.
    """

    moments: Moments
    x: Tensor
    mask: Tensor | None


def sharing_processes(sharing: Sharing) -> Processes:
    """Who works on one data set together.

    Raises:
        DataError: there is no such way of sharing.
    """
    if sharing not in get_args(Sharing):
        raise DataError(f"processes={sharing!r} is unknown. Known: {', '.join(get_args(Sharing))}.")
    return Processes() if sharing == "alone" else Processes.of_the_run()


def collect(
    data: Iterable[Batch],
    layout: Layout,
    n_criterion: int,
    reference: str = "auto",
    covariance: DenseKind = "channel",
    max_order: int = 2,
    generator: torch.Generator | None = None,
    progress: Progress | None = None,
    sharing: Sharing = "deal",
) -> Collected | None:
    """Stream a data set once.

    Args:
        data: batches. Molecules: pairs of x (B, N, 3+F) and mask (B, N) bool; dense data: x (B, C,
            ...), alone or as the only entry of a tuple or list.
        layout: what the channels are.
        n_criterion: most items of the sample, which a criterion will see; at least 1.
        reference: kind that will be wanted of these moments; refused on the first batch if it
            cannot be had.
        covariance: for dense data `channel`, `element`, `low_rank` or `full`.
        max_order: order of the cumulants that are streamed, 2 to 4.
        generator: of the sample; one number is drawn from it.
        progress: Called after each batch; with several processes once a second, on the first one.
        sharing: how the processes of a run stand to `data`.

    Returns:
        what was found on all data, on the first of the processes; `None` on the others.

    Raises:
        DataError: no data, batches of another form, or values that are not finite.
        StatsMismatchError: batches with other channels than the layout, or no such reference.
        ProcessError: another process failed or is gone.
    """
    if n_criterion < 1:
        raise DataError(f"n_criterion={n_criterion}: the criterion needs items to see. Pass more.")
    if isinstance(data, Tensor):
        raise DataError(
            f"data is one tensor {tuple(data.shape)}, and an iterable of batches is needed. "
            "Pass [x], or x.split(512)."
        )
    processes = sharing_processes(sharing)
    moments: Moments
    if isinstance(layout, DenseLayout):
        from gaga_adapter.moments.dense import DenseMoments

        moments = DenseMoments(layout.shape, kind=covariance, max_order=max_order)
    else:
        moments = ExchangeableMoments(layout.n_features, max_order=max_order)
    seed = int(torch.randint(2**62, (), generator=generator))
    sample = _UniformSample(n_criterion, processes.everyones(seed)[0])

    def total(done: int) -> None:
        if progress is not None:
            progress("moments", done, None)

    checked = False
    with processes.in_step(total) as tick:
        for number, batch in _numbered(data, processes, sharing):
            try:
                x, mask = _update(moments, batch)
                sample.update(x, mask, number)
            except DataError as error:
                if processes.count == 1:
                    raise
                raise DataError(f"batch {number} of the stream: {error}") from error
            if not checked and moments.count:
                make_reference(moments, reference)
                checked = True
            tick(moments.count)
    if sum(processes.everyones(moments.count)) == 0:
        raise DataError("no data: the stream was empty. Pass at least one batch.")
    sample.shrink()
    whole = processes.merged((moments, sample), _merge)
    return None if whole is None else Collected(whole[0], *whole[1].tensors())


def _numbered(
    data: Iterable[Batch], processes: Processes, sharing: Sharing
) -> Iterator[tuple[int, Batch]]:
    """The batches of this process, with their numbers in the whole stream."""
    share = islice(data, processes.index, None, processes.count) if sharing == "deal" else data
    return ((processes.index + processes.count * place, batch) for place, batch in enumerate(share))


def _update(moments: Moments, batch: Batch) -> tuple[Tensor, Tensor | None]:
    """Take in one batch; its x and, for molecules, its mask."""
    if not isinstance(batch, Tensor | tuple | list):
        raise DataError(
            f"a batch is a {type(batch).__name__}, not a tensor. Pass torch.from_numpy(batch)."
        )
    x, *rest = (batch,) if isinstance(batch, Tensor) else batch
    if isinstance(moments, ExchangeableMoments):
        if len(rest) != 1:
            raise DataError(f"molecules need pairs (x, mask); got {1 + len(rest)} tensors.")
        moments.update(x, rest[0])
        return x, rest[0]
    if rest:
        raise DataError(f"dense data are x alone; got batches of {1 + len(rest)} entries.")
    moments.update(x)
    return x, None


class _UniformSample:
    """A uniform sample without replacement: every item has a key, the least keys are kept.

    Args:
        size: most items.
        seed: of the keys.
    """

    def __init__(self, size: int, seed: int) -> None:
        self.size, self.seed = size, seed
        self.keys = torch.empty(0, dtype=torch.int64)
        self.x: Tensor | None = None
        self.mask: Tensor | None = None

    def update(self, x: Tensor, mask: Tensor | None, number: int) -> None:
        """Offer one batch (B, ...).

        Args:
            x: its items.
            mask: molecules: their real atoms.
            number: of the batch in the stream.
        """
        places = torch.arange(len(x)) + (number << 32)
        keys = splitmix64(splitmix64(places) + self.seed)  # wraps
        self._add(keys, x.detach().cpu(), None if mask is None else mask.detach().cpu())

    def merge(self, other: _UniformSample) -> None:
        """Offer all that another sample kept."""
        if other.x is not None:
            self._add(other.keys, other.x, other.mask)

    def _add(self, keys: Tensor, x: Tensor, mask: Tensor | None) -> None:
        self.x = _stack(self.x, x)
        self.mask = None if mask is None else _stack(self.mask, mask)
        self.keys = torch.cat([self.keys, keys])
        if len(self.keys) > 2 * self.size:
            self.shrink()

    def shrink(self) -> None:
        """Keep no more than what the sample may have, in the order of the keys."""
        keep = self.keys.argsort()[: self.size]
        self.keys = self.keys[keep]
        self.x = None if self.x is None else self.x[keep]
        self.mask = None if self.mask is None else self.mask[keep]

    def tensors(self) -> tuple[Tensor, Tensor | None]:
        """The sample: x (n, ...) and, for molecules, its mask."""
        self.shrink()
        assert self.x is not None
        return self.x, self.mask


_Found: TypeAlias = "tuple[Moments, _UniformSample]"


def _merge(one: _Found, other: _Found) -> _Found:
    """What two processes found, together; changes the first."""
    one[0].merge(other[0])  # type: ignore[arg-type]  # of one kind
    one[1].merge(other[1])
    return one


def _stack(old: Tensor | None, new: Tensor) -> Tensor:
    """Both along the batch; molecules (B, N, ...) of different width are padded with zeros."""
    if old is None:
        return new
    if old.shape[2:] != new.shape[2:]:
        raise DataError(
            f"batches of shapes {tuple(old.shape[1:])} and {tuple(new.shape[1:])}: the criterion "
            "needs one. Fit one resolution at a time."
        )
    if old.shape[1:] != new.shape[1:]:
        width = max(old.shape[1], new.shape[1])
        old, new = (
            torch.cat([t, t.new_zeros(len(t), width - t.shape[1], *t.shape[2:])], 1)
            for t in (old, new)
        )
    return torch.cat([old, new])
