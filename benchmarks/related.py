"""Starts, levels and rules of the literature at equal network calls, from noise and from t*.

    python benchmarks/related.py               sample what is missing, judge, write
    python benchmarks/related.py --merge       judge what has been sampled, and no more
    python benchmarks/related.py --only lu     rows whose name contains this

All rows sample the embedded QM9 model in 12 or 20 network calls, from the same seeds. DPM++ is the
deterministic second-order solver (Lu et al. 2022) that most papers about levels use; where nothing
else is said its levels are even in log-SNR. What the rows are, and what the literature says of
them, is told in docs/related-work.md. Writes `benchmarks/results/related.json`.

Two rules are no diffusers scheduler and have a loop of their own here (`own_loop`): Restart (Xu et
al. 2023) noises the sample up again and takes the way back once more; cached features (after
DeepCache, Ma et al. 2024) reuse what the middle layers of the network added in the call before.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import diffusers
import few_calls
import numpy as np
import torch
from chunks import Chunk, add_arguments, chunk_files, digest
from numpy.typing import NDArray
from provenance import provenance
from sampling_tables import Columns, estimate
from torch import Tensor, nn
from verdicts import HeldOut, judged

from gaga_adapter import GAGAScheduler, GAGAStats
from gaga_adapter.files.atomic import replacing
from gaga_adapter.molecules.data import MoleculeSet
from gaga_adapter.molecules.encoding import decode
from gaga_adapter.molecules.metrics.evaluate import judge
from gaga_adapter.molecules.pipeline import EMBEDDED, MoleculePipeline
from gaga_adapter.noise.conventions import Level
from gaga_adapter.noise.timesteps import timestep_log_snr
from gaga_adapter.sampling.loop import sample_atoms, wanted_sizes
from gaga_adapter.sampling.solvers import scheduler_named, use_exact_table
from gaga_adapter.subspace import project

ROOT = Path(__file__).parent.parent
RESULT = ROOT / "benchmarks" / "results" / "related.json"
CHUNKS = ROOT / "runs" / "related"

T_STAR, FITTED, CALLS = 300, 501, (12, 20)
FIRST, LAST = -4.6, 6.0  # log-SNR of the first call from noise, and of the last one
#: Lists of levels of diffusers' DPM++, and the options that make them.
LISTS: dict[str, dict[str, Any]] = {
    "uniform": {},
    "exponential": {"use_exponential_sigmas": True},  # even in log-SNR, over the whole table
    "karras": {"use_karras_sigmas": True},
    "leading": {"timestep_spacing": "leading"},
    "SNR 0": {"timestep_spacing": "trailing", "rescale_betas_zero_snr": True},
}
#: Log-SNR where Restart turns (the first level at or beyond), and to which it noises up.
RESTART = (4.0, 2.0)
#: Layers that are computed in every call; what the others add is reused in cached calls.
SHALLOW = (1, 1)  # at the begin and at the end


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
        rule: One of `dpm++`, `restart` and `cached`.
        calls: Number of network calls; of cached features, what the layers cost as much as.
        start: `none` for noise, `oracle`, or a reference.
        t_star: First timestep; None from noise.
        levels: `even` in log-SNR, or a name of `LISTS`.
    """

    rule: str
    calls: int
    start: str = "none"
    t_star: int | None = None
    levels: str = "even"

    @property
    def name(self) -> str:
        """Such as `dpm++ 12, shape at 300, karras`."""
        start = "noise" if self.t_star is None else f"{self.start} at {self.t_star}"
        levels = "" if self.levels == "even" else f", {self.levels}"
        return f"{self.rule} {self.calls}, {start}{levels}"


#: Starts of DPM++ on even levels.
STARTS: list[tuple[str, int | None]] = [
    ("none", None),
    ("unit", T_STAR),
    ("paper", T_STAR),
    ("size", T_STAR),
    ("shape", T_STAR),
    ("oracle", T_STAR),
    ("unit", FITTED),
    ("paper", FITTED),
    ("size", FITTED),
    ("shape", FITTED),
]
_ENDS: list[tuple[str, int | None]] = [("none", None), ("shape", T_STAR)]
#: All rows. Lists of levels are tried at the fewest calls, where levels matter most.
ROWS: list[Row] = [
    *(Row("dpm++", calls, *start) for calls in CALLS for start in STARTS),
    *(Row(rule, n, *end) for rule in ("restart", "cached") for n in CALLS for end in _ENDS),
    *(
        Row("dpm++", CALLS[0], *end, levels)
        for levels in ("uniform", "exponential", "karras")
        for end in _ENDS
    ),
    *(Row("dpm++", CALLS[0], levels=name) for name in ("leading", "SNR 0")),
]


# -- loops that are no scheduler -------------------------------------------------------------------


class Call(NamedTuple):
    """One network call of `own_loop`, and the step that follows.

    Attributes:
        log_snr: Level of the call.
        to: Log-SNR that the step goes to; infinity for the prediction itself.
        up_to: Log-SNR to which the sample is noised afterwards; None for not at all.
        is_cached: Whether the middle layers are left out.
    """

    log_snr: float
    to: float
    up_to: float | None = None
    is_cached: bool = False


def even_calls(n: int, first: float) -> list[Call]:
    """Calls at log-SNRs that rise evenly from `first` to `LAST`."""
    levels = np.linspace(first, LAST, n).tolist()
    return [Call(here, there) for here, there in pairwise([*levels, math.inf])]


def restart_calls(n: int, first: float) -> list[Call]:
    """Even levels, and one way up and back between the levels of `RESTART`.

    The way back takes a fifth of the calls. It ends where the sample was noised up.
    """
    clean, noisy = RESTART
    n_again = round(n / 5)
    path = even_calls(n - n_again, first)
    place = next(k for k, call in enumerate(path) if call.to >= clean)
    turn = path[place].to
    again = [Call(*pair) for pair in pairwise(np.linspace(noisy, turn, n_again + 1).tolist())]
    return [*path[:place], path[place]._replace(up_to=noisy), *again, *path[place + 1 :]]


def cached_calls(n: int, first: float, n_layers: int) -> list[Call]:
    """Even levels, as many as together have the layers of `n` whole calls, to a third of a call.

    Of the noisier half of the levels, every second one is a cached call.
    """

    def calls(n_levels: int) -> list[Call]:
        return [
            call._replace(is_cached=k % 2 == 1 and k < n_levels // 2)
            for k, call in enumerate(even_calls(n_levels, first))
        ]

    return next(found for m in range(2 * n, 0, -1) if cost(found := calls(m), n_layers) < n + 1 / 3)


def cost(calls: list[Call], n_layers: int) -> float:
    """Layers that are computed, in whole calls."""
    n_cached = sum(call.is_cached for call in calls)
    return len(calls) - n_cached * (1 - sum(SHALLOW) / n_layers)


class _Layer(nn.Module):
    """Some layers of a denoiser as one, which can add again what they added the time before."""

    def __init__(self, layers: list[nn.Module], holder: dict[str, Any]) -> None:
        super().__init__()
        self.inner = nn.ModuleList(layers)
        self.holder = holder

    def forward(self, *streams: Tensor) -> tuple[Tensor, ...]:
        """Atoms, pairs and vectors; what follows them is passed on to every layer."""
        state, rest = streams[:3], streams[3:]
        if self.holder["is_cached"]:
            return tuple(x + dx for x, dx in zip(state, self.holder["added"], strict=True))
        out = state
        for layer in self.inner:
            out = layer(*out, *rest)
        self.holder["added"] = [y - x for x, y in zip(state, out, strict=True)]
        return tuple(out)


@contextmanager
def cached_layers(denoiser: Any) -> Iterator[dict[str, Any]]:  # noqa: ANN401 - a denoiser
    """The middle layers of a denoiser are left out while `is_cached` of the result is set."""
    layers, holder = denoiser.layers, {"is_cached": False}
    first, last = SHALLOW
    middle = list(layers)[first : len(layers) - last]
    ends = list(layers)[:first], list(layers)[len(layers) - last :]
    denoiser.layers = nn.ModuleList([*ends[0], _Layer(middle, holder), *ends[1]])
    try:
        yield holder
    finally:
        denoiser.layers = layers


def own_loop(
    pipe: MoleculePipeline,
    calls: list[Call],
    start: Any,  # noqa: ANN401 - a reference
    count: int,
    generator: torch.Generator,
    batch_size: int = 64,
) -> MoleculeSet:
    """Molecules by DPM++ 2M (Lu et al. 2022, algorithm 2), call by call.

    With h the half of a difference of log-SNR, and D the prediction extrapolated through the call
    before, a step is `x' = B / b x - A (e^-h - 1) D`. After a way up the memory is empty. Sizes and
    starting noise are drawn as the pipeline draws them.

    Args:
        pipe: Pipeline.
        calls: Network calls; the prediction of the last one is the sample.
        start: Reference at t*.
        count: Number of molecules.
        generator: Source of randomness.
        batch_size: Number of molecules in one call.
    """
    denoiser = pipe.denoiser
    plain = type(denoiser).forward  # its own call may be compiled, for the layers that it has

    def batch(rows: Tensor, noise: Tensor, mask: Tensor, stepped: Any) -> Tensor:  # noqa: ANN401
        level = _level(calls[0].log_snr)
        x, clean, before = start.at(*level).transport(noise, mask), noise, None
        with cached_layers(denoiser) as holder:
            for call in calls:
                level, there = _level(call.log_snr), _level(call.to)
                holder["is_cached"] = call.is_cached
                clean = plain(denoiser, x / level.a, level.b / level.a, mask).sample
                stepped(len(calls))
                if math.isinf(call.to):
                    break
                h, ahead = (call.to - call.log_snr) / 2, clean
                if before is not None:
                    ahead = clean + h / before[1] / 2 * (clean - before[0])
                x = there.b / level.b * x - there.a * math.expm1(-h) * ahead
                before = clean, h
                if call.up_to is not None:
                    up, before = _level(call.up_to), None
                    fresh = project(torch.randn(x.shape, generator=generator), mask)
                    shrunk = up.a / there.a
                    x = shrunk * x + math.sqrt(up.b**2 - (shrunk * there.b) ** 2) * fresh
        return clean

    sizes = wanted_sizes(count, None, pipe.config.size_counts, generator)
    with torch.no_grad():
        clean, mask = sample_atoms(
            sizes,
            denoiser.layout.n_channels,
            batch,
            batch_size,
            generator,
            lambda total: pipe.progress_bar(total=total),
            len(calls),
        )
    return decode(clean, mask, denoiser.layout)


def _level(log_snr: float) -> Level:
    """Coefficients of a level where the variance is preserved."""
    return Level(math.sqrt(1 / (1 + math.exp(-log_snr))), math.sqrt(1 / (1 + math.exp(log_snr))))


# -- the bench -------------------------------------------------------------------------------------


class Bench(few_calls.Bench):
    """The embedded weights with the rows of this benchmark."""

    def scheduler(self, cell: Any) -> Any:  # noqa: ANN401 - of another kind than its parent's
        """The scheduler of a row, or the one that has its levels."""
        if cell.levels == "even":
            return super().scheduler(few_calls.Cell("dpm++", cell.calls, cell.start, cell.t_star))
        options = LISTS[cell.levels]
        scheduler = scheduler_named(cell.rule, self.base)
        scheduler = type(scheduler).from_config(scheduler.config, **options)
        use_exact_table(scheduler)
        if cell.t_star is None:
            return scheduler
        return GAGAScheduler.from_pretrained(
            scheduler,
            stats=self.stats,
            t_star=cell.t_star,
            reference=cell.start,
            spacing="respace",
        )

    def files(self, cell: Any, n: int) -> list[tuple[int, int, Path]]:  # noqa: ANN401
        """Seed, number of molecules and file of each chunk."""
        return chunk_files(self.folder, cell.name, asdict(cell), self.setting, n)

    def own_calls(self, row: Row) -> list[Call]:
        """The calls of a row that is no scheduler."""
        first = FIRST if row.t_star is None else timestep_log_snr(self.base, row.t_star)
        if row.rule == "restart":
            return restart_calls(row.calls, first)
        return cached_calls(row.calls, first, len(self.pipeline.denoiser.layers))

    def sample(self, cell: Any, seed: int, count: int) -> Chunk:  # noqa: ANN401
        """The molecules of one seed."""
        pipeline, base = self.pipeline, self.base
        if cell.rule not in ("restart", "cached"):
            pipeline.scheduler = self.scheduler(cell)
            try:
                return Chunk.sampled(pipeline, count, cell.calls, self.setting, seed)
            finally:
                pipeline.scheduler = base
        calls = self.own_calls(cell)
        start = self.stats.reference("unit" if cell.t_star is None else cell.start)
        generator = torch.Generator().manual_seed(self.setting["seed"] + seed)
        cpu, wall = time.process_time(), time.perf_counter()
        batch_size = self.setting["batch_size"]
        molecules = own_loop(pipeline, calls, start, count, generator, batch_size)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        return Chunk(molecules, len(calls), cpu, wall, pipeline.device.type)

    def record(self, cell: Any, n: int) -> dict[str, Any]:  # noqa: ANN401
        """What a row cost, and all that can be said of it alone."""
        chunks = self.chunks(cell, n)
        molecules = MoleculeSet.concatenate([chunk.molecules for chunk in chunks], cell.name)
        whole = chunks[0].network_calls
        if cell.rule == "cached":
            whole = cost(self.own_calls(cell), len(self.pipeline.denoiser.layers))
        return asdict(cell) | {
            "network_calls": whole,
            "cpu_seconds": sum(chunk.cpu_seconds for chunk in chunks),
            **judged(molecules, self.held_out),
        }

    def stable(self, cell: Any, n: int) -> NDArray[np.float64]:  # noqa: ANN401
        """Whether each molecule of a row is stable."""
        molecules = MoleculeSet.concatenate([c.molecules for c in self.chunks(cell, n)], cell.name)
        return judge(molecules).stable.astype(float)


# -- the results -----------------------------------------------------------------------------------


def gain(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> dict[str, float]:
    """Difference of two shares of molecules from the same seeds, pair by pair."""
    apart = ours - theirs
    return {"value": float(apart.mean()), "std_error": float(apart.std(ddof=1) / len(apart) ** 0.5)}


def from_noise(row: Row) -> Row:
    """The row of the same rule, calls and levels that starts from noise."""
    return replace(row, start="none", t_star=None)


def write(bench: Bench, n: int, out: Path) -> None:
    """The results of all rows whose chunks are there; those that were judged before are kept."""
    old = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
    known = old["rows"] if old and (old["setting"], old["n"]) == (bench.setting, n) else {}
    rows = {}
    for row in ROWS:
        if row.name in known:
            rows[row.name] = known[row.name]
            continue
        if bench.sampled(row, n) < n:
            continue
        rows[row.name] = bench.record(row, n)
        if row.t_star is not None and bench.sampled(from_noise(row), n) >= n:
            rows[row.name]["gain"] = gain(bench.stable(row, n), bench.stable(from_noise(row), n))
    found = provenance() | {
        "setting": bench.setting,
        "n": n,
        "t_star": T_STAR,
        "fitted": FITTED,
        "restart": RESTART,
        "last_log_snr": timestep_log_snr(bench.base, bench.base.config.num_train_timesteps - 1),
        "held_out": bench.held_out.record,
        "rows": rows,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as temporary:
        temporary.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


# -- the table -------------------------------------------------------------------------------------

COLUMNS: Columns = {
    "stable %": ("figures", "molecule_stability", 100, 1),
    "v_x": ("figures", "v_x", 1, 2),
    "spread": ("figures", "v_x_spread", 1, 2),
    "W bonds, mÅ": ("distances", "bond_lengths", 1000, 1),
}
_SHAPE = f"`shape` at {T_STAR}"
#: Lines of the table: what was done, the start, and the name of the row with `{}` for the calls.
LINES: list[tuple[str, str, str]] = [
    ("DPM++ on even levels", "noise", "dpm++ {}, noise"),
    ("truncation without a generator", f"N(0, I) at {T_STAR}", f"dpm++ {{}}, unit at {T_STAR}"),
    ("GAGA's scalar start", f"`paper` at {T_STAR}", f"dpm++ {{}}, paper at {T_STAR}"),
    ("Gaussian teleportation", f"`size` at {T_STAR}", f"dpm++ {{}}, size at {T_STAR}"),
    ("this package", _SHAPE, f"dpm++ {{}}, shape at {T_STAR}"),
    ("truncation, a perfect generator", f"data at {T_STAR}", f"dpm++ {{}}, oracle at {T_STAR}"),
    ("truncation without a generator", f"N(0, I) at {FITTED}", f"dpm++ {{}}, unit at {FITTED}"),
    ("GAGA's scalar start", f"`paper` at {FITTED}", f"dpm++ {{}}, paper at {FITTED}"),
    ("Gaussian teleportation", f"`size` at {FITTED}", f"dpm++ {{}}, size at {FITTED}"),
    ("this package", f"`shape` at {FITTED}", f"dpm++ {{}}, shape at {FITTED}"),
    *(
        (label, start, f"{rule} {{}}, {short}{levels}")
        for label, rule, levels in (
            ("levels uniform in t", "dpm++", ", uniform"),
            ("levels even in log-SNR, whole table", "dpm++", ", exponential"),
            ("levels of Karras", "dpm++", ", karras"),
            ("Restart, once", "restart", ""),
            ("cached layers", "cached", ""),
        )
        for start, short in (("noise", "noise"), (_SHAPE, f"shape at {T_STAR}"))
    ),
    ("`leading` timesteps", "noise", "dpm++ {}, noise, leading"),
    ("zero terminal SNR, `trailing`", "noise", "dpm++ {}, noise, SNR 0"),
]
#: Further lines, of rows that `few_calls.py` has sampled from the same seeds.
MORE_LINES: list[tuple[str, str, str]] = [
    (label, start, f"{rule} {{}}, {short}")
    for label, rule, matched in (
        ("SDE-DPM++", "sde-dpm++", ""),
        ("re-noising throughout", "re-noise", ""),
        ("`FewStepScheduler`", "few-step", ", matched"),
    )
    for start, short in (("noise", f"none{matched}"), (_SHAPE, f"shape at {T_STAR}{matched}"))
]


def markdown(found: dict[str, Any]) -> str:
    """All rows, those of 12 and of 20 calls beside each other."""
    file = RESULT.parent / "few_calls.json"
    few = json.loads(file.read_text(encoding="utf-8"))["weights"]["embedded"]["cells"]
    head = [f"{name}{f', {calls} calls' if k == 0 else ''}" for calls in CALLS
            for k, name in enumerate(COLUMNS)]  # fmt: skip
    lines = ["| what | from | " + " | ".join(head) + " |", "|---" * (len(head) + 2) + "|"]
    counts = set()
    for rows, wanted in ((found["rows"], LINES), (few, MORE_LINES)):
        for label, start, name in wanted:
            cells = [rows.get(name.format(calls), {}) for calls in CALLS]
            if any(cells):
                counts |= {cell["n"] for cell in cells if cell}
                shown = [
                    estimate(cell.get(part, {}).get(figure), scale, digits)
                    for cell in cells
                    for part, figure, scale, digits in COLUMNS.values()
                ]
                lines.append(f"| {label} | {start} | " + " | ".join(shown) + " |")
    data = [
        estimate(found["held_out"].get(part, {}).get(figure), scale, digits)
        for part, figure, scale, digits in COLUMNS.values()
    ]
    lines.append("| *QM9, test split* | – | " + " | ".join(data * len(CALLS)) + " |")
    numbers = " to ".join(f"{n:,}" for n in sorted({min(counts), max(counts)}))
    lines += [
        "",
        f"{numbers} molecules a row from the same seeds, embedded model; ± is one standard error. "
        "v_x is the size of molecules, *spread* its standard deviation over molecules, and *W "
        "bonds* how far their bond lengths are from those of QM9. `python benchmarks/related.py`; "
        "the last six rows but one: `python benchmarks/few_calls.py`",
    ]
    return "\n".join(lines)


def main() -> None:
    """Sample the missing chunks, judge the rows, write them."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("-n", type=int, default=512, help="molecules a row")
    parser.add_argument("--only", default="", help="rows whose name contains this")
    add_arguments(parser)
    parser.add_argument("--no-compile", action="store_true", help="run the network as it is")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--chunks", type=Path, default=CHUNKS, help="keeps the chunks")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    diffusers.utils.logging.disable_progress_bar()
    setting = {
        "weights": digest(EMBEDDED["qm9"] / "denoiser" / "diffusion_pytorch_model.safetensors"),
        "statistics": few_calls.of_moments(GAGAStats.from_pretrained("qm9")),
        "seed": args.seed,
        "chunk": args.chunk,
        "batch_size": args.batch_size,
    }
    bench = Bench("embedded", setting, args.chunks, None, HeldOut(), not args.no_compile)
    shard, n_shards = (int(part) for part in args.shard.split("/"))
    rows = [] if args.merge else [row for row in ROWS if args.only in row.name]
    files = [(*one, row) for row in rows for one in bench.files(row, args.n)]
    for seed, count, file, row in sorted(files, key=lambda one: one[0]):  # all rows grow together
        if seed % n_shards != shard or file.exists():
            continue
        chunk = bench.sample(row, seed, count)
        chunk.write(file)
        print(
            f"{time.strftime('%H:%M:%S')} {row.name} #{seed}: {chunk.network_calls} calls, "
            f"{chunk.cpu_seconds:.0f} s",
            flush=True,
        )
    if not args.sample_only:
        write(bench, args.n, args.out)


if __name__ == "__main__":
    main()
