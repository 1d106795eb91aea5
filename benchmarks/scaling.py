"""What several processes cost: rates of fitting and sampling, the merge, and what follows for many.

    python benchmarks/scaling.py                                measure, write the json
    python benchmarks/scaling.py --markdown                     the table, from the json
    python benchmarks/scaling.py --markdown --rate 250000       for a device of that rate

Measured with 1 and 2 processes: what one core does in a second of its own time (other programs on
the machine do not count), so that the efficiency is the time that one process needs over the time
that two need together. From these rates follows the wall time on W devices:

    fit     N / (W r) + N / s (1 - 1/W) + ceil(log2 W) (merge + bytes / bandwidth) + curve
    sample  n / (W r), in whole pieces, which no process waits for

with r molecules a second for reading and moments, and molecules times network calls for sampling;
s is the rate at which records of a file are passed over that other processes read.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import pickle
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

RESULT = Path(__file__).parent / "results" / "scaling.json"
REPEATS = 3
N_SDF, N_CURVE = 4_096, 4_000
N_SAMPLE, STEPS, BATCH = 256, 10, 16
BANDWIDTH = 1.25e9  # bytes/s between machines: 10 Gbit/s, assumed
N_DATA, N_WANTED = 10_000_000, 1_000_000  # of the projection
DEVICES = (1, 8, 64)


# -- measuring -----------------------------------------------------------------------------------


def work(out: Path) -> None:
    """What one process of the run does; the first one writes what all found."""
    import torch

    from gaga_adapter.cli.options import Reading, open_data
    from gaga_adapter.distributed import Processes, started
    from gaga_adapter.fitting import fit
    from gaga_adapter.molecules.formats import write_sdf
    from gaga_adapter.molecules.pieces import sample_sdf
    from gaga_adapter.molecules.pipeline import MoleculePipeline
    from gaga_adapter.molecules.qm9.data import load_qm9
    from gaga_adapter.streaming import _merge, _UniformSample, collect

    torch.set_num_threads(1)
    with started():
        run = Processes.of_the_run()
        share = (run.index, run.count)
        molecules = load_qm9("train")
        file = out.with_suffix(".sdf")
        if run.index == 0:
            write_sdf(molecules.subset(slice(N_SDF)), file)
        run.everyones(None)

        def timed(job: Any) -> tuple[list[float], Any]:  # noqa: ANN401
            """CPU seconds of all processes together, per repetition, and the last result."""
            seconds = []
            for _ in range(REPEATS):
                run.everyones(None)
                began = time.process_time()
                found = job()
                seconds.append(sum(run.everyones(time.process_time() - began)))
            return seconds, found

        found: dict[str, Any] = {"processes": run.count}
        memory = open_data(Reading(["qm9:train"]))
        total = memory.total

        def one_pass(source: Any) -> Any:  # noqa: ANN401
            return collect(source.batches(share), source.layout, N_CURVE, sharing="own")

        found["fit_seconds"], whole = timed(lambda: one_pass(memory))
        found["fit_rate"] = total / median(found["fit_seconds"])
        from_file = open_data(Reading([str(file)]))
        found["sdf_seconds"], _ = timed(lambda: one_pass(from_file))
        found["sdf_rate"] = N_SDF / median(found["sdf_seconds"])

        if run.count == 1:  # of a share without a batch: what every process does for all records
            found["scan_seconds"], _ = timed(lambda: list(from_file.batches((N_SDF, N_SDF + 1))))
            found["scan_rate"] = N_SDF / median(found["scan_seconds"])

        if whole is not None:
            sample = _UniformSample(N_CURVE, 0)
            sample.update(whole.x, whole.mask, 0)
            content = pickle.dumps((whole.moments, sample))
            began = time.process_time()
            _merge(pickle.loads(content), pickle.loads(pickle.dumps(pickle.loads(content))))
            found["merge_seconds"] = time.process_time() - began
            found["merge_bytes"] = len(content)
        if run.count == 1:
            began = time.process_time()
            fit(memory.batches(), memory.layout, n_criterion=N_CURVE)
            found["curve_seconds"] = time.process_time() - began - median(found["fit_seconds"])

        pipeline = MoleculePipeline.load()

        def draw() -> Any:  # noqa: ANN401
            return sample_sdf(pipeline, out.with_name("drawn.sdf"), N_SAMPLE, STEPS, 0, BATCH)

        found["sample_seconds"], drawn = timed(draw)
        found["sample_rate"] = N_SAMPLE * drawn.network_calls / median(found["sample_seconds"])
        if run.index == 0:
            out.write_text(json.dumps(found), encoding="utf-8")


def measure() -> dict[str, Any]:
    """Both runs, and how many calls a truncated sampler makes."""
    from provenance import provenance

    from gaga_adapter import GAGAScheduler
    from gaga_adapter.molecules.pipeline import edm_scheduler

    runs = []
    for count in (1, 2):
        with tempfile.TemporaryDirectory() as folder:
            launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
            command = [sys.executable, *launcher, __file__, "--worker", f"{folder}/found.json"]
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            subprocess.run(command, check=True, env=environment)
            runs.append(json.loads(Path(folder, "found.json").read_text(encoding="utf-8")))
        print(json.dumps(runs[-1], indent=2), flush=True)
    scheduler = GAGAScheduler.from_pretrained(edm_scheduler(), stats="qm9")
    scheduler.set_timesteps(1000)
    return provenance() | {
        "setting": {
            "repeats": REPEATS,
            "sdf_molecules": N_SDF,
            "n_criterion": N_CURVE,
            "sampled": N_SAMPLE,
            "steps": STEPS,
            "batch_size": BATCH,
        },
        "runs": {str(run["processes"]): run for run in runs},
        "network_calls": {"full": 1000, "GAGA": len(scheduler.timesteps)},
        "assumed": {"bandwidth_bytes_per_second": BANDWIDTH},
    }


# -- what follows --------------------------------------------------------------------------------


def fit_seconds(found: dict[str, Any], n: int, devices: int, rate: str) -> float:
    """Wall time of `gaga fit` on data of n molecules."""
    one = found["runs"]["1"]
    a_round = one["merge_seconds"] + one["merge_bytes"] / BANDWIDTH
    shared = n / (devices * one[rate])
    if rate == "sdf_rate":
        shared += n / one["scan_rate"] * (1 - 1 / devices)
    return shared + math.ceil(math.log2(devices)) * a_round + one["curve_seconds"]


def sample_seconds(n: int, calls: int, devices: int, rate: float, batch_size: int = 64) -> float:
    """Wall time of `gaga sample`: that of the process with most pieces."""
    piece = 4 * batch_size
    most = math.ceil(math.ceil(n / piece) / devices)
    return min(most * piece, n) * calls / rate


def markdown(found: dict[str, Any], rate: float | None = None) -> str:
    """The projected table with its legend.

    Args:
        found: the json.
        rate: molecules times network calls per second of one device; that of a CPU core here if
            not given.
    """
    one, two = found["runs"]["1"], found["runs"]["2"]
    source = "given for the device" if rate else "measured, embedded model"
    rate = rate or one["sample_rate"]
    lines = [
        "| work | " + " | ".join(f"{n} process{'es' if n > 1 else ''}" for n in DEVICES) + " |",
        "|---" * (len(DEVICES) + 1) + "|",
    ]
    for label, key in (("from arrays", "fit_rate"), ("from SDF files", "sdf_rate")):
        cells = [duration(fit_seconds(found, N_DATA, n, key)) for n in DEVICES]
        lines.append(f"| fit {N_DATA:,} molecules {label} | " + " | ".join(cells) + " |")
    for label, calls in found["network_calls"].items():
        cells = [duration(sample_seconds(N_WANTED, calls, n, rate)) for n in DEVICES]
        name = f"sample {N_WANTED:,}, {label}, {calls} network calls"
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    efficiency = {key: two[key] / one[key] for key in ("fit_rate", "sdf_rate", "sample_rate")}
    lines += [
        "",
        "Projected, not run: from the rates of one core "
        f"({found['hardware']['processor'].split(' x ')[-1]}, busy with other work, in its own "
        f"time): {one['fit_rate']:,.0f} molecules a second from arrays into the moments, "
        f"{one['sdf_rate']:,.0f} from SDF files, whose records of other processes are passed over "
        f"at {one['scan_rate']:,.0f} a second; {rate:,.0f} molecules × network calls a second "
        f"({source}). Two processes took {100 / efficiency['fit_rate']:.0f}, "
        f"{100 / efficiency['sdf_rate']:.0f} and {100 / efficiency['sample_rate']:.0f} % of the "
        f"core time of one for the same work. A merge is {one['merge_bytes'] / 2**20:.1f} MiB and "
        f"{1e3 * one['merge_seconds']:.0f} ms a round, in log2 W rounds, sent at "
        f"{BANDWIDTH * 8 / 1e9:.0f} Gbit/s (assumed); the curve is {one['curve_seconds']:.0f} s on "
        "the first process. No GPU was measured: `python benchmarks/scaling.py --markdown --rate "
        "R` is for yours, and `gaga sample --json` says its R = n_molecules × network_calls / "
        "seconds. `python benchmarks/scaling.py`",
    ]
    return "\n".join(lines)


def duration(seconds: float) -> str:
    """Two digits and a unit."""
    for unit, size in (("days", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 1.5 * size:
            value = seconds / size
            return f"{value:.1f} {unit}" if value < 10 else f"{value:,.0f} {unit}"
    return f"{seconds:.0f} s"


def main() -> None:
    """Measure, or print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--markdown", action="store_true", help="print the table")
    parser.add_argument("--rate", type=float, help="molecules x network calls / s of a device")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.worker)
        return
    if not options.markdown:
        found = measure()
        RESULT.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(markdown(json.loads(RESULT.read_text(encoding="utf-8")), options.rate))


if __name__ == "__main__":
    main()
