"""Steps of training a second, by what is turned on: plain, bf16, compiled layers, and both.

    python benchmarks/train_speed.py
    python benchmarks/train_speed.py --device cuda --batch-size 1024 4096

The loop is that of `train_qm9.py`, on QM9, with the network that ships. The variants take turns, a
few steps each, so that what else the machine does falls on all of them; on a CPU a step costs the
processor's time, on a GPU the wall's. On a CPU each variant is then profiled: how much of a step is
matrix products, fused kernels, the optimizers and the rest. Writes
`benchmarks/results/train_speed.json`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from provenance import provenance
from qm9_training import Recipe, Run, sizes_of
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from gaga_adapter.files.atomic import replacing
from gaga_adapter.molecules.encoding import encode
from gaga_adapter.molecules.pipeline import MoleculePipeline
from gaga_adapter.molecules.qm9.data import load_qm9

RESULT = Path(__file__).parent / "results" / "train_speed.json"
#: Name -> autocast to bfloat16, compiled layers.
VARIANTS = {
    "plain": (False, False),
    "bf16": (True, False),
    "compiled": (False, True),
    "bf16, compiled": (True, True),
}
PARTS = ("matrix products", "fused kernels", "optimizers", "the rest")


def clock_of(device: torch.device) -> Callable[[], float]:
    """Seconds of the processor, or of the wall once a GPU has done what it was told."""
    if device.type != "cuda":
        return time.process_time

    def now() -> float:
        torch.cuda.synchronize()
        return time.perf_counter()

    return now


class Variant:
    """One way to train, ready for some more steps.

    Args:
        name: Name of the variant.
        batch_size: Number of molecules in a step.
        folder: Folder of its run.
        device: Device that it trains on.
        data: Encoded molecules (M, N, 3+F) and their mask (M, N).
        net: Options of the network.
    """

    def __init__(
        self,
        name: str,
        batch_size: int,
        folder: Path,
        device: torch.device,
        data: tuple[Tensor, Tensor],
        net: dict[str, Any],
    ) -> None:
        bf16, self.compiled = VARIANTS[name]
        recipe = Recipe(steps=10**9, batch_size=batch_size, bf16=bf16, net=net)
        self.name, self.batch_size, self.data = name, batch_size, data
        self.run = Run(recipe, folder, device)
        self.run.save = lambda: None  # type: ignore[method-assign]  # not what is timed
        self.seconds: list[float] = []

    def steps(self, n: int) -> None:
        """So many steps of the loop."""
        never = 10**9
        self.run.train(
            *self.data,
            until=self.run.step + n,
            save_every=never,
            log_every=never,
            compiled=self.compiled and self.run.step == 0,
        )

    def time(self, n: int) -> None:
        """Seconds of a step, the mean of n."""
        now = clock_of(self.run.device)
        began = now()
        self.steps(n)
        self.seconds.append((now() - began) / n)

    def parts(self, n: int) -> dict[str, float]:
        """Share of the processor's time that each of `PARTS` takes, from a profile of n steps."""
        with profile(activities=[ProfilerActivity.CPU]) as found:
            self.steps(n)
        took = dict.fromkeys(PARTS, 0.0)
        for event in found.events() or []:
            took[part_of(event)] += event.self_cpu_time_total
        total = sum(took.values())
        return {name: value / total for name, value in took.items()}


def part_of(event: Any) -> str:  # noqa: ANN401 - an event of the profiler
    """Which of `PARTS` an event belongs to: the optimizers own whatever they call."""
    above = event
    while above is not None:
        if above.name.startswith("Optimizer.step"):
            return "optimizers"
        above = above.cpu_parent
    if event.name in ("aten::mm", "aten::addmm", "aten::bmm"):
        return "matrix products"
    return "fused kernels" if "CompiledFxGraph" in event.name else "the rest"


def main(argv: list[str] | None = None) -> None:
    """Measure, print and write."""
    args = arguments(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    denoiser = MoleculePipeline.from_pretrained("qm9").denoiser
    net = sizes_of(denoiser) | args.net
    x, mask = encode(load_qm9("train").subset(slice(args.molecules)), denoiser.layout)
    data = x.to(device), mask.to(device)
    found = provenance() | {"device": str(device), "net": net, "rows": []}
    for batch_size in args.batch_size:
        with tempfile.TemporaryDirectory() as scratch:
            variants = []
            for name in args.variants:
                folder = Path(scratch) / name
                variants.append(Variant(name, batch_size, folder, device, data, net))
                began = time.perf_counter()
                variants[-1].steps(args.warmup)
                print(f"{name}: {time.perf_counter() - began:.0f} s to begin", flush=True)
            for _ in range(args.rounds):
                for variant in variants:
                    variant.time(args.steps)
            found["rows"] += [row(variant, args.steps) for variant in variants]
        with replacing(args.out) as temporary:
            temporary.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(markdown(found))


def row(variant: Variant, steps: int) -> dict[str, Any]:
    """What the json says of a variant."""
    seconds = statistics.median(variant.seconds)
    return {
        "variant": variant.name,
        "batch_size": variant.batch_size,
        "seconds": variant.seconds,
        "steps_per_second": 1 / seconds,
        "molecules_per_second": variant.batch_size / seconds,
        "parts": variant.parts(steps) if variant.run.device.type == "cpu" else None,
    }


def markdown(found: dict[str, Any]) -> str:
    """The table of the manual."""
    lines = [
        "| training | batch | steps/s | molecules/s | times plain | " + " | ".join(PARTS) + " |"
    ]
    lines.append("|---" * (5 + len(PARTS)) + "|")
    base = found["rows"][0]
    for one in found["rows"]:
        shares = " | ".join(
            f"{100 * one['parts'][name]:.0f} %" if one["parts"] else "–" for name in PARTS
        )
        lines.append(
            f"| {one['variant']} | {one['batch_size']} | {one['steps_per_second']:.2f} "
            f"| {one['molecules_per_second']:.0f} "
            f"| {one['molecules_per_second'] / base['molecules_per_second']:.2f} | {shares} |"
        )
    where = found["hardware"]["accelerator"] if found["device"].startswith("cuda") else None
    where = where or f"{found['hardware']['processor']}, {found['hardware']['threads']} thread"
    lines += [
        "",
        f"Steps of `train_qm9.py` with the network that ships ({where}), the variants in turns; "
        "the last columns are shares of a step in a profile. `python benchmarks/train_speed.py`",
    ]
    return "\n".join(lines)


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch-size", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--steps", type=int, default=6, help="of a variant in one turn")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=4, help="steps before, with compilation")
    parser.add_argument("--molecules", type=int, default=20_000, help="the first so many, of all")
    parser.add_argument("--net", type=json.loads, default={}, help="options of the network, json")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULT)
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
