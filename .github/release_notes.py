"""The section of the changelog that a tag releases: `python .github/release_notes.py v0.1.0`.

It ends with an error if the tag is not `v` and the version of the package, if the changelog has no
section of that version, or if that section is empty.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def package_version(root: Path = ROOT) -> str:
    """The version in pyproject.toml, which is where it is written down."""
    text = (root / "pyproject.toml").read_text(encoding="utf-8")
    found = re.search(r'^version = "([^"]+)"$', text, re.MULTILINE)
    if not found:
        sys.exit("pyproject.toml has no line `version = ...`.")
    return found[1]


def section(version: str, root: Path = ROOT) -> str:
    """What the changelog says of a version, without its heading."""
    text = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    found = re.search(
        rf"^## \[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d\n(.*?)(?=^## |\Z)",
        text,
        re.DOTALL | re.MULTILINE,
    )
    if not found or not found[1].strip():
        sys.exit(
            f"CHANGELOG.md has no section `## [{version}] - YYYY-MM-DD` with text below. Rename "
            "[Unreleased] to it before you tag."
        )
    return found[1].strip() + "\n"


def notes(tag: str, root: Path = ROOT) -> str:
    """The notes of the release that a tag asks for."""
    version = package_version(root)
    if tag != f"v{version}":
        sys.exit(
            f"the tag is {tag} and the version in pyproject.toml is {version}. Tag v{version}, or "
            "change the version first."
        )
    return section(version, root)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python .github/release_notes.py TAG")
    sys.stdout.buffer.write(notes(sys.argv[1]).encode("utf-8"))
