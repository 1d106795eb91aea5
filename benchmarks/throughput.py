"""How many molecules a denoiser serves in a second, times its calls: plain, compiled, bf16, graphs.

    python benchmarks/throughput.py --device cuda --out throughput.json --seconds 120

*The network alone*, on molecules of 18 atoms, QM9's mean: in single precision, in bf16 (geometry
stays in single precision), with its layers compiled (one serves all), compiled as a whole, and in a
CUDA graph, which spares the host the launches; with larger and larger batches until that gains less
than 5 % or memory is short. *The pipeline*, from the draw of the sizes to the clean tensors, sizes
as in QM9, 20 calls from t*: in the way that was fastest, and plain. Every figure of the network is
the median of five turns after a warm-up, one of the pipeline the second of two runs. What there was
no time for is left out. The file is written anew after each figure.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from gaga_adapter import GAGAScheduler
from gaga_adapter.files.atomic import replacing
from gaga_adapter.molecules.pipeline import MoleculePipeline
from gaga_adapter.sampling.solvers import scheduler_named

N_ATOMS = 18
N_CALLS = 20
GAIN = 1.05  # of a batch twice as large, below which the next one is not tried


class Way(NamedTuple):
    """A way to run the network."""

    compiled: str = ""  # nothing, the layers, or the whole
    bf16: bool = False
    graph: bool = False


#: From the surest to the one that takes longest to compile.
WAYS = {
    "plain": Way(),
    "bf16": Way(bf16=True),
    "layers compiled, bf16": Way("layers", bf16=True),
    "layers compiled, bf16, graph": Way("layers", bf16=True, graph=True),
    "layers compiled": Way("layers"),
    "compiled, bf16, graph": Way("whole", bf16=True, graph=True),
}


class Graphed(nn.Module):
    """A denoiser whose calls are replayed from one CUDA graph for each shape of its batch."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self._graphs: dict[tuple[int, ...], tuple[Any, list[Tensor], Any]] = {}

    def forward(self, sample: Tensor, sigma: Tensor | float, mask: Tensor) -> Any:  # noqa: ANN401
        """What the network gives; the next call of this shape overwrites the logits."""
        sigma = torch.as_tensor(sigma, dtype=sample.dtype, device=sample.device)
        given = [sample, sigma.expand(len(sample)), mask]
        key = tuple(sample.shape)
        if key not in self._graphs:
            self._graphs[key] = self._captured([x.clone() for x in given])
        graph, held, output = self._graphs[key]
        for old, new in zip(held, given, strict=True):
            old.copy_(new)
        graph.replay()
        return type(output)(sample=output.sample.clone(), logits=output.logits)

    def _captured(self, held: list[Tensor]) -> tuple[Any, list[Tensor], Any]:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self.network(*held)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            output = self.network(*held)
        return graph, held, output


class Device:
    """What the measurements ask of the machine."""

    def __init__(self, name: str) -> None:
        self.device = torch.device(name)
        self.is_cuda = self.device.type == "cuda"

    def wait(self) -> None:
        """Until everything that was asked for is done."""
        if self.is_cuda:
            torch.cuda.synchronize()

    def autocast(self, way: Way) -> AbstractContextManager[Any]:
        """Matrix products in bf16, or as they are."""
        if not way.bf16:
            return nullcontext()
        # weights that were cast outside of a graph would be missing in it
        return torch.autocast(self.device.type, torch.bfloat16, cache_enabled=not way.graph)

    def median(self, work: Callable[[], object], turns: int = 3) -> float:
        """Seconds of one turn, after two that do not count."""
        for _ in range(2):
            work()
        taken = []
        for _ in range(turns):
            self.wait()
            began = time.perf_counter()
            work()
            self.wait()
            taken.append(time.perf_counter() - began)
        return statistics.median(taken)


def network_of(denoiser: nn.Module, way: Way) -> nn.Module:
    """A copy of the denoiser in one of the ways."""
    network: Any = copy.deepcopy(denoiser)
    if way.compiled == "layers":
        for layer in network.layers:
            layer.compile(dynamic=True)
    elif way.compiled:
        network.compile(dynamic=True)
    return Graphed(network) if way.graph else network


def batch(size: int, home: Device) -> tuple[Tensor, Tensor, Tensor]:
    """Noised molecules of 18 atoms (B, N, C), their levels (B,) and their mask."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(size, N_ATOMS, 8, generator=generator)
    sigma = torch.linspace(0.05, 3.0, size)
    mask = torch.ones(size, N_ATOMS, dtype=torch.bool)
    x[..., :3] -= x[..., :3].mean(1, keepdim=True)
    return x.to(home.device), sigma.to(home.device), mask.to(home.device)


def flops(pipeline: MoleculePipeline) -> float:
    """Floating-point operations of the products in one call for one molecule of 18 atoms."""
    with torch.no_grad(), FlopCounterMode(display=False) as counted:
        pipeline.denoiser(*batch(2, Device("cpu")))
    return counted.get_total_flops() / 2


@torch.no_grad()
def of_network(
    network: nn.Module, way: Way, home: Device, sizes: list[int], until: float
) -> list[dict[str, Any]]:
    """Molecules times calls in a second for each batch size, as long as larger ones pay.

    A size that fails, for want of memory or else, ends the list with its error.
    """
    found: list[dict[str, Any]] = []
    for size in sizes:
        if time.perf_counter() > until:
            break
        given = batch(size, home)
        if home.is_cuda:
            torch.cuda.reset_peak_memory_stats()
        try:
            with home.autocast(way):
                began = time.perf_counter()
                network(*given)
                home.wait()
                first = time.perf_counter() - began
                seconds = home.median(lambda given=given: network(*given), turns=5)
        except Exception as error:  # out of memory has several names inside of a graph
            found.append({"batch": size, "error": f"{type(error).__name__}: {error}"[:500]})
            if home.is_cuda:
                torch.cuda.empty_cache()
            break
        line = {"batch": size, "rate": size / seconds, "seconds": seconds, "first": first}
        if home.is_cuda:
            line["peak_gb"] = torch.cuda.max_memory_allocated() / 1e9
        found.append(line)
        if len(found) > 1 and found[-1]["rate"] < GAIN * found[-2]["rate"]:
            break
    return found


def of_pipeline(
    pipeline: MoleculePipeline, way: Way, home: Device, size: int, n_molecules: int
) -> dict[str, float]:
    """The same for whole runs: sizes as in QM9, start, network, scheduler, and the way back."""
    network = network_of(pipeline.denoiser, way)
    pipeline = MoleculePipeline(pipeline.denoiser, pipeline.scheduler, pipeline.config.size_counts)
    pipeline.set_progress_bar_config(disable=True)
    few = scheduler_named("few-step", pipeline.scheduler)
    pipeline.scheduler = GAGAScheduler.from_pretrained(few, stats="qm9")

    def forward(sample: Tensor, sigma: float, mask: Tensor) -> Any:  # noqa: ANN401
        """With a tensor for the level, since a number would be compiled anew at each."""
        return network(sample, torch.full(sample.shape[:1], sigma, device=sample.device), mask)

    def run() -> Any:  # noqa: ANN401
        with home.autocast(way), mock.patch.object(pipeline.denoiser, "forward", forward):
            return pipeline(
                n_molecules,
                num_inference_steps=N_CALLS,
                batch_size=size,
                output_type="tensor",
                generator=torch.Generator().manual_seed(0),
            )

    calls = run().network_calls  # compiles and captures, too
    home.wait()
    began = time.perf_counter()
    molecules = run().molecules
    seconds = time.perf_counter() - began  # they are on the CPU
    return {
        "batch": size,
        "molecules": n_molecules,
        "calls": calls,
        "seconds": seconds,
        "rate": n_molecules * calls / seconds,
        "molecules_per_second": n_molecules / seconds,
        "finite": float(molecules.isfinite().all((1, 2)).float().mean()),
    }


def main() -> None:
    """Measure as much as there is time for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--model", default="qm9", help="embedded name, folder or hub id")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--batches", type=int, nargs="*", default=[256, 1024, 4096, 16384, 65536])
    parser.add_argument("--molecules", type=int, default=8192, help="of whole runs")
    parser.add_argument("--ways", nargs="*", default=list(WAYS), choices=list(WAYS))
    args = parser.parse_args()
    torch._dynamo.config.recompile_limit = 64
    began = time.perf_counter()
    until = began + args.seconds
    home = Device(args.device)
    pipeline = MoleculePipeline.load(args.model)
    pipeline.set_progress_bar_config(disable=True)
    result: dict[str, Any] = {
        "n_atoms": N_ATOMS,
        "parameters": sum(p.numel() for p in pipeline.denoiser.parameters()),
        "gflop_per_molecule_and_call": flops(pipeline) / 1e9,
        "network": {},
        "pipeline": {},
    }
    pipeline.to(home.device)
    pipeline.denoiser.eval()

    def write() -> None:
        with replacing(args.out) as temporary:
            temporary.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")

    def best_of(lines: list[dict[str, Any]]) -> dict[str, Any]:
        known = [line for line in lines if "rate" in line]
        return max(known, key=lambda line: line["rate"], default={"rate": 0.0, "batch": 64})

    for name in args.ways:
        way = WAYS[name]
        latest = 0.35 if way.compiled == "whole" else 0.55  # the pipeline needs time, too
        if time.perf_counter() > began + latest * args.seconds or (way.graph and not home.is_cuda):
            continue
        try:
            network = network_of(pipeline.denoiser, way)
            lines = of_network(network, way, home, args.batches, began + 0.7 * args.seconds)
        except Exception as error:  # a way that this machine does not have leaves the others alone
            result["network"][name] = {"error": f"{type(error).__name__}: {error}"[:500]}
        else:
            result["network"][name] = lines
            print(f"{name}: {best_of(lines)['rate']:,.0f} molecules x calls / s", flush=True)
        write()
    measured = {name: best_of(x) for name, x in result["network"].items() if isinstance(x, list)}
    fastest = max(measured, key=lambda name: measured[name]["rate"], default="plain")
    for name in dict.fromkeys([fastest, "plain"]):
        if time.perf_counter() > until:
            continue
        size = min(int(measured.get(name, {"batch": 64})["batch"]), args.molecules)
        n_molecules = args.molecules if name == fastest else max(size, args.molecules // 4)
        try:
            line = of_pipeline(pipeline, WAYS[name], home, size, n_molecules)
        except Exception as error:
            result["pipeline"][name] = {"error": f"{type(error).__name__}: {error}"[:500]}
        else:
            result["pipeline"][name] = line
            print(f"pipeline, {name}: {line['rate']:,.0f} molecules x calls / s", flush=True)
        write()
    rates = [line["rate"] for line in result["pipeline"].values() if "rate" in line]
    result["best"] = max([*rates, *(line["rate"] for line in measured.values())], default=None)
    result["total_seconds"] = time.perf_counter() - began
    write()


if __name__ == "__main__":
    main()
