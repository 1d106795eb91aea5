"""Stable Diffusion, Stable Diffusion XL and what is built around their UNets."""

from __future__ import annotations

from functools import partial
from typing import Any

import diffusers
import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    DDIMScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
    PNDMScheduler,
    UNet2DConditionModel,
)

from .case import Case, assemble, numbers, picture

WIDTH = 8  # of text embeddings
LATENT_SCALE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def vae(channels: int = 4, levels: int = 2, **changes: Any) -> AutoencoderKL:
    """An autoencoder that halves the side of images, `levels - 1` times."""
    return AutoencoderKL(
        block_out_channels=(4,) * levels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        latent_channels=channels,
        norm_num_groups=2,
        **changes,
    )


_BLOCKS = {
    "block_out_channels": (4, 8),
    "layers_per_block": 1,
    "cross_attention_dim": WIDTH,
    "norm_num_groups": 2,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "attention_head_dim": 2,
}
_XL = {
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 6 * 8 + WIDTH,
    "use_linear_projection": True,
}


def unet(channels: int = 4, **changes: Any) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=channels,
        **{
            **_BLOCKS,
            "out_channels": 4,
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
            **changes,
        },
    )


def controlnet(**changes: Any) -> ControlNetModel:
    return ControlNetModel(conditioning_embedding_out_channels=(4, 8), **{**_BLOCKS, **changes})


PROMPT = {
    "prompt_embeds": numbers(1, 6, WIDTH),
    "negative_prompt_embeds": numbers(1, 6, WIDTH, seed=8),
    "output_type": "latent",
}
XL_PROMPT = {
    **PROMPT,
    "pooled_prompt_embeds": numbers(1, WIDTH),
    "negative_pooled_prompt_embeds": numbers(1, WIDTH, seed=8),
}
SIZE = {"height": 32, "width": 32}
IMAGE = {"image": 2 * picture() - 1}
MASK = {"mask_image": (torch.arange(32) < 16).float()[None, None, :, None].expand(1, 1, 32, 32)}


HALF = (0.0, 0.5)  # rows of MASK
INSIDE, BEYOND = 0.34, 0.84  # strengths whose first entry lies inside and beyond t*


def _scheduler() -> PNDMScheduler:
    return PNDMScheduler(
        skip_prk_steps=True, steps_offset=1, set_alpha_to_one=False, **LATENT_SCALE
    )


def _xl_scheduler() -> EulerDiscreteScheduler:
    return EulerDiscreteScheduler(steps_offset=1, timestep_spacing="leading", **LATENT_SCALE)


def ddim() -> DDIMScheduler:
    return DDIMScheduler(clip_sample=False, set_alpha_to_one=False, **LATENT_SCALE)


def _stable(name: str, call: Any, kind: str = "text to image", **rest: Any) -> Case:
    """A case of the first Stable Diffusion, with further parts among the arguments."""
    own = {field: rest.pop(field) for field in _FIELDS & rest.keys()}
    parts = {"vae": vae, "unet": unet, "scheduler": _scheduler, **rest}
    return Case(name, kind, partial(assemble, name, **parts), {**PROMPT, **call}, **own)


def _xl(name: str, call: Any, kind: str = "text to image", **rest: Any) -> Case:
    parts = {"unet": partial(unet, **_XL), "scheduler": _xl_scheduler, **rest}
    return _stable(name, {**XL_PROMPT, **call}, kind, **parts)


def by_strength(
    make: Any, name: str, call: Any, kind: str, with_: str = "", **rest: Any
) -> list[Case]:
    """Starts from data: one whose first entry lies inside of t*, and one beyond."""
    return [
        make(
            name,
            {**call, "strength": strength},
            kind,
            start="data",
            variant=f"strength={strength}{with_ and ', '}{with_}",
            **rest,
        )
        for strength in (INSIDE, BEYOND)
    ]


_FIELDS = {"variant", "start", "event", "count_name", "count", "rows"}
_CONTROL = {"controlnet_conditioning_scale": 0.5}
_REPAINT = {**IMAGE, **MASK, **SIZE}
_I2I, _INPAINT = "image to image", "inpainting"

CASES = [
    _stable("StableDiffusionPipeline", SIZE),
    *by_strength(_stable, "StableDiffusionImg2ImgPipeline", IMAGE, _I2I),
    *by_strength(
        _stable, "StableDiffusionImg2ImgPipeline", IMAGE, _I2I, scheduler=ddim, with_="DDIM"
    ),
    _stable("StableDiffusionInpaintPipeline", {**_REPAINT, "strength": 1.0}, _INPAINT, rows=HALF),
    *by_strength(_stable, "StableDiffusionInpaintPipeline", _REPAINT, _INPAINT, rows=HALF),
    _stable(
        "StableDiffusionInpaintPipeline",
        {**_REPAINT, "strength": 1.0},
        _INPAINT,
        rows=HALF,
        unet=partial(unet, 9),
        variant="unet of 9 channels",
    ),
    _stable(
        "StableDiffusionInstructPix2PixPipeline",
        {"image": picture(), "image_guidance_scale": 1.5},
        _I2I,
        unet=partial(unet, 8),
    ),
    _stable(
        "StableDiffusionUpscalePipeline",
        {"image": picture(16), "noise_level": 20},
        _I2I,
        unet=partial(unet, 7, num_class_embeds=100, only_cross_attention=(True, False)),
        low_res_scheduler=diffusers.DDPMScheduler,
        scheduler=ddim,
    ),
    _stable(
        "StableDiffusionControlNetPipeline",
        {"image": picture(), **_CONTROL},
        controlnet=controlnet,
    ),
    _stable(
        "StableDiffusionControlNetPipeline",
        {"image": picture(), **_CONTROL, "control_guidance_end": 0.7},
        controlnet=controlnet,
        variant="control_guidance_end=0.7",
    ),
    _stable(
        "StableDiffusionControlNetPipeline",
        {"image": [picture(), picture()]},
        controlnet=lambda: diffusers.MultiControlNetModel([controlnet(), controlnet()]),
        variant="two ControlNets",
    ),
    *by_strength(
        _stable,
        "StableDiffusionControlNetImg2ImgPipeline",
        {**IMAGE, "control_image": picture(), **_CONTROL},
        _I2I,
        controlnet=controlnet,
    ),
    _stable(
        "StableDiffusionControlNetInpaintPipeline",
        {**_REPAINT, "control_image": picture(), **_CONTROL, "strength": 1.0},
        _INPAINT,
        rows=HALF,
        controlnet=controlnet,
    ),
    _stable(
        "StableDiffusionAdapterPipeline",
        {"image": picture(), **SIZE},
        unet=partial(
            unet,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        ),
        adapter=lambda: diffusers.T2IAdapter(
            channels=[4, 8], num_res_blocks=1, downscale_factor=2, adapter_type="full_adapter"
        ),
    ),
    _stable(
        "LatentConsistencyModelPipeline",
        {"prompt_embeds": PROMPT["prompt_embeds"], "original_inference_steps": 50, **SIZE},
        unet=partial(unet, time_cond_proj_dim=8),
        scheduler=partial(LCMScheduler, **LATENT_SCALE),
    ),
    _stable("StableDiffusionPAGPipeline", {**SIZE, "pag_scale": 2.0}, pag_applied_layers="mid"),
    _stable("StableDiffusionPanoramaPipeline", {**SIZE}),
    _stable("StableDiffusionSAGPipeline", {**SIZE, "sag_scale": 0.0}),
    _xl("StableDiffusionXLPipeline", SIZE),
    _xl("StableDiffusionXLPipeline", {**SIZE, "denoising_end": 0.7}, variant="denoising_end=0.7"),
    _xl(
        "StableDiffusionXLPipeline",
        {**SIZE, "timesteps": [999, 850, 700, 550, 300, 50]},
        variant="timesteps=[999, ...]",
    ),
    _xl(
        "StableDiffusionXLPipeline",
        {**SIZE, "num_images_per_prompt": 2},
        variant="num_images_per_prompt=2",
    ),
    *by_strength(_xl, "StableDiffusionXLImg2ImgPipeline", IMAGE, _I2I),
    *[
        _xl(
            "StableDiffusionXLImg2ImgPipeline",
            {"image": numbers(1, 4, 16, 16), "denoising_start": at},
            _I2I,
            start="data",
            variant=f"denoising_start={at}",
        )
        for at in (0.7, 0.2)
    ],
    _xl("StableDiffusionXLInpaintPipeline", {**_REPAINT, "strength": 1.0}, _INPAINT, rows=HALF),
    *by_strength(_xl, "StableDiffusionXLInpaintPipeline", _REPAINT, _INPAINT, rows=HALF),
    _xl(
        "StableDiffusionXLControlNetPipeline",
        {"image": picture(), **_CONTROL},
        controlnet=partial(controlnet, **_XL),
    ),
    *by_strength(
        _xl,
        "StableDiffusionXLControlNetImg2ImgPipeline",
        {**IMAGE, "control_image": picture(), **_CONTROL},
        _I2I,
        controlnet=partial(controlnet, **_XL),
    ),
    _xl(
        "StableDiffusionXLInstructPix2PixPipeline",
        {"image": picture(), **SIZE},
        _I2I,
        unet=partial(unet, 8, **_XL),
    ),
]
