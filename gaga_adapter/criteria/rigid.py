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

It is not if the structure turns about another point, so that its centre is `R o / √N`. Against
noise that has the variance `s² = sigma² + N tau²` on the centre, all of the above holds, with
`D = (r'r - o o') / sigma² + o o' / s²`. Noise of sigma² on the centre, too, adds the same
`3/2 (rho - log(1 + rho))` and `|o|² / 2 (1 / sigma² - 1 / s²)`.

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

from gaga_adapter.errors import DataError, plain_number, whole_number
from gaga_adapter.reference.fisher import log_fisher_normaliser

#: Half the number of points of the quadrature over Z; the error is below 1 % (tests measure it).
_POINTS = 2**12
#: Traces of D below this have a divergence that is its leading term, to a thousandth. There, and
#: for what a translation adds, a series is more exact than what rounding leaves of the function.
_SMALL = 1e-3
#: Largest number of angstrom or nats that is taken, and the inverse of the smallest.
_MOST = 1e20


@dataclass(frozen=True)
class RigidTarget:
    """A structure in random orientation, in angstrom: all that its divergence from noise knows.

    Attributes:
        scatter: Eigenvalues of `sum_i r_i r_i'` over the atoms, in angstrom²; their sum is N Rg² if
            the loop centres its state.
        n_atoms: Number of atoms N.
        offset: Vector `o = √N r̄` along these axes, in angstrom, from the point that the structure
            turns about to its centre; 0 if the loop centres its state.

    Raises:
        DataError: If these are no such numbers.
    """

    scatter: tuple[float, float, float]
    n_atoms: int
    offset: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        object.__setattr__(self, "n_atoms", whole_number("n_atoms", self.n_atoms))
        advice = "Use RigidTarget.from_size or RigidTarget.from_structure."
        scatter, offset = (
            _three(name, getattr(self, name), "three finite numbers", advice)
            for name in ("scatter", "offset")
        )
        if min(scatter) < 0 or sum(o * o for o in offset) > sum(scatter) * (1 + 1e-6):
            raise DataError(
                f"scatter={scatter} with offset={offset} are of no structure: none of scatter is "
                f"negative, and their sum is |offset|² or more. {advice}"
            )
        object.__setattr__(self, "scatter", scatter)
        object.__setattr__(self, "offset", offset)

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
        radius = _positive("radius_of_gyration", radius_of_gyration, "angstrom")
        advice = "Pass the ratio of three eigenvalues, such as (1, 1, 1)."
        ratios = _three("form", form, "three ratios", advice)
        if min(ratios) < 0 or not sum(ratios) > 0:
            raise DataError(f"form={ratios} must be three ratios of 0 or more, not all 0. {advice}")
        size = whole_number("n_atoms", n_atoms) * radius**2 / sum(ratios)
        one, two, three = (size * ratio for ratio in ratios)
        return cls((one, two, three), n_atoms)

    @classmethod
    def from_structure(cls, positions: Tensor, centred: bool = True) -> RigidTarget:
        """A target whose structure is known, such as an earlier prediction or a template.

        Args:
            positions: Atoms (N, 3) in angstrom.
            centred: Whether the loop works on centred positions, as Boltz and Chai-1 do. If not,
                the structure turns about the origin, and its distance from there counts.

        Raises:
            DataError: If there are no numbers of this shape, or one is not finite.
        """
        try:
            atoms = torch.as_tensor(positions).detach().to("cpu", torch.float64)
        except (TypeError, ValueError, RuntimeError) as error:
            raise DataError(
                f"a structure is a {type(positions).__name__} that holds no numbers of the shape "
                f"(N, 3): {error}. Pass a tensor of positions in angstrom."
            ) from error
        if atoms.ndim != 2 or atoms.shape[1] != 3 or not len(atoms):
            raise DataError(f"a structure has the shape (N, 3), got {tuple(atoms.shape)}.")
        if not bool(torch.isfinite(atoms).all()):
            raise DataError("the structure has a coordinate that is not finite.")
        if centred:
            atoms = atoms - atoms.mean(0)
        _, values, axes = torch.linalg.svd(torch.cat([atoms, atoms.new_zeros(3, 3)]), False)
        one, two, three = values.square().tolist()
        if centred:
            return cls((one, two, three), len(atoms))
        x, y, z = (axes @ atoms.mean(0) * math.sqrt(len(atoms))).tolist()
        return cls((one, two, three), len(atoms), (x, y, z))

    @property
    def radius_of_gyration(self) -> float:
        """Root mean square distance of an atom from the centre, in angstrom."""
        around = sum(self.scatter) - sum(o * o for o in self.offset)
        return math.sqrt(max(around, 0.0) / self.n_atoms)

    def divergence(self, sigma: float, translation: float = 0.0) -> float:
        """KL(law of the noised structure || noise) in nats, by quadrature, to 1 %.

        Args:
            sigma: Standard deviation of the noise per coordinate, in angstrom.
            translation: Standard deviation of a random translation, in angstrom, of a target that
                is not centred; its noise then has a centre of mass, too.

        Raises:
            DataError: If sigma is not positive, or the translation is negative.
        """
        scaled, moved = self._law(sigma, translation)
        return _divergence(scaled) + moved

    def bound(self, sigma: float, translation: float = 0.0) -> float:
        """An upper bound of `divergence` in nats: the smaller of `log c(D)` and `tr D / 2`.

        It is twice the divergence at large sigma. The arguments are those of `divergence`.
        """
        scaled, moved = self._law(sigma, translation)
        return _bound(scaled) + moved

    def leading(self, sigma: float) -> float:
        """The first term of the divergence in 1/sigma, `tr D² / 12`, in nats."""
        return sum(value**2 for value in self._law(sigma, 0.0)[0]) / 12

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
            DataError: If the tolerance is not positive and finite, the translation is negative or
                not finite, or all atoms are in one place.
        """
        tolerance = _positive("tolerance", tolerance, "nats")
        translation = _positive("translation", translation, "angstrom", or_zero=True)
        measure = self.bound if rigorous else self.divergence
        spread = self.n_atoms * translation**2
        scale = (sum(v**2 for v in self.scatter) / 12 + 3 * spread**2 / 4) ** 0.25
        if not scale > 0:
            raise DataError("all atoms are in one place: every sigma is indistinguishable.")
        return _falls_to(lambda sigma: measure(sigma, translation), tolerance, scale)

    def _law(self, sigma: float, translation: float) -> tuple[tuple[float, float, float], float]:
        """The eigenvalues of D, and what a random translation adds."""
        sigma = _positive("sigma", sigma, "angstrom")
        translation = _positive("translation", translation, "angstrom", or_zero=True)
        one, two, three = (value / sigma**2 for value in self.scatter)
        rho = self.n_atoms * (translation / sigma) ** 2
        # From the series for small rho, where the logarithm would leave rounding alone.
        moved = rho**2 * (1 / 2 - rho / 3 + rho**2 / 4) if rho < _SMALL else rho - math.log1p(rho)
        square = sum(o * o for o in self.offset) / sigma**2
        if not rho or not square:
            return (one, two, three), 1.5 * moved
        less = rho / (1 + rho)  # the share of 1 / sigma² that the noise of the centre takes away
        offset = torch.tensor(self.offset, dtype=torch.float64) / sigma
        matrix = torch.tensor([one, two, three], dtype=torch.float64).diag()
        values = torch.linalg.eigvalsh(matrix - less * torch.outer(offset, offset)).clamp(min=0)
        three, two, one = values.tolist()
        return (one, two, three), 1.5 * moved + less * square / 2


def _positive(name: str, value: Any, unit: str, or_zero: bool = False) -> float:  # noqa: ANN401
    """A positive number that a caller passed, as far as its powers are numbers, too.

    Raises:
        DataError: If it is none.
    """
    advice = f"Pass a number of {unit} from {1 / _MOST:g} to {_MOST:g}{', or 0' * or_zero}."
    number = plain_number(name, value, advice, DataError)
    if not (1 / _MOST <= number <= _MOST or (or_zero and number == 0)):
        raise DataError(f"{name}={number:g} is out of range. {advice}")
    return number


def _three(name: str, values: Any, what: str, advice: str) -> tuple[float, float, float]:  # noqa: ANN401
    """Three finite numbers that a caller passed.

    Raises:
        DataError: If they are others.
    """
    try:
        one, two, three = (plain_number(name, value, advice, DataError) for value in values)
    except (TypeError, ValueError) as error:
        raise DataError(f"{name}={values!r} must be {what}. {advice}") from error
    return one, two, three


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


def _bound(scaled: tuple[float, float, float]) -> float:
    """The smaller of `log c(D)` and `tr D / 2`.

    For small D, where rounding would take over, an upper bound of `log c(D)`: with `y = <D, R>`,
    which is at most `t = tr D`, `c(D) = E e^y <= 1 + tr D² / 6 + det D / 6 + e^t t⁴ / 24`.
    """
    d = torch.tensor(scaled, dtype=torch.float64)
    trace = float(d.sum())
    if trace < _SMALL:
        turned = float(d.square().sum() + d.prod()) / 6 + math.exp(trace) * trace**4 / 24
    else:
        turned = float(log_fisher_normaliser(d.diag()))
    return min(turned, trace / 2)


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
