"""What the channels of the diffused tensor mean, and how they were normalised.

The artefact stores a layout, and everything that meets a tensor checks itself against it:
statistics fitted on positions in angstrom and one-hot / 4 say nothing about a model that diffuses
something else.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from dataclasses import fields as dataclass_fields
from typing import Any

from gaga_adapter.errors import ArtefactError, DataError
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

    elements: tuple[str, ...] = ("H", "C", "N", "O", "F")
    position_scale: float = 1.0
    onehot_scale: float = 4.0
    charge_scale: float | None = None

    def __post_init__(self) -> None:
        if not self.elements or len(set(self.elements)) < len(self.elements):
            raise DataError(
                f"elements are {self.elements}. Name one or more, each of them once, such as "
                "H,C,N,O,F."
            )
        for name in ("position_scale", "onehot_scale", "charge_scale"):
            scale = getattr(self, name)
            if scale is not None and not 0 < scale < math.inf:
                raise DataError(f"{name}={scale} must be positive and finite.")

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
        n_features: Number of feature channels F.
    """

    n_features: int

    @property
    def n_channels(self) -> int:
        """All channels, 3 + F."""
        return 3 + self.n_features

    def describe(self) -> str:
        """One line for messages."""
        return f"3+{self.n_features} channels (positions, features)"


@dataclass(frozen=True)
class DenseLayout:
    """A dense tensor of one fixed event shape, channels first, such as an image or a latent.

    Attributes:
        shape: Event shape (C, ...), without the batch.
    """

    shape: tuple[int, ...]

    @property
    def n_channels(self) -> int:
        """Size of the first axis."""
        return self.shape[0]

    def describe(self) -> str:
        """One line for messages."""
        return f"dense {'x'.join(map(str, self.shape))}"


Layout = MoleculeLayout | AtomLayout | DenseLayout

_KINDS: dict[str, Any] = {"molecule": MoleculeLayout, "atoms": AtomLayout, "dense": DenseLayout}


def layout_to_dict(layout: Layout) -> dict[str, Any]:
    """JSON form of a layout, the inverse of `layout_from_dict`."""
    kind = next(name for name, cls in _KINDS.items() if type(layout) is cls)
    return {"kind": kind, **asdict(layout)}


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
    if name == "charge_scale" and not about.is_given(name):
        return None
    return about.number(name, 1e-15, 1e15)
