"""The patch on the in-repo stand-in: the contract, and what is its own."""

import warnings

import pytest
from fakes.cases import CASES
from gaga_adapter.integrations import apply_patch

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
