"""The documentation says what is true: its code runs and prints what the pages show."""

import importlib.util
import json
import re
import sys

import pytest
from folders import DOCS, ROOT
from gaga_adapter.integrations import protocol

PAGES = sorted(path for path in DOCS.rglob("*.md") if "tools" not in path.parts)


def tool(name):
    spec = importlib.util.spec_from_file_location(name, DOCS / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


blocks, figures = tool("blocks"), tool("figures")


def names(path):
    return str(path.relative_to(DOCS))


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Pages write files, and register adapters."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(protocol, "_ADAPTERS", dict(protocol._ADAPTERS))


@pytest.mark.parametrize("page", PAGES, ids=names)
def test_the_code_runs_and_prints_what_the_page_says(page):
    for block, printed in blocks.run_page(page):
        if block.reason is None and block.printed is not None:
            where = f"{page.name}, line {block.line}, printed:\n{printed}"
            tolerance = float("inf") if block.varies else 0.03
            assert blocks.same(block.printed, printed, absolute=tolerance), (
                f"{where}\nThe page says:\n{block.printed}\n"
                f"python docs/tools/blocks.py {page.relative_to(ROOT)} --write"
            )


@pytest.mark.parametrize("page", PAGES, ids=names)
def test_code_that_is_not_run_is_code(page):
    for block in blocks.blocks(page.read_text(encoding="utf-8")):
        assert block.language in {"python", "sh", "text", "json", "yaml", "bibtex"}, block.language
        if block.reason is not None and block.language == "python":
            compile(block.code, str(page), "exec")
        if block.language == "sh":
            for words in blocks.commands(block.code):
                blocks.check_command(words)


@pytest.mark.parametrize("page", PAGES, ids=names)
def test_figures_tables_and_sections_exist_and_are_read_in_the_repository_too(page):
    text = page.read_text(encoding="utf-8")
    assert figures.filled(text) == text, "run benchmarks/readme.py"
    site = figures.site_text(text)
    # What one of the patterns did not take would stand on the site, or be empty in the repository.
    left = re.findall(r"\{\{ \w+:|<!-- /?(?:table|section|page)\b|<!-- \w+: \S+/", site)
    assert not left
    for target in re.findall(r"\]\(([^)#:]+\.(?:png|md|svg))[)#]", text):
        made = target.removeprefix("../").startswith(("api/", "examples.md", "changelog.md"))
        assert made or (page.parent / target).is_file(), target


def test_a_number_follows_its_results():
    line = "from 27\u00a0% ± 1.50<!-- related: rows/dpm++ 12, noise/figures/v_x/value as .3f --> on"
    value = json.loads((ROOT / "benchmarks" / "results" / "related.json").read_text("utf-8"))
    value = value["rows"]["dpm++ 12, noise"]["figures"]["v_x"]["value"]
    assert figures.filled(line) == line.replace("1.50", f"{value:.3f}")
    assert figures.site_text(line) == f"from 27\u00a0% ± {value:.3f} on"
    with pytest.raises(KeyError):
        figures.filled(line.replace("v_x", "v_y"))
    assert figures.figure("related", "rows/dpm++ 12, noise/figures/validity/value", ".0%")[-2:] == (
        "\u00a0%"
    )


def test_modules_of_the_api_exist_and_hold_every_public_name():
    import gaga_adapter

    text = (DOCS / "tools" / "hooks.py").read_text(encoding="utf-8")
    modules = re.findall(r'^        "([\w.]+)",$', text, re.MULTILINE)
    assert len(modules) > 30
    homes = set()
    for module in modules:
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__init__.py").is_file(), module
        homes.add(re.sub("^integrations", "gaga_adapter.integrations", module))
    for name in gaga_adapter.__all__:
        home = getattr(getattr(gaga_adapter, name), "__module__", None)
        assert home in homes or name == "__version__", (name, home)


def test_words_must_agree_and_numbers_nearly():
    assert blocks.same("t* = 500, 3 calls", "t* = 505, 3 calls")
    assert blocks.same("│ 1.00 │ Gaussian │", "1.01   Gaussian")
    assert not blocks.same("t* = 500, 3 calls", "t* = 600, 3 calls")
    assert not blocks.same("t* = 500", "s* = 500")
    assert blocks.same("first 1\n...\nlast 2\n", "first 1\nmiddle 7\nlast 2\n")
    assert not blocks.same("first 1\n...\nlast 2\n", "first 1\nmiddle 7\nlast 9\n")


def test_a_block_that_cannot_run_needs_a_reason():
    page = "```sh\nmake demo\n```\n\n<!-- not run: it samples -->\n```sh\nmake nothing\n```\n"
    first, second = blocks.blocks(page)
    assert (first.reason, second.reason) == (None, "it samples")
    with pytest.raises(RuntimeError, match="mark its block"):
        blocks.run_command(blocks.commands(first.code)[0])
    with pytest.raises(RuntimeError, match="no target 'nothing'"):
        blocks.check_command(blocks.commands(second.code)[0])
    with pytest.raises(Exception, match="--nowhere"):
        blocks.check_command(["gaga", "show", "--nowhere"])
