"""FCD: the Fréchet distance of two sets of molecules as ChemNet sees them (Preuer et al. 2018).

ChemNet is a network that was trained on bioactivities and reads SMILES. Its last hidden layer gives
each molecule 512 numbers. With their means m, m' and covariances C, C' over both sets

    FCD = |m - m'|² + tr C + tr C' - 2 tr (C C')^½,

which is 0 for equal sets and has no unit. With any roots C = R'R, C' = S'S the last trace is the
sum of the singular values of R S', which needs no square root of a singular matrix. The network
comes from the package `fcd`, which holds its weights.

FCD knows graphs alone: it does not see positions. It reads at most 349 characters of SMILES without
hydrogens; molecules without such SMILES, those that rdkit cannot sanitise among them, are left out
and counted.

Covariances of few molecules are far from their own law, so FCD is biased upward, by about `1 / M`:
250 molecules of QM9 are at a distance of 1.5 from the rest of QM9. The value by chance says by how
much: the FCD of as many held-out molecules from the other held-out ones. The standard error is that
of a jackknife that leaves out an eighth of either set at a time (Efron and Tibshirani 1993, section
11.5).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gaga_adapter.distributed import Processes, Progress
from gaga_adapter.errors import MissingExtraError
from gaga_adapter.molecules.metrics.estimate import Estimate

_LONGEST = 349  # characters that ChemNet reads
_BATCH = 32  # larger ones are no faster, and take more memory
_PARTS = 8  # of a set, one of which the jackknife leaves out
_CHANCE_SETS = 8  # sets of held-out molecules behind the value by chance
_OTHERS = 5  # times as many held-out molecules as samples, from which there is a value by chance
_MOST_HELD_OUT = 20_000  # molecules, beyond which more change nothing but the time
_Array = NDArray[np.float64]


@dataclass(frozen=True)
class FrechetFigures:
    """FCD of a set of molecules from a held-out one, and what chance alone would make it.

    Attributes:
        n_molecules: Number of molecules in the set that have SMILES.
        n_left_out: Number of the others.
        n_held_out: Number of molecules of the held-out set that it is compared with.
        n_held_out_left_out: Number of molecules there without SMILES.
        measured: The distance with its standard error; None if either set has one molecule or
            none.
        by_chance: Distance of `n_molecules` held-out molecules from the others: the mean over
            several such sets, and as `std_error` the standard deviation of a single one. None if
            the held-out set is not five times as large as the set: fewer others would raise it.
    """

    n_molecules: int
    n_left_out: int
    n_held_out: int
    n_held_out_left_out: int
    measured: Estimate | None
    by_chance: Estimate | None

    def to_dict(self) -> dict[str, Any]:
        """JSON form: nested dictionaries of `value` and `std_error`, null where not computable."""
        return asdict(self)


def has_fcd() -> bool:
    """Whether the package `fcd` is installed."""
    return find_spec("fcd") is not None


def fcd(
    smiles: Sequence[str | None],
    held_out: Sequence[str | None],
    generator: torch.Generator,
    processes: Processes | None = None,
    progress: Progress | None = None,
) -> FrechetFigures:
    """FCD of molecules from held-out ones, with standard error and the value by chance.

    Args:
        smiles: SMILES of the generated molecules (M), such as `to_smiles(molecules)`; None where
            a molecule has none.
        held_out: SMILES of molecules of the data (H) that no model has seen; of more than 20,000
            so many are drawn at random.
        generator: Source of randomness for the parts of the jackknife and the sets behind the
            value by chance, on the CPU.
        processes: The processes that share the work; this one alone by default.
        progress: Function that is called after each batch; with several processes once a second,
            on the first one.

    Raises:
        MissingExtraError: If `fcd` is not installed.
        ProcessError: If another process failed or is gone.
    """
    processes = processes or Processes()
    ours, theirs = (plain_smiles(one) for one in (smiles, held_out))
    n_without = len(held_out) - len(theirs)
    if len(theirs) > _MOST_HELD_OUT:
        rows = torch.randperm(len(theirs), generator=generator)[:_MOST_HELD_OUT]
        theirs = [theirs[row] for row in rows.tolist()]
    both = activations(ours + theirs, processes, progress)
    x, y = both[: len(ours)], both[len(ours) :]
    m, h = len(x), len(y)
    counts = (m, len(smiles) - m, h, n_without)
    if min(m, h) < 2:
        return FrechetFigures(*counts, None, None)
    centre = y.mean(axis=0)
    whole, data = _Sums.of(x - centre), _Sums.of(y - centre)
    by_chance = None
    if _OTHERS * m <= h:
        values = []
        for _ in range(_CHANCE_SETS):
            drawn = torch.randperm(h, generator=generator)[:m].numpy()
            some = _Sums.of(y[drawn] - centre)
            values.append(_distance(some.moments(), (data - some).moments()))
        by_chance = Estimate(float(np.mean(values)), float(np.std(values, ddof=1)))
    error = None
    if min(m, h) >= 3 * _PARTS:
        sides = ((x, whole, data), (y, data, whole))
        error = math.sqrt(
            sum(_jackknife(one - centre, own, other, generator) for one, own, other in sides)
        )
    measured = Estimate(_distance(whole.moments(), data.moments()), error)
    return FrechetFigures(*counts, measured, by_chance)


def plain_smiles(smiles: Sequence[str | None]) -> list[str]:
    """Canonical SMILES without hydrogens, of those that rdkit can read and ChemNet can take in."""
    from rdkit import Chem, rdBase

    plain = []
    with rdBase.BlockLogs():
        for one in smiles:
            mol = None if one is None else Chem.MolFromSmiles(one)
            text = "" if mol is None else Chem.MolToSmiles(mol)
            if 0 < len(text) <= _LONGEST:
                plain.append(text)
    return plain


def activations(
    smiles: Sequence[str], processes: Processes | None = None, progress: Progress | None = None
) -> _Array:
    """The last hidden layer of ChemNet (M, 512), on the CPU.

    Raises:
        MissingExtraError: If `fcd` is not installed.
        ProcessError: If another process failed or is gone.
    """
    try:
        from fcd import load_ref_model
        from fcd.utils import SmilesDataset
    except ImportError as error:
        raise MissingExtraError("fcd", "fcd") from error
    processes = processes or Processes()
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")  # of torch.load, in some versions
        network = load_ref_model()  # it draws weights before it loads them
    mine = list(smiles[processes.index :: processes.count])

    def report(done: int) -> None:
        if progress is not None:
            progress("FCD", done, len(smiles))

    parts = [np.zeros((0, 512))]
    with processes.in_step(report) as tick, torch.no_grad():
        for start in range(0, len(mine), _BATCH):
            encoded = SmilesDataset(mine[start : start + _BATCH])
            one_hot = np.stack([encoded[row] for row in range(len(encoded))])
            seen = network(torch.from_numpy(one_hot).transpose(1, 2).float())
            parts.append(seen.double().numpy())
            tick(min(start + _BATCH, len(mine)))
    whole = np.zeros((len(smiles), 512))
    for rank, part in enumerate(processes.everyones(np.concatenate(parts))):
        whole[rank :: processes.count] = part
    return whole


def frechet_distance(x: _Array, y: _Array) -> float:
    """Fréchet distance of the Gaussians with the moments of two sets (M, D) and (H, D)."""
    centre = y.mean(axis=0)
    return _distance(_Sums.of(x - centre).moments(), _Sums.of(y - centre).moments())


@dataclass(frozen=True, eq=False)
class _Sums:
    """Sums over a set of rows (D,), from which those of a part can be taken away."""

    n: int
    total: _Array  # (D,)
    products: _Array  # (D, D)

    @classmethod
    def of(cls, x: _Array) -> _Sums:
        return cls(len(x), x.sum(axis=0), x.T @ x)

    def __sub__(self, part: _Sums) -> _Sums:
        return _Sums(self.n - part.n, self.total - part.total, self.products - part.products)

    def moments(self) -> tuple[_Array, _Array]:
        """Mean (D,) and a root R of the covariance `R'R`."""
        mean = self.total / self.n
        covariance = (self.products - self.n * np.outer(mean, mean)) / (self.n - 1)
        values, vectors = np.linalg.eigh(covariance)
        return mean, np.sqrt(values.clip(min=0))[:, None] * vectors.T


def _distance(one: tuple[_Array, _Array], other: tuple[_Array, _Array]) -> float:
    """Fréchet distance of two Gaussians from means (D,) and roots of covariances."""
    (mean, root), (other_mean, other_root) = one, other
    traces = (root**2).sum() + (other_root**2).sum()
    nuclear = np.linalg.norm(root @ other_root.T, "nuc")
    return max(float(((mean - other_mean) ** 2).sum() + traces - 2 * nuclear), 0.0)


def _jackknife(x: _Array, own: _Sums, other: _Sums, generator: torch.Generator) -> float:
    """Variance of the distance with respect to the draw of one set, from the sums of both."""
    part = torch.randperm(len(x), generator=generator).numpy() % _PARTS
    fixed = other.moments()
    values = [_distance((own - _Sums.of(x[part == k])).moments(), fixed) for k in range(_PARTS)]
    return float((_PARTS - 1) * np.var(values))
