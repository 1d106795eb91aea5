"""What `fit_states` found: moments of the states at every level, how far they are from their start.

A level is the codebase's own time, and nothing is assumed of what lies between two of them: the
path need not be a straight line, and of a pairing only what was measured is known. So there is no
reference at a level that was not measured.

On disk a folder holds `gaga_states.json` and `gaga_states.safetensors`, see `files/pair.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from torch import Tensor

from gaga_adapter.errors import (
    ArtefactError,
    GAGAError,
    StatsMismatchError,
    TruncationError,
    plain_number,
)
from gaga_adapter.files.checked import MOST_COUNTED, Fields, printable
from gaga_adapter.files.pair import Pair, digest_of
from gaga_adapter.layout import Layout, layout_from_dict, layout_to_dict
from gaga_adapter.moments import has_layout, moments_from_state_dict
from gaga_adapter.reference.measured import measured_reference
from gaga_adapter.selection import upper_limits

if TYPE_CHECKING:
    from gaga_adapter.moments import Moments
    from gaga_adapter.reference import ReferenceGaussian

SCHEMA_VERSION = 1
CONFIG_NAME = "gaga_states.json"
TENSORS_NAME = "gaga_states.safetensors"
_FILES = Pair(CONFIG_NAME, TENSORS_NAME, SCHEMA_VERSION, "`fit_states`")
_ENTRIES = ("level", "moments", "value", "std_error", "auc", "n_held_out")
_MOST = 1e15  # of a level or of nats that are read

#: Levels that are this near are one: 0.1 + 0.2 is 0.3, and so is 0.3 that was rounded to float32.
_SAME_RATIO, _SAME = 5e-7, 1e-9
#: The end of the path to which a codebase's time rises.
Towards = Literal["data", "noise"]


def same_level(one: float, other: float) -> bool:
    """Whether two levels are one, but for the rounding of either."""
    return math.isclose(one, other, rel_tol=_SAME_RATIO, abs_tol=_SAME)


@dataclass(frozen=True, eq=False)
class MeasuredLevel:
    """The states of one level.

    Attributes:
        level: Time of the codebase.
        moments: Moments of the states.
        value: Lower bound of the divergence of held-out states from the reference, in nats.
        std_error: Its standard error.
        auc: Held-out area under the ROC curve of the classifier; 0.5 is chance.
        n_held_out: Number of states that were held out.
    """

    level: float
    moments: Moments
    value: float
    std_error: float
    auc: float
    n_held_out: int

    @property
    def upper(self) -> float:
        """What is compared with the tolerance: the value and its margin of standard errors."""
        return upper_limits([self.value], [self.std_error])[0]


@dataclass(frozen=True, eq=False)
class FittedStates:
    """Statistics of the noised states of one codebase, level by level.

    Attributes:
        layout: Meaning of the channels.
        measured: Levels that were measured, from data to noise.
        towards: End of the path to which the codebase's time rises, `data` or `noise`.
        reference: Kind of the reference that the states were compared with.
        tolerance: Nats that may remain at the level of the start.
        level_star: Level nearest to the data from which on towards noise the states are within the
            tolerance of the reference.
        reason: Reason for that choice in one sentence.
        provenance: Source of the states, and library versions.

    Raises:
        TruncationError: If there are no levels, they are not in the order from data to noise, or
            `level_star` is none of them.
    """

    layout: Layout
    measured: tuple[MeasuredLevel, ...]
    towards: Towards
    reference: str
    tolerance: float
    level_star: float
    reason: str
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "provenance", printable(self.provenance))
        if self.towards not in get_args(Towards):
            raise TruncationError(
                f"towards={self.towards!r} is unknown. Known: {', '.join(get_args(Towards))}."
            )
        sign = -1 if self.towards == "data" else 1
        order = [sign * level for level in self.levels]
        if not order or any(b < a or same_level(a, b) for a, b in pairwise(order)):
            raise TruncationError(f"levels {self.levels} do not run from data to noise.")
        object.__setattr__(self, "level_star", self.at(self.level_star).level)

    def __repr__(self) -> str:
        return (
            f"FittedStates({self.layout.describe()}, {len(self.measured)} levels, {self.reference} "
            f"reference, level_star={self.level_star:.4g})"
        )

    @property
    def levels(self) -> tuple[float, ...]:
        """The levels that were measured, from data to noise."""
        return tuple(one.level for one in self.measured)

    def at(self, level: float) -> MeasuredLevel:
        """What was measured at a level.

        Raises:
            TruncationError: If the level was not measured.
        """
        level = plain_number("level", level, "Pass one of the levels that were measured.")
        nearest = sorted(self.measured, key=lambda one: abs(one.level - level))
        if same_level(nearest[0].level, level):
            return nearest[0]
        known = " and ".join(f"{one.level:.8g}" for one in nearest[:2])
        raise TruncationError(
            f"level {level:.8g} was not measured; the nearest are {known}. Take one of these, or "
            "measure it: nothing is known of the states in between."
        )

    def reference_at(self, level: float, kind: str = "auto") -> ReferenceGaussian:
        """The closed-form law of the states of a level.

        Args:
            level: Level that was measured.
            kind: Kind of the reference; `auto` is the one that the states were compared with.

        Returns:
            A reference whose own a and b are 1 and 0: it is the law of the state itself. Draw from
            it with `sample`.

        Raises:
            TruncationError: If the level was not measured.
            StatsMismatchError: If the states do not have this kind.
        """
        return measured_reference(
            self.at(level).moments, self.reference if kind == "auto" else kind
        )

    def start(self, kind: str = "auto") -> ReferenceGaussian:
        """The law of the states at `level_star`, see `reference_at`."""
        return self.reference_at(self.level_star, kind)

    def describe(self) -> str:
        """The levels as a table in text, from data to noise, and the reason for the choice."""
        lines = ["   level     nats   ± s.e.     AUC    items"]
        for one in self.measured:
            here = "  <- start" if one.level == self.level_star else ""
            lines.append(
                f"{one.level:>8.4g} {one.value:>8.3f} {one.std_error:>8.3f} {one.auc:>7.3f} "
                f"{one.moments.count + one.n_held_out:>8,}{here}"
            )
        return "\n".join([*lines, self.reason])

    # -- on disk ---------------------------------------------------------------------------------

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the statistics into a folder; older ones there stay intact if writing fails.

        Raises:
            WriteError: If the folder cannot be written, such as on a full disk.
            ArtefactError: If something is not valid, such as provenance that JSON does not have.
        """
        tensors = self._tensors()

        def check(config: Mapping[str, Any]) -> None:
            try:
                self._from_config(config, tensors)
            except GAGAError as error:
                raise ArtefactError(f"these statistics could not be read again: {error}") from error

        _FILES.write(Path(folder), self.to_dict(), tensors, check)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> FittedStates:
        """Read the statistics from a folder.

        Raises:
            ArtefactError: If there are none, they cannot be read, are corrupt, or have a newer
                schema.
        """
        place = Path(folder)
        return _FILES.read_again(place, partial(cls._read_once, place))

    @classmethod
    def _read_once(cls, folder: Path) -> FittedStates:
        def missing(names: list[str]) -> str:
            return (
                f"no statistics of noised states in {folder}: {' and '.join(names)} not found. "
                "Pass a folder that `FittedStates.save_pretrained` wrote."
            )

        return _FILES.read(folder, missing, cls._from_config)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the tensors, ready for JSON."""
        levels = [
            {
                "level": one.level,
                "moments": one.moments.metadata(),
                "value": one.value,
                "std_error": one.std_error,
                "auc": one.auc,
                "n_held_out": one.n_held_out,
            }
            for one in self.measured
        ]
        return {
            "schema_version": SCHEMA_VERSION,
            "layout": layout_to_dict(self.layout),
            "towards": self.towards,
            "reference": self.reference,
            "tolerance": self.tolerance,
            "level_star": self.level_star,
            "reason": self.reason,
            "levels": levels,
            "provenance": dict(self.provenance),
            "digest": digest_of(self._tensors()),
        }

    def _tensors(self) -> dict[str, Tensor]:
        return {
            f"{place}.{name}": tensor.contiguous()
            for place, one in enumerate(self.measured)
            for name, tensor in one.moments.state_dict().items()
        }

    @classmethod
    def _from_config(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> FittedStates:
        about = Fields(config, "the configuration")
        entries = about.data.get("levels")
        if not isinstance(entries, list) or not entries:
            raise about.refuse("levels", "a list of measured levels")
        own: dict[str, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            place, _, rest = name.partition(".")
            own.setdefault(place, {})[rest] = tensor
        if unknown := own.keys() - set(map(str, range(len(entries)))):
            raise ArtefactError(
                f"there are tensors of a level {min(unknown)!r} that is not listed."
            )
        layout = layout_from_dict(dict(about.fields("layout").data))
        measured = tuple(
            _read_level(Fields(entry, f"level {place}"), own.get(str(place), {}), layout)
            for place, entry in enumerate(entries)
        )
        towards: Any = about.text("towards", get_args(Towards))
        states = cls(
            layout,
            measured,
            towards,
            about.text("reference"),
            about.number("tolerance", 1e-300, _MOST),
            about.number("level_star", -_MOST, _MOST),
            about.text("reason"),
            dict(about.fields("provenance").data),
        )
        states.start()
        return states


def _read_level(about: Fields, tensors: dict[str, Tensor], layout: Layout) -> MeasuredLevel:
    about.only(_ENTRIES)
    moments = moments_from_state_dict(tensors, dict(about.fields("moments").data))
    if not has_layout(moments, layout):
        raise StatsMismatchError(
            f"the layout has {layout.describe()}, the moments are {moments.metadata()}."
        )
    return MeasuredLevel(
        about.number("level", -_MOST, _MOST),
        moments,
        about.number("value", -_MOST, _MOST),
        about.number("std_error", 0, _MOST),
        about.number("auc", 0, 1),
        about.integer("n_held_out", 1, MOST_COUNTED),
    )
