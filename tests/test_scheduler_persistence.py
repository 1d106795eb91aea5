"""Copies, pickles, files and configurations of a truncated scheduler, here and in a new process."""

import copy
import inspect
import json
import pickle
import subprocess
import sys

import diffusers
import numpy as np
import pytest
import torch

from gaga_adapter import GAGAScheduler, GAGAStats
from gaga_adapter.errors import (
    ArtefactError,
    GAGAError,
    StatsMismatchError,
    TruncationError,
    UnsupportedSchedulerError,
)
from gaga_adapter.layout import DenseLayout
from gaga_adapter.moments import DenseMoments

SHAPE = (3, 8, 8)
BASES = [
    "DDPMScheduler",
    "DDIMScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "DPMSolverMultistepScheduler",
    "UniPCMultistepScheduler",
    "PNDMScheduler",
    "FlowMatchEulerDiscreteScheduler",
    "EDMEulerScheduler",
]


@pytest.fixture(scope="module")
def stats():
    moments = DenseMoments(SHAPE, kind="channel")
    generator = torch.Generator().manual_seed(0)
    moments.update(torch.randn(200, *SHAPE, generator=generator) * 0.5 + 0.2)
    return GAGAStats(DenseLayout(SHAPE), moments, log_snr_star=-1.0)


def truncated(name, stats, **arguments):
    return GAGAScheduler.from_pretrained(getattr(diffusers, name)(), stats=stats, **arguments)


def sampled(scheduler):
    """A short run with a network that returns a fixed share of its input."""
    generator = torch.Generator().manual_seed(1)
    scheduler.set_timesteps(8, device="cpu")
    sample = torch.randn(4, *SHAPE, generator=generator) * scheduler.init_noise_sigma
    for timestep in scheduler.timesteps:
        seen = sample
        if hasattr(scheduler, "scale_model_input"):
            seen = scheduler.scale_model_input(sample, timestep)
        takes = "generator" in inspect.signature(scheduler.step).parameters
        extra = {"generator": generator} if takes else {}
        sample = scheduler.step(0.3 * seen, timestep, sample, **extra).prev_sample
    return sample


@pytest.mark.parametrize("name", BASES)
def test_copies_pickles_and_files_sample_the_same(name, stats, tmp_path):
    scheduler = truncated(name, stats, spacing="respace", handover="step")
    expected = sampled(scheduler)
    assert torch.isfinite(expected).all()
    scheduler.save_pretrained(tmp_path / "alone")
    for again in (
        copy.deepcopy(scheduler),
        pickle.loads(pickle.dumps(scheduler)),
        GAGAScheduler.from_pretrained(tmp_path / "alone"),
        type(scheduler).from_pretrained(tmp_path / "alone"),
    ):
        assert type(again) is type(scheduler)
        assert isinstance(again, getattr(diffusers, name))
        assert torch.equal(sampled(again), expected)


@pytest.mark.parametrize("name", BASES)
def test_configuration_is_the_bases_own(name, stats):
    base = getattr(diffusers, name)
    scheduler = truncated(name, stats)
    plain = base.from_config(scheduler.config)
    assert type(plain) is base
    stock = {k: v for k, v in base().config.items() if not k.startswith("_")}
    assert {k: v for k, v in plain.config.items() if not k.startswith("_")} == stock


@pytest.mark.parametrize("name", BASES)
def test_signatures_are_the_bases_own(name, stats):
    base, scheduler = getattr(diffusers, name), truncated(name, stats)
    for method in ("step", "set_timesteps"):
        assert inspect.signature(getattr(type(scheduler), method)) == inspect.signature(
            getattr(base, method)
        )


def test_other_schedulers_take_the_configuration(stats):
    scheduler = truncated("DDPMScheduler", stats)
    other = diffusers.DPMSolverMultistepScheduler.from_config(scheduler.config)
    other.set_timesteps(10)
    assert len(other.timesteps) == 10


def tiny_pipeline(scheduler):
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(
        sample_size=8,
        in_channels=3,
        out_channels=3,
        block_out_channels=(32,),
        layers_per_block=1,
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
    )
    pipe = diffusers.DDPMPipeline(unet, scheduler)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def images(pipe):
    generator = torch.Generator().manual_seed(2)
    return pipe(2, generator=generator, num_inference_steps=6, output_type="np").images


def test_inside_a_pipeline_in_this_process_and_in_a_new_one(stats, tmp_path):
    pipe = tiny_pipeline(truncated("DDPMScheduler", stats))
    expected = images(pipe)
    pipe.save_pretrained(tmp_path / "pipe")
    again = diffusers.DDPMPipeline.from_pretrained(str(tmp_path / "pipe"))
    again.set_progress_bar_config(disable=True)
    assert type(again.scheduler).__name__ == "GAGADDPMScheduler"
    assert (images(again) == expected).all()

    code = f"""
import diffusers, gaga_adapter.scheduler, numpy, torch
pipe = diffusers.DDPMPipeline.from_pretrained({str(tmp_path / "pipe")!r})
pipe.set_progress_bar_config(disable=True)
generator = torch.Generator().manual_seed(2)
made = pipe(2, generator=generator, num_inference_steps=6, output_type="np").images
numpy.save({str(tmp_path / "made.npy")!r}, made)
print(type(pipe.scheduler).__name__)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "GAGADDPMScheduler"
    np.testing.assert_allclose(np.load(tmp_path / "made.npy"), expected, atol=1e-5)


def test_the_saved_folder_is_also_a_plain_scheduler(stats, tmp_path):
    truncated("DDIMScheduler", stats).save_pretrained(tmp_path)
    plain = diffusers.DDIMScheduler.from_pretrained(str(tmp_path))
    assert type(plain) is diffusers.DDIMScheduler


def test_a_subfolder_of_a_pipeline(stats, tmp_path):
    tiny_pipeline(diffusers.DDPMScheduler()).save_pretrained(tmp_path)
    scheduler = GAGAScheduler.from_pretrained(tmp_path, subfolder="scheduler", stats=stats)
    assert isinstance(scheduler, diffusers.DDPMScheduler)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"t_star": 1200}, TruncationError, r"t_star=1200 is outside .*DDPMScheduler"),
        ({"t_star": -3}, TruncationError, r"t_star=-3 is outside"),
        ({"spacing": "cut"}, GAGAError, r"cut.*suffix.*respace"),
        ({"handover": "magic"}, GAGAError, r"magic.*init"),
        ({"reference": "sahpe"}, StatsMismatchError, r"sahpe.*channel"),
        ({"reference": "full"}, StatsMismatchError, r"full"),
    ],
)
def test_wrong_arguments(stats, arguments, error, message):
    with pytest.raises(error, match=message):
        truncated("DDPMScheduler", stats, **arguments)


def test_stats_of_another_shape_fail_before_anything_is_sampled(stats):
    scheduler = truncated("DDPMScheduler", stats)
    scheduler.set_timesteps(8, device="cpu")
    with pytest.raises(StatsMismatchError, match="3"):
        torch.randn(2, 4, 8, 8) * scheduler.init_noise_sigma


def test_missing_pieces(stats, tmp_path):
    with pytest.raises(ArtefactError, match="no fitted statistics for DDPMScheduler"):
        GAGAScheduler.from_pretrained(diffusers.DDPMScheduler())
    with pytest.raises(ArtefactError, match="nowhere"):
        GAGAScheduler.from_pretrained(diffusers.DDPMScheduler(), stats=tmp_path / "nowhere")
    with pytest.raises(ArtefactError, match="nowhere"):
        GAGAScheduler.from_pretrained(tmp_path / "nowhere", stats=stats)
    with pytest.raises(UnsupportedSchedulerError, match="VQDiffusionScheduler"):
        GAGAScheduler.from_pretrained(diffusers.VQDiffusionScheduler(8), stats=stats)


def test_a_scheduler_artefact_of_a_newer_schema(stats, tmp_path):
    truncated("DDPMScheduler", stats).save_pretrained(tmp_path)
    file = tmp_path / "gaga_scheduler.json"
    options = json.loads(file.read_text())
    file.write_text(json.dumps(options | {"schema_version": 99}))
    with pytest.raises(ArtefactError, match=r"schema_version=99"):
        GAGAScheduler.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", BASES)
def test_add_noise_right_before_and_after_set_timesteps(name, stats):
    """The same noised data as a fresh base's table gives, whether or not there is a grid."""
    scheduler = truncated(name, stats)
    noising = "scale_noise" if not hasattr(scheduler, "add_noise") else "add_noise"
    data, noise = torch.full((1, *SHAPE), 2.0), torch.full((1, *SHAPE), 1.0)
    scheduler.set_timesteps(8, device="cpu")
    timestep = scheduler.timesteps[1:2]
    after = getattr(scheduler, noising)(*ordered(noising, data, noise, timestep))
    if noising == "scale_noise":
        share = timestep / 1000
        expected = (1 - share) * data + share * noise
    elif name == "EDMEulerScheduler":
        expected = data + torch.exp(4 * timestep) * noise
    else:
        abar = getattr(diffusers, name)().alphas_cumprod[timestep.long()]
        exploding = name.startswith(("Euler", "Heun"))
        a = 1.0 if exploding else abar.sqrt()
        expected = a * data + a * ((1 - abar) / abar).sqrt() * noise
    torch.testing.assert_close(after, expected, rtol=2e-3, atol=2e-3)
    if name != "EDMEulerScheduler":  # its timesteps are those of its own grid only
        before = getattr(truncated(name, stats), noising)(*ordered(noising, data, noise, timestep))
        torch.testing.assert_close(before, after, rtol=2e-3, atol=2e-3)


def ordered(noising, data, noise, timestep):
    return (data, timestep, noise) if noising == "scale_noise" else (data, noise, timestep)
