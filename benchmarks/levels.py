"""Fitted levels against even ones, at 6 and 8 network calls, with the embedded model.

    python benchmarks/levels.py                 fit, sample, judge
    python benchmarks/levels.py -n 2048         molecules a row
    python benchmarks/levels.py --rows even bound   without the search, which takes minutes
    python benchmarks/levels.py --merge         only judge what was sampled

`fit_levels` sees molecules of QM9's validation split and chooses twice, by the variational bound
alone and by the search. Then all rows sample from the same seeds, which no fit has seen, and are
judged against the test split with the metrics that no fit has seen either. Fits and chunks of
molecules are kept under `runs/levels`, so a run that was killed goes on.
"""

from __future__ import annotations

import argparse
import json
import time
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from chunks import Chunk
from numpy.typing import NDArray
from provenance import provenance
from verdicts import HeldOut, judged

from gaga_adapter import FewStepScheduler, GAGAScheduler, GAGAStats, fit_levels
from gaga_adapter.files.atomic import replacing
from gaga_adapter.molecules.data import MoleculeSet
from gaga_adapter.molecules.encoding import encode
from gaga_adapter.molecules.metrics.evaluate import judge
from gaga_adapter.molecules.pipeline import MoleculePipeline
from gaga_adapter.molecules.qm9.data import load_qm9
from gaga_adapter.noise.fitted import FittedLevels

ROOT = Path(__file__).parent.parent
RESULT = ROOT / "benchmarks" / "results" / "levels.json"
RUNS = ROOT / "runs" / "levels"
T_STAR, CALLS, N_ITEMS, CHUNK = 300, (8, 6), 256, 256
SETTING = {"seed": 1000, "batch_size": 128}
ROWS = ("even", "bound", "search")


def fitted(pipe: MoleculePipeline, stats: GAGAStats, calls: int, method: str) -> dict[str, Any]:
    """The levels of one fit, from a file if it was made before."""
    file = RUNS / f"fit-{calls}-{method}.json"
    if not file.is_file():
        molecules = load_qm9("valid").subset(slice(4 * N_ITEMS))
        data = encode(molecules, pipe.denoiser.layout)
        began = time.process_time()
        found = fit_levels(
            pipe, stats, calls, data, t_star=T_STAR, method=method, n_items=N_ITEMS,
            progress=lambda what, done, total: print(method, calls, what, done, total, flush=True),
        )  # fmt: skip
        record = {"cpu_seconds": time.process_time() - began, "levels": found.to_dict()}
        with replacing(file) as draft:
            draft.write_text(json.dumps(record, indent=1))
    record = json.loads(file.read_text())
    assert isinstance(record, dict)
    return record


def sampled(
    pipe: MoleculePipeline, stats: GAGAStats, calls: int, row: str, n: int, merge: bool
) -> tuple[MoleculeSet, tuple[float, ...]] | None:
    """Molecules of a row, chunk by chunk, and its levels."""
    spacing = "log_snr" if row == "even" else "fitted"
    base = FewStepScheduler.from_scheduler(BASE)
    if row != "even":
        if merge and not (RUNS / f"fit-{calls}-{row}.json").is_file():
            return None
        levels = FittedLevels.from_dict(fitted(pipe, stats, calls, row)["levels"])
        stats = stats.with_levels(levels)
    pipe.scheduler = GAGAScheduler.from_pretrained(base, stats, t_star=T_STAR, spacing=spacing)
    pipe.scheduler.set_timesteps(calls)
    ratios = [pipe.scheduler.ratios[k].item() for k in range(-calls, 0)]
    molecules = []
    for k in range(0, n, CHUNK):
        file = RUNS / f"{row}-{calls}-{k // CHUNK}.npz"
        if not file.is_file():
            if merge:
                continue
            Chunk.sampled(pipe, CHUNK, calls, SETTING, k // CHUNK).write(file)
            print(row, calls, "chunk", k // CHUNK, flush=True)
        molecules.append(Chunk.read(file).molecules)
    if not molecules:
        return None
    return MoleculeSet.concatenate(molecules, row), tuple(-2 * np.log(ratios))


def rows(pipe: MoleculePipeline, names: list[str], n: int, merge: bool) -> list[dict[str, Any]]:
    """Rows, judged; stability is compared with that of the even levels pair by pair."""
    stats, held_out, found = GAGAStats.from_pretrained("qm9"), HeldOut(), []
    even: dict[int, NDArray[np.float64]] = {}
    for row, calls in product(names, CALLS):
        made = sampled(pipe, stats, calls, row, n, merge)
        if made is None:
            continue
        molecules, log_snrs = made
        stable = judge(molecules).stable.astype(float)
        even.setdefault(calls, stable)
        record = {"calls": calls, "row": row, "log_snrs": log_snrs}
        if row != "even":
            m = min(len(stable), len(even[calls]))
            gain = stable[:m] - even[calls][:m]
            value, error = float(gain.mean()), float(gain.std(ddof=1) / np.sqrt(m))
            record |= fitted(pipe, stats, calls, row)
            record["gain"] = {"value": value, "std_error": error}
        found.append(record | judged(molecules, held_out))
    return sorted(found, key=lambda one: -one["calls"])


def table(found: dict[str, Any]) -> str:
    """Rows of `levels.json` for a page."""
    lines = [
        "| calls | levels | log-SNR of the calls | stable % | more than even | v_x | anisotropy "
        "| W bonds mÅ | W angles ° |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in found["rows"]:
        figures, apart = row["figures"], row["distances"]
        levels = ", ".join(f"{level:.2f}" for level in row["log_snrs"])
        gain = row.get("gain")
        cells = [
            str(row["calls"]),
            row["row"],
            levels,
            _number(figures["molecule_stability"], 100, 1),
            "" if gain is None else _number(gain, 100, 1),
            _number(figures["v_x"], 1, 3),
            _number(figures["anisotropy"], 1, 3),
            _number(apart["bond_lengths"], 1000, 1),
            _number(apart["bond_angles"], 1, 2),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    held_out = found["held_out"]["figures"]
    lines.append("")
    lines.append(
        f"{found['rows'][0]['n']:,} molecules a row, the same seeds in all rows; start `shape` at "
        f"t = {found['t_star']}. QM9's test split has v_x {held_out['v_x']['value']:.3f} and "
        f"anisotropy {held_out['anisotropy']['value']:.3f}. Fits: {found['n_items']} molecules of "
        "the validation split. `python benchmarks/levels.py`"
    )
    return "\n".join(lines)


def _number(estimate: dict[str, float], scale: float, digits: int) -> str:
    value, error = estimate["value"] * scale, (estimate["std_error"] or 0.0) * scale
    return f"{value:.{digits}f} ± {error:.{digits}f}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-n", type=int, default=2048)
    parser.add_argument("--rows", nargs="*", choices=ROWS, default=list(ROWS))
    parser.add_argument("--merge", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    RUNS.mkdir(parents=True, exist_ok=True)
    pipeline = MoleculePipeline.load("qm9")
    pipeline.set_progress_bar_config(disable=True)
    BASE = pipeline.scheduler
    document = {
        **provenance(),
        "t_star": T_STAR,
        "n_items": N_ITEMS,
        # The test split itself, which `sampling.py` has judged by the same functions.
        "held_out": json.loads((RESULT.parent / "sampling.json").read_text())["held_out"],
        "rows": rows(pipeline, asked.rows, asked.n, asked.merge),
    }
    with replacing(RESULT) as written:
        written.write_text(json.dumps(document, indent=1) + "\n")
    print(table(document))
