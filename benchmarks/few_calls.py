"""A dozen network calls from t*, against a thousand from noise.

    python benchmarks/few_calls.py                     sample what is missing, judge, write
    python benchmarks/few_calls.py --group claims      one group of rows alone
    python benchmarks/few_calls.py --merge             judge what has been sampled, and no more

Rows are sampled in chunks of one seed each, and compared as pairs (`claims.py`, which states the
margins). The rows of EDM's own checkpoint need its code and its weights (`edm_checkpoint.py`); they
are skipped, with the reason, where these are not there. Writes `benchmarks/results/few_calls.json`.

A row is named after its rule, its calls and its start. Rules: `few-step` makes ancestral steps up
to log-SNR 1 and re-noises from there on; `re-noise` re-noises throughout; `ddpm`, `ddim` and
`sde-dpm++` are those of diffusers. All have levels even in log-SNR, but `ddim`, which takes no
levels and has its own timesteps. Starts: the references of the package; `none`, unit noise at
log-SNR -4.6; `oracle`, held-out molecules noised to the level, which is what a perfect start would
give; `noise`, the noise of the level alone.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import claims
import diffusers
import edm_checkpoint
import numpy as np
import torch
from chunks import Chunk, add_arguments, chunk_files, digest
from claims import Linearised
from other_starts import BareNoise, Oracle, start_from
from provenance import provenance
from strain import strain
from verdicts import FORMS, HeldOut

from gaga_adapter import FewStepScheduler, GAGAScheduler, GAGAStats
from gaga_adapter.files.atomic import replacing
from gaga_adapter.molecules.data import MoleculeSet
from gaga_adapter.molecules.encoding import encode
from gaga_adapter.molecules.metrics.chemistry import to_rdkit
from gaga_adapter.molecules.metrics.distances import distances
from gaga_adapter.molecules.metrics.plausibility import answers, has_posebusters
from gaga_adapter.molecules.pipeline import EMBEDDED, MoleculePipeline
from gaga_adapter.molecules.qm9.data import load_qm9
from gaga_adapter.moments import ExchangeableMoments
from gaga_adapter.noise.timesteps import timestep_log_snr
from gaga_adapter.sampling.solvers import scheduler_named

ROOT = Path(__file__).parent.parent
RESULT = ROOT / "benchmarks" / "results" / "few_calls.json"
CHUNKS = ROOT / "runs" / "few_calls"

#: Log-SNR of the last call: fewer calls end earlier.
ENDS = {4: 5.0, 6: 5.25, 8: 5.5, 10: 5.75}
LAST = 6.0
#: Spacing of a rule that takes no levels but its own.
_SPACINGS = {"ddim": "respace"}
#: The few calls whose levels FlashMol publishes, as timesteps of 1000.
FLASHMOL = (599, 502, 452)


@dataclass(frozen=True)
class Cell:
    """One row.

    Attributes:
        rule: `few-step`, `re-noise`, or a name of `gaga_adapter.sampling.solvers`.
        calls: Number of network calls; 0 for all of the model's own.
        start: A reference, `none`, `oracle` or `noise`.
        t_star: First timestep; None where there is no start at t*.
        matched: Whether the moments are matched.
        grid: Timesteps, in place of levels even in log-SNR.
    """

    rule: str
    calls: int
    start: str = "none"
    t_star: int | None = None
    matched: bool = False
    grid: tuple[int, ...] | None = None

    @property
    def name(self) -> str:
        """Such as `few-step 12, shape at 300, matched`."""
        if self.calls == 0:
            return f"{self.rule}, all calls"
        start = self.start if self.t_star is None else f"{self.start} at {self.t_star}"
        parts = [f"{self.rule} {self.calls}", start]
        parts += ["matched"] if self.matched else []
        parts += [f"at {' '.join(map(str, self.grid))}"] if self.grid else []
        return ", ".join(parts)

    @property
    def log_snr_max(self) -> float:
        """Log-SNR of the last call."""
        return ENDS.get(self.calls, LAST)


BASELINE = Cell("ddpm", 1000)
OWN = Cell("own", 0)


def few(calls: int, start: str, t_star: int | None = None, matched: bool = True) -> Cell:
    """A row of the rule that is claimed."""
    return Cell("few-step", calls, start, t_star, matched)


@dataclass(frozen=True)
class Group:
    """Rows that are sampled together, the most important first."""

    weights: str
    n: int
    cells: list[Cell] = field(default_factory=list)


STARTS = ("shape", "size", "paper", "unit", "oracle")
GROUPS: dict[str, Group] = {
    "claims": Group(
        "embedded", 4096, [BASELINE, *(few(calls, "shape", 300) for calls in (12, 20, 8))]
    ),
    "edm-own": Group("edm", 4096, [OWN]),
    "edm": Group("edm", 4096, [few(calls, "shape", 60) for calls in (12, 20)]),
    "curve": Group("embedded", 1024, [few(calls, "shape", 300) for calls in (10, 16, 40, 6, 4)]),
    "noise": Group("embedded", 1024, [few(calls, "none") for calls in (12, 20, 8, 40, 6, 4)]),
    "starts": Group(
        "embedded",
        1024,
        [
            Cell("few-step", calls, start, None if start == "none" else 300, matched)
            for calls in (12, 20)
            for start in ("none", "oracle", "size", "shape", "unit", "paper")
            for matched in (True, False)
        ],
    ),
    "rules": Group(
        "embedded",
        1024,
        [
            Cell(rule, calls, start, 300 if start == "shape" else None)
            for calls in (12, 20)
            for rule in ("sde-dpm++", "ddim", "ddpm", "re-noise")
            for start in ("none", "shape")
        ],
    ),
    "flashmol": Group(
        "embedded",
        1024,
        [
            cell
            for start in ("noise", "unit", "shape", "oracle")
            for cell in (
                Cell("re-noise", 3, start, 599, grid=FLASHMOL),
                Cell("few-step", 12, start, 599),
            )
        ],
    ),
    "edm-noise": Group(
        "edm", 1024, [*(few(calls, "none") for calls in (12, 20)), few(20, "shape", 80)]
    ),
}


# -- the claims ------------------------------------------------------------------------------------

#: Claims about pairs of rows: what is said, of which row, against which, and how it is tested.
CLAIMS: list[dict[str, Any]] = [
    {
        "said": f"{calls} calls from t* have more stable molecules than {many}"
        + (f", by {100 * by:.0f} points or more" if by else ""),
        "weights": weights,
        "row": row,
        "rival": rival,
        "test": "superior",
        "by": by,
    }
    for weights, calls, row, rival, many, by in (
        ("embedded", 12, few(12, "shape", 300), BASELINE, "DDPM in 1000", 0.0),
        ("embedded", 20, few(20, "shape", 300), BASELINE, "DDPM in 1000", 0.12),
        ("edm", 20, few(20, "shape", 60), OWN, "EDM's own 201", 0.0),
        ("edm", 12, few(12, "shape", 60), OWN, "EDM's own 201", 0.0),
    )
] + [
    {
        "said": f"{calls} calls from t* are worse than {many} in no figure",
        "weights": weights,
        "row": row,
        "rival": rival,
        "test": "non-inferior",
    }
    for weights, calls, row, rival, many in (
        ("embedded", 12, few(12, "shape", 300), BASELINE, "DDPM in 1000"),
        ("embedded", 20, few(20, "shape", 300), BASELINE, "DDPM in 1000"),
        ("edm", 12, few(12, "shape", 60), OWN, "EDM's own 201"),
        ("edm", 20, few(20, "shape", 60), OWN, "EDM's own 201"),
    )
] + [
    {
        "said": "8 calls from t* have 95 % of the stable molecules of DDPM in 1000",
        "weights": "embedded",
        "row": few(8, "shape", 300),
        "rival": BASELINE,
        "test": "superior",
        "by": 0.0,
        "of": 0.95,
    },
    {
        "said": "8 calls from t* have v_x within 1 % of QM9's",
        "weights": "embedded",
        "row": few(8, "shape", 300),
        "rival": BASELINE,
        "test": "within",
    },
]  # fmt: skip
#: Rows that PoseBusters looks at, half a second a molecule.
PLAUSIBLE = {
    "embedded": (BASELINE, few(12, "shape", 300), few(20, "shape", 300)),
    "edm": (OWN, few(20, "shape", 60), few(12, "shape", 60)),
}


# -- sampling --------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Bench:
    """One set of weights, its statistics, and its rows.

    Attributes:
        weights: `embedded` or `edm`.
        setting: What decides the molecules of a row, besides the row.
        folder: Keeps the chunks.
        baseline: Folder of the chunks of DDPM in 1000 steps, where `sampling.py` has sampled them.
        held_out: The test split of QM9.
        compiled: Whether the embedded network is compiled.
    """

    weights: str
    setting: dict[str, Any]
    folder: Path
    baseline: Path | None
    held_out: HeldOut
    compiled: bool = True

    @cached_property
    def pipeline(self) -> Any:  # noqa: ANN401 - a pipeline of molecules
        """The model."""
        if self.weights == "edm":
            return edm_checkpoint.load(fast=self.compiled)
        pipeline = MoleculePipeline.load("qm9")
        pipeline.set_progress_bar_config(disable=True)
        if self.compiled:
            compiled = torch.compile(pipeline.denoiser.forward, dynamic=True)
            pipeline.denoiser.forward = lambda sample, sigma, mask: compiled(
                sample, torch.as_tensor(sigma, dtype=sample.dtype), mask
            )  # of a sigma that is a number it would compile once a level
        return pipeline

    @cached_property
    def base(self) -> Any:  # noqa: ANN401 - a diffusers scheduler
        """The model's own scheduler."""
        return self.pipeline.scheduler

    @cached_property
    def stats(self) -> GAGAStats:
        """The embedded statistics; or the moments of the training split in EDM's own channels."""
        if self.weights == "embedded":
            return GAGAStats.from_pretrained("qm9")
        layout = self.pipeline.layout()
        moments = ExchangeableMoments(layout.n_features)
        for part in load_qm9("train").batches(2048):
            moments.update(*encode(part, layout))
        return GAGAStats(layout, moments, timestep_log_snr(self.base, 60))

    @cached_property
    def oracle(self) -> Oracle:
        """Molecules of the test split."""
        return Oracle(self.held_out.molecules, load_qm9(), self.stats)

    def files(self, cell: Cell, n: int) -> list[tuple[int, int, Path]]:
        """Seed, number of molecules and file of each chunk."""
        if cell == BASELINE:
            return self._baseline(n)
        own = asdict(cell) | {"log_snr_max": cell.log_snr_max}
        return chunk_files(self.folder / self.weights, cell.name, own, self.setting, n)

    def _baseline(self, n: int) -> list[tuple[int, int, Path]]:
        """DDPM in 1000 steps, which chunks of `sampling.py` serve for as well."""
        setting = {**self.setting, "statistics": None}
        own = chunk_files(self.folder / self.weights, BASELINE.name, {}, setting, n)
        if self.baseline is None:
            return own
        return [(seed, count, self.baseline / file.name) for seed, count, file in own]

    def scheduler(self, cell: Cell) -> Any:  # noqa: ANN401 - a diffusers scheduler
        """The scheduler of a row."""
        if cell in (BASELINE, OWN):
            return self.base
        if cell.rule in ("few-step", "re-noise"):
            options: dict[str, Any] = {"log_snr_max": cell.log_snr_max}
            options |= {"renoise_from": -math.inf} if cell.rule == "re-noise" else {}
            options |= {} if cell.matched else {"match_below": -math.inf}
            scheduler: Any = FewStepScheduler.from_scheduler(self.base, **options)
        else:
            scheduler = scheduler_named(cell.rule, self.base)
        if cell.start == "none" and isinstance(scheduler, FewStepScheduler):
            scheduler.moments = self.stats.moments if cell.matched else None
            return scheduler
        known = cell.start in STARTS and cell.start != "oracle"
        scheduler = GAGAScheduler.from_pretrained(
            scheduler,
            stats=self.stats,
            t_star=950 if cell.t_star is None else cell.t_star,
            reference=cell.start if known else "unit",
            spacing="suffix" if cell.grid else _SPACINGS.get(cell.rule, "log_snr"),
        )
        if cell.start == "oracle":
            start_from(scheduler, self.oracle)
        elif cell.start == "noise":
            start_from(scheduler, BareNoise())
        return scheduler

    def sample(self, cell: Cell, seed: int, count: int) -> Chunk:
        """The molecules of one seed."""
        pipeline, base = self.pipeline, self.base
        pipeline.scheduler = self.scheduler(cell)
        steps = cell.calls
        if cell == OWN:
            steps = len(pipeline.denoiser.log_sigma)
        elif self.weights == "edm":
            steps = cell.calls - 1  # the model's own last step is a call, too
        try:
            return Chunk.sampled(pipeline, count, steps, self.setting, seed, cell.grid)
        finally:
            pipeline.scheduler = base

    # -- what is there -----------------------------------------------------------------------------

    def sampled(self, cell: Cell, n: int) -> int:
        """Number of molecules, at most `n`, whose chunks are there without a gap."""
        there = 0
        for _, count, file in self.files(cell, n):
            if not file.exists():
                break
            there += count
        return there

    def chunks(self, cell: Cell, n: int) -> list[Chunk]:
        """The chunks."""
        return [Chunk.read(file) for _, _, file in self.files(cell, n)]

    def molecules(self, cell: Cell, n: int) -> MoleculeSet:
        """All molecules of a row."""
        return MoleculeSet.concatenate([c.molecules for c in self.chunks(cell, n)], cell.name)

    def figures(self, cell: Cell, n: int) -> dict[str, Linearised | None]:
        """All figures of a row with what each molecule adds, which are kept beside its chunks."""
        known = self._kept(
            cell, f"figures-{n}", lambda: _to_arrays(self._measured(self.molecules(cell, n)))
        )
        figures = _from_arrays(known) | claims.forms(
            self.molecules(cell, n), self.held_out.molecules
        )
        passed = self.plausible(cell, n, None)
        if passed is not None:
            figures["plausible"] = claims.share(passed, np.ones(len(passed)))
        return figures

    def _measured(self, molecules: MoleculeSet) -> dict[str, Linearised | None]:
        measured = claims.measured(molecules, self.held_out)
        return measured | {"strain": claims.median(strain(molecules))}

    def plausible(self, cell: Cell, n: int, tick: Any) -> np.ndarray | None:  # noqa: ANN401
        """Whether each of the first `n` molecules passes PoseBusters; None where nobody asked."""
        name = "plausible"
        file = self._beside(cell, name)
        if tick is None:
            return np.load(file)["passed"][:n] if file.exists() else None

        def ask() -> dict[str, np.ndarray]:
            results = answers(to_rdkit(self.molecules(cell, n)), tick)
            return {"passed": (np.array(list(results.values())) == 1).all(axis=0)}

        return self._kept(cell, name, ask)["passed"]

    def _beside(self, cell: Cell, name: str) -> Path:
        folder = self.files(cell, 1)[0][2].parent
        return self.folder / self.weights / folder.name / f"{name}.npz"

    def _kept(self, cell: Cell, name: str, make: Any) -> dict[str, np.ndarray]:  # noqa: ANN401
        file = self._beside(cell, name)
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            found = make()
            with replacing(file) as temporary, temporary.open("wb") as stream:
                np.savez_compressed(stream, **found)
        with np.load(file) as found:
            return dict(found)

    # -- results -----------------------------------------------------------------------------------

    def record(self, cell: Cell, n: int) -> dict[str, Any]:
        """Figures with standard errors, and what the row cost."""
        chunks = self.chunks(cell, n)
        known = self.figures(cell, n)
        data = self.held_out.record["figures"]
        shown: dict[str, Any] = {}
        for name, one in known.items():
            if one is None:
                shown[name] = None
                continue
            value, error = one.value, one.std_error
            if name in FORMS:  # the figure itself, with the error of its own molecules
                value += data[name]["value"]
                error = claims.combined(one, _nothing(one), 0.0, len(one.generated)).error
                error = math.sqrt(max(error**2 - float(one.held_out @ one.held_out), 0.0))
            shown[name] = {"value": value, "std_error": error}
        passed = known.get("plausible")
        return asdict(cell) | {
            "n": n,
            "strain_of": "molecules with all hydrogens",
            "n_plausible": 0 if passed is None else len(passed.generated),
            "log_snr_max": cell.log_snr_max,
            "network_calls": chunks[0].network_calls,
            "cpu_seconds": sum(chunk.cpu_seconds for chunk in chunks),
            "figures": {k: v for k, v in shown.items() if not k.startswith("W1 ")},
            "distances": {k[3:]: v for k, v in shown.items() if k.startswith("W1 ")},
        }

    def judge(self, claim: dict[str, Any], n: int) -> dict[str, Any] | None:
        """A claim with its verdict, of as many pairs as both rows have, or None if few."""
        row, rival = claim["row"], claim["rival"]
        n = self.sampled(row, n)
        if claim["test"] != "within":
            n = min(n, self.sampled(rival, n))
        chunk = self.setting["chunk"]
        if n < claims.FEWEST_CHUNKS * chunk:
            return None
        data = {k: v["value"] for k, v in self.held_out.record["figures"].items()}
        ours = _first(self.figures(row, n))
        theirs = ours if claim["test"] == "within" else _first(self.figures(rival, n))
        if claim["test"] == "superior":
            options = {"by": claim["by"], "of": claim.get("of", 1.0)}
            found = claims.superior(ours, theirs, "molecule_stability", chunk=chunk, **options)
        elif claim["test"] == "within":
            found = claims.within(ours, "v_x", data["v_x"], chunk)
        else:
            found = claims.non_inferior(ours, theirs, data, chunk)
        named = {key: claim[key] for key in ("said", "weights", "test")}
        return {**named, "row": row.name, "rival": rival.name, "pairs": n, **found}


def _first(figures: dict[str, Linearised | None]) -> dict[str, Linearised | None]:
    """What is compared."""
    return {name: one for name, one in figures.items() if name in claims.MARGINS}


def _nothing(like: Linearised) -> Linearised:
    return Linearised(0.0, 0 * like.generated, 0 * like.held_out)


def _to_arrays(figures: dict[str, Linearised | None]) -> dict[str, np.ndarray]:
    """Arrays of the figures, for a file."""
    arrays = {}
    for name, one in figures.items():
        if one is None:
            arrays[f"{name}|none"] = np.zeros(0)
            continue
        arrays[f"{name}|value"] = np.array(one.value)
        arrays[f"{name}|generated"] = one.generated
        arrays[f"{name}|held_out"] = one.held_out
    return arrays


def _from_arrays(arrays: dict[str, np.ndarray]) -> dict[str, Linearised | None]:
    """The figures of `_to_arrays`."""
    names = dict.fromkeys(key.split("|")[0] for key in arrays)
    return {
        name: Linearised(
            float(arrays[f"{name}|value"]), arrays[f"{name}|generated"], arrays[f"{name}|held_out"]
        )
        if f"{name}|value" in arrays
        else None
        for name in names
    }


# -- the run ---------------------------------------------------------------------------------------


def held_out_record(held_out: HeldOut, n: int) -> dict[str, Any]:
    """Figures of the test split, and what chance alone makes of as many of its molecules."""
    generator = torch.Generator().manual_seed(0)
    few_molecules = held_out.molecules.subset(slice(n))
    floor = distances(few_molecules, held_out.geometry, generator).to_dict()["noise_floor"]
    freed = claims.median(strain(few_molecules))
    return held_out.record | {
        "noise_floor": floor,
        "noise_floor_of": n,
        "strain": freed and {"value": freed.value, "std_error": freed.std_error},
    }


def of_moments(stats: GAGAStats) -> str:
    """Digest of all that a start depends on."""
    assert isinstance(stats.moments, ExchangeableMoments)
    hashed = hashlib.sha256(str(stats.moments.keeps_tensors).encode())
    for name, tensor in sorted(stats.moments.state_dict().items()):
        hashed.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return hashed.hexdigest()[:16]


def wanted(args: argparse.Namespace) -> Iterator[tuple[str, Group, Cell]]:
    """The rows that the command line asks for."""
    for name in args.group:
        for cell in GROUPS[name].cells:
            if args.only in cell.name:
                yield GROUPS[name].weights, GROUPS[name], cell


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("-n", type=int, help="molecules a row, in place of its group's number")
    parser.add_argument("--group", nargs="*", choices=list(GROUPS), default=list(GROUPS))
    parser.add_argument("--only", default="", help="rows whose name contains this")
    add_arguments(parser)
    parser.add_argument("--again", action="store_true", help="judge known rows again")
    parser.add_argument("--plausible", type=int, default=0, help="molecules for PoseBusters")
    parser.add_argument("--no-compile", action="store_true", help="run the networks as they are")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--chunks", type=Path, default=CHUNKS, help="keeps the chunks")
    parser.add_argument("--baseline", type=Path, help="chunks of DDPM 1000 by sampling.py")
    return parser.parse_args()


def benches(args: argparse.Namespace) -> dict[str, Bench]:
    """Those whose weights are here; of the others the reason is printed."""
    shared = {"seed": args.seed, "chunk": args.chunk, "batch_size": args.batch_size}
    make = partial(
        Bench,
        folder=args.chunks,
        baseline=args.baseline,
        held_out=HeldOut(),
        compiled=not args.no_compile,
    )
    embedded = {
        "weights": digest(EMBEDDED["qm9"] / "denoiser" / "diffusion_pytorch_model.safetensors"),
        "statistics": of_moments(GAGAStats.from_pretrained("qm9")),
        **shared,
    }
    found = {"embedded": make("embedded", embedded)}
    reason = edm_checkpoint.missing()
    if reason is None:
        edm = {"weights": digest(edm_checkpoint.weights()), "statistics": "train split", **shared}
        found["edm"] = make("edm", edm)
    else:
        print(f"no rows of the EDM checkpoint: {reason}", file=sys.stderr)
    return found


def main() -> None:
    """Sample the missing chunks, judge the rows and claims, write them."""
    args = arguments()
    torch.set_num_threads(args.threads)
    diffusers.utils.logging.disable_progress_bar()
    shard, n_shards = (int(part) for part in args.shard.split("/"))
    there = benches(args)
    if not args.merge:
        for weights, group, cell in wanted(args):
            if weights not in there:
                continue
            for seed, count, file in there[weights].files(cell, args.n or group.n):
                if seed % n_shards != shard or file.exists():
                    continue
                chunk = there[weights].sample(cell, seed, count)
                chunk.write(file)
                print(
                    f"{time.strftime('%H:%M:%S')} {weights} {cell.name} #{seed}: {count} molecules,"
                    f" {chunk.network_calls} calls, {chunk.cpu_seconds:.0f} s",
                    flush=True,
                )
    if not args.sample_only:
        write(args, there)


def write(args: argparse.Namespace, there: dict[str, Bench]) -> None:
    """The results of all rows whose chunks are there; those of others stay as they were."""
    old = json.loads(args.out.read_text(encoding="utf-8")) if args.out.exists() else {}
    found = provenance() | {"margins": claims.MARGINS, "level": claims.LEVEL, "weights": {}}
    for weights in ("embedded", "edm"):
        before = old.get("weights", {}).get(weights)
        if weights not in there:
            if before is not None:
                found["weights"][weights] = before
            continue
        bench = there[weights]
        if before is None or before["setting"] != bench.setting:
            before = {"setting": bench.setting, "cells": {}, "claims": []}
        cells = {}
        for name, group in GROUPS.items():
            for cell in group.cells if group.weights == weights else []:
                known = cells.get(cell.name, before["cells"].get(cell.name))
                n = bench.sampled(cell, args.n or group.n) if name in args.group else 0
                is_again = n and args.again and cell.name not in cells  # it may be in two groups
                if n > (0 if known is None else known["n"]) or is_again:
                    if args.plausible and cell in PLAUSIBLE[weights] and has_posebusters():
                        bench.plausible(cell, min(n, args.plausible), lambda done: None)
                    known = bench.record(cell, n)
                    print(time.strftime("%H:%M:%S"), weights, cell.name, n, flush=True)
                if known is not None:
                    cells[cell.name] = known
        judged = [bench.judge(one, args.n or 4096) for one in CLAIMS if one["weights"] == weights]
        told = [one for one in judged if one is not None] or before["claims"]
        most = max((cell["n"] for cell in cells.values()), default=0)
        found["weights"][weights] = {
            "setting": bench.setting,
            "held_out": _held_out(before.get("held_out"), bench.held_out, most),
            "cells": cells,
            "claims": told,
        }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(args.out) as temporary:
        temporary.write_text(json.dumps(found, indent=1) + os.linesep, encoding="utf-8")


def _held_out(known: dict[str, Any] | None, held_out: HeldOut, n: int) -> dict[str, Any] | None:
    """What is known of the test split, or what is found if it is of another number."""
    if known is not None and known["noise_floor_of"] == n:
        return known
    return held_out_record(held_out, n) if n else None


if __name__ == "__main__":
    main()
