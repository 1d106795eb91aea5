"""Diffusers schedulers on the noise table of a model: the ancestral sampler, and others by name.

Diffusers keeps `abar` as a cumulative product in float32. Near the data, where `1 - abar` is 1e-5,
that errs by up to 3e-3. The betas of the configuration are float64, so the table is worked out
again from them (`use_exact_table`), also after `from_config`, saving and loading.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gaga_adapter.errors import UnsupportedSchedulerError

if TYPE_CHECKING:
    from diffusers import DDPMScheduler

#: Short name -> diffusers class and the options that suit a table of 1001 steps. DDIM and PNDM step
#: by a fixed stride, which only the `leading` grid hits exactly. LCM mixes sample and prediction as
#: a consistency model does, by weights that depend on `timestep_scaling`: so large a one leaves the
#: prediction of the network as it is at all timesteps but 0, where there is no noise to speak of.
SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddpm": ("DDPMScheduler", {}),
    "ddim": ("DDIMScheduler", {"timestep_spacing": "leading", "clip_sample": False}),
    "dpm++": ("DPMSolverMultistepScheduler", {}),
    "sde-dpm++": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "sde-dpm++-karras": (
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "sde-dpmsolver++", "use_karras_sigmas": True},
    ),
    "unipc": ("UniPCMultistepScheduler", {}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler-a": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "pndm": ("PNDMScheduler", {"timestep_spacing": "leading", "skip_prk_steps": True}),
    "lms": ("LMSDiscreteScheduler", {}),
    "lcm": ("LCMScheduler", {"clip_sample": False, "timestep_scaling": 1e6}),
    "few-step": ("FewStepScheduler", {}),
}


def scheduler_named(name: str, like: Any) -> Any:  # noqa: ANN401 - diffusers schedulers
    """A scheduler by its short name with the noise table of `like`.

    Raises:
        UnsupportedSchedulerError: If the name is unknown.
    """
    import diffusers

    from gaga_adapter.few_step import FewStepScheduler

    if name not in SCHEDULERS:
        raise UnsupportedSchedulerError(
            f"scheduler {name!r} is unknown. Known: {', '.join(SCHEDULERS)}."
        )
    class_name, options = SCHEDULERS[name]
    if name == "few-step":
        scheduler: Any = FewStepScheduler.from_scheduler(like, **options)
    else:
        if name == "lcm":  # its grids are taken from that many timesteps, by default 50
            options = {**options, "original_inference_steps": like.config.num_train_timesteps}
        scheduler = getattr(diffusers, class_name).from_config(like.config, **options)
    use_exact_table(scheduler)
    return scheduler


def ancestral_scheduler(alphas_cumprod: Tensor, **options: Any) -> DDPMScheduler:  # noqa: ANN401
    """The ancestral sampler (Ho et al. 2020) over a table of `abar`.

    Args:
        alphas_cumprod: Table `abar` (T,), float64, falling from data to noise.
        **options: Further entries of the configuration, including those of other schedulers that
            are to be made from it.
    """
    from diffusers import DDPMScheduler

    abar = alphas_cumprod.detach().to("cpu", torch.float64)
    betas = 1 - torch.cat([abar[:1], abar[1:] / abar[:-1]])
    config = {
        "num_train_timesteps": len(abar),
        "trained_betas": betas.tolist(),
        "clip_sample": False,
        "timestep_spacing": "linspace",
        **options,
    }
    scheduler: DDPMScheduler = DDPMScheduler.from_config(config)
    use_exact_table(scheduler)
    return scheduler


def use_exact_table(scheduler: Any) -> None:  # noqa: ANN401 - any diffusers scheduler
    """Work out the table of a scheduler again in float64, from the betas of its configuration.

    Nothing happens if its betas are not in its configuration, or not the ones it uses.
    """
    scheduler = getattr(scheduler, "like", scheduler)  # whose levels a few-step scheduler has
    betas = scheduler.config.get("trained_betas")
    table = getattr(scheduler, "alphas_cumprod", None)
    if betas is None or table is None or table.dtype == torch.float64:
        return
    exact = torch.as_tensor(betas, dtype=torch.float64)
    abar = (1 - exact).cumprod(0)
    if table.shape != abar.shape or not torch.allclose(table.cpu().double(), abar, atol=1e-4):
        return
    exact_tables = {
        "betas": exact,
        "alphas": 1 - exact,
        "alphas_cumprod": abar,
        "alpha_t": abar.sqrt(),
        "sigma_t": (1 - abar).sqrt(),
        "lambda_t": 0.5 * (abar.log() - (-abar).log1p()),
    }
    for name, values in exact_tables.items():
        if hasattr(scheduler, name):
            setattr(scheduler, name, values)
    if float(getattr(scheduler, "final_alpha_cumprod", 1.0)) != 1:
        scheduler.final_alpha_cumprod = abar[0]
