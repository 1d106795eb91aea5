"""The codebases that the launcher knows, and how a checkout of each is recognised.

Their modules have the same names (`qm9`, `egnn`, `equivariant_diffusion`, ...), so a process sees
one checkout at most.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gaga_adapter.errors import GAGAError

_FILES = ("qm9/models.py", "equivariant_diffusion/en_diffusion.py", "configs/datasets_config.py")


@dataclass(frozen=True)
class Codebase:
    """One codebase."""

    kind: str  # its name on the command line
    name: str
    repository: str
    factory: str  # the function of `qm9.models` that makes the diffusion model of a script


EDM = Codebase("edm", "EDM", "github.com/ehoogeboom/e3_diffusion_for_molecules", "get_model")
GEOLDM = Codebase("geoldm", "GeoLDM", "github.com/MinkaiXu/GeoLDM", "get_latent_diffusion")
CODEBASES = {base.kind: base for base in (EDM, GEOLDM)}


def require_checkout(folder: Path, kind: str | None = None) -> Codebase:
    """The codebase of a checkout; a folder that is no checkout of this kind is refused."""
    if kind is not None and kind not in CODEBASES:
        raise GAGAError(f"unknown codebase {kind!r}. Known: {', '.join(CODEBASES)}.")
    candidates = [CODEBASES[kind]] if kind else list(CODEBASES.values())
    missing = [file for file in _FILES if not (folder / file).is_file()]
    if missing:
        raise GAGAError(
            f"{folder} is not a checkout of {' or '.join(base.name for base in candidates)}: no "
            f"{', '.join(missing)}. Take the top folder of a clone of "
            f"{' or '.join(base.repository for base in candidates)}."
        )
    models = (folder / _FILES[0]).read_text(encoding="utf-8")
    codebase = GEOLDM if f"def {GEOLDM.factory}(" in models else EDM
    if codebase not in candidates:
        raise GAGAError(
            f"{folder} is a checkout of {codebase.name}, not of {candidates[0].name}. Use "
            f"`gaga run {codebase.kind}` here, or go to a clone of {candidates[0].repository}."
        )
    return codebase
