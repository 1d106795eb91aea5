"""What was built is one wheel and one source distribution: `python .github/check_wheel.py dist`.

The only top-level name in the wheel is `gaga_adapter`, and both files are of the version in
pyproject.toml. It uses the standard library alone, since it also runs in an empty environment.
"""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

from release_notes import package_version


def faults(folder: Path) -> list[str]:
    """What is wrong with the files of a folder, in sentences."""
    version = package_version()
    wheels, sources = sorted(folder.glob("*.whl")), sorted(folder.glob("*.tar.gz"))
    if (len(wheels), len(sources)) != (1, 1):
        return [f"{folder} holds {len(wheels)} wheels and {len(sources)} source distributions."]
    names = zipfile.ZipFile(wheels[0]).namelist()
    tops = {name.split("/")[0] for name in names}
    info = {name for name in tops if name.endswith(".dist-info")}
    found = []
    if tops - info != {"gaga_adapter"}:
        found.append(f"The top-level names of the wheel are {', '.join(sorted(tops - info))}.")
    if info != {f"gaga_adapter-{version}.dist-info"}:
        found.append(f"The wheel is not of version {version}: {', '.join(sorted(info))}.")
    if sources[0].name != f"gaga_adapter-{version}.tar.gz":
        found.append(f"{sources[0].name} is not of version {version}.")
    return found


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python .github/check_wheel.py FOLDER")
    if wrong := faults(Path(sys.argv[1])):
        sys.exit("\n".join(wrong))
    print("one wheel, whose only top-level name is gaga_adapter, and one source distribution")
