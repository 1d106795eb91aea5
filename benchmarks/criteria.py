"""Everything that is claimed of the criteria of Gaussianity, measured.

    python benchmarks/criteria.py                   all four parts
    python benchmarks/criteria.py speed qm9         some of them

- speed: the published test of one molecule, in a loop, against the vectorised one: same verdicts?
- power: how often each criterion is right on Gaussian and on known non-Gaussian data.
- modalities: pixels, patches, a latent, coordinates, one-hot types: which becomes Gaussian when.
- qm9: the t* that each criterion gives on QM9, with intervals, beside the published 550.

Each part is a script of its own beside this one, with options of its own, and writes its own
results.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

PARTS = {
    "speed": "criteria_speed.py",
    "power": "criteria_power.py",
    "modalities": "modalities.py",
    "qm9": "criteria_qm9.py",
}


def main() -> None:
    """Run the parts that were named, or all."""
    names = sys.argv[1:] or list(PARTS)
    unknown = sorted(set(names) - set(PARTS))
    if unknown:
        sys.exit(f"unknown part {', '.join(unknown)}. Known: {', '.join(PARTS)}.")
    for name in names:
        script = Path(__file__).with_name(PARTS[name])
        print(f"--- {script.name}", flush=True)
        sys.argv = [str(script)]
        runpy.run_path(str(script), run_name="__main__")


if __name__ == "__main__":
    main()
