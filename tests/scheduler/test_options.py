"""Truncated schedulers on disk: alone and in a pipeline, in the same process and in a new one."""

import json
import math
import pickle
import subprocess
import sys
import textwrap
import warnings

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler,
    UNet2DModel,
)

from gaga_adapter import GAGAScheduler, GAGAStats
from gaga_adapter.errors import ArtefactError, GAGAWarning, TruncationError, WriteError
from gaga_adapter.layout import DenseLayout
from gaga_adapter.moments import DenseMoments

pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")  # numpy 2 in diffusers

SHAPE = (3, 8, 8)
FILES = [
    "gaga_config.json",
    "gaga_scheduler.json",
    "gaga_stats.safetensors",
    "scheduler_config.json",
]
DEFAULTS = {
    "schema_version": 1,
    "t_star": None,
    "spacing": "suffix",
    "reference": "auto",
    "handover": "auto",
    "trained_log_snr": None,
}


@pytest.fixture(scope="module")
def stats():
    moments = DenseMoments(SHAPE, kind="channel")
    moments.update(0.3 + 0.2 * torch.randn(64, *SHAPE, generator=torch.Generator().manual_seed(0)))
    return GAGAStats(DenseLayout(SHAPE), moments, -1.0)


def run(scheduler):
    scheduler.set_timesteps(20, device="cpu")
    x = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(1))
    x = x * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        x = scheduler.step(0.1 * x, t, x).prev_sample
    return x


def saved_options(scheduler, folder):
    """What a scheduler writes about its truncation."""
    scheduler.save_pretrained(folder)
    return json.loads((folder / "gaga_scheduler.json").read_text())


def in_a_new_process(code, *arguments):
    """What a python process that has seen nothing of this one prints."""
    told = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
    )
    assert told.returncode == 0, told.stderr
    return told.stdout.strip().splitlines()


BASES = [
    lambda: DDIMScheduler(timestep_spacing="trailing"),
    lambda: DPMSolverMultistepScheduler(use_karras_sigmas=True),
    HeunDiscreteScheduler,
    lambda: FlowMatchEulerDiscreteScheduler(shift=3.0),
]


@pytest.mark.parametrize("make", BASES)
def test_round_trip(make, stats, tmp_path):
    options = {"spacing": "respace", "handover": "init", "reference": "paper", "t_star": 420.0}
    gaga = GAGAScheduler.from_pretrained(make(), stats=stats, **options)
    gaga.save_pretrained(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == FILES
    written = json.loads((tmp_path / "gaga_scheduler.json").read_text())
    assert {name: written[name] for name in options} == options
    for loader in (GAGAScheduler, type(gaga)):
        again = loader.from_pretrained(tmp_path)
        assert type(again) is type(gaga)
        assert saved_options(again, tmp_path / "again") == written
        assert again.log_snr_star == gaga.log_snr_star
        assert torch.equal(run(again), run(gaga))
    # options that are given win over those that were saved
    other = GAGAScheduler.from_pretrained(tmp_path, spacing="suffix")
    assert saved_options(other, tmp_path / "other") == {**written, "spacing": "suffix"}
    # and a plain scheduler can still be loaded from the folder
    plain = type(make()).from_pretrained(tmp_path)
    assert type(plain) is type(make())
    assert not hasattr(plain, "stats")


def test_a_plain_folder_and_its_subfolder(stats, tmp_path):
    DDIMScheduler(beta_schedule="scaled_linear").save_pretrained(tmp_path / "scheduler")
    stats.save_pretrained(tmp_path / "stats")
    gaga = GAGAScheduler.from_pretrained(
        str(tmp_path), subfolder="scheduler", stats=tmp_path / "stats"
    )
    assert isinstance(gaga, DDIMScheduler)
    assert gaga.config.beta_schedule == "scaled_linear"
    assert saved_options(gaga, tmp_path / "saved") == DEFAULTS
    with pytest.raises(ArtefactError, match="no fitted statistics for DDIMScheduler"):
        GAGAScheduler.from_pretrained(tmp_path / "scheduler")
    with pytest.raises(
        ArtefactError, match=r"no scheduler_config\.json in .*subfolder='scheduler'"
    ):
        GAGAScheduler.from_pretrained(tmp_path, stats=stats)


def test_a_repository_as_the_hub_cache_keeps_it(stats, tmp_path):
    repository = tmp_path / "models--someone--model"
    gaga = GAGAScheduler.from_pretrained(DDIMScheduler(), stats=stats)
    gaga.save_pretrained(repository / "snapshots" / "0123" / "scheduler")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123")
    again = GAGAScheduler.from_pretrained(
        "someone/model", subfolder="scheduler", cache_dir=tmp_path, local_files_only=True
    )
    assert torch.equal(run(again), run(gaga))
    with pytest.raises(ArtefactError, match="neither a folder here nor readable on the hub"):
        GAGAScheduler.from_pretrained("someone/nothing", cache_dir=tmp_path, local_files_only=True)


@pytest.mark.parametrize("name", ["my-scheduler/", "./mine/", "a/b/c", "my scheduler"])
def test_a_folder_that_is_not_there_is_no_hub_id(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArtefactError) as caught:
        GAGAScheduler.from_pretrained(name, stats="qm9")
    assert str(caught.value).startswith(
        f"{name} is neither a folder here nor readable on the hub: it is no hub id, which has the "
        "form user/name. Pass a scheduler, a folder"
    )


def test_the_configuration_is_the_bases(stats, tmp_path):
    base = DPMSolverMultistepScheduler(use_karras_sigmas=True)
    GAGAScheduler.from_pretrained(base, stats=stats).save_pretrained(tmp_path / "gaga")
    base.save_pretrained(tmp_path / "base")
    saved, expected = (
        json.loads((tmp_path / name / "scheduler_config.json").read_text())
        for name in ("gaga", "base")
    )
    assert saved.pop("_class_name") == "GAGADPMSolverMultistepScheduler"
    assert expected.pop("_class_name") == "DPMSolverMultistepScheduler"
    assert saved == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "gaga_scheduler.json is corrupt"),
        ('{"schema_version": 99}', "schema_version=99, this version of gaga-adapter reads up to 1"),
        ('{"schema_version": 1, "colour": "red"}', "is corrupt"),
        ("[]", "is corrupt"),
        (
            '{"schema_version": 1, "t_star": "400"}',
            "t_star .* is '400', and must be a finite",
        ),
        ('{"schema_version": 1, "t_star": NaN}', "is corrupt .*no valid JSON"),
        ('{"schema_version": 1, "t_star": true}', "t_star .* is True"),
        ('{"schema_version": 1, "trained_log_snr": 1e9}', "trained_log_snr .* from -60 to 60"),
        ('{"schema_version": 1, "spacing": "wide"}', "spacing='wide' is unknown"),
        (
            '{"schema_version": 1, "handover": null}',
            "handover .* is None, and must be a short",
        ),
        ('{"schema_version": true}', "schema_version .* is True"),
    ],
)
def test_damaged_options(stats, tmp_path, content, message):
    GAGAScheduler.from_pretrained(DDIMScheduler(), stats=stats).save_pretrained(tmp_path)
    (tmp_path / "gaga_scheduler.json").write_text(content)
    with pytest.raises(ArtefactError, match=message):
        GAGAScheduler.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"_class_name": "GAGANothingScheduler"}',
        '{"_class_name": "KarrasDiffusionSchedulers"}',
        '{"_class_name": "DDIMScheduler", "num_train_timesteps": 1000000000000}',
        '{"_class_name": "DDIMScheduler", "num_train_timesteps": "many"}',
        '{"_class_name": "DDIMScheduler", "beta_start": "low"}',
        '{"_class_name": "DDIMScheduler", "beta_schedule": "unknown"}',
    ],
)
def test_damaged_configuration(stats, tmp_path, content):
    GAGAScheduler.from_pretrained(DDIMScheduler(), stats=stats).save_pretrained(tmp_path)
    (tmp_path / "scheduler_config.json").write_text(content)
    with pytest.raises(ArtefactError, match=r"no configuration|does not have"):
        GAGAScheduler.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "number", [400, 400.0, np.float32(400), np.int64(400), torch.tensor([400])]
)
def test_t_star_of_the_timesteps_is_saved_as_a_number(stats, tmp_path, number):
    gaga = GAGAScheduler.from_pretrained(DDIMScheduler(), stats=stats, t_star=number)
    assert saved_options(gaga, tmp_path)["t_star"] == 400
    base = DDIMScheduler()
    base.set_timesteps(20)
    gaga = GAGAScheduler.from_pretrained(base, stats=stats, t_star=base.timesteps[7])
    assert GAGAScheduler.from_pretrained(tmp_path).t_star == 400
    assert gaga.t_star == int(base.timesteps[7])


@pytest.mark.parametrize("number", [True, "400", math.nan, torch.tensor([1, 2]), 1j, 10**400])
def test_t_star_that_is_no_number_is_refused_by_name(stats, number):
    with pytest.raises(TruncationError, match=r"t_star=.* is no finite number\. Pass an entry of"):
        GAGAScheduler.from_pretrained(DDIMScheduler(), stats=stats, t_star=number)


@pytest.mark.parametrize("base", [DDIMScheduler, FlowMatchEulerDiscreteScheduler])
def test_a_level_where_the_data_are_nearly_clean_is_warned_of(stats, base):
    with pytest.warns(GAGAWarning, match=r"their curve begins at 2\.5"):
        GAGAScheduler.from_pretrained(base(), stats="qm9", t_star=3)
    GAGAScheduler.from_pretrained(base(), stats=stats, t_star=400)


def test_a_share_of_a_continuous_path_is_warned_of(stats):
    """A flow has a level at every number, so this may be meant."""
    with pytest.warns(GAGAWarning, match=r"t_star=0\.4 .*nearly clean.* It counts timesteps"):
        GAGAScheduler.from_pretrained(FlowMatchEulerDiscreteScheduler(), stats=stats, t_star=0.4)


@pytest.mark.parametrize(
    ("base", "share", "meant"),
    [
        (DDIMScheduler(), 0.3, "0.3 of 1000 is 300."),
        (EulerDiscreteScheduler(), 0.55, "0.55 of 1000 is 550."),
        (DDPMScheduler(num_train_timesteps=50), 0.1, "0.1 of 50 is 5."),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_share_is_refused_where_timesteps_are_integers(stats, base, share, meant):
    with pytest.raises(TruncationError) as caught:
        GAGAScheduler.from_pretrained(base, stats=stats, t_star=share)
    text = str(caught.value)
    assert text.startswith(
        f"t_star={share:g} lies between two timesteps of {type(base).__name__}, where the data are "
        "nearly clean. It counts timesteps, the integers 0 to "
    )
    assert text.endswith(f"and is no share of the path: {meant}")
    for whole in (0, 1):  # the two that are next to it are timesteps
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", GAGAWarning)
            assert GAGAScheduler.from_pretrained(base, stats=stats, t_star=whole).t_star == whole


def test_a_share_is_a_timestep_where_timesteps_are_shares(stats):
    """Of Karras' schedulers: a quarter of the logarithm of sigma."""
    assert GAGAScheduler.from_pretrained(EDMEulerScheduler(), stats=stats, t_star=0.4).t_star == 0.4


def test_a_full_disk_leaves_the_old_scheduler(stats, tmp_path, monkeypatch):
    import os

    old = GAGAScheduler.from_pretrained(DDIMScheduler(), stats=stats)
    old.save_pretrained(tmp_path)
    new = GAGAScheduler.from_pretrained(DDIMScheduler(), stats=stats, spacing="respace")
    real = os.replace

    def full(source, target):
        if str(target).endswith("gaga_scheduler.json"):
            raise OSError(28, "No space left on device")
        real(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(WriteError, match="No space left on device"):
        new.save_pretrained(tmp_path)
    monkeypatch.undo()
    assert sorted(file.name for file in tmp_path.iterdir()) == FILES
    again = GAGAScheduler.from_pretrained(tmp_path)
    assert saved_options(again, tmp_path / "again") == DEFAULTS


def test_push_to_hub_uploads_everything(stats, tmp_path, monkeypatch):
    gaga = GAGAScheduler.from_pretrained(DDIMScheduler(), stats=stats)
    seen = {}

    def upload(self, folder, repo_id, **kwargs):
        from pathlib import Path

        seen[repo_id] = sorted(file.name for file in Path(folder).iterdir())

    monkeypatch.setattr(type(gaga), "_upload_folder", upload, raising=False)
    import diffusers.configuration_utils as configuration_utils

    monkeypatch.setattr(
        configuration_utils,
        "create_repo",
        lambda repo_id, **kwargs: type("Url", (), {"repo_id": repo_id}),
    )
    gaga.save_pretrained(str(tmp_path), push_to_hub=True, repo_id="me/scheduler")
    assert seen == {"me/scheduler": FILES}


# -- in a new process ------------------------------------------------------------------------------

LOAD = """
    import sys, torch
    from gaga_adapter import GAGAScheduler
    s = GAGAScheduler.from_pretrained(sys.argv[1])
    s.set_timesteps(20, device="cpu")
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * s.init_noise_sigma
    for t in s.timesteps:
        x = s.step(0.1 * x, t, x).prev_sample
    torch.save(x, sys.argv[2])
    print(type(s).__name__)
"""


def test_load_in_a_new_process(stats, tmp_path):
    gaga = GAGAScheduler.from_pretrained(DDIMScheduler(), stats=stats, spacing="respace")
    gaga.save_pretrained(tmp_path)
    assert in_a_new_process(LOAD, tmp_path, tmp_path / "x.pt") == ["GAGADDIMScheduler"]
    assert torch.equal(torch.load(tmp_path / "x.pt", weights_only=True), run(gaga))


def test_unpickle_in_a_new_process(stats, tmp_path):
    """In the middle of a run, and without anything imported first."""
    gaga = GAGAScheduler.from_pretrained(HeunDiscreteScheduler(), stats=stats, handover="init")
    gaga.set_timesteps(20, device="cpu")
    (tmp_path / "scheduler.pkl").write_bytes(pickle.dumps(gaga))
    code = """
        import pickle, sys
        with open(sys.argv[1], "rb") as file:
            s = pickle.load(file)
        print(type(s).__name__, len(s.timesteps))
    """
    told = in_a_new_process(code, tmp_path / "scheduler.pkl")
    assert told == [f"GAGAHeunDiscreteScheduler {len(gaga.timesteps)}"]


def pipeline(scheduler):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = UNet2DModel(
            sample_size=8,
            layers_per_block=1,
            block_out_channels=(8,),
            norm_num_groups=4,
            down_block_types=("DownBlock2D",),
            up_block_types=("UpBlock2D",),
        )
    pipe = DDPMPipeline(unet, scheduler)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def image(pipe):
    generator = torch.Generator().manual_seed(2)
    return torch.as_tensor(
        pipe(num_inference_steps=20, generator=generator, output_type="np").images
    )


def test_inside_of_a_pipeline(stats, tmp_path):
    gaga = GAGAScheduler.from_pretrained(DDPMScheduler(), stats=stats)
    pipe = pipeline(gaga)
    expected = image(pipe)
    pipe.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["scheduler"] == ["gaga_adapter.scheduler", "GAGADDPMScheduler"]
    again = DDPMPipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    assert type(again.scheduler) is type(gaga)
    torch.testing.assert_close(image(again), expected)
    given = DDPMPipeline.from_pretrained(tmp_path, scheduler=gaga)
    assert given.scheduler is gaga
    code = """
        import sys, torch
        import gaga_adapter.scheduler  # diffusers imports no module that a pipeline names
        from diffusers import DDPMPipeline
        pipe = DDPMPipeline.from_pretrained(sys.argv[1])
        pipe.set_progress_bar_config(disable=True)
        generator = torch.Generator().manual_seed(2)
        images = pipe(num_inference_steps=20, generator=generator, output_type="np").images
        torch.save(torch.as_tensor(images), sys.argv[2])
        print(type(pipe.scheduler).__name__, pipe.scheduler.log_snr_star)
    """
    told = in_a_new_process(code, tmp_path, tmp_path / "image.pt")
    assert told == ["GAGADDPMScheduler -1.0"]
    torch.testing.assert_close(torch.load(tmp_path / "image.pt", weights_only=True), expected)


def test_only_files_of_known_names_are_downloaded(monkeypatch, tmp_path):
    """A pattern with a star would match names that hold a path."""
    asked = []

    def download(name, patterns, *others):
        asked.extend(patterns)
        return tmp_path

    monkeypatch.setattr("gaga_adapter.scheduler.options.download", download)
    with pytest.raises(ArtefactError, match="no scheduler_config"):
        GAGAScheduler.from_pretrained("someone/model", subfolder="scheduler")
    assert sorted(asked) == sorted(f"scheduler/{name}" for name in [*FILES, "gaga_levels.json"])
