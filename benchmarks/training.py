"""Quality against optimizer steps: trained on the full path, and in [0, t*] alone.

    python benchmarks/training.py --steps 1500 --seeds 0 1 2
    python benchmarks/training.py --from qm9 --t-star 501 --steps 3000 --judged 3000 --seeds 0 \
        --solver few-step --calls 20 --sampled 2048 --compile --batch-size 128 --lr 5e-4 \
        --recipe '{"muon_lr": 1e-3, "warmup": 200, "cooldown": 1500, "bf16": true}' \
        --runs runs/continued --out benchmarks/results/continued.json

A small net is trained on QM9 by `qm9_training.py` for the same number of optimizer steps on the
full path and in [0, t*] for each t*: the same initial weights, batches, noise and learning rates,
only the law of the noise levels is cut. With `--from`, a trained net goes on in both ways. At some
steps the averaged weights are judged: losses on held-out molecules at levels in [0, t*], and
molecules by DDPM or another solver, from the end of the path or from the `shape` reference at t*.
What is finished is kept under `runs/training`: start again after an interruption. Writes
`benchmarks/results/training.json`, or what `--out` names, and draws a picture beside it.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from provenance import provenance
from qm9_training import Recipe, Run, sizes_of, validate
from torch import Tensor

from gaga_adapter import GAGAScheduler, GAGAStats
from gaga_adapter.files.atomic import replacing
from gaga_adapter.molecules.encoding import encode
from gaga_adapter.molecules.metrics.distances import Geometry, distances
from gaga_adapter.molecules.metrics.evaluate import evaluate
from gaga_adapter.molecules.pipeline import MoleculePipeline, edm_scheduler
from gaga_adapter.molecules.qm9.data import load_qm9
from gaga_adapter.sampling.solvers import scheduler_named

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
NET = {"width": 64, "pair_width": 16, "n_layers": 4, "n_vectors": 6, "n_heads": 8}
#: The training of a net that is judged with the weights that the others begin with.
UNTRAINED = "not at all"
FIGURES = ("atom_stability", "molecule_stability", "validity", "v_x", "v_x_spread", "W1 v_x")


@dataclass(frozen=True)
class Setting:
    """What decides the results, besides run and step.

    Attributes:
        steps: optimizer steps of every run.
        judged: steps at which it is judged.
        batch_size: molecules in a step.
        lr: of AdamW.
        sampled: molecules behind a figure.
        calls: DDPM steps of the full path.
        net: options of the denoiser.
        molecules: of the training split; `None` for all.
        against: of the test split, behind the distances; `None` for all.
        solver: short name of the sampler.
        recipe: further options of `Recipe`.
        began_with: a pipeline whose weights every run begins with; `None` for random ones.
    """

    steps: int
    judged: tuple[int, ...]
    batch_size: int
    lr: float
    sampled: int
    calls: int
    net: dict[str, int]
    molecules: int | None
    against: int | None
    solver: str = "ddpm"
    recipe: dict[str, Any] = field(default_factory=dict)
    began_with: str | None = None

    def record(self) -> dict[str, Any]:
        """As json gives it back, without what was not asked for."""
        found: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        unasked = {"solver": "ddpm", "recipe": {}, "began_with": None}
        return {k: v for k, v in found.items() if k not in unasked or v != unasked[k]}

    def run(self, folder: Path, seed: int, t_star: int | None) -> Run:
        """One training, at its latest state."""
        options = {
            "steps": self.steps,
            "batch_size": self.batch_size,
            "lr": self.lr,
            "warmup": min(300, self.steps // 5),
            "net": self.net,
        }
        initial = None
        if self.began_with is not None:
            initial = MoleculePipeline.from_pretrained(self.began_with).denoiser
            options["net"] = sizes_of(initial)
        recipe = Recipe(**(options | self.recipe), t_star=t_star, seed=seed)
        return Run(recipe, folder, torch.device("cpu"), initial)


class Judge:
    """Judges a model at its step.

    Args:
        setting: how many molecules, in how many steps.
        held_out: molecules that no model has seen, encoded (M, N, 3+F), and their mask.
        sizes: numbers of atoms of the molecules to sample (n,).
    """

    def __init__(self, setting: Setting, held_out: tuple[Tensor, Tensor], sizes: Tensor) -> None:
        self.setting, self.held_out, self.sizes = setting, held_out, sizes
        self.geometry = Geometry.of(load_qm9("test").subset(slice(setting.against)))
        self.stats = GAGAStats.from_pretrained("qm9")

    def losses(self, run: Run, t_star: int) -> dict[str, float]:
        """At levels in [0, t*]."""
        return validate(run.averaged(), *self.held_out, t_star)

    def samples(self, run: Run, start: int | None) -> dict[str, Any]:
        """Figures of molecules from the end of the path, or from `shape` at t*."""
        solver = scheduler_named(self.setting.solver, edm_scheduler())
        pipeline = MoleculePipeline(run.averaged(), solver)
        pipeline.set_progress_bar_config(disable=True)
        if start is not None:
            pipeline.scheduler = GAGAScheduler.from_pretrained(
                pipeline.scheduler, stats=self.stats, t_star=start, reference="shape"
            )
        made = pipeline(
            n_atoms=self.sizes,
            num_inference_steps=self.setting.calls,
            generator=torch.Generator().manual_seed(run.recipe.seed),
        )
        found = evaluate(made.molecules).to_dict()
        apart = distances(made.molecules, self.geometry, torch.Generator().manual_seed(0))
        named = found | found["shape"] | {"W1 v_x": apart.to_dict()["measured"]["v_x"]}
        return {"network_calls": made.network_calls} | {name: named[name] for name in FIGURES}


def name_of(t_star: int | None) -> str:
    """`full`, or `truncated at 400`."""
    return "full" if t_star is None else f"truncated at {t_star}"


def mean(estimates: list[dict[str, float] | None]) -> dict[str, float] | None:
    """Over the seeds, with the error that comes from the number of molecules."""
    known = [one for one in estimates if one is not None and one["std_error"] is not None]
    if len(known) < len(estimates) or not known:
        return None
    values = [one["value"] for one in known]
    error = math.sqrt(sum(one["std_error"] ** 2 for one in known)) / len(known)
    return {
        "value": sum(values) / len(values),
        "std_error": error,
        "least": min(values),
        "most": max(values),
    }


def rows(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Means over the seeds, by training, start and step."""
    made = []
    cells = found["cells"].values()
    for key in dict.fromkeys((c["trained"], c["start"], c["step"]) for c in cells):
        same = [c for c in cells if (c["trained"], c["start"], c["step"]) == key]
        row = dict(zip(("trained", "start", "step"), key, strict=True))
        row |= {"seeds": len(same), "network_calls": same[0]["samples"]["network_calls"]}
        row["losses"] = {
            t: sum(c["losses"][t]["valid_position"] for c in same) / len(same)
            for t in same[0]["losses"]
        }
        row["figures"] = {name: mean([c["samples"][name] for c in same]) for name in FIGURES}
        made.append(row)
    return made


def table(found: dict[str, Any]) -> str:
    """All rows, one a line."""
    lines = [f"{'trained':18}{'start':>7}{'step':>7}{'calls':>6}{'seeds':>6}  losses; figures"]
    for row in rows(found):
        losses = ", ".join(f"[0,{t}] {value:.4f}" for t, value in row["losses"].items())
        told = ", ".join(
            f"{name} {one['value']:.3f}±{one['std_error']:.3f}"
            for name, one in row["figures"].items()
            if one is not None
        )
        lines.append(
            f"{row['trained']:18}{row['start'] or 'full':>7}{row['step']:7}"
            f"{row['network_calls']:6}{row['seeds']:6}  {losses}; {told}"
        )
    return "\n".join(lines)


def markdown(found: dict[str, Any]) -> str:
    """The last step of every training, as a table."""
    last = max(row["step"] for row in rows(found))
    bounds = sorted({t for row in rows(found) for t in row["losses"]}, key=int)
    head = ["trained on", "sampled from", "network calls"]
    head += [f"error, levels in [0, {t}]" for t in bounds]
    head += ["atoms stable %", "molecules stable %", "valid %", "v_x", "spread of v_x", "W v_x"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    scales = (100, 100, 100, 1, 1, 1)
    for row in rows(found):
        if row["step"] != last and row["trained"] != UNTRAINED:
            continue
        cells = [f"{row['losses'][t]:.4f}" if t in row["losses"] else "–" for t in bounds]
        for (_, one), scale in zip(row["figures"].items(), scales, strict=True):
            digits = 1 if scale == 100 else 3
            cells.append(
                "–"
                if one is None
                else f"{scale * one['value']:.{digits}f} ± {scale * one['std_error']:.{digits}f}"
            )
        named = {"full": "the full path", UNTRAINED: "(the weights that both begin with)"}
        where = named.get(row["trained"], f"[0, {row['trained'].split()[-1]}]")
        start = "the end" if row["start"] is None else f"`shape` at {row['start']}"
        lines.append(f"| {where} | {start} | {row['network_calls']} | " + " | ".join(cells) + " |")
    setting, seeds = found["setting"], max(row["seeds"] for row in rows(found))
    lines.append("")
    net = ", ".join(f"{k} {v}" for k, v in setting["net"].items())
    who = f"The network `{setting['began_with']}`" if "began_with" in setting else None
    lines.append(
        f"{who or f'A small net ({net})'} after {last} {'more ' if who else ''}"
        f"optimizer steps of {setting['batch_size']} molecules, everything but the levels equal; "
        f"means over {seeds} seed{'s' * (seeds > 1)} of {setting['sampled']} molecules each, by "
        f"`{setting.get('solver', 'ddpm')}`. "
        "`python benchmarks/training.py`"
    )
    return "\n".join(lines)


def draw(found: dict[str, Any], picture: Path) -> None:
    """Loss, stability of atoms and size of the molecules against optimizer steps."""
    import matplotlib.pyplot as plt

    made = rows(found)
    least = min((t for row in made for t in row["losses"]), key=int)
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    colours = {name: f"C{k}" for k, name in enumerate(dict.fromkeys(r["trained"] for r in made))}
    for trained, start in dict.fromkeys((row["trained"], row["start"]) for row in made):
        line = [r for r in made if (r["trained"], r["start"]) == (trained, start)]
        steps = [row["step"] for row in line]
        starts = list(dict.fromkeys(row["start"] for row in made if row["trained"] == trained))
        style = {"color": colours[trained], "ls": ("-", "--", ":")[starts.index(start) % 3]}
        style["marker"] = "."
        label = f"{trained}, sampled {'in full' if start is None else f'from t = {start}'}"
        if trained != "full" or start is None:
            axes[0].plot(steps, [r["losses"][least] for r in line], label=trained, **style)
        for axis, name, scale in ((axes[1], "atom_stability", 100), (axes[2], "W1 v_x", 1)):
            found_there = [row["figures"][name] for row in line]
            axis.errorbar(
                steps,
                [math.nan if one is None else scale * one["value"] for one in found_there],
                [0 if one is None else scale * one["std_error"] for one in found_there],
                label=label,
                capsize=2,
                **style,
            )
    axes[0].set(ylabel=f"held-out error of positions, levels in [0, {least}]")
    axes[1].set(ylabel="atoms stable, %")
    axes[2].set(ylabel="Wasserstein distance of v_x from QM9, Å²", yscale="log")
    for axis in axes:
        axis.set(xlabel="optimizer steps")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False, fontsize=8)
    axes[1].legend(frameon=False, fontsize=7)
    with replacing(picture) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
    plt.close(figure)


def main(argv: list[str] | None = None) -> None:
    """Train and judge what is missing, seed by seed; print and draw."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--judged", type=int, nargs="*", help="steps; three even ones by default")
    parser.add_argument("--t-star", type=int, nargs="*", default=[525, 400])
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--sampled", type=int, default=256, help="molecules behind a figure")
    parser.add_argument("--calls", type=int, default=100, help="steps of the full path")
    parser.add_argument("--solver", default="ddpm", help="short name of the sampler")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--held-out", type=int, default=512, help="molecules behind a loss")
    parser.add_argument("--molecules", type=int, default=None, help="to train on; all by default")
    parser.add_argument("--against", type=int, default=None, help="to compare with; all by default")
    parser.add_argument("--net", type=json.loads, default=NET, help="options of the denoiser, json")
    parser.add_argument("--recipe", type=json.loads, default={}, help="further options, json")
    parser.add_argument("--from", dest="initial", help="a pipeline whose weights to begin with")
    parser.add_argument("--compile", action="store_true", help="torch.compile of the layers")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "training")
    parser.add_argument("--out", type=Path, default=RESULTS / "training.json")
    parser.add_argument("--replace", action="store_true", help="discard results of other settings")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    judged = args.judged or [args.steps * k // 3 for k in (1, 2, 3)]
    setting = Setting(
        *(args.steps, tuple(judged), args.batch_size, args.lr, args.sampled, args.calls),
        *(args.net, args.molecules, args.against),
        *(args.solver, args.recipe, args.initial),
    )
    found: dict[str, Any] = {"setting": setting.record(), "cells": {}}
    if args.out.exists():
        old = json.loads(args.out.read_text(encoding="utf-8"))
        if old["setting"] == found["setting"]:
            found = old
        elif not args.replace:
            sys.exit(f"{args.out} is of {old['setting']}. Pass --replace, or another --out.")

    data: tuple[Tensor, Tensor] | None = None
    judge: Judge | None = None
    trainings: list[tuple[str, int | None]] = [("full", None)]
    trainings += [(name_of(t_star), t_star) for t_star in args.t_star]
    if args.initial:
        trainings.insert(0, (UNTRAINED, None))
    for seed in args.seeds:
        for name, t_star in trainings:
            starts = [None, *args.t_star] if t_star is None else [t_star]
            at = [0] if name == UNTRAINED else judged
            keys = {
                (step, start): f"{name}, seed {seed}, step {step}, from {start}"
                for step in at
                for start in starts
            }
            if all(key in found["cells"] for key in keys.values()):
                continue
            folder = args.runs / f"{name.replace(' ', '-')}_{seed}"
            run = setting.run(folder, seed, t_star)
            if data is None or judge is None:
                data = encode(load_qm9("train").subset(slice(args.molecules)), run.model.layout)
                held_out = load_qm9("valid").subset(slice(args.held_out))
                sizes = torch.as_tensor(load_qm9("test").n_atoms)[: args.sampled]
                judge = Judge(setting, encode(held_out, run.model.layout), sizes)
            for step in at:
                missing = [start for start in starts if keys[step, start] not in found["cells"]]
                if run.step > step and missing:
                    sys.exit(f"{folder} is beyond step {step}. Remove it to begin again.")
                run.train(*data, until=step, save_every=250, compiled=args.compile)
                if not missing:
                    continue
                levels = args.t_star if t_star is None else [t for t in args.t_star if t <= t_star]
                losses = {str(t): judge.losses(run, t) for t in levels}
                for start in missing:
                    found["cells"][keys[step, start]] = {
                        "trained": name,
                        "seed": seed,
                        "step": step,
                        "start": start,
                        "losses": losses,
                        "samples": judge.samples(run, start),
                    }
                found = provenance() | {k: found[k] for k in ("setting", "cells")}
                with replacing(args.out) as temporary:
                    temporary.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
                print(f"{name}, seed {seed}: step {step}", flush=True)
    print(table(found))
    draw(found, args.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
