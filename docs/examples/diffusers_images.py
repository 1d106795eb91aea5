"""Images under a diffusers pipeline: fit, wrap the scheduler, sample from t*.

The images are scikit-learn's digits, 8x8. The UNet is trained for some seconds, so that what is
sampled is recognisably digits and no more. For a model of your own, only the lines marked 1 to 3
matter.
"""

import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from sklearn.datasets import load_digits

from gaga_adapter import GAGAScheduler, fit

STEPS = 50  # of the full trajectory

generator = torch.Generator().manual_seed(0)
torch.manual_seed(0)  # the UNet's first weights
images = torch.tensor(load_digits().images, dtype=torch.float32)[:, None] / 8 - 1  # in [-1, 1]

# A model to sample from; yours is trained already.
unet = UNet2DModel(
    sample_size=8,
    in_channels=1,
    out_channels=1,
    layers_per_block=1,
    block_out_channels=(16, 32),
    norm_num_groups=8,
    down_block_types=("DownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "UpBlock2D"),
)
pipe = DDPMPipeline(unet, DDPMScheduler())
pipe.set_progress_bar_config(disable=True)
optimiser = torch.optim.AdamW(unet.parameters(), lr=2e-3)
for _ in range(200):
    clean = images[torch.randint(len(images), (32,), generator=generator)]
    noise = torch.randn(clean.shape, generator=generator)
    t = torch.randint(1000, (32,), generator=generator)
    loss = (unet(pipe.scheduler.add_noise(clean, noise, t), t).sample - noise).square().mean()
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()

full = pipe(32, generator, STEPS, output_type="np").images

# 1. Fit once. `full` knows how pixels hang together, so the images are Gaussian early.
stats = fit([images], criterion="cumulant", covariance="full")
stats.save_pretrained("digits-stats")
# 2. Wrap the scheduler.
pipe.scheduler = GAGAScheduler.from_pretrained(pipe.scheduler, stats="digits-stats")
pipe.scheduler.attach(pipe)  # without this line the start costs one network call
# 3. Sample as before.
short = pipe(32, generator, STEPS, output_type="np").images

calls = len(pipe.scheduler.timesteps)
print(f"t* = {stats.t_star(DDPMScheduler()):.0f} of 1000: {calls} network calls instead of {STEPS}")
for name, sample in (("digits", images.numpy() / 2 + 0.5), ("full", full), ("from t*", short)):
    print(f"{name:>8}: mean {sample.mean():.3f}, contrast {sample.std():.3f}")
