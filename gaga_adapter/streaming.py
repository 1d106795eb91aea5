r"""One pass over a data set: its moments, and a uniform sample of bounded size.

Several processes share the pass: process r of W takes batches r, r + W, ... and their results are
merged in the order of the ranks. Moments merge by Chan's formula, so they are those of one process
to float64 rounding (of the kind `low_rank`: to what its sketch cuts off). The sample is the same to
the last bit: item i of batch k keeps its place by the hash of the run's seed and of (k, i), not by
the process that read it.

A batch is dense data x (B, *event), alone or as the only entry of a tuple or list, or a pair of
molecules or tokens x (B, N, C) and their mask (B, N). What can only mean one of these is read as
it: a mask of floats or with an axis more, half precision. Everything else is refused by name, with
what to pass instead.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor

from gaga_adapter.distributed import Processes, Progress
from gaga_adapter.errors import DataError, warn
from gaga_adapter.hashing import splitmix64
from gaga_adapter.layout import AtomLayout, DenseLayout, Layout, MoleculeLayout, TokenLayout
from gaga_adapter.moments import ExchangeableMoments
from gaga_adapter.reference import make_reference
from gaga_adapter.subspace import as_mask

if TYPE_CHECKING:
    from gaga_adapter.moments import DenseKind, Moments

Batch = Tensor | Sequence[Tensor]
_PAIRS = "pairs of x (B, N, 3+F) and mask (B, N)"
_LESS_CLEAR = 0.02  # nats per number by which another axis must look more like one of channels
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
    check: Callable[[Layout], None] | None = None,
    hold_out: bool = False,
) -> Collected | None:
    """Stream a data set once; the result on the first of the processes, `None` on the others.

    Arguments and errors are those of `fit`. `reference` is tried on the first batch, so that an
    impossible one is refused before the stream is read. `check` is called with the layout as soon
    as it is known, and may refuse it. One number is drawn from `generator`, for the sample.
    `progress` is called after each batch; with several processes once a second, on the first one.
    With `hold_out` the sample is kept out of the moments, and is half of the items at most.
    """
    if n_criterion < 1:
        raise DataError(f"n_criterion={n_criterion}: the criterion needs items to see. Pass more.")
    check_stream(data)
    check_layout(layout, channels)
    processes = sharing_processes(sharing)
    if layout is None:
        layout, data = _peek(data, channels, processes)
    if check is not None:
        check(layout)
    moments: Moments
    if isinstance(layout, DenseLayout):
        from gaga_adapter.moments.dense import DenseMoments

        moments = DenseMoments(layout.shape, covariance, channels=layout.channels)
    elif reference.startswith("mixed"):
        from gaga_adapter.moments.mixed import MixedMoments

        moments = MixedMoments(layout.n_features, n_positions=layout.n_positions)
    else:
        table = {} if layout.n_positions else {"table_size": 0}  # tokens have no shapes to draw
        moments = ExchangeableMoments(layout.n_features, n_positions=layout.n_positions, **table)
    seed = int(torch.randint(2**62, (), generator=generator))
    seed = processes.everyones(seed)[0]
    sample = _UniformSample(n_criterion, seed)
    if hold_out:
        sample = _HeldOut(n_criterion, seed, moments)

    def total(done: int) -> None:
        if progress is not None:
            progress("moments", done, None)

    share = islice(data, processes.index, None, processes.count) if sharing == "deal" else data
    is_checked, seen, tried = False, 0, moments
    with processes.in_step(total) as tick:
        for place, batch in enumerate(share):
            number = processes.index + processes.count * place  # in the whole stream
            try:
                x, mask = read_batch(batch, layout)
                if not hold_out:
                    _take_in(moments, x, mask)
                elif not is_checked:  # the moments see nothing until the sample is full
                    tried = copy.deepcopy(moments)
                    _take_in(tried, x, mask)
                sample.update(x, mask, number)
            except DataError as error:
                if processes.count == 1:
                    raise
                raise DataError(f"batch {number} of the stream: {error}") from error
            if not is_checked and tried.count:
                make_reference(tried, reference)
                is_checked = True
            seen += len(x)
            tick(seen)
    if sum(processes.everyones(seen)) == 0:
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


class _HeldOut(_UniformSample):
    """A uniform sample of at most half of the items, and moments of all the others."""

    def __init__(self, size: int, seed: int, moments: Moments) -> None:
        super().__init__(size, seed)
        self.moments = moments

    def shrink(self) -> None:
        """Hand the items beyond the size of the sample over to the moments."""
        others = self.keys.argsort()[self.size :]
        if self.x is not None and len(others):
            mask = None if self.mask is None else self.mask[others]
            _take_in(self.moments, self.x[others], mask)
        super().shrink()

    def tensors(self) -> tuple[Tensor, Tensor | None]:
        """The sample, at its final size."""
        self.shrink()
        self.size = min(self.size, (self.moments.count + len(self.keys)) // 2)
        return super().tensors()


def _take_in(moments: Moments, x: Tensor, mask: Tensor | None) -> None:
    if isinstance(moments, ExchangeableMoments):
        moments.update(x, mask)
    else:
        moments.update(x)


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


# -- what a batch is ------------------------------------------------------------------------------


def check_stream(data: Any) -> None:  # noqa: ANN401 - whatever a user passed
    """Refuse what is no iterable of batches, before anything is read.

    Raises:
        DataError: If `data` is one tensor, one pair, a file, a data set of single items, or nothing
            that can be iterated.
    """
    if isinstance(data, Tensor):
        fault = f"one tensor {tuple(data.shape)}", "Pass [x], or x.split(512)."
    elif data is None:
        fault = "None", "Pass a list, a DataLoader or a generator of batches."
    elif isinstance(data, str | bytes | Path):
        fault = (
            f"the path {str(data)!r}",
            "`gaga fit` reads files of molecules and .npy. In Python, pass encoded molecules "
            "(`stream_molecules`, `encode`), or [torch.from_numpy(numpy.load(path))].",
        )
    elif isinstance(data, Mapping):
        fault = (
            f"one {type(data).__name__} with the keys {_keys(data)}",
            "Pass [data[key]], or [(data[key], mask)] for molecules.",
        )
    elif type(data).__module__.startswith("numpy"):
        fault = f"a numpy {type(data).__name__}", "Pass torch.from_numpy(data).split(512)."
    elif is_pair(data):
        fault = "one pair of tensors", "Pass [(x, mask)], a list of one batch."
    elif isinstance(data, torch.utils.data.Dataset) and not isinstance(
        data, torch.utils.data.IterableDataset
    ):
        fault = (
            f"a {type(data).__name__} of single items",
            "Pass torch.utils.data.DataLoader(data, batch_size=512).",
        )
    elif callable(data) and not hasattr(data, "__iter__"):
        fault = f"the function {getattr(data, '__name__', '')!r}", "Pass what it returns: call it."
    elif not isinstance(data, Iterable) and not hasattr(data, "__getitem__"):
        fault = f"a {type(data).__name__}", "Pass a list, a DataLoader or a generator of batches."
    else:
        return
    raise DataError(f"data is {fault[0]}, and an iterable of batches is needed. {fault[1]}")


def is_pair(data: Any) -> bool:  # noqa: ANN401
    """Whether this is one batch (x, mask) instead of an iterable of batches."""
    if not isinstance(data, tuple) or len(data) != 2:
        return False
    x, mask = data
    return (
        isinstance(x, Tensor)
        and isinstance(mask, Tensor)
        and x.ndim == 3
        and mask.shape[:2] == x.shape[:2]
        and mask.shape != x.shape
    )


def layout_of(batch: Batch, channels: int | None = None) -> Layout:
    """The layout that a batch shows by itself: its event shape, or unnamed features per atom.

    Of dense data the first axis of the event is taken for the channels, unless `channels` names
    another one; a `GAGAWarning` says so if the numbers point to another. One-hot features are
    refused: which elements they stand for is not in the data. Pairs are taken for atoms with
    positions; tokens without need `TokenLayout`.
    """
    x, rest = _parts(batch)
    if not rest:
        if x.ndim < 2:
            raise DataError(
                f"a batch of shape {tuple(x.shape)} has no channels. Pass batches (B, C, ...)."
            )
        layout = DenseLayout(tuple(x.shape[1:]), 0 if channels is None else channels)
        if channels is None:
            _doubt_first_axis(x, layout)
        return layout
    if channels is not None:
        raise DataError(
            f"channels={channels} names an axis of dense data, and these batches are pairs. "
            "Leave it out: channels of atoms and tokens come last."
        )
    mask = as_mask(rest[0], x) if len(rest) == 1 and x.ndim == 3 else None
    if mask is None:
        raise DataError(
            f"batches of shapes {[tuple(part.shape) for part in (x, *rest)]} are neither dense "
            f"data nor {_PAIRS}. Pass one of these."
        )
    if x.shape[-1] < 3:
        raise DataError(
            f"batches of shape {tuple(x.shape)} with a mask have too few channels for positions. "
            f"Pass layout=TokenLayout({x.shape[-1]}) if they are tokens without positions."
        )
    features = x[..., 3:][mask]
    n_features = features.shape[-1]
    for n, charges in ((n_features, "None"), (n_features - 1, "...")):
        onehot = features[:, : max(n, 0)]
        height = float(onehot.max()) if onehot.numel() else 0.0
        is_high = onehot == height
        if height > 0 and bool((is_high.sum(1) == 1).all() and (is_high | (onehot == 0)).all()):
            raise DataError(
                f"the features look like a one-hot element of height {height:g}, and nothing says "
                f"which {n} elements these are. Pass layout=MoleculeLayout(elements=(...), "
                f"onehot_scale={1 / height:g}, charge_scale={charges}), or "
                f"layout=AtomLayout({n_features}) if they are no elements."
            )
    return AtomLayout(n_features)


def _doubt_first_axis(x: Tensor, layout: DenseLayout) -> None:
    """Warn if another axis than the first looks like that of the channels.

    What a mean and a variance per index of an axis know more than one for all is, for Gaussian
    numbers, half of `log(var) - mean of log(var of the index)` nats per number. Only an axis that
    is shorter than the first is in doubt, or any of four: images and signals have few channels and
    many places, and the rows of an image may well differ more than its colours.
    """
    shape = layout.shape
    if len(shape) == 2 and shape[0] == shape[1] > 1:
        warn(
            f"the first axis of events {shape} is taken for the channels ({shape[0]}), and the "
            "events are square: if they are images of one channel, add its axis, x[:, None] of "
            f"shape (M, 1, {shape[0]}, {shape[1]}). Pass channels=0 (`gaga fit --channels 0`) if "
            "the first axis holds the channels."
        )
        return
    if len(shape) == 3 and shape[0] == shape[1] > shape[2] and shape[2] in (1, 3, 4):
        warn(
            f"the first axis of events {shape} is taken for the channels ({shape[0]}), and these "
            f"look like images whose last axis ({shape[2]}) holds the colours. Pass channels=-1 "
            "(`gaga fit --channels -1`) if the last axis holds the channels, or channels=0 if the "
            "first one does."
        )
        return
    others = [k for k in range(1, len(shape)) if len(shape) >= 4 or shape[k] < shape[0]]
    if shape[0] == 1 or not others or not bool(torch.isfinite(x).all()) or not len(x):
        return
    gain = {}
    for axis in (0, *others):
        rows = x.detach().double().movedim(1 + axis, 0).flatten(1)
        whole, own = rows.var(correction=0), rows.var(1, correction=0)
        floor = 1e-6 * whole
        gain[axis] = 0.5 * float(whole.log() - own.clamp(min=floor).log().mean())
    best = max(gain, key=lambda axis: gain[axis])
    if best and gain[best] > gain[0] + _LESS_CLEAR:
        warn(
            f"the first axis of events {shape} is taken for the channels ({shape[0]}), but means "
            f"and variances differ more along axis {best} ({shape[best]}). Pass channels={best} "
            "if that one holds the channels, or channels=0 if the first one does."
        )


def check_layout(layout: Any, channels: int | None) -> None:  # noqa: ANN401 - whatever was passed
    """Refuse what is no layout, and an axis of channels beside a layout that says another.

    Raises:
        DataError: If it is not one of the layouts, or the axis is not that of the layout.
    """
    if layout is None:
        return
    if not isinstance(layout, AtomLayout | DenseLayout | MoleculeLayout | TokenLayout):
        named = layout.__name__ + "(...)" if isinstance(layout, type) else None
        raise DataError(
            f"layout={layout!r} is no layout. Pass {named or 'DenseLayout(shape)'} or "
            "MoleculeLayout(elements), or none; what comes behind it is named, such as "
            "criterion='cumulant'."
        )
    if channels is not None:
        said = isinstance(layout, DenseLayout) and DenseLayout(layout.shape, channels) == layout
        if not said:
            raise DataError(
                f"channels={channels} beside layout={layout!r}, which says where the channels are. "
                "Pass one of the two."
            )


def read_batch(batch: Batch, layout: Layout) -> tuple[Tensor, Tensor | None]:
    """The x of a batch and, of molecules and tokens, their mask (B, N), bool.

    Raises:
        DataError: If the batch has another form than this layout.
    """
    x, rest = _parts(batch)
    if isinstance(layout, DenseLayout):
        if rest:
            raise DataError(
                f"dense data are x alone; got batches of {1 + len(rest)} entries. Pass "
                "(x for x, *_ in loader) if x comes first, or torch.stack(batch) if a batch is a "
                "list of events."
            )
        return x, None
    if len(rest) != 1:
        raise DataError(
            f"{layout.describe()} need pairs (x, mask); got {1 + len(rest)} tensors. Pass {_PAIRS}."
            if isinstance(layout, TokenLayout)
            else f"molecules need pairs (x, mask); got {1 + len(rest)} tensors. Pass {_PAIRS}."
        )
    mask = as_mask(rest[0], x) if x.ndim == 3 else None
    if mask is None:
        values = ""
        if x.ndim == 3 and rest[0].shape[:2] == x.shape[:2]:
            values = ", with other values than 0 and 1"
        raise DataError(
            f"the mask is {rest[0].dtype} {tuple(rest[0].shape)}{values}, and x is "
            f"{tuple(x.shape)}. A mask is bool (B, N), true on real atoms; 0 and 1 in (B, N) or "
            "(B, N, 1) are read as such."
        )
    is_zero = (x == 0).all(-1)
    if bool(mask.any()) and bool((is_zero | ~mask).all()) and not bool(is_zero.all()):
        raise DataError(
            "the mask is true where x is zero, and false elsewhere: it marks the padding. Pass "
            "~mask, which is true on what is real."
        )
    return x, mask


def _parts(batch: Batch) -> tuple[Tensor, list[Tensor]]:
    """The x of a batch, in single or double precision, and the other tensors in it."""
    if isinstance(batch, Mapping):
        raise DataError(
            f"a batch is a {type(batch).__name__} with the keys {_keys(batch)}, not a tensor. Pass "
            "(b[key] for b in data), or (b[key], mask) for molecules."
        )
    if isinstance(batch, str | bytes | Path):
        raise DataError(f"a batch is the text {str(batch)!r}, not a tensor. Read it first.")
    if not isinstance(batch, Tensor | tuple | list):
        is_array = type(batch).__module__.startswith("numpy")
        advice = "Pass torch.from_numpy(batch)." if is_array else "Pass batches of tensors."
        if hasattr(batch, "edge_index") or hasattr(batch, "pos"):  # of torch_geometric
            advice = (
                "For graphs pass padded_batches(data, ('pos', 'x')) of "
                "gaga_adapter.integrations.flat, with the names of what the model diffuses."
            )
        raise DataError(f"a batch is a {type(batch).__name__}, not a tensor. {advice}")
    x, *rest = (batch,) if isinstance(batch, Tensor) else (tuple(batch) or (None,))
    for place, part in enumerate((x, *rest)):
        if not isinstance(part, Tensor):
            kind = "nothing" if part is None else f"a {type(part).__name__}"
            raise DataError(
                f"entry {place} of a batch is {kind}, not a tensor. Pass x of dense data, or "
                f"{_PAIRS}."
            )
    if not x.is_floating_point():
        raise DataError(
            f"a batch is {x.dtype} {tuple(x.shape)}, and the model sees floats. Pass them scaled "
            "as the model sees them, such as x.float() / 127.5 - 1 for pixels of 0 to 255."
        )
    return x if x.dtype in (torch.float32, torch.float64) else x.float(), rest


def _keys(mapping: Mapping[Any, Any]) -> str:
    return ", ".join(map(str, list(mapping)[:8]))
