"""A tiny UNet on scikit-learn's digits, trained in minutes under Stable Diffusion's noise schedule.

The digits are enlarged from 8 x 8 to 32 x 32 pixels, bilinearly, and lie in [-1, 1]. Every 2 x 2
pixels become 4 channels of one place, as latents are packed, so that the network works on 4 x 16 x
16 numbers: that is cheaper, and the noise is the same. A step of the training follows from the seed
and the number of the step alone, and the state is replaced as a whole every `save_every` steps, so
a run that was killed goes on as if nothing had happened.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler, UNet2DModel
from torch import Tensor
from torch.nn.functional import interpolate, pixel_unshuffle

from gaga_adapter.files.atomic import replacing

#: What Stable Diffusion 1 and 2 are configured with, apart from the grid of the sampler.
SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "prediction_type": "epsilon",
    "clip_sample": False,
}
SIZE, N_TRAINED = 32, 1200
BATCH, RATE, DECAY = 32, 2e-3, 0.999
#: Steps of the training; its rate falls as if there were `HORIZON`, and the averaged weights count.
STEPS, HORIZON = 3000, 5000


def digits(size: int = SIZE) -> tuple[Tensor, Tensor]:
    """Packed images (M, 4, size / 2, size / 2): those that are trained on, and those held out.

    `pixel_shuffle(x, 2)` makes images (M, 1, size, size) in [-1, 1] of them.
    """
    from sklearn.datasets import load_digits

    images = torch.tensor(load_digits().images, dtype=torch.float32)[:, None] / 8 - 1
    images = images[torch.randperm(len(images), generator=torch.Generator().manual_seed(0))]
    if size != images.shape[-1]:
        images = interpolate(images, size=size, mode="bilinear", align_corners=False)
    packed = pixel_unshuffle(images, 2)
    return packed[:N_TRAINED], packed[N_TRAINED:]


def new_unet(size: int) -> UNet2DModel:
    """The network for packed images (M, 4, size, size) with its first weights: 270,000 numbers."""
    widths = (16, 32, 32)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = UNet2DModel(
            sample_size=size,
            in_channels=4,
            out_channels=4,
            layers_per_block=1,
            block_out_channels=widths,
            norm_num_groups=8,
            down_block_types=("DownBlock2D",) * len(widths),
            up_block_types=("UpBlock2D",) * len(widths),
            add_attention=False,
        )
    return unet.to(memory_format=torch.channels_last)  # a fifth faster on a CPU


def trained_unet(
    images: Tensor, folder: Path, steps: int = STEPS, save_every: int = 250
) -> UNet2DModel:
    """The network after so many steps, with averaged weights.

    Args:
        images: Packed images to train on (M, 4, H, W).
        folder: Folder of the state, from which an interrupted run goes on.
        steps: Optimizer steps.
        save_every: Steps between two states.
    """
    unet = new_unet(images.shape[-1])
    average = {name: value.detach().clone() for name, value in unet.named_parameters()}
    optimizer = torch.optim.AdamW(unet.parameters(), lr=RATE)
    schedule = DDPMScheduler(**SCHEDULE)
    file, done = folder / f"unet-{images.shape[-1]}.pt", 0
    if file.exists():
        state: dict[str, Any] = torch.load(file, weights_only=True)
        done, average = state["step"], state["average"]
        if done > steps:
            raise SystemExit(f"{file} has {done} steps already, more than the {steps} asked for.")
        unet.load_state_dict(state["unet"])
        optimizer.load_state_dict(state["optimizer"])
    unet.train()
    for step in range(done, steps):
        generator = torch.Generator().manual_seed(step)
        clean = images[torch.randint(len(images), (BATCH,), generator=generator)]
        noise = torch.randn(clean.shape, generator=generator)
        # Stratified over the batch: one level in each of 32 equal parts of the schedule.
        parts = torch.arange(BATCH) + torch.rand(BATCH, generator=generator)
        t = (parts * len(schedule.alphas_cumprod) / BATCH).long()
        predicted = unet(schedule.add_noise(clean, noise, t), t).sample
        loss = (predicted - noise).square().mean()
        for group in optimizer.param_groups:
            warmup, fall = min(1, (step + 1) / 100), 0.5 * (1 + math.cos(math.pi * step / HORIZON))
            group["lr"] = RATE * warmup * (0.01 + 0.99 * fall)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        decay = min(DECAY, (2 + step) / (11 + step))
        with torch.no_grad():
            for name, value in unet.named_parameters():
                average[name].lerp_(value, 1 - decay)
        if (step + 1) % save_every == 0 or step + 1 == steps:
            print(f"step {step + 1} of {steps}: loss {float(loss.detach()):.4f}", flush=True)
            folder.mkdir(parents=True, exist_ok=True)
            with replacing(file) as temporary:
                state = {"step": step + 1, "unet": unet.state_dict(), "average": average}
                torch.save({**state, "optimizer": optimizer.state_dict()}, temporary)
    unet.load_state_dict(average)
    return unet.eval()
