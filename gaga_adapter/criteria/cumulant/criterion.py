r"""Cumulants: the whole curve from clean data, without noise, samples or a model.

Noise has no cumulants beyond the second, and cumulants of independent sums add, so those of
`x_t = a x_0 + b eps` are `a^k C^(k)(x_0)`. The paper (Qu et al., ICLR 2026, Proposition 3.1)
measures non-Gaussianity, for x_t of unit variances, by

    H^K = beta ||offdiag C^(2)||² + sum_{k=3..K} w_k ||C^(k)||²

and leaves `beta, w_k > 0` free. Here x_t is whitened by the reference, and the mean and the whole
covariance count where they differ from the reference's,

    H^K = 1/2 ||E y||² + beta ||Cov y - I||² + sum_{k=3..K} w_k ||C^(k)(y)||²,

which is the paper's where the reference has the data's own variances. The default weights are those
of the Edgeworth expansion of KL(x_t || reference) around the reference (McCullagh 1987, chapter 5;
Comon 1994, section 3): `beta = 1/4, w_k = 1/(2 k!)`, so that H is an estimate in nats. It is the
leading part near the reference, where t* is chosen, and no bound. Far from it, it overshoots where
tails are heavy or a scale is shared (its square counts what a KL counts by its logarithm), and
falls short where values are few: of an entry that is ±1 at even chances K = 4 sees `2²/48 = 0.08`
nats at most. Against a mixture (`shape`) the cumulants of the reference are subtracted:
`||C^(k)(data) - C^(k)(reference)||²`.

**Dense data**: joint cumulants of all entries, up to order 6. Where the tensor of one would have
more than 2^20 numbers, the norms come from the inner products of items
(`products.py`), and at most 5120 items are judged, fewer beyond 2600 entries.

**Molecules**: the full joint tensors of every size, up to order 4, by their symmetry
(`invariants.py`): also the cumulants of two positions with one or two features. Sizes of
fewer than 24 distinct molecules are left out; the column `share` says how much was judged.

Estimates are unbiased: k-statistics in each of G batches, products of different batches only.
Pseudo-values of the jackknife over batches are the contributions. Where non-Gaussianity is one of
rare items, an estimate without bias is still too small more often than it is too large, and its
error with it; below 1000 items a warning says so. A reference of p numbers that was fitted to N
items, these among them, looks better than it is by p / N nats (Akaike 1974).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from gaga_adapter.criteria.contributions import Contributions
from gaga_adapter.criteria.cumulant.batches import TENSOR_LIMIT, DenseBatches, SizeBatches
from gaga_adapter.criteria.cumulant.invariants import BLOCKS
from gaga_adapter.criteria.cumulant.kstatistics import MAX_ORDER, norm_pseudo_values
from gaga_adapter.criteria.curve import CriterionCurve
from gaga_adapter.criteria.protocol import BaseCriterion, Task
from gaga_adapter.errors import DataError, warn
from gaga_adapter.noise.levels import coefficients
from gaga_adapter.reference import DenseReference, MoleculeReference, ReferenceGaussian
from gaga_adapter.reference.base import workspace

_MAX_MOLECULE_ORDER = 4
_FEWEST_BATCHES, _BATCH = 3, 8
_FEW = 1000


@dataclass(frozen=True)
class Cumulant(BaseCriterion):
    """Cumulants of noised data against those of the reference: H^K, in nats per data item.

    Extra columns of its curve are `mean` and `covariance`, then for dense data `order_3` ..
    `order_K`, for molecules `fff, ppf, ffff, ppff, pppp` (p a position, f a feature). They sum to
    the value. A last one for molecules, `share`, is the share of them that was judged.

    Attributes:
        max_order: Order K, from 2; up to 6 for dense data, up to 4 for molecules (more counts as
            4).
        beta: Weight of the covariance.
        weights: Weights w_3 .. w_K; those of the Edgeworth expansion when `None`.
        n_samples: Largest number of data items.
        n_batches: Number G of batches; for molecules, of each size.
        draws_per_item: Number of draws of a reference that is no Gaussian, per data item.

    Raises:
        DataError: If a setting makes no sense.
    """

    name: ClassVar[str] = "cumulant"
    unit: ClassVar[str] = "nats"

    max_order: int = 4
    beta: float = 0.25
    weights: tuple[float, ...] | None = None
    n_samples: int = 50_000
    n_batches: int = 10
    draws_per_item: int = 4

    def __post_init__(self) -> None:
        if not 2 <= self.max_order <= MAX_ORDER:
            raise DataError(f"max_order={self.max_order}: orders 2 to {MAX_ORDER} are known.")
        if self.weights is not None and len(self.weights) != self.max_order - 2:
            raise DataError(
                f"got {len(self.weights)} weights; max_order={self.max_order} needs "
                f"{self.max_order - 2}, of orders 3 to {self.max_order}."
            )
        if not all(w >= 0 and math.isfinite(w) for w in (self.beta, *(self.weights or ()))):
            raise DataError(
                f"beta={self.beta}, weights={self.weights}: all must be finite and non-negative."
            )
        self._require(n_batches=3, n_samples=24, draws_per_item=1)

    def _draw(self, task: Task, reference: ReferenceGaussian) -> CriterionCurve:
        wanted = DenseReference if task.mask is None else MoleculeReference
        if not isinstance(reference, wanted):
            raise DataError(
                f"a {type(reference).__name__} is no reference for these data; need a "
                f"{wanted.__name__}, such as make_reference gives."
            )
        task, group = self._sample(task)
        makers: Sequence[Callable[[], DenseBatches | SizeBatches]]
        if isinstance(reference, DenseReference):
            makers = [self._dense(task, group, reference)]
        elif isinstance(reference, MoleculeReference):
            makers = self._molecules(task, group, reference)
        levels = task.levels
        tick = task.ticker(len(levels) * len(makers), per_level=len(makers))
        n_items, rows, weights, sizes = 0, [], [], []
        sums: dict[str, Tensor] = {}
        for make in makers:
            part, by_level = make(), []
            for level in levels:
                by_level.append(self._columns(part.grams(*coefficients(level))))
                tick()
            n_items += part.n_items
            columns = []
            for name in by_level[0]:
                columns.append(torch.stack([one[name] for one in by_level], 1).cpu())
                sums[name] = sums.get(name, 0) + part.n_items * columns[-1].mean(0)
            rows.append(torch.stack(columns).sum(0))
            weights += [part.n_items / part.n_batches] * part.n_batches
            sizes += [part.n_atoms] * part.n_batches if isinstance(part, SizeBatches) else []
        weight = torch.tensor(weights, dtype=torch.float64)
        parts = Contributions(torch.cat(rows), weight, torch.tensor(sizes) if sizes else None)
        extra = {name: tuple((total / n_items).tolist()) for name, total in sums.items()}
        if task.mask is not None:
            extra["share"] = (n_items / len(task),) * len(levels)
        return self._curve(task, reference, parts, extra)

    def _sample(self, task: Task) -> tuple[Task, Tensor]:
        """At most `n_samples` of the items, and the number of the distinct item of each (M,)."""
        room: float = math.inf
        if task.mask is None:
            entries = math.prod(task.x.shape[1:])
            room = DenseBatches.room(entries, self.max_order, self.n_batches)
        task = task.sample(min(self.n_samples, room))
        group = torch.from_numpy(task.copies("are kept in one batch"))
        n_distinct = len(torch.unique(group))
        if _FEWEST_BATCHES * _BATCH <= n_distinct < min(_FEW, room):
            warn(
                f"{n_distinct} data items may lack the rare ones that make a cumulant large: the "
                f"value is then too small and t* optimistic. Pass at least {_FEW} where you can."
            )
        return task, group

    def _columns(self, grams: dict[str, Tensor]) -> dict[str, Tensor]:
        """Pseudo-values (G,) by column, in nats."""
        pseudo = {name: norm_pseudo_values(gram) for name, gram in grams.items()}
        columns = {"mean": 0.5 * pseudo["mean"], "covariance": self.beta * pseudo["covariance"]}
        for block in BLOCKS:
            if block in pseudo:
                name = "p" * block.count("p") + "f" * (len(block) - block.count("p"))  # f: u or g
                columns[name] = columns.get(name, 0) + self._weight(len(block)) * pseudo[block]
        for order in range(3, self.max_order + 1):
            if f"order_{order}" in pseudo:
                columns[f"order_{order}"] = self._weight(order) * pseudo[f"order_{order}"]
        return columns

    def _weight(self, order: int) -> float:
        return self.weights[order - 3] if self.weights else 1 / (2 * math.factorial(order))

    def _dense(
        self, task: Task, group: Tensor, reference: DenseReference
    ) -> Callable[[], DenseBatches]:
        batch, n_batches = self._batches(group)
        if n_batches < _FEWEST_BATCHES:
            raise DataError(
                f"found {len(task)} data items, too few that are distinct: need at least "
                f"{_FEWEST_BATCHES * _BATCH}. Pass more data."
            )
        home = workspace(task.x.device)
        x = task.x.to(home).to(torch.float64)
        return partial(DenseBatches.of, x, batch.to(home), reference, self.max_order)

    def _molecules(
        self, task: Task, group: Tensor, reference: MoleculeReference
    ) -> list[Callable[[], SizeBatches]]:
        """A function per size that makes its batches: one at a time, as their tensors are large."""
        assert task.mask is not None
        x, mask = task.x, task.mask
        order = min(self.max_order, _MAX_MOLECULE_ORDER)
        f = x.shape[2] - reference.n_positions
        if f**order > TENSOR_LIMIT:
            raise DataError(
                f"cumulants of order {order} of {f} feature channels are {f}^{order} numbers, too "
                f"many: at most 2^{TENSOR_LIMIT.bit_length() - 1}. Lower max_order."
            )
        makers: list[Callable[[], SizeBatches]] = []
        n_atoms, left_out = mask.sum(1), 0
        for size in torch.unique(n_atoms).tolist():
            rows = n_atoms == size
            here = x[rows][mask[rows]].reshape(-1, size, x.shape[2]).to("cpu").to(torch.float64)
            batch, n_batches = self._batches(group[rows.cpu()])
            if n_batches < _FEWEST_BATCHES:
                left_out += len(here)
                continue
            settings = (reference, order, self.draws_per_item, task.generator)
            makers.append(partial(SizeBatches.of, here, batch, *settings))
        if not makers:
            raise DataError(
                f"found {len(x)} molecules, and of no size are there {_FEWEST_BATCHES * _BATCH} "
                "distinct ones, which a cumulant needs. Pass more data, or choose the criterion "
                "two_sample, which judges molecules of all sizes together."
            )
        if left_out > 0.05 * len(x):
            warn(
                f"the criterion leaves out {left_out} of the {len(x)} molecules that it judges: "
                f"there are fewer than {_FEWEST_BATCHES * _BATCH} distinct ones of their size. The "
                "moments have all. Pass more molecules or conformers, judge more of them "
                "(n_criterion, `gaga fit --items`), or choose the criterion two_sample, which "
                "judges molecules of all sizes together."
            )
        return makers

    def _batches(self, group: Tensor) -> tuple[Tensor, int]:
        """Batch of each item (M,), copies of one item in one batch, and the number of batches."""
        distinct, place = torch.unique(group, return_inverse=True)
        n_batches = min(self.n_batches, len(distinct) // _BATCH)
        return place % max(n_batches, 1), n_batches
