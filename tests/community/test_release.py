"""A tag becomes a release only if version, changelog and citation agree, and the wheel is whole."""

import re
import shutil
import sys
import zipfile

import pytest
import yaml
from folders import ROOT
from workflow_scripts import FOLDER, script

import gaga_adapter

notes = script("release_notes")
VERSION = notes.package_version()


@pytest.fixture
def check_wheel(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])
    return script("check_wheel")


def test_the_version_is_that_of_the_package():
    assert gaga_adapter.__version__ == VERSION


def test_the_notes_of_this_version_are_its_section_of_the_changelog():
    text = notes.notes(f"v{VERSION}")
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    before, after = changelog.split(text.strip())
    assert re.search(rf"## \[{re.escape(VERSION)}\] - [\d-]+\n+$", before)
    assert not after.strip() or after.lstrip().startswith(("## ", "["))
    assert "## [" not in text


@pytest.mark.parametrize("tag", [VERSION, "v0.0.0", f"v{VERSION}rc1", "latest"])
def test_another_tag_is_refused(tag):
    with pytest.raises(SystemExit, match=rf"the tag is {tag} .* Tag v{VERSION}, or"):
        notes.notes(tag)


@pytest.mark.parametrize("heading", ["## [Unreleased]", "## [9.9.9]", "## [9.9.9] - 2030-01-01"])
def test_a_version_without_a_section_is_refused(heading, tmp_path):
    """Also one whose section has no date, or no text."""
    (tmp_path / "pyproject.toml").write_text('version = "9.9.9"\n', encoding="utf-8")
    text = f"# Changelog\n\n{heading}\n\n## [9.9.8] - 2029-01-01\n\n- All.\n"
    (tmp_path / "CHANGELOG.md").write_text(text, encoding="utf-8")
    with pytest.raises(SystemExit, match=r"no section `## \[9\.9\.9\] - YYYY-MM-DD` with text"):
        notes.notes("v9.9.9", tmp_path)
    dated = text.replace(heading, "## [9.9.9] - 2030-01-01\n\n- New.")
    (tmp_path / "CHANGELOG.md").write_text(dated, encoding="utf-8")
    assert notes.notes("v9.9.9", tmp_path) == "- New.\n"


def built(folder, tops=("gaga_adapter",), version=VERSION):
    """A wheel with files of these top-level names, and a source distribution."""
    folder.mkdir()
    with zipfile.ZipFile(folder / f"gaga_adapter-{version}-py3-none-any.whl", "w") as wheel:
        for top in tops:
            wheel.writestr(f"{top}/__init__.py", "")
        wheel.writestr(f"gaga_adapter-{version}.dist-info/METADATA", "")
    (folder / f"gaga_adapter-{version}.tar.gz").touch()
    return folder


def test_a_wheel_of_the_package_alone_passes(check_wheel, tmp_path):
    assert check_wheel.faults(built(tmp_path / "dist")) == []


def test_other_wheels_are_refused(check_wheel, tmp_path):
    two = built(tmp_path / "two", ("gaga_adapter", "tests"))
    assert check_wheel.faults(two) == ["The top-level names of the wheel are gaga_adapter, tests."]
    old = built(tmp_path / "old", version="0.0.1")
    assert len(check_wheel.faults(old)) == 2
    shutil.copy(next(old.glob("*.whl")), two / "another.whl")
    assert "holds 2 wheels and 1 source" in check_wheel.faults(two)[0]
    assert "holds 0 wheels and 0 source" in check_wheel.faults(tmp_path / "nowhere")[0]


# -- how to cite -----------------------------------------------------------------------------------

CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))


def bibtex():
    """The entries of the page, by their kind: field -> text without braces."""
    page = (ROOT / "docs" / "citing.md").read_text(encoding="utf-8")
    entries = {}
    for kind, body in re.findall(r"^@(\w+)\{\w+,\n(.*?)^\}$", page, re.DOTALL | re.MULTILINE):
        fields = re.findall(r"^\s+(\w+)\s*= \{(.*)\},?$", body, re.MULTILINE)
        entries[kind] = {name: re.sub("[{}]", "", text) for name, text in fields}
    return entries


def test_the_citation_is_of_this_version_and_its_day():
    assert CITATION["version"] == VERSION
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## [{VERSION}] - {CITATION['date-released']}\n" in changelog
    assert CITATION["license"] == "MIT"


def test_the_page_names_the_paper_first_and_agrees_with_the_file():
    entries = bibtex()
    assert list(entries) == ["inproceedings", "software"]
    paper, cited = entries["inproceedings"], CITATION["preferred-citation"]
    assert paper["title"] == cited["title"]
    assert paper["year"] == str(cited["year"])
    assert paper["booktitle"] == cited["collection-title"]
    assert paper["url"] == cited["url"]
    names = [f"{one['family-names']}, {one['given-names']}" for one in cited["authors"]]
    assert paper["author"] == " and ".join(names)
    ours = entries["software"]
    assert ours["title"] == CITATION["title"]
    assert ours["version"] == VERSION
    assert ours["year"] == str(CITATION["date-released"])[:4]
    assert ours["url"] == CITATION["repository-code"]
    assert ours["author"] == CITATION["authors"][0]["name"]


def test_the_paper_is_the_one_that_the_other_pages_name():
    title = CITATION["preferred-citation"]["title"].removeprefix("GAGA: ")
    families = ", ".join(one["family-names"] for one in CITATION["preferred-citation"]["authors"])
    for page in ("README.md", "docs/paper.md"):
        text = " ".join((ROOT / page).read_text(encoding="utf-8").split())
        assert title in text, page
        assert f"({families}, ICLR {CITATION['preferred-citation']['year']})" in text, page
