r"""The tilt: of `K` draws of a reference choose the one that looks most like noised data.

Let `q` be the law of the reference at one level, given the size. `T(x) = c · f(x) + c_0`, clipped,
are the log-odds of a logistic regression that has learnt to tell noised data from draws of `q` by
invariant features `f` (`invariants.py`): an estimate of `log p/q`. A tilted draw is one of `K`
independent candidates `x_1 .. x_K` of `q`; candidate `j` is chosen with probability
`w_j / (w_1 + .. + w_K)`, `w = exp T`. No network is called.

**The law of the draw.** With `S` the sum of `K - 1` independent weights of candidates,

    q_K(x) = q(x) E[K w / (w + S)],          w = exp T(x).

For many candidates this is `q(x) w / Z`, `Z = E_q w`, and `KL(p || q w / Z) = KL(p || q) - (E_p T -
log Z)`. For any number it is exact with the Laplace transform `φ(s) = E_q exp(-s w)` of the law of
one weight,

    E[1 / (w + S)] = ∫_0^∞ exp(-s w) φ(s)^(K-1) ds,

an integral over one number, whose integrand is smooth in `log s`: the trapezoidal rule converges
exponentially. The law of a weight is kept, per size, as the means of `w` over cells of equal
probability, from many draws of `q`. By Jensen's inequality means of cells make `φ` too small, never
too large, so this is a lower bound of the density, but for the sampling error of the cells:
relative to `Z` that of the mean of so many draws.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gaga_adapter.files.checked import Fields, Tensors
from gaga_adapter.reference.invariants import molecule_features

#: Definition of the features; another definition needs another name, and a new fit.
FEATURES = "invariants-1"
#: Most candidates that an artefact may ask for.
MOST_CANDIDATES = 1024
_LARGEST = 1e12
_STEP = 0.25  # of log s: the rule misses a share of about 1e-16
_LEFT, _RIGHT = 24.0, 4.0  # what lies beyond these ends of log s is a share of 1e-10


@dataclass(frozen=True, eq=False)
class Tilt:
    """The numbers of a tilt.

    Attributes:
        log_snr: Level at which it was learnt and serves.
        length: Unit of the positions, at signal and noise of total variance one.
        amplitude: Unit of the atom features.
        coefficients: Coefficients of the invariant features (D,), float64.
        intercept: Constant of the log-odds.
        limit: Largest absolute value of the log-odds.
        n_candidates: Number of candidates K of a draw.
        sizes: Sizes at which it serves (S,), ascending int64.
        cells: Means of `exp T` of draws of the reference over cells of equal probability (S, C),
            float64, ascending.
    """

    log_snr: float
    length: float
    amplitude: float
    coefficients: Tensor
    intercept: float
    limit: float
    n_candidates: int
    sizes: Tensor
    cells: Tensor

    def log_odds(self, x: Tensor, mask: Tensor) -> Tensor:
        """`T` (B,), float64, of molecules (B, N, 3 + F) of total variance one."""
        features = molecule_features(x.to(torch.float64), mask, self.length, self.amplitude)
        odds = features @ self.coefficients.to(features.device) + self.intercept
        return odds.clamp(-self.limit, self.limit)

    def serves(self, n_atoms: Tensor) -> Tensor:
        """Whether it serves each size (B,), bool."""
        return torch.isin(n_atoms.to(torch.int64), self.sizes.to(n_atoms.device))

    def log_ratio(self, log_odds: Tensor, n_atoms: Tensor) -> Tensor:
        """`log q_K / q` (B,) where the log-odds are `log_odds` (B,); 0 at sizes without a tilt."""
        served = self.serves(n_atoms)
        ratio = torch.zeros_like(log_odds)
        if bool(served.any()):
            row = torch.searchsorted(self.sizes.to(n_atoms.device), n_atoms[served].long())
            ratio[served] = self._log_ratio(log_odds[served], row)
        return ratio

    def _log_ratio(self, log_odds: Tensor, row: Tensor) -> Tensor:
        cells = self.cells.to(log_odds.device)
        largest = self.limit + math.log(self.n_candidates)
        n = math.ceil((largest + _LEFT + self.limit + _RIGHT) / _STEP)
        y = torch.arange(n, dtype=torch.float64).to(cells) * _STEP - largest - _LEFT
        s = y.exp()  # (Q,)
        log_laplace = (-cells[:, :, None] * s).logsumexp(1) - math.log(cells.shape[1])
        terms = y - log_odds.exp()[:, None] * s + (self.n_candidates - 1) * log_laplace[row]
        integral = terms.logsumexp(1) + math.log(_STEP)
        return log_odds + math.log(self.n_candidates) + integral

    def log_normaliser(self) -> tuple[Tensor, Tensor]:
        """`log Z` (S,) of each size, and the standard deviation of `exp T / Z` over the cells."""
        mean = self.cells.mean(1)
        return mean.log(), self.cells.std(1, correction=0) / mean

    # -- in an artefact --------------------------------------------------------------------------

    def tensors(self) -> dict[str, Tensor]:
        """The arrays, by name."""
        return {
            "tilt_coefficients": self.coefficients,
            "tilt_sizes": self.sizes,
            "tilt_cells": self.cells,
        }

    def to_dict(self) -> dict[str, float | int | str]:
        """The other numbers, ready for JSON."""
        return {
            "features": FEATURES,
            "log_snr": self.log_snr,
            "length": self.length,
            "amplitude": self.amplitude,
            "intercept": self.intercept,
            "limit": self.limit,
            "n_candidates": self.n_candidates,
        }

    @classmethod
    def from_parts(cls, about: Fields, tensors: Tensors, n_features: int) -> Tilt:
        """The inverse of `to_dict` and `tensors`, for molecules of `n_features`.

        Raises:
            ArtefactError: If something is missing, or no tilt has such numbers.
        """
        about.text("features", (FEATURES,))
        limit = about.number("limit", 1e-6, 20.0)
        n_columns, double = n_invariants(n_features), torch.float64
        coefficients = tensors.take("tilt_coefficients", double, [n_columns])
        tensors.within("tilt_coefficients", coefficients, -_LARGEST, _LARGEST)
        n_sizes = tensors.length("tilt_sizes")
        sizes = tensors.take("tilt_sizes", torch.int64, [n_sizes])
        tensors.within("tilt_sizes", sizes, 1, 2**31)
        rising = n_sizes > 0 and bool((sizes.diff() > 0).all())
        tensors.require("tilt_sizes", rising, "it must be a rising list of sizes")
        n_cells = tensors.tensors["tilt_cells"].shape[-1] if tensors.length("tilt_cells") else 0
        cells = tensors.take("tilt_cells", double, [n_sizes, n_cells])
        tensors.require("tilt_cells", n_cells > 0, "it has no cells")
        slack = 1 + 1e-9
        tensors.within("tilt_cells", cells, math.exp(-limit) / slack, math.exp(limit) * slack)
        tensors.require("tilt_cells", (cells.diff(dim=1) >= 0).all(), "its rows must not fall")
        return cls(
            about.number("log_snr", -60, 60),
            about.number("length", 1e-9, 1e9),
            about.number("amplitude", 1e-9, 1e9),
            coefficients,
            about.number("intercept", -_LARGEST, _LARGEST),
            limit,
            about.integer("n_candidates", 1, MOST_CANDIDATES),
            sizes,
            cells,
        )


def n_invariants(n_features: int) -> int:
    """Number D of the invariant features of molecules with F atom features."""
    one = torch.zeros(1, 2, 3 + n_features, dtype=torch.float64)
    one[0, :, 0] = torch.tensor([1.0, -1.0])
    return molecule_features(one, torch.ones(1, 2, dtype=torch.bool), 1.0, 1.0).shape[1]


def cells_of(weights: Tensor, n_cells: int) -> Tensor:
    """Means (C,) of weights (M,) over cells of equal probability; M is a multiple of C."""
    return weights.sort().values.reshape(n_cells, -1).mean(1)
