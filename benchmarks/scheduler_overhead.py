"""What wrapping costs per step: each scheduler bare and wrapped, in one run, in turns.

    python benchmarks/scheduler_overhead.py

The loop of a sampler with an empty network, on molecules (64, 29, 9), one thread. A round times a
run of the bare scheduler and then one of the wrapped, both over the same timesteps; the figures are
medians over the rounds of the time per step, and of the difference within a round. Writes
`benchmarks/results/scheduler_overhead.json`.
"""

from __future__ import annotations

import argparse
import inspect
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from provenance import provenance

from gaga_adapter import GAGAScheduler, GAGAStats
from gaga_adapter.layout import AtomLayout
from gaga_adapter.molecules.pipeline import edm_scheduler
from gaga_adapter.molecules.schedulers import scheduler_named
from gaga_adapter.moments import ExchangeableMoments
from gaga_adapter.subspace import project

RESULT = Path(__file__).parent / "results" / "scheduler_overhead.json"
NAMES = ("ddim", "ddpm", "euler", "dpm++", "heun")
SHAPE = (64, 29, 9)
STEPS = 100


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=60)
    args = parser.parse_args()
    torch.set_num_threads(1)
    sample = project(torch.randn(SHAPE, generator=torch.Generator().manual_seed(0)), None)
    moments = ExchangeableMoments(SHAPE[-1] - 3)
    moments.update(sample)
    stats = GAGAStats(AtomLayout(SHAPE[-1] - 3), moments, log_snr_star=0.0)
    rows = []
    print("scheduler    bare us   wrapped us   added us   ratio")
    for name in NAMES:
        bare = scheduler_named(name, edm_scheduler())
        wrapped = GAGAScheduler.from_pretrained(bare, stats=stats, reference="size")
        wrapped.set_timesteps(STEPS, device="cpu")
        kept = len(wrapped.timesteps)
        times = np.array(
            [(run(bare, sample, kept), run(wrapped, sample, kept)) for _ in range(args.rounds)]
        )
        bare_us, wrapped_us = np.median(times, axis=0) * 1e6
        added_us = float(np.median(times[:, 1] - times[:, 0])) * 1e6
        row = {
            "scheduler": type(bare).__name__,
            "steps": kept,
            "bare_us": float(bare_us),
            "wrapped_us": float(wrapped_us),
            "added_us": added_us,
            "ratio": float(np.median(times[:, 1] / times[:, 0])),
        }
        rows.append(row)
        print(
            f"{name:10} {bare_us:9.1f} {wrapped_us:12.1f} {added_us:10.2f} {row['ratio']:7.3f}",
            flush=True,
        )
    found = provenance() | {"shape": SHAPE, "rounds": args.rounds, "rows": rows}
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def run(scheduler: Any, noise: torch.Tensor, kept: int) -> float:  # noqa: ANN401
    """Seconds per step over the last `kept` timesteps, the first step left out.

    The first step of a wrapped run checks and hands over the start; it happens once a run, before
    the clock starts here.
    """
    scheduler.set_timesteps(STEPS, device="cpu")
    sample = noise * scheduler.init_noise_sigma
    timesteps = scheduler.timesteps[-kept:]
    generator = torch.Generator().manual_seed(0)
    takes_generator = "generator" in inspect.signature(scheduler.step).parameters
    extra = {"generator": generator} if takes_generator else {}
    began = 0.0
    for k, timestep in enumerate(timesteps):
        if k == 1:
            began = time.perf_counter()
        seen = scheduler.scale_model_input(sample, timestep)
        sample = scheduler.step(seen, timestep, sample, **extra).prev_sample
    return (time.perf_counter() - began) / (len(timesteps) - 1)


if __name__ == "__main__":
    main()
