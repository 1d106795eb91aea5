"""The README says what is true: its code runs, its tables are the measured ones."""

import re
import subprocess
import sys

import torch
from folders import ROOT

from gaga_adapter import GAGAScheduler, fit

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_the_first_screen_runs_as_it_is():
    assert "pipe(64, num_inference_steps=12)" in BLOCKS[0]
    names = {}
    exec(BLOCKS[0].replace("pipe(64, num_inference_steps=12)", "pipe(4, 3)"), names)
    assert len(names["molecules"]) == 4
    assert type(names["pipe"].scheduler).__name__ == "GAGAFewStepScheduler"
    assert int(names["pipe"].scheduler.timesteps[0]) == 300


def test_one_line_is_enough_for_a_pipeline_of_ones_own(tmp_path, monkeypatch):
    """With statistics that `fit` wrote, on small latents."""
    import diffusers

    monkeypatch.chdir(tmp_path)
    latents = torch.randn(1200, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    fit([latents], criterion="cumulant").save_pretrained("my-stats")
    pipe = type("Pipe", (), {"scheduler": diffusers.DDIMScheduler()})()
    exec(BLOCKS[1], {"pipe": pipe, "GAGAScheduler": GAGAScheduler})
    assert type(pipe.scheduler).__name__ == "GAGADDIMScheduler"
    assert len(BLOCKS) == 2  # what is added here is tested here


def test_it_is_a_screen_and_a_half():
    assert len(README.splitlines()) <= 100
    rows = [line for line in README.splitlines() if line.startswith("|")]
    assert len(rows) <= 8  # one table of six rows


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
