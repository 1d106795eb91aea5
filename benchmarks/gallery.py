"""The pictures of the gallery: where noised data look like their Gaussian, and what comes of it.

    python benchmarks/gallery.py                 all of it: a quarter of an hour on one core
    python benchmarks/gallery.py qm9 digits      only these pictures
    python benchmarks/gallery.py --measure       the nats that no other benchmark has measured

`gallery_qm9.png`, `gallery_drugs.png`, `gallery_digits.png`, `gallery_patches.png`,
`gallery_latents.png` and `gallery_mixed.png` show noised data above draws of the Gaussian that was
fitted to them, at the same levels, and below both how many nats a classifier finds between the two.
`gallery_samples.png` shows the first dozen molecules of one seed, and `gallery_form.png` the sizes
and forms of a thousand. The nats are those of `references.json`, `drugs.json`, `modalities.json`
and `mixed.json`; what none of them holds is measured into `gallery.json`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gallery_pictures as pictures
import numpy as np
import torch
from gallery_data import (
    DRUG_ELEMENTS,
    N_DRAWN,
    PATH,
    ROWS,
    T_STAR,
    digits_of,
    latents_of,
    mixed_of,
    molecules_of,
    patches_of,
    sampled,
    unpacked,
)
from gallery_pictures import Nats, Strip
from numpy.typing import NDArray
from provenance import provenance

from gaga_adapter.criteria import TwoSample
from gaga_adapter.files.atomic import replacing
from gaga_adapter.molecules.metrics.evaluate import MoleculeMetrics, evaluate, judge
from gaga_adapter.molecules.metrics.shape import gyration_eigenvalues
from gaga_adapter.molecules.qm9.data import load_qm9

RESULTS = Path(__file__).parent / "results"
#: Steps of 1000 (for the flow times) that are drawn, from data to noise.
QM9 = DIGITS = (0, 150, 300, 400, 500, 600, 800)
DRUGS = (0, 300, 500, 600, 700, 800, 900)
PATCHES = LATENTS = (50, 200, 300, 400, 500, 600, 800)
MIXED = (1.0, 0.75, 0.7, 0.65, 0.6, 0.55, 0.45)
N_FORMS, N_MEASURED = 1000, 8000
PARTS = ("samples", "form", "n_drawn", "n_forms", "t_star")  # of the results, beside the nats
V_X = (0.8, 4.2)  # range of the picture of forms, angstrom²


# ---------------------------------------------------------------------------- the nats


def results(name: str) -> dict[str, Any]:
    """What a benchmark has written."""
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return found


def measured() -> dict[str, Any]:
    """Nats of QM9 nearer to the data than `references.json` goes, and of the digits."""
    near = molecules_of("qm9", QM9, N_MEASURED)
    images = digits_of(DIGITS)
    found = {}
    for name, cloud, steps in (("qm9", near, QM9[:2]), ("digits", images, DIGITS)):
        curve = TwoSample(n_samples=len(cloud.data), check_reference=False).curve(
            cloud.data,
            cloud.mask,
            cloud.reference,
            PATH.log_snr(torch.tensor(steps, dtype=torch.float64) / 1000),
            torch.Generator().manual_seed(0),
        )
        found[name] = {"t": steps, "n": len(cloud.data), "curve": curve.to_dict()}
        print(name, [round(value, 2) for value in curve.value], flush=True)
    return found


def nats_of(curve: dict[str, Any], t: list[float], shown: tuple[float, ...]) -> list[Nats]:
    """Nats at the shown levels.

    A level that was not measured has at least those of the measured level next to it towards noise:
    both sides get the same noise, which cannot make them easier to tell apart.
    """
    falling = t[0] > t[-1]  # the times of a flow, which ends at the data
    values = dict(
        zip(t, zip(curve["value"], curve["extra"]["saturated"], strict=True), strict=True)
    )
    found = []
    for level in shown:
        noisier = [one for one in t if (one <= level if falling else one >= level)]
        there = max(noisier) if falling else min(noisier)
        value, saturated = values[there]
        found.append(Nats(max(value, 0.0), there != level or bool(saturated)))
    return found


def of_qm9(steps: tuple[int, ...]) -> list[Nats]:
    """Nats between noised QM9 and `shape`."""
    own, others = results("gallery")["measured"]["qm9"], results("references")
    near = nats_of(own["curve"], own["t"], tuple(t for t in steps if t <= max(own["t"])))
    far = tuple(t for t in steps if t > max(own["t"]))
    return near + nats_of(others["curves"]["shape"], others["t"], far)


def of_drugs(steps: tuple[int, ...]) -> list[Nats]:
    """Nats between noised drug-like molecules and `shape`."""
    found = results("drugs")
    return nats_of(found["sets"]["drug-like"]["curve"], found["t"], steps)


def of_modality(name: str, steps: tuple[int, ...]) -> list[Nats]:
    """Nats between a noised modality and the Gaussian of its mean and covariance."""
    found = results("modalities")
    return nats_of(found["rows"][name]["curve"], found["t"], steps)


def of_mixed(times: tuple[float, ...]) -> list[Nats]:
    """Nats between the noised molecules of a flow with discrete types and `mixed`."""
    rows = results("mixed")["sets"]["all atoms"]["mixed"]["curve"]
    curve = {
        "value": [row["kl"] for row in rows],
        "extra": {"saturated": [row["saturated"] for row in rows]},
    }
    return nats_of(curve, [row["t"] for row in rows], times)


# ---------------------------------------------------------------------------- the pictures


def qm9() -> Strip:
    """QM9 and `shape`."""
    shown = pictures.molecule_rows(molecules_of("qm9", QM9, 2), "HCNOF")
    return Strip([f"t = {t}" for t in QM9], shown, of_qm9(QM9), "molecule", "HCNOF")


def drugs() -> Strip:
    """Drug-like molecules and `shape`."""
    shown = pictures.molecule_rows(molecules_of("drugs", DRUGS, 2), DRUG_ELEMENTS)
    return Strip([f"t = {t}" for t in DRUGS], shown, of_drugs(DRUGS), "molecule", DRUG_ELEMENTS)


def digits() -> Strip:
    """Digits and the Gaussian of their full covariance."""
    own = results("gallery")["measured"]["digits"]
    shown = pictures.image_rows(digits_of(DIGITS, 2), unpacked, 2)
    nats = nats_of(own["curve"], own["t"], DIGITS)
    return Strip([f"t = {t}" for t in DIGITS], shown, nats, "image")


def patches() -> Strip:
    """Patches of photographs and the Gaussian of their full covariance."""
    cloud = patches_of(PATCHES, 9)
    shown = pictures.image_rows(cloud, lambda x: pictures.mosaic(x[:, 0], 3), 1)
    nats = of_modality("patches", PATCHES)
    return Strip([f"t = {t}" for t in PATCHES], shown, nats, "patch")


def latents() -> Strip:
    """Latents and the Gaussian of their full covariance."""
    shown = pictures.scatter_rows(latents_of(LATENTS, 1500))
    nats = of_modality("latent", LATENTS)
    return Strip([f"t = {t}" for t in LATENTS], shown, nats, "latent")


def mixed() -> Strip:
    """Molecules of a flow with discrete types, and `mixed`."""
    shown = pictures.molecule_rows(mixed_of(MIXED, 2), "HCNOF", scale=2.0)
    levels = [f"t = {t:g}" for t in MIXED]
    return Strip(levels, shown, of_mixed(MIXED), "molecule", "HCNOF", "fitted start")


STRIPS: dict[str, Callable[[], Strip]] = {
    "qm9": qm9,
    "drugs": drugs,
    "digits": digits,
    "patches": patches,
    "latents": latents,
    "mixed": mixed,
}


def samples() -> dict[str, Any]:
    """Draw the first dozen molecules of three rows, and say how many of them are stable."""
    shown = [row for row in ROWS if row.name != "unit"]
    sets = {row.title: sampled(row, N_DRAWN) for row in shown}
    pictures.sample_grid(sets, RESULTS / "gallery_samples.png")
    return {row.name: int(judge(sets[row.title]).stable.sum()) for row in shown}


def forms_of(molecules: Any) -> NDArray[np.float64]:  # noqa: ANN401 - a MoleculeSet
    """Size v_x and anisotropy (M, 2) of molecules."""
    eigenvalues = gyration_eigenvalues(molecules)
    total = eigenvalues.sum(1)
    return np.stack([total / 3, eigenvalues[:, 2] / total], 1)


def form() -> dict[str, Any]:
    """Draw size and form of a thousand molecules a row, and say what they are on average."""
    order = torch.randperm(len(load_qm9("test")), generator=torch.Generator().manual_seed(0))
    sets = {"QM9 itself": load_qm9("test").subset(order[:N_FORMS].numpy())}
    names = {"QM9 itself": "data"}
    for name in ("few", "unit", "noise"):
        row = next(row for row in ROWS if row.name == name)
        sets[row.title], names[row.title] = sampled(row, N_FORMS), name
    clouds = {title: forms_of(molecules) for title, molecules in sets.items()}
    metrics = {title: evaluate(molecules) for title, molecules in sets.items()}
    stable = {title: one.molecule_stability.value for title, one in metrics.items()}
    pictures.form_panels(clouds, stable, V_X, RESULTS / "gallery_form.png")
    return {names[title]: form_figures(metrics[title], cloud) for title, cloud in clouds.items()}


def form_figures(metrics: MoleculeMetrics, cloud: NDArray[np.float64]) -> dict[str, Any]:
    """What the page says of a set, and how many molecules lie beyond the edge of the picture."""
    shape = metrics.shape
    shown = (cloud[:, 0] >= V_X[0]) & (cloud[:, 0] <= V_X[1])
    return {
        "molecule_stability": vars(metrics.molecule_stability),
        "v_x": vars(shape.v_x),
        "v_x_spread": vars(shape.v_x_spread),
        "anisotropy": vars(shape.anisotropy),
        "outside": int((~shown).sum()),
    }


def main() -> None:
    """Measure and draw what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("pictures", nargs="*", help=", ".join([*STRIPS, "samples", "form"]))
    parser.add_argument("--measure", action="store_true", help="measure the nats again")
    args = parser.parse_args()
    wanted = args.pictures or ([] if args.measure else [*STRIPS, "samples", "form"])
    unknown = set(wanted) - {*STRIPS, "samples", "form"}
    if unknown:
        parser.error(f"no picture is called {', '.join(sorted(unknown))}")
    torch.set_num_threads(1)
    file = RESULTS / "gallery.json"
    found = results("gallery") if file.exists() else {}
    if args.measure or "measured" not in found:
        head = provenance()
        found = head | {k: v for k, v in found.items() if k in PARTS} | {"measured": measured()}
        write(file, found)
    for name in wanted:
        if name in STRIPS:
            pictures.save_strip(STRIPS[name](), RESULTS / f"gallery_{name}.png")
        else:
            found[name] = {"samples": samples, "form": form}[name]()
            write(file, found | {"n_drawn": N_DRAWN, "n_forms": N_FORMS, "t_star": T_STAR})
        print(f"wrote gallery_{name}.png", flush=True)


def write(file: Path, found: dict[str, Any]) -> None:
    """Write the results, whole or not at all."""
    with replacing(file) as temporary:
        temporary.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
