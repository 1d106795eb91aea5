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
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from gaga_adapter.criteria.certificate.denoisers import Denoiser, Predict, as_denoiser
from gaga_adapter.criteria.levels import check_data
from gaga_adapter.errors import DataError, StatsMismatchError, TruncationError
from gaga_adapter.noise.paths import GaussianPath
from gaga_adapter.reference import ReferenceGaussian, make_reference
from gaga_adapter.reference.base import draw_noise
from gaga_adapter.stats import GAGAStats
from gaga_adapter.subspace import degrees_of_freedom, project
from gaga_adapter.training.decoders import Decoder, default_decoder

_CLEANEST = math.log(1e5)  # log-SNR of z_0 where a path has no end of its own: EDM's 1 - 1e-5


@dataclass(frozen=True, eq=False)
class TruncatedELBO:
    """Upper bounds of the negative log-likelihood, item by item.

    Attributes:
        t_star: where the model starts, in time of the path.
        prior: divergence from the reference at t*, in nats (M,).
        between: sum over the steps in [0, t*], in nats (M,).
        reconstruction: L_0, in nats (M,); of real numbers a density, which may be negative.
        dimensions: degrees of freedom (M,).
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
            part: `nats`, `bits_per_dimension`, `prior`, `between` or `reconstruction`.

        Raises:
            DataError: no such part.
        """
        parts = ("nats", "bits_per_dimension", "prior", "between", "reconstruction")
        if part not in parts:
            raise DataError(f"part={part!r} is unknown. Known: {', '.join(parts)}.")
        values: Tensor = getattr(self, part)
        error = float(values.std() / math.sqrt(len(values))) if len(values) > 1 else math.nan
        return float(values.mean()), error

    def __str__(self) -> str:
        told = [
            f"{name} {value:.3f} ± {error:.3f}"
            for name in ("prior", "between", "reconstruction", "nats")
            for value, error in [self.mean(name)]
        ]
        bits, error = self.mean("bits_per_dimension")
        return f"{', '.join(told)}; {bits:.4f} ± {error:.4f} bits per dimension"


def truncated_elbo(
    model: Denoiser | Predict,
    x: Tensor,
    mask: Tensor | None,
    path: GaussianPath,
    stats: GAGAStats,
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
        model: a denoiser, see `gaga_adapter.criteria.as_denoiser`.
        x: data: molecules (M, N, 3 + F), or dense (M, C, ...).
        mask: molecules: real atoms (M, N), bool; `None` for dense data.
        path: of the model. A table is walked node by node, a formula is continuous in time.
        stats: of the data that the model was trained on.
        t_star: start, in time of the path; by default the fitted one.
        reference: kind of the Gaussian, as in `GAGAStats.reference`.
        decoder: how data are read off z_0: by default elements for named molecules, else real
            numbers; `Levels()` for images of 256 values.
        n_levels: levels at which an item's terms between are estimated.
        batch_size: items in one call of the model; they share their levels.
        cleanest: log-SNR of z_0; by default the path's own, or log(1e5) where that is infinite.
        generator: of all noise.

    Raises:
        DataError: no data set, or `n_levels` or `batch_size` is not positive.
        StatsMismatchError: the data have other channels than the statistics.
        TruncationError: t* is no time of the path, or not noisier than `cleanest`.
        UnsupportedModelError: the model is no denoiser.
    """
    check_data(x, mask)
    if min(n_levels, batch_size) < 1:
        raise DataError(f"n_levels={n_levels}, batch_size={batch_size}: need at least 1 and 1.")
    channels = x.shape[-1] if mask is not None else x.shape[1]
    if channels != stats.layout.n_channels:
        raise StatsMismatchError(
            f"the data have {channels} channels, the statistics are of {stats.layout.describe()}."
        )
    denoiser = as_denoiser(model)
    start = stats.t_star(path) if t_star is None else float(t_star)
    nodes = _nodes(path, start, cleanest)
    a, b = float(path.a(start)), float(path.b(start))
    prior = make_reference(stats.moments, reference).at(a, b)
    read = decoder or default_decoder(stats.layout)
    parts: list[Tensor] = []
    for place in range(0, len(x), batch_size):
        rows = slice(place, place + batch_size)
        item, atoms = x[rows], None if mask is None else mask[rows]
        parts.append(
            torch.stack(
                [
                    _prior(prior, item, atoms, generator).cpu(),
                    _between(denoiser, item, atoms, nodes, n_levels, generator).cpu(),
                    _reconstruction(denoiser, item, atoms, nodes, read, generator).cpu(),
                ]
            )
        )
    found = torch.cat(parts, 1)
    return TruncatedELBO(start, found[0], found[1], found[2], _dimensions(x, mask).cpu())


# -- the levels ----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Nodes:
    """Log-SNRs of the terms between, from data to t*.

    Attributes:
        log_snr: of the steps (K + 1,), float64, falling; the first is that of z_0.
        is_table: the sum over these steps is wanted, not the integral.
    """

    log_snr: Tensor
    is_table: bool

    @property
    def sigma(self) -> float:
        """`b / a` of z_0."""
        return math.exp(-0.5 * float(self.log_snr[0]))

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


def _prior(
    reference: ReferenceGaussian, x: Tensor, mask: Tensor | None, generator: Generator | None
) -> Tensor:
    """`KL(q(z_t* | x) || reference)` (B,); unbiased for mixtures, exact for Gaussians."""
    if reference.kind != "shape":
        return reference.kl_from_posterior(x, mask)
    moments = getattr(reference, "moments")  # noqa: B009 - references of molecules have them
    size = make_reference(moments, "size").at(reference.a, reference.b)
    noise = draw_noise(x.shape, generator, x.device, x.dtype)
    z = project(reference.a * x + reference.b * noise, mask)
    closer = size.log_prob(z, mask) - reference.log_prob(z, mask)
    return size.kl_from_posterior(x, mask) + closer


def _between(
    denoiser: Denoiser,
    x: Tensor,
    mask: Tensor | None,
    nodes: _Nodes,
    n_levels: int,
    generator: Generator | None,
) -> Tensor:
    levels, weights = nodes.draw(n_levels, generator)
    total = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    for log_snr, weight in zip(levels, weights, strict=True):
        _, predicted = _denoised(denoiser, x, mask, math.exp(-0.5 * log_snr), generator)
        total += weight * (x - predicted).double().square().flatten(1).sum(1)
    return total


def _reconstruction(
    denoiser: Denoiser,
    x: Tensor,
    mask: Tensor | None,
    nodes: _Nodes,
    decoder: Decoder,
    generator: Generator | None,
) -> Tensor:
    noisy, predicted = _denoised(denoiser, x, mask, nodes.sigma, generator)
    return decoder.nats(x, mask, noisy, predicted, nodes.sigma)


def _denoised(
    denoiser: Denoiser,
    x: Tensor,
    mask: Tensor | None,
    sigma: float,
    generator: Generator | None,
) -> tuple[Tensor, Tensor]:
    """`x + sigma eps` and the prediction of x, both like x."""
    noisy = x + sigma * draw_noise(x.shape, generator, x.device, x.dtype)
    noisy = noisy if mask is None else project(noisy, mask)
    return noisy, denoiser(noisy, sigma, mask)


def _dimensions(x: Tensor, mask: Tensor | None) -> Tensor:
    """Degrees of freedom (M,), float64."""
    if mask is None:
        return torch.full((len(x),), float(x[0].numel()), dtype=torch.float64)
    n = mask.sum(1)
    return (degrees_of_freedom(n) + n * (x.shape[-1] - 3)).double()
