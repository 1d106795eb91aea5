"""The wrapper and both pipelines serve the same classes, and refuse others in the same words."""

from dataclasses import replace

import diffusers
import diffusers.schedulers as diffusers_schedulers
import pytest
import torch
from fakes.cases import make_edm
from gaga_adapter.integrations.sampling.pipeline import as_pipeline
from scheduler.loops import OPTIONS

from gaga_adapter import GAGAScheduler, GAGAStats
from gaga_adapter.criteria.certificate.denoisers import as_denoiser
from gaga_adapter.errors import UnsupportedSchedulerError
from gaga_adapter.layout import MoleculeLayout
from gaga_adapter.molecules.denoiser import MoleculeDenoiser
from gaga_adapter.molecules.pipeline import MoleculePipeline, edm_scheduler
from gaga_adapter.moments import ExchangeableMoments
from gaga_adapter.noise.conventions import REFUSED, ROWS
from gaga_adapter.sampling.loop import walk
from gaga_adapter.scheduler.options import plain_class
from gaga_adapter.subspace import mask_from_sizes, project

pytestmark = [
    pytest.mark.filterwarnings("ignore:.* steps are left from t"),  # on purpose
    pytest.mark.filterwarnings("ignore:__array:DeprecationWarning"),  # numpy 2 in diffusers
    pytest.mark.filterwarnings("ignore:Should have t:UserWarning"),  # rounding inside of torchsde
]

SIZES = [3, 5, 1]
ELEMENTS = ("H", "C", "N", "O", "F")


def made(name):
    cls = plain_class(name)
    if cls is None:
        pytest.skip(f"diffusers {diffusers.__version__} has no {name}, or needs more for it")
    return cls(**OPTIONS.get(name, {}))


def stats(n_features):
    generator = torch.Generator().manual_seed(0)
    moments = ExchangeableMoments(n_features)
    mask = mask_from_sizes(torch.tensor(SIZES * 100))
    x = torch.randn(*mask.shape, 3 + n_features, generator=generator)
    moments.update(project(x, mask), mask)
    charges = 10 if n_features == 6 else None
    return GAGAStats(MoleculeLayout(ELEMENTS, charge_scale=charges), moments, 0.0)


@pytest.fixture(scope="module")
def molecule_pipeline():
    torch.manual_seed(0)
    denoiser = MoleculeDenoiser(width=16, pair_width=8, n_layers=1, n_vectors=2, n_heads=2)
    return MoleculePipeline(denoiser, edm_scheduler())


@pytest.fixture(scope="module")
def pipelines(molecule_pipeline):
    edm = as_pipeline(make_edm(100))
    for pipe in (molecule_pipeline, edm):
        pipe.set_progress_bar_config(disable=True)
    return molecule_pipeline, edm


def sampled(pipe, scheduler):
    pipe.scheduler = scheduler
    n_steps = 24 if "Proteina" in type(scheduler).__name__ else 6  # its tail alone takes 20
    generator = torch.Generator().manual_seed(0)
    return pipe(n_atoms=SIZES, num_inference_steps=n_steps, generator=generator)


@pytest.mark.parametrize("truncated", [False, True])
@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if not row.unserved])
def test_both_pipelines_serve_it(name, truncated, pipelines):
    for pipe, n_features in zip(pipelines, (5, 6), strict=True):
        scheduler = made(name)
        if truncated:
            scheduler = GAGAScheduler.from_pretrained(scheduler, stats=stats(n_features))
        result = sampled(pipe, scheduler)
        molecules = getattr(result, "positions", None)
        molecules = torch.as_tensor(result.molecules.positions) if molecules is None else molecules
        assert torch.isfinite(molecules).all()
        assert float(molecules.sum(1).abs().max()) < 1e-3 * max(1, float(molecules.abs().max()))
        assert result.network_calls >= 1


def words(call, *arguments):
    with pytest.raises(UnsupportedSchedulerError) as error:
        call(*arguments)
    return str(error.value)


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_all_in_the_same_words(name, pipelines):
    cls = getattr(diffusers_schedulers, name, None)
    if cls is None:
        pytest.skip(f"diffusers {diffusers.__version__} has no {name}")
    scheduler = cls.__new__(cls)
    expected = words(lambda: GAGAScheduler.from_pretrained(scheduler, stats=stats(5)))
    assert f"cannot use {name}: {REFUSED[name]}. Supported: DDPM" in expected
    for pipe in pipelines:
        assert words(sampled, pipe, scheduler) == expected
    assert words(as_pipeline, make_edm(10), scheduler) == expected
    assert words(as_denoiser, lambda sample, timestep: sample, scheduler) == expected


def test_refused_by_configuration_in_the_same_words(pipelines):
    if not hasattr(diffusers_schedulers, "HeliosScheduler"):
        pytest.skip("this diffusers has no HeliosScheduler")
    scheduler = diffusers_schedulers.HeliosScheduler()
    expected = words(lambda: GAGAScheduler.from_pretrained(scheduler, stats=stats(5)))
    assert "stages=3" in expected
    for pipe in pipelines:
        assert words(sampled, pipe, scheduler) == expected


def test_loops_that_need_more_than_noise(pipelines):
    scheduler = diffusers.RePaintScheduler()
    for pipe in pipelines:
        told = words(sampled, pipe, scheduler)
        assert told.startswith("cannot sample with RePaintScheduler: it walks up and down again")


def test_a_prediction_without_a_rule(pipelines):
    for scheduler in (
        diffusers.DDPMScheduler(prediction_type="score"),
        diffusers.DPMSolverMultistepScheduler(prediction_type="flow_prediction"),
    ):
        for pipe in pipelines:
            assert "has no rule to turn a clean prediction" in words(sampled, pipe, scheduler)


@pytest.mark.parametrize("handover", ["auto", "init", "step", "scale"])
@pytest.mark.parametrize(("reference", "log_snr_star"), [("size", 0.0), ("unit", -23.6)])
def test_noise_is_scaled_once_whatever_hands_it_over(handover, reference, log_snr_star):
    """SCM's pipelines scale unit noise by sigma_data, 0.5, and the start is what `init` gives."""
    mask = mask_from_sizes(torch.tensor([5, 4, 3]))
    noise = project(torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(1)), mask)

    def inputs(name):
        if name == "scale" and not hasattr(made("SCMScheduler"), "scale_model_input"):
            pytest.skip("SCM has no scale_model_input")
        given = replace(stats(5), log_snr_star=log_snr_star)
        scheduler = GAGAScheduler.from_pretrained(
            made("SCMScheduler"), given, reference=reference, handover=name
        )
        seen = {}

        def network(sample, timestep, at):
            seen.setdefault(float(timestep), sample)
            return torch.zeros_like(sample)

        walk(scheduler, noise, mask, 10, network, torch.Generator().manual_seed(2))
        return seen

    expected, seen = inputs("init"), inputs(handover)
    first = next(iter(expected))
    torch.testing.assert_close(seen[first], expected[first], rtol=1e-5, atol=1e-6)
    if reference == "unit":
        torch.testing.assert_close(expected[first], 0.5 * noise, rtol=1e-3, atol=1e-3)
