r"""References of molecules whose positions diffuse and whose types are shown one by one.

A flow with discrete types has two noises. At a level (a, b) the positions are `x_t = a x_0 + b z`,
and each atom shows its true type with probability

    p = a / (a + b)            the time t of a linear flow, in units of its noise

and else a type of noise: a uniform one, or a mask. Where positions have become Gaussian, half or
two thirds of the types show, so types cannot be drawn one by one. The law is

1. a molecule of the data's table for the size: its composition, and its gyration eigenvalues `l`;
2. the types `c`: its composition in random order, or its own types in the order of the data;
3. positions given the types, `a sqrt(n - 1) U diag(l)^(1/2) R' + b z`, R a uniform rotation and U
   the left singular vectors, largest first, of three columns `G(c)^(1/2) w`, w normal and `G(c)`
   the covariance of the atoms given their types: a Gaussian draw, with the tensor of the row;
4. the types that show.

So size, form and composition are the data's own, and atoms of a type are about as far out as in the
data. With `G = P` this is the reference `shape`. The kinds differ in two places:

- `mixed`:        `G(c) = P diag(s²) P`, by types;
- `mixed_order`:  `G` by places, and types in their order: for networks with positional encodings;
- `mixed_size`:   `G(c)` by types, and `a v_x^(1/2) G(c)^(1/2) w + b z` without a frame: positions
                  are Gaussian given types, which is exact for such data.

*Moments of a plain fit* know compositions, if their features are one-hot, and nothing of positions
given types: there `s² = 1`.

*Masks.* `fit` and `GAGAStats.reference` make these references with uniform types of noise. For a
flow whose hidden types show a mask, build `MixedReference(kind, moments, mask_type=...)`, judge it
by `TwoSample().curve(x, mask, reference, levels)` and take t* of `selection.select(curve)`.

*Transport* reads its latents off the bits of the noise, as `shape` does. The noise of the positions
stays what it is, and so do the types of the noise where an atom shows none of its own.

*What is not there.* No density, and so no prior term: `q(x_t, c_t)` is a sum over all arrangements
of the true types, `n! / prod n_k!` of them. For molecules of two or three atoms the sum is the
oracle of the tests. The divergence from the data is known from below, by `TwoSample`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from gaga_adapter.errors import DataError, StatsMismatchError
from gaga_adapter.hashing import uniforms
from gaga_adapter.moments import ExchangeableMoments
from gaga_adapter.moments.mixed import MixedMoments, type_height
from gaga_adapter.moments.molecules import matching_mask
from gaga_adapter.reference.base import ReferenceGaussian, draw_noise, mask_of, workspace
from gaga_adapter.reference.haar import gaussians, rotations
from gaga_adapter.reference.shape import noise_hash
from gaga_adapter.subspace import project, remove_mean

_PER_ATOM = 5  # uniform numbers: three of a frame, a key of the order, and whether the type shows
_OF_MOLECULE = 4  # a row and a rotation


@dataclass(frozen=True)
class _Rows:
    """What is known of one size, at the level of the data."""

    steps: Tensor  # cumulative probabilities (R,)
    extent: Tensor  # square roots (R, 3), falling, of the eigenvalues of x'x
    types: Tensor  # types (R, N), int64, sorted where their order is random
    scale: Tensor  # standard deviations (K,) of atoms by type
    factor: Tensor | None  # square root (N, N) of the covariance by place
    v_x: float


def linear_flow(a: float, b: float) -> float:
    """Probability that an atom shows its type, where positions and types share their time."""
    return a / (a + b)


class MixedReference(ReferenceGaussian):
    """Positions given types, and types that show: kinds `mixed`, `mixed_order` and `mixed_size`.

    Molecules are (B, N, 3 + K), the types one-hot. The noise that `transport` gets has unit normal
    positions and one-hot types, as the codebase draws them.

    Args:
        kind: Kind of the reference.
        moments: Moments of molecules with one-hot types; `mixed_order` needs `MixedMoments`.
        mask_type: Index of the type that hides all others; `None` for uniform types of noise.
        shown: Function of the level (a, b) that gives the probability with which an atom shows its
            own type.

    Raises:
        StatsMismatchError: If the kind is unknown, the features are not one-hot, or the moments
            know nothing of an order.
        DataError: If the moments were fitted without a table.
    """

    kinds: ClassVar[tuple[str, ...]] = ("mixed", "mixed_order", "mixed_size")

    def __init__(
        self,
        kind: str,
        moments: ExchangeableMoments,
        mask_type: int | None = None,
        shown: Callable[[float, float], float] = linear_flow,
    ) -> None:
        super().__init__(kind)
        if kind not in self.kinds:
            raise StatsMismatchError(
                f"unknown reference {kind!r}. Known of discrete types: {', '.join(self.kinds)}."
            )
        if not moments.table_size or moments.n_positions != 3:
            raise DataError(
                "these moments hold no sample of molecules (table_size=0) to draw compositions "
                "from. Fit molecules with a table."
            )
        if kind == "mixed_order" and not isinstance(moments, MixedMoments):
            raise StatsMismatchError(
                "these statistics do not know the order of the atoms. Fit with "
                "reference='mixed_order', or use the reference 'mixed'."
            )
        self.n_features, self.n_positions = moments.n_features, moments.n_positions
        self.moments, self.mask_type, self._shown = moments, mask_type, shown
        if mask_type is not None and not 0 <= mask_type < moments.n_features:
            raise DataError(f"mask_type={mask_type} is no type of 0 to {moments.n_features - 1}.")
        self.height = type_height(moments)
        self._known: dict[int, _Rows] = {}  # by size, shared between levels

    @property
    def shown(self) -> float:
        """Probability that an atom shows its own type at this level."""
        return self._shown(self.a, self.b)

    # -- what is known of a size -------------------------------------------------------------------

    def _rows(self, n_atoms: int) -> _Rows:
        if n_atoms not in self._known:
            self._known[n_atoms] = self._fit(n_atoms)
        return self._known[n_atoms]

    def _fit(self, n_atoms: int) -> _Rows:
        moments, factor = self.moments, None
        size = moments.at_size(n_atoms)
        scale = torch.ones(self.n_features, dtype=torch.float64)
        if isinstance(moments, MixedMoments) and n_atoms > 1 and self.kind != "mixed_order":
            scale = moments.variance_ratios(size).sqrt()
        if self.kind == "mixed_order":
            assert isinstance(moments, MixedMoments)
            types = moments.row_types(size)
            values, vectors = torch.linalg.eigh(moments.place_covariance(size))
            factor = vectors * values.clamp(min=0).sqrt()
        else:
            types = _sorted_types(size.sample_mean / self.height, n_atoms)
        falling = size.gyration.flip(-1)
        possible = torch.where(torch.arange(3) < n_atoms - 1, falling, 0)
        grown = falling.sum(1) / possible.sum(1).clamp(min=1e-300)
        extent = ((n_atoms - 1) * possible * grown[:, None]).sqrt()
        return _Rows(size.sample_weight.cumsum(0), extent, types, scale, factor, size.v_x)

    # -- drawing -----------------------------------------------------------------------------------

    def transport(self, z: Tensor, mask: Tensor | None = None) -> Tensor:
        """Map noise (B, N, 3 + K) to molecules; see `ReferenceGaussian.transport`.

        Args:
            z: Noise: unit normal positions, and one-hot types as the codebase draws them, of height
                1 or that of the data. Padding is exactly zero if there is no mask.
            mask: Real atoms (B, N); inferred from the padding when `None`.

        Raises:
            StatsMismatchError: If the types of the noise are not one-hot.
        """
        mask = self._checked_mask(z, mask)
        home = workspace(z.device)
        clean = torch.where(mask[..., None], z, 0).to(home)
        kinds = clean[..., 3:]
        top = kinds.amax(-1, keepdim=True)
        one_hot = (kinds != 0).sum(-1) == 1
        if not bool((one_hot | ~mask.to(home)).all()) or bool((top[mask.to(home)] <= 0).any()):
            raise StatsMismatchError(
                f"the {self.kind!r} reference starts from one-hot types beside unit noise, and "
                "got other features. A model that diffuses its types takes the reference 'shape'."
            )
        positions, types, show = self._draw(clean, mask.to(home))
        types = torch.where(show, types, kinds.argmax(-1))
        features = F.one_hot(types, self.n_features) * mask.to(home)[..., None] * self.height
        return torch.cat([positions, features.to(positions)], -1).to(z.device, z.dtype)

    def _draw(self, z: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Positions (B, N, 3) at this level, true types (B, N), and whether they show (B, N)."""
        width = mask.shape[1]
        u = uniforms(noise_hash(z, mask), _OF_MOLECULE + _PER_ATOM * width)
        # Atoms take their numbers by their place among the real ones.
        place = (mask.cumsum(1) - 1).clamp(min=0)
        own = u[:, _OF_MOLECULE:].reshape(len(u), width, _PER_ATOM)
        own = own.gather(1, place[..., None].expand(-1, -1, _PER_ATOM))
        normal, keys = gaussians(own[..., :3]) * mask[..., None], own[..., 3]
        types = torch.zeros_like(place)
        form = torch.zeros_like(normal)
        n_atoms = mask.sum(1)
        for n in map(int, torch.unique(n_atoms)):
            here = (n_atoms == n).nonzero().flatten()
            some, known = mask[here], self._rows(n)
            row = torch.searchsorted(known.steps.to(u), u[here, 0] * known.steps[-1], right=True)
            row = row.clamp(max=len(known.steps) - 1)
            rank = place[here]
            if self.kind != "mixed_order":
                late = torch.where(some, keys[here], 2.0)  # a random order; padding comes last
                rank = late.argsort(1).argsort(1)
            table = known.types.to(u.device)[row]
            kinds = table.gather(1, rank.clamp(max=n - 1)) * some
            types[here] = kinds
            columns = known.scale.to(u.device)[kinds][..., None] * normal[here]
            if known.factor is not None:
                real = normal[here][some].view(len(here), n, 3)
                columns[some] = (known.factor.to(u.device) @ real).flatten(0, 1)
            if self.kind == "mixed_size":
                form[here] = math.sqrt(known.v_x) * remove_mean(columns, some)
                continue
            extent = known.extent.to(u.device)[row][:, None]
            form[here] = (_principal(remove_mean(columns, some)) * extent) @ rotations(u[here, 1:4])
        noise = remove_mean(z[..., :3].to(torch.float64), mask)
        return self.a * form + self.b * noise, types, own[..., 4] < self.shown

    def sample(
        self,
        n_atoms: Tensor | Sequence[int],
        /,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """Draw molecules of these sizes (B,), types one-hot; see `ReferenceGaussian.sample`."""
        mask = mask_of(n_atoms)
        positions = draw_noise((*mask.shape, 3), generator, device, dtype)
        types = self._noise_types(mask.shape, generator, positions.device)
        z = torch.cat([positions, F.one_hot(types, self.n_features).to(positions)], -1)
        return self.transport(z, mask.to(z.device))

    def noised(
        self, x: Tensor, mask: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Clean molecules at this level: noised positions, and the types that show."""
        mask = self._checked_mask(x, mask)
        y = super().noised(x, mask, generator)
        noise = self._noise_types(mask.shape, generator, x.device)
        home = generator.device if generator is not None else x.device
        show = torch.rand(mask.shape, generator=generator, device=home).to(x.device) < self.shown
        types = torch.where(show, x[..., 3:].argmax(-1), noise)
        features = F.one_hot(types, self.n_features) * mask[..., None] * self.height
        return torch.cat([y[..., :3], features.to(x)], -1)

    def _noise_types(
        self,
        shape: Sequence[int],
        generator: torch.Generator | None,
        device: torch.device,
    ) -> Tensor:
        """Types (B, N) of noise: uniform, or the mask."""
        if self.mask_type is not None:
            return torch.full(tuple(shape), self.mask_type, device=device)
        home = generator.device if generator is not None else device
        types = torch.randint(self.n_features, tuple(shape), generator=generator, device=home)
        return types.to(device)

    def project(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Molecules with mean-free positions and zero padding; see `ReferenceGaussian.project`."""
        return project(x, mask, self.n_positions)

    def log_prob(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Refused: the density is a sum over all arrangements of the types.

        Raises:
            StatsMismatchError: Always.
        """
        raise StatsMismatchError(self._no_density())

    def kl_from_posterior(self, x0: Tensor, mask: Tensor | None = None) -> Tensor:
        """Refused, as `log_prob` is.

        Raises:
            StatsMismatchError: Always.
        """
        raise StatsMismatchError(self._no_density())

    def _no_density(self) -> str:
        return (
            f"the {self.kind!r} reference has no density in closed form: it is a sum over all "
            "arrangements of the types. TwoSample bounds the divergence from below."
        )

    def _checked_mask(self, x: Tensor, mask: Tensor | None) -> Tensor:
        described = (self.n_features, self.n_positions)
        mask = matching_mask(x, mask, *described, "this reference describes")
        if not bool(mask.any(1).all()):
            raise DataError("a molecule of the batch has no atoms: its mask or its rows are empty.")
        return mask


def _principal(columns: Tensor) -> Tensor:
    """Left singular vectors (B, N, 3) of columns (B, N, 3), the largest singular value first."""
    axes: Tensor = torch.linalg.eigh(columns.mT @ columns).eigenvectors
    turned = columns @ axes.flip(-1)
    return turned / turned.square().sum(1, keepdim=True).sqrt().clamp(min=1e-150)


def _sorted_types(shares: Tensor, n_atoms: int) -> Tensor:
    """Types (R, N), sorted, of compositions with shares (R, K), by the largest remainders."""
    exact = (n_atoms * shares).clamp(min=0)
    counts = (exact + 1e-4).floor()
    left = n_atoms - counts.sum(1, keepdim=True)
    rank = (exact - counts).argsort(1, descending=True).argsort(1)
    counts = counts + (rank < left)
    ends = counts.cumsum(1)
    return torch.searchsorted(ends, torch.arange(n_atoms).expand(len(ends), -1) + 0.5)
