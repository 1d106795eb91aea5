"""The codebases that the launcher knows, and how a checkout of each is told.

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
    """One codebase.

    Attributes:
        kind: as the command line calls it.
        name: as its authors call it.
        repository: where it comes from.
        factory: the function of `qm9.models` that makes its diffusion model for a script.
    """

    kind: str
    name: str
    repository: str
    factory: str


CODEBASES = {
    "edm": Codebase("edm", "EDM", "github.com/ehoogeboom/e3_diffusion_for_molecules", "get_model"),
    "geoldm": Codebase("geoldm", "GeoLDM", "github.com/MinkaiXu/GeoLDM", "get_latent_diffusion"),
}


def codebase_of(folder: Path) -> Codebase | None:
    """Which codebase a folder is a checkout of; `None` if it is none of them."""
    if not all((folder / file).is_file() for file in _FILES):
        return None
    models = (folder / _FILES[0]).read_text(encoding="utf-8")
    latent = CODEBASES["geoldm"]
    return latent if f"def {latent.factory}(" in models else CODEBASES["edm"]


def require_checkout(folder: Path, kind: str | None = None) -> Codebase:
    """The codebase of a checkout.

    Args:
        folder: that should be one.
        kind: which one is wanted; any if `None`.

    Raises:
        GAGAError: an unknown kind, no checkout, or one of another codebase.
    """
    if kind is not None and kind not in CODEBASES:
        raise GAGAError(f"unknown codebase {kind!r}. Known: {', '.join(CODEBASES)}.")
    wanted = [CODEBASES[kind]] if kind else list(CODEBASES.values())
    found = codebase_of(folder)
    if found is None:
        missing = ", ".join(file for file in _FILES if not (folder / file).is_file())
        raise GAGAError(
            f"{folder} is not a checkout of {' or '.join(base.name for base in wanted)}: no "
            f"{missing}. Take the top folder of a clone of "
            f"{' or '.join(base.repository for base in wanted)}."
        )
    if found not in wanted:
        raise GAGAError(
            f"{folder} is a checkout of {found.name}, not of {wanted[0].name}. Use "
            f"`gaga run {found.kind}` here, or go to a clone of {wanted[0].repository}."
        )
    return found
