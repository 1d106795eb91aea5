"""Which kind of data becomes Gaussian when, under one noise schedule: the paper's second figure.

    python benchmarks/modalities.py            # needs the extras [data] and [report]; half an hour
    python benchmarks/modalities.py --draw     # the picture again, from the results

Every modality is brought to mean 0 and unit variance, so that one log-SNR means the same for all,
and is compared with the Gaussian of its own mean and covariance by the `two_sample` criterion: a
lower bound of KL(noised data || Gaussian) in nats per item, and per dimension. Pictures are the two
of scikit-learn (china, flower) in gray, cut into patches of 8 x 8 that do not overlap. The latent
is that of a small variational autoencoder of these patches, trained here with a learnt noise
variance, as a draw of its posterior; it is trained on random patches of the same two pictures. The
types of a molecule are its one-hot elements with all atoms at the origin, where positions say
nothing. Coordinates, types and whole molecules are QM9's, compared per number of atoms.

Writes `benchmarks/results/modalities.json` and `modalities.png`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.axes import Axes
from numpy.typing import NDArray
from provenance import provenance
from torch import Tensor, nn

from gaga_adapter import GAGAStats, ReferenceGaussian, named_path
from gaga_adapter.criteria import CriterionCurve, TwoSample
from gaga_adapter.errors import TruncationError
from gaga_adapter.layout import MoleculeLayout
from gaga_adapter.molecules.encoding import encode
from gaga_adapter.molecules.qm9.data import load_qm9
from gaga_adapter.moments import DenseKind, DenseMoments, ExchangeableMoments
from gaga_adapter.reference import make_reference
from gaga_adapter.selection import DEFAULT_TOLERANCE, select

mpl.use("Agg")
import matplotlib.pyplot as plt

RESULTS = Path(__file__).parent / "results"
PATH_NAME, N_STEPS = "edm/polynomial_2", 1000
PER_DIMENSION = 0.01  # nats per dimension: the tolerance that compares events of any size
TIMES = [50, 100, 200, *range(300, 700, 50), 700, 800]
PATCH = 8
N_FITTED = 40_000  # molecules behind the moments


@dataclass(frozen=True)
class Modality:
    """Data in unit variance, and the Gaussian that they are compared with.

    Attributes:
        label: name in the picture.
        x: molecules (M, N, 3 + F), or dense (M, C, ...).
        mask: molecules: real atoms (M, N).
        reference: of the moments of the data.
        dimension: degrees of freedom of the noise, on average over the items.
    """

    label: str
    x: Tensor
    mask: Tensor | None
    reference: ReferenceGaussian
    dimension: float


def dense(label: str, x: Tensor, kind: DenseKind) -> Modality:
    """Dense data (M, ...), shifted and scaled as a whole to mean 0 and variance 1 per number."""
    x = x.double()
    x = (x - x.mean(0)) / x.var(0, correction=0).mean().sqrt()
    moments = DenseMoments(tuple(x.shape[1:]), kind=kind)
    moments.update(x)
    return Modality(label, x, None, make_reference(moments), float(x[0].numel()))


# ---------------------------------------------------------------------------- pictures


def pictures() -> list[Tensor]:
    """The pictures of scikit-learn, gray (H, W)."""
    from sklearn.datasets import load_sample_images

    return [torch.tensor(image).double().mean(-1) for image in load_sample_images().images]


def patches(generator: torch.Generator, n_random: int | None = None) -> Tensor:
    """Patches (n, 1, 8, 8) of all pictures: all that do not overlap, or so many anywhere."""
    step = PATCH if n_random is None else 1
    every = [
        image.unfold(0, PATCH, step).unfold(1, PATCH, step).reshape(-1, 1, PATCH, PATCH)
        for image in pictures()
    ]
    found = torch.cat(every)
    return found[torch.randperm(len(found), generator=generator)[:n_random]]


def pixels(n: int, generator: torch.Generator) -> Modality:
    """Single gray values (n, 1)."""
    values = torch.cat([image.flatten() for image in pictures()])
    picked = values[torch.randperm(len(values), generator=generator)[:n]]
    return dense("image pixels", picked[:, None], "full")


def image_patches(n: int, generator: torch.Generator) -> Modality:
    """Patches (n, 1, 8, 8), against the Gaussian of their full covariance."""
    return dense("image patches 8×8", patches(generator)[:n], "full")


def latents(n: int, generator: torch.Generator) -> Modality:
    """Posterior draws (n, 8) of a variational autoencoder of the patches."""
    seen, train = patches(generator)[:n], patches(generator, 50_000)
    mean, std = train.mean(), train.std()
    encoder, width = train_autoencoder((train - mean).div(std).flatten(1).float(), generator), 8
    with torch.no_grad():
        code = encoder((seen - mean).div(std).flatten(1).float())
    noise = torch.randn(len(code), width, generator=generator)
    return dense("VAE latent of patches", code[:, :width] + code[:, width:].exp() * noise, "full")


def train_autoencoder(x: Tensor, generator: torch.Generator, width: int = 8) -> nn.Module:
    """Encoder of patches (B, 64) to means and log standard deviations (B, 2 width).

    The noise variance of the decoder is at its optimum, the mean squared error, for every batch
    (Rybkin et al. 2021), so the bound has no weight to choose.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)  # of the initial weights, which take no generator
        encoder = nn.Sequential(nn.Linear(64, 256), nn.SiLU(), nn.Linear(256, 2 * width))
        decoder = nn.Sequential(nn.Linear(width, 256), nn.SiLU(), nn.Linear(256, 64))
    optimiser = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=2e-3)
    for _ in range(3000):
        batch = x[torch.randint(len(x), (256,), generator=generator)]
        mean, log_std = encoder(batch).chunk(2, dim=1)
        z = mean + log_std.exp() * torch.randn(mean.shape, generator=generator)
        error = (decoder(z) - batch).square().mean()
        divergence = 0.5 * (mean.square() + (2 * log_std).exp() - 1).sum(1) - log_std.sum(1)
        loss = 32 * error.log() + divergence.mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return encoder


# ---------------------------------------------------------------------------- molecules


def unit_molecules() -> tuple[Tensor, Tensor]:
    """QM9 with unit variance per degree of freedom of the positions, and of the one-hot types."""
    x, mask = encode(load_qm9("train").subset(range(N_FITTED)), MoleculeLayout(onehot_scale=1.0))
    moments = ExchangeableMoments(5, table_size=0)
    moments.update(x, mask)
    x[..., :3] /= moments.position_variance_per_dof**0.5
    x[..., 3:] = (x[..., 3:] - moments.pooled_feature_mean) * mask[..., None]
    x[..., 3:] /= moments.pooled_feature_variance.mean() ** 0.5
    return x, mask


def molecules(
    label: str, x: Tensor, mask: Tensor, n: int, kind: str, dimension: Tensor
) -> Modality:
    """The first n of molecules (M, N, 3 + F), against the moments of all.

    Args:
        label: name in the picture.
        x: all that are at hand.
        mask: real atoms (M, N).
        n: how many are judged.
        kind: of the reference.
        dimension: of each molecule (M,).
    """
    moments = ExchangeableMoments(x.shape[2] - 3)
    moments.update(x, mask)
    reference = make_reference(moments, kind)
    return Modality(label, x[:n], mask[:n], reference, float(dimension[:n].double().mean()))


def coordinates(n: int, generator: torch.Generator) -> Modality:
    """Positions alone."""
    x, mask = unit_molecules()
    return molecules("coordinates", x[..., :3], mask, n, "size", 3 * mask.sum(1) - 3)


def types(n: int, generator: torch.Generator) -> Modality:
    """One-hot types alone: every atom at the origin, in random order, which is lost anyway."""
    x, mask = unit_molecules()
    x[..., :3] = 0
    order = torch.rand(mask.shape, generator=generator).masked_fill(~mask, 2).argsort(1)
    x = x.take_along_dim(order[..., None], 1)
    return molecules("one-hot types", x, mask, n, "size", 5 * mask.sum(1))


def whole(n: int, generator: torch.Generator) -> Modality:
    """Positions and types, each of unit variance."""
    x, mask = unit_molecules()
    return molecules("whole molecules", x, mask, n, "size", 8 * mask.sum(1) - 3)


def whole_shape(n: int, generator: torch.Generator) -> Modality:
    """The same against the mixture that keeps the form and composition of single molecules."""
    x, mask = unit_molecules()
    return molecules("whole molecules, `shape`", x, mask, n, "shape", 8 * mask.sum(1) - 3)


def whole_edm(n: int, generator: torch.Generator) -> Modality:
    """Positions in angstrom and one-hot / 4, as EDM noises them: types drown much sooner."""
    x, mask = encode(load_qm9("train").subset(range(n)), MoleculeLayout())
    reference = GAGAStats.from_pretrained("qm9").reference("size")
    dimension = float((8 * mask.sum(1) - 3).double().mean())
    return Modality("whole molecules, EDM's scales", x, mask, reference, dimension)


MODALITIES: dict[str, Callable[[int, torch.Generator], Modality]] = {
    "pixels": pixels,
    "patches": image_patches,
    "latent": latents,
    "coordinates": coordinates,
    "types": types,
    "molecules": whole,
    "molecules_shape": whole_shape,
    "molecules_edm": whole_edm,
}


# ---------------------------------------------------------------------------- curves and table


def t_star(curve: CriterionCurve, tolerance: float) -> float | None:
    """Timestep of N_STEPS from which on the criterion holds; `None` if it does nowhere."""
    try:
        star = select(curve, tolerance).log_snr_star
    except TruncationError:
        return None
    return float(named_path(PATH_NAME, N_STEPS).time_at_log_snr(star)) * N_STEPS


def row(made: Modality, curve: CriterionCurve) -> dict[str, Any]:
    """One modality of the results file."""
    return {
        "label": made.label,
        "dimension": made.dimension,
        "t_star": t_star(curve, DEFAULT_TOLERANCE),
        "t_star_per_dimension": t_star(curve, PER_DIMENSION * made.dimension),
        "curve": curve.to_dict(),
    }


def table(found: dict[str, Any]) -> str:
    """The t* of every modality, in text; those of the first level may lie lower."""
    lines = [f"{'':30}  dim  reference  t* at 0.5 nats  t* at 0.01 nats per dimension"]
    for one in found["rows"].values():
        stars = (one["t_star"], one["t_star_per_dimension"])
        cells = ["never" if star is None else f"{star:.0f}" for star in stars]
        cells = [f"<= {cell}" if cell == str(min(found["t"])) else cell for cell in cells]
        lines.append(
            f"{one['label']:30} {one['dimension']:4.0f}  {one['curve']['reference']:9}"
            f" {cells[0]:>15}  {cells[1]:>29}"
        )
    return "\n".join(lines)


def main() -> None:
    """Draw the curves, write after each, print the table, draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("-n", type=int, default=8000, help="items from each side")
    parser.add_argument("--t", type=int, nargs="*", default=TIMES, help="levels, of 1000")
    parser.add_argument("--only", nargs="*", default=list(MODALITIES), choices=list(MODALITIES))
    parser.add_argument("--draw", action="store_true", help="only the picture, from the results")
    args = parser.parse_args()
    result = RESULTS / "modalities.json"
    found: dict[str, Any] = {"rows": {}}
    if args.draw or set(args.only) < set(MODALITIES):
        found = json.loads(result.read_text(encoding="utf-8"))
    if not args.draw:
        log_snr = named_path(PATH_NAME, N_STEPS).log_snr(torch.tensor(args.t).double() / N_STEPS)
        found = provenance() | {
            "n": args.n,
            "path": PATH_NAME,
            "t": args.t,
            "tolerance": DEFAULT_TOLERANCE,
            "tolerance_per_dimension": PER_DIMENSION,
            "rows": found["rows"],
        }
        for name in args.only:
            generator = torch.Generator().manual_seed(0)
            made = MODALITIES[name](args.n, generator)
            curve = TwoSample(n_samples=args.n).curve(
                made.x, made.mask, made.reference, log_snr, generator
            )
            found["rows"][name] = row(made, curve)
            result.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
            print(table(found).splitlines()[-1], flush=True)
    print(table(found))
    draw(found)


# ---------------------------------------------------------------------------- the picture


COLOURS = {
    "pixels": "#9aa0a6",
    "patches": "#3c4043",
    "latent": "#edae49",
    "coordinates": "#00509d",
    "types": "#66a182",
    "molecules": "#d1495b",
    "molecules_edm": "#d1495b",
}
STYLES = {"molecules_edm": "--"}
FLOOR = 7e-3  # nats; below it the curves are noise


def draw(found: dict[str, Any]) -> None:
    """Write `benchmarks/results/modalities.png`: the curves, and their t* as their legend."""
    plt.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False})
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(10.5, 4.3), width_ratios=(1.25, 1), layout="constrained"
    )
    path = named_path(found["path"], N_STEPS)
    rows = {name: found["rows"][name] for name in COLOURS if name in found["rows"]}
    for name, one in rows.items():
        style = {"color": COLOURS[name], "linestyle": STYLES.get(name, "-")}
        draw_curve(left, np.array(sorted(found["t"])), one["curve"], style)
    left.axhline(found["tolerance"], color="black", lw=1, ls=":")
    left.text(52, found["tolerance"] * 1.08, f"tolerance {found['tolerance']:g} nats", fontsize=8.5)
    left.set(yscale="log", ylim=(FLOOR, 14), xlim=(40, 810))
    left.set_xlabel(f"noise level t of {N_STEPS} ({found['path']})")
    left.set_ylabel("KL(noised data || Gaussian), nats per item")
    left.set_title("One-hot types stay non-Gaussian longest", fontsize=10.5, loc="left")
    ticks = [4, 2, 1, 0, -1, -2]
    top = left.twiny()
    top.set_xlim(left.get_xlim())
    top.set_xticks([N_STEPS * float(path.time_at_log_snr(level)) for level in ticks], ticks)
    top.tick_params(labelsize=8.5, length=3, pad=1)
    top.spines["top"].set_visible(True)
    top.set_xlabel("log-SNR", fontsize=8.5, labelpad=3)

    order = sorted(rows, key=lambda name: rows[name]["t_star"] or N_STEPS, reverse=True)
    for height, name in enumerate(order):
        one, colour = rows[name], COLOURS[name]
        stars = (one["t_star"], one["t_star_per_dimension"])
        shown = [star for star in stars if star is not None]
        style = STYLES.get(name, "-")
        right.plot([min(shown), max(shown)], [height] * 2, style, color=colour, lw=1.5, alpha=0.5)
        if stars[0] is not None:
            right.plot(stars[0], height, "o", color=colour, ms=9)
        if stars[1] is not None:
            right.plot(stars[1], height, "o", mec=colour, mfc="white", mew=2, ms=8)
    labels = [f"{rows[name]['label']} ({rows[name]['dimension']:.0f})" for name in order]
    right.set_yticks(range(len(order)), labels)
    for label, name in zip(right.get_yticklabels(), order, strict=True):
        label.set_color(COLOURS[name])
        label.set_fontweight("bold")
    right.tick_params(axis="y", length=0)
    right.spines["left"].set_visible(False)
    right.set(xlim=(0, 720), ylim=(-0.6, len(order) - 0.2))
    right.set_xlabel(f"t* of {N_STEPS}")
    right.plot([], [], "o", color="black", ms=9, label=f"{found['tolerance']:g} nats per item")
    per_dimension = f"{found['tolerance_per_dimension']:g} nats per dimension"
    right.plot([], [], "o", mec="black", mfc="white", mew=2, ms=8, label=per_dimension)
    right.legend(frameon=False, fontsize=8.5, loc="lower left", handletextpad=0.2)
    right.set_title("t* (dimensions in brackets)", fontsize=10.5, loc="left")
    figure.savefig(RESULTS / "modalities.png", dpi=150)


def draw_curve(
    axes: Axes, t: NDArray[np.int64], curve: dict[str, Any], style: dict[str, str]
) -> None:
    """One curve with two standard errors; saturated points say "or more", and are left out."""
    value, error = np.array(curve["value"]), np.array(curve["std_error"])
    known = np.array(curve["extra"]["saturated"]) == 0
    axes.plot(t[known], np.maximum(value, FLOOR / 2)[known], lw=2, **style)
    low, high = np.maximum(value - 2 * error, FLOOR / 2), np.maximum(value + 2 * error, FLOOR / 2)
    axes.fill_between(t[known], low[known], high[known], color=style["color"], alpha=0.15, lw=0)


if __name__ == "__main__":
    main()
