"""The patch on the in-repo stand-in: the contract, and what is its own."""

import warnings

import pytest
from fakes.cases import CASES
from fakes.device import SinglePrecision
from gaga_adapter.integrations import apply_patch
from gaga_adapter.integrations.patching.patch import first_step
from gaga_adapter.integrations.protocol import adapter_for
from gaga_adapter.integrations.sampling.network import EDMNetwork

from gaga_adapter import testing
from gaga_adapter.errors import GAGAWarning


@pytest.mark.parametrize("check", testing.CHECKS)
@pytest.mark.parametrize("case", CASES)
def test_contract(case, check):
    try:
        testing.CHECKS[check](CASES[case])
    except testing.NotApplicable as reason:
        pytest.skip(str(reason))


@pytest.mark.parametrize("reference", ["size", "unit"])
@pytest.mark.parametrize("n_context", [0, 2])
def test_a_context_narrows_the_law_that_t_star_was_chosen_for(n_context, reference):
    """Not where the model has none, and not where the start is noise anyway."""
    case = CASES["edm"]
    model = case.model(context=n_context)
    apply_patch(model, case.stats(model), t_star=10, reference=reference)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        case.sample(model)
    told = [str(w.message) for w in caught if w.category is GAGAWarning]
    assert len(told) == (n_context > 0 and reference == "size")
    assert all("the context narrows what is to be sampled" in text for text in told)


def test_the_levels_of_a_schedule_need_no_float64_on_its_device():
    model = CASES["edm"].model()
    adapter = adapter_for(model)

    def levels():
        return first_step(adapter, model, 0.0), EDMNetwork(model, adapter).log_sigma

    step, log_sigma = levels()
    adapter.schedule(model).register_forward_hook(
        lambda module, given, made: made.as_subclass(SinglePrecision)
    )
    again, same = levels()
    assert again == step
    assert (same == log_sigma).all()
    assert type(same) is type(log_sigma)
