"""The contract's verdict on the classes of every codebase, each in a process of its own.

    GAGA_EDM_REPO=... GAGA_UNIGEM_REPO=... python benchmarks/codebases.py [NAME ...]

A codebase is run where its variable names a checkout, or a folder into which its package was
installed, and where that is missing its row is kept as it was. `CODEBASES` says what is run and
what a reader of the table has to know; the commit, the verdicts, the network calls and the lines of
the adapters are found by this script. Writes `benchmarks/results/codebases.json`;
`benchmarks/readme.py` makes the table of `integrations/README.md` of it.
"""

from __future__ import annotations

import argparse
import ast
import io
import json
import os
import re
import subprocess
import sys
import time
import tokenize
from collections import Counter
from dataclasses import dataclass
from importlib.metadata import distributions, version
from pathlib import Path
from typing import Any

from provenance import commit, provenance

from gaga_adapter.files.atomic import replacing

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "codebases.json"
RUNNERS = ROOT / "tests" / "runners"


@dataclass(frozen=True)
class Codebase:
    """One codebase, and how its classes are put to the contract.

    Attributes:
        name: Name of the codebase.
        source: Repository on GitHub, or package on PyPI.
        run: Runner in `tests/runners`, and its arguments.
        variable: Variable that names its checkout; empty for a package that is installed here.
        adapter: Files of the adapter in `integrations`.
        unchanged: What works without an edit, in words.
        refused: What is refused while patched, and why.
        folder: Folder of the checkout in which its code is.
    """

    name: str
    source: str
    run: tuple[str, ...]
    variable: str
    adapter: tuple[str, ...]
    unchanged: str
    refused: str
    folder: str = "."


CODEBASES = (
    Codebase(
        "EDM",
        "ehoogeboom/e3_diffusion_for_molecules",
        ("upstream_runner.py", "edm"),
        "GAGA_EDM_REPO",
        ("edm.py",),
        "`main_qm9.py`, `main_geom_drugs.py`, `eval_*.py` under `gaga run edm`; `as_pipeline`",
        "nothing",
    ),
    Codebase(
        "GeoLDM",
        "MinkaiXu/GeoLDM",
        ("upstream_runner.py", "geoldm"),
        "GAGA_GEOLDM_REPO",
        ("geoldm.py",),
        "its scripts under `gaga run geoldm`; `as_pipeline`",
        "statistics of another latent: the autoencoder was changed or trained since",
    ),
    Codebase(
        "GAGA, the paper's code",
        "QuJX/GAGA",
        ("family_runner.py", "paper"),
        "GAGA_PAPER_REPO",
        ("forks/paper.py",),
        "`main_qm9.py`, `eval_analyze.py` under `gaga run paper`; `sample_shortcut` starts at t\\*",
        "`as_pipeline`: its features have zero mean over the atoms; a `max_t` below t\\*",
    ),
    Codebase(
        "UniGEM",
        "fengshikun/UniGEM",
        ("family_runner.py", "unigem"),
        "GAGA_UNIGEM_REPO",
        ("forks/unigem.py",),
        "positions alone start at t\\*, elements are predicted; `gaga run unigem`",
        "flows of Bayes, a second diffusion of properties, bonds, two networks in turn: loops of "
        "their own; a t\\* below the threshold that splits its batches",
    ),
    Codebase(
        "GeoRCG",
        "GraphPKU/GeoRCG",
        ("family_runner.py", "georcg"),
        "GAGA_GEORCG_REPO",
        ("forks/georcg.py",),
        "`rep=` passes through; `ddim_sample` takes its S steps from t\\*",
        "`as_pipeline`: its network needs a representation of each molecule",
        folder="EDM_based",
    ),
    Codebase(
        "EDPO",
        "ZhijianZhou/EDPO",
        ("family_runner.py", "edpo"),
        "GAGA_EDPO_REPO",
        ("forks/edpo.py",),
        "its samplers and those of the fine-tuning; `gaga run edpo`",
        "a fine-tuning that asks for more steps than t\\*: it divides them by their number",
    ),
    Codebase(
        "EEGSDE",
        "gracezhao1997/EEGSDE",
        ("family_runner.py", "eegsde"),
        "GAGA_EEGSDE_REPO",
        ("forks/eegsde.py",),
        "four classes, three of them without a loss; energies get the times they know",
        "the loss of a class that has none",
    ),
    Codebase(
        "SymDiff",
        "leozhangML/symdiff",
        ("family_runner.py", "symdiff"),
        "GAGA_SYMDIFF_REPO",
        ("forks/symdiff.py",),
        "its networks, with `com_free`; `gaga run symdiff`",
        "models that keep the centre of mass, and its toys without elements",
    ),
    Codebase(
        "ChemGuide",
        "A-Chicharito-S/ChemGuide",
        ("family_runner.py", "chemguide"),
        "GAGA_CHEMGUIDE_REPO",
        ("forks/chemguide.py",),
        "its guided samplers, which count steps from the data; `gaga run chemguide`",
        "as GeoLDM",
    ),
    Codebase(
        "MolCraftDiffusion",
        "molcraftdiffusion",
        ("package_runner.py", "molcraftdiffusion"),
        "",
        ("molcraftdiffusion.py",),
        "its EDM and its two GeoLDM classes",
        "`sample` with a condition or retries, `sample_guidance`, `sample_ddim`: absolute steps; "
        "`phi_pyg`, `phi_distillation`: times that the patch does not see; `extra_norm_values`",
    ),
    Codebase(
        "mlconfgen",
        "mlconfgen",
        ("package_runner.py", "mlconfgen"),
        "",
        ("mlconfgen.py",),
        "`MLConformerGenerator`, patched by its `generative_model`",
        "`denoise` and `teach` with noise of the caller; `inpaint`, `ifm_merge_fragments` and its "
        "twin: fragments come in at absolute steps",
    ),
    Codebase(
        "GCDM",
        "BioinfoMachineLearning/bio-diffusion",
        ("gcdm_runner.py",),
        "GAGA_GCDM_REPO",
        ("flat/gcdm.py",),
        "flat batches; `mol_gen_sample(num_timesteps=k)` takes k steps from t\\*",
        "`fix_noise`: centred over the batch; `generate_x_only`, `inpaint`, `mol_gen_optimize`: a "
        "part is given; `norm_with_original_timesteps` with fewer steps",
    ),
    Codebase(
        "DiffSBDD, joint",
        "arneschneuing/DiffSBDD",
        ("diffsbdd_runner.py",),
        "GAGA_DIFFSBDD_REPO",
        ("flat/diffsbdd.py",),
        "ligand and pocket from a product Gaussian",
        "the conditional model and `inpaint`: a pocket fixes the law of its ligand",
    ),
    Codebase(
        "TABASCO",
        "carlosinator/tabasco",
        ("tabasco_runner.py",),
        "GAGA_TABASCO_REPO",
        ("flows/tabasco.py", "flows/truncated.py"),
        "positions with discrete types: `sample`, `forward`, its schedules",
        "bonds: there is no law for them; UFF guidance: noise and times of its own; another path",
    ),
    Codebase(
        "SemlaFlow",
        "rssrwn/semla-flow",
        ("semlaflow_runner.py",),
        "GAGA_SEMLAFLOW_REPO",
        (),
        "`fit_states` on its interpolant; its loop, told later times",
        "open: types and bonds at t\\* (no law yet)",
    ),
    Codebase(
        "FlowMol",
        "Dunni3/FlowMol",
        ("flowmol_runner.py",),
        "GAGA_FLOWMOL_REPO",
        (),
        "`fit_states` on its pairing; its loop takes the times",
        "open: types, charges and bonds at t\\*; the network was not run",
    ),
    Codebase(
        "EquiFM",
        "AlgoMole/MolFM",
        ("equifm_runner.py",),
        "GAGA_EQUIFM_REPO",
        (),
        "`decode_chain(z, [t*, 0])`",
        "open: no training code is published, so its states are made by the paper's description",
        folder="sampling",
    ),
    Codebase(
        "Boltz-2",
        "boltz",
        ("boltz_runner.py",),
        "GAGA_BOLTZ_SITE",
        ("structures/boltz.py",),
        "the schedule of `AtomDiffusion`, cut at sigma\\* (200 residues); weights were not run",
        "steering, forced contacts and templates: their weights mean steps of the whole list",
    ),
    Codebase(
        "Chai-1",
        "chai_lab",
        ("chai_runner.py",),
        "GAGA_CHAI_SITE",
        ("structures/chai.py",),
        "`InferenceNoiseSchedule`, cut at sigma\\* (200 residues); weights were not run",
        "nothing",
    ),
)


def verdict(codebase: Codebase) -> dict[str, Any] | None:
    """What the contract says of a codebase; None if it is not here."""
    folder = ROOT
    if codebase.variable:
        named = os.environ.get(codebase.variable, "").split(os.pathsep)[0]
        if not named or not Path(named).is_dir():
            return None
        folder = Path(named)
    elif codebase.source not in {d.metadata["Name"] for d in distributions()}:
        return None
    done = subprocess.run(
        [sys.executable, str(RUNNERS / codebase.run[0]), *codebase.run[1:]],
        cwd=folder / codebase.folder,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        check=False,
    )
    if done.returncode:
        sys.exit(f"the runner of {codebase.name} failed:\n{done.stderr[-4000:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    outcomes = found["checks"].values()
    counts = Counter(re.split(r"[:\n]", outcome)[0] for outcome in outcomes)
    return {
        **commit(),
        "version": _version(codebase, folder),
        "passed": counts["passed"],
        "skipped": counts["skipped"],
        "reasons": sorted({o.partition(": ")[2] for o in outcomes if o.startswith("skipped")}),
        "failed": {name: o for name, o in found["checks"].items() if o.startswith("failed")},
        "calls": found["calls"],
    }


def _version(codebase: Codebase, folder: Path) -> str:
    """Commit and date of a checkout, or the version of a package."""
    if "/" in codebase.source:
        command = ["git", "-C", str(folder), "log", "-1", "--format=`%h`, %cs"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    for info in folder.glob(f"{codebase.source}-*.dist-info"):
        return f"{info.name.removesuffix('.dist-info').rpartition('-')[2]} from PyPI"
    return f"{version(codebase.source)} from PyPI"


def code_lines(path: Path) -> int:
    """Lines of a Python file that hold code: no blank lines, comments or docstrings."""
    text = path.read_text(encoding="utf-8")
    lines: set[int] = set()
    blank = {tokenize.NL, tokenize.NEWLINE, tokenize.COMMENT, tokenize.INDENT, tokenize.DEDENT}
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in {*blank, tokenize.ENDMARKER}:
            lines |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(
            node
        ):
            first = node.body[0]
            lines -= set(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    return len(lines)


def table(found: dict[str, Any]) -> str:
    """The table of `integrations/README.md`."""
    lines = [
        "| codebase | tested at | adapter, lines of code | checks | network calls "
        "| works as it is | refused, and why |",
        "|---" * 7 + "|",
    ]
    for codebase in CODEBASES:
        row = found["rows"].get(codebase.name)
        if row is None:
            continue
        where = "github.com" if "/" in codebase.source else "pypi.org/project"
        files = [
            f"`{file}` {code_lines(ROOT / 'integrations' / file)}" for file in codebase.adapter
        ]
        checks = f"{row['passed']} passed"
        checks += f", {row['skipped']} not applicable" if row["skipped"] else ""
        checks += f", **{len(row['failed'])} failed**" if row["failed"] else ""
        cells = [
            f"[{codebase.name}](https://{where}/{codebase.source})",
            row["version"],
            ", ".join(files) or "none needed",
            checks,
            " to ".join(map(str, row["calls"])),
            codebase.unchanged,
            codebase.refused,
        ]
        lines.append("| " + " | ".join(cells) + " |")
    lines.append("")
    lines.append(
        "Every line is of the real classes, with small random networks. Calls: of a sample of the "
        "whole path, and from the t\\* of the run: 550 of 1000 for EDM and what is like it. "
        "Lines of code are without blank lines, comments and docstrings. "
        "`python benchmarks/codebases.py`"
    )
    return "\n".join(lines)


def main() -> None:
    """Run what is here, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [codebase.name for codebase in CODEBASES]
    parser.add_argument("only", nargs="*", metavar="NAME", help=f"some of {', '.join(names)}")
    arguments = parser.parse_args()
    if unknown := set(arguments.only) - set(names):
        parser.error(f"unknown: {', '.join(sorted(unknown))}. Known: {', '.join(names)}.")
    rows = json.loads(RESULTS.read_text(encoding="utf-8"))["rows"] if RESULTS.is_file() else {}
    for codebase in CODEBASES:
        if arguments.only and codebase.name not in arguments.only:
            continue
        started = time.perf_counter()
        row = verdict(codebase)
        if row is None:
            print(f"{codebase.name}: not here ({codebase.variable or codebase.source})")
            continue
        rows[codebase.name] = row
        seconds = time.perf_counter() - started
        print(
            f"{codebase.name}: {row['passed']} passed, {row['skipped']} skipped, "
            f"{len(row['failed'])} failed, calls {row['calls']}, {seconds:.0f} s",
            flush=True,
        )
        found = {**provenance(), "rows": {name: rows[name] for name in names if name in rows}}
        with replacing(RESULTS) as temporary:
            temporary.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if failed := [name for name, row in rows.items() if row["failed"]]:
        sys.exit(f"the contract is broken by {', '.join(failed)}.")


if __name__ == "__main__":
    main()
