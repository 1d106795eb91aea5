"""The usual samplers by their short names, on the noise table of a given scheduler."""

from __future__ import annotations

from typing import Any

from gaga_adapter.errors import UnsupportedSchedulerError

#: Short name -> diffusers class and the options that suit a table of 1001 steps. DDIM and PNDM step
#: by a fixed stride, which only the `leading` grid hits exactly.
SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddpm": ("DDPMScheduler", {}),
    "ddim": ("DDIMScheduler", {"timestep_spacing": "leading", "clip_sample": False}),
    "dpm++": ("DPMSolverMultistepScheduler", {}),
    "unipc": ("UniPCMultistepScheduler", {}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler-a": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "pndm": ("PNDMScheduler", {"timestep_spacing": "leading", "skip_prk_steps": True}),
    "lms": ("LMSDiscreteScheduler", {}),
}


def scheduler_named(name: str, like: Any) -> Any:  # noqa: ANN401 - diffusers schedulers
    """A scheduler by its short name with the noise table of `like`.

    Raises:
        UnsupportedSchedulerError: the name is unknown.
    """
    import diffusers

    if name not in SCHEDULERS:
        raise UnsupportedSchedulerError(
            f"scheduler {name!r} is unknown. Known: {', '.join(SCHEDULERS)}."
        )
    class_name, options = SCHEDULERS[name]
    return getattr(diffusers, class_name).from_config(like.config, **options)
