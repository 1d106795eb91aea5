"""The right brightness in ten calls, under a noise schedule that never ends in pure noise.

At the last step of Stable Diffusion's schedule some signal is left. Digits are mostly black, so
their last step is a little darker than N(0, I), and a sampler that starts from N(0, I) makes them
too bright. The first run trains a tiny UNet for some minutes, and keeps it in `digits-unet`.
"""

import sys
from pathlib import Path

import torch
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler, UNet2DModel
from sklearn.datasets import load_digits
from torch.nn.functional import interpolate, pixel_unshuffle

from gaga_adapter import GAGAScheduler, fit

STEPS = int(sys.argv[1]) if len(sys.argv) > 1 else 3000  # of the training
FOLDER = Path("digits-unet")
schedule = DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
small = torch.tensor(load_digits().images, dtype=torch.float32)[:, None] / 8 - 1
images = pixel_unshuffle(interpolate(small, size=32, mode="bilinear"), 2)  # (M, 4, 16, 16)

if FOLDER.exists():
    unet = UNet2DModel.from_pretrained(FOLDER)
else:
    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownBlock2D",) * 3, "up_block_types": ("UpBlock2D",) * 3}
    small_unet = {"block_out_channels": (16, 32, 32), "norm_num_groups": 8, "layers_per_block": 1}
    unet = UNet2DModel(16, 4, 4, **blocks, **small_unet, add_attention=False)
    optimizer = torch.optim.AdamW(unet.parameters(), lr=2e-3)
    fall = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for _ in range(STEPS):
        clean = images[torch.randint(len(images), (32,))]
        noise, t = torch.randn_like(clean), torch.randint(1000, (32,))
        loss = (unet(schedule.add_noise(clean, noise, t), t).sample - noise).square().mean()
        optimizer.zero_grad(), loss.backward(), optimizer.step(), fall.step()
    unet.save_pretrained(FOLDER)


@torch.no_grad()
def sample(scheduler, n_calls):
    scheduler.set_timesteps(n_calls)
    noise = torch.randn(100, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    x = noise * scheduler.init_noise_sigma  # here the start takes the place of the noise
    for t in scheduler.timesteps:
        x = scheduler.step(unet(x, t).sample, t, x).prev_sample
    return x


plain = DPMSolverMultistepScheduler.from_config(schedule.config, timestep_spacing="trailing")
stats = fit([images], criterion="cumulant", covariance="full")
fitted = GAGAScheduler.from_pretrained(plain, stats, spacing="respace", handover="init")
samples = {"digits": images}
for n in (10, 20):
    samples[f"{n} calls from N(0, I)"] = sample(plain, n)
    samples[f"{n} calls from t*"] = sample(fitted, n)
for name, x in samples.items():
    print(f"{name:>21}: brightness {x.mean():.3f}, contrast {x.flatten(1).std(1).mean():.3f}")
