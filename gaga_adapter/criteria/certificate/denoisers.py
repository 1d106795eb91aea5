r"""Denoisers in one form: `(x_0 + sigma eps, sigma, mask) -> x_0`.

A model that takes a timestep sees `a y` with `y = x_0 + sigma eps` and `sigma = b / a`. It predicts
what its scheduler asks for, an affine function of the clean data, which is inverted
(`noise/conventions.py`). A table of timesteps has few sigmas, and the nearest is used.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gaga_adapter.errors import UnsupportedModelError
from gaga_adapter.noise.conventions import Convention, convention_of, log_snr
from gaga_adapter.subspace import project

#: Predicts x_0 (B, ...) from `x_0 + sigma eps` of that shape, sigma and the mask (B, N) or `None`.
Predict = Callable[[Tensor, float, Tensor | None], Any]


@dataclass(frozen=True)
class Denoiser:
    """A denoiser whose answers are checked.

    Attributes:
        predict: Function that it calls; returns a tensor, or an object with one under `.sample`.
        levels: Log-SNRs that it was made for, in any order; `None` for any.
        n_positions: Number of position channels of molecules, 3; 0 for tokens, which have none.
    """

    predict: Predict
    levels: tuple[float, ...] | None = None
    n_positions: int = 3

    @torch.no_grad()
    def __call__(self, noisy: Tensor, sigma: float, mask: Tensor | None = None) -> Tensor:
        """Predict x_0 (B, ...) from `noisy`, `x_0 + sigma eps` of that shape.

        Molecules come with a mask (B, N) of real atoms and with zero centre of mass. So does the
        result, which is projected on it, with zero padding.

        Raises:
            UnsupportedModelError: If the model returned no tensor, one of another shape, or a
                number that is not finite.
        """
        answer = self.predict(noisy, sigma, mask)
        clean = _tensor_of(answer)
        if not isinstance(clean, Tensor):
            raise UnsupportedModelError(
                f"the denoiser returned a {type(answer).__name__}. It must return a tensor like "
                "its input, or an object with one under `.sample`."
            )
        if clean.shape != noisy.shape:
            raise UnsupportedModelError(
                f"the denoiser returned {tuple(clean.shape)} for an input {tuple(noisy.shape)}. It "
                "must predict the clean data and nothing else (a learned variance must be cut off)."
            )
        clean = clean.to(noisy)
        clean = clean if mask is None else project(clean, mask, self.n_positions)
        if not bool(torch.isfinite(clean).all()):
            raise UnsupportedModelError(
                f"the denoiser returned a number that is not finite at sigma={sigma:.4g}. Check "
                "its weights, its precision, and that it was trained for this noise."
            )
        return clean

    def nearest(self, log_snr: Tensor) -> Tensor:
        """Levels that the denoiser was made for, the nearest to each of `log_snr` (K,), float64."""
        if self.levels is None:
            return log_snr
        levels = torch.tensor(self.levels, dtype=torch.float64)
        return levels[(log_snr[:, None] - levels).abs().argmin(1)]


def as_denoiser(
    model: Any,  # noqa: ANN401 - any model
    scheduler: Any = None,  # noqa: ANN401 - any diffusers scheduler
) -> Denoiser:
    """Any denoising model in the form that a criterion calls.

    Args:
        model: Model. With `scheduler`, a network `(sample, timestep)` for dense data as diffusers
            has them, unconditional. Without, a callable `(noisy, sigma, mask)` that predicts x_0
            from `x_0 + sigma eps`, such as the package's `MoleculeDenoiser`. A module is given
            tensors of its own device and precision.
        scheduler: Scheduler that the model was trained for; says what its input and output are.

    Raises:
        UnsupportedModelError: If the model is none of these, a pipeline, or in training mode.
        UnsupportedSchedulerError: If the scheduler has a convention of its own.
    """
    if isinstance(model, Denoiser):
        return model
    name = type(model).__name__
    if hasattr(model, "components") and hasattr(model, "scheduler"):
        raise UnsupportedModelError(
            f"{name} is a pipeline. Pass the network in it: as_denoiser(pipe.denoiser), or with "
            "its scheduler, as_denoiser(pipe.unet, pipe.scheduler)."
        )
    if not callable(model):
        raise UnsupportedModelError(
            f"a denoiser is a callable (noisy, sigma, mask) -> x_0 or a model with its scheduler, "
            f"got {name}."
        )
    if isinstance(model, nn.Module) and model.training:
        raise UnsupportedModelError(f"{name} is in training mode. Call model.eval() first.")
    parameters = _parameters(model)
    if scheduler is None:
        if "timestep" in parameters:
            raise UnsupportedModelError(
                f"{name} takes a timestep, and only its scheduler says which noise that is. "
                "Pass it too: as_denoiser(model, scheduler)."
            )
        return Denoiser(_at_home(model))
    if "sigma" in parameters:
        raise UnsupportedModelError(
            f"{name} takes sigma and no timestep. Leave the scheduler out: as_denoiser(model)."
        )
    at = convention_of(scheduler)
    _ = at.relation  # an unknown prediction is refused now
    levels = None
    if at.table is not None:
        of_table = log_snr(at.table)
        # Timesteps without noise or without signal are left out.
        levels = tuple(of_table[torch.isfinite(of_table)].tolist())
    return Denoiser(_Timestepped(model, at, "timestep" in parameters), levels)


@dataclass(frozen=True)
class _Timestepped:
    """A network of (sample, timestep) that answers as its scheduler asks."""

    model: Callable[..., Any]
    at: Convention
    by_name: bool

    def __call__(self, noisy: Tensor, sigma: float, mask: Tensor | None) -> Any:  # noqa: ANN401
        if mask is not None:
            raise UnsupportedModelError(
                "a network of (sample, timestep) does not see which atoms are real. Write a "
                "callable (noisy, sigma, mask) -> x_0 around it."
            )
        timestep = self.at.timestep_at(sigma)
        a, _ = self.at.seen_level(timestep)
        model = _at_home(self.model)
        # An index is an integer; a continuous time is a float that keeps its digits throughout.
        kind = torch.float32 if self.at.table is None else torch.int64
        t = torch.tensor(timestep, device=noisy.device).to(kind)
        seen = a * noisy
        output = _tensor_of(model(seen, timestep=t) if self.by_name else model(seen, t))
        if not isinstance(output, Tensor) or output.shape != noisy.shape:
            return output  # the caller refuses it
        return self.at.clean(output.to(noisy), seen, timestep)


def _tensor_of(answer: Any) -> Any:  # noqa: ANN401 - whatever a model returns
    """A tensor, or what an object holds under `.sample`, as diffusers' outputs do."""
    return answer if isinstance(answer, Tensor) else getattr(answer, "sample", answer)


def _parameters(model: Any) -> frozenset[str]:  # noqa: ANN401 - any callable
    """Names of the arguments that the model takes; none where Python cannot tell."""
    try:
        called = model.forward if isinstance(model, nn.Module) else model
        return frozenset(inspect.signature(called).parameters)
    except (TypeError, ValueError):
        return frozenset()


def _at_home(model: Callable[..., Any]) -> Callable[..., Any]:
    """The model, given tensors on its own device and floats in its own precision."""
    home = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    if home is None:
        return model

    def move(value: Any) -> Any:  # noqa: ANN401 - an argument of the model
        if not isinstance(value, Tensor):
            return value
        # A time () keeps its precision.
        floats = value.is_floating_point() and value.dim() > 0
        return value.to(home.device, home.dtype if floats else value.dtype)

    def call(*arguments: Any, **named: Any) -> Any:  # noqa: ANN401
        return model(*map(move, arguments), **{name: move(v) for name, v in named.items()})

    return call
