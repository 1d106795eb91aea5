"""Lines of code of the adapters, as JSON: `python tests/runners/adapter_lines.py [FILE ...]`.

Blank lines, comments and docstrings do not count; imports do. Code of a page counts, too: a file
that ends with .md is read up to the end of its first block of Python.
"""

import ast
import io
import json
import sys
import tokenize
from pathlib import Path

INTEGRATIONS = Path(__file__).parents[2] / "integrations"
_SILENT = {
    *(tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT),
    *(tokenize.ENCODING, tokenize.ENDMARKER),
}


def adapters():
    """The files that hold one adapter each, and the page with a whole one."""
    named = ("edm", "geoldm", "mlconfgen", "molcraftdiffusion")
    files = [INTEGRATIONS / f"{name}.py" for name in named]
    forks = sorted((INTEGRATIONS / "forks").glob("[!_]*.py"))
    return [*files, *forks, INTEGRATIONS / "README.md"]


def code_lines(text):
    """Number of lines with code in them."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, documented) and ast.get_docstring(node) is not None:
            first = node.body[0]
            docstrings |= set(range(first.lineno, first.end_lineno + 1))
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in _SILENT:
            lines |= set(range(token.start[0], token.end[0] + 1))
    return len(lines - docstrings)


def main(names):
    files = [Path(name) for name in names] or adapters()
    found = {}
    for file in files:
        text = file.read_text(encoding="utf-8")
        if file.suffix == ".md":
            text = text.split("```python\n", 1)[1].split("```", 1)[0]
        found[file.stem] = code_lines(text)
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:])
