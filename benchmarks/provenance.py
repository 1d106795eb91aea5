"""Where and on what a benchmark ran: the head of every results file."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch


def provenance() -> dict[str, Any]:
    """Commit, hardware and library versions."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        processor = f"{len(names)} x {names[0]}" if names else processor
    accelerator = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "commit": commit,
        "hardware": {
            "processor": processor,
            "threads": torch.get_num_threads(),
            "accelerator": accelerator,
        },
        "versions": {name: version(name) for name in ("torch", "diffusers", "numpy")},
    }
