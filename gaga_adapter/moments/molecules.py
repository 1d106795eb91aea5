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

A bounded sample of single molecules of each size (`table.py`) holds the eigenvalues of the gyration
matrix `x'x / (N - 1)`, `m` and `W`. The priority of a molecule is a hash of its atoms as given,
whatever their order.

**Any size.** A size with fewer than `min_count` molecules is pooled, by counts, over the smallest
window of sizes `[N - r, N + r]` that holds `min_count` of them (over all sizes, if the data are
fewer). Positions grow with the size, so before pooling `v_x(k)` is carried from size `k` to `N`,

    v_x(k) (N / k)^slope,       slope of log v_x against log N over all sizes, weighted by counts,

and the sampled molecules' eigenvalues are scaled by `v_x(N) / v_x(k)`. Mean features are taken as
they are: B(N) is N times their covariance over the molecules of the window, that inside of the
sizes and that of the sizes' means. A size with enough molecules is not pooled.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gaga_adapter.covariance import is_covariance
from gaga_adapter.errors import DataError, StatsMismatchError, warn
from gaga_adapter.files.checked import MOST_COUNTED, Fields, Tensors
from gaga_adapter.hashing import atom_hashes, splitmix64
from gaga_adapter.moments.central import LARGEST, merge_central, merge_scatter
from gaga_adapter.moments.table import BottomK
from gaga_adapter.subspace import as_mask, mask_from_padding

_TENSORS = ("count", "mean", "scatter", "atoms", "table_size", "table_priority", "table_rows")
_CHUNK = 1024  # molecules per pass: their atoms stay in the cache
_MOST_NUMBERS = 2**27  # of the covariances of all sizes together: 1 GiB


@dataclass(frozen=True)
class SizeMoments:
    """What is known of molecules of one size, borrowed from its neighbours if it is rare.

    Attributes:
        n_atoms: Size N.
        count: Number of molecules pooled.
        radius: Sizes `n_atoms - radius` to `n_atoms + radius` were pooled; 0 for its own alone.
        v_x: Position variance per degree of freedom.
        v_x_std: Standard deviation over molecules of their own `|x|² / (3 (N - 1))`.
        feature_mean: Mean feature (F,).
        within: W (F, F).
        between: B (F, F).
        gyration: Eigenvalues of sampled molecules (K, 3), ascending.
        sample_mean: Their feature means (K, F).
        sample_within: Their W (K, F, F).
        sample_weight: Their probabilities (K,), of sum one.
    """

    n_atoms: int
    count: int
    radius: int
    v_x: float
    v_x_std: float
    feature_mean: Tensor
    within: Tensor
    between: Tensor
    gyration: Tensor
    sample_mean: Tensor
    sample_within: Tensor
    sample_weight: Tensor


class ExchangeableMoments:
    """Streaming, mergeable moments of molecules (B, N, 3 + F), per size.

    Args:
        n_features: Number of feature channels F.
        table_size: Number of molecules sampled per size; 0 for none.
        n_positions: Number of position channels, 3; 0 for tokens (B, N, F), which have none.

    Attributes:
        keeps_tensors: Whether draws of `shape` keep the gyration tensor of a sampled molecule
            exactly. Those of artefacts that do not say so scatter around it.
    """

    def __init__(self, n_features: int, table_size: int = 1024, n_positions: int = 3) -> None:
        self.n_features = n_features
        self.n_positions = n_positions
        self.table_size = table_size
        self.keeps_tensors = n_positions > 0 and table_size > 0
        f = n_features
        self._upper = torch.triu_indices(f, f)
        # Per size (row = number of atoms): means of [q, m, pooled std, E|x_i|^4, W] and scatter of
        # [q, m].
        self._count = torch.zeros(0, dtype=torch.float64)
        self._mean = torch.zeros(0, 3 + f + f * f, dtype=torch.float64)
        self._scatter = torch.zeros(0, 1 + f, 1 + f, dtype=torch.float64)
        self._table = BottomK(n_positions + f + self._upper.shape[1], table_size)

    def update(self, x: Tensor, mask: Tensor | None = None) -> None:
        """Take in a batch; nothing changes if it is refused.

        Args:
            x: Molecules (B, N, 3 + F).
            mask: Real atoms (B, N), bool; inferred from the padding when `None`.

        Raises:
            StatsMismatchError: If `x` has another number of channels.
            DataError: If a molecule, named by index, has no atoms or a number that is not finite;
                or if the covariances of so many channels for sizes up to the largest are too many.
        """
        described = (self.n_features, self.n_positions)
        mask = matching_mask(x, mask, *described, "these moments describe").detach().cpu()
        x = x.detach().cpu()
        if x.shape[1] * self.n_features**2 > _MOST_NUMBERS:
            raise DataError(
                f"{x.shape[1]} atoms or tokens with {self.n_features} features need a covariance "
                f"for each size, more than {_MOST_NUMBERS} numbers. If all items have as many, fit "
                f"DenseLayout({tuple(x.shape[1:])}, channels=-1)."
            )
        occupied = mask.any(-1)
        usual = not x.numel() or torch.linalg.vector_norm(x, math.inf) <= LARGEST
        if not usual or not bool(occupied.all()):
            self._refuse(x, mask, occupied)
        for part, part_mask in zip(torch.split(x, _CHUNK), torch.split(mask, _CHUNK), strict=True):
            self._take(part, part_mask)

    def _refuse(self, x: Tensor, mask: Tensor, occupied: Tensor) -> None:
        """Refuse a batch with an unusable molecule, and name the first one."""
        finite = ((x.abs() <= LARGEST).all(-1) | ~mask).all(-1)
        bad = (~(finite & occupied)).nonzero().flatten()
        if len(bad):
            i = int(bad[0])
            fault = "no atoms"
            if bool(occupied[i]):
                fault = f"a coordinate that is not finite, or beyond {LARGEST:g}"
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
        positions, features = centred.tensor_split([self.n_positions], 1)
        gyration = _ordered_gram(positions) / (n - 1).clamp(min=1)
        within = _ordered_gram(features) / (n - 1).clamp(min=1)
        q = gyration.diagonal().sum(-1) / max(self.n_positions, 1)
        squares = (gyration.diagonal().sum(-1) + within.diagonal().sum(-1)) * (n - 1)
        std = (squares / (n * len(mean))).sqrt()
        quartic = (positions**2).sum(1).square().sum(0) / n
        mean = mean[self.n_positions :]
        summary = torch.cat([q[None], mean, std[None], quartic[None], within.flatten(0, 1)]).T

        self._merge_sizes(*self._reduce(n, summary))
        if self.table_size:
            hashes = (atom_hashes(x) * mask).sum(1)  # a sum forgets the order of the atoms
            priorities = splitmix64(hashes + n)
            entrants = self._table.admits(n, priorities)
            eigenvalues = torch.linalg.eigvalsh(gyration[..., entrants].permute(2, 0, 1))
            upper = within[self._upper[0], self._upper[1]][:, entrants].T
            rows = torch.cat([eigenvalues.clamp(min=0), mean[:, entrants].T, upper], dim=1)
            self._table.add(n[entrants], priorities[entrants], rows)

    def _reduce(self, n: Tensor, summary: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Count, means and scatter per size of one batch, in two passes."""
        head = 1 + self.n_features

        def per_size(values: Tensor) -> Tensor:
            total = torch.zeros(int(n.max()) + 1, *values.shape[1:], dtype=torch.float64)
            return total.index_add_(0, n, values)

        count = per_size(torch.ones(len(n), dtype=torch.float64))
        mean = per_size(summary) / count.clamp(min=1)[:, None]
        deviation = summary[:, :head] - mean[n, :head]
        return count, mean, per_size(deviation[:, :, None] * deviation[:, None, :])

    def _merge_sizes(self, count: Tensor, mean: Tensor, scatter: Tensor) -> None:
        """Chan's merge of another part, size by size."""
        sizes = max(len(count), len(self._count))
        head = 1 + self.n_features
        own = (self._count, self._mean, self._scatter)
        n_a, mean_a, scatter_a = (_pad(values, sizes) for values in own)
        n_b, mean_b, scatter_b = (_pad(values, sizes) for values in (count, mean, scatter))
        head_a, head_b = mean_a[:, :head], mean_b[:, :head]
        self._scatter = merge_scatter(n_a, head_a, scatter_a, n_b, head_b, scatter_b)
        self._mean = merge_central(n_a[:, None], mean_a[None], n_b[:, None], mean_b[None])[0]
        self._count = n_a + n_b

    def merge(self, other: ExchangeableMoments) -> ExchangeableMoments:
        """Take in everything that `other` has seen; returns self.

        Raises:
            StatsMismatchError: If the two describe different things.
        """
        if self.metadata() != other.metadata():
            raise StatsMismatchError(
                f"cannot merge moments of {other.metadata()} into moments of {self.metadata()}."
            )
        self._merge_sizes(other._count, other._mean, other._scatter)
        self._table.add(*other._table.arrays())
        return self

    @property
    def count(self) -> int:
        """Molecules seen."""
        return int(self._count.sum())

    @property
    def sizes(self) -> Tensor:
        """Sizes seen (S,), ascending int64; the other per-size properties follow this order.

        Raises:
            DataError: If no molecule was seen.
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

        Raises:
            StatsMismatchError: If it is not known, as in statistics carried over to another layout.
        """
        value = self._pooled(self._mean[self.sizes, 1 + self.n_features], torch.ones(()))
        if math.isnan(value):
            raise StatsMismatchError(
                "the published scalar is not known of statistics that were carried over to another "
                "layout. Fit again in that layout."
            )
        return value

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
        within, between = (w.diagonal(dim1=1, dim2=2) for w in (self.within, self.between))
        per_atom = ((sizes - 1) * within + between) / sizes + spread
        weight = self.counts * self.sizes
        return (weight[:, None] * per_atom).sum(0) / weight.sum()

    def _pooled(self, numerator: Tensor, denominator: Tensor) -> float:
        """Ratio of sums over molecules; 0 when there is nothing to divide by."""
        below = float((self.counts * denominator).sum())
        return float((self.counts * numerator).sum()) / below if below else 0.0

    def position_fourth_cumulant(self) -> Tensor:
        """The number `k` (S,) of the isotropic fourth cumulant of one atom's position.

        `cum(x_a, x_b, x_c, x_d) = k (d_ab d_cd + d_ac d_bd + d_ad d_bc)`, with
        `k = E|x|^4 / 15 - (E|x|² / 3)²`; odd cumulants vanish by reflection.
        """
        variance = self.v_x * (self.sizes - 1) / self.sizes
        return self._mean[self.sizes, 2 + self.n_features] / 15 - variance**2

    def at_size(self, n_atoms: int, min_count: int = 200) -> SizeMoments:
        """Moments of molecules of any size; rare and unseen sizes borrow from their neighbours.

        A `GAGAWarning` says when N lies far (25 %) outside of the sizes seen.

        Args:
            n_atoms: Size N, at least 1.
            min_count: Fewest molecules in the window of sizes that is pooled.

        Raises:
            DataError: If `n_atoms` is not positive, or no molecule of at least two atoms was seen.
        """
        if n_atoms < 1:
            raise DataError(f"n_atoms={n_atoms}: a molecule has at least 1 atom.")
        informative = self.sizes >= min(n_atoms, 2)  # single atoms say nothing of positions
        sizes, counts = self.sizes[informative], self.counts[informative]
        if not len(sizes):
            raise DataError(
                "found molecules of 1 atom only, need 2 atoms to know positions."
                if self.n_positions
                else "found sets of 1 token only, need 2 to know how the tokens of a set differ."
            )
        if not 0.75 * int(sizes[0]) <= n_atoms <= 1.25 * int(sizes[-1]):
            warn(
                f"{n_atoms} atoms is far outside of the sizes seen, {int(sizes[0])} to "
                f"{int(sizes[-1])}: its moments are extrapolated."
            )
        distance, order = (sizes - n_atoms).abs().sort()
        reached = counts[order].cumsum(0) >= min_count
        radius = int(distance[reached][0] if bool(reached.any()) else distance[-1])

        window = (self.sizes - n_atoms).abs().le(radius) & informative
        sizes, counts = self.sizes[window], self.counts[window]
        weight = counts / counts.sum()
        carry = (n_atoms / sizes.double()) ** self._log_slope()
        v_here = self.v_x[window]
        carried = v_here * carry
        v_x = (weight * carried).sum()
        variance = (weight * ((self.v_x_std[window] * carry) ** 2 + (carried - v_x) ** 2)).sum()

        def pool(values: Tensor) -> Tensor:
            return torch.einsum("s,s...->...", weight, values[window])

        # Pooled spread is that inside of the sizes and that of their means, as for any mixture.
        mean = pool(self.feature_mean)
        apart = self.feature_mean[window] - mean
        # Means are carried over as they are, by the row in `shape` and by their covariance here.
        inside = torch.einsum("s,sfg->fg", weight / sizes, self.between[window])
        between = n_atoms * (inside + torch.einsum("s,sf,sg->fg", weight, apart, apart))

        gyrations, means, withins = zip(*(self.sampled(int(n)) for n in sizes), strict=True)
        lengths = torch.tensor([len(gyration) for gyration in gyrations])
        growth = torch.where(v_here > 0, v_x / v_here, 1.0)
        return SizeMoments(
            n_atoms=n_atoms,
            count=int(counts.sum()),
            radius=radius,
            v_x=float(v_x),
            v_x_std=math.sqrt(float(variance)),
            feature_mean=mean,
            within=pool(self.within),
            between=between,
            gyration=torch.cat([g * s for g, s in zip(gyrations, growth, strict=True)]),
            sample_mean=torch.cat(means),
            sample_within=torch.cat(withins),
            sample_weight=(weight / lengths.clamp(min=1)).repeat_interleave(lengths),
        )

    def _log_slope(self) -> float:
        """Slope of `log v_x` against `log N` over all sizes, weighted by counts; 0 for one size."""
        usable = (self.sizes > 1) & (self.v_x > 0)
        if int(usable.sum()) < 2:
            return 0.0
        weight = self.counts[usable] / self.counts[usable].sum()
        x, y = self.sizes[usable].double().log(), self.v_x[usable].log()
        x, y = x - (weight * x).sum(), y - (weight * y).sum()
        return float((weight * x * y).sum() / (weight * x**2).sum())

    def sampled(self, n_atoms: int) -> tuple[Tensor, Tensor, Tensor]:
        """Sampled molecules of exactly this size, float64.

        They are the eigenvalues of their gyration matrices (K, 3), ascending, their feature means
        (K, F), and their W (K, F, F).
        """
        p, f, (i, j) = self.n_positions, self.n_features, self._upper
        rows = self._table.group(n_atoms).double()
        within = torch.zeros(len(rows), f, f, dtype=torch.float64)
        within[:, i, j] = within[:, j, i] = rows[:, p + f :]
        return rows[:, :p], rows[:, p : p + f], within

    @property
    def table_sizes(self) -> Tensor:
        """Size of each sampled molecule (T,), ascending int64, in the order of `sampled`."""
        return self._table.arrays()[0].to(torch.int64)

    def metadata(self) -> dict[str, Any]:
        """Meaning of the tensors of `state_dict`, in a form that JSON can hold."""
        usual = self.n_positions == 3  # goes without saying, as in version 0.1
        return {
            "moments": "exchangeable",
            **({} if usual else {"n_positions": self.n_positions}),
            "n_features": self.n_features,
            "max_order": 2,  # constant; version 0.1 reads it
            "table_size": self.table_size,
            **({"shape_rows": "tensors"} if self.keeps_tensors else {}),
        }

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that the moments hold, as a flat dict of contiguous tensors."""
        groups, priorities, rows = self._table.arrays()
        return {
            "count": self._count.clone(),
            "mean": self._mean.clone(),
            "scatter": self._scatter.clone(),
            "atoms": torch.zeros(0, 0, self.n_features, dtype=torch.float64),  # for version 0.1
            "table_size": groups.to(torch.int32),
            "table_priority": priorities.clone(),
            "table_rows": rows.clone(),
        }

    @classmethod
    def from_state_dict(
        cls, state: dict[str, Tensor], metadata: dict[str, Any]
    ) -> ExchangeableMoments:
        """The inverse of `state_dict` and `metadata`; the atoms' sums of version 0.1 are dropped.

        Raises:
            ArtefactError: If something is missing or of another shape.
        """
        about = Fields(metadata, "the description of the moments")
        f, k = about.integer("n_features", 0, 2**20), about.integer("table_size", 0, 2**31)
        n_positions = about.integer("n_positions", 0, 3) if "n_positions" in about.names() else 3
        if n_positions not in (0, 3):
            raise about.refuse("n_positions", "3, or 0 for tokens without positions")
        if about.is_given("shape_rows"):
            about.text("shape_rows", ("tensors",))
        tensors = Tensors(state, "the moments").only(_TENSORS)
        sizes, rows = tensors.length("count"), tensors.length("table_rows")
        width, double = n_positions + f + f * (f + 1) // 2, torch.float64
        count = tensors.take("count", double, [sizes])
        mean = tensors.take("mean", double, [sizes, 3 + f + f * f])
        scatter = tensors.take("scatter", double, [sizes, 1 + f, 1 + f])
        groups = tensors.take("table_size", torch.int32, [rows])
        priorities = tensors.take("table_priority", torch.int64, [rows])
        table = tensors.take("table_rows", torch.float32, [rows, width])
        _check_sizes(tensors, f, count, mean, scatter)
        _check_table(tensors, n_positions, f, k, count, groups, table)
        moments = cls(f, k, n_positions)
        moments.keeps_tensors = about.is_given("shape_rows")
        moments._count, moments._mean, moments._scatter = count, mean, scatter
        moments._table.add(groups.to(torch.int64), priorities, table)
        return moments


def _check_sizes(tensors: Tensors, f: int, count: Tensor, mean: Tensor, scatter: Tensor) -> None:
    """Refuse sums per size that no molecules have."""
    tensors.within("count", count, 0, MOST_COUNTED)
    whole = len(count) > 1 and not count[0] and bool((count == count.round()).all())
    seen = 0 < float(count.sum()) <= MOST_COUNTED
    tensors.require("count", whole and seen, "it does not count molecules by their size")
    q, m, std, quartic, within = torch.split(mean, [1, f, 1, 1, f * f], 1)
    tensors.within("mean", q, 0, LARGEST**2)
    tensors.within("mean", m, -LARGEST, LARGEST)
    if not bool(std.isnan().all()):  # what was mapped to another layout does not know it
        tensors.within("mean", std, 0, LARGEST)
    tensors.within("mean", quartic, 0, LARGEST**4)
    tensors.within("mean", within, -(LARGEST**2), LARGEST**2)
    proper = is_covariance(within.reshape(len(within), f, f), 1e-9).all()
    tensors.require("mean", proper, "a covariance of features is not symmetric and positive")
    largest = float(count.max()) * LARGEST**4
    tensors.within("scatter", scatter, -largest, largest)
    proper = is_covariance(scatter, 1e-9).all()
    tensors.require("scatter", proper, "a matrix is not symmetric and positive")


def _check_table(
    tensors: Tensors, p: int, f: int, k: int, count: Tensor, groups: Tensor, table: Tensor
) -> None:
    """Refuse single molecules that are none, or are not as many as their size has."""
    tensors.within("table_size", groups, 1, len(count) - 1)
    found = torch.bincount(groups, minlength=len(count))
    expected = count.clamp(max=k)
    tensors.require("table_size", (found == expected).all(), "the sample is not that of the counts")
    eigenvalues, m, upper = torch.split(table, [p, f, f * (f + 1) // 2], 1)
    tensors.within("table_rows", eigenvalues, 0, LARGEST**2)
    rising = (eigenvalues[:, 1:] >= eigenvalues[:, :-1]).all()
    tensors.require("table_rows", rising, "the eigenvalues of a gyration tensor do not rise")
    tensors.within("table_rows", m, -LARGEST, LARGEST)
    tensors.within("table_rows", upper, -(LARGEST**2), LARGEST**2)
    i, j = torch.triu_indices(f, f)
    within = table.new_zeros(len(table), f, f)
    within[:, i, j] = within[:, j, i] = upper
    proper = is_covariance(within, 1e-5).all()
    tensors.require("table_rows", proper, "a covariance of features is not positive")


def matching_mask(
    x: Tensor, mask: Tensor | None, n_features: int, n_positions: int, subject: str
) -> Tensor:
    """The mask (B, N) of molecules; refuses channels other than 3 + F, and what is no mask."""
    if x.dim() != 3 or x.shape[-1] != n_positions + n_features:
        expected = f"molecules (B, N, 3+{n_features})"
        if not n_positions:
            expected = f"tokens without positions (B, N, {n_features})"
        raise StatsMismatchError(f"{subject} {expected}, got {tuple(x.shape)}.")
    given = mask_from_padding(x) if mask is None else mask
    known = as_mask(given, x)
    if known is None:
        raise StatsMismatchError(
            f"the mask must be bool {tuple(x.shape[:2])}, or 0 and 1 in this shape, got "
            f"{given.dtype} {tuple(given.shape)}."
        )
    return known


def _pad(values: Tensor, length: int) -> Tensor:
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
