"""Versions of this package, of its libraries and those of its extras; and scheduler classes.

What is needed stands in the metadata of the installed package, which pip has from pyproject.toml.
"""

from __future__ import annotations

import platform
import re
import warnings
from dataclasses import dataclass
from functools import cache
from importlib import import_module, metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gaga_adapter.errors
from gaga_adapter.doctor.section import Section, first_line

if TYPE_CHECKING:
    from packaging.specifiers import SpecifierSet

_NAME = "gaga-adapter"
#: Extras of those who work on the package, and the sum of the others.
_NOT_LISTED = ("all", "test", "docs", "dev")
#: What is imported to see that a library works; some load their parts late.
_IMPORTED = {
    "numpy": "numpy",
    "torch": "torch",
    "safetensors": "safetensors.torch",
    "huggingface_hub": "huggingface_hub",
    "diffusers": "diffusers.pipelines.pipeline_utils",
    "rdkit": "rdkit.Chem",
    "scipy": "scipy.stats",
    "scikit-learn": "sklearn.linear_model",
}
#: What pipelines of users need beside diffusers; a report wants to know.
_BESIDE = ("transformers",)


@dataclass(frozen=True)
class Need:
    """A library that the package needs, by itself or for one of its extras."""

    name: str
    allowed: SpecifierSet
    extra: str | None

    @property
    def text(self) -> str:
        """The requirement as pip takes it."""
        return f"{self.name}{self.allowed}"


def installed_version(name: str) -> str | None:
    """The version of an installed library; `None` if it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def needs() -> tuple[Need, ...]:
    """The libraries of the package, then those of its extras, each once.

    Raises:
        ImportError: If the library `packaging`, which reads requirements, is missing.
    """
    from packaging.requirements import Requirement

    about = metadata.metadata(_NAME)
    extras = [one for one in about.get_all("Provides-Extra") or () if one not in _NOT_LISTED]
    found: dict[str, Need] = {}
    for extra in (None, *extras):
        for text in metadata.requires(_NAME) or ():
            one = Requirement(text)
            applies = one.marker is None or one.marker.evaluate({"extra": extra or ""})
            if one.name not in (_NAME, *found) and applies:
                found[one.name] = Need(one.name, one.specifier, extra)
    return tuple(found.values())


@cache
def import_error(module: str) -> str | None:
    """The reason why a module cannot be imported; `None` if it can be."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import_module(module)
    except Exception as error:  # whatever a broken library raises
        return first_line(error)
    return None


# -- the sections ----------------------------------------------------------------------------------


def package() -> Section:
    """The version of the package, where it is imported from, and what runs it."""
    root = Path(gaga_adapter.errors.__file__).parents[1]
    project = root / "pyproject.toml"
    version, problems = metadata.version(_NAME), []
    where = "an installed wheel"
    if project.is_file():
        where = f"a checkout in {root}"
        found = re.search(
            r'^version = "([^"]+)"', project.read_text(encoding="utf-8"), re.MULTILINE
        )
        if found and found[1] != version:
            problems.append(
                f"The checkout in {root} is of version {found[1]}, and pip knows version "
                f"{version}. Run `pip install -e .` in the checkout again."
            )
    python = f"{platform.python_version()} ({platform.python_implementation()})"
    allowed = metadata.metadata(_NAME)["Requires-Python"]
    if allowed and not _is_within(platform.python_version(), allowed):
        problems.append(
            f"Python {platform.python_version()} runs here, and {_NAME} needs {allowed}. Make an "
            "environment with such a Python."
        )
    facts = {
        "version": version,
        "is_checkout": project.is_file(),
        "folder": str(root),
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
    lines = (
        ("version", f"{version}, imported from {where}"),
        ("python", python),
        ("platform", platform.platform()),
    )
    return Section(_NAME, lines, facts, tuple(problems))


def _is_within(version: str, allowed: str) -> bool:
    """Whether a version is within a range; it is where nobody can tell."""
    try:
        from packaging.specifiers import SpecifierSet
        from packaging.version import Version

        return SpecifierSet(allowed).contains(Version(version), prereleases=True)
    except (ImportError, ValueError):  # no such library, or no such version
        return True


def libraries() -> Section:
    """Versions of the libraries, whether they are within the ranges, and whether they import."""
    lines, problems, facts = [], [], {}
    try:
        wanted = needs()
    except ImportError:
        wanted = ()
        problems.append(
            "The library packaging is missing, so versions were not compared with what "
            f"{_NAME} needs. Run: pip install packaging"
        )
    for one in wanted:
        found = installed_version(one.name)
        error = None
        install = f'pip install "{one.text}"'
        if found is None and one.extra is None:
            problems.append(f"{one.name} is not installed, and {_NAME} needs it. Run: {install}")
        elif found is not None and not _is_within(found, str(one.allowed)):
            whose = _NAME if one.extra is None else f"the extra {_NAME}[{one.extra}]"
            problems.append(
                f"{one.name} {found} is installed, and {whose} needs {one.text}. Run: {install}"
            )
        elif one.name in _IMPORTED:
            error = import_error(_IMPORTED[one.name])
        text = found or "not installed"
        if found is None and one.extra is not None:
            text = f'not installed: pip install "{_NAME}[{one.extra}]"'
        if error is not None:
            text += ", cannot be imported"
            problems.append(
                f"{one.name} {found} cannot be imported ({error}). Install it again, in a version "
                f"that suits the libraries that the message names: pip install -U {one.name}"
            )
        lines.append((one.name, text))
        facts[one.name] = {"version": found, "extra": one.extra, "error": error}
    for name in _BESIDE:
        found = installed_version(name)
        lines.append((name, found or "not installed; some pipelines of diffusers need it"))
        facts[name] = {"version": found, "extra": None, "error": None}
    return Section("Libraries", tuple(lines), facts, tuple(problems))


def scheduler_classes() -> Section:
    """Scheduler classes of the installed diffusers, and those that this version does not know."""
    title = "Scheduler classes of diffusers"
    try:
        from gaga_adapter.noise.conventions import (
            REFUSED,
            ROWS,
            exported_schedulers,
            unknown_schedulers,
        )

        exported = exported_schedulers()
    except Exception as error:  # the section of libraries says what is wrong with them
        reason = first_line(error)
        return Section(title, (("examined", f"no, {reason}"),), {"examined": False})
    known = [name for name in exported if name in ROWS]
    refused = [name for name in exported if name in REFUSED]
    unknown = unknown_schedulers()
    facts: dict[str, Any] = {"known": known, "refused": refused, "unknown": list(unknown)}
    lines = (
        ("known", f"{len(known)} are supported, {len(refused)} are refused with a reason"),
        ("unknown", ", ".join(unknown) or "none"),
    )
    notes: tuple[str, ...] = ()
    if unknown:
        notes = (
            f"diffusers {installed_version('diffusers')} has scheduler classes that {_NAME} "
            f"{installed_version(_NAME)} does not know: {', '.join(unknown)}. They are refused, "
            "unless they derive from a class that is known. Upgrade: pip install -U gaga-adapter",
        )
    return Section(title, lines, facts, (), notes)
