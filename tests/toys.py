"""Small data of which the tests know what they are: made by a seed, fitted in one line.

They are functions and not fixtures, since they take arguments and are also called where a module
is collected. What one file alone needs is made in that file.
"""

import numpy as np
import torch

from gaga_adapter import GAGAStats
from gaga_adapter.layout import DenseLayout
from gaga_adapter.molecules.data import MoleculeSet
from gaga_adapter.moments import DenseMoments, ExchangeableMoments
from gaga_adapter.reference import make_reference
from gaga_adapter.subspace import mask_from_sizes, project

# -- numbers -------------------------------------------------------------------------------------


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    """Unit noise in double precision."""
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def levels(*values):
    """Log-SNRs as a criterion takes them."""
    return torch.tensor(values, dtype=torch.float64)


# -- molecules -----------------------------------------------------------------------------------


def gaussian_molecules(sizes, n_features=2, variance=1.0, seed=0):
    """Molecules (x, mask) that are Gaussian, with a variance per degree of freedom of positions."""
    mask = mask_from_sizes(torch.as_tensor(sizes))
    x = torch.randn(*mask.shape, 3 + n_features, generator=generator(seed))
    x[..., :3] *= variance**0.5
    return project(x, mask), mask


def chains(n_molecules, sizes=(3, 9), seed=0):
    """Chains of carbon and hydrogen, far from Gaussian; `sizes` is a range without its end."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(n_molecules):
        n = int(rng.integers(*sizes))
        x = np.cumsum(rng.normal(size=(n, 3)) * 0.3 + [1.2, 0, 0], axis=0)
        made.append((x, rng.choice([1, 6], size=n)))
    return MoleculeSet.from_list(made, "chains")


def fitted(x, mask, kind="size"):
    """The reference of some molecules."""
    moments = ExchangeableMoments(x.shape[2] - 3)
    moments.update(x, mask)
    return make_reference(moments, kind)


# -- dense data ----------------------------------------------------------------------------------


def dense_moments(x, kind="full"):
    moments = DenseMoments(tuple(x.shape[1:]), kind=kind)
    moments.update(x)
    return moments


def dense_fitted(x, kind="full"):
    """The reference of some dense data."""
    return make_reference(dense_moments(x, kind), kind)


def dense_stats(log_snr_star=-1.0):
    """Statistics of fifty images of noise."""
    x = torch.randn(50, 3, 4, 4, generator=generator())
    return GAGAStats(DenseLayout((3, 4, 4)), dense_moments(x, "channel"), log_snr_star)


def same_stats(one, other):
    """Whether two artefacts say the same, to the bit."""
    left, right = one.moments.state_dict(), other.moments.state_dict()
    return (
        left.keys() == right.keys()
        and all(torch.equal(left[name], right[name]) for name in left)
        and one.to_dict() == other.to_dict()
    )
