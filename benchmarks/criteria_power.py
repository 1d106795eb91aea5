"""Power and false-alarm rate of every criterion on laws that are known.

    python benchmarks/criteria_power.py                         # all criteria, about an hour
    python benchmarks/criteria_power.py --criteria cumulant     # one again, beside the others

Each law is drawn `-r` times (Gaussian ones four times as often), `-n` items a time, and judged at
one noise level, log-SNR 0, against the reference of its own moments (of 100,000 other draws). A
criterion in nats rejects where `value - 2 s.e. > 0`, a false-alarm rate of 2.3 % at most, p-values
where `p <= 0.05`; `two_sample` has both. The certificate is given the analytic denoiser of the law
where there is one, so its average is the true divergence at that level; of a Gaussian law that
denoiser is the reference's own and the certificate 0, so it is left out. Rates come with binomial
standard errors.

Laws: vectors of 8 numbers, and molecules of 9 atoms with 2 features, all of mean 0 and variance 1.

Every criterion sees the same items, so one can be measured again alone. Writes
`benchmarks/results/criteria_power.json` after every law, and prints the table.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from provenance import provenance
from torch import Generator, Tensor

from gaga_adapter.criteria import (
    CRITERIA,
    Certificate,
    Criterion,
    CriterionCurve,
    TwoSample,
    criterion,
)
from gaga_adapter.criteria.certificate.linear import posterior_mean
from gaga_adapter.moments import DenseMoments, ExchangeableMoments
from gaga_adapter.reference import ReferenceGaussian, make_reference
from gaga_adapter.subspace import project

RESULT = Path(__file__).parent / "results" / "criteria_power.json"
LOG_SNR = 0.0
ALPHA, NULL_FACTOR = 0.05, 4
DIMENSION, N_ATOMS, N_FEATURES = 8, 9, 2
N_FITTED = 100_000

Draw = Callable[[int, Generator], Tensor]
Denoise = Callable[[Tensor, float, Tensor | None], Tensor]


@dataclass(frozen=True)
class Law:
    """A law, and what it is compared with.

    Attributes:
        strength: how far from the reference, in words.
        draw: items (n, 8), or molecules (n, 9, 5) before projection.
        kind: of the reference.
        is_null: the reference is the law itself.
        denoise: the analytic denoiser, by the reference of the finest kind; `None` if not known.
    """

    strength: str
    draw: Draw
    kind: str
    is_null: bool = False
    denoise: Callable[[ReferenceGaussian], Denoise] | None = None


# ---------------------------------------------------------------------------- ingredients


@dataclass(frozen=True)
class Mixture:
    """Two-component Gaussian mixture in one dimension, mean 0 and variance 1.

    Attributes:
        weight: of the two components.
        mean: of the two.
        var: of the two.
    """

    weight: tuple[float, float]
    mean: tuple[float, float]
    var: tuple[float, float]

    def draw(self, shape: tuple[int, ...], generator: Generator) -> Tensor:
        """Independent entries."""
        which = (torch.rand(shape, generator=generator) > self.weight[0]).long()
        mean, var = torch.tensor(self.mean)[which], torch.tensor(self.var)[which]
        return mean + var.sqrt() * torch.randn(shape, generator=generator)

    def denoise(self, y: Tensor, sigma: float) -> Tensor:
        """Posterior mean of independent entries seen with noise sigma."""
        weight, mean, var = (torch.tensor(v).to(y) for v in (self.weight, self.mean, self.var))
        offset, total = y[..., None] - mean, var + sigma**2
        log_weight = weight.log() - 0.5 * (total.log() + offset.square() / total)
        return (log_weight.softmax(-1) * (mean + var / total * offset)).sum(-1)


def contrast_denoise(y: Tensor, sigma: float, spread: float, dof: int) -> Tensor:
    """Posterior mean of vectors (B, ...) of `dof` free numbers whose variance is 1 ± spread."""
    var = torch.tensor([1 - spread, 1 + spread]).to(y)
    square = y.flatten(1).square().sum(1, keepdim=True)
    log_weight = -0.5 * (dof * (var + sigma**2).log() + square / (var + sigma**2))
    gain = (log_weight.softmax(1) * var / (var + sigma**2)).sum(1)
    return y * gain.reshape(-1, *[1] * (y.dim() - 1))


def contrast(n: int, spread: float, generator: Generator) -> Tensor:
    """Standard deviations (n,) of a variance of 1 ± spread."""
    sign = torch.randint(0, 2, (n,), generator=generator) * 2.0 - 1
    return (1 + spread * sign).sqrt()


def correlated(shape: tuple[int, ...], rho: float, generator: Generator) -> Tensor:
    """Standard normal entries (..., d) with correlation rho between any two of the last axis."""
    own = torch.randn(shape, generator=generator)
    shared = torch.randn((*shape[:-1], 1), generator=generator)
    return math.sqrt(1 - rho) * own + math.sqrt(rho) * shared


def optimal(reference: ReferenceGaussian) -> Denoise:
    """The denoiser of a law that is Gaussian."""
    return lambda y, sigma, mask: posterior_mean(reference, y, sigma, mask)


# ---------------------------------------------------------------------------- vectors

TAILED = Mixture((0.9, 0.1), (0.0, 0.0), (0.6, 4.6))
SKEWED = Mixture((0.8, 0.2), (-0.45, 1.8), (0.19, 0.19))
SPREAD, RHO = 0.6, 0.2


def vector_of_one_contrast(n: int, generator: Generator) -> Tensor:
    """Vectors (n, 8) whose entries share a random variance."""
    white = torch.randn(n, DIMENSION, generator=generator)
    return contrast(n, SPREAD, generator)[:, None] * white


# ---------------------------------------------------------------------------- molecules


def gaussian_atoms(n: int, generator: Generator) -> Tensor:
    """Molecules (n, 9, 5) of standard normal numbers."""
    return torch.randn(n, N_ATOMS, 3 + N_FEATURES, generator=generator)


def sizes_mixed(n: int, generator: Generator) -> Tensor:
    """v_x is 1 ± 0.3 by molecule."""
    x = gaussian_atoms(n, generator)
    x[..., :3] *= contrast(n, SPREAD / 2, generator)[:, None, None]
    return x


def sizes_mixed_denoiser(reference: ReferenceGaussian) -> Denoise:
    """Positions by their own spread, features as Gaussian ones."""

    def denoise(y: Tensor, sigma: float, mask: Tensor | None) -> Tensor:
        positions = contrast_denoise(y[..., :3], sigma, SPREAD / 2, 3 * (N_ATOMS - 1))
        return torch.cat([positions, y[..., 3:] / (1 + sigma**2)], -1)

    return denoise


def bonded(n: int, generator: Generator) -> Tensor:
    """Four pairs at a distance of 1, the ninth atom alone, in random order."""
    x = gaussian_atoms(n, generator)
    bond = torch.nn.functional.normalize(torch.randn(n, 4, 3, generator=generator), dim=-1)
    x[:, :4, :3] = x[:, 4:8, :3] + bond
    order = torch.rand(n, N_ATOMS, generator=generator).argsort(1)
    return x.take_along_dim(order[..., None], 1)


def features_skewed(n: int, generator: Generator) -> Tensor:
    """Features drawn from the skewed mixture, atom by atom."""
    x = gaussian_atoms(n, generator)
    x[..., 3:] = SKEWED.draw((n, N_ATOMS, N_FEATURES), generator)
    return x


def features_skewed_denoiser(reference: ReferenceGaussian) -> Denoise:
    """Features one by one, positions as Gaussian ones."""

    def denoise(y: Tensor, sigma: float, mask: Tensor | None) -> Tensor:
        return torch.cat([y[..., :3] / (1 + sigma**2), SKEWED.denoise(y[..., 3:], sigma)], -1)

    return denoise


def features_correlated(n: int, generator: Generator) -> Tensor:
    """The two features of an atom are correlated."""
    x = gaussian_atoms(n, generator)
    x[..., 3:] = correlated((n, N_ATOMS, N_FEATURES), RHO, generator)
    return x


LAWS: dict[str, Law] = {
    "vector: Gaussian": Law(
        "none: correlation 0.2, known to the reference",
        lambda n, generator: correlated((n, DIMENSION), RHO, generator),
        "full",
        is_null=True,
    ),
    "vector: heavy tails, one contrast": Law(
        "variance of the vector 0.4 or 1.6",
        vector_of_one_contrast,
        "full",
        denoise=lambda _: lambda y, sigma, mask: contrast_denoise(y, sigma, SPREAD, DIMENSION),
    ),
    "vector: heavy tails, each entry": Law(
        "kurtosis 7.3 of every entry, independent",
        lambda n, generator: TAILED.draw((n, DIMENSION), generator),
        "full",
        denoise=lambda _: lambda y, sigma, mask: TAILED.denoise(y, sigma),
    ),
    "vector: skewed": Law(
        "skewness 1.1 of every entry, independent",
        lambda n, generator: SKEWED.draw((n, DIMENSION), generator),
        "full",
        denoise=lambda _: lambda y, sigma, mask: SKEWED.denoise(y, sigma),
    ),
    "vector: correlated": Law(
        "correlation 0.2 of any two entries, unknown to the reference",
        lambda n, generator: correlated((n, DIMENSION), RHO, generator),
        "channel",
        denoise=optimal,
    ),
    "molecules: Gaussian": Law(
        "none: draws of the reference", gaussian_atoms, "size", is_null=True
    ),
    "molecules: mixed sizes": Law(
        "v_x 0.7 or 1.3 by molecule", sizes_mixed, "size", denoise=sizes_mixed_denoiser
    ),
    "molecules: bonded pairs": Law("four pairs of nine atoms at a distance of 1", bonded, "size"),
    "molecules: skewed features": Law(
        "skewness 1.1 of both features", features_skewed, "size", denoise=features_skewed_denoiser
    ),
    "molecules: correlated features": Law(
        "correlation 0.2 of both features, unknown to the reference",
        features_correlated,
        "channel",
        denoise=optimal,
    ),
}


# ---------------------------------------------------------------------------- judging


def items(law: Law, n: int, generator: Generator) -> tuple[Tensor, Tensor | None]:
    """Items of a law, and their mask."""
    x = law.draw(n, generator)
    if x.dim() == 2:
        return x, None
    mask = torch.ones(x.shape[:2], dtype=torch.bool)
    return project(x, mask), mask


def references(law: Law, generator: Generator) -> tuple[ReferenceGaussian, ReferenceGaussian]:
    """The reference of the law's moments, and that of the finest kind.

    Under the null hypothesis of molecules the moments are fitted all the same: their error is that
    of 100,000 items, and does not show in 1,000.
    """
    x, mask = items(law, N_FITTED, generator)
    if mask is None:
        dense = DenseMoments((DIMENSION,), kind="full")
        dense.update(x)
        return make_reference(dense, law.kind), make_reference(dense, "full")
    moments = ExchangeableMoments(N_FEATURES, table_size=0)
    moments.update(x, mask)
    return make_reference(moments, law.kind), make_reference(moments, "size")


def judges(law: Law, finest: ReferenceGaussian, wanted: list[str]) -> dict[str, Criterion]:
    """The criteria that can judge a law."""
    made: dict[str, Criterion] = {}
    for name in wanted:
        if name == "certificate":
            if law.denoise is not None:
                made[name] = Certificate(law.denoise(finest))
        elif name == "two_sample":
            made[name] = TwoSample(check_reference=False)
        else:
            made[name] = criterion(name)
    return made


def verdicts(curve: CriterionCurve) -> dict[str, tuple[float, bool | None]]:
    """Value and rejection by row of the table; `None` where it could not be computed."""
    found: dict[str, tuple[float, bool | None]] = {}
    value, error = curve.value[0], curve.std_error[0]
    rejected = value <= ALPHA if curve.unit == "p-value" else value - 2 * error > 0
    found[f"{curve.criterion}, {curve.unit}"] = (value, None if math.isnan(value) else rejected)
    if "p_value" in curve.extra:
        p_value = curve.extra["p_value"][0]
        verdict = None if math.isnan(p_value) else p_value <= ALPHA
        found[f"{curve.criterion}, p-value"] = (p_value, verdict)
    return found


def measured(law: Law, n: int, repetitions: int, wanted: list[str]) -> dict[str, dict[str, Any]]:
    """Rate of rejections of every criterion on one law."""
    reference, finest = references(law, torch.Generator().manual_seed(0))
    at = torch.tensor([LOG_SNR], dtype=torch.float64)
    rows: dict[str, dict[str, Any]] = {}
    for judge in judges(law, finest, wanted).values():
        seen: dict[str, list[tuple[float, bool | None]]] = {}
        start = time.perf_counter()
        for repetition in range(repetitions):
            generator = torch.Generator().manual_seed(1 + repetition)
            x, mask = items(law, n, generator)
            for name, verdict in verdicts(judge.curve(x, mask, reference, at, generator)).items():
                seen.setdefault(name, []).append(verdict)
        seconds = (time.perf_counter() - start) / repetitions
        for name, results in seen.items():
            known = [(value, rejected) for value, rejected in results if rejected is not None]
            count = len(known)
            rate = sum(rejected for _, rejected in known) / count if count else None
            rows[name] = {
                "rate": rate,
                "rate_std_error": None if rate is None else math.sqrt(rate * (1 - rate) / count),
                "mean_value": sum(value for value, _ in known) / count if count else None,
                "not_computable": len(results) - count,
                "seconds": seconds,
            }
    return rows


def already(settings: dict[str, Any]) -> dict[str, Any]:
    """Laws of the results file, if they were measured with the same settings."""
    if not RESULT.exists():
        return {}
    found = json.loads(RESULT.read_text(encoding="utf-8"))
    same = all(found.get(name) == value for name, value in settings.items())
    laws: dict[str, Any] = found["laws"] if same else {}
    return laws


def table(found: dict[str, Any]) -> str:
    """Divergence in nats as the certificate has it, and rates in percent per criterion."""
    columns = sorted({name for law in found["laws"].values() for name in law["criteria"]})
    lines = [f"{'rejected, %':36} {'nats':>6}" + "".join(f"{name:>22}" for name in columns)]
    for label, law in found["laws"].items():
        cells = []
        for name in columns:
            row = law["criteria"].get(name)
            if row is None or row["rate"] is None:
                cells.append("-")
            else:
                cells.append(f"{100 * row['rate']:.0f} ± {100 * row['rate_std_error']:.0f}")
        exact = law["criteria"].get("certificate, nats", {}).get("mean_value")
        nats = "-" if exact is None else f"{exact:.3f}"
        lines.append(f"{label:36} {nats:>6}" + "".join(f"{cell:>22}" for cell in cells))
    return "\n".join(lines)


def main() -> None:
    """Judge every law, write after each, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("-n", type=int, default=1000, help="items per repetition")
    parser.add_argument("-r", "--repetitions", type=int, default=30)
    parser.add_argument("--criteria", nargs="*", default=list(CRITERIA), choices=list(CRITERIA))
    parser.add_argument("--laws", nargs="*", default=list(LAWS), choices=list(LAWS))
    args = parser.parse_args()
    settings = {"n": args.n, "repetitions": args.repetitions, "log_snr": LOG_SNR, "alpha": ALPHA}
    found: dict[str, Any] = provenance() | settings | {"laws": already(settings)}
    for label in args.laws:
        law = LAWS[label]
        times = args.repetitions * (NULL_FACTOR if law.is_null else 1)
        before = found["laws"].get(label, {"criteria": {}})["criteria"]
        found["laws"][label] = {
            "strength": law.strength,
            "reference": law.kind,
            "is_null": law.is_null,
            "repetitions": times,
            "criteria": before
            | {
                name: {"commit": found["commit"]} | result
                for name, result in measured(law, args.n, times, args.criteria).items()
            },
        }
        RESULT.parent.mkdir(exist_ok=True)
        RESULT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print(label, flush=True)
    print(table(found))


if __name__ == "__main__":
    main()
