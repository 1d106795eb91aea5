"""One pass over a data set: its moments, and a uniform sample of bounded size."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gaga_adapter.errors import DataError
from gaga_adapter.layout import DenseLayout, Layout
from gaga_adapter.moments import DenseKind, DenseMoments, ExchangeableMoments, Moments
from gaga_adapter.reference import make_reference

Batch = Tensor | Sequence[Tensor]
#: Called with (what, done, total); total is `None` where nobody knows it.
Report = Callable[[str, int, int | None], None]


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


def collect(
    data: Iterable[Batch],
    layout: Layout,
    n_criterion: int,
    reference: str = "auto",
    covariance: DenseKind = "channel",
    max_order: int = 2,
    generator: torch.Generator | None = None,
    report: Report | None = None,
) -> Collected:
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
        generator: of the sample.
        report: called after each batch.

    Raises:
        DataError: no data, batches of another form, or values that are not finite.
        StatsMismatchError: batches with other channels than the layout, or no such reference.
    """
    if n_criterion < 1:
        raise DataError(f"n_criterion={n_criterion}: the criterion needs items to see. Pass more.")
    moments: Moments
    if isinstance(layout, DenseLayout):
        moments = DenseMoments(layout.shape, kind=covariance, max_order=max_order)
    else:
        moments = ExchangeableMoments(layout.n_features, max_order=max_order)
    sample = _UniformSample(n_criterion, generator)
    checked = False
    for batch in data:
        x, *rest = (batch,) if isinstance(batch, Tensor) else batch
        mask = rest[0] if rest else None
        if isinstance(moments, ExchangeableMoments):
            if mask is None or len(rest) > 1:
                raise DataError(f"molecules need pairs (x, mask); got {1 + len(rest)} tensors.")
            moments.update(x, mask)
        elif rest:
            raise DataError(f"dense data are x alone; got batches of {1 + len(rest)} entries.")
        else:
            moments.update(x)
        sample.update(x, mask)
        if not checked and moments.count:
            make_reference(moments, reference)
            checked = True
        if report is not None:
            report("moments", moments.count, None)
    if moments.count == 0:
        raise DataError("no data: the stream was empty. Pass at least one batch.")
    return Collected(moments, *sample.tensors())


class _UniformSample:
    """A uniform sample without replacement: every item draws a key, the least keys are kept."""

    def __init__(self, size: int, generator: torch.Generator | None) -> None:
        self.size, self.generator = size, generator
        self.keys = torch.empty(0, dtype=torch.float64)
        self.x: Tensor | None = None
        self.mask: Tensor | None = None

    def update(self, x: Tensor, mask: Tensor | None) -> None:
        """Offer one batch (B, ...)."""
        keys = torch.rand(len(x), generator=self.generator, dtype=torch.float64)
        self.x = _stack(self.x, x.detach().cpu())
        self.mask = None if mask is None else _stack(self.mask, mask.detach().cpu())
        self.keys = torch.cat([self.keys, keys])
        if len(self.keys) > 2 * self.size:
            self._shrink()

    def _shrink(self) -> None:
        keep = self.keys.argsort(stable=True)[: self.size]
        self.keys = self.keys[keep]
        self.x = None if self.x is None else self.x[keep]
        self.mask = None if self.mask is None else self.mask[keep]

    def tensors(self) -> tuple[Tensor, Tensor | None]:
        """The sample: x (n, ...) and, for molecules, its mask."""
        self._shrink()
        assert self.x is not None
        return self.x, self.mask


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
