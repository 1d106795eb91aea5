r"""How far samples are from held-out data, for data of any kind and without a metric of the field.

Two things are compared. The *features* of the two-sample criterion see size, form, types and who is
near whom, or brightness, contrast and texture; but few steps leave small faults behind, which bins
as wide as those do not see. A denoiser does: the *residuals*

    r_k = |xhat(x + sigma_k eps) - x|² / (sigma_k² d)

of an item x at a few levels are larger where x lies off the manifold of the data. (They are smaller
than the data's where samples are too much alike, so small is not good either: the distributions
must agree.) Both are compared by the energy distance (Székely and Rizzo 2013)

    E = 2 E|X - Y| - E|X - X'| - E|Y - Y'|,

which is zero for equal laws only, of numbers in units of the held-out standard deviation.

The two distances have no common unit. So each is divided by its value on the even levels, and
their mean is *the distance*: 1 for the even levels. Its standard error follows from the influence
of each sample on it (the delta method, held-out items fixed); samples that started from the same
noise are pairs, so it is small where two sets of levels are alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from gaga_adapter.criteria.certificate.denoisers import Denoiser
from gaga_adapter.criteria.levels import channels_first
from gaga_adapter.reference import ReferenceGaussian
from gaga_adapter.subspace import project

_BATCH = 128
#: Features in units of the held-out standard deviation are cut here: some are fourth powers.
_MOST = 6.0
#: Standard deviation below which a number counts as constant.
_TINY = 1e-9


def batches_of_like_size(mask: Tensor | None, n: int) -> list[Tensor]:
    """Rows (B,) of batches; molecules of like size share one."""
    order = torch.arange(n) if mask is None else mask.sum(1).cpu().argsort(stable=True)
    return list(torch.split(order, _BATCH))


def denoising_errors(
    denoiser: Denoiser,
    x: Tensor,
    mask: Tensor | None,
    batches: Sequence[Tensor],
    log_snr: float,
    seed: int,
) -> Tensor:
    """Squared errors (M, K), float64, of the denoiser on noised items.

    Molecules have two, of positions and of features; dense data and tokens have one.
    """
    sigma, parts = math.exp(-log_snr / 2), _parts(x, mask, denoiser)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(x.shape, generator=generator).to(x)
    errors = torch.zeros(len(x), len(parts), dtype=torch.float64)
    for rows in batches:
        clean, eps, real = x[rows], noise[rows], None
        if mask is not None:
            real = mask[rows]
            width = int(real.sum(1).max())
            clean, eps, real = clean[:, :width], eps[:, :width], real[:, :width]
            eps = project(eps, real, denoiser.n_positions)
        guess = denoiser(clean + sigma * eps, sigma, real)
        square = (guess - clean).double().square().cpu()
        for k, part in enumerate(parts):
            errors[rows, k] = square[..., part].flatten(1).sum(1)
    return errors


def _parts(x: Tensor, mask: Tensor | None, denoiser: Denoiser) -> list[slice]:
    n = denoiser.n_positions
    if mask is None or not 0 < n < x.shape[-1]:
        return [slice(None)]
    return [slice(n), slice(n, None)]


class Apart(NamedTuple):
    """How far samples are from held-out items.

    Attributes:
        values: Energy distances (2,), of features and of residuals. They are positive: an item is
            compared with itself, too.
        influences: Influence (M, 2) of each sample on them, of mean zero.
    """

    values: Tensor
    influences: Tensor


@dataclass(frozen=True, eq=False)
class Yardstick:
    """Held-out items, and what samples are compared with them in.

    Attributes:
        x: Items (M, ...).
        mask: Real atoms (M, N) of molecules.
        denoiser: Model whose residuals are compared.
        reference: Start, which says where the channels are.
        levels: Log-SNRs of the residuals.
        seed: Seed of their noise.
    """

    x: Tensor
    mask: Tensor | None
    denoiser: Denoiser
    reference: ReferenceGaussian
    levels: tuple[float, ...]
    seed: int

    def __post_init__(self) -> None:
        blocks = self._blocks(self.x, self.mask)
        units = [(block.mean(0), _spread(block)) for block in blocks]
        object.__setattr__(self, "_units", units)
        held_out = [_in_units(block, unit) for block, unit in zip(blocks, units, strict=True)]
        object.__setattr__(self, "_held_out", held_out)

    def compare(self, x: Tensor, mask: Tensor | None) -> Apart:
        """Both distances of samples from the held-out items.

        Args:
            x: Samples (M, ...).
            mask: Real atoms (M, N) of molecules.
        """
        blocks = zip(self._blocks(x, mask), self._units, self._held_out, strict=True)  # type: ignore[attr-defined]
        found = [
            energy_distance(_in_units(block, unit), held_out) for block, unit, held_out in blocks
        ]
        values, influences = zip(*found, strict=True)
        return Apart(torch.stack(values), torch.stack(influences, 1))

    def _blocks(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Features (M, D) and log-residuals (M, K), float64."""
        batches = batches_of_like_size(mask, len(x))
        columns = []
        for level in self.levels:
            errors = denoising_errors(self.denoiser, x, mask, batches, level, self.seed)
            columns.append((errors * math.exp(level) + _TINY).log())
        return self._features(x.cpu(), mask), torch.cat(columns, 1)

    def _features(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Features (M, D) of the two-sample criterion, in units that the held-out data set."""
        home = self.x.cpu()
        if mask is None:
            from gaga_adapter.criteria.two_sample.features_dense import DenseUnits, dense_features

            units = DenseUnits.of(channels_first(home, self.reference))
            return dense_features(channels_first(x, self.reference), units).double()
        real, mask = (self.mask.cpu() if self.mask is not None else mask), mask.cpu()
        if not self.denoiser.n_positions:
            from gaga_adapter.criteria.two_sample.features_tokens import token_features, token_units

            return token_features(x, mask, *token_units(home[real])).double()
        from gaga_adapter.reference.invariants import molecule_features, unit_of

        numbers = home[real]
        length, amplitude = unit_of(numbers[:, :3]), unit_of(numbers[:, 3:])
        return molecule_features(x, mask, length, amplitude).double()


def _spread(block: Tensor) -> Tensor:
    spread = block.std(0, correction=0)
    return torch.where(spread > _TINY, spread, 1.0)


def _in_units(block: Tensor, unit: tuple[Tensor, Tensor]) -> Tensor:
    mean, spread = unit
    # A sample that diverged is as far away as a number can be.
    return ((block - mean) / spread).nan_to_num(_MOST, _MOST, -_MOST).clamp(-_MOST, _MOST)


def energy_distance(z: Tensor, held_out: Tensor) -> tuple[Tensor, Tensor]:
    """Energy distance () of two sets of numbers, and the influence (M,) of each of the first.

    Args:
        z: Numbers (M, D) of samples.
        held_out: Numbers (H, D) of held-out items.
    """
    to_data, to_others = (torch.cdist(z, other).mean(1) for other in (held_out, z))
    own = torch.cdist(held_out, held_out).mean()
    influence = 2 * (to_data - to_others)
    return 2 * to_data.mean() - to_others.mean() - own, influence - influence.mean()


def relative(found: Apart, even: Apart) -> tuple[float, float]:
    """Distance in units of that of the even levels, and its standard error.

    Args:
        found: Distances of samples.
        even: Those of the samples on the even levels, which are their pairs.
    """
    ratio = found.values / even.values
    influence = ((found.influences - ratio * even.influences) / even.values).mean(1)
    n = len(influence)
    error = float(influence.std(0, correction=1)) / math.sqrt(n) if n > 1 else 0.0
    return float(ratio.mean()), error
