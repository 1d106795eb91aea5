"""Run the contract on a package as pip installs it, with the cases of its test file.

Called as `python package_runner.py NAME`, for `mlconfgen` or `molcraftdiffusion`. Writes one JSON
object, `{"codebase": ..., "checks": {name: outcome}, "calls": [before, after]}`, as its last line.
"""

import importlib
import json
import sys
from pathlib import Path

TESTS = Path(__file__).parent.parent
sys.path[:0] = [str(TESTS), str(TESTS / "integrations")]

from verdicts import checks_of, network_calls  # noqa: E402 - beside this file

from gaga_adapter.testing import CHECKS  # noqa: E402


def main(name):
    module = importlib.import_module(f"test_{name}")
    cases = module.CASES if hasattr(module, "CASES") else {name: module.CASE}
    checks = {
        f"{case.name}: {check}": outcome
        for case in cases.values()
        for check, outcome in checks_of(case.name, CHECKS, case).items()
    }
    calls = network_calls(next(iter(cases.values())), (3, 4))
    print(json.dumps({"codebase": name, "checks": checks, "calls": calls}))


if __name__ == "__main__":
    main(*sys.argv[1:])
