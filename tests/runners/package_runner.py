"""Run the contract on a package as pip installs it, with the cases of its test file.

Called as `python package_runner.py NAME`, for `mlconfgen` or `molcraftdiffusion`. Writes one JSON
object, `{"codebase": ..., "checks": {name: outcome}, "calls": [before, after]}`, as its last line.
"""

import contextlib
import importlib
import io
import json
import sys
import traceback
import warnings
from pathlib import Path

TESTS = Path(__file__).parent.parent
sys.path[:0] = [str(TESTS), str(TESTS / "integrations")]

from gaga_adapter.integrations import patched  # noqa: E402

from gaga_adapter.testing import CHECKS, NotApplicable  # noqa: E402


def outcome(check, case):
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")  # checks that are about warnings record them
            check(case)
    except NotApplicable as reason:
        return f"skipped: {reason}"
    except Exception:
        return f"failed: {traceback.format_exc()}"
    return "passed"


def main(name):
    module = importlib.import_module(f"test_{name}")
    cases = module.CASES if hasattr(module, "CASES") else {name: module.CASE}
    cases = list(cases.values()) if isinstance(cases, dict) else list(cases)
    checks = {
        f"{case.name}: {check}": outcome(CHECKS[check], case) for case in cases for check in CHECKS
    }
    calls, case = [], cases[0]
    model = case.model(1000)
    for t_star in (1000, 550):
        with patched(model, None, t_star=t_star):
            calls.append(len(case.network_inputs(model, lambda: case.sample(model, (3, 4)))))
    print(json.dumps({"codebase": name, "checks": checks, "calls": calls}))


if __name__ == "__main__":
    main(*sys.argv[1:])
