"""Transformers for images: flows, and the older ones with a table of betas."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    FluxControlNetModel,
    FluxTransformer2DModel,
    SD3ControlNetModel,
    SD3Transformer2DModel,
)

from .case import Case, assemble, numbers, picture
from .images import BEYOND, HALF, IMAGE, INSIDE, MASK, SIZE, vae

FLOW = partial(FlowMatchEulerDiscreteScheduler, shift=3.0)
DYNAMIC = partial(FlowMatchEulerDiscreteScheduler, use_dynamic_shifting=True)
SHIFTED = partial(vae, shift_factor=0.06, scaling_factor=1.5)
LATENT = {"output_type": "latent"}
TEXT = 8  # width of text embeddings
I2I, INPAINT = "image to image", "inpainting"


def make(name: str, call: Any, kind: str = "text to image", **rest: Any) -> Case:
    """A case; what is no field of a case is a part of the pipeline."""
    own = {f: rest.pop(f) for f in Case.__dataclass_fields__.keys() & rest.keys()}
    parts = {"scheduler": FLOW, "vae": SHIFTED, **rest}
    return Case(name, kind, partial(assemble, name, **parts), {**LATENT, **call}, **own)


def by_strength(name: str, call: Any, kind: str = I2I, **rest: Any) -> list[Case]:
    """Starts from data: one whose first entry lies inside of t*, and one beyond."""
    return [
        make(name, {**call, "strength": s}, kind, start="data", variant=f"strength={s}", **rest)
        for s in (INSIDE, BEYOND)
    ]


# -- Stable Diffusion 3 ----------------------------------------------------------------------------

_SD3 = {
    "sample_size": 16,
    "patch_size": 2,
    "in_channels": 4,
    "num_layers": 1,
    "attention_head_dim": 8,
    "num_attention_heads": 2,
    "caption_projection_dim": 16,
    "joint_attention_dim": TEXT,
    "pooled_projection_dim": TEXT,
    "out_channels": 4,
}
sd3 = partial(SD3Transformer2DModel, **_SD3)
sd3_control = partial(SD3ControlNetModel, **_SD3)
PROMPT = {
    "prompt_embeds": numbers(1, 6, TEXT),
    "negative_prompt_embeds": numbers(1, 6, TEXT, seed=8),
}
POOLED = {
    **PROMPT,
    "pooled_prompt_embeds": numbers(1, TEXT),
    "negative_pooled_prompt_embeds": numbers(1, TEXT, seed=8),
}

# -- Flux ------------------------------------------------------------------------------------------

_FLUX = {
    "patch_size": 1,
    "in_channels": 16,
    "num_layers": 1,
    "num_single_layers": 1,
    "attention_head_dim": 8,
    "num_attention_heads": 2,
    "joint_attention_dim": TEXT,
    "pooled_projection_dim": TEXT,
    "axes_dims_rope": (4, 2, 2),
}


def flux(channels: int = 16, **changes: Any) -> FluxTransformer2DModel:
    return FluxTransformer2DModel(
        **{**_FLUX, "in_channels": channels, "out_channels": 16, **changes}
    )


flux_control = partial(FluxControlNetModel, **_FLUX)
FLUX_PROMPT = {
    "prompt_embeds": numbers(1, 6, TEXT),
    "pooled_prompt_embeds": numbers(1, TEXT),
}
_flux = partial(make, transformer=flux, scheduler=DYNAMIC)
_flux_by_strength = partial(by_strength, transformer=flux, scheduler=DYNAMIC)
_CONTROL = {"control_image": picture(), "controlnet_conditioning_scale": 0.5}
_REPAINT = {**IMAGE, **MASK, **SIZE}
MASKED_PROMPT = {
    **PROMPT,
    "prompt_attention_mask": torch.ones(1, 6).long(),
    "negative_prompt_attention_mask": torch.ones(1, 6).long(),
}

CASES = [
    make("StableDiffusion3Pipeline", {**POOLED, **SIZE}, transformer=sd3),
    *by_strength("StableDiffusion3Img2ImgPipeline", {**POOLED, **IMAGE, **SIZE}, transformer=sd3),
    make(
        "StableDiffusion3InpaintPipeline",
        {**POOLED, **_REPAINT, "strength": 1.0},
        INPAINT,
        transformer=partial(sd3, in_channels=16, out_channels=16),
        vae=partial(SHIFTED, 16),
        rows=HALF,
    ),
    make(
        "StableDiffusion3ControlNetPipeline",
        {**POOLED, **SIZE, **_CONTROL},
        transformer=sd3,
        controlnet=sd3_control,
    ),
    make(
        "StableDiffusion3ControlNetPipeline",
        {**POOLED, **SIZE, **_CONTROL, "control_guidance_end": 0.7},
        variant="control_guidance_end=0.7",
        transformer=sd3,
        controlnet=sd3_control,
    ),
    make(
        "StableDiffusion3ControlNetInpaintingPipeline",
        {**POOLED, **SIZE, "control_image": picture(), "control_mask": MASK["mask_image"]},
        INPAINT,
        transformer=sd3,
        controlnet=partial(SD3ControlNetModel, **_SD3, extra_conditioning_channels=1),
    ),
    _flux("FluxPipeline", {**FLUX_PROMPT, **SIZE}),
    _flux(
        "FluxPipeline",
        {
            **FLUX_PROMPT,
            **SIZE,
            "true_cfg_scale": 2.0,
            "negative_prompt_embeds": numbers(1, 6, TEXT, seed=8),
            "negative_pooled_prompt_embeds": numbers(1, TEXT, seed=8),
        },
        variant="true_cfg_scale=2.0",
    ),
    _flux(
        "FluxPipeline",
        {**FLUX_PROMPT, **SIZE, "sigmas": [1.0, 0.9, 0.75, 0.6, 0.3, 0.1]},
        variant="sigmas=[1.0, ...]",
    ),
    *_flux_by_strength("FluxImg2ImgPipeline", {**FLUX_PROMPT, **IMAGE, **SIZE}),
    _flux("FluxInpaintPipeline", {**FLUX_PROMPT, **_REPAINT, "strength": 1.0}, INPAINT, rows=HALF),
    *_flux_by_strength("FluxInpaintPipeline", {**FLUX_PROMPT, **_REPAINT}, INPAINT),
    _flux("FluxControlNetPipeline", {**FLUX_PROMPT, **SIZE, **_CONTROL}, controlnet=flux_control),
    *_flux_by_strength(
        "FluxControlNetImg2ImgPipeline",
        {**FLUX_PROMPT, **IMAGE, **SIZE, **_CONTROL},
        controlnet=flux_control,
    ),
    _flux(
        "FluxControlNetInpaintPipeline",
        {**FLUX_PROMPT, **_REPAINT, **_CONTROL, "strength": 1.0},
        INPAINT,
        controlnet=flux_control,
        rows=HALF,
    ),
    _flux(
        "FluxControlPipeline",
        {**FLUX_PROMPT, **SIZE, "control_image": picture()},
        transformer=partial(flux, 32),
    ),
    *_flux_by_strength(
        "FluxControlImg2ImgPipeline",
        {**FLUX_PROMPT, **IMAGE, **SIZE, "control_image": picture()},
        transformer=partial(flux, 32),
    ),
    _flux(
        "FluxFillPipeline",
        {**FLUX_PROMPT, **_REPAINT},
        INPAINT,
        transformer=partial(flux, 48),
    ),
    _flux(
        "FluxKontextPipeline",
        {**FLUX_PROMPT, **SIZE, **IMAGE, "max_area": 32 * 32, "_auto_resize": False},
        I2I,
    ),
]
