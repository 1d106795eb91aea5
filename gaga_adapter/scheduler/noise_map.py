"""What `init_noise_sigma` is while a start is to be mapped: multiplied by noise, it maps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from gaga_adapter.errors import HandoverError


class NoiseMap:
    """A factor that maps the noise it is multiplied by.

    As a number it is one, since the noise is to arrive with its unit variance.
    """

    __array_priority__ = 1000.0
    __array_ufunc__ = None  # numpy leaves the product to this class, which refuses it

    def __init__(self, mapping: Callable[[Tensor], Tensor]) -> None:
        self._mapping = mapping

    def __mul__(self, noise: Tensor) -> Tensor:
        return self._mapping(noise)

    __rmul__ = __mul__

    def __float__(self) -> float:
        return 1.0

    def __repr__(self) -> str:
        return "init_noise_sigma(maps unit noise to the Gaussian start)"

    def to(self, *args: object, **kwargs: object) -> NoiseMap:
        """Itself: the mapping follows the device and dtype of the noise."""
        return self

    @classmethod
    def __torch_function__(
        cls,
        function: Callable[..., Any],
        types: tuple[type, ...],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        """Products with tensors, spelled in any of torch's ways."""
        if function.__name__.strip("_") in ("mul", "rmul", "imul", "multiply") and len(args) == 2:
            noise, own = args if isinstance(args[1], cls) else args[::-1]
            if function.__name__ in ("mul_", "__imul__", "multiply_"):
                return noise.copy_(own * noise.clone())  # the noise itself is remembered
            return own * noise
        raise _refusal(function.__name__)


def _refusal(how: str) -> HandoverError:
    return HandoverError(
        f"init_noise_sigma was used in {how}. While the start is to be mapped it can only be "
        'multiplied by the noise; use handover="step" for this loop.'
    )


def _refuse(name: str) -> Callable[..., Any]:
    def refused(*operands: object) -> Any:  # noqa: ANN401
        raise _refusal(name)

    return refused


for _operation in ("add", "sub", "truediv", "floordiv", "pow", "mod"):
    for _name in (f"__{_operation}__", f"__r{_operation}__"):
        setattr(NoiseMap, _name, _refuse(_operation))
for _operation in ("neg", "abs", "lt", "le", "gt", "ge"):
    setattr(NoiseMap, f"__{_operation}__", _refuse(_operation))
