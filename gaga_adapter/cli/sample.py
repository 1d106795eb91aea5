"""`gaga sample`: molecules from a pipeline folder or from the embedded model."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from gaga_adapter.cli import options
from gaga_adapter.cli.console import Json, print_json, progress_bar, quiet_loading, say
from gaga_adapter.distributed import process_index, started
from gaga_adapter.errors import TruncationError, WriteError
from gaga_adapter.files.atomic import is_stream
from gaga_adapter.sampling import DEFAULT_STEPS


@started()
def run(
    out: Annotated[
        Path,
        typer.Option(
            help="SDF file to write; - is standard output.", callback=options.file_or_stdout
        ),
    ],
    n: Annotated[int, typer.Option("-n", "--number", help="Number of molecules.", min=1)] = 16,
    model: Annotated[
        str,
        typer.Option(
            help="Pipeline folder or hub id; qm9 is the small model shipped here.",
            autocompletion=options.completion(options.PIPELINES),
        ),
    ] = "qm9",
    stats: Annotated[
        str | None,
        typer.Option(
            help="Start at t* from these statistics: folder, hub id, or qm9.",
            autocompletion=options.completion(options.STATISTICS),
        ),
    ] = None,
    t_star: Annotated[
        float | None, typer.Option(help="Start at this timestep of the scheduler instead.")
    ] = None,
    reference: Annotated[
        str | None,
        options.one_of(
            (*options.MOLECULE_REFERENCES, "plain"),
            "Start: auto (the default), shape, size, channel, paper, unit; plain is auto without "
            "what --refine fitted.",
        ),
    ] = None,
    spacing: Annotated[
        str | None,
        options.one_of(
            options.names_in("gaga_adapter.scheduler.options", "SPACINGS"),
            "suffix (the default): fewer network calls; respace: all steps in [0, t*].",
        ),
    ] = None,
    scheduler: Annotated[
        str,
        options.one_of(
            options.names_in("gaga_adapter.sampling.solvers", "SCHEDULERS"),
            "ddpm, ddim, dpm++, sde-dpm++, sde-dpm++-karras, unipc, euler, euler-a, heun, pndm "
            "or lms.",
        ),
    ] = "ddpm",
    steps: Annotated[
        int, typer.Option(help="Steps of the full trajectory (suffix), or in all (respace).", min=1)
    ] = DEFAULT_STEPS,
    batch_size: Annotated[int, typer.Option(help="Molecules in one network call.", min=1)] = 64,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    as_json: Json = False,
) -> None:
    """Sample molecules into an SDF file.

    They are on disk as they are made, in the folder OUT.parts: a run that was
    interrupted goes on there when it is started again. Several processes share
    the work and sample what one would. Pipes get them as they are made.

      gaga sample -n 64 --stats qm9 --out samples.sdf
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
    pipeline.scheduler = scheduler_named(scheduler, pipeline.scheduler)
    if stats is None and t_star is not None:
        stats = embedded_name(model)  # the statistics of the same data
    named = {"--t-star": t_star, "--reference": reference, "--spacing": spacing}
    if stats is None and any(value is not None for value in named.values()):
        asked = ", ".join(name for name, value in named.items() if value is not None)
        raise TruncationError(
            f"{asked} given without --stats. Pass what `gaga fit` wrote for the model's data."
        )
    if stats is not None:
        pipeline.scheduler = GAGAScheduler.from_pretrained(
            pipeline.scheduler, stats=stats, t_star=t_star, spacing=spacing, reference=reference
        )
    pipeline.to(options.torch_device(device))
    began = time.perf_counter()
    with progress_bar() as progress:
        done = sample_sdf(pipeline, out, n, steps, seed, batch_size, progress)
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
