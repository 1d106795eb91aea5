"""Run the contract, and what a fork of EDM has beyond it, inside a checkout of the fork.

Called as `python family_runner.py NAME` with the checkout as working directory; the names are those
of `family.FORKS`. Writes one JSON object, `{"codebase": ..., "adapter": ..., "checks": {name:
outcome}, "calls": [before, after]}`, as its last line.
"""

import contextlib
import io
import json
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(Path.cwd()), str(HERE), str(HERE.parent)]

import family  # noqa: E402
import torch  # noqa: E402
from fakes.stand_ins import stand_ins  # noqa: E402
from gaga_adapter.integrations.protocol import adapter_for  # noqa: E402
from verdicts import checks_of, network_calls  # noqa: E402 - beside this file

from gaga_adapter import testing  # noqa: E402


def main(name, only=""):
    torch.set_num_threads(1)  # sums over atoms are then in one order, to the last bit
    case = family.FORKS[name]
    with stand_ins(family.UNUSED), contextlib.redirect_stdout(io.StringIO()):
        model = case.model()
        adapter = adapter_for(model).name
    checks = {**testing.CHECKS, **family.more_checks(name)}
    found = checks_of(case.name, {k: v for k, v in checks.items() if only in k}, case)
    calls = network_calls(case, (3, 4))
    report = {"codebase": case.name, "adapter": adapter, "checks": found, "calls": calls}
    print(json.dumps(report))


if __name__ == "__main__":
    main(*sys.argv[1:])
