r"""The `shape` of states that were measured, noise and all, instead of made of data and noise.

Where noise is paired with data, by a permutation, a rotation or transport, the law of a state is
not that of `a x_0 + b eps`. It is still a law of exchangeable atoms in random orientation. Of all
laws of the positions that give every frame of an eigenvalue triple the same chance, the closest to
it in KL has its own law of gyration eigenvalues:

    KL(p || q) = KL(p(l) || q(l)) + E KL(p(frame, axes | l) || uniform),

of which q only touches the first term. So one molecule's eigenvalues are drawn from the table of
the measured states, and its positions are a uniform frame with exactly these, with no noise added.

Features have the mean of that molecule and scatter around it with the covariance W of the size. A
molecule's own W is that of few noised atoms; drawn with, its spread would be counted twice.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from gaga_adapter.covariance import EigenCovariance
from gaga_adapter.reference import make_reference
from gaga_adapter.reference.base import ReferenceGaussian
from gaga_adapter.reference.gaussian import MoleculeGaussian
from gaga_adapter.reference.shape import ShapeReference

if TYPE_CHECKING:
    from gaga_adapter.moments import Moments


class MeasuredShape(ShapeReference):
    """The reference `shape` of measured states, at their own level (a = 1, b = 0)."""

    def _fit(self, n_atoms: int) -> MoleculeGaussian:
        rows = super()._fit(n_atoms)
        within = EigenCovariance.from_matrix(self.moments.at_size(n_atoms).within[None])
        count = len(rows.mean)
        return replace(rows, within=within.map(lambda part: part.expand(count, *part.shape[1:])))


def measured_reference(moments: Moments, kind: str = "auto") -> ReferenceGaussian:
    """The reference of the moments of measured states, at their own level (a = 1, b = 0).

    Args:
        moments: Moments of the states of one level.
        kind: Kind of the reference, as in `make_reference`.

    Raises:
        StatsMismatchError: If the kind is unknown, or finer than the moments.
    """
    reference = make_reference(moments, kind)
    if isinstance(reference, ShapeReference):
        reference = MeasuredShape(reference.kind, reference.moments)
    reference.is_measured = True
    return reference
