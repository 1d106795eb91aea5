"""Video: transformers and UNets over frames."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from diffusers import EulerDiscreteScheduler, UniPCMultistepScheduler

from .case import Case, assemble, numbers, picture
from .flows import FLOW, MASKED_PROMPT, PROMPT, TEXT, make
from .images import LATENT_SCALE, WIDTH, ddim, unet, vae
from .images import PROMPT as UNET_PROMPT
from .transformers import part

_VIDEO, _I2V = "video", "image to video"
_FRAMES = {"height": 32, "width": 32, "num_frames": 5}
_COG = {
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "out_channels": 4,
    "time_embed_dim": 2,
    "text_embed_dim": TEXT,
    "num_layers": 1,
    "sample_width": 4,
    "sample_height": 4,
    "sample_frames": 5,
    "patch_size": 2,
    "temporal_compression_ratio": 4,
    "max_text_seq_length": 6,
}
_COG_VAE = part(
    "AutoencoderKLCogVideoX",
    down_block_types=("CogVideoXDownBlock3D",) * 4,
    up_block_types=("CogVideoXUpBlock3D",) * 4,
    block_out_channels=(8, 8, 8, 8),
    latent_channels=4,
    layers_per_block=1,
    norm_num_groups=2,
    temporal_compression_ratio=4,
)
_WAN = {
    "patch_size": (1, 2, 2),
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "in_channels": 4,
    "out_channels": 4,
    "text_dim": TEXT,
    "freq_dim": 16,
    "ffn_dim": 16,
    "num_layers": 1,
    "cross_attn_norm": True,
    "qk_norm": "rms_norm_across_heads",
    "rope_max_seq_len": 32,
}
_WAN_VAE = part(
    "AutoencoderKLWan",
    base_dim=4,
    z_dim=4,
    dim_mult=[1, 1, 1, 1],
    num_res_blocks=1,
    temperal_downsample=[False, True, True],
    latents_mean=[0.0] * 4,
    latents_std=[1.0] * 4,
)
_UNIPC_FLOW = partial(
    UniPCMultistepScheduler,
    prediction_type="flow_prediction",
    use_flow_sigmas=True,
    flow_shift=3.0,
)
_LTX = {
    "in_channels": 8,
    "out_channels": 8,
    "patch_size": 1,
    "patch_size_t": 1,
    "num_attention_heads": 2,
    "attention_head_dim": 8,
    "cross_attention_dim": 16,
    "num_layers": 1,
    "caption_channels": TEXT,
}
_LTX_VAE = part(
    "AutoencoderKLLTXVideo",
    latent_channels=8,
    block_out_channels=(8, 8, 8, 8),
    decoder_block_out_channels=(8, 8, 8, 8),
    layers_per_block=(1, 1, 1, 1, 1),
    decoder_layers_per_block=(1, 1, 1, 1, 1),
    spatio_temporal_scaling=(True, True, False, False),
    decoder_spatio_temporal_scaling=(True, True, False, False),
    decoder_inject_noise=(False,) * 5,
    upsample_residual=(False,) * 4,
    upsample_factor=(1, 1, 1, 1),
    timestep_conditioning=False,
    patch_size=1,
    patch_size_t=1,
    encoder_causal=True,
    decoder_causal=False,
)


def stable_video() -> Any:
    pipe = assemble(
        "StableVideoDiffusionPipeline",
        vae=vae,
        unet=part(
            "UNetSpatioTemporalConditionModel",
            block_out_channels=(32, 32),
            layers_per_block=1,
            sample_size=16,
            in_channels=8,
            out_channels=4,
            down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
            up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
            cross_attention_dim=WIDTH,
            num_attention_heads=2,
            projection_class_embeddings_input_dim=96,
            addition_time_embed_dim=32,
        ),
        scheduler=partial(
            EulerDiscreteScheduler,
            **LATENT_SCALE,
            interpolation_type="linear",
            prediction_type="v_prediction",
            sigma_max=700.0,
            sigma_min=0.002,
            steps_offset=1,
            timestep_spacing="leading",
            timestep_type="continuous",
            use_karras_sigmas=True,
        ),
    )
    pipe._encode_image = lambda *args: numbers(2, 1, WIDTH)
    return pipe


def ltx_with_sound() -> Any:
    pipe = assemble(
        "LTX2Pipeline",
        transformer=part(
            "LTX2VideoTransformer3DModel",
            in_channels=4,
            out_channels=4,
            patch_size=1,
            patch_size_t=1,
            num_attention_heads=2,
            attention_head_dim=8,
            cross_attention_dim=16,
            audio_in_channels=4,
            audio_out_channels=4,
            audio_num_attention_heads=2,
            audio_attention_head_dim=4,
            audio_cross_attention_dim=8,
            num_layers=1,
            qk_norm="rms_norm_across_heads",
            caption_channels=TEXT,
            rope_double_precision=False,
            rope_type="split",
        ),
        vae=part(
            "AutoencoderKLLTX2Video",
            latent_channels=4,
            block_out_channels=(8,),
            decoder_block_out_channels=(8,),
            layers_per_block=(1,),
            decoder_layers_per_block=(1, 1),
            spatio_temporal_scaling=(True,),
            decoder_spatio_temporal_scaling=(True,),
            decoder_inject_noise=(False, False),
            downsample_type=("spatial",),
            upsample_residual=(False,),
            upsample_factor=(1,),
            timestep_conditioning=False,
            patch_size=1,
            patch_size_t=1,
        ),
        audio_vae=part(
            "AutoencoderKLLTX2Audio",
            base_channels=4,
            output_channels=2,
            ch_mult=(1,),
            num_res_blocks=1,
            attn_resolutions=None,
            in_channels=2,
            resolution=32,
            latent_channels=2,
            norm_type="pixel",
            causality_axis="height",
            dropout=0.0,
            mid_block_add_attention=False,
            sample_rate=16000,
            mel_hop_length=160,
            is_causal=True,
            mel_bins=8,
        ),
        scheduler=FLOW,
    )
    words = numbers(1, 6, TEXT)
    pipe.connectors = lambda *args, **rest: (words, words, torch.ones(1, 6))
    return pipe


def mochi():
    made = part(
        "MochiTransformer3DModel",
        patch_size=2,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        pooled_projection_dim=16,
        in_channels=12,
        out_channels=None,
        qk_norm="rms_norm",
        text_embed_dim=TEXT,
        time_embed_dim=4,
        activation_fn="swiglu",
        max_sequence_length=6,
    )()
    made.pos_frequencies.data.zero_()  # it is made of uninitialised memory
    return made


_MOTION = part(
    "MotionAdapter",
    block_out_channels=(4, 8),
    motion_layers_per_block=1,
    motion_norm_num_groups=2,
    motion_num_attention_heads=2,
)
_SOUND = {
    "guidance_scale": 1.0,
    "stg_scale": 0.0,
    "modality_scale": 1.0,
    "use_cross_timestep": False,
    "audio_guidance_scale": 1.0,
    "audio_modality_scale": 1.0,
    "spatio_temporal_guidance_blocks": [0],
}

CASES: list[Case] = [
    Case(
        "LTX2Pipeline",
        _VIDEO,
        ltx_with_sound,
        {
            "prompt_embeds": numbers(1, 6, TEXT),
            "prompt_attention_mask": torch.ones(1, 6).long(),
            **_FRAMES,
            **_SOUND,
            "output_type": "latent",
        },
    ),
    make(
        "SkyReelsV2DiffusionForcingPipeline",
        {**PROMPT, **_FRAMES, "prompt": None},
        _VIDEO,
        transformer=part("SkyReelsV2Transformer3DModel", **_WAN),
        vae=_WAN_VAE,
        scheduler=_UNIPC_FLOW,
        event=(4, 2, 4, 4),
    ),
    make(
        "CogVideoXPipeline",
        {**PROMPT, **_FRAMES},
        _VIDEO,
        transformer=part("CogVideoXTransformer3DModel", in_channels=4, **_COG),
        vae=_COG_VAE,
        scheduler=part("CogVideoXDPMScheduler"),
        variant="CogVideoXDPMScheduler",
    ),
    make(
        "CogVideoXPipeline",
        {**PROMPT, **_FRAMES},
        _VIDEO,
        transformer=part("CogVideoXTransformer3DModel", in_channels=4, **_COG),
        vae=_COG_VAE,
        scheduler=part("CogVideoXDDIMScheduler", timestep_spacing="trailing"),
    ),
    make(
        "CogVideoXImageToVideoPipeline",
        {**PROMPT, **_FRAMES, "image": picture()},
        _I2V,
        transformer=part(
            "CogVideoXTransformer3DModel",
            in_channels=8,
            **_COG,
            use_rotary_positional_embeddings=True,
            use_learned_positional_embeddings=True,
        ),
        vae=_COG_VAE,
        scheduler=part("CogVideoXDDIMScheduler", timestep_spacing="trailing"),
    ),
    make(
        "WanPipeline",
        {**PROMPT, **_FRAMES},
        _VIDEO,
        transformer=part("WanTransformer3DModel", **_WAN),
        vae=_WAN_VAE,
        scheduler=_UNIPC_FLOW,
    ),
    make(
        "WanPipeline",
        {**PROMPT, **_FRAMES},
        _VIDEO,
        transformer=part("WanTransformer3DModel", **_WAN),
        vae=_WAN_VAE,
        variant="FlowMatchEuler",
    ),
    *[
        make(
            "WanPipeline",
            {**PROMPT, **_FRAMES},
            _VIDEO,
            transformer=part("WanTransformer3DModel", **_WAN),
            transformer_2=part("WanTransformer3DModel", **_WAN),
            boundary_ratio=boundary,
            vae=_WAN_VAE,
            scheduler=_UNIPC_FLOW,
            variant=f"two experts, boundary_ratio={boundary}",
        )
        for boundary in (0.875, 0.55)
    ],
    make(
        "WanImageToVideoPipeline",
        {**PROMPT, **_FRAMES, "image": picture()},
        _I2V,
        transformer=part("WanTransformer3DModel", **{**_WAN, "in_channels": 4 + 4 + 4}),
        vae=_WAN_VAE,
        scheduler=_UNIPC_FLOW,
    ),
    make(
        "SkyReelsV2Pipeline",
        {**PROMPT, **_FRAMES},
        _VIDEO,
        transformer=part("SkyReelsV2Transformer3DModel", **_WAN),
        vae=_WAN_VAE,
        scheduler=_UNIPC_FLOW,
    ),
    make(
        "LTXPipeline",
        {**MASKED_PROMPT, **_FRAMES, "num_frames": 9},
        _VIDEO,
        transformer=part("LTXVideoTransformer3DModel", **_LTX),
        vae=_LTX_VAE,
    ),
    make(
        "LTXImageToVideoPipeline",
        {**MASKED_PROMPT, **_FRAMES, "num_frames": 9, "image": picture()},
        _I2V,
        transformer=part("LTXVideoTransformer3DModel", **_LTX),
        vae=_LTX_VAE,
        event=(192, 8),
        rows=(1 / 3, 1.0),  # the first frame is the image
    ),
    make(
        "HunyuanVideoPipeline",
        {
            "prompt_embeds": numbers(1, 6, TEXT),
            "prompt_attention_mask": torch.ones(1, 6).long(),
            "pooled_prompt_embeds": numbers(1, TEXT),
            **_FRAMES,
        },
        _VIDEO,
        transformer=part(
            "HunyuanVideoTransformer3DModel",
            in_channels=4,
            out_channels=4,
            num_attention_heads=2,
            attention_head_dim=10,
            num_layers=1,
            num_single_layers=1,
            num_refiner_layers=1,
            patch_size=1,
            patch_size_t=1,
            guidance_embeds=True,
            text_embed_dim=TEXT,
            pooled_projection_dim=TEXT,
            rope_axes_dim=(2, 4, 4),
        ),
        vae=part(
            "AutoencoderKLHunyuanVideo",
            latent_channels=4,
            down_block_types=("HunyuanVideoDownBlock3D",) * 4,
            up_block_types=("HunyuanVideoUpBlock3D",) * 4,
            block_out_channels=(8, 8, 8, 8),
            layers_per_block=1,
            norm_num_groups=4,
        ),
        scheduler=partial(FLOW, shift=7.0),
    ),
    make(
        "MochiPipeline",
        {**MASKED_PROMPT, **_FRAMES, "num_frames": 7},
        _VIDEO,
        transformer=mochi,
        vae=part(
            "AutoencoderKLMochi",
            latent_channels=12,
            out_channels=3,
            encoder_block_out_channels=(32, 32, 32, 32),
            decoder_block_out_channels=(32, 32, 32, 32),
            layers_per_block=(1, 1, 1, 1, 1),
        ),
        scheduler=partial(FLOW, shift=1.0, invert_sigmas=True),
    ),
    make(
        "AllegroPipeline",
        {**MASKED_PROMPT, "height": 32, "width": 32, "num_frames": 8, "negative_prompt": None},
        _VIDEO,
        transformer=part(
            "AllegroTransformer3DModel",
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=4,
            out_channels=4,
            num_layers=1,
            cross_attention_dim=24,
            sample_width=4,
            sample_height=4,
            sample_frames=2,
            caption_channels=TEXT,
        ),
        vae=part(
            "AutoencoderKLAllegro",
            down_block_types=("AllegroDownBlock3D",) * 4,
            up_block_types=("AllegroUpBlock3D",) * 4,
            block_out_channels=(8, 8, 8, 8),
            latent_channels=4,
            layers_per_block=1,
            norm_num_groups=2,
            temporal_compression_ratio=4,
        ),
        scheduler=partial(EulerDiscreteScheduler, **LATENT_SCALE),
    ),
    make(
        "LattePipeline",
        {**PROMPT, "height": 32, "width": 32, "video_length": 2, "negative_prompt": None},
        _VIDEO,
        transformer=part(
            "LatteTransformer3DModel",
            sample_size=16,
            num_layers=1,
            patch_size=2,
            attention_head_dim=8,
            num_attention_heads=2,
            caption_channels=TEXT,
            in_channels=4,
            cross_attention_dim=16,
            out_channels=8,
            attention_bias=True,
            activation_fn="gelu-approximate",
            num_embeds_ada_norm=1000,
            norm_type="ada_norm_single",
            norm_elementwise_affine=False,
            video_length=2,
        ),
        scheduler=ddim,
    ),
    make(
        "AnimateDiffPipeline",
        {**UNET_PROMPT, **_FRAMES, "num_frames": 2},
        _VIDEO,
        unet=unet,
        motion_adapter=_MOTION,
        scheduler=ddim,
    ),
    make(
        "TextToVideoSDPipeline",
        {**UNET_PROMPT, **_FRAMES, "num_frames": 2},
        _VIDEO,
        unet=part(
            "UNet3DConditionModel",
            block_out_channels=(4, 8),
            layers_per_block=1,
            sample_size=16,
            in_channels=4,
            out_channels=4,
            down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
            up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
            cross_attention_dim=WIDTH,
            attention_head_dim=4,
            norm_num_groups=2,
        ),
        scheduler=ddim,
        event=(4, 2, 16, 16),
    ),
    Case(
        "StableVideoDiffusionPipeline",
        _I2V,
        stable_video,
        {
            "image": picture(),
            "height": 32,
            "width": 32,
            "num_frames": 2,
            "output_type": "latent",
        },
    ),
]
