"""`gaga sample`: molecules from a pipeline folder or from the embedded model."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gaga_adapter.cli import options
from gaga_adapter.cli.console import (
    Interrupted,
    Json,
    print_json,
    progress_bar,
    quiet_loading,
    say,
)
from gaga_adapter.distributed import process_index, started
from gaga_adapter.errors import TruncationError, WriteError, warn
from gaga_adapter.files.atomic import is_stream
from gaga_adapter.moments import ExchangeableMoments
from gaga_adapter.sampling import DEFAULT_STEPS, FEW_STEPS

if TYPE_CHECKING:
    from gaga_adapter.stats import GAGAStats

#: Most steps for which few-step sampling is chosen where no scheduler is named: more of its steps
#: make molecules more alike.
_MOST_FEW = 50
#: Share of the model's molecules beyond the sizes of the statistics from which that is said.
_MANY_BEYOND = 0.05
#: Number of steps from pure noise below which molecules come out broken, or compact and alike.
_FEW_FROM_NOISE = 50


@started()
def run(
    out: Annotated[
        Path,
        typer.Option(
            help="SDF file to write; - is standard output.", callback=options.file_or_stdout
        ),
    ],
    n: Annotated[
        int,
        typer.Option(
            "-n",
            "--number",
            help="Number of molecules; their sizes are drawn as the model's data have them.",
            min=1,
        ),
    ] = 16,
    model: options.Pipeline = "qm9",
    stats: Annotated[
        str | None,
        typer.Option(
            help="Start at t* from these statistics: folder, hub id, or qm9 (the default for "
            "--model qm9); none: start from noise.",
            autocompletion=options.completion(lambda: [*options.STATISTICS(), "none"]),
        ),
    ] = None,
    t_star: options.TStar = None,
    reference: Annotated[
        str | None,
        options.one_of(
            (*options.MOLECULE_REFERENCES, "plain"),
            "Start: auto (the default), shape, size, channel, paper, unit; plain is auto without "
            "the refinement of the statistics.",
        ),
    ] = None,
    spacing: Annotated[
        str | None,
        options.one_of(
            options.names_in("gaga_adapter.scheduler.options", "SPACINGS"),
            "log_snr: all steps in [0, t*], even in log-SNR (the default for few-step); suffix: "
            "the full grid, cut at t* (for others); respace: all steps of such a grid in [0, t*].",
        ),
    ] = None,
    scheduler: Annotated[
        str | None,
        options.one_of(
            options.names_in("gaga_adapter.sampling.solvers", "SCHEDULERS"),
            "few-step (the default from t*, up to 50 steps), ddpm (the default otherwise), ddim, "
            "dpm++, sde-dpm++, sde-dpm++-karras, unipc, euler, euler-a, heun, pndm, lms or lcm.",
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            help="Steps in all (log_snr, respace), or of the full trajectory (suffix); by default "
            "20 for few-step, and 200 for others.",
            min=1,
        ),
    ] = None,
    calls: Annotated[
        str | None,
        options.option_elsewhere(
            "--calls", "Pass --steps, which with few-step is the number of calls."
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Molecules in one network call.", min=1)] = 64,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    force: options.Force = False,
    as_json: Json = False,
) -> None:
    """Sample molecules into an SDF file.

    They are on disk in pieces of four batches, in the folder OUT.parts: a run
    that was interrupted goes on there when it is started again. Several processes
    share the work and sample what one would. Pipes get them piece by piece.

    By default few calls from t* make them: the scheduler few-step in 20 steps.

      gaga sample -n 64 --out samples.sdf
      gaga sample -n 64 --stats stats/ --model my-pipeline/ --out samples.sdf
      torchrun --nproc-per-node 4 -m gaga_adapter sample -n 9999 --out many.sdf
    """
    from gaga_adapter.molecules.pieces import sample_sdf
    from gaga_adapter.molecules.pipeline import MoleculePipeline, embedded_name
    from gaga_adapter.sampling.solvers import scheduler_named
    from gaga_adapter.scheduler import GAGAScheduler

    if out.suffix.lower() not in ("", ".sdf") and not is_stream(out):
        stem = out.name.removesuffix(".gz").removesuffix(".sdf")
        sdf = out.with_name(stem).with_suffix(".sdf")
        raise WriteError(f"cannot write {out}: molecules are written as SDF. Name it {sdf}.")
    options.require_one_document(out, as_json)
    quiet_loading()
    pipeline = MoleculePipeline.load(model)
    if stats is None:
        stats = embedded_name(model)  # the statistics of the same data
    elif stats == "none":
        stats = None
    named = {"--t-star": t_star, "--reference": reference, "--spacing": spacing}
    if stats is None and any(value is not None for value in named.values()):
        asked = ", ".join(name for name, value in named.items() if value is not None)
        raise TruncationError(
            f"{asked} given without --stats. Pass what `gaga fit` wrote for the model's data."
        )
    if scheduler is None:
        is_few = stats is not None and (steps or FEW_STEPS) <= _MOST_FEW
        scheduler = "few-step" if is_few else "ddpm"
    if steps is None:
        steps = FEW_STEPS if scheduler == "few-step" else DEFAULT_STEPS
    pipeline.scheduler = scheduler_named(scheduler, pipeline.scheduler)
    if stats is not None:
        pipeline.scheduler = GAGAScheduler.from_pretrained(
            pipeline.scheduler, stats=stats, t_star=t_star, spacing=spacing, reference=reference
        )
        if not process_index() and pipeline.scheduler.stats.layout == pipeline.denoiser.layout:
            _warn_of_sizes(pipeline.config.size_counts, pipeline.scheduler.stats)
    elif steps < _FEW_FROM_NOISE:
        warn(
            f"{steps} steps from noise are few: molecules come out broken, or too compact and too "
            "much alike. Start at t* with --stats, or pass --steps 200 and --scheduler ddpm."
        )
    pipeline.to(options.torch_device(device))
    began = time.perf_counter()
    with Interrupted.told(), progress_bar() as progress:
        done = sample_sdf(pipeline, out, n, steps, seed, batch_size, progress, replace_file=force)
    seconds = time.perf_counter() - began
    if process_index():
        return
    if as_json:
        print_json({"out": str(out), "seconds": seconds, **asdict(done)})
    calls = "all found" if done.network_calls is None else f"{done.network_calls} network calls"
    if stats is not None and done.network_calls is not None:
        calls += f" from timestep {float(pipeline.scheduler.timesteps[0]):g} on"
    earlier = f", {done.n_found} of them found in {out}.parts" if done.n_found else ""
    say(f"wrote {n} molecules to {out}{earlier}: {calls}, {seconds:.1f} s")


def _warn_of_sizes(size_counts: Sequence[int] | None, stats: GAGAStats) -> None:
    """Say that the model draws sizes that the data behind the statistics do not have."""
    if size_counts is None or not isinstance(stats.moments, ExchangeableMoments):
        return
    seen = stats.moments.sizes
    least, most = int(seen.min()), int(seen.max())
    inside = sum(size_counts[least : most + 1])
    beyond = 1 - inside / sum(size_counts)
    if beyond > _MANY_BEYOND:
        warn(
            f"sizes are drawn as the model's data have them, and {100 * beyond:.0f} % of these "
            f"molecules are smaller or larger than any of the statistics ({least} to {most} "
            "atoms): their start is extrapolated. For the sizes of your data sample in Python, "
            "where MoleculePipeline takes n_atoms=, with a model that knows such sizes."
        )
