"""Train the compact denoiser on QM9, and write it as the pipeline that the package ships.

    python benchmarks/train_qm9.py --out runs/qm9 --steps 20000
    python benchmarks/train_qm9.py --out runs/qm9 --ship gaga_adapter/molecules/assets/qm9

The state is saved every `--save-every` steps and found again by itself: start the same command
after an interruption and it goes on with the same batches, noise and learning rates. `--ship
FOLDER` writes the averaged weights in half precision as a `MoleculePipeline`; that is all it takes
to replace the model.

The loss is the error of the predicted clean molecule: positions weighted by 1 / c_out^2 (Karras et
al. 2022), elements by cross-entropy. Noise levels are half uniform in t of `edm/polynomial_2`,
stratified over the batch, and half log-normal in sigma, which spends more on the scale of bond
lengths.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from gaga_adapter.molecules.denoiser import MoleculeDenoiser
from gaga_adapter.molecules.encoding import encode
from gaga_adapter.molecules.metrics import evaluate
from gaga_adapter.molecules.pipeline import MoleculePipeline, edm_scheduler
from gaga_adapter.molecules.qm9 import load_qm9
from gaga_adapter.paths import named_path
from gaga_adapter.solvers import scheduler_named
from gaga_adapter.subspace import remove_mean

SCHEDULE = "edm/polynomial_2"


def main() -> None:
    """Train, resume or ship."""
    args = parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.ship is not None:
        ship(args.out / "state.pt", args.ship)
        return
    if args.threads:
        torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    torch.manual_seed(args.seed)  # initial weights; everything else has its own generator
    model = MoleculeDenoiser(
        width=args.width,
        pair_width=args.pair_width,
        n_layers=args.layers,
        n_vectors=args.vectors,
        n_heads=8,
    ).to(device)
    average = {name: value.detach().clone() for name, value in model.named_parameters()}
    optimizers = make_optimizers(model, args)
    step = 0
    state_file = args.out / "state.pt"
    if state_file.exists():
        state = torch.load(state_file, map_location=device, weights_only=True)
        model.load_state_dict(state["model"])
        average = state["average"]
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        step = state["step"]

    train, train_mask = encode(load_qm9("train"), model.layout)
    valid, valid_mask = encode(load_qm9("valid").subset(range(512)), model.layout)
    sampler = Batches(train_mask.sum(1), args.batch_size, args.seed)
    print(
        f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(train):,} molecules, "
        f"{len(sampler):,} steps an epoch, from step {step:,}",
        flush=True,
    )
    columns = [TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:,}")]
    with (
        Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn()) as progress,
        (args.out / "metrics.jsonl").open("a") as log,
    ):
        bar = progress.add_task("training", total=args.steps, completed=step)
        running, began = torch.zeros(2), time.perf_counter()
        while step < args.steps:
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = group["base_lr"] * learning_rate(step, args.steps, args.warmup)
            rows = sampler.rows(step)
            n_max = int(train_mask[rows].sum(1).max())
            x0, mask = train[rows, :n_max].to(device), train_mask[rows, :n_max].to(device)
            generator = torch.Generator().manual_seed(args.seed * 1_000_003 + step)
            with torch.autocast(device.type, torch.bfloat16, enabled=args.bf16):
                position, element = losses(model, x0, mask, generator)
                loss = position + args.element_weight * element
            for optimizer in optimizers:
                optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), args.clip)
            for optimizer in optimizers:
                optimizer.step()
            step += 1
            decay = min(args.ema, (1 + step) / (10 + step))
            with torch.no_grad():
                for name, value in model.named_parameters():
                    average[name].lerp_(value, 1 - decay)
            running += torch.stack([position.detach(), element.detach()]).cpu()
            progress.update(bar, completed=step)
            if step % args.log_every == 0 or step == args.steps:
                rate = args.log_every / (time.perf_counter() - began)
                line: dict[str, float] = {
                    "step": step,
                    "position": float(running[0]) / args.log_every,
                    "element": float(running[1]) / args.log_every,
                    "steps_per_second": rate,
                }
                if step % args.valid_every == 0 or step == args.steps:
                    line |= validate(model, average, valid.to(device), valid_mask.to(device))
                    line |= sample(model, average, valid_mask.sum(1)[: args.sample_size])
                log.write(json.dumps(line) + "\n")
                log.flush()
                progress.console.print(" ".join(f"{k}={v:.4g}" for k, v in line.items()))
                running, began = torch.zeros(2), time.perf_counter()
            if step % args.save_every == 0 or step == args.steps:
                save(state_file, model, average, optimizers, step)


def losses(
    model: MoleculeDenoiser, x0: Tensor, mask: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Weighted squared error of positions per degree of freedom, cross-entropy per atom.

    Args:
        model: the denoiser.
        x0: clean molecules (B, N, 3+F).
        mask: (B, N).
        generator: of noise and noise levels.

    Returns:
        two means over the batch, ().
    """
    batch = len(x0)
    sigma = noise_levels(batch, generator).to(x0)
    noise = torch.randn(x0.shape, generator=generator).to(x0) * mask[..., None]
    noise = torch.cat([remove_mean(noise[..., :3], mask), noise[..., 3:]], -1)
    predicted = model(x0 + sigma[:, None, None] * noise, sigma, mask)
    std = model.config.position_std
    c_out_square = (sigma * std).square() / (sigma.square() + std**2)
    error = (predicted.sample[..., :3].float() - x0[..., :3]).square().sum((1, 2))
    n_atoms = mask.sum(1)
    position = (error / c_out_square / (3 * (n_atoms - 1).clamp_min(1))).mean()
    element = x0[..., 3 : 3 + predicted.logits.shape[-1]].argmax(-1)
    entropy = torch.nn.functional.cross_entropy(
        predicted.logits.float().transpose(1, 2), element, reduction="none"
    )
    return position, ((entropy * mask).sum(1) / n_atoms).mean()


def noise_levels(batch: int, generator: torch.Generator) -> Tensor:
    """Sigma = b / a of one batch: half uniform in t and stratified, half log-normal."""
    half = batch // 2
    path = named_path(SCHEDULE)
    t = (torch.arange(half) + torch.rand(half, generator=generator)) / max(half, 1)
    uniform = torch.exp(-0.5 * path.log_snr(t * 0.999 + 0.0005)).float()
    normal = torch.exp(torch.randn(batch - half, generator=generator) * 1.2 - 1.6)
    return torch.cat([uniform, normal]).clamp(2e-3, 300)


def make_optimizers(
    model: MoleculeDenoiser, args: argparse.Namespace
) -> list[torch.optim.Optimizer]:
    """Muon for the matrices between hidden streams, AdamW for everything else."""
    hidden, rest = [], []
    for name, parameter in model.named_parameters():
        is_hidden = parameter.ndim == 2 and name.startswith("layers")
        (hidden if is_hidden and args.muon_lr else rest).append(parameter)
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(rest, lr=args.lr, betas=(0.9, 0.98), weight_decay=args.weight_decay)
    ]
    if hidden:
        optimizers.append(
            torch.optim.Muon(
                hidden,
                lr=args.muon_lr,
                weight_decay=args.weight_decay,
                adjust_lr_fn="match_rms_adamw",
            )
        )
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["base_lr"] = group["lr"]
    return optimizers


def learning_rate(step: int, steps: int, warmup: int) -> float:
    """Factor of the base rate: a linear rise, then a cosine down to 1%."""
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


class Batches:
    """Batches of molecules of nearly one size, the same for the same seed and step."""

    def __init__(self, n_atoms: Tensor, batch_size: int, seed: int, pool: int = 32) -> None:
        self.n_atoms, self.batch_size, self.seed, self.pool = n_atoms, batch_size, seed, pool
        self._epoch, self._rows = -1, torch.empty(0, dtype=torch.long)

    def __len__(self) -> int:
        return len(self.n_atoms) // self.batch_size

    def rows(self, step: int) -> Tensor:
        """Molecules of one step, (batch_size,)."""
        epoch, index = divmod(step, len(self))
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(self.seed * 7919 + epoch)
            order = torch.randperm(len(self.n_atoms), generator=generator)
            order = order[: len(self) * self.batch_size]
            chunks = order.split(self.batch_size * self.pool)
            by_size = torch.cat([c[self.n_atoms[c].argsort(stable=True)] for c in chunks])
            batches = by_size.view(-1, self.batch_size)
            self._rows = batches[torch.randperm(len(batches), generator=generator)]
            self._epoch = epoch
        return self._rows[index]


@torch.no_grad()
def validate(
    model: MoleculeDenoiser, average: dict[str, Tensor], x0: Tensor, mask: Tensor
) -> dict[str, float]:
    """Losses of the averaged weights on held-out molecules with fixed noise."""
    own = {name: value.detach().clone() for name, value in model.named_parameters()}
    model.load_state_dict(average)
    generator = torch.Generator().manual_seed(0)
    total = torch.zeros(2)
    parts = zip(x0.split(64), mask.split(64), strict=True)
    for part, part_mask in parts:
        total += torch.stack(losses(model, part, part_mask, generator)).cpu() * len(part)
    model.load_state_dict(own)
    return {
        "valid_position": float(total[0]) / len(x0),
        "valid_element": float(total[1]) / len(x0),
    }


def sample(model: MoleculeDenoiser, average: dict[str, Tensor], sizes: Tensor) -> dict[str, float]:
    """Stability and validity of molecules of these sizes (n,), by the averaged weights.

    DPM-Solver++ in 25 calls: quick enough to look at while training goes on.
    """
    copy = MoleculeDenoiser(**saved_config(model))
    copy.load_state_dict(average)
    copy.to(next(model.parameters()).device)
    pipeline = MoleculePipeline(copy, scheduler_named("dpm++", edm_scheduler()))
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    found = evaluate(pipeline(n_atoms=sizes, num_inference_steps=25, generator=generator).molecules)
    return {
        "atom_stability": found.atom_stability.value,
        "molecule_stability": found.molecule_stability.value,
        "validity": found.validity.value,
    }


def saved_config(model: MoleculeDenoiser) -> dict[str, Any]:
    """What makes a model of the same kind."""
    return {name: value for name, value in model.config.items() if not name.startswith("_")}


def save(
    file: Path,
    model: MoleculeDenoiser,
    average: dict[str, Tensor],
    optimizers: list[torch.optim.Optimizer],
    step: int,
) -> None:
    """Write the whole state under another name, then rename: never half a file."""
    temporary = file.with_suffix(".tmp")
    torch.save(
        {
            "step": step,
            "config": saved_config(model),
            "model": model.state_dict(),
            "average": average,
            "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        },
        temporary,
    )
    os.replace(temporary, file)


def ship(state_file: Path, folder: Path) -> None:
    """Write the averaged weights in half precision as a `MoleculePipeline`."""
    state = torch.load(state_file, map_location="cpu", weights_only=True)
    model = MoleculeDenoiser(**state["config"])
    model.load_state_dict(state["average"])
    sizes = torch.as_tensor(load_qm9("train").n_atoms).bincount()
    pipeline = MoleculePipeline(
        denoiser=model.half(),
        scheduler=edm_scheduler(),
        size_counts=[int(count) for count in sizes],
    )
    pipeline.save_pretrained(folder)
    print(f"step {state['step']:,} -> {folder}")


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/qm9"))
    parser.add_argument("--ship", type=Path, default=None, help="write the pipeline here and stop")
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--muon-lr", type=float, default=3e-3, help="0 trains all with AdamW")
    parser.add_argument("--weight-decay", type=float, default=1e-2)
    parser.add_argument("--warmup", type=int, default=300)
    parser.add_argument("--clip", type=float, default=2.0)
    parser.add_argument("--ema", type=float, default=0.999)
    parser.add_argument("--element-weight", type=float, default=0.5)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--pair-width", type=int, default=32)
    parser.add_argument("--layers", type=int, default=7)
    parser.add_argument("--vectors", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=None)
    parser.add_argument("--log-every", type=int, default=100)
    parser.add_argument("--valid-every", type=int, default=1000)
    parser.add_argument("--sample-size", type=int, default=64, help="molecules to judge then")
    parser.add_argument("--save-every", type=int, default=500)
    args = parser.parse_args()
    if args.bf16 is None:
        args.bf16 = args.device != "cpu"
    return args


if __name__ == "__main__":
    main()
