r"""One rigid structure in random orientation: how far its noised law is from noise alone.

A structure predictor makes one structure for a sequence. Its target is `x_0 = R r`, with `r` (N, 3)
centred and R a uniformly random proper rotation, and statistics of a data set say nothing about it.
But the divergence of `x = R r + sigma P eps` from `N(0, sigma² P)` is known. With
`D = r'r / sigma²` (3×3) and the normaliser c(F) of the matrix Fisher distribution, the ratio of the
two densities is `exp(-tr D / 2) c(x'r / sigma²)`, and by symmetry R may be fixed:

    KL = E log c(D + D^(1/2) Z) - tr D / 2,    Z a 3×3 matrix of unit noise.

So the divergence is a function of three numbers, the eigenvalues of D. From
`log c(F) = |F|²/6 + det F / 6 + O(|F|⁴)`, or from half of the chi-square divergence,

    KL = tr D² / 12 + O(sigma^-6) = N² Rg⁴ / (36 sigma⁴) for a round structure,

and by Jensen's inequality, for every sigma (this is the Rényi divergence of order 2),

    KL <= log E exp(<R r, R' r> / sigma²) = log c(D) = tr D² / 6 + O(sigma^-6),

and, by the convexity of the divergence over rotations, `KL <= tr D / 2`.

**A target that is not rigid** has several structures with probabilities w_k. The divergence is
convex, so that it is at most `sum w_k KL_k`, and at most that of the structure of the largest.

**Translations.** A loop that centres its state first, and then moves it at random, as those of
Boltz and Chai-1 do, starts with the same translation whatever its start was: they add nothing.
Without centring, a translation by `N(0, tau²)` adds `3/2 (rho - log(1 + rho))`, `rho = N tau²
/ sigma²`, because the centre of mass is independent of the rest.

**A fitted variance gains nothing here.** The Gaussian `N(0, (sigma² + v) P)` of the right size
lowers the divergence by the share 3/N of its leading term only.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gaga_adapter.errors import DataError, whole_number
from gaga_adapter.reference.fisher import log_fisher_normaliser

#: Half the number of points of the quadrature over Z; the error is below 1 % (tests measure it).
_POINTS = 2**12
#: Traces of D below this have a divergence that is its leading term, to a thousandth.
_SMALL = 1e-3


@dataclass(frozen=True)
class RigidTarget:
    """A structure in random orientation, in angstrom: all that its divergence from noise knows.

    Attributes:
        scatter: Eigenvalues of `sum_i r_i r_i'` over the atoms, in angstrom²; their sum is N Rg².
        n_atoms: Number of atoms N.
    """

    scatter: tuple[float, float, float]
    n_atoms: int

    def __post_init__(self) -> None:
        whole_number("n_atoms", self.n_atoms)
        if len(self.scatter) != 3 or not all(0 <= value < math.inf for value in self.scatter):
            raise DataError(
                f"scatter={self.scatter} are not three finite, non-negative numbers. Use "
                "RigidTarget.from_size or RigidTarget.from_structure."
            )

    @classmethod
    def from_size(
        cls,
        n_atoms: int,
        radius_of_gyration: float,
        form: Sequence[float] = (1.0, 1.0, 1.0),
    ) -> RigidTarget:
        """A target of which only the size is known.

        Args:
            n_atoms: Number of atoms N.
            radius_of_gyration: Root mean square distance of an atom from the centre, in angstrom.
                A folded protein chain of L residues has about `2.2 L^0.38`. A larger radius gives a
                larger sigma*, so an upper bound is on the safe side.
            form: Ratio of the three eigenvalues of the gyration tensor; round by default. A rod,
                `(1, 0, 0)`, has three times the divergence at leading order, and sigma* is 1.32
                times as large.

        Raises:
            DataError: If a number is not positive and finite, or a ratio is negative.
        """
        if not 0 < radius_of_gyration < math.inf:
            raise DataError(
                f"radius_of_gyration={radius_of_gyration} must be a positive, finite number of "
                "angstrom."
            )
        if len(form) != 3 or not all(0 <= f < math.inf for f in form) or not sum(form) > 0:
            raise DataError(f"form={tuple(form)} must be three ratios of 0 or more, not all 0.")
        size = whole_number("n_atoms", n_atoms) * radius_of_gyration**2 / sum(form)
        one, two, three = (size * float(ratio) for ratio in form)
        return cls((one, two, three), n_atoms)

    @classmethod
    def from_structure(cls, positions: Tensor, centred: bool = True) -> RigidTarget:
        """A target whose structure is known, such as an earlier prediction or a template.

        Args:
            positions: Atoms (N, 3) in angstrom.
            centred: Whether the loop works on centred positions, as Boltz and Chai-1 do. If not,
                the structure turns about the origin, and its distance from there counts.

        Raises:
            DataError: If the shape is another one, or a number is not finite.
        """
        atoms = torch.as_tensor(positions).detach().to("cpu", torch.float64)
        if atoms.ndim != 2 or atoms.shape[1] != 3 or not len(atoms):
            raise DataError(f"a structure has the shape (N, 3), got {tuple(atoms.shape)}.")
        if not bool(torch.isfinite(atoms).all()):
            raise DataError("the structure has a coordinate that is not finite.")
        if centred:
            atoms = atoms - atoms.mean(0)
        one, two, three = torch.linalg.svdvals(torch.cat([atoms, atoms.new_zeros(3, 3)])).square()
        return cls((float(one), float(two), float(three)), len(atoms))

    @property
    def radius_of_gyration(self) -> float:
        """Root mean square distance of an atom from the centre, in angstrom."""
        return math.sqrt(sum(self.scatter) / self.n_atoms)

    def divergence(self, sigma: float, translation: float = 0.0) -> float:
        """KL(law of the noised structure || noise) in nats, by quadrature, to 1 %.

        Args:
            sigma: Standard deviation of the noise per coordinate, in angstrom.
            translation: Standard deviation of a random translation, in angstrom, of a target that
                is not centred; its noise then has a centre of mass, too.

        Raises:
            DataError: If sigma is not positive, or the translation is negative.
        """
        scaled = self._scaled(sigma, translation)
        return _divergence(scaled) + self._moved(sigma, translation)

    def bound(self, sigma: float, translation: float = 0.0) -> float:
        """An upper bound of `divergence` in nats: the smaller of `log c(D)` and `tr D / 2`.

        It is twice the divergence at large sigma. The arguments are those of `divergence`.
        """
        scaled = torch.tensor(self._scaled(sigma, translation), dtype=torch.float64)
        turned = min(float(log_fisher_normaliser(scaled.diag())), float(scaled.sum()) / 2)
        return turned + self._moved(sigma, translation)

    def leading(self, sigma: float) -> float:
        """The first term of the divergence in 1/sigma, `tr D² / 12`, in nats."""
        return sum(value**2 for value in self._scaled(sigma, 0.0)) / 12

    def sigma_star(
        self, tolerance: float = 0.5, rigorous: bool = False, translation: float = 0.0
    ) -> float:
        """The noise level in angstrom from which on the target is within a tolerance of noise.

        Args:
            tolerance: Nats that the start may differ from the noised target by.
            rigorous: Whether `bound` is asked instead of `divergence`: a proof that needs no
                quadrature over noise, at a sigma* that is 1.2 to 1.3 times as large.
            translation: Standard deviation of a random translation, as in `divergence`.

        Raises:
            DataError: If the tolerance is not positive and finite, or all atoms are in one place.
        """
        if not 0 < tolerance < math.inf:
            raise DataError(f"tolerance={tolerance} must be a positive, finite number of nats.")
        measure = self.bound if rigorous else self.divergence
        spread = self.n_atoms * translation**2
        scale = (sum(v**2 for v in self.scatter) / 12 + 3 * spread**2 / 4) ** 0.25
        if not scale > 0:
            raise DataError("all atoms are in one place: every sigma is indistinguishable.")
        return _falls_to(lambda sigma: measure(sigma, translation), tolerance, scale)

    def _scaled(self, sigma: float, translation: float) -> tuple[float, float, float]:
        """The eigenvalues of D."""
        if not 0 < sigma < math.inf:
            raise DataError(f"sigma={sigma} must be a positive, finite number of angstrom.")
        if not 0 <= translation < math.inf:
            raise DataError(f"translation={translation} must be a number of angstrom, 0 or more.")
        one, two, three = self.scatter
        return one / sigma**2, two / sigma**2, three / sigma**2

    def _moved(self, sigma: float, translation: float) -> float:
        """What a random translation adds."""
        rho = self.n_atoms * (translation / sigma) ** 2
        return 1.5 * (rho - math.log1p(rho))


def _falls_to(value: Callable[[float], float], tolerance: float, scale: float) -> float:
    """Where a function that falls with sigma reaches the tolerance; it is about 1 at `scale`."""
    from scipy.optimize import brentq

    def excess(log_sigma: float) -> float:
        return math.log(value(math.exp(log_sigma)) / tolerance)

    low = high = math.log(scale) - math.log(tolerance) / 4
    while excess(low) < 0:
        low -= 0.5
    while excess(high) > 0:
        high += 0.5
    return math.exp(brentq(excess, low, high, xtol=1e-6)) if low < high else math.exp(low)


def _divergence(scaled: tuple[float, float, float]) -> float:
    """`E log c(D + D^(1/2) Z) - tr D / 2` by quasi-Monte Carlo with two control variates.

    `|F|²` and `det F` have known means, `tr D² + 3 tr D` and `det D`. For small D they are all of
    `log c` but terms of order D², so that the relative error stays the same. Where rounding would
    take over, the leading term is as exact.
    """
    d = torch.tensor(scaled, dtype=torch.float64)
    if float(d.sum()) < _SMALL:
        return float(d.square().sum()) / 12
    matrices = d.diag() + d.sqrt()[:, None] * _unit_noise()
    controls = torch.stack(
        [
            matrices.square().sum((1, 2)) - d.square().sum() - 3 * d.sum(),
            torch.linalg.det(matrices) - d.prod(),
            torch.ones(len(matrices), dtype=torch.float64),
        ],
        1,
    )
    controls = controls / controls.square().mean(0).sqrt().clamp(min=1e-300)
    value = log_fisher_normaliser(matrices) - d.sum() / 2
    return float(torch.linalg.lstsq(controls, value[:, None], driver="gelsd").solution[2])


@functools.cache
def _unit_noise() -> Tensor:
    """Points (n, 3, 3) that stand for unit noise, each with its opposite; the same ones always."""
    sobol: Any = torch.quasirandom.SobolEngine(9, scramble=True, seed=0)  # type: ignore[no-untyped-call]
    u = sobol.draw(_POINTS, dtype=torch.float64).clamp(1e-12, 1 - 1e-12)
    z = torch.special.ndtri(u).reshape(-1, 3, 3)
    return torch.cat([z, -z])
