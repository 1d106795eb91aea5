"""Where and on what a benchmark ran: the head of every results file."""

from __future__ import annotations

import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

#: Written by the benchmarks themselves: a change of these changes nothing that is measured.
WRITTEN = (":/benchmarks/results", ":/*.md")


def commit() -> dict[str, Any]:
    """The commit, and the files that differed from it, apart from results and pages.

    Results of code that is in no commit cannot be repeated, so `-dirty` marks them, and a line on
    standard error says so while the benchmark can still be stopped.
    """
    changed = _git(
        "diff", "--name-only", "HEAD", "--", ":/", *(f":(exclude,top){p[2:]}" for p in WRITTEN)
    )
    name = _git("describe", "--always", "--exclude", "*")
    if not changed:
        return {"commit": name}
    files = changed.splitlines()
    print(f"provenance: {len(files)} files differ from commit {name}: {files}", file=sys.stderr)
    return {"commit": f"{name}-dirty", "changed": files}


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    ).stdout.strip()


def provenance() -> dict[str, Any]:
    """Commit, hardware and library versions."""
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        processor = f"{len(names)} x {names[0]}" if names else processor
    accelerator = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        **commit(),
        "hardware": {
            "processor": processor,
            "threads": torch.get_num_threads(),
            "accelerator": accelerator,
        },
        "versions": {name: version(name) for name in ("torch", "diffusers", "numpy")},
    }
