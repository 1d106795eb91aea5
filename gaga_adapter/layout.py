"""What the channels of the diffused tensor mean, and how they were normalised.

The artefact stores a layout, and everything that meets a tensor checks itself against it:
statistics fitted on positions in angstrom and one-hot / 4 say nothing about a model that diffuses
something else.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from dataclasses import fields as dataclass_fields
from numbers import Real
from typing import Any, ClassVar

from gaga_adapter.errors import ArtefactError, DataError, whole_number
from gaga_adapter.files.checked import Fields


@dataclass(frozen=True)
class MoleculeLayout:
    """Channels `[positions / position_scale, one-hot / onehot_scale, Z / charge_scale]` per atom.

    The defaults are those of the EDM codebase (`normalize_factors = [1, 4, 10]`) without charges.

    Attributes:
        elements: Chemical symbols in the order of the one-hot channels.
        position_scale: Divisor of the positions in angstrom.
        onehot_scale: Divisor of the one-hot element.
        charge_scale: Divisor of the atomic number; `None` for no such channel.

    Raises:
        DataError: If there are no elements, one is named twice, or a scale is not positive and
            finite.
    """

    n_positions: ClassVar[int] = 3

    elements: tuple[str, ...] = ("H", "C", "N", "O", "F")
    position_scale: float = 1.0
    onehot_scale: float = 4.0
    charge_scale: float | None = None

    def __post_init__(self) -> None:
        given: Any = self.elements
        if isinstance(given, str) or not isinstance(given, Iterable):
            raise DataError(
                f"elements={given!r} is no sequence of symbols. Pass a tuple, such as "
                '("H", "C", "N").'
            )
        elements = tuple(given)
        named = all(isinstance(symbol, str) for symbol in elements)
        if not named or not elements or len(set(elements)) < len(elements):
            raise DataError(
                f"elements are {elements}. Name one or more, each of them once, such as H,C,N,O,F."
            )
        object.__setattr__(self, "elements", elements)
        for name in ("position_scale", "onehot_scale", "charge_scale"):
            scale = getattr(self, name)
            if scale is None and name == "charge_scale":
                continue
            is_number = isinstance(scale, Real) and not isinstance(scale, bool)
            if not is_number or not 0 < scale < math.inf:
                raise DataError(f"{name}={scale!r} must be a positive and finite number.")
            object.__setattr__(self, name, scale if type(scale) is int else float(scale))

    @property
    def n_features(self) -> int:
        """Feature channels F: one per element, and one more for the charge."""
        return len(self.elements) + (self.charge_scale is not None)

    @property
    def n_channels(self) -> int:
        """All channels, 3 + F."""
        return 3 + self.n_features

    def describe(self) -> str:
        """One line for messages: `3+5 channels (positions /1, one-hot[H,C,N,O,F] /4)`."""
        one_hot = f"one-hot[{','.join(self.elements)}] /{self.onehot_scale:g}"
        charges = "" if self.charge_scale is None else f", charges /{self.charge_scale:g}"
        features = f"{one_hot}{charges}"
        return f"3+{self.n_features} channels (positions /{self.position_scale:g}, {features})"


@dataclass(frozen=True)
class AtomLayout:
    """Channels `[positions, features]` per atom of unnamed features, such as a learned latent.

    Attributes:
        n_features: Number of feature channels F, 0 or more.

    Raises:
        DataError: If the number is no such integer.
    """

    n_positions: ClassVar[int] = 3

    n_features: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "n_features", _count(self.n_features, "n_features", 0))

    @property
    def n_channels(self) -> int:
        """All channels, 3 + F."""
        return 3 + self.n_features

    def describe(self) -> str:
        """One line for messages."""
        return f"3+{self.n_features} channels (positions, features)"


@dataclass(frozen=True)
class TokenLayout:
    """Sets of tokens (N, F) without order and without positions, padded and with a mask.

    Where every item has the same number of tokens and their order means something, as in a packed
    image, use `DenseLayout((N, F), channels=-1)` instead.

    Attributes:
        n_features: Number of channels F of a token, at least 1.

    Raises:
        DataError: If the number is no such integer.
    """

    n_positions: ClassVar[int] = 0

    n_features: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "n_features", _count(self.n_features, "n_features", 1))

    @property
    def n_channels(self) -> int:
        """All channels, F."""
        return self.n_features

    def describe(self) -> str:
        """One line for messages."""
        return f"tokens of {self.n_features} channels, without positions"


@dataclass(frozen=True)
class DenseLayout:
    """A dense tensor of one event shape, such as an image, a latent or packed tokens.

    The axis of the channels matters for the covariance `channel`, which keeps a mean and a variance
    per channel and serves any size of the other axes:

        DenseLayout((4, 64, 64))                        channels x height x width
        DenseLayout((1024, 64), channels=-1)            packed tokens x channels (Flux, LTX)
        DenseLayout((13, 16, 60, 90), channels=1)       frames x channels x height x width

    Attributes:
        shape: Event shape, without the batch.
        channels: Axis of the event that holds the channels, the first by default; a negative one
            counts from the end and is stored from the front.

    Raises:
        DataError: If the shape is not one or more positive integers, or has no such axis.
    """

    shape: tuple[int, ...]
    channels: int = 0

    def __post_init__(self) -> None:
        given: Any = self.shape
        if isinstance(given, str) or not isinstance(given, Iterable):
            raise DataError(
                f"shape={given!r} is no shape. Pass a tuple of the sizes of an event without "
                "the batch, such as (4, 64, 64)."
            )
        shape = tuple(
            _count(size, f"axis {axis} of the shape", 1) for axis, size in enumerate(given)
        )
        if not shape:
            raise DataError("shape=() has no axis. An event has one at least, such as (64,).")
        try:
            channels = whole_number("channels", self.channels, -len(shape), len(shape) - 1)
        except DataError as error:
            raise DataError(
                f"channels={self.channels!r} is no axis of an event {shape}. Pass one of "
                f"{-len(shape)} to {len(shape) - 1}, such as -1 for the last."
            ) from error
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "channels", channels % len(shape))

    @property
    def n_channels(self) -> int:
        """Size of the axis of the channels."""
        return self.shape[self.channels]

    def describe(self) -> str:
        """One line for messages: `dense 4x64x64`, `dense 1024x64 (64 channels, last axis)`."""
        sizes = f"dense {'x'.join(map(str, self.shape))}"
        if not self.channels:
            return sizes
        is_last = self.channels == len(self.shape) - 1
        where = "last axis" if is_last else f"axis {self.channels}"
        return f"{sizes} ({self.n_channels} channels, {where})"


Layout = MoleculeLayout | AtomLayout | TokenLayout | DenseLayout

_KINDS: dict[str, Any] = {
    "molecule": MoleculeLayout,
    "atoms": AtomLayout,
    "tokens": TokenLayout,
    "dense": DenseLayout,
}


def _count(value: Any, name: str, least: int) -> int:  # noqa: ANN401 - whatever a user passed
    """A whole number of at least `least`."""
    try:
        return whole_number(name, value, least)
    except DataError as error:
        raise DataError(
            f"{name} is {value!r}. It must be an integer of at least {least}."
        ) from error


def layout_to_dict(layout: Layout) -> dict[str, Any]:
    """JSON form of a layout, the inverse of `layout_from_dict`."""
    kind = next(name for name, cls in _KINDS.items() if type(layout) is cls)
    fields = asdict(layout)
    if fields.get("channels") == 0:  # the first axis goes without saying, as in version 0.1
        del fields["channels"]
    return {"kind": kind, **fields}


def layout_from_dict(data: dict[str, Any]) -> Layout:
    """Layout from its JSON form.

    Raises:
        ArtefactError: If the kind is unknown, or a field is missing or makes no sense.
    """
    about = Fields(data, "the channel layout")
    made = _KINDS[about.text("kind", tuple(_KINDS))]
    about.only(("kind", *(field.name for field in dataclass_fields(made))))
    given = {name: _read(about, name) for name in about.data if name != "kind"}
    try:
        layout: Layout = made(**given)
        layout.describe()
    except (DataError, TypeError) as error:
        raise ArtefactError(f"the channel layout is not valid: {error}") from error
    return layout


def _read(about: Fields, name: str) -> Any:  # noqa: ANN401 - of the type of the field
    """One entry of a layout, checked."""
    if name == "elements":
        return about.texts(name)
    if name == "shape":
        return about.integers(name, 1, 2**31)
    if name == "n_features":
        return about.integer(name, 0, 2**20)
    if name == "channels":
        return about.integer(name, 0, 2**10)
    if name == "charge_scale" and not about.is_given(name):
        return None
    return about.number(name, 1e-15, 1e15)
