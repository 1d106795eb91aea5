r"""Importance weights over noise levels, learned from the losses that training saw.

The gradient's variance is least where a level is drawn in proportion to the root of its mean
squared loss (Nichol & Dhariwal 2021, Eq. 18), here in bins of the law that is cut at t*:

    p_k ∝ w_k sqrt(E[L² | bin k]),     weight of a loss in bin k: w_k / p_k,

w_k the share of bin k in the law itself. A part `floor` of p is the law itself, so that no weight
exceeds `1 / floor` and every level goes on being seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gaga_adapter.errors import DataError

_LEAST = 10  # losses in every bin before any is preferred


class LossHistory:
    """Running mean squared loss of each bin of u in [0, 1].

    Args:
        n_bins: Number of bins.
        n_atoms: Number of entries of a table, which bins must not split, if the law is one.
        decay: Weight of the past in each bin, per loss.
        floor: Part of p that is the law itself, in (0, 1].
    """

    def __init__(
        self, n_bins: int = 32, n_atoms: int | None = None, decay: float = 0.99, floor: float = 0.1
    ) -> None:
        if not (0 < floor <= 1 and 0 <= decay < 1 and n_bins >= 1):
            raise DataError(
                f"n_bins={n_bins}, decay={decay}, floor={floor}: need at least one bin, a decay in "
                "[0, 1) and a floor in (0, 1]."
            )
        edges = torch.linspace(0, 1, n_bins + 1, dtype=torch.float64)
        if n_atoms is not None:
            edges = torch.unique(torch.round(edges * n_atoms)) / n_atoms
        self.edges = edges
        self.decay, self.floor = decay, floor
        self.square = torch.zeros(len(edges) - 1, dtype=torch.float64)
        self.count = torch.zeros(len(edges) - 1, dtype=torch.int64)

    @property
    def widths(self) -> Tensor:
        """Shares w_k (K,) of the bins in the law itself."""
        return self.edges.diff()

    @property
    def probabilities(self) -> Tensor:
        """Probabilities p_k (K,) of the bins; those of the law itself until every bin is known."""
        widths = self.widths
        if int(self.count.min()) < _LEAST or not float(self.square.sum()) > 0:
            return widths
        # sum to one over the corrected running means
        mean = self.square / (1 - self.decay ** self.count.double())
        learned = widths * mean.sqrt()
        return self.floor * widths + (1 - self.floor) * learned / learned.sum()

    def spread(self, u: Tensor) -> Tensor:
        """Uniform numbers (B,) to numbers in [0, 1] that fall into bin k with probability p_k."""
        ends = torch.cat([torch.zeros(1, dtype=torch.float64), self.probabilities.cumsum(0)])
        ends = (ends / ends[-1]).to(u.device)
        edges = self.edges.to(u.device)
        k = (torch.searchsorted(ends, u, right=True) - 1).clamp(0, len(edges) - 2)
        within = (u - ends[k]) / (ends[k + 1] - ends[k])
        return edges[k] + within.clamp(0, 1) * (edges[k + 1] - edges[k])

    def weights(self, u: Tensor) -> Tensor:
        """`w_k / p_k` (B,), float64, of the bins that u falls into."""
        ratio = self.widths / self.probabilities
        return ratio.to(u.device)[self._bins(u)]

    def update(self, u: Tensor, losses: Tensor) -> None:
        """Take in losses (B,) at u (B,), in this order."""
        if not bool(torch.isfinite(losses).all()):
            raise DataError("a loss is not finite; nothing was recorded. Leave that step out.")
        squares = losses.detach().to("cpu", torch.float64).square()
        bins = self._bins(u).cpu()
        for k in torch.unique(bins).tolist():
            in_bin = squares[bins == k]
            n = len(in_bin)
            past = self.decay ** torch.arange(n - 1, -1, -1, dtype=torch.float64)
            new = (1 - self.decay) * (past * in_bin).sum()
            self.square[k] = self.decay**n * self.square[k] + new
            self.count[k] += n

    def state_dict(self) -> dict[str, Any]:
        """State for a checkpoint."""
        return {"edges": self.edges, "square": self.square, "count": self.count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint."""
        edges = torch.as_tensor(state["edges"])
        if edges.shape != self.edges.shape or not torch.allclose(edges.double(), self.edges):
            raise DataError(
                f"the checkpoint has {len(edges) - 1} bins of losses, this run has "
                f"{len(self.edges) - 1}: it was trained with another t*. Use the same one."
            )
        self.square = torch.as_tensor(state["square"]).double().clone()
        self.count = torch.as_tensor(state["count"]).long().clone()

    def _bins(self, u: Tensor) -> Tensor:
        inner = self.edges[1:-1].to(u.device)
        return torch.searchsorted(inner, u.double().contiguous(), right=True)
