"""GCDM's stand-in under the contract, and what is its own."""

import pytest
from fakes.flat_cases import GCDM, GCDM_CHECKS
from gaga_adapter.integrations import apply_patch, fit_from
from runners.verdicts import network_calls

from gaga_adapter.errors import GAGAWarning, StatsMismatchError
from gaga_adapter.testing import CHECKS, NotApplicable


@pytest.mark.parametrize("check", CHECKS)
def test_contract(check):
    try:
        CHECKS[check](GCDM)
    except NotApplicable as reason:
        pytest.skip(str(reason))


@pytest.mark.parametrize("check", GCDM_CHECKS)
def test_its_own(check):
    GCDM_CHECKS[check](GCDM)


def test_551_network_calls_instead_of_1001():
    assert network_calls(GCDM) == [1001, 551]


def test_statistics_of_other_units_are_refused_where_the_layout_cannot_say_them():
    model, other = GCDM.model(), GCDM.model()
    loader = [GCDM.batch(model, (5, 9, 7, 6, 8) * 25, seed) for seed in range(8)]
    model.diffusion_cfg.norm_biases = other.diffusion_cfg.norm_biases = [None, 0.1, 0.0]
    options = {"criterion": "cumulant", "reference": "size", "tolerance": 5.0, "n_bootstrap": 0}
    stats = fit_from(model, loader, log_snr=(0.0, -3.0, -6.0), **options)
    apply_patch(other, stats, t_star=5).remove()
    for name, value in (("norm_values", [1.0, 1.0, 10.0]), ("norm_biases", [None, 0.1, 0.5])):
        kept = getattr(other.diffusion_cfg, name)
        setattr(other.diffusion_cfg, name, value)
        with pytest.raises(StatsMismatchError, match="other units"):
            apply_patch(other, stats, t_star=5)
        setattr(other.diffusion_cfg, name, kept)
    other.diffusion_cfg.norm_biases = [None, 0.0, 0.0]
    with pytest.raises(StatsMismatchError):
        apply_patch(other, stats, t_star=5)


def test_statistics_without_biases_are_converted_to_the_units_of_the_model():
    model, other = GCDM.model(), GCDM.model()
    other.diffusion_cfg.norm_values = [1.0, 1.0, 10.0]
    stats = GCDM.stats(model)
    with pytest.warns(GAGAWarning, match="the moments are exact"):
        truncation = apply_patch(other, stats, t_star=5, reference="size")
    truncation.remove()
