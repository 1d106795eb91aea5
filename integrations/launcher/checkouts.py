"""The codebases that the launcher knows, and how a checkout of each is recognised.

Their modules have the same names (`qm9`, `egnn`, `equivariant_diffusion`, ...), so a process sees
one checkout at most. A fork of EDM or GeoLDM has all of their files, and is known by a mark: a text
in one of its files that the others lack.
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
    factory: str  # the function that makes the diffusion model of a script
    mark: tuple[str, str] | None = None  # a file of a fork, and a text in it
    modules: tuple[str, ...] = ("qm9.models",)  # those that have the function


_MODEL = "equivariant_diffusion/en_diffusion.py"
EDM = Codebase("edm", "EDM", "github.com/ehoogeboom/e3_diffusion_for_molecules", "get_model")
GEOLDM = Codebase("geoldm", "GeoLDM", "github.com/MinkaiXu/GeoLDM", "get_latent_diffusion")
FORKS = (
    Codebase(
        "paper", "GAGA", "github.com/QuJX/GAGA", "get_model", (_MODEL, "def sample_shortcut(")
    ),
    Codebase(
        "unigem",
        "UniGEM",
        "github.com/fengshikun/UniGEM",
        "get_model",
        (_MODEL, "prediction_threshold_t"),
    ),
    Codebase(
        "edpo", "EDPO", "github.com/ZhijianZhou/EDPO", "get_model", (_MODEL, "def sample_edpo(")
    ),
    Codebase(
        "symdiff", "SymDiff", "github.com/leozhangML/symdiff", "get_model", (_MODEL, "com_free")
    ),
    Codebase(
        "chemguide",
        "ChemGuide",
        "github.com/A-Chicharito-S/ChemGuide",
        "get_latent_diffusion",
        ("qm9/models_xtb.py", "cond_en_diffusion_xtb"),
        ("qm9.models", "qm9.models_xtb"),
    ),
)
CODEBASES = {base.kind: base for base in (EDM, GEOLDM, *FORKS)}


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
    codebase = next((fork for fork in FORKS if _contains(folder, fork.mark)), None)
    if codebase is None:
        latent = _contains(folder, (_FILES[0], f"def {GEOLDM.factory}("))
        codebase = GEOLDM if latent else EDM
    if codebase not in candidates:
        raise GAGAError(
            f"{folder} is a checkout of {codebase.name}, not of {candidates[0].name}. Use "
            f"`gaga run {codebase.kind}` here, or go to a clone of {candidates[0].repository}."
        )
    return codebase


def _contains(folder: Path, mark: tuple[str, str] | None) -> bool:
    """Whether a file of a folder has a text."""
    if mark is None or not (folder / mark[0]).is_file():
        return False
    return mark[1] in (folder / mark[0]).read_text(encoding="utf-8")
