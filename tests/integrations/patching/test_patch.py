"""The patch on the in-repo stand-in: the contract, and what is its own."""

import pytest
from fakes.cases import CASES

from gaga_adapter import testing


@pytest.mark.parametrize("check", testing.CHECKS)
@pytest.mark.parametrize("case", CASES)
def test_contract(case, check):
    try:
        testing.CHECKS[check](CASES[case])
    except testing.NotApplicable as reason:
        pytest.skip(str(reason))
