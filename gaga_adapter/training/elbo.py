r"""The variational bound of a truncated model, in nats and in bits per dimension.

A truncated model draws z_{t*} from the reference and steps down from there, so (Sohl-Dickstein et
al. 2015; Kingma et al. 2021, Eq. 5 and 13)

    -log p(x) <= KL(q(z_t* | x) || reference)                                   prior, at t*
               + sum_{s < t <= t*} 1/2 (snr(s) - snr(t)) E|x - x̂(z_t)|²         between
               + E[-log p(x | z_0)]                                             L_0

the middle one over neighbouring steps s, t of a table, or as the integral

    1/2 ∫ E|x - x̂(z_t)|² d snr(t)

where time is continuous. The published code leaves the prior term at T and does not bound what it
samples from.

*The terms between* are estimated at levels drawn in proportion to the change of the log-SNR,
stratified over a batch: there the integrand is `snr |x - x̂|² / 2`, at most about half the number of
dimensions, and smooth. *The prior term* is exact for Gaussian references. For `shape`, a mixture,
it is `KL(q || size) + E_q[log size - log shape]`, the second part from one draw, which is unbiased
and of small variance because the two densities are close.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Generator, Tensor

from gaga_adapter.criteria.certificate.denoisers import Denoiser, Predict, as_denoiser
from gaga_adapter.criteria.levels import check_data
from gaga_adapter.errors import DataError, StatsMismatchError, TruncationError
from gaga_adapter.layout import DenseLayout, TokenLayout
from gaga_adapter.noise.paths import GaussianPath
from gaga_adapter.reference import ReferenceGaussian, make_reference
from gaga_adapter.reference.base import draw_noise
from gaga_adapter.stats import GAGAStats
from gaga_adapter.subspace import project
from gaga_adapter.training.decoders import Decoder, default_decoder, dimensions

_CLEANEST = math.log(1e5)  # log-SNR of z_0 where a path has no end of its own: EDM's 1 - 1e-5


@dataclass(frozen=True, eq=False)
class TruncatedELBO:
    """Upper bounds of the negative log-likelihood, item by item.

    Attributes:
        t_star: Start of the model, in time of the path.
        prior: Divergence from the reference at t*, in nats (M,).
        between: Sum over the steps in [0, t*], in nats (M,).
        reconstruction: Term L_0, in nats (M,); of real numbers a density, which may be negative.
        dimensions: Degrees of freedom (M,).
    """

    t_star: float
    prior: Tensor
    between: Tensor
    reconstruction: Tensor
    dimensions: Tensor

    @property
    def nats(self) -> Tensor:
        """The bound (M,)."""
        return self.prior + self.between + self.reconstruction

    @property
    def bits_per_dimension(self) -> Tensor:
        """The bound in bits, per degree of freedom (M,)."""
        return self.nats / (self.dimensions * math.log(2))

    def mean(self, part: str = "nats") -> tuple[float, float]:
        """Mean over the items and its standard error.

        Args:
            part: Name `nats`, `bits_per_dimension`, `prior`, `between` or `reconstruction`.

        Raises:
            DataError: If there is no such part.
        """
        parts = ("nats", "bits_per_dimension", "prior", "between", "reconstruction")
        if part not in parts:
            raise DataError(f"part={part!r} is unknown. Known: {', '.join(parts)}.")
        values: Tensor = getattr(self, part)
        error = float(values.std() / math.sqrt(len(values))) if len(values) > 1 else math.nan
        return float(values.mean()), error

    def __str__(self) -> str:
        parts = [
            f"{name} {value:.3f} ± {error:.3f}"
            for name in ("prior", "between", "reconstruction", "nats")
            for value, error in [self.mean(name)]
        ]
        bits, error = self.mean("bits_per_dimension")
        return f"{', '.join(parts)}; {bits:.4f} ± {error:.4f} bits per dimension"


def truncated_elbo(
    model: Denoiser | Predict,
    x: Tensor,
    mask: Tensor | None,
    path: GaussianPath,
    stats: GAGAStats | str | Path,
    t_star: float | None = None,
    reference: str = "auto",
    decoder: Decoder | None = None,
    n_levels: int = 32,
    batch_size: int = 64,
    cleanest: float | None = None,
    generator: Generator | None = None,
) -> TruncatedELBO:
    """The bound of a model that starts at t* from the fitted Gaussian.

    Args:
        model: Denoiser, see `gaga_adapter.criteria.certificate.denoisers.as_denoiser`.
        x: Data: molecules (M, N, 3 + F), or dense (M, C, ...).
        mask: Real atoms of molecules (M, N), bool; `None` for dense data.
        path: Noise path of the model. A table is walked node by node, a formula is continuous.
        stats: Statistics of the data that the model was trained on: an object, a folder, a hub id
            or an embedded name.
        t_star: Start in time of the path; by default the fitted one.
        reference: Kind of the Gaussian, as in `GAGAStats.reference`.
        decoder: Law of the data given z_0: by default elements for named molecules, else real
            numbers; `Levels()` for images of 256 values.
        n_levels: Number of levels at which an item's terms between are estimated.
        batch_size: Number of items in one call of the model; they share their levels.
        cleanest: Log-SNR of z_0; by default the path's own, or log(1e5) where that is infinite.
        generator: Source of randomness for all noise.

    Raises:
        DataError: If x is not a data set, or `n_levels` or `batch_size` is not positive.
        StatsMismatchError: If the data have other channels than the statistics.
        TruncationError: If t* is no time of the path, or not noisier than `cleanest`.
        UnsupportedModelError: If the model is no denoiser.
    """
    check_data(x, mask)
    stats = stats if isinstance(stats, GAGAStats) else GAGAStats.from_pretrained(stats)
    if min(n_levels, batch_size) < 1:
        raise DataError(f"n_levels={n_levels}, batch_size={batch_size}: need at least 1 and 1.")
    axis = 1 + stats.layout.channels if isinstance(stats.layout, DenseLayout) else -1
    is_dense = isinstance(stats.layout, DenseLayout)
    channels = x.shape[axis] if is_dense == (mask is None) and axis < x.dim() else None
    if channels != stats.layout.n_channels:
        raise StatsMismatchError(
            f"the channels of the data {tuple(x.shape)}, {'without' if mask is None else 'with'} a "
            f"mask, are not those of the statistics: {stats.layout.describe()}."
        )
    n_positions = 0 if isinstance(stats.layout, TokenLayout) else 3
    denoiser = replace(as_denoiser(model), n_positions=n_positions)
    start = stats.t_star(path) if t_star is None else float(t_star)
    nodes = _nodes(path, start, cleanest)
    a, b = float(path.a(start)), float(path.b(start))
    prior = stats.reference(reference).at(a, b).known()
    decode = decoder or default_decoder(stats.layout)
    sigma = math.exp(-0.5 * float(nodes.log_snr[0]))  # b / a of z_0
    parts: list[Tensor] = []
    for place in range(0, len(x), batch_size):
        rows = slice(place, place + batch_size)
        items = _Items(x[rows], None if mask is None else mask[rows], denoiser, generator)
        terms = (
            items.prior(prior),
            items.between(nodes, n_levels),
            items.reconstruction(sigma, decode),
        )
        parts.append(torch.stack([term.cpu() for term in terms]))
    prior_nats, between, last = torch.cat(parts, 1)
    return TruncatedELBO(start, prior_nats, between, last, dimensions(x, mask, n_positions).cpu())


# -- the levels ----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Nodes:
    """Log-SNRs of the terms between, from data to t*."""

    log_snr: Tensor  # of the steps (K + 1,), float64, falling; the first is that of z_0
    is_table: bool  # whether the sum over these steps is wanted, not the integral

    def draw(self, n: int, generator: Generator | None) -> tuple[list[float], list[float]]:
        """Log-SNRs of n terms, and the weights of `|x - x̂|²` with which their sum estimates all."""
        total = float(self.log_snr[0] - self.log_snr[-1])
        offset = torch.rand(1, generator=generator, dtype=torch.float64)
        depth = (torch.arange(n, dtype=torch.float64) + offset) / n * total
        if not self.is_table:
            levels = self.log_snr[0] - depth
            return levels.tolist(), (0.5 * levels.exp() * total / n).tolist()
        fall = self.log_snr[0] - self.log_snr
        step = torch.searchsorted(fall, depth, right=True).clamp(1, len(fall) - 1)
        snr = self.log_snr.exp()
        drop = snr[step - 1] - snr[step]
        share = (fall[step] - fall[step - 1]) / total
        return self.log_snr[step].tolist(), (0.5 * drop / share / n).tolist()


def _nodes(path: GaussianPath, start: float, cleanest: float | None) -> _Nodes:
    if not 0 < start <= 1:
        raise TruncationError(f"t_star={start:g} is outside of (0, 1]. Pass a time of the path.")
    last = float(path.log_snr(start))
    if path.n_steps is None:
        first = float(path.log_snr(0.0)) if cleanest is None else cleanest
        levels = [first if math.isfinite(first) else _CLEANEST, last]
        table = torch.tensor(levels, dtype=torch.float64)
    else:
        count = round(start * path.n_steps)
        if abs(count / path.n_steps - start) > 1e-9:
            raise TruncationError(
                f"t_star={start:g} is no node of a table of {path.n_steps} steps. Pass a multiple "
                f"of 1/{path.n_steps}, such as {count / path.n_steps:g}."
            )
        times = torch.arange(count + 1, dtype=torch.float64) / path.n_steps
        table = path.log_snr(times)
        limit = _CLEANEST if cleanest is None else cleanest
        if cleanest is not None or not math.isfinite(float(table[0])):
            table = torch.cat([torch.tensor([limit], dtype=torch.float64), table[table < limit]])
    if len(table) < 2 or not float(table[0]) > last or not math.isfinite(last):
        raise TruncationError(
            f"the bound runs from log-SNR {float(table[0]):.4g} to {last:.4g}: it needs to fall, "
            "and to end before the signal is gone. Choose another t_star or cleanest."
        )
    return _Nodes(table, path.n_steps is not None)


# -- the three terms -----------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Items:
    """A batch of data, with the denoiser and the randomness by which its terms are estimated."""

    x: Tensor
    mask: Tensor | None
    denoiser: Denoiser
    generator: Generator | None

    def prior(self, reference: ReferenceGaussian) -> Tensor:
        """`KL(q(z_t* | x) || reference)` (B,); unbiased for mixtures, exact for Gaussians."""
        if reference.kind != "shape":
            return reference.kl_from_posterior(self.x, self.mask)
        moments = getattr(reference, "moments")  # noqa: B009 - references of molecules have them
        size = make_reference(moments, "size").at(reference.a, reference.b)
        z = project(reference.a * self.x + reference.b * self._noise(), self.mask)
        closer = size.log_prob(z, self.mask) - reference.log_prob(z, self.mask)
        return size.kl_from_posterior(self.x, self.mask) + closer

    def between(self, nodes: _Nodes, n_levels: int) -> Tensor:
        """Sum or integral over the levels up to t* (B,), from `n_levels` of them."""
        levels, weights = nodes.draw(n_levels, self.generator)
        total = torch.zeros(len(self.x), dtype=torch.float64, device=self.x.device)
        for log_snr, weight in zip(levels, weights, strict=True):
            _, predicted = self._denoise(math.exp(-0.5 * log_snr))
            total += weight * (self.x - predicted).double().square().flatten(1).sum(1)
        return total

    def reconstruction(self, sigma: float, decoder: Decoder) -> Tensor:
        """L_0 (B,)."""
        noisy, predicted = self._denoise(sigma)
        return decoder.nats(self.x, self.mask, noisy, predicted, sigma)

    def _denoise(self, sigma: float) -> tuple[Tensor, Tensor]:
        """`x + sigma eps` and the prediction of x, both like x."""
        noisy = self.x + sigma * self._noise()
        noisy = noisy if self.mask is None else project(noisy, self.mask, self.denoiser.n_positions)
        return noisy, self.denoiser(noisy, sigma, self.mask)

    def _noise(self) -> Tensor:
        return draw_noise(self.x.shape, self.generator, self.x.device, self.x.dtype)
