"""What the truncation costs per step: every scheduler bare and wrapped, interleaved in one run.

    python benchmarks/scheduler_overhead.py

The batch is one of 64 molecules, (64, 29, 9). Both take the same steps below t*: the bare
scheduler is driven through the same last part of its own grid. Only `step` and
`scale_model_input` are timed; making the grid and mapping the start happen once per run and are
listed apart.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from pathlib import Path
from typing import Any

import diffusers
import torch
from provenance import provenance
from rich.console import Console
from rich.table import Table

from gaga_adapter import GAGAScheduler, GAGAStats
from gaga_adapter.layout import AtomLayout
from gaga_adapter.moments import ExchangeableMoments

SHAPE = (64, 29, 9)
SCHEDULERS = {
    "DDIM": ("DDIMScheduler", {}),
    "DDPM": ("DDPMScheduler", {}),
    "Euler": ("EulerDiscreteScheduler", {}),
    "DPM++ 2M": ("DPMSolverMultistepScheduler", {}),
    "UniPC": ("UniPCMultistepScheduler", {}),
    "Heun": ("HeunDiscreteScheduler", {}),
    "PNDM": ("PNDMScheduler", {"skip_prk_steps": True}),
    "FlowMatchEuler": ("FlowMatchEulerDiscreteScheduler", {}),
}


def stats() -> GAGAStats:
    """Statistics of noise: their values do not matter here."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(256, *SHAPE[1:], generator=generator, dtype=torch.float64)
    x[..., :3] -= x[..., :3].mean(1, keepdim=True)
    moments = ExchangeableMoments(SHAPE[2] - 3)
    moments.update(x, torch.ones(x.shape[:2], dtype=torch.bool))
    return GAGAStats(AtomLayout(SHAPE[2] - 3), moments, 0.0)


def seconds_per_step(scheduler: Any, n_steps: int, skip: int) -> tuple[float, float, int]:  # noqa: ANN401
    """Seconds a step, seconds before the first, and the number of steps timed.

    Args:
        scheduler: bare or wrapped.
        n_steps: of the full grid.
        skip: entries of the grid that the bare scheduler leaves out.
    """
    x = torch.randn(SHAPE)
    began = time.perf_counter()
    scheduler.set_timesteps(n_steps, device="cpu")
    x = x * getattr(scheduler, "init_noise_sigma", 1.0)
    timesteps = scheduler.timesteps[skip:]
    if skip and hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(skip)
    first, *rest = timesteps
    scales = hasattr(scheduler, "scale_model_input")
    if scales:
        scheduler.scale_model_input(x, first)
    x = scheduler.step(x, first, x).prev_sample
    setup = time.perf_counter() - began
    output = torch.randn(SHAPE)
    elapsed = 0.0
    for t in rest:
        started = time.perf_counter()
        if scales:
            scheduler.scale_model_input(x, t)
        x = scheduler.step(output, t, x).prev_sample
        elapsed += time.perf_counter() - started
    return elapsed / len(rest), setup, len(rest)


def measure(name: str, n_steps: int, repetitions: int) -> dict[str, Any]:
    """One row: medians and minima in microseconds over interleaved repetitions."""
    cls, options = SCHEDULERS[name]
    bare = getattr(diffusers, cls)(**options)
    wrapped = GAGAScheduler.from_pretrained(bare, stats=stats(), handover="init")
    bare.set_timesteps(n_steps)
    wrapped.set_timesteps(n_steps, device="cpu")
    skip = len(bare.timesteps) - len(wrapped.timesteps)
    times: dict[str, list[tuple[float, float, int]]] = {"bare": [], "wrapped": []}
    for repetition in range(repetitions + 2):
        pair = [("bare", bare, skip), ("wrapped", wrapped, 0)]
        for kind, scheduler, left_out in pair if repetition % 2 else pair[::-1]:
            found = seconds_per_step(scheduler, n_steps, left_out)
            if repetition >= 2:  # warm
                times[kind].append(found)
    median = {k: 1e6 * statistics.median(t[0] for t in v) for k, v in times.items()}
    least = {k: 1e6 * min(t[0] for t in v) for k, v in times.items()}
    paired = [1e6 * (w[0] - b[0]) for b, w in zip(times["bare"], times["wrapped"], strict=True)]
    error = statistics.stdev(paired) / len(paired) ** 0.5
    return {
        "scheduler": name,
        "bare_us": median["bare"],
        "wrapped_us": median["wrapped"],
        "ratio": median["wrapped"] / median["bare"],
        "bare_min_us": least["bare"],
        "wrapped_min_us": least["wrapped"],
        "overhead_us": statistics.median(paired),
        "overhead_std_error_us": error,
        "start_ms": 1e3 * statistics.median(t[1] for t in times["wrapped"]),
        "n_steps": times["wrapped"][0][2],
    }


def main() -> None:
    """Measure, print a table, write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--repetitions", type=int, default=40)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = [measure(name, arguments.steps, arguments.repetitions) for name in SCHEDULERS]
    table = Table("scheduler", "bare µs", "wrapped µs", "ratio", "overhead µs", "best bare/wrapped")
    for row in rows:
        table.add_row(
            row["scheduler"],
            f"{row['bare_us']:.1f}",
            f"{row['wrapped_us']:.1f}",
            f"{row['ratio']:.3f}",
            f"{row['overhead_us']:+.2f} ± {row['overhead_std_error_us']:.2f}",
            f"{row['bare_min_us']:.1f} / {row['wrapped_min_us']:.1f}",
        )
    Console().print(table)
    record = {
        **provenance(),
        "shape": SHAPE,
        "steps": arguments.steps,
        "repetitions": arguments.repetitions,
        "rows": rows,
    }
    results = Path(__file__).parent / "results"
    results.mkdir(exist_ok=True)
    file = results / "scheduler_overhead.json"
    file.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
