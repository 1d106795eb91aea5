"""What the pictures of the gallery show: sampled molecules, noised data beside a fitted Gaussian.

Sampled molecules are kept under `runs/gallery`, so that a run that was killed goes on. Nothing is
chosen by its looks: all pictures take the first items of a stated seed or file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from digits_training import digits
from mixed import encoded
from modalities import latents, patches
from torch import Tensor
from torch.nn.functional import pixel_shuffle

from gaga_adapter import (
    FewStepScheduler,
    GAGAScheduler,
    GAGAStats,
    MoleculePipeline,
    fit,
    named_path,
)
from gaga_adapter.files.atomic import replacing
from gaga_adapter.layout import MoleculeLayout
from gaga_adapter.molecules.data import MoleculeSet
from gaga_adapter.molecules.encoding import encode
from gaga_adapter.molecules.formats import read_molecules
from gaga_adapter.molecules.qm9.data import load_qm9
from gaga_adapter.moments import DenseMoments, ExchangeableMoments
from gaga_adapter.moments.mixed import MixedMoments
from gaga_adapter.reference import ReferenceGaussian, make_reference
from gaga_adapter.reference.mixed import MixedReference

ROOT = Path(__file__).parent.parent
RUNS = ROOT / "runs" / "gallery"
PATH = named_path("edm/polynomial_2", 1000)
DRUG_ELEMENTS = ("H", "C", "N", "O", "F", "S", "Cl", "Br")
SEED, T_STAR, CALLS = 0, 300, 12
FULL_CALLS, N_DRAWN = 1000, 12


# ---------------------------------------------------------------------------- sampled molecules


@dataclass(frozen=True)
class Row:
    """A way to sample: the start, the number of network calls, and what a title says of it."""

    name: str
    title: str
    calls: int
    reference: str | None  # of the start at t*; `None` begins at pure noise

    def scheduler(self, base: Any, stats: GAGAStats) -> Any:  # noqa: ANN401 - of diffusers
        """The scheduler of this row."""
        if self.calls == FULL_CALLS:
            return base
        few = FewStepScheduler.from_scheduler(base)
        if self.reference is None:
            few.take_moments(stats.moments)  # as the starts at t* have them
            return few
        return GAGAScheduler.from_pretrained(
            few, stats=stats, t_star=T_STAR, reference=self.reference
        )


ROWS = (
    Row("few", f"{CALLS} calls from the Gaussian at t* = {T_STAR}", CALLS, "shape"),
    Row("noise", f"{CALLS} calls from N(0, I) at pure noise", CALLS, None),
    Row("unit", f"{CALLS} calls from N(0, I) at t* = {T_STAR}", CALLS, "unit"),
    Row("full", f"DDPM: {FULL_CALLS} calls from N(0, I) at pure noise", FULL_CALLS, None),
)


def sampled(row: Row, n: int) -> MoleculeSet:
    """The molecules of a row: n from one seed, or what is kept of an earlier run."""
    file = RUNS / f"{row.name}-{n}.npz"
    if not file.exists():
        RUNS.mkdir(parents=True, exist_ok=True)
        pipeline = MoleculePipeline.load("qm9")
        pipeline.set_progress_bar_config(disable=True)
        pipeline.scheduler = row.scheduler(pipeline.scheduler, GAGAStats.from_pretrained("qm9"))
        generator = torch.Generator().manual_seed(SEED)
        made = pipeline(n, num_inference_steps=row.calls, generator=generator)
        if made.network_calls != row.calls:
            raise RuntimeError(f"{row.title} made {made.network_calls} network calls.")
        with replacing(file) as temporary, temporary.open("wb") as stream:
            np.savez_compressed(
                stream, x=made.molecules.positions, numbers=made.molecules.atomic_numbers
            )
    with np.load(file) as kept:
        return MoleculeSet(kept["x"], kept["numbers"], row.name)


# ---------------------------------------------------------------------------- noised beside fitted


@dataclass(frozen=True)
class Cloud:
    """Data of one kind and the Gaussian that was fitted to them, at levels from data to noise.

    Attributes:
        data: First items of the data, clean (B, ...).
        mask: Real atoms (B, N) of molecules; `None` for dense data.
        reference: Fitted start, at no level yet.
        levels: Factors a and b of data and noise at each level.
    """

    data: Tensor
    mask: Tensor | None
    reference: ReferenceGaussian
    levels: Sequence[tuple[float, float]]

    def at_levels(self) -> list[tuple[Tensor, Tensor]]:
        """Noised data and draws of the Gaussian at each level, all of them from the same noise."""
        shown = []
        for a, b in self.levels:
            here = self.reference.at(a, b)
            size = self.data.shape if self.mask is None else self.mask.sum(1)
            noised = here.noised(self.data, self.mask, torch.Generator().manual_seed(SEED))
            drawn = here.sample(size, generator=torch.Generator().manual_seed(SEED + 1))
            shown.append((noised, drawn.to(noised)))
        return shown


def levels_of(steps: Sequence[int]) -> list[tuple[float, float]]:
    """Factors a and b at steps of the noise schedule."""
    t = torch.tensor(steps, dtype=torch.float64) / 1000
    return list(zip(PATH.a(t).tolist(), PATH.b(t).tolist(), strict=True))


def molecules_of(source: str, steps: Sequence[int], n: int) -> Cloud:
    """The first n molecules of QM9's test split, or of the drug-like ones that the tests keep."""
    if source == "qm9":
        stats, molecules = GAGAStats.from_pretrained("qm9"), load_qm9("test")
    else:
        molecules = read_molecules(ROOT / "tests" / "molecules" / "drugs.npz")
        layout = MoleculeLayout(DRUG_ELEMENTS)
        moments = ExchangeableMoments(layout.n_features)
        moments.update(*encode(molecules, layout))
        stats = GAGAStats(layout, moments, 0.0)
    x, mask = encode(molecules.subset(slice(n)), stats.layout)
    return Cloud(x, mask, stats.reference("shape"), levels_of(steps))


def digits_of(steps: Sequence[int], n: int | None = None) -> Cloud:
    """The digits of `images.py`, packed, beside the Gaussian of their full covariance."""
    images = torch.cat(digits())
    stats = fit([images], criterion="cumulant", covariance="full")
    return Cloud(images[:n], None, stats.reference("full"), levels_of(steps))


def patches_of(steps: Sequence[int], n: int) -> Cloud:
    """Patches of the photographs of `modalities.py`, mean 0 and variance 1 per number."""
    x = patches(torch.Generator().manual_seed(SEED))
    x = (x - x.mean(0)) / x.var(0, correction=0).mean().sqrt()
    moments = DenseMoments(tuple(x.shape[1:]), kind="full")
    moments.update(x)
    return Cloud(x[:n], None, make_reference(moments), levels_of(steps))


def latents_of(steps: Sequence[int], n: int) -> Cloud:
    """Latents of the autoencoder of `modalities.py`."""
    made = latents(n, torch.Generator().manual_seed(SEED))
    return Cloud(made.x, None, made.reference, levels_of(steps))


def mixed_of(times: Sequence[float], n: int, n_moments: int = 60_000) -> Cloud:
    """Molecules of a flow whose types are shown one by one (`mixed.py`); time 1 is the data."""
    moments = MixedMoments(5)
    moments.update(*encoded(False, 0, n_moments))
    x, mask = encoded(False, n_moments, n_moments + n)
    reference = MixedReference("mixed", moments)
    return Cloud(x, mask, reference, [(t, 1 - t) for t in times])


def unpacked(images: Tensor) -> Tensor:
    """Images (B, H, W) of packed digits (B, 4, H / 2, W / 2)."""
    return pixel_shuffle(images, 2)[:, 0]
