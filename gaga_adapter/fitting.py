"""Fit: stream a data set once, get the artefact.

One pass updates the moments and keeps a uniform sample of bounded size; the criterion then draws
its curve on that sample, and the selection reads the characteristic log-SNR off the curve.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from gaga_adapter.criteria import criterion as criterion_named
from gaga_adapter.errors import DataError
from gaga_adapter.layout import DenseLayout, Layout
from gaga_adapter.moments import DenseKind, DenseMoments, ExchangeableMoments
from gaga_adapter.reference import make_reference
from gaga_adapter.selection import DEFAULT_TOLERANCE, select
from gaga_adapter.stats import GAGAStats, library_versions

Batch = Tensor | Sequence[Tensor]
#: Where the curve is drawn by default: from far above any useful t* down to nearly pure noise, and
#: densest where t* usually lies.
DEFAULT_LOG_SNR = (
    *(2.5, 2.0, 1.5, 1.25, 1.0, 0.75, 0.5, 0.25, 0.0, -0.25),
    *(-0.5, -1.0, -1.5, -2.0, -3.0),
)


def fit(
    data: Iterable[Batch],
    layout: Layout,
    criterion: str = "two_sample",
    reference: str = "auto",
    covariance: DenseKind = "channel",
    tolerance: float = DEFAULT_TOLERANCE,
    log_snr: Iterable[float] = DEFAULT_LOG_SNR,
    n_criterion: int = 4000,
    max_order: int = 2,
    seed: int = 0,
    provenance: dict[str, Any] | None = None,
    progress: Callable[[str, int, int | None], None] | None = None,
) -> GAGAStats:
    """Fit the statistics of a data set and choose its characteristic log-SNR.

    Args:
        data: batches. Molecules: pairs of x (B, N, 3+F) and mask (B, N) bool; dense data: x (B, C,
            ...), alone or as the only entry of a tuple or list.
        layout: what the channels are.
        criterion: name of a criterion of Gaussianity.
        reference: which closed-form start is judged; `auto` is `shape` for molecules.
        covariance: for dense data `channel`, `element`, `low_rank` or `full`.
        tolerance: nats that may remain at t*, see `selection`.
        log_snr: levels at which the curve is drawn.
        n_criterion: size of the sample that the criterion sees.
        max_order: order of the cumulants that are streamed, 2 to 4.
        seed: of the sample and the criterion.
        provenance: what to record about the data.
        progress: called with (what, done, total).

    Returns:
        the artefact; `save_pretrained` writes it.

    Raises:
        DataError: no data, batches of another form, values that are not finite, or too few for the
            criterion.
        StatsMismatchError: batches with other channels than the layout.
        TruncationError: the criterion never comes within the tolerance.
    """
    judge = criterion_named(criterion)
    if n_criterion < 1:
        raise DataError(f"n_criterion={n_criterion}: the criterion needs items to see. Pass more.")
    report = progress or (lambda what, done, total: None)
    generator = torch.Generator().manual_seed(seed)
    moments: DenseMoments | ExchangeableMoments
    if isinstance(layout, DenseLayout):
        moments = DenseMoments(layout.shape, kind=covariance, max_order=max_order)
    else:
        moments = ExchangeableMoments(layout.n_features, max_order=max_order)
    sample = _UniformSample(n_criterion, generator)
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
        report("moments", moments.count, None)
    if moments.count == 0:
        raise DataError("no data: the stream was empty. Pass at least one batch.")
    x, mask = sample.tensors()
    curve = judge.curve(
        x,
        mask,
        make_reference(moments, reference),
        torch.tensor(sorted(log_snr, reverse=True), dtype=torch.float64),
        generator=generator,
        progress=lambda done, total: report(criterion, done, total),
    )
    selection = select(curve, tolerance)
    return GAGAStats(
        layout=layout,
        moments=moments,
        log_snr_star=selection.log_snr_star,
        selection=selection,
        provenance={
            **(provenance or {}),
            "count": moments.count,
            "seed": seed,
            "versions": library_versions(),
        },
    )


class _UniformSample:
    """A uniform sample without replacement: every item draws a key, the least keys are kept."""

    def __init__(self, size: int, generator: torch.Generator) -> None:
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
