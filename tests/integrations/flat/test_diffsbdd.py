"""DiffSBDD's stand-in under the contract, and the Gaussian of complexes."""

import pytest
from fakes import joint_cases

from gaga_adapter.testing import CHECKS, NotApplicable


@pytest.mark.parametrize("check", CHECKS)
def test_contract(check):
    try:
        CHECKS[check](joint_cases.DIFFSBDD)
    except NotApplicable as reason:
        pytest.skip(str(reason))


@pytest.mark.parametrize("check", joint_cases.CHECKS)
def test_its_own(check):
    joint_cases.CHECKS[check](joint_cases.DIFFSBDD)
