"""The contract, for adapters and schedulers that are not of this package.

    from gaga_adapter.testing import check_adapter

    def test_my_adapter():
        check_adapter(MyAdapter(), make_model).assert_passed()

`check_adapter` and `check_scheduler` run the checks that the tests of this package run on its own
adapters and schedulers. Each returns a report with a verdict on every check; nothing is printed,
and no test framework is needed. The checks themselves are in `CHECKS` and `SCHEDULER_CHECKS`.
"""

from __future__ import annotations

from gaga_adapter.testing.adapter import CHECKS, check_adapter
from gaga_adapter.testing.adapter.case import SIZES, Case, same
from gaga_adapter.testing.report import ContractError, NotApplicable, Report, Verdict

__all__ = [
    "CHECKS",
    "SIZES",
    "Case",
    "ContractError",
    "NotApplicable",
    "Report",
    "Verdict",
    "check_adapter",
    "same",
]
