r"""A bounded, mergeable, order-free sample of rows per group: those of the `k` lowest priorities.

Keeping the `k` smallest hashes is uniform sampling without replacement (Cohen & Kaplan 2007,
bottom-k sketches). Because the priority is a hash of the content, the sample of a data set does not
depend on how the data were split, ordered or batched: the union of two samples, cut to `k` again,
is the sample of the union.
"""

from __future__ import annotations

import torch
from torch import Tensor

_MAX = torch.iinfo(torch.int64).max


class BottomK:
    """The `k` rows of lowest priority in each group, of `width` numbers each."""

    def __init__(self, width: int, k: int) -> None:
        self.width = width
        self.k = k
        self._groups = torch.zeros(0, dtype=torch.int64)
        self._priorities = torch.zeros(0, dtype=torch.int64)
        self._rows = torch.zeros(0, width, dtype=torch.float32)
        self._limits = torch.zeros(0, dtype=torch.int64)
        self._pending: list[tuple[Tensor, Tensor, Tensor]] = []
        self._n_pending = 0

    def admits(self, groups: Tensor, priorities: Tensor) -> Tensor:
        """Whether each row may still enter, (n,) bool; a row that may not never will."""
        known = groups < len(self._limits)
        limits = torch.full_like(priorities, _MAX)
        limits[known] = self._limits[groups[known]]
        return (priorities < limits) & (self.k > 0)

    def add(self, groups: Tensor, priorities: Tensor, rows: Tensor) -> None:
        """Offer rows (n, width), stored as float32, with groups and priorities (n,), int64."""
        self._pending.append((groups, priorities, rows.to(torch.float32)))
        self._n_pending += len(groups)
        if self._n_pending > max(8192, len(self._rows)):
            self._compact()

    def arrays(self) -> tuple[Tensor, Tensor, Tensor]:
        """Groups (n,), priorities (n,) and rows (n, width), sorted by group, then priority."""
        self._compact()
        return self._groups, self._priorities, self._rows

    def group(self, group: int) -> Tensor:
        """Rows of one group (at most k, width), lowest priority first."""
        groups, _, rows = self.arrays()
        bounds = torch.searchsorted(groups, torch.tensor([group, group + 1]))
        return rows[int(bounds[0]) : int(bounds[1])]

    def _compact(self) -> None:
        if not self._pending:
            return
        parts = [(self._groups, self._priorities, self._rows), *self._pending]
        groups, priorities, rows = (torch.cat(column) for column in zip(*parts, strict=True))
        order = torch.argsort(priorities, stable=True)
        order = order[torch.argsort(groups[order], stable=True)]
        groups = groups[order]
        rank = torch.arange(len(groups)) - torch.searchsorted(groups, groups)
        low = rank < self.k
        last = rank == self.k - 1
        self._groups, order = groups[low], order[low]
        self._priorities, self._rows = priorities[order], rows[order]
        self._limits = torch.full((int(groups.max()) + 1 if len(groups) else 0,), _MAX)
        self._limits[groups[last]] = self._priorities[last[low]]
        self._pending, self._n_pending = [], 0
