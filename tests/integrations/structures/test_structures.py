"""Shortened structure predictors: the stand-ins here, the real classes where they are installed.

GAGA_BOLTZ_SITE    a folder with boltz 2.2.1 (`pip install --target FOLDER boltz==2.2.1`)
GAGA_CHAI_SITE     a folder with chai_lab 0.6.1, likewise
"""

import functools
import re

import pytest
import torch
from fakes import structures
from fakes.device import SinglePrecision
from gaga_adapter.integrations.structures import apply_patch, patched, remove_patch
from structure_checks import CHECKS, Case, Run
from upstream import must_pass, said

from gaga_adapter.errors import GAGAWarning, TruncationError, UnsupportedModelError
from gaga_adapter.testing import NotApplicable


def run_boltz(n_samples, n_steps, steering=None, features=None):
    model = structures.AtomDiffusion()
    found = model.sample(
        torch.ones(1, 2), n_steps, n_samples, steering_args=steering or {}, feats=features or {}
    )
    return Run(found["sample_atom_coords"], model.seen, model.first)


def run_chai(n_samples, n_steps):
    return Run(*structures.fold(n_samples, n_steps))


CASES = {
    "boltz": Case("boltz", structures.AtomDiffusion, run_boltz, lift=1.8, steers=True),
    "chai": Case("chai", structures.InferenceNoiseSchedule, run_chai, calls_per_step=2),
}


@pytest.fixture(autouse=True)
def _unpatched():
    yield
    for case in CASES.values():
        remove_patch(case.sampler)


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("name", CASES)
def test_stand_in(name, check):
    try:
        CHECKS[check](CASES[name])
    except NotApplicable as reason:
        pytest.skip(str(reason))


# -- what only the stand-ins are asked -------------------------------------------------------------


def test_signatures_stay():
    import inspect

    before = {
        (case.sampler, name): inspect.signature(value)
        for case in CASES.values()
        for name, value in vars(case.sampler).items()
        if inspect.isfunction(value)
    }
    for case in CASES.values():
        apply_patch(case.sampler, 10.0)
    for (sampler, name), signature in before.items():
        assert inspect.signature(getattr(sampler, name)) == signature


def test_a_subclass_is_patched_alone():
    class Own(structures.AtomDiffusion):
        pass

    with patched(Own, 20.0) as handle:
        assert (handle.sampler, handle.sigma_star, handle.spacing) == (Own, 20.0, "suffix")
        assert len(Own().sample_schedule(200)) < len(structures.AtomDiffusion().sample_schedule())
    assert not {"sample", "sample_schedule"} & vars(Own).keys()


def test_boltz_1_adds_less_noise_than_it_says():
    """gamma_0 = .605 and noise_scale = .901: the level counts what is there."""

    class Boltz1(structures.AtomDiffusion):
        def __init__(self):
            super().__init__()
            self.gamma_0, self.gamma_min, self.noise_scale, self.rho = 0.605, 1.107, 0.901, 8

    lift = (1 + 0.901**2 * (1.605**2 - 1)) ** 0.5
    whole = Boltz1().sample_schedule(200)
    with patched(Boltz1, 100.0):
        cut = Boltz1().sample_schedule(200)
    assert torch.equal(cut, whole[-len(cut) :])
    assert float(cut[1]) * lift < 100.0 <= float(cut[0]) * lift


@pytest.mark.parametrize("spacing", ["suffix", "respace"])
@pytest.mark.parametrize(
    ("sampler", "whole", "first"),
    [
        (structures.InferenceNoiseSchedule, lambda s: s.get_schedule("cpu", 50), 1207.87),
        (structures.AtomDiffusion, lambda s: s.sample_schedule(50), 4608),
    ],
)
def test_a_target_beyond_the_list_is_not_cut(sampler, whole, first, spacing):
    """In the units of what was passed, and of what the network sees."""
    before = whole(sampler())
    with patched(sampler, 9000.0, spacing), pytest.warns(GAGAWarning) as said:
        sigmas = whole(sampler())
    assert torch.equal(sigmas, before)
    message = str(said[0].message)
    assert len(said) == 1
    assert "than sigma*=9000: nothing is cut" in message
    assert float(re.search(r"is at (\S+) angstrom", message)[1]) == pytest.approx(first, rel=1e-4)
    assert "sigma_max" not in message


@pytest.mark.parametrize("spacing", ["suffix", "respace"])
@pytest.mark.parametrize("name", CASES)
def test_the_device_of_a_list_needs_no_float64(name, spacing, monkeypatch):
    sampler, method = {
        "boltz": (structures.AtomDiffusion, "sample_schedule"),
        "chai": (structures.InferenceNoiseSchedule, "get_noise_for_times"),
    }[name]
    make = getattr(sampler, method)

    @functools.wraps(make)
    def on_device(*args, **kwargs):
        return make(*args, **kwargs).as_subclass(SinglePrecision)

    def lists():
        if name == "boltz":
            return sampler().sample_schedule(50)
        return sampler().get_schedule("cpu", 50)

    with patched(sampler, 300.0, spacing):
        expected = lists()
    with monkeypatch.context() as context:
        context.setattr(sampler, method, on_device)
        assert isinstance(lists(), SinglePrecision)
        with pytest.raises(TypeError):
            lists().double()
        with patched(sampler, 300.0, spacing):
            assert torch.equal(lists().as_subclass(torch.Tensor), expected)


def test_other_things_are_refused():
    model = structures.AtomDiffusion()
    for given, message in (
        (model, "a AtomDiffusion object"),
        (torch.nn.Linear, "boltz: no method 'sample_schedule'.*chai: no method 'get_schedule'"),
    ):
        with pytest.raises(UnsupportedModelError, match=message):
            apply_patch(given, 20.0)

    class Other(structures.AtomDiffusion):
        def sample(self, atom_mask):
            return atom_mask

    with pytest.raises(UnsupportedModelError, match="sample takes no 'num_sampling_steps'"):
        apply_patch(Other, 20.0)
    for star in (0.0, -3.0, float("nan"), "20", None):
        with pytest.raises(TruncationError, match="sigma_star"):
            apply_patch(structures.AtomDiffusion, star)
    with pytest.raises(TruncationError, match=r"Known: suffix, respace"):
        apply_patch(structures.AtomDiffusion, 20.0, "half")
    assert len(model.sample_schedule(200)) == 201


# -- the real classes ------------------------------------------------------------------------------

SITES = {"boltz": "GAGA_BOLTZ_SITE", "chai": "GAGA_CHAI_SITE"}


def verdict(name):
    """What the runner says of an installed codebase."""
    return said(SITES[name], f"{name}_runner.py")


@pytest.mark.upstream
@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("name", SITES)
def test_real_class(name, check):
    must_pass(verdict(name)["checks"][check])
