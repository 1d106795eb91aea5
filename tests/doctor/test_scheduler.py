"""What the doctor says of schedulers: the cut counted by hand and by a loop, and every refusal."""

import json

import diffusers
import pytest
import torch
from folders import ARTEFACTS
from toys import dense_stats

from gaga_adapter import FewStepScheduler, GAGAScheduler
from gaga_adapter.doctor import scheduler as doctor
from gaga_adapter.doctor.scheduler import scheduler

pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")


def about(section):
    return dict(section.lines)


@pytest.fixture
def stats(tmp_path):
    """Statistics of images of noise; on `ddpm/linear`, log-SNR -1 is timestep 328."""
    folder = tmp_path / "stats"
    dense_stats(log_snr_star=-1.0).save_pretrained(folder)
    return str(folder)


def saved(one, folder):
    one.save_pretrained(folder)
    return str(folder)


def test_a_table_that_is_cut(stats, tmp_path):
    """Of 980, 960, ..., 0 those from the last at or beyond t* on are left."""
    base = diffusers.DDIMScheduler()
    abar = base.alphas_cumprod.double()
    t_star = int((abar / (1 - abar) > torch.tensor(-1.0).exp()).sum())
    found = scheduler(saved(base, tmp_path / "ddim"), stats, 50)
    assert found.problems == ()
    assert found.facts["row"] == found.facts["scheduler"] == "DDIMScheduler"
    assert found.facts["t_star"] == t_star
    grid = list(range(980, -1, -20))
    left = [t for t in grid if t < t_star + 20]
    assert found.facts["before"] == {"timesteps": grid, "network_calls": 50}
    assert found.facts["after"]["timesteps"] == left
    assert found.facts["after"]["network_calls"] == {
        "scaled": len(left),
        "bare": len(left) + 1,
        "attached": len(left),
    }
    assert about(found)["grid before"] == "980, 960, 940, ..., 40, 20, 0; 50 network calls"
    assert about(found)["network predicts"] == "epsilon"
    assert "by init_noise_sigma; " in about(found)["network calls"]


@pytest.mark.filterwarnings("ignore:.* steps are left from t")
@pytest.mark.parametrize(
    "base",
    [
        diffusers.EulerDiscreteScheduler(),
        diffusers.DPMSolverMultistepScheduler(use_karras_sigmas=True),
        diffusers.HeunDiscreteScheduler(),
        diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        diffusers.SCMScheduler(),
        FewStepScheduler.from_scheduler(diffusers.DDPMScheduler()),
    ],
    ids=lambda base: f"{type(base).__name__}",
)
def test_the_calls_are_those_of_a_loop(base, stats, tmp_path):
    """A loop that hands its noise over by init_noise_sigma, or takes it as it is."""
    wrapped = GAGAScheduler.from_pretrained(base, stats=stats)
    given = {"mu": 1.15} if base.config.get("use_dynamic_shifting") else {}
    given |= {"intermediate_timesteps": None} if "SCM" in type(base).__name__ else {}
    wrapped.set_timesteps(20, **given)
    sample, calls = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(0)), 0
    timesteps = wrapped.timesteps
    if "SCM" in type(base).__name__:
        timesteps = timesteps[:-1]
    for t in timesteps:
        calls += 1
        sample = wrapped.step(
            torch.zeros_like(wrapped.scale_model_input(sample, t)), t, sample
        ).prev_sample
    found = scheduler(saved(base, tmp_path / "base"), stats, 20)
    assert found.problems == ()
    assert found.facts["after"]["network_calls"]["bare"] == calls
    least = found.facts["after"]["network_calls"]["attached"]
    assert least <= calls <= least + 1
    assert any("mu = 1.15" in note for note in found.notes) == ("mu" in given)


def test_one_that_was_saved_with_statistics(stats, tmp_path):
    base = diffusers.DPMSolverMultistepScheduler()
    wrapped = GAGAScheduler.from_pretrained(
        base, stats=stats, spacing="respace", handover="step", t_star=600
    )
    found = scheduler(saved(wrapped, tmp_path / "saved"), None, 20)
    assert found.problems == ()
    facts = found.facts
    assert (facts["spacing"], facts["handover"], facts["t_star"]) == ("respace", "step", 600)
    assert facts["after"]["network_calls"] == {"scaled": 21, "bare": 21}
    assert about(found)["network calls"] == "21, with the handover step"
    assert facts["scheduler"] == "DPMSolverMultistepScheduler"


def test_without_statistics_the_grid_is_shown_and_nothing_is_cut(tmp_path):
    found = scheduler(saved(diffusers.DDPMScheduler(), tmp_path / "a"), None, 10)
    assert found.problems == ()
    assert found.notes[0].startswith("Pass --stats, too")
    assert found.facts["before"]["network_calls"] == 10
    assert "after" not in found.facts


def test_a_grid_of_which_nothing_is_cut(stats, tmp_path):
    """A schedule of little noise; the warning of the cut is a note, too."""
    base = diffusers.DDIMScheduler(num_train_timesteps=60)
    found = scheduler(saved(base, tmp_path / "a"), stats, 10)
    assert "never reached" in found.problems[0]
    base = diffusers.DDIMScheduler()
    found = scheduler(saved(base, tmp_path / "b"), stats, 2)  # 500 and 0
    assert found.problems == ()
    assert any(note.startswith("Nothing is cut of 2 steps") for note in found.notes)
    assert found.facts["t_star"] < 500  # so of 750, 500, 250 and 0 the second is as noisy as t*
    found = scheduler("DDIMScheduler", stats, 4)
    assert found.facts["after"]["network_calls"]["attached"] == 3
    assert not any("Nothing is cut" in note for note in found.notes)


def test_one_step_and_a_note_that_begins_with_t_star():
    found = scheduler("DDIMScheduler", str(ARTEFACTS / "dense_full"), 1)
    assert any(note.startswith("Nothing is cut of 1 step: at most") for note in found.notes)
    found = scheduler(str(ARTEFACTS / "few_step_pipeline"), None, 7)
    assert any(note.startswith("t* was chosen for the") for note in found.notes)


# -- how it is named -------------------------------------------------------------------------------


def test_a_pipeline_its_part_its_file_and_a_class_are_one_scheduler(stats, tmp_path):
    unet = diffusers.UNet2DModel(
        sample_size=4, block_out_channels=(8,), norm_num_groups=1, layers_per_block=1,
        down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",),
    )  # fmt: skip
    folder = tmp_path / "pipeline"
    diffusers.DDPMPipeline(unet, diffusers.DDPMScheduler()).save_pretrained(folder)
    part = folder / "scheduler"
    names = (folder, part, part / "scheduler_config.json", "DDPMScheduler")
    found = [scheduler(str(name), stats, 50) for name in names]
    assert {json.dumps(one.facts["after"]) for one in found} == {
        json.dumps(found[0].facts["after"])
    }
    assert found[0].facts["pipeline"] == "DDPMPipeline"
    assert about(found[3])["configuration"] == "the defaults of its class"


@pytest.mark.parametrize("within", [True, False])
def test_from_the_hub(stats, monkeypatch, tmp_path, within):
    """Of a pipeline's repository, and of one that holds a scheduler alone."""
    diffusers.DDIMScheduler().save_pretrained(tmp_path / "scheduler" if within else tmp_path)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(tmp_path))
    found = scheduler("me/my-pipeline", stats, 10)
    assert found.problems == ()
    assert found.facts["scheduler"] == "DDIMScheduler"


# -- what is refused -------------------------------------------------------------------------------


def test_refusals_say_why(stats, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    own = tmp_path / "own"
    own.mkdir()
    (own / "scheduler_config.json").write_text('{"_class_name": "UnheardOfScheduler"}')
    saved(diffusers.VQDiffusionScheduler(num_vec_classes=9), tmp_path / "tokens")
    saved(diffusers.DDIMInverseScheduler(), tmp_path / "inverse")
    (tmp_path / "list").mkdir()
    (tmp_path / "list" / "scheduler_config.json").write_text("[1]")
    for name, told in (
        ("tokens", "cannot use VQDiffusionScheduler: it samples discrete tokens"),
        ("VQDiffusionScheduler", "cannot use VQDiffusionScheduler: it samples discrete tokens"),
        ("inverse", "cannot use DDIMInverseScheduler: it runs from data to noise"),
        ("own", "its class UnheardOfScheduler is none of diffusers"),
        ("empty", "neither scheduler_config.json nor scheduler/scheduler_config.json is in empty"),
        ("nowhere", "there is no folder nowhere, and no scheduler class of diffusers"),
        ("a b/c", "there is no folder a b/c, and 'a b/c' is no hub id"),
        ("my-pipeline/", "there is no folder my-pipeline/, and 'my-pipeline/' is no hub id"),
        ("list", "scheduler_config.json is [1], and must be an object with entries. Save the"),
    ):
        found = scheduler(name, stats, 50)
        (problem,) = found.problems
        assert problem.startswith(f"Scheduler {name}: {told}")
        assert found.facts["works"] is False
        assert about(found)["named"] == name


def test_a_class_whose_library_is_missing_names_it(monkeypatch, tmp_path):
    """diffusers exports a placeholder for it, which is no scheduler."""
    from diffusers.utils import dummy_torch_and_torchsde_objects as placeholders

    one = "DPMSolverSDEScheduler"
    (tmp_path / "scheduler_config.json").write_text(json.dumps({"_class_name": one}))
    monkeypatch.setattr(diffusers.schedulers, one, getattr(placeholders, one), raising=False)
    monkeypatch.setattr(doctor, "plain_class", lambda name: None)
    for installed, told in (
        (lambda name: None if name == "torchsde" else "1", "Run: pip install torchsde"),
        (lambda name: "1", "pip install -U diffusers"),
    ):
        monkeypatch.setattr(doctor, "installed_version", installed)
        for name in (one, str(tmp_path)):
            (problem,) = scheduler(name, None, 50).problems
            assert problem.endswith(told)


def test_too_many_steps_and_statistics_that_are_none(stats, tmp_path):
    name = saved(diffusers.DDIMScheduler(), tmp_path / "ddim")
    (problem,) = scheduler(name, stats, 1001).problems
    assert "DDIMScheduler makes no grid of 1001 steps (ValueError: " in problem
    assert problem.endswith("Pass another number with --steps.")
    (problem,) = scheduler(name, str(tmp_path / "none"), 50).problems
    assert "no fitted statistics in" in problem
