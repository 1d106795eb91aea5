"""Brightness and contrast of few-call samples: digits under Stable Diffusion's noise schedule.

    python benchmarks/images.py                  # trains and samples: half an hour on one core

Stable Diffusion's schedule ends with some signal left (`abar` is 0.0047 at the last of 1000 steps),
so noised images do not end as N(0, I), and a sampler that begins with N(0, I) begins with images of
another brightness than it was trained on. The same tiny UNet (`digits_training.py`) samples from
N(0, I) and from the Gaussian that was fitted to the digits, at the last step and at t*, with few
calls and with a thousand. The brightness of an image is its mean and the contrast its standard
deviation; both are compared with digits that were held out. All rows begin with the same noise.

What was sampled is kept in chunks under `runs/images`, so a run that was killed goes on. Writes
`benchmarks/results/images.json` and `images.png`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import diffusers
import matplotlib as mpl
import numpy as np
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from digits_training import SCHEDULE, SIZE, STEPS, digits, trained_unet
from matplotlib.axes import Axes
from provenance import provenance
from scipy.stats import wasserstein_distance
from torch import Tensor
from torch.nn.functional import pixel_shuffle

from gaga_adapter import FewStepScheduler, GAGAScheduler, GAGAStats, fit
from gaga_adapter.files.atomic import replacing

mpl.use("Agg")
import matplotlib.pyplot as plt

RESULTS = Path(__file__).parent / "results"
RUNS = Path(__file__).parent.parent / "runs" / "images"
CHUNK = 50
LAST = SCHEDULE["num_train_timesteps"] - 1


# ---------------------------------------------------------------------------- the table of rows


@dataclass(frozen=True)
class Start:
    """Where the loop begins, and with what.

    Attributes:
        label: Name in tables and in the picture.
        reference: Kind of the Gaussian start; `None` leaves the scheduler as it is.
        at_end: Whether the start replaces the noise of the last step, not that of t*.
        spacing: Grid of the plain scheduler: `trailing` begins at the last step, and `leading`,
            which Stable Diffusion is configured with, begins a step of the sampler before it.
    """

    label: str
    reference: str | None = None
    at_end: bool = False
    spacing: str = "trailing"


STARTS = {
    "noise": Start("N(0, I) at the last step"),
    "shipped": Start("N(0, I), Stable Diffusion's grid", spacing="leading"),
    "last": Start("fitted Gaussian at the last step", "full", at_end=True),
    "fitted": Start("fitted Gaussian at t*", "full"),
    "low_rank": Start("`low_rank` at t*", "low_rank"),
    "element": Start("`element` at t*", "element"),
    "channel": Start("`channel` at t*", "channel"),
    "unit": Start("N(0, I) at t*", "unit"),
}
MAIN = ("noise", "shipped", "last", "fitted", "unit")
PICTURED = ("noise", "last", "fitted", "unit")
REFERENCES = ("low_rank", "element", "channel")
#: Solvers by name, with the options that make them begin at the last step.
SOLVERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddpm": ("DDPMScheduler", {}),
    "dpm++": ("DPMSolverMultistepScheduler", {}),
    "few-step": ("FewStepScheduler", {"log_snr_min": -10.0}),
}
CALLS = (5, 10, 20)  # of the picture
DRAWN = "dpm++"
FULL_CALLS = 1000


@dataclass(frozen=True)
class Cell:
    """One row: a solver, its number of calls, a start."""

    solver: str
    calls: int
    start: str

    @property
    def name(self) -> str:
        """Such as `dpm++ 10, fitted`."""
        return f"{self.solver} {self.calls}, {self.start}"


#: The most important rows first: results are written after each.
CELLS = [
    *(Cell(DRAWN, 10, start) for start in (*MAIN, *REFERENCES)),
    *(Cell("few-step", 10, start) for start in PICTURED),
    *(Cell(solver, 20, start) for solver in (DRAWN, "few-step") for start in PICTURED),
    *(Cell(solver, 5, start) for solver in (DRAWN, "few-step") for start in PICTURED),
    Cell("ddpm", FULL_CALLS, "noise"),
]


# ---------------------------------------------------------------------------- sampling


@dataclass(frozen=True)
class Sampler:
    """Samples the rows with one network.

    Attributes:
        unet: Network `(x, t) -> .sample`, of noise.
        stats: Statistics by the covariance that they keep, `full` and `low_rank`.
        setting: What decides the images of a row, besides the row.
        size: Height and width of an image.
        folder: Folder that keeps the chunks.
    """

    unet: Callable[..., Any]
    stats: dict[str, GAGAStats]
    setting: dict[str, Any]
    size: int
    folder: Path

    def scheduler(self, cell: Cell) -> Any:  # noqa: ANN401 - any diffusers scheduler
        """The scheduler of a row."""
        start, (name, options) = STARTS[cell.start], SOLVERS[cell.solver]
        grid = {"timestep_spacing": start.spacing, "steps_offset": int(start.spacing == "leading")}
        solver = FewStepScheduler if cell.solver == "few-step" else getattr(diffusers, name)
        base = solver.from_config(DDPMScheduler(**SCHEDULE).config, **grid, **options)
        if start.reference is None:
            return base
        even = "log_snr" if cell.solver == "few-step" else "respace"
        stats = self.stats["low_rank" if start.reference == "low_rank" else "full"]
        scheduler = GAGAScheduler.from_pretrained(
            base,
            stats=stats,
            t_star=LAST if start.at_end else self.setting["t_star"],
            reference=start.reference,
            spacing="suffix" if start.at_end and even == "respace" else even,
            handover="init",  # the loop below scales its noise, so that no call is added
        )
        if cell.solver == "few-step":  # the network is told nothing, so its spread can be matched
            scheduler.moments = stats.moments
        return scheduler

    @torch.no_grad()
    def sample(self, cell: Cell, n: int, seed: int) -> Tensor:
        """Packed images (n, 4, H, W) of one seed, as the last step leaves them, unclipped.

        Raises:
            RuntimeError: If the loop had another number of calls than the row says.
        """
        scheduler = self.scheduler(cell)
        scheduler.set_timesteps(cell.calls)
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(n, 4, self.size // 2, self.size // 2, generator=generator)
        x = x * scheduler.init_noise_sigma
        calls = 0
        for t in scheduler.timesteps:
            noise = self.unet(scheduler.scale_model_input(x, t), t).sample
            calls += 1
            x = scheduler.step(noise, t, x, generator=generator, return_dict=False)[0]
        if calls != cell.calls:
            raise RuntimeError(f"{cell.name} took {calls} calls.")
        return x

    def images(self, cell: Cell, n: int) -> Tensor:
        """Packed images (n, 4, H, W) of a row, from the chunks that are kept if there are any."""
        text = json.dumps([self.setting, vars(STARTS[cell.start]), cell.name], sort_keys=True)
        folder = self.folder / hashlib.sha256(text.encode()).hexdigest()[:16]
        folder.mkdir(parents=True, exist_ok=True)
        chunks = []
        for seed, first in enumerate(range(0, n, CHUNK)):
            count = min(CHUNK, n - first)
            file = folder / f"{seed}-{count}.pt"
            if not file.exists():
                made = self.sample(cell, count, seed)
                with replacing(file) as temporary:
                    torch.save(made, temporary)
            chunks.append(torch.load(file, weights_only=True))
        return torch.cat(chunks)


# ---------------------------------------------------------------------------- judging


def brightness(x: Tensor) -> Tensor:
    """Means of images (B, ...)."""
    return x.flatten(1).double().mean(1)


def contrast(x: Tensor) -> Tensor:
    """Standard deviations of the pixels of images (B, ...)."""
    return x.flatten(1).double().std(1, correction=0)


def bias(x: Tensor, y: Tensor) -> tuple[float, float]:
    """Difference of two means in standard deviations of y, with its standard error.

    Args:
        x: Figures of what was sampled (n,).
        y: Figures of the data (m,).
    """
    error = math.sqrt(float(x.var() / len(x) + y.var() / len(y)))
    spread = float(y.std())
    return float(x.mean() - y.mean()) / spread, error / spread


def wasserstein(x: Tensor, y: Tensor, n_bootstrap: int = 200) -> tuple[float, float]:
    """Wasserstein-1 distance of two samples of a number, in standard deviations of y.

    Its standard error is that of a bootstrap of both samples.
    """
    generator = torch.Generator().manual_seed(0)

    def again(z: Tensor) -> Tensor:
        return z[torch.randint(len(z), (len(z),), generator=generator)]

    values = [wasserstein_distance(again(x), again(y)) for _ in range(n_bootstrap)]
    spread = float(y.std())
    return float(wasserstein_distance(x, y)) / spread, float(np.std(values)) / spread


def energy(x: Tensor, y: Tensor) -> tuple[float, float]:
    """Energy distance `2 E|x - y| - E|x - x'| - E|y - y'|` of images, unbiased, with its error.

    It is zero only if both have the same law. The standard error is that of the leading term of
    the statistic, so it is too small where the two laws are nearly the same.
    """
    x, y = x.flatten(1).double(), y.flatten(1).double()
    n, m = len(x), len(y)
    across, in_x, in_y = torch.cdist(x, y), torch.cdist(x, x), torch.cdist(y, y)
    of_x = across.mean(1) - in_x.sum(1) / (n - 1)
    of_y = across.mean(0) - in_y.sum(1) / (m - 1)
    error = 2 * math.sqrt(float(of_x.var() / n + of_y.var() / m))
    return float(of_x.mean() + of_y.mean()), error


def figures(x: Tensor, data: Tensor) -> dict[str, dict[str, float]]:
    """All figures of images (n, ...) against data (m, ...), with their standard errors."""
    found = {
        "brightness_bias": bias(brightness(x), brightness(data)),
        "brightness_w1": wasserstein(brightness(x), brightness(data)),
        "contrast_bias": bias(contrast(x), contrast(data)),
        "contrast_w1": wasserstein(contrast(x), contrast(data)),
        "energy": energy(x, data),
    }
    return {name: {"value": v, "std_error": e} for name, (v, e) in found.items()}


def nats_at_the_end(images: Tensor) -> float:
    """KL of noised images to N(0, I) at the last step, both taken for Gaussian: a closed form."""
    x = images.flatten(1).double()
    abar = float(DDPMScheduler(**SCHEDULE).alphas_cumprod.double()[-1])
    mean, variances = x.mean(0), torch.linalg.eigvalsh(torch.cov(x.T)).clamp_min(0)
    var = abar * variances + 1 - abar
    return 0.5 * float((var - 1 - var.log()).sum() + abar * mean.square().sum())


def gaussian_bias(images: Tensor, calls: int) -> float:
    """Bias of brightness from N(0, I) with an exact network, if images were Gaussian.

    DDIM is affine then: a step multiplies the distance from the noised mean, along each axis of the
    covariance, by a number (`tests/scheduler/test_last_step.py`). In standard deviations of the
    brightness of the images.
    """
    x = images.flatten(1).double()
    mean = x.mean(0)
    variances, axes = torch.linalg.eigh(torch.cov(x.T))
    solver = DDIMScheduler.from_config(
        DDPMScheduler(**SCHEDULE).config, timestep_spacing="trailing", set_alpha_to_one=True
    )
    solver.set_timesteps(calls)
    levels = [*solver.alphas_cumprod.double()[solver.timesteps].tolist(), 1.0]
    factors = torch.ones_like(variances)
    for here, there in pairwise(levels):
        a, b = here**0.5, (1 - here) ** 0.5
        gain = a * variances / (here * variances + 1 - here)
        factors *= there**0.5 * gain + (1 - there) ** 0.5 * (1 - a * gain) / b
    missing = axes @ (factors * (axes.T @ (levels[0] ** 0.5 * mean)))
    return -float(missing.mean()) / float(brightness(images).std())


# ---------------------------------------------------------------------------- the picture


COLOURS = {
    "noise": "#9aa0a6",
    "last": "#edae49",
    "fitted": "#00509d",
    "unit": "#d1495b",
}


def draw_curve(axes: Axes, found: dict[str, Any], solver: str, start: str, name: str) -> None:
    """One figure of one solver and start against the number of calls."""
    of_start = {n: found["rows"].get(Cell(solver, n, start).name) for n in CALLS}
    rows = [row["figures"][name] for row in of_start.values() if row is not None]
    drawn = solver == DRAWN
    axes.errorbar(
        [n * (0.98 if drawn else 1.02) for n, row in of_start.items() if row is not None],
        [row["value"] for row in rows],
        [row["std_error"] for row in rows],
        color=COLOURS[start],
        marker="o" if drawn else "s",
        mfc=None if drawn else "white",
        ms=3.5,
        lw=1.6 if drawn else 1.1,
        ls="-" if drawn else "--",
        capsize=2,
        label=STARTS[start].label.replace("t*", "t$^*$") if drawn else None,
    )


def draw(found: dict[str, Any], strips: dict[str, Tensor], file: Path) -> None:
    """Write the picture: digits of the same noise, and two figures against the number of calls.

    Args:
        found: Results.
        strips: Packed images (n, 4, H, W) by the label of their line.
        file: File to write.
    """
    plt.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False})
    figure = plt.figure(figsize=(11.5, 4.4), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1.0, 1.25))
    lines = left.subplots(len(strips), 1)
    for axes, (label, images) in zip(lines, strips.items(), strict=True):
        unpacked = pixel_shuffle(images, 2)[:, 0]
        gap = torch.ones(unpacked.shape[1], 2)
        tiles = [tile for image in unpacked for tile in (image, gap)][:-1]
        axes.imshow(
            torch.cat(tiles, 1).numpy(), cmap="gray", vmin=-1, vmax=1, interpolation="nearest"
        )
        axes.set_title(label, fontsize=9, loc="left", pad=3)
        axes.set_axis_off()
    panels = right.subplots(1, 2)
    for axes, name in zip(panels, ("brightness_bias", "contrast_bias"), strict=True):
        axes.axhline(0, color="black", lw=0.8)
        for solver, start in product((DRAWN, "few-step"), PICTURED):
            draw_curve(axes, found, solver, start, name)
        full = found["rows"].get(Cell("ddpm", FULL_CALLS, "noise").name)
        if full is not None:
            value = full["figures"][name]["value"]
            axes.axhline(value, color="#66a182", lw=1.4, ls=":", label="DDPM, 1000 calls")
        axes.set(xscale="log", xlim=(4.3, 23), xlabel="network calls")
        axes.set_xticks(CALLS, [str(n) for n in CALLS])
        axes.minorticks_off()
        axes.set_title(
            f"{name.split('_')[0]}: bias, in standard deviations", fontsize=10, loc="left"
        )
    right.suptitle("solid: DPM++; dashed: few-step", x=0.99, ha="right", fontsize=8.5)
    right.legend(
        *panels[0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=2,
        fontsize=8.5,
        frameon=False,
    )
    figure.savefig(file, dpi=85)
    plt.close(figure)


# ---------------------------------------------------------------------------- the run


def main() -> None:
    """Train, sample and judge; what is there is not made again."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("-n", type=int, default=300, help="images a row")
    parser.add_argument("--n-full", type=int, default=CHUNK, help=f"images of {FULL_CALLS} calls")
    parser.add_argument("--size", type=int, default=SIZE, help="height and width of an image")
    parser.add_argument("--steps", type=int, default=STEPS, help="steps of the training")
    parser.add_argument("--runs", type=Path, default=RUNS, help="folder that keeps what was made")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    args = parser.parse_args()
    head = provenance()
    trained_on, held_out = digits(args.size)
    unet = trained_unet(trained_on, args.runs, args.steps)
    stats = {
        kind: fit([trained_on], criterion="cumulant", covariance=kind)
        for kind in ("full", "low_rank")
    }
    t_star = stats["full"].t_star(DDPMScheduler(**SCHEDULE))
    setting = {"size": args.size, "steps": args.steps, "t_star": t_star, "schedule": SCHEDULE}
    sampler = Sampler(unet, stats, setting, args.size, args.runs)
    rows: dict[str, Any] = {}
    found = head | {
        "setting": setting,
        "n": args.n,
        "n_full": args.n_full,
        "n_trained": len(trained_on),
        "n_held_out": len(held_out),
        "t_star": t_star,
        "log_snr_star": stats["full"].log_snr_star,
        "nats_at_the_end": {size: nats_at_the_end(digits(size)[0]) for size in (8, 16, 32)},
        "gaussian_bias": {size: gaussian_bias(digits(size)[0], 10) for size in (8, 16, 32)},
        "held_out": {
            name: {"mean": float(value.mean()), "std": float(value.std())}
            for name, value in (
                ("brightness", brightness(held_out)),
                ("contrast", contrast(held_out)),
            )
        },
        "trained_on": {"figures": figures(trained_on, held_out)},
        "rows": rows,
    }
    strips = {"digits that were held out": held_out[:12]}
    for cell in CELLS:
        n = args.n_full if cell.calls == FULL_CALLS else args.n
        x, label = sampler.images(cell, n), STARTS[cell.start].label
        row = figures(x, held_out)
        rows[cell.name] = vars(cell) | {"label": label, "n": n, "figures": row}
        told = (f"{k} {v['value']:.3f} ± {v['std_error']:.3f}" for k, v in row.items())
        print(f"{cell.name:18} {', '.join(told)}", flush=True)
        with replacing(args.out / "images.json") as temporary:
            temporary.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        if (cell.solver, cell.calls) == (DRAWN, 10) and cell.start in PICTURED:
            strips[f"{label.replace('t*', 't$^*$')}, 10 calls"] = x[:12]
    draw(found, strips, args.out / "images.png")


if __name__ == "__main__":
    main()
