"""Run the contract, and what a fork of EDM has beyond it, inside a checkout of the fork.

Called as `python family_runner.py NAME` with the checkout as working directory; the names are those
of `family.FORKS`. Writes one JSON object, `{"codebase": ..., "adapter": ..., "checks": {name:
outcome}, "calls": [before, after]}`, as its last line.
"""

import contextlib
import io
import json
import sys
import time
import traceback
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(Path.cwd()), str(HERE), str(HERE.parent)]

import family  # noqa: E402
import torch  # noqa: E402
from fakes.stand_ins import stand_ins  # noqa: E402
from gaga_adapter.integrations import patched  # noqa: E402
from gaga_adapter.integrations.protocol import adapter_for  # noqa: E402

from gaga_adapter import testing  # noqa: E402


def outcome(check, case):
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # upstream prints its schedules
            check(case)
    except testing.NotApplicable as reason:
        return f"skipped: {reason}"
    except BaseException:
        return f"failed: {traceback.format_exc()}"
    return "passed"


def main(name, only=""):
    torch.set_num_threads(1)  # sums over atoms are then in one order, to the last bit
    case, started = family.FORKS[name], time.perf_counter()
    with stand_ins(family.UNUSED), contextlib.redirect_stdout(io.StringIO()):
        model = case.model()
        adapter = adapter_for(model).name
    checks = {**testing.CHECKS, **family.more_checks(name)}
    found = {name: outcome(check, case) for name, check in checks.items() if only in name}
    calls = []
    with contextlib.redirect_stdout(io.StringIO()):
        case.n_steps = 1000
        model = case.model()
        for t_star in (1000, 550):
            with patched(model, None, t_star=t_star):
                calls.append(len(case.network_inputs(model, lambda: case.sample(model, (3, 4)))))
    report = {"codebase": case.name, "adapter": adapter, "checks": found, "calls": calls}
    print(json.dumps({**report, "seconds": time.perf_counter() - started}))


if __name__ == "__main__":
    main(*sys.argv[1:])
