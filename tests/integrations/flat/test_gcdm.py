"""GCDM's stand-in under the contract, and what is its own."""

import pytest
from fakes.flat_cases import GCDM, GCDM_CHECKS, network_calls

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
