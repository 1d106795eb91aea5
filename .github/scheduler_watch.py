"""Scheduler classes of the installed diffusers that no table of this package names.

    python .github/scheduler_watch.py            print them
    python .github/scheduler_watch.py --issue    and keep one issue about them, through `gh`

A class belongs into `ROWS` of `gaga_adapter/noise/conventions.py` or, with the reason, into
`REFUSED` beside it. The weekly workflow runs this on diffusers' main. There is never more than one
open issue with the label: it is opened when there is something to tell, rewritten when that
changes, and closed when nothing is left.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable

from gaga_adapter.noise.conventions import unknown_schedulers

LABEL = "scheduler-watch"
TITLE = "Scheduler classes of diffusers that are in no table"


def report(names: list[str], version: str) -> str:
    """The text of the issue."""
    lines = "\n".join(f"- [ ] `{name}`" for name in names)
    return (
        f"diffusers {version} exports scheduler classes that `gaga_adapter` does not know. A user "
        f"who wraps one gets an error that says so.\n\n{lines}\n\n"
        "Each needs a row in `ROWS` of `gaga_adapter/noise/conventions.py` and in `FAMILIES` of "
        "`gaga_adapter/scheduler/families.py`, or a reason in `REFUSED`. "
        "`docs/architecture.md` says how; `tests/scheduler/test_exactness.py` checks it.\n\n"
        "The weekly workflow wrote this text and will rewrite it."
    )


def gh(*words: str) -> str:
    """What `gh WORDS` prints."""
    return subprocess.run(["gh", *words], check=True, capture_output=True, text=True).stdout


def keep_one_issue(names: list[str], version: str, gh: Callable[..., str] = gh) -> None:
    """Open the issue, rewrite the one that is open, or close it.

    Args:
        names: Names of the classes that are unknown.
        version: Version of diffusers that exports them.
        gh: Function that runs GitHub's command line and returns what it prints.
    """
    gh(
        *("label", "create", LABEL, "--force", "--color", "5319e7"),
        *("--description", "Kept by the weekly workflow"),
    )
    found = gh("issue", "list", "--label", LABEL, "--state", "open", "--json", "number")
    numbers = sorted(str(issue["number"]) for issue in json.loads(found))
    if not names:
        for number in numbers:
            gh("issue", "close", number, "--comment", f"diffusers {version} has no unknown class.")
    elif numbers:
        gh("issue", "edit", numbers[0], "--title", TITLE, "--body", report(names, version))
    else:
        gh("issue", "create", "--title", TITLE, "--body", report(names, version), "--label", LABEL)


def main() -> None:
    """Print the names, and keep the issue if that was asked for."""
    import diffusers

    names = list(unknown_schedulers())
    print(f"diffusers {diffusers.__version__}: {len(names)} unknown scheduler classes")
    print(*names, sep="\n")
    if "--issue" in sys.argv[1:]:
        keep_one_issue(names, diffusers.__version__)


if __name__ == "__main__":
    main()
