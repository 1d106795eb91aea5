"""Train the compact denoiser on QM9, and write it as the pipeline that the package ships.

    python benchmarks/train_qm9.py --out runs/qm9 --steps 20000
    torchrun --nproc-per-node 2 benchmarks/train_qm9.py --out runs/qm9
    python benchmarks/train_qm9.py --out runs/short --mode truncated --t-star 501
    python benchmarks/train_qm9.py --out runs/more --from qm9 --bf16 --compile --minutes 60
    python benchmarks/train_qm9.py --out runs/qm9 --plot runs/qm9/metrics.png
    python benchmarks/train_qm9.py --out runs/qm9 --ship gaga_adapter/molecules/assets/qm9

Start the same command after an interruption and it goes on, to the same weights (`qm9_training.py`
has the loop). Under `torchrun` or `accelerate launch` the processes share each batch. `--mode
truncated` trains in [0, t*] alone, with everything else as in `full`. `--from` begins with weights
that are there, and `--minutes` gives the run a time instead of a number of steps; its rate falls
over the last third. `--ship FOLDER` writes the averaged weights in half precision as a
`MoleculePipeline`; that is all it takes to replace the model.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from pathlib import Path

import torch
import torch.distributed as dist
from qm9_training import (
    AVERAGED,
    BEST,
    METRICS,
    STATE,
    Recipe,
    Run,
    averaged,
    read_averaged,
    sizes_of,
    validate,
)
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from gaga_adapter import GAGAScheduler
from gaga_adapter.distributed import process_index
from gaga_adapter.errors import GAGAError
from gaga_adapter.files.atomic import replacing
from gaga_adapter.molecules.denoiser import MoleculeDenoiser
from gaga_adapter.molecules.encoding import encode
from gaga_adapter.molecules.metrics.evaluate import evaluate
from gaga_adapter.molecules.pipeline import MoleculePipeline, edm_scheduler
from gaga_adapter.molecules.qm9.data import load_qm9
from gaga_adapter.sampling.solvers import scheduler_named

#: Files of a run with averaged weights, by the name that `--weights` has for them.
WEIGHTS = {"latest": STATE, "averaged": AVERAGED, "best": BEST}


def main() -> None:
    """Train, resume, plot or ship."""
    args = arguments()
    if args.ship is not None:
        ship(args.out / WEIGHTS[args.weights or "latest"], args.ship)
        return
    if args.plot is not None:
        plot(args.out / METRICS, args.plot)
        return
    if args.threads:
        torch.set_num_threads(args.threads)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        dist.init_process_group()
    train(args)
    if dist.is_initialized():
        dist.destroy_process_group()


def train(args: argparse.Namespace) -> None:
    """From the latest state in the folder to the last step."""
    device = torch.device(args.device)
    if device.type == "cuda" and "LOCAL_RANK" in os.environ:
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    initial = None if args.initial is None else initial_weights(args.initial)
    run = Run(recipe(args, initial), args.out, device, initial)
    x, mask = encode(load_qm9("train").subset(slice(args.molecules)), run.model.layout)
    valid, valid_mask = encode(load_qm9("valid").subset(range(512)), run.model.layout)
    if process_index() == 0:
        count = sum(p.numel() for p in run.model.parameters())
        print(f"{count:,} parameters, {len(x):,} molecules, from step {run.step:,}", flush=True)

    def judge(run: Run) -> dict[str, float]:
        model = run.averaged().to(device)
        found = validate(model, valid, valid_mask, run.recipe.t_star)
        return found | sampled(MoleculePipeline(model, edm_scheduler()), valid_mask, args)

    columns = [TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:,}")]
    with Progress(
        *columns, TimeElapsedColumn(), TimeRemainingColumn(), disable=process_index() > 0
    ) as progress:
        total = args.steps if args.minutes is None else None
        bar = progress.add_task("training", total=total, completed=run.step)

        def log(line: dict[str, float]) -> None:
            progress.update(bar, completed=line["step"])
            progress.console.print(" ".join(f"{k}={v:.4g}" for k, v in line.items()))

        run.train(
            *(x, mask, log),
            minutes=args.minutes,
            save_every=args.save_every,
            log_every=args.log_every,
            judge=judge if args.sample_size else None,
            judge_every=args.valid_every,
            keep_every=60 * args.keep_every_minutes,
            compiled=args.compile,
        )


def sampled(pipeline: MoleculePipeline, mask: Tensor, args: argparse.Namespace) -> dict[str, float]:
    """Stability and validity of a few molecules after 20 calls from t*."""
    few = scheduler_named("few-step", pipeline.scheduler)
    t_star = args.t_star if args.mode == "truncated" else None
    pipeline.scheduler = GAGAScheduler.from_pretrained(few, stats="qm9", t_star=t_star)
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    sizes = mask.sum(1)[: args.sample_size]
    found = evaluate(pipeline(n_atoms=sizes, num_inference_steps=20, generator=generator).molecules)
    return {
        "atom_stability": found.atom_stability.value,
        "molecule_stability": found.molecule_stability.value,
        "validity": found.validity.value,
    }


def ship(weights: Path, folder: Path) -> None:
    """Write averaged weights in half precision as a `MoleculePipeline`."""
    if not weights.exists():
        raise SystemExit(f"{weights} does not exist. Pass --out, and --weights best or averaged.")
    found = read_averaged(weights)
    sizes = torch.as_tensor(load_qm9("train").n_atoms).bincount()
    pipeline = MoleculePipeline(
        denoiser=averaged(found).half(),
        scheduler=edm_scheduler(),
        size_counts=[int(count) for count in sizes],
    )
    pipeline.save_pretrained(folder)
    print(f"step {found['step']:,} -> {folder}")


def plot(metrics: Path, picture: Path) -> None:
    """Losses in training and on held-out molecules, and the quality of the samples, by step."""
    import matplotlib.pyplot as plt

    lines = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    panels = {
        "error of positions, weighted": ("position", "valid_position"),
        "cross-entropy of elements, nats": ("element", "valid_element"),
        "share of samples": ("atom_stability", "molecule_stability", "validity"),
    }
    figure, axes = plt.subplots(1, len(panels), figsize=(12, 3.4), layout="constrained")
    for axis, (title, names) in zip(axes, panels.items(), strict=True):
        for name in names:
            at = [(line["step"], line[name]) for line in lines if name in line]
            if at:
                axis.plot(*zip(*at, strict=True), label=name.replace("_", " "))
        axis.set(xlabel="optimizer steps", title=title)
        if axis.has_data():
            axis.legend(frameon=False)
    with replacing(picture) as temporary:
        figure.savefig(temporary, format=picture.suffix.lstrip(".") or "png", dpi=120)
    plt.close(figure)


def initial_weights(name: str) -> MoleculeDenoiser:
    """A network to begin with: of a pipeline, or of a file with averaged weights."""
    if name.endswith(".safetensors"):
        if not Path(name).is_file():
            raise SystemExit(f"there is no file {name}.")
        return averaged(read_averaged(Path(name)))
    try:
        return MoleculePipeline.from_pretrained(name).denoiser
    except GAGAError as error:
        raise SystemExit(f"--from {name}: {error}") from error


#: Sizes of the network where nobody says others.
SIZES = {"width": 128, "pair_width": 32, "n_layers": 7, "n_vectors": 8, "n_heads": 8}


def recipe(args: argparse.Namespace, initial: MoleculeDenoiser | None = None) -> Recipe:
    """What the command line says of the weights; sizes are those of the initial ones."""
    net = dict(SIZES) if initial is None else sizes_of(initial)
    for name, own in net.items():
        asked = getattr(args, name, None)
        if asked is None:
            continue
        if initial is not None and asked != own:
            option = name.removeprefix("n_").replace("_", "-")
            raise SystemExit(f"--{option} {asked}: the weights of --from have {own}. Leave it out.")
        net[name] = asked
    return Recipe(
        steps=args.steps,
        t_star=args.t_star if args.mode == "truncated" else None,
        seed=args.seed,
        batch_size=args.batch_size,
        lr=args.lr,
        muon_lr=args.muon_lr,
        weight_decay=args.weight_decay,
        warmup=args.warmup,
        cooldown=args.cooldown,
        clip=args.clip,
        ema=args.ema,
        element_weight=args.element_weight,
        bf16=args.bf16,
        net=net,
        began_with=None if args.initial is None else str(args.initial),
    )


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/qm9"))
    parser.add_argument("--ship", type=Path, default=None, help="write the pipeline here and stop")
    parser.add_argument("--weights", choices=WEIGHTS, help="that are shipped: the latest")
    parser.add_argument("--plot", type=Path, default=None, help="draw the metrics here and stop")
    parser.add_argument(
        "--from", dest="initial", help="a pipeline or averaged weights to begin with"
    )
    parser.add_argument("--mode", choices=("full", "truncated"), default="full")
    parser.add_argument("--t-star", type=int, default=501, help="of 1000 steps, when truncated")
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument(
        "--minutes", type=float, default=None, help="instead of --steps: train so long"
    )
    parser.add_argument("--batch-size", type=int, default=64, help="of all processes together")
    parser.add_argument("--molecules", type=int, default=None, help="the first so many, of all")
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--muon-lr", type=float, default=3e-3, help="0 trains all with AdamW")
    parser.add_argument("--weight-decay", type=float, default=1e-2)
    parser.add_argument("--warmup", type=int, default=300)
    parser.add_argument("--cooldown", type=int, default=None, help="last steps, of a falling rate")
    parser.add_argument("--clip", type=float, default=2.0)
    parser.add_argument("--ema", type=float, default=0.999)
    parser.add_argument("--element-weight", type=float, default=0.5)
    parser.add_argument("--width", type=int, default=None, help="128 by default")
    parser.add_argument("--pair-width", type=int, default=None, help="32 by default")
    parser.add_argument("--layers", dest="n_layers", type=int, default=None, help="7 by default")
    parser.add_argument("--vectors", dest="n_vectors", type=int, default=None, help="8 by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=None)
    parser.add_argument("--compile", action="store_true", help="torch.compile of the layers")
    parser.add_argument("--log-every", type=int, default=100)
    parser.add_argument("--valid-every", type=int, default=1000)
    parser.add_argument("--sample-size", type=int, default=64, help="molecules to judge then")
    parser.add_argument("--save-every", type=int, default=500)
    parser.add_argument(
        "--keep-every-minutes", type=float, default=math.inf, help="write averaged.safetensors"
    )
    args = parser.parse_args(argv)
    if args.minutes is not None and not 0 < args.minutes < math.inf:
        parser.error(f"--minutes {args.minutes:g} is no time. Give a number above 0.")
    if args.minutes is not None and args.cooldown is not None:
        parser.error("--cooldown counts steps; with --minutes it is the last third of the time.")
    if args.weights is not None and args.ship is None:
        parser.error("--weights says which ones --ship writes. Give --ship FOLDER, too.")
    if args.bf16 is None:
        args.bf16 = not args.device.startswith("cpu")
    return args


if __name__ == "__main__":
    main()
