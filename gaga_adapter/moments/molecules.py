r"""Moments of molecules: sets of exchangeable atoms with rotation-invariant positions.

For `N` atoms with positions `x` (zero centre of mass) and features `h` (F channels), Schur's lemma
leaves of the covariance only a few numbers per size. With `m = mean_i h_i` they are averages over
molecules of

    q = |x|² / (3 (N - 1))                           E q = v_x(N), variance per degree of freedom
    m,  and B(N) = N Cov(m)                          mean, and covariance of sqrt(N) m
    W = sum_i (h_i - m)(h_i - m)' / (N - 1)          covariance of the atoms around their molecule

Averages and co-moments of these are kept per size in float64 and merged by Chan's formula, so one
pass over the data, in any batches, order or shards, gives the same moments. Covariances divide by
the count: they are those of the Gaussian closest in KL to the data given. The centre of mass is
removed inside.

Beside them, per size, a bounded sample of single molecules (`table.py`): the eigenvalues of the
gyration matrix `x'x / (N - 1)`, `m` and `W`. Its priority hashes the atoms as given, in any order.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gaga_adapter.errors import ArtefactError, DataError, StatsMismatchError
from gaga_adapter.hashing import atom_hashes, splitmix64
from gaga_adapter.moments.central import merge_central, merge_scatter
from gaga_adapter.moments.sizes import SizeMoments, moments_at_size
from gaga_adapter.moments.table import BottomK
from gaga_adapter.subspace import mask_from_padding

_CHUNK = 1024  # molecules per pass: their atoms stay in the cache


class ExchangeableMoments:
    """Streaming, mergeable moments of molecules (B, N, 3 + F), per size.

    Args:
        n_features: feature channels F.
        max_order: 2, or 3 or 4 to keep the cumulants of that order too.
        table_size: molecules sampled per size; 0 for none.
    """

    def __init__(self, n_features: int, max_order: int = 2, table_size: int = 1024) -> None:
        if max_order not in (2, 3, 4):
            raise StatsMismatchError(f"max_order={max_order} is not one of 2, 3, 4.")
        self.n_features = n_features
        self.max_order = max_order
        self.table_size = table_size
        f = n_features
        self._upper = torch.triu_indices(f, f)
        # Per size (row = number of atoms): means of [q, m, pooled std, E|x_i|^4, W], scatter of
        # [q, m], and the central sums of single atoms' features when cumulants are asked for.
        self._count = torch.zeros(0, dtype=torch.float64)
        self._mean = torch.zeros(0, 3 + f + f * f, dtype=torch.float64)
        self._scatter = torch.zeros(0, 1 + f, 1 + f, dtype=torch.float64)
        self._atoms = torch.zeros(max_order if max_order > 2 else 0, 0, f, dtype=torch.float64)
        self._table = BottomK(3 + f + self._upper.shape[1], table_size)

    # ---------------------------------------------------------------- streaming

    def update(self, x: Tensor, mask: Tensor | None = None) -> None:
        """Take in a batch; nothing changes if it is refused.

        Args:
            x: molecules (B, N, 3 + F).
            mask: real atoms (B, N), bool; inferred from the padding when `None`.

        Raises:
            StatsMismatchError: another number of channels.
            DataError: a molecule without atoms or with a number that is not finite, named by index.
        """
        if x.dim() != 3 or x.shape[-1] != 3 + self.n_features:
            raise StatsMismatchError(
                f"these moments describe molecules (B, N, 3+{self.n_features}), "
                f"got {tuple(x.shape)}."
            )
        x = x.detach().cpu()
        mask = mask_from_padding(x) if mask is None else mask.detach().cpu()
        if mask.shape != x.shape[:2] or mask.dtype != torch.bool:
            raise StatsMismatchError(
                f"the mask must be bool {tuple(x.shape[:2])}, got {mask.dtype} {tuple(mask.shape)}."
            )
        self._check_molecules(x, mask)
        for part, part_mask in zip(torch.split(x, _CHUNK), torch.split(mask, _CHUNK), strict=True):
            self._take(part, part_mask)

    def _check_molecules(self, x: Tensor, mask: Tensor) -> None:
        occupied = mask.any(-1)
        if bool(torch.isfinite(x.sum()) & occupied.all()):  # one number tells the usual case
            return
        finite = (torch.isfinite(x).all(-1) | ~mask).all(-1)
        bad = (~(finite & occupied)).nonzero().flatten()
        if len(bad):
            i = int(bad[0])
            fault = "no atoms" if not bool(occupied[i]) else "a coordinate that is not finite"
            raise DataError(
                f"molecule {self.count + i} (number {i} of this batch) has {fault}. "
                f"{len(bad)} of {len(x)} molecules of the batch are unusable; drop or repair them."
            )

    def _take(self, x: Tensor, mask: Tensor) -> None:
        if not len(x):
            return
        # Atoms first, molecules last: sums over atoms then run in atom order for every molecule at
        # once, so a molecule's numbers do not depend on its batch or its padding, to the last bit.
        atoms = torch.where(mask[..., None], x, 0).double().permute(1, 2, 0).contiguous()
        real = mask.T[:, None]  # (N, 1, B)
        n = mask.sum(1)
        mean = _ordered_sum(atoms) / n
        centred = (atoms - mean) * real
        positions, features = centred[:, :3], centred[:, 3:]
        gyration = _ordered_gram(positions) / (n - 1).clamp(min=1)
        within = _ordered_gram(features) / (n - 1).clamp(min=1)
        q = gyration.diagonal().sum(-1) / 3
        squares = (gyration.diagonal().sum(-1) + within.diagonal().sum(-1)) * (n - 1)
        std = (squares / (n * len(mean))).sqrt()
        quartic = (positions**2).sum(1).square().sum(0) / n
        summary = torch.cat([q[None], mean[3:], std[None], quartic[None], within.flatten(0, 1)]).T

        self._merge_sizes(*self._reduce(n, summary, (atoms[:, 3:], real)))
        if self.table_size:
            hashes = (atom_hashes(x) * mask).sum(1)  # a sum forgets the order of the atoms
            priorities = splitmix64(hashes + n)
            chosen = self._table.admits(n, priorities)
            eigenvalues = torch.linalg.eigvalsh(gyration[..., chosen].permute(2, 0, 1))
            upper = within[self._upper[0], self._upper[1]][:, chosen].T
            rows = torch.cat([eigenvalues.clamp(min=0), mean[3:, chosen].T, upper], dim=1)
            self._table.add(n[chosen], priorities[chosen], rows)

    def _reduce(
        self, n: Tensor, summary: Tensor, atoms: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Count, means, scatter and atom sums per size of one batch, in two passes."""
        sizes = int(n.max()) + 1
        head = 1 + self.n_features

        def per_size(values: Tensor) -> Tensor:
            return torch.zeros(sizes, *values.shape[1:], dtype=torch.float64).index_add_(
                0, n, values
            )

        count = per_size(torch.ones(len(n), dtype=torch.float64))
        mean = per_size(summary) / count.clamp(min=1)[:, None]
        deviation = summary[:, :head] - mean[n, :head]
        scatter = per_size(deviation[:, :, None] * deviation[:, None, :])
        sums = [mean[:, 1:head]] if self.max_order > 2 else []
        if sums:
            features, real = atoms
            around = (features - mean[n, 1:head].T) * real
            sums += [per_size((around**k).sum(0).T) for k in range(2, self.max_order + 1)]
        empty = torch.zeros(0, sizes, self.n_features, dtype=torch.float64)
        return count, mean, scatter, torch.stack(sums) if sums else empty

    def _merge_sizes(self, count: Tensor, mean: Tensor, scatter: Tensor, atoms: Tensor) -> None:
        """Chan's merge of another part, size by size."""
        sizes = max(len(count), len(self._count))
        head = 1 + self.n_features
        n_a, mean_a, scatter_a = (
            _padded(v, sizes) for v in (self._count, self._mean, self._scatter)
        )
        n_b, mean_b, scatter_b = (_padded(v, sizes) for v in (count, mean, scatter))
        atoms_a, atoms_b = (
            _padded(v.transpose(0, 1), sizes).transpose(0, 1) for v in (self._atoms, atoms)
        )
        if self.max_order > 2:
            n_atoms = torch.arange(sizes, dtype=torch.float64)
            self._atoms = merge_central(
                (n_a * n_atoms)[:, None], atoms_a, (n_b * n_atoms)[:, None], atoms_b
            )
        self._scatter = merge_scatter(
            n_a, mean_a[:, :head], scatter_a, n_b, mean_b[:, :head], scatter_b
        )
        self._mean = merge_central(n_a[:, None], mean_a[None], n_b[:, None], mean_b[None])[0]
        self._count = n_a + n_b

    def merge(self, other: ExchangeableMoments) -> ExchangeableMoments:
        """Take in everything that `other` has seen; returns self.

        Raises:
            StatsMismatchError: the two count different things.
        """
        if self.metadata() != other.metadata():
            raise StatsMismatchError(
                f"cannot merge moments of {other.metadata()} into moments of {self.metadata()}."
            )
        self._merge_sizes(other._count, other._mean, other._scatter, other._atoms)
        self._table.merge(other._table)
        return self

    # ---------------------------------------------------------------- per size

    @property
    def count(self) -> int:
        """Molecules seen."""
        return int(self._count.sum())

    @property
    def sizes(self) -> Tensor:
        """Sizes seen (S,), ascending int64; the other per-size properties follow this order.

        Raises:
            DataError: no molecule was seen.
        """
        if not self.count:
            raise DataError("found 0 molecules, need at least 1 to have moments.")
        return self._count.nonzero().flatten()

    @property
    def counts(self) -> Tensor:
        """Molecules seen per size (S,), float64."""
        return self._count[self.sizes]

    @property
    def v_x(self) -> Tensor:
        """Position variance per degree of freedom, `E|x|² / (3 (N - 1))`, (S,); 0 for one atom."""
        return self._mean[self.sizes, 0]

    @property
    def v_x_std(self) -> Tensor:
        """Standard deviation over molecules of their own `|x|² / (3 (N - 1))`, (S,)."""
        return (self._scatter[self.sizes, 0, 0] / self.counts).sqrt()

    @property
    def feature_mean(self) -> Tensor:
        """Mean feature of an atom (S, F)."""
        return self._mean[self.sizes, 1 : 1 + self.n_features]

    @property
    def within(self) -> Tensor:
        """W (S, F, F): covariance of atoms around their molecule's mean, divided by N - 1."""
        f = self.n_features
        return self._mean[self.sizes, 3 + f :].reshape(len(self.sizes), f, f)

    @property
    def between(self) -> Tensor:
        """B (S, F, F): N times the covariance over molecules of their mean."""
        scatter = self._scatter[self.sizes, 1:, 1:]
        return scatter * (self.sizes / self.counts)[:, None, None]

    # ---------------------------------------------------------------- sizes pooled

    @property
    def position_variance_per_atom(self) -> float:
        """`sum |x|² / sum 3 N` over all molecules: divides by atoms."""
        return self._pooled(3 * (self.sizes - 1) * self.v_x, 3 * self.sizes)

    @property
    def position_variance_per_dof(self) -> float:
        """`sum |x|² / sum 3 (N - 1)` over all molecules: divides by degrees of freedom."""
        return self._pooled(3 * (self.sizes - 1) * self.v_x, 3 * (self.sizes - 1))

    @property
    def mean_molecule_position_variance(self) -> float:
        """Average over molecules of `|x|² / (3 N)`."""
        return self._pooled((self.sizes - 1) / self.sizes * self.v_x, torch.ones(()))

    @property
    def mean_molecule_feature_variance(self) -> float:
        """Average over molecules, and channels, of the variance of their atoms (divided by N)."""
        trace = self.within.diagonal(dim1=1, dim2=2).sum(-1) / max(self.n_features, 1)
        return self._pooled((self.sizes - 1) / self.sizes * trace, torch.ones(()))

    @property
    def paper_variance(self) -> float:
        """What the published method uses as variance of every channel: a mean standard deviation.

        The average over molecules of the standard deviation of all their N (3 + F) numbers, each
        channel around its molecule's mean.
        """
        return self._pooled(self._mean[self.sizes, 1 + self.n_features], torch.ones(()))

    @property
    def pooled_feature_mean(self) -> Tensor:
        """Mean feature over all atoms of all molecules (F,)."""
        weight = self.counts * self.sizes
        return (weight[:, None] * self.feature_mean).sum(0) / weight.sum()

    @property
    def pooled_feature_variance(self) -> Tensor:
        """Variance of each feature over all atoms of all molecules (F,)."""
        sizes = self.sizes[:, None]
        spread = (self.feature_mean - self.pooled_feature_mean) ** 2
        per_atom = (
            (sizes - 1) * self.within.diagonal(dim1=1, dim2=2)
            + self.between.diagonal(dim1=1, dim2=2)
        ) / sizes + spread
        weight = self.counts * self.sizes
        return (weight[:, None] * per_atom).sum(0) / weight.sum()

    def _pooled(self, numerator: Tensor, denominator: Tensor) -> float:
        """Ratio of sums over molecules; 0 when there is nothing to divide by."""
        below = float((self.counts * denominator).sum())
        return float((self.counts * numerator).sum()) / below if below else 0.0

    # ---------------------------------------------------------------- cumulants

    def feature_cumulants(self, order: int) -> Tensor:
        """Cumulant of one atom's features over all atoms of a size, per channel (S, F).

        Args:
            order: 2, 3 or 4, up to `max_order`.

        Raises:
            StatsMismatchError: this order was not kept.
        """
        self._require_order(order)
        n = (self.counts * self.sizes)[:, None]
        sums = self._atoms[:, self.sizes]
        variance = sums[1] / n
        return sums[order - 1] / n - (3 * variance**2 if order == 4 else 0)

    def position_fourth_cumulant(self) -> Tensor:
        """The number `k` (S,) of the isotropic fourth cumulant of one atom's position.

        `cum(x_a, x_b, x_c, x_d) = k (d_ab d_cd + d_ac d_bd + d_ad d_bc)`, with
        `k = E|x|^4 / 15 - (E|x|² / 3)²`; odd cumulants vanish by reflection.
        """
        variance = self.v_x * (self.sizes - 1) / self.sizes
        return self._mean[self.sizes, 2 + self.n_features] / 15 - variance**2

    def _require_order(self, order: int) -> None:
        if not 2 <= order <= self.max_order or self.max_order == 2:
            raise StatsMismatchError(
                f"cumulants of order {order} were not kept (max_order={self.max_order}). "
                f"Fit again with max_order={max(order, 3)}."
            )

    # ---------------------------------------------------------------- any size

    def at_size(self, n_atoms: int, min_count: int = 200) -> SizeMoments:
        """Moments of molecules of any size; rare and unseen sizes borrow (see `sizes.py`).

        Args:
            n_atoms: N, at least 1.
            min_count: molecules wanted.

        Returns:
            The moments; a `GAGAWarning` says when N lies far (25%) outside of the sizes seen.

        Raises:
            DataError: `n_atoms` is not positive, or no molecule of at least two atoms was seen.
        """
        return moments_at_size(self, n_atoms, min_count)

    def sampled(self, n_atoms: int) -> tuple[Tensor, Tensor, Tensor]:
        """Sampled molecules of exactly this size.

        Returns:
            Eigenvalues of their gyration matrices (K, 3), ascending, their feature means (K, F) and
            their W (K, F, F), float64.
        """
        f = self.n_features
        rows = self._table.group(n_atoms).double()
        within = torch.zeros(len(rows), f, f, dtype=torch.float64)
        within[:, self._upper[0], self._upper[1]] = rows[:, 3 + f :]
        within[:, self._upper[1], self._upper[0]] = rows[:, 3 + f :]
        return rows[:, :3], rows[:, 3 : 3 + f], within

    # ---------------------------------------------------------------- artefact

    def metadata(self) -> dict[str, Any]:
        """What the tensors of `state_dict` mean, JSON-able."""
        return {
            "moments": "exchangeable",
            "n_features": self.n_features,
            "max_order": self.max_order,
            "table_size": self.table_size,
        }

    def state_dict(self) -> dict[str, Tensor]:
        """Every number kept, as a flat dict of contiguous tensors."""
        groups, priorities, rows = self._table.arrays()
        return {
            "count": self._count.clone(),
            "mean": self._mean.clone(),
            "scatter": self._scatter.clone(),
            "atoms": self._atoms.contiguous().clone(),
            "table_size": groups.to(torch.int32),
            "table_priority": priorities.clone(),
            "table_rows": rows.clone(),
        }

    @classmethod
    def from_state_dict(
        cls, state: dict[str, Tensor], metadata: dict[str, Any]
    ) -> ExchangeableMoments:
        """The inverse of `state_dict` and `metadata`.

        Raises:
            ArtefactError: something is missing or of another shape.
        """
        try:
            moments = cls(metadata["n_features"], metadata["max_order"], metadata["table_size"])
            sizes, rows = len(state["count"]), len(state["table_rows"])
            for name, empty in moments.state_dict().items():
                length = rows if name.startswith("table") else sizes
                expected = [length, *empty.shape[1:]]
                if name == "atoms":
                    expected = [len(empty), sizes if len(empty) else 0, empty.shape[2]]
                if list(state[name].shape) != expected:
                    raise ArtefactError(
                        f"tensor {name!r} of the moments has shape {list(state[name].shape)}, "
                        f"not {expected}."
                    )
            moments._count = state["count"].clone()
            moments._mean = state["mean"].clone()
            moments._scatter = state["scatter"].clone()
            moments._atoms = state["atoms"].clone()
            moments._table.add(
                state["table_size"].to(torch.int64), state["table_priority"], state["table_rows"]
            )
        except (KeyError, TypeError) as error:
            raise ArtefactError(f"cannot read molecule moments: {error!r}.") from error
        return moments


def _padded(values: Tensor, length: int) -> Tensor:
    """Zeros appended along the first axis."""
    extra = torch.zeros(length - len(values), *values.shape[1:], dtype=values.dtype)
    return torch.cat([values, extra])


def _ordered_sum(values: Tensor) -> Tensor:
    """Sum over the first axis, strictly in its order."""
    total = torch.zeros_like(values[0])
    for value in values:
        total += value
    return total


def _ordered_gram(vectors: Tensor) -> Tensor:
    """`sum_i v_i v_i'` (D, D, B) of vectors (N, D, B), strictly in the order of the first axis."""
    d, batch = vectors.shape[1:]
    total = vectors.new_zeros(d, d, batch)
    for vector in vectors:
        total.addcmul_(vector[:, None], vector[None])
    return total
