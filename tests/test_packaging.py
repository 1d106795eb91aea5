"""What a user installs: one top-level name, one version, one licence."""

import re
import subprocess
import sys
import zipfile

import pytest
from folders import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import gaga_adapter

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # comes with pytest there


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("wheel")
    source = tmp_path_factory.mktemp("source") / "tree"
    files = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    for name in files:
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, source],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return next(out.glob("*.whl"))


def test_the_only_top_level_name_is_the_package(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {"gaga_adapter"}


def test_the_wheel_ships_typing_integrations_templates_model_and_stats(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for name in (
        "gaga_adapter/py.typed",
        "gaga_adapter/integrations/__init__.py",
        "gaga_adapter/assets/qm9/gaga_stats.safetensors",
        "gaga_adapter/report/templates/card.md.j2",
        "gaga_adapter/report/templates/page.css",
        "gaga_adapter/report/templates/page.html.j2",
        "gaga_adapter/molecules/assets/qm9/model_index.json",
        "gaga_adapter/molecules/assets/qm9/denoiser/diffusion_pytorch_model.safetensors",
    ):
        assert name in names


def test_every_file_of_the_package_is_in_the_wheel_and_nothing_else(wheel):
    """Of both folders of the repository; their README and notes are no part of the package."""
    files = [
        *(file.relative_to(ROOT / "gaga_adapter") for file in (ROOT / "gaga_adapter").rglob("*")),
        *(file.relative_to(ROOT) for file in (ROOT / "integrations").rglob("*")),
    ]
    kept = {
        file.as_posix()
        for file in files
        if file.suffix not in {"", ".pyc"} and file.name != "README.md"
    }
    names = zipfile.ZipFile(wheel).namelist()
    shipped = {
        name.removeprefix("gaga_adapter/") for name in names if name.startswith("gaga_adapter/")
    }
    assert shipped == kept, "see [tool.setuptools] in pyproject.toml"


def test_every_public_name_and_command_comes_out_of_the_wheel(wheel, tmp_path):
    """In a process that sees the wheel and not the checkout."""
    zipfile.ZipFile(wheel).extractall(tmp_path)
    code = """
import importlib, pkgutil, sys
sys.path.insert(0, sys.argv[1])
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in repr(finder).lower()]
import gaga_adapter
assert gaga_adapter.__file__.startswith(sys.argv[1]), gaga_adapter.__file__
for name in gaga_adapter.__all__:
    getattr(gaga_adapter, name)
for module in pkgutil.walk_packages(gaga_adapter.__path__, "gaga_adapter."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
for name, module in sys.modules.items():
    if name.startswith("gaga_adapter."):
        assert module.__spec__.origin.startswith(sys.argv[1]), module
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(tmp_path)],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_shipped_files_are_small():
    for path in (ROOT / "gaga_adapter").rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            assert path.stat().st_size <= 4 * 2**20, path


def test_the_newest_version_of_the_changelog_is_this_one():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    released = [name for name in re.findall(r"^## \[(.+?)\]", text, re.M) if name != "Unreleased"]
    assert released[0] == gaga_adapter.__version__


def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def required(*extras):
    """What the package and these extras require, each with its one lower bound."""
    table = project()["project"]
    lines = table["dependencies"] + [
        line for extra in extras for line in table["optional-dependencies"][extra]
    ]
    found = [Requirement(line) for line in lines]
    return [one for one in found if one.name != "gaga-adapter"]


def lower_bound(requirement):
    assert [one.operator for one in requirement.specifier] == [">="], f"{requirement}: one bound"
    return Version(next(iter(requirement.specifier)).version)


def pins(name):
    """Version by package of a file of constraints, where every line pins one."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    found = {canonicalize_name(package): Version(version) for package, version in pairs}
    assert len(found) == len(pairs), f"{name} names a package twice"
    return found


EXTRAS = sorted(project()["project"]["optional-dependencies"])
#: Tools of those who work on the package; what a user or a test needs is in the others.
TOOLS = ("dev", "docs")


def test_every_lower_bound_is_the_version_that_make_test_oldest_installs():
    oldest = pins("constraints-oldest.txt")
    bounds = required(*(extra for extra in EXTRAS if extra not in TOOLS))
    for requirement in [*bounds, *map(Requirement, project()["build-system"]["requires"])]:
        pinned = oldest.get(canonicalize_name(requirement.name))
        assert pinned == lower_bound(requirement), f"{requirement}, but the tests ran with {pinned}"


def test_the_oldest_python_is_the_one_that_make_test_oldest_takes():
    oldest = project()["project"]["requires-python"].removeprefix(">=")
    assert f"PYTHON_OLDEST ?= python{oldest}\n" in (ROOT / "Makefile").read_text(encoding="utf-8")
    assert project()["tool"]["ruff"]["target-version"] == "py" + oldest.replace(".", "")


def test_the_pinned_versions_are_ones_that_the_package_allows():
    newest = pins("constraints.txt")
    for requirement in required(*EXTRAS):
        pinned = newest.get(canonicalize_name(requirement.name))
        assert pinned is not None, f"constraints.txt does not pin {requirement.name}"
        assert pinned in requirement.specifier, f"{requirement}, but constraints.txt has {pinned}"
