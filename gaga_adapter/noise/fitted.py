"""Noise levels that were fitted to a model, for a number of network calls, and how they are kept.

They lie beside the statistics in `gaga_levels.json`, which belongs to these statistics by the
digest of their tensors. Levels are fitted to one network. Its `ModelMark` tells another one: its
class and the size of its weights, which a change of precision hardly changes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gaga_adapter.errors import ArtefactError, DataError, TruncationError, warn
from gaga_adapter.files.atomic import replacing
from gaga_adapter.files.checked import MOST_COUNTED, Fields, read_json, to_json
from gaga_adapter.noise.levels import MOST_LOG_SNR, TOLERANCE, check_log_snr

LEVELS_NAME = "gaga_levels.json"
SCHEMA_VERSION = 1
_MOST_LEVELS = 1000
_MOST = 1e15  # of a distance, or of the size of weights, that is read
#: Weights of one network in two precisions differ by less, and those of two networks by more.
_SAME = 1e-3
_SHARES = 8
#: Tables in float32 and in float64 differ by less, and steps of a thousand by more.
_SAME_START = 1e-3


@dataclass(frozen=True)
class ModelMark:
    """What a network is known by.

    Attributes:
        name: Name of its class, or of a function.
        n_weights: Number of its weights; 0 for a function, of which nothing but the name is known.
        sizes: Root mean square of the weights in shares of its tensors.
    """

    name: str
    n_weights: int = 0
    sizes: tuple[float, ...] = ()

    @classmethod
    @torch.no_grad()
    def of(cls, model: Any) -> ModelMark:  # noqa: ANN401 - any network
        """The mark of a network, or of any callable."""
        name = str(getattr(model, "__qualname__", type(model).__qualname__))[:200]
        if not isinstance(model, nn.Module):
            return cls(name)
        weights = [w.detach() for w in model.parameters() if w.is_floating_point()]
        shares = [weights[k::_SHARES] for k in range(min(_SHARES, len(weights)))]
        squares = (sum(float(w.double().square().sum()) for w in share) for share in shares)
        counts = [sum(w.numel() for w in share) for share in shares]
        sizes = tuple(math.sqrt(s / max(n, 1)) for s, n in zip(squares, counts, strict=True))
        return cls(type(model).__qualname__, sum(counts), sizes)

    def is_same(self, other: ModelMark) -> bool:
        """Whether two marks are of one network, perhaps in another precision."""
        return (
            (self.name, self.n_weights) == (other.name, other.n_weights)
            and len(self.sizes) == len(other.sizes)
            and all(
                math.isclose(a, b, rel_tol=_SAME)
                for a, b in zip(self.sizes, other.sizes, strict=True)
            )
        )


@dataclass(frozen=True)
class FittedLevels:
    """The levels of a run of few network calls, and how its steps are made.

    Attributes:
        log_snrs: Log-SNRs (n,) of the calls, rising; the first is the start at t*.
        n_renoised: Number of the last steps that re-noise; the others are ancestral.
        model: Mark of the network.
        reference: Kind of the start.
        distance: Distance of samples on these levels from held-out data, in units of that of
            samples on even levels: 1 is no better.
        std_error: Standard error of the distance; the samples of both are pairs.
        n_items: Number of held-out items that the distance was measured with.
        seed: Seed of the fit.
        method: Way in which the levels were chosen.

    Raises:
        TruncationError: If the levels do not rise, or the number of steps is out of range.
        DataError: If the distance is no finite number.
    """

    log_snrs: tuple[float, ...]
    n_renoised: int
    model: ModelMark
    reference: str
    distance: float
    std_error: float
    n_items: int
    seed: int = 0
    method: str = "bound"

    def __post_init__(self) -> None:
        levels = tuple(check_log_snr("a level", level) for level in self.log_snrs)
        object.__setattr__(self, "log_snrs", levels)
        if not levels or any(b - a <= TOLERANCE for a, b in pairwise(levels)):
            raise TruncationError(
                f"log_snrs={list(levels)[:6]} do not rise from noise to data. Pass one or more "
                "levels, each closer to the data than the one before."
            )
        if not 0 <= self.n_renoised < len(levels):
            raise TruncationError(
                f"n_renoised={self.n_renoised} with {len(levels)} levels: of {len(levels) - 1} "
                "steps between levels, so many cannot re-noise."
            )
        numbers = (self.distance, self.std_error)
        if not all(map(math.isfinite, numbers)) or self.std_error < 0:
            raise DataError(
                f"distance={self.distance} ± {self.std_error} is no finite number with a standard "
                "error. Fit the levels again."
            )

    @property
    def n_calls(self) -> int:
        """Number of network calls."""
        return len(self.log_snrs)

    def starts_at(self, log_snr: float) -> bool:
        """Whether the first level is this one, to 0.001."""
        return abs(self.log_snrs[0] - log_snr) <= _SAME_START

    def check_model(self, *networks: Any) -> None:  # noqa: ANN401 - any networks
        """Warn if these levels were fitted to none of the networks that are to be called."""
        marks = [ModelMark.of(network) for network in networks]
        if marks and not any(map(self.model.is_same, marks)):
            here = marks[0]
            warn(
                f"the levels for {self.n_calls} calls were fitted to another network "
                f"({self.model.name}, {self.model.n_weights:,} weights; this is {here.name}, "
                f'{here.n_weights:,}). Fit them to this one, or use spacing="log_snr".'
            )

    def to_dict(self) -> dict[str, Any]:
        """JSON form, the inverse of `from_dict`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> FittedLevels:
        """Levels from their JSON form.

        Raises:
            ArtefactError: If an entry is missing or not valid.
        """
        about = Fields(data, "the fitted levels").only(tuple(cls.__dataclass_fields__))
        model = about.fields("model").only(tuple(ModelMark.__dataclass_fields__))
        try:
            return cls(
                about.numbers("log_snrs", -MOST_LOG_SNR, MOST_LOG_SNR),
                about.integer("n_renoised", 0, _MOST_LEVELS),
                ModelMark(
                    model.text("name"),
                    model.integer("n_weights", 0, MOST_COUNTED),
                    model.numbers("sizes", 0, _MOST),
                ),
                about.text("reference"),
                about.number("distance", -_MOST, _MOST),
                about.number("std_error", 0, _MOST),
                about.integer("n_items", 1, MOST_COUNTED),
                about.integer("seed", 0, 2**63 - 1),
                about.text("method"),
            )
        except (TruncationError, DataError) as error:
            raise ArtefactError(f"the fitted levels are not valid: {error}") from error


def with_levels(known: Iterable[FittedLevels], fitted: FittedLevels) -> tuple[FittedLevels, ...]:
    """The levels that are known and these, which take the place of those for the same run."""
    others = [
        one
        for one in known
        if one.n_calls != fitted.n_calls
        or not one.starts_at(fitted.log_snrs[0])
        or one.reference != fitted.reference
    ]
    return tuple(sorted([*others, fitted], key=lambda one: (one.n_calls, one.log_snrs)))


# -- on disk ---------------------------------------------------------------------------------------


def save_levels(folder: Path, levels: Iterable[FittedLevels], digest: str) -> None:
    """Write levels beside the statistics of this digest; without levels an older file goes.

    Raises:
        WriteError: If the file cannot be written.
    """
    entries = [one.to_dict() for one in levels]
    if not entries:
        (folder / LEVELS_NAME).unlink(missing_ok=True)
        return
    document = {"schema_version": SCHEMA_VERSION, "digest": digest, "levels": entries}
    text = to_json(document, indent=2) + "\n"
    with replacing(folder / LEVELS_NAME) as draft:
        draft.write_text(text, encoding="utf-8")


def load_levels(folder: Path, digest: str) -> tuple[FittedLevels, ...]:
    """The levels in a folder, none where there is no file.

    A `GAGAWarning` says when they were fitted with other statistics, and are left out.

    Raises:
        ArtefactError: If the file cannot be read, is damaged, or is of a newer version.
    """
    file = folder / LEVELS_NAME
    if not file.is_file():
        return ()
    try:
        about = read_json(file)
        version = about.integer("schema_version", 1, MOST_COUNTED)
        found = _entries(about, digest) if version <= SCHEMA_VERSION else None
    except ArtefactError as error:
        raise ArtefactError(
            f"{file} cannot be read ({str(error).rstrip('.')}). Fit the levels again with "
            "`gaga levels`, or remove the file."
        ) from error
    if found is None:
        raise ArtefactError(
            f"{file} has schema_version={version}, this gaga-adapter reads up to "
            f"{SCHEMA_VERSION}. Upgrade: pip install -U gaga-adapter."
        )
    levels, of_these = found
    if not of_these:
        warn(f"{file} was fitted with other statistics, and is left out. Fit the levels again.")
        return ()
    return levels


def _entries(about: Fields, digest: str) -> tuple[tuple[FittedLevels, ...], bool]:
    """The levels of a file, and whether they are of the statistics of this digest."""
    about.only(("schema_version", "digest", "levels"))
    entries = about.data.get("levels")
    if not isinstance(entries, list) or len(entries) > _MOST_LEVELS:
        raise about.refuse("levels", "a list of fitted levels")
    levels = tuple(map(FittedLevels.from_dict, entries))
    return levels, about.text("digest") == digest
