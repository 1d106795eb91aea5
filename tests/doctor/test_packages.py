"""Versions: what is needed, what is there, and classes that diffusers has and nobody here knows."""

import re
import sys
from importlib import metadata

import pytest
from folders import ROOT

from gaga_adapter.doctor import packages
from gaga_adapter.noise import conventions


@pytest.fixture
def installed(monkeypatch):
    """Versions that are pretended, by name; `None` is a library that is not installed."""
    pretended = {}
    real = packages.installed_version

    def version(name):
        return pretended[name] if name in pretended else real(name)

    monkeypatch.setattr(packages, "installed_version", version)
    monkeypatch.setattr(packages, "import_error", lambda module: None)
    return pretended


def line(section, name):
    return dict(section.lines)[name]


def test_what_is_needed_is_what_pyproject_says():
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    expected = {re.match(r"[\w.-]+", text)[0]: None for text in project["dependencies"]}
    for extra, texts in project["optional-dependencies"].items():
        if extra not in ("all", "test", "docs", "dev"):
            expected |= {re.match(r"[\w.-]+", text)[0]: extra for text in texts}
    assert {one.name: one.extra for one in packages.needs()} == expected


def test_an_old_and_a_missing_library_are_faults_with_what_to_run(installed):
    assert packages.libraries().problems == ()
    installed |= {"torch": "1.13.1", "einops": None, "posebusters": None, "ase": "3.0"}
    found = packages.libraries()
    bound = {one.name: one.text for one in packages.needs()}
    assert found.problems == (
        f"torch 1.13.1 is installed, and gaga-adapter needs {bound['torch']}. Run: pip install "
        f'"{bound["torch"]}"',
        f'einops is not installed, and gaga-adapter needs it. Run: pip install "{bound["einops"]}"',
        f"ase 3.0 is installed, and the extra gaga-adapter[ase] needs {bound['ase']}. Run: pip "
        f'install "{bound["ase"]}"',
    )
    missing = 'not installed: pip install "gaga-adapter[posebusters]"'
    assert line(found, "posebusters") == missing
    assert found.facts["posebusters"] == {"version": None, "extra": "posebusters", "error": None}


@pytest.mark.parametrize("version", ["2.99.0.dev20270101", "3.0.0rc1", "9.1+cu130", "odd"])
def test_newer_and_odd_versions_are_no_fault(installed, version):
    installed["torch"] = version
    assert packages.libraries().problems == ()


def test_a_library_that_cannot_be_imported(monkeypatch):
    monkeypatch.setitem(packages._IMPORTED, "einops", "no_such_module_of_einops")
    monkeypatch.setattr(
        packages, "_IMPORTED", {"einops": packages._IMPORTED["einops"]}
    )  # the others are imported elsewhere
    found = packages.libraries()
    (problem,) = found.problems
    assert "cannot be imported (ModuleNotFoundError: No module named" in problem
    assert problem.endswith("pip install -U einops")
    assert line(found, "einops").endswith(", cannot be imported")


def test_without_the_library_that_reads_requirements(monkeypatch):
    monkeypatch.setitem(sys.modules, "packaging.requirements", None)
    (problem,) = packages.libraries().problems
    assert problem.startswith("The library packaging is missing")


def test_the_package_says_where_it_is_from(monkeypatch):
    found = packages.package()
    assert found.facts["version"] == metadata.version("gaga-adapter")
    assert found.facts["is_checkout"]
    assert line(found, "version").endswith(f"imported from a checkout in {ROOT}")
    assert found.problems == ()
    monkeypatch.setattr(packages.metadata, "version", lambda name: "0.0.7")
    (problem,) = packages.package().problems
    assert "and pip knows version 0.0.7. Run `pip install -e .`" in problem


def test_an_installed_wheel_is_no_checkout(monkeypatch, tmp_path):
    installed = tmp_path / "site-packages" / "gaga_adapter" / "errors.py"
    monkeypatch.setattr("gaga_adapter.errors.__file__", str(installed))
    found = packages.package()
    assert line(found, "version").endswith("imported from an installed wheel")
    assert not found.facts["is_checkout"]


def test_a_python_that_is_too_old(monkeypatch):
    monkeypatch.setattr(packages.platform, "python_version", lambda: "3.8.2")
    (problem,) = packages.package().problems
    assert problem.startswith("Python 3.8.2 runs here, and gaga-adapter needs >=3.10")


# -- scheduler classes -----------------------------------------------------------------------------


def test_an_unknown_class_is_good_to_know(monkeypatch):
    assert packages.scheduler_classes().notes == ()
    monkeypatch.delitem(conventions.ROWS, "DDIMScheduler")
    found = packages.scheduler_classes()
    assert found.problems == ()
    assert "does not know: DDIMScheduler. They are refused" in found.notes[0]
    assert found.facts["unknown"] == ["DDIMScheduler"]
    assert line(found, "unknown") == "DDIMScheduler"
