r"""Moments of molecules whose types stay discrete: positions given types, and types in their order.

The types are one-hot features, all of one height. Beside the moments of every molecule
(`molecules.py`) three things are kept, each a mean per size, or beside the rows of its table:

    Q_k = E sum_{i of type k} |x_i|² / 3          positions given types
    C_ij = E x_i · x_j / 3                        positions by their place in the order of the data
    the types of every sampled molecule           in that order

**Positions given types.** By rotation symmetry `E[x | types] = 0`. The model is `x_i = s_(c_i) z_i`
with the centre of mass removed, `z` standard normal: atoms of some types sit outside, of others
inside. With `n_k` atoms of type k in a molecule, it says

    Q_k = (1 - 2/N) E[n_k] s_k² + (1/N²) sum_l E[n_k n_l] s_l²,

a linear system for `s²`, whose matrix is positive. What a type has beyond its own variance, the
covariance of two types' centres, was measured on QM9 and is left out: it adds 0.02 nats at most to
the 0.3 to 1.0 nats of the variances, at t = 0.6 to 0.75 of a linear flow (`benchmarks/mixed.py`).

**Order.** Codebases with positional encodings train on molecules in the order of a SMILES, whose
neighbours are bonded. `C` knows that; exchangeable moments cannot.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gaga_adapter.covariance import is_covariance
from gaga_adapter.errors import DataError, StatsMismatchError
from gaga_adapter.files.checked import Tensors
from gaga_adapter.hashing import atom_hashes, splitmix64
from gaga_adapter.moments.central import LARGEST
from gaga_adapter.moments.molecules import ExchangeableMoments, SizeMoments, matching_mask
from gaga_adapter.moments.table import BottomK
from gaga_adapter.subspace import atoms_first, remove_mean

_OWN = ("type_squares", "place_covariances", "row_types")
_PRIOR_ATOMS = 3.0  # of the average variance, that every type has beside its own


class MixedMoments(ExchangeableMoments):
    """Streaming, mergeable moments of molecules (B, N, 3 + K) with one-hot types, per size.

    Args:
        n_features: Number of types K, at most 127.
        table_size: Number of molecules sampled per size.
        n_positions: Number of position channels, 3.

    Raises:
        DataError: If there are no positions, too many types, or no table.
    """

    def __init__(self, n_features: int, table_size: int = 1024, n_positions: int = 3) -> None:
        if n_positions != 3 or not 1 <= n_features <= 127 or table_size < 1:
            raise DataError(
                f"n_features={n_features}, n_positions={n_positions}, table_size={table_size}: "
                "moments with discrete types need 3 position channels, 1 to 127 types, and a table."
            )
        super().__init__(n_features, table_size, n_positions)
        self._squares: dict[int, Tensor] = {}  # Q (K,) by size
        self._places: dict[int, Tensor] = {}  # C (N, N) by size
        self._types: dict[int, BottomK] = {}  # types (R, N) by size, in the order of the table

    def update(self, x: Tensor, mask: Tensor | None = None) -> None:
        """Take in a batch; nothing changes if it is refused.

        Args:
            x: Molecules (B, N, 3 + K), the last K channels one-hot.
            mask: Real atoms (B, N), bool; inferred from the padding when `None`.

        Raises:
            StatsMismatchError: If `x` has another number of channels.
            DataError: If the types are not one-hot, or have another height than those before; or if
                a molecule has no atoms, or a number that is not finite.
        """
        described = (self.n_features, self.n_positions)
        mask = matching_mask(x, mask, *described, "these moments describe")
        if bool(mask.any()):
            height = check_one_hot(x, mask)
            known = type_height(self) if self.count else height
            if abs(known - height) > 1e-4 * height:
                raise DataError(
                    f"one-hot types of height {height:g}, and those before have {known:g}. Pass "
                    "all molecules in one normalisation."
                )
        super().update(x, mask)

    def _take(self, x: Tensor, mask: Tensor) -> None:
        if not len(x):
            return
        before = dict(enumerate(self._count.tolist()))
        super()._take(x, mask)
        n_atoms, types = mask.sum(1), x[..., 3:].argmax(-1)
        positions = remove_mean(x[..., :3].double(), mask)
        priorities = splitmix64((atom_hashes(x) * mask).sum(1) + n_atoms)
        for n in map(int, torch.unique(n_atoms)):
            here = n_atoms == n
            real = mask[here]
            rows = torch.cat([positions[here], types[here][..., None]], -1)
            ordered = atoms_first(rows, real)[0][:, :n]
            mine, kinds = ordered[..., :3], ordered[..., 3].long()
            one_hot = torch.nn.functional.one_hot(kinds, self.n_features).double()
            squares = (one_hot.mT @ mine.square().sum(-1, keepdim=True))[..., 0].mean(0) / 3
            places = torch.einsum("bid,bjd->ij", mine, mine) / (3 * len(mine))
            self._join(n, before.get(n, 0.0), squares, places, float(len(mine)))
            table = self._types.setdefault(n, BottomK(n, self.table_size))
            table.add(torch.zeros(len(mine), dtype=torch.int64), priorities[here], kinds)

    def _join(self, n: int, count: float, squares: Tensor, places: Tensor, more: float) -> None:
        """Means of one size, with those of `more` molecules beside the `count` of before."""
        share = more / (count + more)
        for known, new in ((self._squares, squares), (self._places, places)):
            known[n] = new.clone() if n not in known else known[n] + (new - known[n]) * share

    def merge(self, other: ExchangeableMoments) -> MixedMoments:
        """Take in everything that `other` has seen; returns self.

        Raises:
            StatsMismatchError: If the two describe different things.
        """
        before = dict(enumerate(self._count.tolist()))
        super().merge(other)
        assert isinstance(other, MixedMoments)  # their metadata say so
        for n, count in zip(*(v.tolist() for v in (other.sizes, other.counts)), strict=True):
            self._join(n, before.get(n, 0.0), other._squares[n], other._places[n], count)
            table = self._types.setdefault(n, BottomK(n, self.table_size))
            table.add(*other._types[n].arrays())
        return self

    def variance_ratios(self, size: SizeMoments) -> Tensor:
        """`s_k² / v_x` (K,), the variance of an atom of each type over that of all, at one size.

        Rare sizes borrow from the window that `size` was pooled over. A type has three atoms of
        the average variance beside its own, so that one which is hardly seen has about that.
        """
        height, n_types = type_height(self), self.n_features
        matrix = torch.zeros(n_types, n_types, dtype=torch.float64)
        squares, weight = torch.zeros(n_types, dtype=torch.float64), 0.0
        rows = (self.sizes - size.n_atoms).abs() <= size.radius
        values = (self.sizes, self.counts, self.v_x, self.feature_mean, self.between)
        for n, count, v_x, mean, between in zip(*(v[rows] for v in values), strict=True):
            if n < 2 or v_x <= 0:
                continue
            expected = n * mean / height
            pairs = n * between / height**2 + torch.outer(expected, expected)
            matrix += count * ((1 - 2 / n) * expected.diag() + pairs / n**2)
            squares += count * self._squares[int(n)] / v_x
            weight += float(count)
        matrix += _PRIOR_ATOMS * torch.eye(n_types)
        ratios: Tensor = torch.linalg.solve(matrix, squares + _PRIOR_ATOMS)
        return ratios.clamp(min=1e-3)

    def place_covariance(self, size: SizeMoments) -> Tensor:
        """`E x_i · x_j / (3 v_x)` (N, N) of atoms by their place, at one size.

        Other sizes of its window are stretched linearly to N places.
        """
        total = torch.zeros(size.n_atoms, size.n_atoms, dtype=torch.float64)
        rows = (self.sizes - size.n_atoms).abs() <= size.radius
        for n, count, v_x in zip(
            *(v[rows] for v in (self.sizes, self.counts, self.v_x)), strict=True
        ):
            if n < 2 or v_x <= 0:
                continue
            stretch = _stretch(int(n), size.n_atoms)
            total += float(count / v_x) * (stretch @ self._places[int(n)] @ stretch.T)
        return total / total.diagonal().sum().clamp(min=1e-300) * (size.n_atoms - 1)

    def row_types(self, size: SizeMoments) -> Tensor:
        """Types (R, N), int64, of the sampled molecules of `size`, in the order of its rows.

        A molecule of another size gives each place the type at the nearest place of its own.
        """
        parts = []
        for n in self.sizes[(self.sizes - size.n_atoms).abs() <= size.radius].tolist():
            if n >= min(size.n_atoms, 2):
                place = torch.linspace(0, n - 1, size.n_atoms).round().long()
                parts.append(self._types[n].group(0).long()[:, place])
        return torch.cat(parts)

    def metadata(self) -> dict[str, Any]:
        """Meaning of the tensors of `state_dict`, in a form that JSON can hold."""
        return {**super().metadata(), "moments": "mixed"}

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that the moments hold, as a flat dict of contiguous tensors."""
        sizes = self.sizes.tolist()
        own = {
            "type_squares": torch.stack([self._squares[n] for n in sizes]),
            "place_covariances": torch.cat([self._places[n].flatten() for n in sizes]),
            "row_types": torch.cat(
                [self._types[n].group(0).flatten().to(torch.int8) for n in sizes]
            ),
        }
        return {**super().state_dict(), **own}

    @classmethod
    def from_state_dict(cls, state: dict[str, Tensor], metadata: dict[str, Any]) -> MixedMoments:
        """The inverse of `state_dict` and `metadata`.

        Raises:
            ArtefactError: If something is missing or of another shape.
        """
        usual = {name: tensor for name, tensor in state.items() if name not in _OWN}
        moments = super().from_state_dict(usual, metadata)
        assert isinstance(moments, cls)
        own = Tensors({name: state[name] for name in _OWN if name in state}, "the mixed moments")
        sizes, k = moments.sizes.tolist(), moments.n_features
        squares = own.take("type_squares", torch.float64, [len(sizes), k])
        own.within("type_squares", squares, 0, max(sizes) * LARGEST**2)
        places = own.take("place_covariances", torch.float64, [sum(n * n for n in sizes)])
        own.within("place_covariances", places, -(LARGEST**2), LARGEST**2)
        groups, priorities, _ = moments._table.arrays()
        types = own.take("row_types", torch.int8, [int(groups.sum())])
        own.within("row_types", types, 0, k - 1)
        ends = torch.tensor([n * n for n in sizes]).cumsum(0)[:-1]
        split = places.tensor_split(ends)
        for n, square, place in zip(sizes, squares, split, strict=True):
            moments._squares[n], moments._places[n] = square, place.view(n, n)
            proper = is_covariance(place.view(1, n, n), 1e-9).all()
            own.require("place_covariances", proper, "a matrix is not symmetric and positive")
            mine = priorities[groups == n]
            kinds, types = types[: n * len(mine)].view(-1, n), types[n * len(mine) :]
            moments._types[n] = BottomK(n, moments.table_size)
            moments._types[n].add(torch.zeros_like(mine), mine, kinds)
        return moments


def check_one_hot(x: Tensor, mask: Tensor) -> float:
    """The height of the one-hot types of molecules (B, N, 3 + K); refuses features that are none.

    Raises:
        DataError: If an atom has no type, several, or types are of different heights.
    """
    features = x[..., 3:][mask].double()
    height = float(features.amax()) if features.numel() else 0.0
    tolerance = 1e-4 * height
    is_set = (features - height).abs() <= tolerance
    good = (is_set | (features.abs() <= tolerance)).all(-1) & (is_set.sum(-1) == 1)
    if height <= 0 or not bool(good.all()):
        raise DataError(
            "the features are no one-hot types: an atom must have one channel of one height, the "
            "same for all, and zeros. Leave charges out, and pass types without noise."
        )
    return height


def type_height(moments: ExchangeableMoments) -> float:
    """The height of one-hot types, from the moments of molecules that have them.

    Raises:
        StatsMismatchError: If the features are no one-hot types.
    """
    heights = moments.feature_mean.sum(1)
    height = float(heights.mean())
    # The types of one molecule sum up to one height, so their mean does not scatter along it.
    spread = float(moments.between.sum((1, 2)).abs().max())
    if (
        height <= 0
        or float((heights - height).abs().max()) > 1e-4 * height
        or (spread > 1e-6 * height**2 * float(moments.sizes.max()))
    ):
        raise StatsMismatchError(
            "the features of these statistics are no one-hot types (charges beside them, or a "
            "latent), so they have no compositions to draw from. Fit types alone: "
            "MoleculeLayout(elements, onehot_scale=1)."
        )
    return height


def _stretch(n: int, to: int) -> Tensor:
    """The matrix (to, n) of linear interpolation from n places to others."""
    if n == to:
        return torch.eye(n, dtype=torch.float64)
    place = torch.linspace(0, n - 1, to, dtype=torch.float64)[:, None]
    return (1 - (place - torch.arange(n, dtype=torch.float64)).abs()).clamp(min=0)
