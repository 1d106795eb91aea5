"""The README says what is true: its code runs, its tables are the measured ones."""

import re
import subprocess
import sys
from dataclasses import replace

import torch
from fakes.cases import CASES, make_edm
from folders import ROOT

from gaga_adapter import GAGAScheduler, GAGAStats
from gaga_adapter.layout import DenseLayout
from gaga_adapter.molecules.pipeline import MoleculePipeline
from gaga_adapter.noise.paths import FlowPath
from gaga_adapter.training import trained_log_snr

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_the_first_screen_is_the_users_own_lines():
    pipe = MoleculePipeline.load()
    pipe.set_progress_bar_config(disable=True)
    assert "pipe(64, num_inference_steps=12)" in BLOCKS[0]
    names = {"pipe": pipe}
    exec(BLOCKS[0].replace("pipe(64, num_inference_steps=12)", "pipe(4, 3)"), names)
    assert len(names["molecules"]) == 4
    assert type(pipe.scheduler).__name__ == "GAGAFewStepScheduler"
    assert int(pipe.scheduler.timesteps[0]) == 300


def test_a_batch_of_one_size_starts_at_its_own_step():
    pipe, stats = MoleculePipeline.load(), GAGAStats.from_pretrained("qm9")
    by_size = {18: stats.log_snr_star, 19: stats.log_snr_star - 1.0}
    chosen = replace(stats.selection, by_size=by_size)
    names = {"pipe": pipe, "GAGAScheduler": GAGAScheduler}
    names["stats"] = replace(stats, selection=chosen)
    exec(BLOCKS[1], names)
    pipe.scheduler.set_timesteps(1001)
    later = int(pipe.scheduler.timesteps[0])
    pipe.scheduler = GAGAScheduler.from_pretrained(pipe.scheduler, stats=names["stats"].at_size(18))
    pipe.scheduler.set_timesteps(1001)
    assert later > int(pipe.scheduler.timesteps[0]) + 50


def test_the_dense_example(tmp_path, monkeypatch):
    """On smaller latents, whose layout is read off the first batch."""
    import diffusers

    monkeypatch.chdir(tmp_path)
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1200, 4, 2, 2, generator=generator)
    names = {
        "batches_of_latents": latents.split(400),
        "pipe": type("Pipe", (), {"scheduler": diffusers.DDIMScheduler()})(),
    }
    exec(BLOCKS[2], names)
    assert names["stats"].layout == DenseLayout((4, 2, 2))
    assert type(names["pipe"].scheduler).__name__ == "GAGADDIMScheduler"


def test_a_model_of_the_edm_lineage():
    """On the stand-in for EDM's class, with fewer molecules to judge."""
    model = make_edm(1000)
    loader = [CASES["edm"].batch(model, (5, 9, 7, 6, 8) * 25, seed) for seed in range(8)]
    example = BLOCKS[3].replace("(model, train_loader)", "(model, train_loader, **quick)")
    example = example.replace("n_atoms=19", "n_atoms=9")  # a size that these data have
    assert "**quick" in example
    quick = {
        "elements": ("H", "C", "N", "O", "F"),
        "criterion": "cumulant",
        "reference": "size",
        "tolerance": 3.0,
        "log_snr": (0.0, -3.0, -6.0),
    }
    names = {
        "model": model,
        "train_loader": loader,
        "quick": quick,
        "GAGAScheduler": GAGAScheduler,
    }
    upstream = type(model)
    exec(example, names)
    assert type(model) is upstream
    assert names["positions"].shape == (16, 9, 3)
    assert len(names["pipe"].scheduler.timesteps) < 21


def test_a_training_step_stays_below_t_star():
    import diffusers

    stats = GAGAStats.from_pretrained("qm9")
    clean = torch.randn(64, 9, 7)
    names = {
        "noise_scheduler": diffusers.DDPMScheduler(),
        "stats": stats,
        "batch_size": 64,
        "generator": torch.Generator().manual_seed(0),
        "clean": clean,
        "noise": torch.randn_like(clean),
        "unet": diffusers.UNet1DModel(
            sample_size=8,
            block_out_channels=(8,),
            norm_num_groups=1,
            down_block_types=("DownBlock1DNoSkip",),
            up_block_types=("UpBlock1DNoSkip",),
        ),
    }
    exec(BLOCKS[4], names)
    t_star = stats.t_star(names["noise_scheduler"])
    assert 0.9 * t_star < int(names["timesteps"].max()) <= t_star < 999
    assert names["noisy"].shape == clean.shape
    assert trained_log_snr(names["unet"]) == names["scheduler"].trained_log_snr
    assert float(names["sigma"].max()) <= stats.sigma_star
    assert float(names["t"].max()) <= stats.t_star(FlowPath())


def test_the_tables_are_made_from_the_results():
    script = ROOT / "benchmarks" / "readme.py"
    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr or "run benchmarks/readme.py"


def test_commands_and_targets_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make (\w+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)
    from gaga_adapter.cli import app

    commands = {command.name for command in app.registered_commands}
    assert set(re.findall(r"^gaga (\w+)", README, re.MULTILINE)) <= commands


def test_linked_files_exist():
    for page in (ROOT / "README.md", ROOT / "benchmarks" / "CRITERIA.md"):
        text = page.read_text(encoding="utf-8")
        for target in re.findall(r"\]\(((?!http)[^)#]+)\)", text):
            assert (page.parent / target).exists(), target
