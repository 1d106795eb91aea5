"""Pixels, priors, cascades, audio and shapes: what is built around other networks."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from diffusers import (
    CMStochasticIterativeScheduler,
    DDPMScheduler,
    HeunDiscreteScheduler,
    LCMScheduler,
    UNet2DModel,
)
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from .case import Case, assemble, numbers, picture
from .images import LATENT_SCALE, WIDTH, ddim, unet, vae
from .transformers import part


def pixels(channels: int = 3, **changes: Any) -> UNet2DModel:
    return UNet2DModel(
        sample_size=16,
        in_channels=channels,
        out_channels=3,
        layers_per_block=1,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
        **changes,
    )


def ddim_pipeline() -> Any:
    """`DDIMPipeline` makes a scheduler of its own of the one that it is given."""
    pipe = assemble("DDIMPipeline", unet=pixels, scheduler=ddim)
    pipe.scheduler = ddim()
    return pipe


_EMBEDS = {"image_embeds": numbers(1, WIDTH), "negative_image_embeds": numbers(1, WIDTH, seed=8)}
_KANDINSKY = {
    "out_channels": 8,
    "addition_embed_type": "image",
    "down_block_types": ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
    "up_block_types": ("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    "encoder_hid_dim": WIDTH,
    "encoder_hid_dim_type": "image_proj",
    "attention_head_dim": 4,
    "resnet_time_scale_shift": "scale_shift",
    "block_out_channels": (8, 16),
}
_MOVQ = part(
    "VQModel",
    block_out_channels=(32, 32),
    down_block_types=("DownEncoderBlock2D",) * 2,
    up_block_types=("UpDecoderBlock2D",) * 2,
    latent_channels=4,
    norm_num_groups=4,
    norm_type="spatial",
    num_vq_embeddings=12,
    vq_embed_dim=4,
)
_LARGE = {"height": 64, "width": 64}
_LATENT = {"output_type": "latent"}
_CASCADE = {
    "block_out_channels": (8, 8),
    "num_attention_heads": (2, 2),
    "down_num_layers_per_block": (1, 1),
    "up_num_layers_per_block": (1, 1),
    "down_blocks_repeat_mappers": (1, 1),
    "up_blocks_repeat_mappers": (1, 1),
    "block_types_per_layer": (("SDCascadeResBlock", "SDCascadeTimestepBlock"),) * 2,
    "clip_text_pooled_in_channels": WIDTH,
    "conditioning_dim": 8,
    "timestep_ratio_embedding_dim": 8,
}
_POOLED = {
    "prompt_embeds": numbers(1, 6, WIDTH),
    "prompt_embeds_pooled": numbers(1, 1, WIDTH),
    "negative_prompt_embeds": numbers(1, 6, WIDTH, seed=8),
    "negative_prompt_embeds_pooled": numbers(1, 1, WIDTH, seed=8),
}


def text_encoder() -> CLIPTextModelWithProjection:
    """Never called; its precision is asked for."""
    return CLIPTextModelWithProjection(
        CLIPTextConfig(
            hidden_size=WIDTH,
            intermediate_size=WIDTH,
            projection_dim=WIDTH,
            num_attention_heads=2,
            num_hidden_layers=1,
            vocab_size=10,
        )
    )


def shap_e() -> Any:
    pipe = assemble(
        "ShapEPipeline",
        prior=part(
            "PriorTransformer",
            num_attention_heads=2,
            attention_head_dim=8,
            embedding_dim=16,
            num_embeddings=16,
            embedding_proj_dim=WIDTH,
            time_embed_dim=32,
            num_layers=1,
            clip_embed_dim=32,
            additional_embeddings=0,
            time_embed_act_fn="gelu",
            norm_in_type="layer",
            encoder_hid_proj_type=None,
            added_emb_type=None,
        ),
        scheduler=partial(
            HeunDiscreteScheduler,
            beta_schedule="exp",
            num_train_timesteps=1024,
            prediction_type="sample",
            use_karras_sigmas=True,
        ),
    )
    pipe._encode_prompt = lambda *args: numbers(2, WIDTH)
    return pipe


def kandinsky_prior() -> Any:
    pipe = assemble(
        "KandinskyV22PriorPipeline",
        prior=part(
            "PriorTransformer",
            num_attention_heads=2,
            attention_head_dim=12,
            embedding_dim=64,
            num_layers=1,
            num_embeddings=6,
        ),
        scheduler=part(
            "UnCLIPScheduler",
            variance_type="fixed_small_log",
            prediction_type="sample",
            clip_sample=False,
        ),
    )
    words = numbers(2, 64), numbers(2, 6, 64), torch.ones(2, 6).bool()
    pipe._encode_prompt = lambda *args: words
    pipe.get_zero_embed = lambda *args, **rest: numbers(1, 64)
    return pipe


def marigold() -> Any:
    pipe = assemble(
        "MarigoldDepthPipeline",
        unet=partial(unet, 8),
        vae=vae,
        scheduler=partial(LCMScheduler, prediction_type="v_prediction", **LATENT_SCALE),
        prediction_type="depth",
        scale_invariant=True,
        shift_invariant=True,
        default_denoising_steps=4,
        default_processing_resolution=32,
    )
    pipe.empty_text_embedding = numbers(1, 6, WIDTH)
    return pipe


def _case(name: str, kind: str, call: Any, **rest: Any) -> Case:
    own = {f: rest.pop(f) for f in Case.__dataclass_fields__.keys() & rest.keys()}
    return Case(name, kind, partial(assemble, name, **rest), call, **own)


CASES = [
    _case(
        "DDPMPipeline",
        "unconditional",
        {"output_type": "np"},
        unet=pixels,
        scheduler=partial(DDPMScheduler, clip_sample=False),
    ),
    Case("DDIMPipeline", "unconditional", ddim_pipeline, {"output_type": "np"}),
    _case(
        "ConsistencyModelPipeline",
        "unconditional",
        {"output_type": "np"},
        unet=pixels,
        scheduler=CMStochasticIterativeScheduler,
    ),
    _case(
        "KandinskyV22Pipeline",
        "text to image",
        {**_EMBEDS, **_LARGE, **_LATENT},
        unet=partial(unet, **_KANDINSKY),
        movq=_MOVQ,
        scheduler=ddim,
    ),
    *[
        _case(
            "KandinskyV22Img2ImgPipeline",
            "image to image",
            {**_EMBEDS, **_LARGE, **_LATENT, "image": picture(64), "strength": strength},
            unet=partial(unet, **_KANDINSKY),
            movq=_MOVQ,
            scheduler=ddim,
            start="data",
            variant=f"strength={strength}",
        )
        for strength in (0.34, 0.84)
    ],
    _case(
        "Kandinsky3Pipeline",
        "text to image",
        {
            "prompt_embeds": numbers(1, 6, WIDTH),
            "negative_prompt_embeds": numbers(1, 6, WIDTH, seed=8),
            "attention_mask": torch.ones(1, 6),
            "negative_attention_mask": torch.ones(1, 6),
            **_LARGE,
            **_LATENT,
        },
        unet=part(
            "Kandinsky3UNet",
            in_channels=4,
            time_embedding_dim=4,
            groups=2,
            attention_head_dim=4,
            layers_per_block=3,
            block_out_channels=(32, 64),
            cross_attention_dim=4,
            encoder_hid_dim=WIDTH,
        ),
        movq=_MOVQ,
        scheduler=ddim,
    ),
    Case("ShapEPipeline", "3D", shap_e, {"prompt": "a shark", "output_type": "latent"}),
    Case("KandinskyV22PriorPipeline", "prior", kandinsky_prior, {"prompt": "a horse"}),
    Case(
        "MarigoldDepthPipeline",
        "depth of an image",
        marigold,
        {"image": picture(), "processing_resolution": 0, "output_type": "pt"},
        front=4,
    ),
    _case(
        "StableCascadePriorPipeline",
        "prior",
        {**_POOLED, **_LARGE, "output_type": "pt"},
        prior=part(
            "StableCascadeUNet",
            **_CASCADE,
            in_channels=4,
            out_channels=4,
            clip_image_in_channels=WIDTH,
            clip_text_in_channels=WIDTH,
            switch_level=(False,),
        ),
        text_encoder=text_encoder,
        scheduler=part("DDPMWuerstchenScheduler"),
        resolution_multiple=8.0,
    ),
    _case(
        "StableCascadeDecoderPipeline",
        "text to image",
        {
            **_POOLED,
            "image_embeddings": numbers(1, 4, 4, 4),
            "output_type": "latent",
        },
        decoder=part(
            "StableCascadeUNet",
            **_CASCADE,
            in_channels=4,
            out_channels=4,
            effnet_in_channels=4,
            patch_size=1,
        ),
        scheduler=part("DDPMWuerstchenScheduler"),
        latent_dim_scale=4.0,
    ),
    _case(
        "IFPipeline",
        "text to image",
        {
            "prompt_embeds": numbers(1, 6, WIDTH),
            "negative_prompt_embeds": numbers(1, 6, WIDTH, seed=8),
            "height": 16,
            "width": 16,
            "output_type": "pt",
        },
        unet=partial(
            unet,
            3,
            **{
                **_KANDINSKY,
                "out_channels": 6,
                "block_out_channels": (32, 64),
                "addition_embed_type": "text",
                "addition_embed_type_num_heads": 2,
                "encoder_hid_dim_type": None,
            },
        ),
        scheduler=partial(DDPMScheduler, variance_type="learned_range", clip_sample=False),
        requires_safety_checker=False,
    ),
    _case(
        "StableAudioPipeline",
        "audio",
        {
            "prompt_embeds": numbers(1, 6, WIDTH),
            "negative_prompt_embeds": numbers(1, 6, WIDTH, seed=8),
            "attention_mask": torch.ones(1, 6).long(),
            "negative_attention_mask": torch.ones(1, 6).long(),
            "audio_end_in_s": 2.0,
            **_LATENT,
        },
        transformer=part(
            "StableAudioDiTModel",
            sample_size=16,
            in_channels=3,
            num_layers=1,
            attention_head_dim=4,
            num_attention_heads=2,
            num_key_value_attention_heads=2,
            out_channels=3,
            cross_attention_dim=WIDTH,
            time_proj_dim=8,
            global_states_input_dim=2 * WIDTH,
            cross_attention_input_dim=WIDTH,
        ),
        vae=part(
            "AutoencoderOobleck",
            encoder_hidden_size=6,
            downsampling_ratios=[1, 2],
            decoder_channels=3,
            decoder_input_channels=3,
            audio_channels=2,
            channel_multiples=[2, 4],
            sampling_rate=4,
        ),
        projection_model=part(
            "StableAudioProjectionModel",
            text_encoder_dim=WIDTH,
            conditioning_dim=WIDTH,
            min_value=0,
            max_value=32,
        ),
        scheduler=part(
            "CosineDPMSolverMultistepScheduler",
            solver_order=2,
            prediction_type="v_prediction",
            sigma_data=1.0,
            sigma_schedule="exponential",
        ),
    ),
    _case(
        "DanceDiffusionPipeline",
        "audio",
        {"audio_length_in_s": 0.02},
        unet=part(
            "UNet1DModel",
            block_out_channels=(32, 32),
            extra_in_channels=64,
            sample_size=64,
            sample_rate=3200,
            in_channels=2,
            out_channels=2,
            flip_sin_to_cos=True,
            use_timestep_embedding=False,
            time_embedding_type="fourier",
            mid_block_type="UNetMidBlock1D",
            down_block_types=("DownBlock1DNoSkip", "AttnDownBlock1D"),
            up_block_types=("AttnUpBlock1D", "UpBlock1DNoSkip"),
        ),
        scheduler=part("IPNDMScheduler"),
    ),
]
