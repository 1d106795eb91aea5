"""The page that leads to a command: its lines can be typed, and its links lead somewhere."""

import ast
import re
import shlex

import pytest
from docs.test_docs import blocks
from folders import DOCS

import gaga_adapter
from gaga_adapter.cli import _COMMANDS

PAGE = (DOCS / "which-command.md").read_text(encoding="utf-8")
PROSE = re.sub(r"^```.*?^```$", "", PAGE, flags=re.DOTALL | re.MULTILINE)
CODE = [" ".join(found.split()) for found in re.findall(r"`([^`]+)`", PROSE)]
NAMED = {code.split()[1] for code in CODE if code.startswith("gaga ")}
#: Those with arguments; `gaga fit` alone is a name in a sentence.
COMMANDS = [c for c in CODE if c.startswith(("gaga ", "torchrun ")) and len(c.split()) > 2]
PYTHON = [code for code in CODE if " = " in code]


@pytest.mark.parametrize("code", COMMANDS)
def test_a_command_exists_with_these_options(code):
    blocks.check_command(shlex.split(code))


@pytest.mark.parametrize("code", PYTHON)
def test_a_line_of_python_calls_what_there_is(code):
    tree = ast.parse(code)
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    free = {"pipe", "model", "stats", "path", "start", "s_star", "t_star", "scheduler", "few"}
    free |= {"handle", "sigmas", "timesteps", "batch_size", "generator", "states_at_level"}
    assert names - free <= set(gaga_adapter.__all__)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and getattr(node.value, "id", None) in _OWNERS:
            assert hasattr(getattr(gaga_adapter, _OWNERS[node.value.id]), node.attr), code


_OWNERS = {
    "GAGAScheduler": "GAGAScheduler",
    "FewStepScheduler": "FewStepScheduler",
    "stats": "GAGAStats",
    "scheduler": "GAGAScheduler",
    "path": "GaussianPath",
}


def test_the_page_names_every_command_for_users():
    """All but one: the data files of EDM belong to its own page."""
    assert {name for name, *_ in _COMMANDS} - NAMED == {"prepare"}
    assert len(PYTHON) >= 8
    assert len(COMMANDS) >= 12


def test_every_link_leads_to_a_page_and_a_heading_of_it():
    links = re.findall(r"\]\(([^)]+)\)", PROSE)
    assert len(links) >= 25
    for link in links:
        file, _, anchor = link.partition("#")
        text = (DOCS / file).read_text(encoding="utf-8")
        if anchor:
            titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
            slugs = {re.sub(r"[^\w\s-]", "", t.replace("\\*", "")).strip().lower() for t in titles}
            assert anchor in {slug.replace(" ", "-") for slug in slugs}, link
