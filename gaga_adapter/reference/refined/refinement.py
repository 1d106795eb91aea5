"""What a fit has learnt about its start beyond the moments, and what that gains."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gaga_adapter.errors import StatsMismatchError
from gaga_adapter.files.checked import Fields, Tensors
from gaga_adapter.moments import ExchangeableMoments
from gaga_adapter.reference.refined.tilt import Tilt, n_invariants
from gaga_adapter.reference.refined.tilted import TiltedReference
from gaga_adapter.reference.shape import ShapeReference

#: Names of the tensors of an artefact that are not of its moments.
TENSORS = ("refined_weights", "tilt_coefficients", "tilt_sizes", "tilt_cells")


@dataclass(frozen=True, eq=False)
class Refinement:
    """Additions to the `shape` reference; at least one of `weights` and `tilt` is there.

    Attributes:
        log_snr: Level at which it was fitted.
        n_items: Number of data items it was fitted on.
        n_judged: Number of other items that judged it.
        plain_nats: Nats per item between noised data and the plain reference at that level, by the
            criterion `two_sample` on the items that judged, and their standard error.
        refined_nats: The same of the refined reference.
        weights: Probabilities of the table's rows (T,), float64, of sum one per size, or `None`.
        tilt: The tilt, or `None`.
    """

    log_snr: float
    n_items: int
    n_judged: int
    plain_nats: tuple[float, float]
    refined_nats: tuple[float, float]
    weights: Tensor | None = None
    tilt: Tilt | None = None

    @property
    def methods(self) -> tuple[str, ...]:
        """What it consists of: `em`, `tilt` or both."""
        return tuple(
            name for name, part in (("em", self.weights), ("tilt", self.tilt)) if part is not None
        )

    def describe(self) -> str:
        """One sentence on what it is and gains."""
        parts = []
        if self.weights is not None:
            parts.append("mixing weights by EM")
        if self.tilt is not None:
            parts.append(f"a tilt that chooses 1 of {self.tilt.n_candidates} candidates")
        return (
            f"{' and '.join(parts)}, fitted at log-SNR {self.log_snr:.3f} on {self.n_items:,} "
            f"items. On {self.n_judged:,} others two_sample finds {self.refined_nats[0]:.3f} ± "
            f"{self.refined_nats[1]:.3f} nats instead of {self.plain_nats[0]:.3f} ± "
            f"{self.plain_nats[1]:.3f}"
        )

    def check(self, moments: ExchangeableMoments) -> None:
        """Refuse moments that this refinement was not fitted with.

        Raises:
            StatsMismatchError: If they keep no exact tensors of molecules, their table has another
                number of rows than there are weights, or their molecules other features than the
                tilt.
        """
        fault = None
        if not moments.keeps_tensors:
            fault = "these moments keep no exact tensors of molecules"
        elif self.weights is not None and self.weights.shape != moments.table_sizes.shape:
            fault = (
                f"its weights have shape {tuple(self.weights.shape)}, and the table has "
                f"{len(moments.table_sizes)} rows"
            )
        elif self.tilt is not None:
            found, needed = self.tilt.coefficients.shape, n_invariants(moments.n_features)
            if found != (needed,):
                fault = (
                    f"its tilt has coefficients of shape {tuple(found)}, and molecules of "
                    f"{moments.n_features} features have {needed} invariants"
                )
        if fault is not None:
            raise StatsMismatchError(
                f"the refinement is of other data: {fault}. Pass the one that was fitted with "
                "these moments, or leave the refinement out."
            )

    def reference(self, moments: ExchangeableMoments) -> ShapeReference:
        """The refined reference of these moments, at the level of the data."""
        if self.tilt is None:
            return ShapeReference("shape", moments, self.weights)
        return TiltedReference(moments, self.weights, self.tilt)

    def tensors(self) -> dict[str, Tensor]:
        """The arrays, by name."""
        weights = {} if self.weights is None else {"refined_weights": self.weights}
        return weights | ({} if self.tilt is None else self.tilt.tensors())

    def to_dict(self) -> dict[str, Any]:
        """The other numbers, ready for JSON."""
        return {
            "log_snr": self.log_snr,
            "methods": list(self.methods),
            "n_items": self.n_items,
            "n_judged": self.n_judged,
            "plain_nats": list(self.plain_nats),
            "refined_nats": list(self.refined_nats),
            **({} if self.tilt is None else {"tilt": self.tilt.to_dict()}),
        }

    @classmethod
    def from_parts(
        cls, about: Fields, tensors: Mapping[str, Tensor], moments: ExchangeableMoments
    ) -> Refinement:
        """The inverse of `to_dict` and `tensors`.

        Raises:
            ArtefactError: If something is missing, or does not belong to these moments.
        """
        methods = about.texts("methods")
        if methods not in (("em",), ("tilt",), ("em", "tilt")):
            raise about.refuse("methods", "['em'], ['tilt'] or both")
        kind = {"em": "refined_", "tilt": "tilt_"}
        expected = [name for name in TENSORS if name.startswith(tuple(kind[m] for m in methods))]
        own = Tensors(tensors, "the tensors of the refinement").only(expected)
        weights = tilt = None
        if "em" in methods:
            weights = own.take("refined_weights", torch.float64, [len(moments.table_sizes)])
            own.within("refined_weights", weights, 0.0, 1.0)
            total = torch.zeros(1 + int(moments.table_sizes.max()), dtype=torch.float64)
            total.index_add_(0, moments.table_sizes, weights)
            sums = total[moments.table_sizes]
            own.require("refined_weights", ((sums - 1).abs() < 1e-6).all(), "their sum is not one")
        if "tilt" in methods:
            tilt = Tilt.from_parts(about.fields("tilt"), own, moments.n_features)
            if tilt.log_snr != about.number("log_snr", -60, 60):
                raise about.refuse("log_snr", "that of its tilt")
        nats = [about.numbers(name, -1e6, 1e6) for name in ("plain_nats", "refined_nats")]
        if any(len(pair) != 2 for pair in nats):
            raise about.refuse("plain_nats", "a value and its error, like refined_nats")
        return cls(
            about.number("log_snr", -60, 60),
            about.integer("n_items", 1, 2**53),
            about.integer("n_judged", 1, 2**53),
            (nats[0][0], nats[0][1]),
            (nats[1][0], nats[1][1]),
            weights,
            tilt,
        )
