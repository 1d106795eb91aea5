"""Arguments of a pipeline that count in fractions of its loop, such as `strength`.

A pipeline computes with the length of its list of timesteps, so a shorter list changes what its
fractions mean. They are read off the call that asks for the grid. A loop that starts from noised
data (`strength` below 1, `denoising_start`) gets the scheduler's own grid, since there is nothing
to replace; fractions of the steps that are left are told with the value to pass instead; and a
loop that would end before t* (`denoising_end`) is refused.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Any

from gaga_adapter.errors import TruncationError, warn

#: Fractions of the list of timesteps, counted from its first entry.
_OF_LIST = ("control_guidance_start", "control_guidance_end")
#: Fractions of the number of steps that was asked for, counted from the first entry of the list.
_OF_STEPS = (
    "adapter_conditioning_factor",
    "cfg_trunc_ratio",
    "skip_layer_guidance_start",
    "skip_layer_guidance_stop",
)
#: Names for the share of the path at which a loop begins, from noised data; the first one that a
#: pipeline has is it.
_STRENGTHS = ("denoise_strength", "denoising_strength", "strength")
_DEPTH = 60  # frames between `set_timesteps` and the call of a pipeline


def loop_arguments(scheduler: Any) -> Mapping[str, Any]:  # noqa: ANN401 - any scheduler
    """Arguments of the pipeline's call that is asking this scheduler for a grid; maybe none."""
    pipelines = sys.modules.get("diffusers.pipelines.pipeline_utils")
    if pipelines is None:
        return {}
    frame: FrameType | None = sys._getframe(1)
    for _ in range(_DEPTH):
        if frame is None:
            break
        code = frame.f_code
        if code.co_name == "__call__" and code.co_varnames[:1] == ("self",):
            pipe = frame.f_locals["self"]
            if isinstance(pipe, pipelines.DiffusionPipeline) and any(
                value is scheduler for value in vars(pipe).values()
            ):
                n_arguments = code.co_argcount + code.co_kwonlyargcount
                arguments = {n: frame.f_locals.get(n) for n in code.co_varnames[1:n_arguments]}
                if code.co_flags & inspect.CO_VARKEYWORDS:
                    n_before = n_arguments + bool(code.co_flags & inspect.CO_VARARGS)
                    arguments |= frame.f_locals.get(code.co_varnames[n_before]) or {}
                if not hasattr(pipe, "get_timesteps"):  # its strength is that of something else
                    arguments.pop("strength", None)
                return arguments
        frame = frame.f_back
    return {}


def starts_from_data(arguments: Mapping[str, Any]) -> bool:
    """Whether a loop begins with noised data, inside of the path."""
    strength = _strength(arguments)
    is_inside = strength is not None and strength < 1
    return is_inside or _fraction(arguments, "denoising_start") is not None


def forgets_data(arguments: Mapping[str, Any]) -> bool:
    """Whether a loop noises its data to the very end of the path, where nothing of them is left."""
    return _strength(arguments) == 1


def check_end(arguments: Mapping[str, Any], n_train: int, first: float) -> None:
    """Refuse a loop that would end before the first timestep of the cut grid.

    Raises:
        TruncationError: If `denoising_end` lies beyond t*.
    """
    end = _fraction(arguments, "denoising_end")
    if end is not None and round(n_train - end * n_train) > first:
        raise TruncationError(
            f"denoising_end={end:g} ends at timestep {round(n_train - end * n_train)}, and the "
            f"truncated grid begins at {first:g}. Pass a denoising_end above "
            f"{1 - first / n_train:.3g}, or use the plain scheduler."
        )


def warn_of_fractions(
    arguments: Mapping[str, Any], whole: list[float], cut: list[float], n_asked: int | None
) -> None:
    """Say which value to pass for a fraction of a loop that the cut has made shorter.

    Args:
        arguments: Arguments of the pipeline's call.
        whole: Timesteps of the grid before the cut.
        cut: Timesteps of the grid after it.
        n_asked: Number of steps that the pipeline asked for.
    """
    skips = arguments.get("skip_guidance_layers") is not None
    for name in (*_OF_LIST, *_OF_STEPS):
        if name.startswith("skip_layer_guidance") and not skips:
            continue
        value = arguments.get(name)
        values = list(value) if isinstance(value, list | tuple) else [value]
        fractions = [v for v in values if isinstance(v, int | float) and 0 < v < 1]
        if not fractions or len(fractions) < len(values):
            continue
        count = len(cut) if name in _OF_LIST else n_asked or len(whole)
        instead = [moved_entry(v * len(whole), whole, cut) / count for v in fractions]
        shown = ", ".join(f"{v:.3g}" for v in instead)
        warn(
            f"{name}={value} counts in steps of the truncated loop, which begins at timestep "
            f"{cut[0]:g} and not at {whole[0]:g}. For the same timesteps as without truncation "
            f"pass {name}={shown if len(instead) == 1 else f'[{shown}]'}."
        )


def moved_entry(place: float, whole: Sequence[float], cut: Sequence[float]) -> float:
    """Where the entry at a (fractional) place of the whole grid stands in the cut grid.

    It is 0 for all that was cut off.
    """
    if place >= len(whole):
        return float(len(cut))
    low = int(place)
    falls = whole[-1] < whole[0]
    upper = whole[low + 1] if low + 1 < len(whole) else whole[low]
    timestep = whole[low] + (place - low) * (upper - whole[low])
    before = [t for t in cut if (t > timestep if falls else t < timestep)]
    if not before:
        return 0.0
    last = len(before) - 1
    if last + 1 == len(cut):
        return float(last)
    return last + (cut[last] - timestep) / (cut[last] - cut[last + 1])


def _strength(arguments: Mapping[str, Any]) -> float | None:
    name = next((name for name in _STRENGTHS if name in arguments), "")
    return _fraction(arguments, name)


def _fraction(arguments: Mapping[str, Any], name: str) -> float | None:
    value = arguments.get(name)
    if value is None or isinstance(value, bool | str | list | tuple | Mapping):
        return None
    try:
        number = float(value)  # also of numpy and of torch
    except (TypeError, ValueError):
        return None
    return number if 0 <= number <= 1 else None
