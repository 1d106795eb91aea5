r"""The published recipe of the characteristic step, constants and faults included: preset `paper`.

A molecule at a timestep passes if, for its positions and for its features alike, a KS test of all
entries against N(0, v) has a p-value above 0.05, and the average nearest-neighbour mutual
information is below 0.1 nats, both between random pairs of channels and between random pairs of
atoms. Its first pass is the first timestep of a grid from which two in a row pass; the published
T* is the average over molecules (Qu et al., ICLR 2026, section 4.2 and the code released with it).

This file is for comparison with published numbers. What it does that a test should not:

1. `v = a² s + b²` with s a *standard deviation*: the average over molecules of the root mean square
   entry, 1.380 for positions and 0.086 for types. The variances are 1.927 and 0.00745.
2. Types are centred over each molecule, and so is their noise: composition is invisible.
3. Entries of a molecule without centre of mass are correlated, and of variance `(1 - 1/N) v`; the
   KS test takes them as independent draws from N(0, v).
4. 0.1 nats is a constant. The scatter of the estimate depends on the number of atoms, so that the
   rate of false alarms does.
5. Negative estimates are set to 0 before they are averaged: independent columns do not average 0.
6. 2N pairs are drawn with repetition. Of three position channels there are 3 distinct pairs. The
   released code resets numpy's global seed, so all molecules of one size meet the same pairs; here
   they are drawn from the generator, once for each size.
7. Pairs of atoms have as many samples as there are channels. For positions that is the estimator at
   n = 3, k = 2, and at k = n - 1 it is identically 0; for five types it is n = 5, k = 3, which no
   molecule of QM9 fails from t = 300 on.
8. Two passes in a row are enough, whatever follows. On a finer grid, or on one that begins earlier,
   luck comes earlier: T* follows the grid. On 300, 350, ..., 800 it is 388 on QM9 and 348 on pure
   Gaussian noise; on 500, 550, ..., 1000 it is 571 and 551 (`benchmarks/criteria_speed.py`).
9. Molecules that never pass are left out of the average; those of fewer than 4 atoms are skipped.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gaga_adapter.criteria.ks_mi.item_statistics import ks_statistic
from gaga_adapter.criteria.ks_mi.mutual_information import knn_mutual_information
from gaga_adapter.criteria.levels import check_data
from gaga_adapter.errors import DataError, TruncationError
from gaga_adapter.noise.paths import GaussianPath
from gaga_adapter.reference.base import draw_noise, workspace
from gaga_adapter.subspace import remove_mean

#: The tests of one modality, in the order of `PublishedResult.passed`.
TESTS = ("ks", "channels", "atoms")
FEWEST_ATOMS = 4
Pairs = Sequence[tuple[int, int]]


@dataclass(frozen=True)
class Modality:
    """What the recipe does with some of the channels.

    Attributes:
        channels: First channel, and the one after the last; `None` is the end.
        constant: Published standard deviation that takes the place of a variance.
        n_neighbors: Number k of neighbours of the mutual information.
    """

    channels: tuple[int, int | None]
    constant: float
    n_neighbors: int

    def of(self, z: Tensor) -> Tensor:
        """Channels of this modality in molecules (B, N, 3 + F)."""
        return z[..., slice(*self.channels)]


@dataclass(frozen=True)
class PublishedRecipe:
    """Constants of the recipe.

    Attributes:
        modalities: Modalities that are tested.
        alpha: Level of the KS test.
        threshold: Largest mutual information that passes, in nats.
        draws_per_atom: Number of pairs drawn, with repetition, per atom of the molecule.
        consecutive: Number of passes in a row that make a first pass.
    """

    modalities: tuple[Modality, ...] = (Modality((0, 3), 1.380, 2), Modality((3, None), 0.086, 3))
    alpha: float = 0.05
    threshold: float = 0.1
    draws_per_atom: int = 2
    consecutive: int = 2

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 1:
            raise DataError(f"alpha={self.alpha} must lie between 0 and 1, such as 0.05.")

    def pairs(
        self, n_atoms: int, n_channels: int, generator: torch.Generator | None = None
    ) -> tuple[Pairs, Pairs]:
        """Pairs of channels and of atoms of one modality, drawn with repetition."""
        draws = self.draws_per_atom * n_atoms
        return draw_pairs(n_channels, draws, generator), draw_pairs(n_atoms, draws, generator)

    def tests(
        self,
        values: Tensor,
        variance: float,
        n_neighbors: int,
        pairs: tuple[Pairs, Pairs],
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Which of `TESTS` (B, 3) one modality (B, N, C) of molecules of one size passes.

        Entries should have this variance. Pairs are those of channels, then those of atoms. A test
        that cannot be computed is not passed.
        """
        from scipy.stats import kstwo  # the law of the KS statistic

        standard = values.to(torch.float64) / math.sqrt(variance)
        critical = float(kstwo.isf(self.alpha, standard[0].numel()))
        ks = ks_statistic(standard.flatten(1)) < critical
        channels, atoms = (
            _average_information(columns, some, n_neighbors, generator) < self.threshold
            for columns, some in zip((standard.mT, standard), pairs, strict=True)
        )
        return torch.stack([ks, channels, atoms], dim=1)


#: Preset `paper`: the published constants, for QM9.
PAPER = PublishedRecipe()
#: The same for GEOM-Drugs, whose types are taken as passed.
PAPER_GEOM = PublishedRecipe(modalities=(Modality((0, 3), 2.393, 2),))


@dataclass(frozen=True, eq=False)
class PublishedResult:
    """Outcome of the recipe.

    Attributes:
        timesteps: Grid (T,), from data to noise.
        passed: Whether each test is passed (M, T, modalities, 3), in the order of `TESTS`.
        skipped: Whether each molecule has too few atoms (M,).
        consecutive: Number of passes in a row that make a first pass.
    """

    timesteps: tuple[int, ...]
    passed: Tensor
    skipped: Tensor
    consecutive: int

    @property
    def first_pass(self) -> Tensor:
        """First timestep of enough passes in a row (M,), float64; NaN where there is none."""
        runs = self.passed.flatten(2).all(2).unfold(1, self.consecutive, 1).all(2)
        times = torch.tensor(self.timesteps, dtype=torch.float64)[runs.to(torch.uint8).argmax(1)]
        return times.masked_fill(~runs.any(1), math.nan)

    @property
    def dropped(self) -> int:
        """Molecules that were tested and never passed: the published average leaves them out."""
        return int((self.first_pass.isnan() & ~self.skipped).sum())

    @property
    def mean(self) -> float:
        """The published T*: average first pass; NaN if no molecule passed."""
        return float(self.first_pass.nanmean())

    @property
    def std_error(self) -> float:
        """Standard error of `mean`; NaN for fewer than two first passes."""
        first = self.first_pass[~self.first_pass.isnan()]
        return float(first.std() / math.sqrt(len(first))) if len(first) > 1 else math.nan

    @property
    def pass_rate(self) -> Tensor:
        """Share of the tested molecules that passes everything, per timestep (T,)."""
        return self.passed[~self.skipped].flatten(2).all(2).double().mean(0)

    @property
    def test_rates(self) -> Tensor:
        """Share of the tested molecules that passes each test (T, modalities, 3)."""
        return self.passed[~self.skipped].double().mean(0)


def published_first_pass(
    x: Tensor,
    mask: Tensor,
    path: GaussianPath,
    timesteps: Sequence[int] = tuple(range(300, 801, 50)),
    generator: torch.Generator | None = None,
    recipe: PublishedRecipe = PAPER,
) -> PublishedResult:
    """The published T* of molecules in the layout of EDM (angstrom, one-hot / 4).

    Args:
        x: Clean molecules (M, N, 3 + F).
        mask: Real atoms (M, N), bool.
        path: Noise schedule; the published one is `edm/polynomial_2`.
        timesteps: Grid, in steps of the path (of 1000 where it is continuous).
        generator: Source of the noise, of the pairs, and of what breaks ties.
        recipe: Constants of the recipe.

    Raises:
        DataError: If the data are not molecules, or have too few channels for a modality.
        TruncationError: If the grid does not rise, or is too short.
    """
    check_data(x, mask)
    grid = tuple(timesteps)
    if len(grid) < recipe.consecutive or list(grid) != sorted(set(grid)):
        raise TruncationError(
            f"timesteps {grid} must rise and be at least {recipe.consecutive}, "
            "such as 300, 350, ..., 800."
        )
    for modality in recipe.modalities:
        width = modality.of(x).shape[-1]
        if width <= modality.n_neighbors:
            raise DataError(
                f"the published test of channels {modality.channels} has {width} of them and asks "
                f"for {modality.n_neighbors} neighbours. It needs {modality.n_neighbors + 1}."
            )
    x, mask = x.to(workspace(x.device)), mask.to(workspace(x.device))
    clean, sizes = remove_mean(x, mask), mask.sum(1)  # all channels, features too
    shape = (len(x), len(grid), len(recipe.modalities), len(TESTS))
    passed = torch.zeros(shape, dtype=torch.bool, device=x.device)
    steps = path.n_steps or 1000
    for column, timestep in enumerate(grid):
        a, b = float(path.a(timestep / steps)), float(path.b(timestep / steps))
        noise = draw_noise(x.shape, generator, x.device, x.dtype)
        z = a * clean + b * remove_mean(noise, mask)
        for n_atoms in map(int, torch.unique(sizes[sizes >= FEWEST_ATOMS])):
            rows = (sizes == n_atoms).nonzero().flatten()
            atoms = z[rows][mask[rows]].reshape(len(rows), n_atoms, -1)
            for place, modality in enumerate(recipe.modalities):
                values, variance = modality.of(atoms), a**2 * modality.constant + b**2
                pairs = recipe.pairs(n_atoms, values.shape[-1], generator)
                passed[rows, column, place] = recipe.tests(
                    values, variance, modality.n_neighbors, pairs, generator
                )
    return PublishedResult(grid, passed.cpu(), (sizes < FEWEST_ATOMS).cpu(), recipe.consecutive)


def draw_pairs(width: int, draws: int, generator: torch.Generator | None = None) -> Pairs:
    """Pairs of distinct columns among `width`, drawn with repetition."""
    home = None if generator is None else generator.device
    first = torch.randint(width, (draws,), generator=generator, device=home)
    step = torch.randint(1, width, (draws,), generator=generator, device=home)
    ends = torch.stack([first, (first + step) % width]).sort(0).values
    return [(int(i), int(j)) for i, j in ends.T.tolist()]


def _average_information(
    columns: Tensor, pairs: Pairs, n_neighbors: int, generator: torch.Generator | None
) -> Tensor:
    """Average mutual information (B,) over pairs, where each distinct pair is computed once."""
    times = Counter(pairs)
    information = knn_mutual_information(columns, list(times), n_neighbors, generator)
    weight = information.new_tensor(list(times.values())) / times.total()
    return information @ weight
