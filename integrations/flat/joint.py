r"""The Gaussian of a complex: two molecules that are diffused together, such as ligand and pocket.

Noise of a complex has zero centre of mass over all of its n + m nodes. Such positions are three
independent parts: those of the first molecule about its own centre, those of the second about its
own, and one vector, the difference of the two centres c and d in its natural length,

    u = sqrt(n m / (n + m)) (c - d),

and unit noise is unit noise in each. So the reference of a complex is a product of three: of the
molecules, by their moments, and of u, whose variance is that of a molecule of two atoms at
(u, -u) / sqrt(2). That is the nearest law to the data whose parts are independent and of the kinds
that are asked for. How the molecules depend on one another (their forms fit together, and lie to
one another as they do) is what it does not know, and no criterion here measures it.

The three parts of B complexes stand in one padded batch (3 B, N, 3 + F), the first molecules, then
the second ones, then the vectors, with channels that a part does not have at zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from gaga_adapter.errors import DataError
from gaga_adapter.fitting import fit
from gaga_adapter.layout import AtomLayout
from gaga_adapter.reference import ReferenceGaussian
from gaga_adapter.stats import GAGAStats
from gaga_adapter.subspace import project

from .batches import to_flat, to_padded

PARTS = ("first", "second", "displacement")
# In the provenance of `JointStats`, for each part: its number of features, and its units.
KEY = "features of the parts of complexes"
UNITS = "norm_values and norm_biases"
#: The atoms (atoms, 3 + F) of both molecules of each complex, and the complex of each atom.
Complexes = tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]


def stack(complexes: Complexes) -> tuple[Tensor, Tensor]:
    """The parts of B complexes (3 B, N, 3 + F), and their mask (3 B, N), bool.

    Raises:
        DataError: If a complex lacks one of its molecules.
    """
    count = 1 + max(int(index.max()) for _, index in complexes)
    padded = [to_padded(x, index, n_molecules=count) for x, index in complexes]
    width = max(x.shape[1] for x, _ in padded)
    channels = max(x.shape[2] for x, _ in padded)
    rows, masks, centres = [], [], []
    for x, mask in padded:
        centres.append(x[..., :3].sum(1) / mask.sum(1, keepdim=True))
        room = (0, channels - x.shape[2], 0, max(width, 2) - x.shape[1])
        rows.append(F.pad(project(x, mask), room))
        masks.append(F.pad(mask, (0, room[3])))
    u = (centres[0] - centres[1]) * _length(masks, x)
    rows.append(F.pad(torch.stack([u, -u], 1) / 2**0.5, (0, channels - 3, 0, rows[0].shape[1] - 2)))
    masks.append((torch.arange(rows[0].shape[1], device=u.device) < 2).expand_as(masks[0]))
    return torch.cat(rows), torch.cat(masks)


def unstack(parts: Tensor, indices: Sequence[Tensor], widths: Sequence[int]) -> tuple[Tensor, ...]:
    """The atoms of both molecules of each complex: the inverse of `stack`.

    Args:
        parts: Parts (3 B, N, 3 + F).
        indices: Complex of each atom, of the first and of the second molecules.
        widths: Numbers of features of the two.
    """
    *rows, pairs = parts.chunk(3)
    masks = [to_padded(index[:, None], index)[1] for index in indices]
    difference = 2**0.5 * pairs[:, 0, :3] / _length(masks, parts)
    n_atoms = [mask.sum(1, keepdim=True) for mask in masks]
    molecules = []
    for i, sign in ((0, 1), (1, -1)):
        centre = sign * difference * n_atoms[1 - i] / (n_atoms[0] + n_atoms[1])
        atoms = to_flat(rows[i], indices[i])[:, : 3 + widths[i]]
        molecules.append(torch.cat([atoms[:, :3] + centre[indices[i].long()], atoms[:, 3:]], -1))
    return tuple(molecules)


def _length(masks: Sequence[Tensor], like: Tensor) -> Tensor:
    """`sqrt(n m / (n + m))` of each complex (B, 1), in the dtype of another tensor."""
    n, m = (mask.sum(1, keepdim=True).to(like) for mask in masks)
    return (n * m / (n + m)).sqrt()


class JointReference(ReferenceGaussian):
    """A product of references, of parts that stand one after the other in a padded batch."""

    kinds: ClassVar[tuple[str, ...]] = ("unit", "paper", "channel", "size", "shape")

    def __init__(self, kind: str, parts: tuple[Any, ...]) -> None:
        super().__init__(kind)
        self.parts = parts

    def at(self, a: float | Tensor, b: float | Tensor) -> JointReference:
        """The reference for `a x_0 + b eps`; see `ReferenceGaussian.at`."""
        level = super().at(a, b)
        level.parts = tuple(part.at(a, b) for part in self.parts)
        return level

    def _of_each(
        self, method: str, x: Tensor, mask: Tensor | None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """What a method of each part says of its rows, and these rows."""
        if mask is None or len(x) % len(self.parts):
            raise DataError("parts of complexes come with a mask, as `stack` makes them.")
        chunks = zip(self.parts, x.chunk(len(self.parts)), mask.chunk(len(self.parts)), strict=True)
        for part, rows, real in chunks:
            yield getattr(part, method)(rows[..., : 3 + part.n_features], real), rows

    def transport(self, z: Tensor, mask: Tensor | None = None) -> Tensor:
        """Map unit noise of the parts to the reference; see `ReferenceGaussian.transport`."""
        found = self._of_each("transport", z, mask)
        return torch.cat([F.pad(x, (0, rows.shape[-1] - x.shape[-1])) for x, rows in found])

    def kl_from_posterior(self, x0: Tensor, mask: Tensor | None = None) -> Tensor:
        """`KL(N(a x0, b² P) || reference)` of each complex, in nats (B,), float64."""
        return sum(nats for nats, _ in self._of_each("kl_from_posterior", x0, mask))  # type: ignore

    def log_prob(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Log-density of each complex in nats (B,), float64, on its subspace."""
        return sum(nats for nats, _ in self._of_each("log_prob", x, mask))  # type: ignore

    def sample(
        self,
        size: Tensor | Sequence[int],
        /,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """Refused, as a complex has two sizes; see `stack` and `transport`.

        Raises:
            DataError: If it is called.
        """
        raise DataError("complexes are not drawn by one size. Use transport(*stack(noise)).")


@dataclass(frozen=True, eq=False, repr=False)
class JointStats(GAGAStats):
    """Statistics of complexes: those of their parts, and layout and moments of the widest.

    Attributes:
        parts: Statistics of the first molecules, the second ones, and the vectors between them.
    """

    parts: tuple[GAGAStats, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        widths = [part.layout.n_channels - 3 for part in self.parts]
        units = [part.provenance.get(UNITS) for part in self.parts]
        object.__setattr__(self, "provenance", {**self.provenance, KEY: widths, UNITS: units})

    @classmethod
    def of(cls, parts: Sequence[GAGAStats]) -> JointStats:
        """The statistics of complexes of these parts; t* is that of the last to be Gaussian."""
        wider = max(parts, key=lambda part: part.layout.n_channels)
        star = min(part.log_snr_star for part in parts)
        return cls(wider.layout, wider.moments, star, parts=tuple(parts))

    def __repr__(self) -> str:
        return f"JointStats({', '.join(map(repr, self.parts))})"

    def reference(self, kind: str = "auto") -> JointReference:
        """The product of the references of the parts; see `GAGAStats.reference`."""
        made = tuple(part.reference(kind) for part in self.parts)
        return JointReference(made[0].kind, made)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the artefact of each part into a folder of its own."""
        for name, part in zip(PARTS, self.parts, strict=True):
            part.save_pretrained(Path(folder) / name)

    @classmethod
    def _read(cls, folder: Path, name: str) -> GAGAStats:
        """What `save_pretrained` has written; see `GAGAStats.from_pretrained`."""
        return cls.of([GAGAStats._read(folder / part, f"{name}/{part}") for part in PARTS])


def fit_joint(
    batches: Callable[[], Iterable[Complexes]],
    n_features: Sequence[int],
    **options: Any,  # noqa: ANN401 - of `fit`
) -> JointStats:
    """Fit the statistics of complexes, part by part.

    Args:
        batches: Function that gives the complexes from their beginning; it is called three times.
        n_features: Numbers of features of the first and the second molecules.
        options: Options of `gaga_adapter.fit`, for each of the parts.

    Returns:
        The artefact, for `apply_patch`. Its t* is the noisiest of the three: how the parts depend
        on one another is not judged.
    """
    stats = []
    for i, width in enumerate((*n_features, 0)):

        def part(i: int = i, width: int = width) -> Iterator[tuple[Tensor, Tensor]]:
            for complexes in batches():
                x, mask = stack(complexes)
                yield x.chunk(3)[i][..., : 3 + width], mask.chunk(3)[i]

        stats.append(fit(part(), AtomLayout(width), **options))
    return JointStats.of(stats)
