"""The patch on the in-repo stand-in: the contract, and what is its own."""

import contract
import pytest
from fakes.cases import CASES


@pytest.mark.parametrize("check", contract.CHECKS)
@pytest.mark.parametrize("case", CASES)
def test_contract(case, check):
    try:
        contract.CHECKS[check](CASES[case])
    except contract.NotApplicable as reason:
        pytest.skip(str(reason))
