"""Transformers for images of many makers: flows, and the older ones with a table of betas."""

from __future__ import annotations

from functools import partial

import diffusers
import torch
from diffusers import CogVideoXDDIMScheduler, DPMSolverMultistepScheduler

from .case import Case, numbers, picture
from .flows import DYNAMIC, MASKED_PROMPT, PROMPT, TEXT, by_strength, make
from .images import IMAGE, SIZE, ddim, vae

_PROMPTS = {"prompt_embeds": numbers(1, 6, TEXT), "negative_prompt_embeds": numbers(1, 6, TEXT)}
_BINNED = {"use_resolution_binning": False}
_NO_WORDS = {"negative_prompt": None}  # instead of an empty one
_LARGE = {"height": 64, "width": 64}  # of a pipeline that counts on an eighth


def part(name: str, **config: object):
    """A part of a pipeline, looked up when it is built: older releases lack some classes."""
    return lambda: getattr(diffusers, name)(**config)


_SANA = {
    "patch_size": 1,
    "in_channels": 4,
    "out_channels": 4,
    "num_layers": 1,
    "num_attention_heads": 2,
    "attention_head_dim": 4,
    "num_cross_attention_heads": 2,
    "cross_attention_head_dim": 4,
    "cross_attention_dim": 8,
    "caption_channels": TEXT,
    "sample_size": 16,
}
_DC = part(
    "AutoencoderDC",
    in_channels=3,
    latent_channels=4,
    attention_head_dim=2,
    encoder_block_types=("ResBlock", "EfficientViTBlock"),
    decoder_block_types=("ResBlock", "EfficientViTBlock"),
    encoder_block_out_channels=(8, 8),
    decoder_block_out_channels=(8, 8),
    encoder_qkv_multiscales=((), (5,)),
    decoder_qkv_multiscales=((), (5,)),
    encoder_layers_per_block=(1, 1),
    decoder_layers_per_block=[1, 1],
    downsample_block_type="conv",
    upsample_block_type="interpolate",
    decoder_norm_types="rms_norm",
    decoder_act_fns="silu",
    scaling_factor=0.41407,
)
_PIXART = {
    "sample_size": 16,
    "num_layers": 1,
    "patch_size": 2,
    "attention_head_dim": 8,
    "num_attention_heads": 2,
    "caption_channels": TEXT,
    "in_channels": 4,
    "cross_attention_dim": 16,
    "out_channels": 8,
    "attention_bias": True,
    "activation_fn": "gelu-approximate",
    "num_embeds_ada_norm": 1000,
    "norm_type": "ada_norm_single",
    "norm_elementwise_affine": False,
    "norm_eps": 1e-6,
}
_LUMINA = {
    "sample_size": 16,
    "patch_size": 2,
    "in_channels": 4,
    "num_layers": 1,
    "num_attention_heads": 1,
    "num_kv_heads": 1,
    "multiple_of": 16,
    "ffn_dim_multiplier": None,
    "norm_eps": 1e-5,
    "scaling_factor": 1.0,
}
_HUNYUAN_DIT = {
    "sample_size": 8,
    "patch_size": 2,
    "attention_head_dim": 8,
    "num_attention_heads": 2,
    "in_channels": 4,
    "cross_attention_dim": TEXT,
    "cross_attention_dim_t5": TEXT,
    "pooled_projection_dim": 16,
    "hidden_size": 16,
    "activation_fn": "gelu-approximate",
    "text_len": 6,
    "text_len_t5": 6,
}
_HUNYUAN_PROMPT = {
    **MASKED_PROMPT,
    **{f"{k}_2": v for k, v in MASKED_PROMPT.items()},
    **_BINNED,
}
_QWEN = {
    "patch_size": 2,
    "in_channels": 16,
    "out_channels": 4,
    "num_layers": 1,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": TEXT,
    "axes_dims_rope": (8, 4, 4),
}
_QWEN_VAE = part(
    "AutoencoderKLQwenImage",
    base_dim=8,
    z_dim=4,
    dim_mult=[1, 2],
    num_res_blocks=1,
    temperal_downsample=[False],
    latents_mean=[0.0] * 4,
    latents_std=[1.0] * 4,
)
_ONE_PROMPT = {"prompt_embeds": numbers(1, 6, TEXT), "prompt_embeds_mask": torch.ones(1, 6).long()}
_COGVIEW = {
    "patch_size": 2,
    "in_channels": 4,
    "num_layers": 1,
    "attention_head_dim": 4,
    "num_attention_heads": 2,
    "out_channels": 4,
    "text_embed_dim": TEXT,
    "time_embed_dim": 8,
    "condition_dim": 2,
}

CASES: list[Case] = [
    make(
        "SanaPipeline",
        {**MASKED_PROMPT, **SIZE, **_BINNED, **_NO_WORDS},
        transformer=part("SanaTransformer2DModel", **_SANA),
        vae=_DC,
    ),
    make(
        "SanaSprintPipeline",
        {
            "prompt_embeds": numbers(1, 6, TEXT),
            "prompt_attention_mask": torch.ones(1, 6),
            "intermediate_timesteps": None,
            **SIZE,
            **_BINNED,
        },
        transformer=part(
            "SanaTransformer2DModel",
            **_SANA,
            qk_norm="rms_norm_across_heads",
            guidance_embeds=True,
        ),
        scheduler=part("SCMScheduler"),
        vae=_DC,
    ),
    make(
        "PixArtAlphaPipeline",
        {**MASKED_PROMPT, **SIZE, **_BINNED, **_NO_WORDS},
        transformer=part("PixArtTransformer2DModel", **_PIXART),
        scheduler=DPMSolverMultistepScheduler,
    ),
    make(
        "PixArtSigmaPipeline",
        {**MASKED_PROMPT, **SIZE, **_BINNED, **_NO_WORDS},
        transformer=part("PixArtTransformer2DModel", **_PIXART),
        scheduler=partial(DPMSolverMultistepScheduler, use_karras_sigmas=True),
    ),
    make(
        "HunyuanDiTPipeline",
        {**_HUNYUAN_PROMPT, **_LARGE},
        transformer=part("HunyuanDiT2DModel", num_layers=2, **_HUNYUAN_DIT),
        vae=partial(vae, levels=4),
        scheduler=ddim,
    ),
    make(
        "HunyuanDiTControlNetPipeline",
        {**_HUNYUAN_PROMPT, **_LARGE, "control_image": picture(64)},
        transformer=part("HunyuanDiT2DModel", num_layers=2, **_HUNYUAN_DIT),
        vae=partial(vae, levels=4),
        controlnet=part("HunyuanDiT2DControlNetModel", transformer_num_layers=2, **_HUNYUAN_DIT),
        scheduler=ddim,
    ),
    make(
        "DiTPipeline",
        {"class_labels": [1]},
        transformer=part(
            "DiTTransformer2DModel",
            sample_size=16,
            num_layers=1,
            patch_size=4,
            attention_head_dim=8,
            num_attention_heads=2,
            in_channels=4,
            out_channels=8,
            attention_bias=True,
            activation_fn="gelu-approximate",
            num_embeds_ada_norm=1000,
            norm_type="ada_norm_zero",
            norm_elementwise_affine=False,
        ),
        scheduler=ddim,
    ),
    make(
        "LuminaPipeline",
        {**MASKED_PROMPT, **SIZE},
        transformer=part(
            "LuminaNextDiT2DModel",
            **_LUMINA,
            hidden_size=4,
            learn_sigma=True,
            qk_norm=True,
            cross_attention_dim=TEXT,
        ),
    ),
    make(
        "Lumina2Pipeline",
        {**MASKED_PROMPT, **SIZE},
        transformer=part(
            "Lumina2Transformer2DModel",
            **_LUMINA,
            hidden_size=8,
            axes_dim_rope=[4, 2, 2],
            cap_feat_dim=TEXT,
        ),
    ),
    make(
        "AuraFlowPipeline",
        {**MASKED_PROMPT, **SIZE},
        transformer=part(
            "AuraFlowTransformer2DModel",
            sample_size=16,
            patch_size=2,
            in_channels=4,
            num_mmdit_layers=1,
            num_single_dit_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            caption_projection_dim=16,
            joint_attention_dim=TEXT,
            out_channels=4,
            pos_embed_max_size=256,
        ),
    ),
    make(
        "CogView3PlusPipeline",
        {**PROMPT, **SIZE},
        transformer=part(
            "CogView3PlusTransformer2DModel", **_COGVIEW, pos_embed_max_size=8, sample_size=16
        ),
        scheduler=CogVideoXDDIMScheduler,
    ),
    make(
        "CogView4Pipeline",
        {**PROMPT, **SIZE},
        transformer=part("CogView4Transformer2DModel", **_COGVIEW),
        scheduler=partial(
            DYNAMIC,
            base_shift=0.25,
            max_shift=0.75,
            base_image_seq_len=256,
            time_shift_type="linear",
        ),
    ),
    make(
        "ChromaPipeline",
        {
            **PROMPT,
            "prompt_attention_mask": torch.ones(1, 6),
            "negative_prompt_attention_mask": torch.ones(1, 6),
            **SIZE,
        },
        transformer=part(
            "ChromaTransformer2DModel",
            patch_size=1,
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=TEXT,
            axes_dims_rope=[4, 4, 8],
            approximator_hidden_dim=32,
            approximator_layers=1,
            approximator_num_channels=16,
        ),
        scheduler=DYNAMIC,
    ),
    make(
        "QwenImagePipeline",
        {**_ONE_PROMPT, **SIZE},
        transformer=part("QwenImageTransformer2DModel", **_QWEN),
        vae=_QWEN_VAE,
        scheduler=DYNAMIC,
    ),
    *by_strength(
        "QwenImageImg2ImgPipeline",
        {**_ONE_PROMPT, **SIZE, **IMAGE},
        transformer=part("QwenImageTransformer2DModel", **_QWEN),
        vae=_QWEN_VAE,
        scheduler=DYNAMIC,
    ),
    make(
        "QwenImageControlNetPipeline",
        {**_ONE_PROMPT, **SIZE, "control_image": picture()},
        transformer=part("QwenImageTransformer2DModel", **_QWEN),
        controlnet=part("QwenImageControlNetModel", **_QWEN),
        vae=_QWEN_VAE,
        scheduler=DYNAMIC,
    ),
    make(
        "BriaPipeline",
        {**PROMPT, **SIZE},
        transformer=part(
            "BriaTransformer2DModel",
            patch_size=1,
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=TEXT,
            pooled_projection_dim=None,
            axes_dims_rope=[0, 4, 4],
        ),
        vae=partial(vae, shift_factor=0),
    ),
    make(
        "HunyuanImagePipeline",
        {
            **_ONE_PROMPT,
            "prompt_embeds_2": numbers(1, 6, TEXT),
            "prompt_embeds_mask_2": torch.ones(1, 6).long(),
            "height": 32,
            "width": 32,
        },
        transformer=part(
            "HunyuanImageTransformer2DModel",
            in_channels=4,
            out_channels=4,
            num_attention_heads=2,
            attention_head_dim=8,
            num_layers=1,
            num_single_layers=1,
            num_refiner_layers=1,
            patch_size=(1, 1),
            guidance_embeds=False,
            text_embed_dim=TEXT,
            text_embed_2_dim=TEXT,
            rope_axes_dim=(4, 4),
        ),
        vae=part(
            "AutoencoderKLHunyuanImage",
            in_channels=3,
            out_channels=3,
            latent_channels=4,
            block_out_channels=(32, 32),
            layers_per_block=1,
            scaling_factor=0.476986,
            spatial_compression_ratio=2,
            sample_size=32,
        ),
    ),
    make(
        "ZImagePipeline",
        {
            "prompt_embeds": [numbers(6, 16)],
            "guidance_scale": 0.0,
            **SIZE,
        },
        transformer=part(
            "ZImageTransformer2DModel",
            all_patch_size=(2,),
            all_f_patch_size=(1,),
            in_channels=4,
            dim=32,
            n_layers=1,
            n_refiner_layers=1,
            n_heads=2,
            n_kv_heads=2,
            cap_feat_dim=16,
            rope_theta=256.0,
            axes_dims=[8, 4, 4],
            axes_lens=[256, 32, 32],
        ),
    ),
    make(
        "PRXPipeline",
        {
            "prompt_embeds": numbers(1, 6, TEXT),
            "prompt_attention_mask": torch.ones(1, 6).bool(),
            "guidance_scale": 1.0,
            **SIZE,
            **_BINNED,
        },
        transformer=part(
            "PRXTransformer2DModel",
            patch_size=1,
            in_channels=4,
            context_in_dim=TEXT,
            hidden_size=8,
            mlp_ratio=2.0,
            num_heads=2,
            depth=1,
            axes_dim=[2, 2],
        ),
        vae=partial(vae, shift_factor=0.0, scaling_factor=1.0),
    ),
]
