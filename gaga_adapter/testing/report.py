"""What a list of checks says: a verdict on each, and a report of all of them.

A check is a function of one case. It returns where the promise in its name holds, raises
`NotApplicable` where the case has nothing that it could ask, and raises anything else where the
promise is broken.
"""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gaga_adapter.errors import GAGAError, GAGAWarning

Check = Callable[[Any], None]


class NotApplicable(Exception):
    """The case has nothing that this check could ask."""


class ContractError(GAGAError, AssertionError):
    """Checks have failed; the message says which, and why."""


@dataclass(frozen=True)
class Verdict:
    """What one check says.

    Attributes:
        check: Name of the check: a sentence, with underscores between its words.
        outcome: One of `passed`, `skipped` and `failed`.
        why: Reason of a check that did not pass; empty otherwise.
        error: Exception that a check failed with; `None` otherwise.
    """

    check: str
    outcome: str
    why: str = ""
    error: BaseException | None = None

    def __str__(self) -> str:
        return f"{self.outcome}: {self.why}" if self.why else self.outcome


@dataclass(frozen=True)
class Report:
    """What all checks say of one adapter or scheduler.

    `print(report)` shows a line a check, `report.assert_passed()` raises if one has failed, and
    `report.to_dict()` is JSON-able.

    Attributes:
        subject: Name of what was checked.
        verdicts: Verdict of each check, in the order of the list.
    """

    subject: str
    verdicts: tuple[Verdict, ...]

    @property
    def passed(self) -> bool:
        """Whether no check has failed."""
        return not self.failures

    @property
    def failures(self) -> tuple[Verdict, ...]:
        """The verdicts of the checks that failed."""
        return tuple(verdict for verdict in self.verdicts if verdict.outcome == "failed")

    def assert_passed(self) -> None:
        """Do nothing if no check has failed.

        Raises:
            ContractError: If a check has failed. The first failure is the cause of the error, so
                that its traceback is shown as well.
        """
        if self.failures:
            raise ContractError(str(self)) from self.failures[0].error

    def to_dict(self) -> dict[str, str]:
        """Each check with `passed`, `skipped: why` or `failed: why`."""
        return {verdict.check: str(verdict) for verdict in self.verdicts}

    def __str__(self) -> str:
        count = {k: sum(v.outcome == k for v in self.verdicts) for k in ("failed", "skipped")}
        count = {"passed": len(self.verdicts) - sum(count.values()), **count}
        lines = [f"{self.subject}: {', '.join(f'{n} {k}' for k, n in count.items() if n)}"]
        for verdict in self.verdicts:
            lines.append(f"  {verdict.outcome:8}{verdict.check.replace('_', ' ')}")
            lines += [f"          {line}" for line in verdict.why.splitlines()]
        return "\n".join(lines)


def report_of(subject: str, checks: Mapping[str, Check], case: Any) -> Report:  # noqa: ANN401
    """Run every check on a case.

    Raises:
        ContractError: If Python runs with `-O`.
    """
    if not __debug__:
        raise ContractError(
            "python -O removes the assertions that the checks are made of. Run without -O."
        )
    return Report(subject, tuple(verdict_of(name, check, case) for name, check in checks.items()))


def verdict_of(name: str, check: Check, case: Any) -> Verdict:  # noqa: ANN401 - of any contract
    """Run one check; warnings of this package are shown to nobody."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", GAGAWarning)
            check(case)
    except NotApplicable as reason:
        return Verdict(name, "skipped", str(reason))
    except Exception as error:
        return Verdict(name, "failed", _reason(error), error)
    return Verdict(name, "passed")


def sentences(*modules: Any) -> dict[str, Check]:  # noqa: ANN401 - modules
    """The checks that modules define: their public functions, in the order of their lines."""
    return {
        name: check
        for module in modules
        for name, check in vars(module).items()
        if getattr(check, "__module__", "") == module.__name__ and not name.startswith("_")
    }


def _reason(error: Exception) -> str:
    """The message of an error and the line that raised it."""
    kind = "" if type(error) is AssertionError else f"{type(error).__name__}: "
    frame = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{Path(frame.filename).name}, line {frame.lineno}: {frame.line}"
    return f"{kind}{error}\nin {place}" if kind or str(error) else f"not true in {place}"
