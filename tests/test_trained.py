"""How far a network was trained goes with its weights, and nothing starts beyond it."""

import copy
import io

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, UNet1DModel
from diffusers.training_utils import EMAModel
from torch import nn

from gaga_adapter import GAGAScheduler, MoleculeDenoiser, MoleculePipeline
from gaga_adapter.errors import ArtefactError, TruncationError, UnsupportedModelError
from gaga_adapter.molecules.pipeline import edm_scheduler
from gaga_adapter.noise.timesteps import timestep_log_snr
from gaga_adapter.trained import KEY, unwatch_checkpoints, watch_checkpoints
from gaga_adapter.training import record_trained, trained_log_snr


def tiny(log_snr=None):
    return MoleculeDenoiser(
        width=16, pair_width=4, n_vectors=2, n_layers=1, n_heads=2, t_star_log_snr=log_snr
    )


# -- in the weights ------------------------------------------------------------------------------


def test_a_diffusers_model_keeps_it_in_its_configuration(tmp_path):
    model = UNet1DModel(block_out_channels=(8, 8, 16), sample_size=8)
    assert trained_log_snr(model) is None
    record_trained(model, 0.25)
    model.save_pretrained(tmp_path)
    assert trained_log_snr(UNet1DModel.from_pretrained(tmp_path)) == 0.25


def unet():
    torch.manual_seed(0)
    return UNet1DModel(block_out_channels=(8, 8, 16), sample_size=8)


def config_of(model, folder):
    """The record of a model that is saved and loaded."""
    model.save_pretrained(folder)
    return trained_log_snr(UNet1DModel.from_pretrained(folder))


@pytest.mark.parametrize("first", ["average", "record"])
def test_averages_of_a_diffusers_model_keep_it_in_whatever_order(first, tmp_path):
    model = unet()
    if first == "record":
        record_trained(model, 0.25)
    average = EMAModel(model.parameters(), model_cls=UNet1DModel, model_config=model.config)
    averaged = torch.optim.swa_utils.AveragedModel(model)
    copied, other = copy.deepcopy(model), unet()
    other.load_state_dict(model.state_dict())
    if first == "average":
        record_trained(model, 0.25)
    assert config_of(average, tmp_path / "ema") == 0.25
    again = EMAModel.from_pretrained(tmp_path / "ema", UNet1DModel)
    assert config_of(again, tmp_path / "again") == 0.25
    for each in (averaged, copied, other):
        assert trained_log_snr(torch.optim.swa_utils.AveragedModel(each)) == 0.25
        assert trained_log_snr(each.state_dict()) == 0.25
    assert config_of(copied, tmp_path / "copied") == 0.25
    assert config_of(other, tmp_path / "other") == 0.25


def test_an_average_whose_configuration_is_a_copy_is_told_itself(tmp_path):
    model = unet()
    average = EMAModel(model.parameters(), model_cls=UNet1DModel, model_config=dict(model.config))
    record_trained(average, 0.5)
    assert config_of(average, tmp_path) == 0.5
    assert trained_log_snr(model) is None


def test_the_state_dict_of_a_diffusers_model_brings_it():
    model = unet()
    record_trained(model, 0.25)
    other = unet()
    other.load_state_dict(model.state_dict())
    assert trained_log_snr(other) == other.config[KEY] == 0.25
    full = nn.Module.state_dict(unet())
    other.load_state_dict(dict(full))  # without metadata
    assert trained_log_snr(other) == 0.25
    other.load_state_dict(full)
    assert trained_log_snr(other) is None


def test_wrappers_are_recorded_inside():
    model = nn.Linear(2, 2)
    record_trained(nn.DataParallel(torch.compile(model, backend="eager")), 0.5)
    assert trained_log_snr(model) == 0.5
    record_trained(nn.DataParallel(model), None)
    assert trained_log_snr(model) is None


def test_a_module_keeps_it_in_the_metadata_of_its_state_dict():
    model = nn.Sequential(nn.Linear(2, 2))
    keys = list(model.state_dict())
    record_trained(model, -0.5)
    assert list(model.state_dict()) == keys
    file = io.BytesIO()
    torch.save(nn.ModuleDict({"module": model}).state_dict(), file)  # as DataParallel wraps it
    file.seek(0)
    state = torch.load(file, weights_only=True)
    assert trained_log_snr(state) == -0.5
    plain = nn.ModuleDict({"module": nn.Sequential(nn.Linear(2, 2))})
    plain.load_state_dict(state)  # who does not know of it does not see it
    other = nn.Sequential(nn.Linear(2, 2))
    watch_checkpoints(other)
    other.load_state_dict(model.state_dict())
    assert trained_log_snr(other) == -0.5
    other.load_state_dict(nn.Sequential(nn.Linear(2, 2)).state_dict())
    assert trained_log_snr(other) is None


def test_averaged_weights_are_trained_with_their_original():
    model = nn.Linear(2, 2)
    watch_checkpoints(model)
    average = copy.deepcopy(model)
    record_trained(model, 1.0)
    assert trained_log_snr(average) == 1.0
    assert trained_log_snr(average.state_dict()) == 1.0


def test_watching_leaves_nothing_behind_unless_there_is_something_to_say():
    model = nn.Linear(2, 2)
    before = dict(model.__dict__)
    watch_checkpoints(model)
    watch_checkpoints(model)
    unwatch_checkpoints(model)
    assert model.__dict__ == before
    assert not model._state_dict_hooks
    record_trained(model, 0.0)
    unwatch_checkpoints(model)
    assert trained_log_snr(model.state_dict()) == 0.0


def test_no_log_snr_is_refused():
    with pytest.raises(TruncationError, match="log_snr=nan is no finite number"):
        record_trained(nn.Linear(1, 1), float("nan"))


@pytest.mark.parametrize("record", [float("nan"), "0.5", True, 1e9, [0.5]])
def test_a_record_that_is_none_is_refused(record):
    state = nn.Linear(1, 1).state_dict()
    state._metadata[""]["t_star_log_snr"] = record
    with pytest.raises(ArtefactError, match="does not say how far it was trained: t_star_log_snr="):
        trained_log_snr(state)
    model = UNet1DModel(block_out_channels=(8, 8, 16), sample_size=8)
    model.register_to_config(t_star_log_snr=record)
    with pytest.raises(ArtefactError, match="does not say how far it was trained"):
        trained_log_snr(model)


def test_a_limit_of_the_training_that_is_none_is_refused(qm9):
    scheduler = GAGAScheduler.from_pretrained(DDPMScheduler(), stats=qm9)
    with pytest.raises(TruncationError, match="trained_log_snr=nan is no finite number"):
        scheduler.keep_within(float("nan"))


# -- in the scheduler ----------------------------------------------------------------------------


def test_a_scheduler_that_trained_starts_no_run_beyond(qm9, tmp_path):
    scheduler = GAGAScheduler.from_pretrained(DDPMScheduler(), stats=qm9)
    assert scheduler.trained_log_snr is None
    scheduler.set_timesteps(20)
    free = int(scheduler.timesteps[-6])
    assert free > 249  # the last entry at or beyond t* = 249 of this table
    last = int(scheduler.training_timesteps()[-1])
    scheduler.sample_timesteps(4)
    assert scheduler.trained_log_snr == timestep_log_snr(scheduler, last)
    scheduler.save_pretrained(tmp_path)
    for kept in (scheduler, copy.deepcopy(scheduler), GAGAScheduler.from_pretrained(tmp_path)):
        kept.set_timesteps(20)
        starts = [t for t in kept.timesteps.tolist() if t <= last]
        assert len(kept.timesteps) - len(starts) <= 1  # an extra timestep takes the noise over
        kept.set_timesteps(20, device="cpu")
        assert kept.timesteps[0] == starts[0] == 200
    with pytest.raises(TruncationError, match="knows nothing noisier"):
        GAGAScheduler.from_pretrained(tmp_path, t_star=800)
    closer = GAGAScheduler.from_pretrained(tmp_path, t_star=100)
    closer.set_timesteps(20, device="cpu")
    assert closer.timesteps[0] == 100


@pytest.mark.filterwarnings("ignore:.* steps are left from t")  # on purpose
@pytest.mark.parametrize("base", [DDPMScheduler, DPMSolverMultistepScheduler, DDIMScheduler])
@pytest.mark.parametrize("spacing", ["suffix", "respace"])
@pytest.mark.parametrize("n_steps", [7, 20, 50])
def test_every_grid_stays_within_the_training(base, spacing, n_steps, qm9):
    scheduler = GAGAScheduler.from_pretrained(
        base(timestep_spacing="leading"), stats=qm9, spacing=spacing
    )
    last = int(scheduler.training_timesteps()[-1])
    scheduler.keep_within(timestep_log_snr(scheduler, last))
    scheduler.set_timesteps(n_steps, device="cpu")
    grid = scheduler.timesteps.tolist()
    assert grid[0] <= last
    if spacing == "respace":  # and not much closer to the data: within one of its steps
        assert grid[0] + (grid[-2] - grid[-1]) * 2 >= last - 1


# -- in the pipelines ----------------------------------------------------------------------------


def test_a_truncated_denoiser_refuses_the_whole_path_and_runs_from_t_star(qm9):
    pipe = MoleculePipeline(tiny(qm9.log_snr_star), edm_scheduler())
    pipe.set_progress_bar_config(disable=True)
    arguments = {"n_atoms": [5, 5], "num_inference_steps": 10, "output_type": "tensor"}
    with pytest.raises(TruncationError, match="knows nothing noisier"):
        pipe(**arguments)
    plain = pipe.scheduler
    pipe.scheduler = GAGAScheduler.from_pretrained(plain, stats=qm9)
    seen = []
    forward = pipe.denoiser.forward
    pipe.denoiser.forward = lambda x, sigma, mask: (seen.append(sigma), forward(x, sigma, mask))[1]
    pipe(**arguments)
    assert max(seen) <= qm9.sigma_star * (1 + 1e-5)
    pipe.scheduler = GAGAScheduler.from_pretrained(plain, stats=qm9, t_star=900)
    with pytest.raises(TruncationError, match="t_star of its training"):
        pipe(**arguments)


def test_attaching_reads_it_from_the_network(qm9):
    pipe = MoleculePipeline(tiny(qm9.log_snr_star), edm_scheduler())
    scheduler = GAGAScheduler.from_pretrained(edm_scheduler(), stats=qm9)
    scheduler.attach(pipe)
    assert scheduler.trained_log_snr == qm9.log_snr_star
    scheduler.detach()
    beyond = GAGAScheduler.from_pretrained(edm_scheduler(), stats=qm9, t_star=900)
    with pytest.raises(TruncationError):
        beyond.attach(pipe)
    assert pipe.scheduler is not beyond
    assert not pipe.denoiser._forward_pre_hooks


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch.jit
@pytest.mark.filterwarnings("ignore:Lazy modules are")  # torch before 2.4
def test_other_peoples_modules_do_not_disturb_a_record():
    """Sharded, lazy and meta modules of the same class live beside; configurations are anything."""

    class Odd(nn.Linear):
        @property
        def config(self):
            raise RuntimeError("not now")

    class Other(nn.Linear):
        config = type("Config", (), {"get": lambda self: 1})()

    beside = [nn.Linear(3, 3, device="meta"), nn.LazyLinear(3)]
    model = nn.Linear(3, 3)
    twin = copy.deepcopy(model)
    record_trained(model, -1.0)
    assert trained_log_snr(model) == trained_log_snr(twin.state_dict()) == -1.0
    assert trained_log_snr(beside[0]) is None
    for kind in (Odd, Other):
        odd = kind(3, 3)
        odd.load_state_dict(model.state_dict())
        assert torch.equal(odd.weight, model.weight)
    with pytest.raises(UnsupportedModelError, match=r"Record it before torch\.jit\.script"):
        record_trained(torch.jit.script(nn.Linear(3, 3)), -1.0)
