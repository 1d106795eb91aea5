"""The pages for people who take part: what they name exists, and the test that they show runs."""

import re
from itertools import chain

import blocks
import pytest
import yaml
from folders import ROOT

PAGES = ("CONTRIBUTING.md", "CODE_OF_CONDUCT.md", "SECURITY.md", "docs/principles.md")
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
#: Where a page may say that a file lies: in the repository, or in a room of the package.
HOMES = (ROOT, ROOT / "gaga_adapter", ROOT / "integrations" / "launcher", ROOT / "tests")
REPOSITORY = "https://github.com/gaga-adapter/gaga-adapter"


def text_of(page):
    return (ROOT / page).read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#]+)", text_of(page))
    for link in links:
        if link.startswith(f"{REPOSITORY}/blob/main/"):
            assert (ROOT / link.removeprefix(f"{REPOSITORY}/blob/main/")).exists(), link
        elif not link.startswith("http"):
            assert ((ROOT / page).parent / link).exists(), link
    assert links or page == "SECURITY.md"


@pytest.mark.parametrize("page", PAGES)
def test_files_and_tests_that_are_named_exist(page):
    text = text_of(page)
    files = set(
        re.findall(r"`((?:[\w.-]+/)+[\w.-]*\w|[\w-]+\.(?:py|toml|yml|yaml|md|cff))/?`", text)
    )
    for file in files:
        assert any((home / file).exists() for home in HOMES), file
    tests = set(re.findall(r"`(test_\w+)`", text))
    for test in tests:
        code = chain.from_iterable((ROOT / top).rglob("test_*.py") for top in ("tests",))
        assert any(f"def {test}(" in file.read_text(encoding="utf-8") for file in code), test


def test_commands_of_the_pages_exist():
    for page in PAGES:
        for block in blocks.blocks(text_of(page)):
            if block.language == "sh":
                for words in blocks.commands(block.code):
                    if not words[0].startswith((".venv/bin/p", "GAGA_EDM_REPO=")):
                        blocks.check_command(words)
    fences = re.findall(r"`python ((?:tests|docs|benchmarks)/\S+\.py)", text_of("CONTRIBUTING.md"))
    assert len(fences) >= 5
    for script in fences:
        assert (ROOT / script).is_file(), script


def test_the_test_that_contributing_shows_passes_and_can_fail():
    """Not with the noise left out of the start, nor with another mean or variance."""
    (code,) = (b.code for b in blocks.blocks(text_of("CONTRIBUTING.md")) if b.language == "python")
    name = "test_the_start_has_the_law_of_the_noised_data"
    names = {}
    exec(code, names)
    names[name]()
    for right, wrong in ((".at(A, B)", ".at(A, 0.0)"), ("A * MEAN", "MEAN"), ("A**2", "A")):
        assert right in code
        names = {}
        exec(code.replace(right, wrong, 1), names)
        with pytest.raises(AssertionError):
            names[name]()


def test_every_principle_has_a_reason_and_says_what_holds_it():
    items = re.split(r"^\d+\. ", text_of("docs/principles.md"), flags=re.MULTILINE)[1:]
    assert 10 <= len(items) <= 15
    for item in items:
        rule, reason = re.fullmatch(
            r"\*\*(.+?\.)\*\* (.+?) \*Held\s+by\*.+", item, re.DOTALL
        ).groups()
        assert len(reason.split()) > 5, rule


def test_pages_of_the_manual_are_in_its_table_of_contents():
    table = text_of("mkdocs.yml")
    for page in ("principles.md", "citing.md"):
        assert f": {page}\n" in table


@pytest.mark.parametrize("form", FORMS, ids=lambda path: path.stem)
def test_a_form_can_be_filled_in(form):
    read = yaml.safe_load(form.read_text(encoding="utf-8"))
    if form.stem == "config":
        assert read["blank_issues_enabled"] is False
        assert all(link["url"].startswith(REPOSITORY) for link in read["contact_links"])
        return
    fields = [field for field in read["body"] if field["type"] != "markdown"]
    ids = [field["id"] for field in fields]
    assert len(ids) == len(set(ids))
    assert all(field["attributes"]["label"] for field in fields)
    (doctor,) = (field for field in fields if field["id"] == "doctor")
    assert "gaga doctor" in doctor["attributes"]["label"]
    if form.stem == "bug":
        assert doctor["validations"]["required"]


def test_commands_that_the_forms_name_exist():
    from gaga_adapter.cli import _COMMANDS

    known = {name for name, *_ in _COMMANDS}
    text = "".join(form.read_text(encoding="utf-8") for form in FORMS) + text_of("SECURITY.md")
    named = set(re.findall(r"`gaga (\w+)", text))
    assert named <= known
    assert {"doctor", "adapter"} <= named


def test_no_address_is_invented():
    """The only private way is GitHub's own."""
    for page in (*PAGES, "CITATION.cff", *(str(form.relative_to(ROOT)) for form in FORMS)):
        assert not re.search(r"[\w.]+@[\w-]+\.\w+", text_of(page)), page
