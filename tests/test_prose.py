"""Docstrings in whole sentences: entries begin with a noun or "Whether", errors with "If".

What a machine can see of the language of the house. An entry of *Args* or *Attributes* begins with
a capital (or with code or a number) and with none of the words that make it a fragment; an entry
of *Raises* says the condition in a clause with a subject.
"""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "gaga_adapter").rglob("*.py")) + sorted(
    (ROOT / "integrations").rglob("*.py")
)
SECTIONS = ("Args", "Attributes", "Raises", "Returns", "Yields", "Example", "Examples", "Note")
#: First words that make a fragment of what follows them.
FRAGMENTS = set(
    "Of As At By For From In Into On Such That To Where Which Who With Without Would Also And Or "
    "How What When If Is Are Be Not Called Given Made Used Found".split()
)


def entries(docstring):
    """(section, name, text) of every entry of the sections with names."""
    section, indent = None, None
    name, lines = None, []

    def done():
        return [(section, name, " ".join(lines))] if name else []

    for line in docstring.split("\n"):
        title = re.fullmatch(r"(\s*)(\w+):\s*", line)
        if title and title[2] in SECTIONS:
            yield from done()
            section, indent, name, lines = title[2], len(title[1]), None, []
            continue
        if section not in ("Args", "Attributes", "Raises") or not line.strip():
            continue
        depth = len(line) - len(line.lstrip())
        if depth <= indent:
            yield from done()
            section, name, lines = None, None, []
        elif depth == indent + 4 and (entry := re.match(r"\s*([\w*.]+):\s*(.*)", line)):
            yield from done()
            name, lines = entry[1], [entry[2]]
        else:
            lines.append(line.strip())
    yield from done()


def faults(section, name, text):
    first = re.split(r"[\s,;:.]", text, maxsplit=1)[0]
    if section == "Raises":
        if not re.match(r"(If|Always|When|While)[ ;]", text + " ") and text != "Always.":
            yield f"{name}: {text[:60]!r} does not begin with 'If' and a subject"
    elif not re.match(r"[A-Z0-9`*(|'\"−-]", text):
        yield f"{name}: {text[:60]!r} does not begin with a capital"
    elif first in FRAGMENTS:
        yield f"{name}: {text[:60]!r} is a fragment that begins with {first!r}"
    if not re.search(r"[.!?:)`]$", text):
        yield f"{name}: {text[-60:]!r} does not end with a full stop"


def docstrings(path):
    """Line and docstring of everything in a file that has one."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, kinds) and (text := ast.get_docstring(node)):
            yield getattr(node, "lineno", 1), text


def prose(path):
    return [
        f"{path.relative_to(ROOT)}:{line}: {fault}"
        for line, text in docstrings(path)
        for entry in entries(text)
        for fault in faults(*entry)
    ]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_entries_are_sentences(path):
    assert not prose(path), "\n".join(prose(path))


@pytest.mark.parametrize(
    ("section", "text"),
    [
        ("Args", "of the draw."),
        ("Args", "Of the draw."),
        ("Args", "source of randomness."),
        ("Raises", "the id is none."),
        ("Args", "Number of steps"),
    ],
)
def test_fragments_are_seen(section, text):
    assert list(faults(section, "x", text))


def test_sentences_pass():
    for section, text in (("Args", "Whether to cut."), ("Raises", "If the id has no slash.")):
        assert not list(faults(section, "x", text))


if __name__ == "__main__":
    lines = [line for path in FILES for line in prose(path)]
    print(*lines, f"{len(lines)} faults", sep="\n")
