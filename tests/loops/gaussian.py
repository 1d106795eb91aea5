"""Gaussian data with an exact network, and the law of what a loop makes of them.

The data are N(mu, C) in three correlated numbers, so the fitted Gaussian is the law of noised data
at every level, and a loop over the exact network is affine in the noise that it starts from. The
law of its results is then computed, not sampled: row 0 of a batch gets no noise and ends at the
mean, every other row gets one unit of one number and ends at a column of the map.
"""

import torch

from gaga_adapter.layout import DenseLayout
from gaga_adapter.moments import DenseMoments
from gaga_adapter.stats import GAGAStats

MEAN = torch.tensor([0.5, -0.3, 1.0], dtype=torch.float64)
_TURN = torch.linalg.qr(torch.tensor([[2.0, 1, 0], [1, 3, 1], [0, 1, 1]], dtype=torch.float64))[0]
COVARIANCE = _TURN @ torch.diag(torch.tensor([0.9, 0.3, 0.05], dtype=torch.float64)) @ _TURN.T
N_DRAWS = 40_000
#: 4.9 standard errors of a variance from as many draws, and of two: a false alarm in 1e5 runs.
CHANCE = 2 * 4.9 * (2 / N_DRAWS) ** 0.5


def stats(log_snr_star=0.0):
    """Statistics with exactly this mean and covariance, from six points."""
    moments = DenseMoments((3,), kind="full")
    arms = 3**0.5 * root(COVARIANCE)
    moments.update(torch.cat([MEAN + arms, MEAN - arms]))
    return GAGAStats(DenseLayout((3,)), moments, log_snr_star)


def root(matrix):
    """The symmetric root."""
    values, vectors = torch.linalg.eigh(matrix)
    return vectors * values.sqrt() @ vectors.T


def clean(a, b, x):
    """E[x_0 | a x_0 + b eps = x]; a and b may be numbers or columns."""
    a, b = (torch.as_tensor(v, dtype=torch.float64).reshape(-1, 1, 1) for v in (a, b))
    noised = a**2 * COVARIANCE + b**2 * torch.eye(3, dtype=torch.float64)
    gain = a * torch.linalg.solve(noised, COVARIANCE.expand_as(noised)).mT
    return MEAN + ((x.double() - a[..., 0] * MEAN)[:, None] @ gain.mT)[:, 0]


def velocity(t, x, sigma=0.0):
    """E[data - noise | x] on the path `t x_0 + (1 - t) eps + sigma eps'`, from noise to data."""
    t = torch.as_tensor(t, dtype=torch.float64).reshape(-1, 1, 1)
    eye = torch.eye(3, dtype=torch.float64)
    noised = t**2 * COVARIANCE + ((1 - t) ** 2 + sigma**2) * eye
    slope = t * COVARIANCE - (1 - t) * eye
    gain = torch.linalg.solve(noised, slope).mT
    return MEAN + ((x.double() - t[..., 0] * MEAN)[:, None] @ gain.mT)[:, 0]


def basis():
    """Unit noise (4, 3): none, and one unit of each number."""
    return torch.cat([torch.zeros(1, 3), torch.eye(3)]).double()


def map_of(ends):
    """Mean (3,) and matrix (3, 3) of an affine map, from the ends of `basis`."""
    return ends[0], (ends[1:] - ends[0]).T


def error(mean, covariance):
    """How far a law is from the data, relative to the largest standard deviation and variance."""
    scale = torch.linalg.eigvalsh(COVARIANCE).max()
    of_mean = float((mean - MEAN).abs().max() / scale.sqrt())
    return max(of_mean, float((covariance - COVARIANCE).abs().max() / scale))


def deterministic_error(ends):
    """The error of a loop without noise of its own, from the ends of `basis`."""
    mean, matrix = map_of(ends.double())
    return error(mean, matrix @ matrix.T)


def sampled_error(ends):
    """The error of a loop that draws noise, from ends (N_DRAWS, 3)."""
    return error(ends.double().mean(0), ends.double().T.cov())


class Counted:
    """A function that counts its calls."""

    def __init__(self, function):
        self.function, self.calls = function, 0

    def __call__(self, *args, **kwargs):
        self.calls += 1
        return self.function(*args, **kwargs)
