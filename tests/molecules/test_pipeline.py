"""The molecule pipeline under every scheduler: subspace, sizes, seeds, outputs, disk."""

import inspect
import json
import math
from dataclasses import replace
from types import SimpleNamespace

import diffusers
import numpy as np
import pytest
import torch
from rdkit import Chem
from systems import posix

from gaga_adapter import GAGAScheduler, GAGAStats
from gaga_adapter.cli import demo, report, sample
from gaga_adapter.distributed import Processes
from gaga_adapter.errors import (
    ArtefactError,
    DataError,
    GAGAWarning,
    StatsMismatchError,
    TruncationError,
    UnsupportedSchedulerError,
    WriteError,
)
from gaga_adapter.layout import AtomLayout, MoleculeLayout
from gaga_adapter.molecules.data import MoleculeSet
from gaga_adapter.molecules.denoiser import MoleculeDenoiser
from gaga_adapter.molecules.formats import read_molecules
from gaga_adapter.molecules.metrics.evaluate import evaluate
from gaga_adapter.molecules.pieces import sample_sdf
from gaga_adapter.molecules.pipeline import EMBEDDED, MoleculePipeline, edm_scheduler
from gaga_adapter.moments import ExchangeableMoments
from gaga_adapter.noise.paths import named_path
from gaga_adapter.sampling import DEFAULT_STEPS
from gaga_adapter.sampling.grid import wanted_grid
from gaga_adapter.sampling.loop import check_statistics, draw_sizes
from gaga_adapter.sampling.solvers import SCHEDULERS, scheduler_named
from gaga_adapter.stats import EMBEDDED as EMBEDDED_STATS

SIZES = [4, 9, 1, 6]


@pytest.fixture(scope="module")
def pipe():
    torch.manual_seed(0)
    denoiser = MoleculeDenoiser(width=16, pair_width=8, n_layers=1, n_vectors=2, n_heads=2)
    pipeline = MoleculePipeline(denoiser, edm_scheduler(), [0, 5, 0, 0, 0, 0, 0, 0, 5, 5])
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def run(pipe, seed=0, **arguments):
    generator = torch.Generator().manual_seed(seed)
    arguments = {"n_atoms": SIZES, "num_inference_steps": 8, "generator": generator} | arguments
    return pipe(**arguments)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_scheduler_stays_on_the_subspace(pipe, name):
    pipe.scheduler = scheduler_named(name, edm_scheduler())
    result = run(pipe, output_type="tensor")
    x = result.molecules
    assert torch.isfinite(x).all()
    assert result.mask.sum(1).tolist() == SIZES
    assert x[~result.mask].abs().max() == 0
    assert x[..., :3].sum(1).abs().max() < 1e-4
    assert result.network_calls == len(pipe.scheduler.timesteps)


@pytest.mark.parametrize(
    "scheduler",
    [
        diffusers.FlowMatchEulerDiscreteScheduler(),
        diffusers.DDIMScheduler(
            rescale_betas_zero_snr=True,
            timestep_spacing="trailing",
            prediction_type="v_prediction",
            clip_sample=False,
        ),
        diffusers.EDMEulerScheduler(),
    ],
    ids=lambda scheduler: type(scheduler).__name__,
)
def test_schedulers_that_begin_at_pure_noise(pipe, scheduler):
    pipe.scheduler = scheduler
    result = run(pipe, output_type="tensor")
    assert torch.isfinite(result.molecules).all()
    # the last prediction is a molecule: one-hot entries within those of the data, 0 to 1/4
    assert -0.05 < result.molecules[..., 3:].min()
    assert result.molecules[..., 3:].max() < 0.3


@pytest.mark.parametrize(
    "layout",
    [
        MoleculeLayout(charge_scale=10),
        MoleculeLayout(onehot_scale=1),
        MoleculeLayout(elements=("H", "C", "N", "O", "S")),
        AtomLayout(4),
    ],
)
def test_statistics_of_other_channels_than_the_model(pipe, layout):
    x = torch.randn(50, 4, layout.n_channels, generator=torch.Generator().manual_seed(0))
    moments = ExchangeableMoments(layout.n_features)
    moments.update(x)
    stats = GAGAStats(layout, moments, 0.0)
    pipe.scheduler = GAGAScheduler.from_pretrained(edm_scheduler(), stats=stats)
    with pytest.raises(StatsMismatchError, match=r"stats describe .*, the model has 3\+5 channels"):
        run(pipe, n_atoms=[4])


def test_more_steps_than_the_scheduler_has(pipe):
    pipe.scheduler = edm_scheduler()
    with pytest.raises(TruncationError, match="DDPMScheduler refuses 1002 steps: "):
        run(pipe, num_inference_steps=1002)


def test_same_seed_same_molecules_and_batching_keeps_the_order(pipe):
    pipe.scheduler = scheduler_named("dpm++", edm_scheduler())
    one = run(pipe, output_type="tensor").molecules
    assert torch.equal(one, run(pipe, output_type="tensor").molecules)
    assert not torch.equal(one, run(pipe, seed=1, output_type="tensor").molecules)
    split = run(pipe, batch_size=1, output_type="tensor").molecules
    torch.testing.assert_close(split, one, atol=1e-4, rtol=1e-4)


def test_sizes_follow_the_data(pipe):
    sizes = pipe.draw_sizes(3000, torch.Generator().manual_seed(0))
    counts = sizes.bincount(minlength=10).double()
    assert counts[[1, 8, 9]].sum() == 3000
    # chi-square with 2 degrees of freedom exceeds 27.6 once in a million
    assert float(((counts[[1, 8, 9]] - 1000) ** 2 / 1000).sum()) < 27.6


@pytest.mark.filterwarnings("ignore:.*lack hydrogens")  # what an untrained network makes
def test_output_types(pipe, tmp_path):
    pipe.scheduler = scheduler_named("ddim", edm_scheduler())
    molecules = run(pipe).molecules
    assert isinstance(molecules, MoleculeSet)
    assert molecules.n_atoms.tolist() == SIZES
    rdkit = run(pipe, output_type="rdkit").molecules
    assert [m.GetNumAtoms() for m in rdkit] == SIZES
    assert all(isinstance(m, Chem.Mol) and m.GetNumConformers() == 1 for m in rdkit)
    file = tmp_path / "m.sdf"
    file.write_text(run(pipe, output_type="sdf").molecules, encoding="utf-8")
    again = read_molecules(file)
    assert (again.atomic_numbers == molecules.atomic_numbers).all()
    assert abs(again.positions - molecules.positions).max() < 1e-3


def test_a_diverged_sample_does_not_take_the_others_with_it(pipe, monkeypatch):
    pipe.scheduler = edm_scheduler()
    whole = run(pipe).molecules
    forward = pipe.denoiser.forward

    def diverging(sample, sigma, mask):
        output = forward(sample, sigma, mask)
        output.sample[mask.sum(1) == max(SIZES)] = math.nan
        return output

    monkeypatch.setattr(pipe.denoiser, "forward", diverging)
    with pytest.warns(GAGAWarning, match=f"{SIZES.count(max(SIZES))} of {len(SIZES)} samples div"):
        molecules = run(pipe).molecules
    assert molecules.n_atoms.tolist() == SIZES
    for row, size in enumerate(SIZES):
        if size == max(SIZES):
            assert abs(molecules.positions[row]).max() == 0
        else:
            assert (molecules.positions[row] == whole.positions[row]).all()
    judged = evaluate(molecules.subset([SIZES.index(max(SIZES))]))
    assert judged.molecule_stability.value == 0
    assert not run(pipe, output_type="tensor").molecules.isfinite().all()


def test_save_and_load(pipe, tmp_path):
    pipe.scheduler = edm_scheduler()
    pipe.save_pretrained(tmp_path / "pipe")
    again = MoleculePipeline.load(tmp_path / "pipe")
    again.set_progress_bar_config(disable=True)
    assert again.config.size_counts == pipe.config.size_counts
    expected, found = pipe.denoiser.state_dict(), again.denoiser.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(weight, expected[name]) for name, weight in found.items())
    # float32 roundings of 8 steps: weights that were read lie elsewhere in memory, and a matrix
    # product may round by where its factors lie
    expected = run(pipe, output_type="tensor").molecules
    found = run(again, output_type="tensor").molecules
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"output_type": "smiles"}, "'smiles' is unknown. Known: molecules, tensor, rdkit, sdf"),
        ({"n_atoms": []}, "Ask for one molecule or more"),
        ({"n_atoms": [3, 0]}, "each with one atom or more"),
        ({"n_atoms": [3.0, 4.0]}, r"got sizes \[3.0, 4.0\]. .* in whole numbers"),
        ({"n_atoms": [True]}, "in whole numbers"),
        ({"n_atoms": "34"}, "got sizes 34"),
        ({"n_atoms": [[3]]}, r"got sizes \[\[3\]\]"),
        ({"n_atoms": 2.5}, "n_atoms=2.5 is no whole number. Pass one, 1 or more"),
        ({"n_atoms": 0}, "n_atoms=0 is out of range. Pass a whole number, 1 or more"),
        ({"n_molecules": 4, "n_atoms": [9]}, "n_molecules=4, and n_atoms has 1 sizes. Pass one"),
        ({"n_molecules": 0, "n_atoms": None}, "n_molecules=0 is out of range"),
        ({"n_molecules": -3, "n_atoms": None}, "n_molecules=-3 is out of range"),
        ({"n_molecules": True, "n_atoms": None}, "n_molecules=True is no whole number"),
        ({"n_molecules": 4.0, "n_atoms": None}, "n_molecules=4.0 is no whole number"),
        ({"batch_size": 0}, "batch_size=0 is out of range"),
        ({"batch_size": 2.5}, "batch_size=2.5 is no whole number"),
        ({"generator": 3}, "generator=3: noise is drawn on the CPU, from one generator"),
        ({"generator": []}, r"generator=\[\]: noise is drawn on the CPU"),
    ],
)
def test_bad_input(pipe, arguments, message):
    with pytest.raises(DataError, match=message):
        run(pipe, **arguments)


@pytest.mark.parametrize("steps", [0, -1, 2.5, True, "8"])
def test_numbers_of_steps_that_are_none(pipe, steps):
    pipe.scheduler = edm_scheduler()
    with pytest.raises(TruncationError, match=r"num_inference_steps=.* Pass .*1 or more"):
        run(pipe, num_inference_steps=steps)


def test_numbers_of_any_library_and_one_size_for_all(pipe):
    pipe.scheduler = scheduler_named("ddim", edm_scheduler())
    plain = run(pipe, n_atoms=[9, 9, 9], output_type="tensor").molecules
    for n_molecules, n_atoms in (
        (3, 9),
        (np.int32(3), np.uint8(9)),
        (torch.tensor(3), torch.tensor(9)),
        (None, np.array([9, 9, 9], np.int16)),
        (3, torch.tensor([9, 9, 9], dtype=torch.uint8)),
    ):
        steps, size = np.int64(8), torch.tensor(64)
        again = run(
            pipe, n_molecules=n_molecules, n_atoms=n_atoms, num_inference_steps=steps,
            batch_size=size, output_type="tensor",
        )  # fmt: skip
        assert torch.equal(again.molecules, plain)
    assert len(run(pipe, n_atoms=None, num_inference_steps=1).molecules) == 16
    assert len(run(pipe, n_molecules=2, n_atoms=None, num_inference_steps=1).molecules) == 2


def test_sizes_that_the_data_have_not_are_said(pipe):
    pipe.scheduler = scheduler_named("ddim", edm_scheduler())
    with pytest.warns(GAGAWarning, match="n_atoms is 12 to 12, and the data have molecules of 1"):
        run(pipe, n_molecules=1, n_atoms=12, num_inference_steps=1)
    run(pipe, n_molecules=1, n_atoms=11, num_inference_steps=1)


@pytest.mark.parametrize("counts", [[], [0, 0], [1, 1], [0, -1, 2], [0, math.nan]])
def test_counts_of_sizes_that_are_none(counts):
    with pytest.raises(DataError, match="are no counts of molecules: entry N counts those"):
        draw_sizes(counts, 3)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"n_molecules": 0}, "n_molecules=0 is out of range"),
        ({"num_inference_steps": 0}, "num_inference_steps=0 is out of range"),
        ({"batch_size": 0}, "batch_size=0 is out of range"),
        ({"seed": -1}, f"seed=-1 is out of range. Pass a whole number, 0 to {2**63 - 1}"),
        ({"seed": 2**63}, "is out of range"),
        ({"seed": 1.5}, "seed=1.5 is no whole number"),
    ],
)
def test_numbers_of_a_file_of_samples(pipe, numbers, message, tmp_path):
    with pytest.raises((DataError, TruncationError), match=message):
        sample_sdf(pipe, tmp_path / "a.sdf", **{"n_molecules": 2, **numbers})
    assert list(tmp_path.iterdir()) == []


@posix
def test_several_processes_do_not_write_into_one_pipe(pipe):
    with pytest.raises(WriteError, match="2 processes cannot write into /dev/null together"):
        sample_sdf(pipe, "/dev/null", 4, processes=Processes(0, 2))


@pytest.mark.parametrize("load", [MoleculePipeline.load, MoleculePipeline.from_pretrained])
def test_a_pipeline_that_is_none_is_one_line_through_both_doors(load, tmp_path):
    for name in ("qm8", tmp_path / "nothing", tmp_path):
        with pytest.raises(ArtefactError, match="no molecule pipeline at") as caught:
            load(name)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 400


@pytest.mark.parametrize("name", ["my-pipeline/", "./mine", "a/b/c", "qm8", "no such/folder/"])
def test_a_folder_that_is_not_there_is_called_one(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArtefactError) as caught:
        MoleculePipeline.load(name)
    assert str(caught.value).startswith(f"no molecule pipeline at {name} (there is no such folder")
    assert "alphanumeric" not in str(caught.value)


def test_a_name_that_may_be_of_the_hub_is_no_folder_here_either(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArtefactError, match=r"\(there is no such folder, and on the hub: "):
        MoleculePipeline.from_pretrained("me/nothing", local_files_only=True)


def test_elements_that_the_model_does_not_have_are_named(pipe):
    stats = replace(
        GAGAStats.from_pretrained("qm9"), layout=MoleculeLayout(("H", "C", "N", "S", "Cl"))
    )
    scheduler = SimpleNamespace(stats=stats)  # any scheduler with statistics
    with pytest.raises(StatsMismatchError) as caught:
        check_statistics(scheduler, pipe.denoiser.layout)
    text = str(caught.value)
    assert "The model has no S, Cl: take one that was trained with them" in text
    assert "(that of qm9 has H, C, N, O and F only)" in text
    assert "leave those that have them out of the fit (`gaga fit` --skip-others). Refit" in text
    scheduler.stats = replace(stats, layout=MoleculeLayout(onehot_scale=2.0))  # it has them all
    refit = r"\. Refit with `gaga fit` --elements H,C,N,O,F\.$"
    with pytest.raises(StatsMismatchError, match=refit):
        check_statistics(scheduler, pipe.denoiser.layout)
    other = MoleculeLayout(("C", "H"), onehot_scale=2.5, charge_scale=10)
    scheduler.stats = replace(stats, layout=MoleculeLayout(("C", "H", "O", "N", "F")))
    with pytest.raises(StatsMismatchError, match=r"C,H --onehot-scale 2\.5 --charge-scale 10\.$"):
        check_statistics(scheduler, other)
    assert EMBEDDED_STATS.keys() == {"qm9"}
    assert GAGAStats.from_pretrained("qm9").layout.elements == ("H", "C", "N", "O", "F")


def test_a_saved_pipeline_says_how_to_load_it(pipe, tmp_path):
    """diffusers looks for the class among its own; if that ever works, the note is wrong."""
    pipe.scheduler = edm_scheduler()
    pipe.save_pretrained(tmp_path / "pipe")
    note = tmp_path / "pipe" / "README.md"
    assert "MoleculePipeline.from_pretrained(" in note.read_text()
    with pytest.raises(AttributeError, match="has no attribute MoleculePipeline"):
        diffusers.DiffusionPipeline.from_pretrained(tmp_path / "pipe")
    note.write_text("mine")
    pipe.save_pretrained(tmp_path / "pipe")
    assert note.read_text() == "mine"


def test_missing_pipeline_and_unknown_scheduler():
    with pytest.raises(UnsupportedSchedulerError, match=r"'ddmp' is unknown. Known: ddpm, ddim"):
        scheduler_named("ddmp", edm_scheduler())


def test_edm_table_is_edms_own():
    """Index i is t = i / 1000, without a shift, and float64 all the way."""
    scheduler = edm_scheduler()
    path = named_path("edm/polynomial_2")
    t = torch.linspace(0, 1, 1001, dtype=torch.float64)
    assert scheduler.config.num_train_timesteps == 1001
    assert scheduler.alphas_cumprod.dtype == torch.float64
    torch.testing.assert_close(1 - scheduler.alphas_cumprod, path.b(t) ** 2, rtol=1e-9, atol=0)
    shipped = MoleculePipeline.load().scheduler.config
    torch.testing.assert_close(
        shipped.trained_betas, scheduler.config.trained_betas, rtol=1e-9, atol=0
    )


# -- the model that ships with the package ---------------------------------------------------------


@pytest.mark.parametrize(
    "load",
    [
        MoleculePipeline.load,
        lambda: MoleculePipeline.load("qm9"),
        lambda: MoleculePipeline.load("embedded"),  # its name in version 0.1
        lambda: MoleculePipeline.from_pretrained("qm9"),
    ],
)
def test_qm9_is_the_same_pair_everywhere(load, tmp_path, monkeypatch):
    (tmp_path / "qm9").mkdir()  # a folder of that name with something else in it
    monkeypatch.chdir(tmp_path)
    pipeline = load()
    assert type(pipeline) is MoleculePipeline
    assert pipeline.denoiser.dtype == torch.float32
    assert pipeline.denoiser.layout == GAGAStats.from_pretrained("qm9").layout
    assert set(EMBEDDED) == set(EMBEDDED_STATS)


def test_a_folder_called_qm9_comes_first(pipe, tmp_path, monkeypatch):
    pipe.scheduler = edm_scheduler()
    pipe.save_pretrained(tmp_path / "qm9")
    monkeypatch.chdir(tmp_path)
    assert MoleculePipeline.load("qm9").denoiser.config.width == 16
    assert MoleculePipeline.load("embedded").denoiser.config.width > 16


def test_one_default_number_of_steps():
    assert wanted_grid(edm_scheduler()).n_steps == DEFAULT_STEPS
    for function, name in (
        (MoleculePipeline.__call__, "num_inference_steps"),
        (sample_sdf, "num_inference_steps"),
        (sample.run, "steps"),
    ):  # which is then asked for
        assert inspect.signature(function).parameters[name].default is None
    defaults = [
        inspect.signature(function).parameters[name].default
        for function, name in (
            (demo.run, "steps"),
            (report.run, "steps"),
        )
    ]
    assert set(defaults) == {DEFAULT_STEPS}


@pytest.mark.parametrize(
    ("file", "entries"),
    [
        ("denoiser/config.json", {"n_layers": 10**9}),
        ("denoiser/config.json", {"width": 10**6}),
        ("denoiser/config.json", {"width": 8192, "n_layers": 900}),
        ("denoiser/config.json", {"n_heads": 0}),
        ("denoiser/config.json", {"n_radial": "32"}),
        ("denoiser/config.json", {"elements": ["H", "Xx"]}),
        ("denoiser/config.json", {"elements": 5}),
        ("denoiser/config.json", {"onehot_scale": -1}),
        ("denoiser/config.json", {"t_star_log_snr": "late"}),
        ("model_index.json", {"size_counts": [0, -1]}),
        ("model_index.json", {"size_counts": ["many"]}),
        ("model_index.json", {"size_counts": [0, 0]}),
    ],
    ids=str,
)
def test_a_pipeline_that_is_damaged_is_refused_by_name(file, entries, tmp_path):
    MoleculePipeline.load("qm9").save_pretrained(tmp_path)
    content = json.loads((tmp_path / file).read_text())
    (tmp_path / file).write_text(json.dumps(content | entries))
    with pytest.raises(ArtefactError):
        MoleculePipeline.load(tmp_path)


def test_weights_that_are_not_finite_are_refused(tmp_path):
    pipe = MoleculePipeline.load("qm9")
    pipe.denoiser.to_logits.bias.data[0] = float("nan")
    pipe.save_pretrained(tmp_path)
    with pytest.raises(ArtefactError, match=r"to_logits\.bias holds a number that is not finite"):
        MoleculePipeline.load(tmp_path)
