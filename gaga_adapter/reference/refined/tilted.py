r"""The `shape` reference with a tilt: of K hashed candidates, the one that a regression prefers.

*Transport.* The first candidate is what the plain mixture makes of a molecule's own noise at the
tilt's level. The `K - 1` others are made of noises that a counter-based generator (`hashing.py`)
gives, seeded by a hash of the molecule's. Gumbel's rule chooses, `argmax T_j + g_j`. So the result
is a function of one molecule's noise, the same in every batch, padding and device, but for a tie
within rounding.

*Levels.* At the tilt's own level, whatever its scale, the law is that of `tilt.py`. At a noisier
one it is the law of that draw with noise added: noise takes away divergence, it adds none. It has
no density in closed form; `known` is the reference at the tilt's level, which has one, and whose
prior term is an upper bound of the noisier one's, by data processing. At a cleaner level nothing is
known, and the reference is the plain mixture there. Sizes that had too few data are plain, too.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gaga_adapter.errors import TruncationError, warn
from gaga_adapter.hashing import normals, splitmix64, stream, uniforms
from gaga_adapter.moments import ExchangeableMoments
from gaga_adapter.noise.levels import TOLERANCE, coefficients
from gaga_adapter.reference.base import workspace
from gaga_adapter.reference.refined.tilt import Tilt
from gaga_adapter.reference.shape import ShapeReference, noise_hash

_SAME = 2 * TOLERANCE  # of log-SNR; a scheduler may find its t* at the edge of the tolerance
_KEY = 0x5DEECE66D  # of the candidates' stream of numbers, apart from that of the latent
_TOGETHER = 512  # candidates at a time
_COPIES = 8  # noised copies that the prior term averages over


class TiltedReference(ShapeReference):
    """The mixture `shape`, tilted at one level.

    Args:
        moments: Moments of the molecules, with a table.
        weights: Probabilities of the table's rows, or `None`; see `ShapeReference`.
        tilt: The numbers of the tilt.
    """

    def __init__(self, moments: ExchangeableMoments, weights: Tensor | None, tilt: Tilt) -> None:
        super().__init__("shape", moments, weights)
        self.tilt = tilt

    @property
    def _excess(self) -> float:
        """By how much the log-SNR is above that of the tilt; 0 at its own level."""
        if self.b == 0:
            return math.inf
        if self.a == 0:
            return -math.inf
        excess = 2 * math.log(abs(self.a) / self.b) - self.tilt.log_snr
        return 0.0 if abs(excess) < _SAME else excess

    def known(self) -> TiltedReference:
        """This reference, or at a noisier level than the tilt's the one at the tilt's level."""
        return self.at(*coefficients(self.tilt.log_snr)) if self._excess < 0 else self

    def plain(self) -> ShapeReference:
        """The mixture without the tilt, at the same level."""
        return ShapeReference("shape", self.moments, self._row_weights).at(self.a, self.b)

    def transport(self, z: Tensor, mask: Tensor | None = None) -> Tensor:
        """Map unit noise (B, N, 3 + F) to molecules; see `ReferenceGaussian.transport`."""
        mask = self._checked_mask(z, mask)
        excess = self._excess
        if excess > 0:
            if self.b > 0:
                warn(
                    f"this start is tilted at log-SNR {self.tilt.log_snr:.4g} and beyond, and is "
                    f"the plain `shape` at {self.tilt.log_snr + excess:.4g}, which is cleaner. Fit "
                    "with refine_at=... to tilt it there."
                )
            return super().transport(z, mask)
        result = super().transport(z, mask)
        served = self.tilt.serves(mask.sum(1)).nonzero().flatten()
        for rows in torch.split(served, max(1, _TOGETHER // self.tilt.n_candidates)):
            if not len(rows):
                break
            result[rows] = self._tilted(z[rows], mask[rows]).to(z.device, z.dtype)
        return result

    def _tilted(self, z: Tensor, mask: Tensor) -> Tensor:
        """Tilted molecules (B, N, 3 + F), float64, from unit noise (B, N, 3 + F)."""
        home = workspace(z.device)
        z, mask = z.to(home, torch.float64), mask.to(home)
        k, (batch, width, channels) = self.tilt.n_candidates, z.shape
        own = self.at(*coefficients(self.tilt.log_snr))
        first = noise_hash(z, mask)
        # Keys of: the choice, the noise that is added at noisier levels, and K - 1 candidates.
        keys = stream(splitmix64(first + _KEY), k + 1)
        noises = _noise(keys[:, 1:], mask, channels)  # (B, K, N, C): one added, K - 1 candidates
        candidates = torch.cat([z[:, None], noises[:, 1:]], 1).reshape(-1, width, channels)
        real = mask.repeat_interleave(k, 0)
        seeds = torch.cat([first[:, None], keys[:, 2:]], 1).flatten()
        drawn = own._carry_by(seeds, candidates, real)
        odds = self.tilt.log_odds(drawn, real).reshape(batch, k)
        gumbel = -(-torch.log1p(-uniforms(keys[:, 0], k))).log()
        best = (odds + gumbel).argmax(1)
        x = drawn.reshape(batch, k, width, channels)[torch.arange(batch, device=home), best]
        if self._excess == 0:
            return x * math.hypot(self.a, self.b) * (1 if self.a > 0 else -1)
        rest = math.sqrt(self.b**2 - (self.a / own.a * own.b) ** 2)
        return self.a / own.a * x + rest * self.project(noises[:, 0], mask)

    def log_prob(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Log-density (B,), a lower bound within the error of `tilt.py`; see `ReferenceGaussian`.

        Raises:
            TruncationError: If the level is noisier than that of the tilt, or has b = 0.
        """
        plain = super().log_prob(x, mask)
        if self._excess < 0:
            raise TruncationError(
                f"{self!r} has no density in closed form: it was tilted at log-SNR "
                f"{self.tilt.log_snr:.4g} and noised from there. Take it at that level: known()."
            )
        return plain if self._excess else plain + self._log_ratio(x, mask).to(plain.device)

    def kl_from_posterior(self, x0: Tensor, mask: Tensor | None = None) -> Tensor:
        """The prior term, an estimate of an upper bound; see `ReferenceGaussian`.

        What the tilt takes away is an average over noised copies of the data, whose noise is hashed
        from the data. At a level noisier than the tilt's it is the term at the tilt's level.
        """
        if self._excess < 0 and self.b > 0:
            return self.known().kl_from_posterior(x0, mask)
        plain = super().kl_from_posterior(x0, mask)
        if self._excess:
            return plain
        mask = self._checked_mask(x0, mask)
        home = workspace(x0.device)
        clean, real = x0.to(home, torch.float64), mask.to(home)
        keys = stream(splitmix64(noise_hash(clean, real) + _KEY), _COPIES)
        gained = torch.zeros_like(plain)
        for noise in _noise(keys, real, x0.shape[-1]).unbind(1):
            noised = self.a * clean + self.b * noise
            gained += self._log_ratio(self.project(noised, real), real) / _COPIES
        return plain - gained

    def _log_ratio(self, x: Tensor, mask: Tensor | None) -> Tensor:
        mask = self._checked_mask(x, mask)
        home = workspace(x.device)
        scale = math.hypot(self.a, self.b) * (1 if self.a > 0 else -1)
        molecules = self.project(x.to(home, torch.float64) / scale, mask.to(home))
        odds = self.tilt.log_odds(molecules, mask.to(home))
        return self.tilt.log_ratio(odds, mask.sum(1).to(home))


def _noise(keys: Tensor, mask: Tensor, channels: int) -> Tensor:
    """Unit noise (B, K, N, C), float64, of each key (B, K); an atom's by its place among the real.

    Padding is zero.
    """
    seeds = stream(keys, mask.shape[1])  # (B, K, N)
    place = (mask.cumsum(1) - 1).clamp(min=0)
    seeds = seeds.gather(2, place[:, None].expand_as(seeds))
    return normals(seeds, channels) * mask[:, None, :, None]
