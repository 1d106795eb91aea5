"""Measured figures and tables in the pages of the manual, read from what benchmarks wrote.

A page of docs/ is read on the site and in the repository, so it holds the numbers themselves, and
behind each of them, in a comment that nobody sees, where it comes from:

    27 %<!-- related: rows/dpm++ 12, noise/figures/molecule_stability/value as .0% -->

is the number at that place of `benchmarks/results/related.json`, in that format. Between
`<!-- table: references -->` and `<!-- /table -->` stands the table of that name, which
`benchmarks/readme.py` wrote into README.md or a page of benchmarks/. Between
`<!-- section: integrations/README.md # Some title -->` and `<!-- /section -->`, and in the same way
`page`, stands a link for readers of the repository, where the site has the section itself.

`filled` brings numbers and tables of a page up to date; `benchmarks/readme.py` writes them back.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]
#: A number, and the comment behind it.
FIGURE = re.compile(r"(-?\d[\d,.]*(?:\u00a0%)?)<!-- (\w+): ([^>]+?)(?: as (\S+))? -->")
TABLE = re.compile(r"^<!-- table: (\w+) -->\n.*?^<!-- /table -->$", re.DOTALL | re.MULTILINE)
SECTION = re.compile(
    r"^<!-- section: (\S+) # ([^\n]+) -->\n.*?^<!-- /section -->$", re.DOTALL | re.MULTILINE
)
PAGE = re.compile(r"^<!-- page: (\S+) -->\n.*?^<!-- /page -->$", re.DOTALL | re.MULTILINE)


def figure(file: str, keys: str, form: str = "") -> str:
    """A number of `benchmarks/results/FILE.json`; a percentage does not part from its sign.

    Raises:
        KeyError: If there is none at that place.
    """
    found = json.loads((ROOT / "benchmarks" / "results" / f"{file}.json").read_text("utf-8"))
    for key in keys.split("/"):
        found = found[int(key)] if isinstance(found, list) else found[key]
    return re.sub(r"(?<=\d)%$", "\u00a0%", format(found, form))


def table(name: str) -> str:
    """A generated table with its legend, from the page that its benchmark writes it into.

    Raises:
        KeyError: If there is none.
    """
    for page in (ROOT / "README.md", *sorted((ROOT / "benchmarks").glob("*.md"))):
        text = page.read_text(encoding="utf-8")
        found = re.search(rf"<!-- {name}:begin -->\n(.*?)\n<!-- {name}:end -->", text, re.DOTALL)
        if found:
            return found[1].replace(" ± ", "\u00a0±\u00a0")  # not apart from its error
    raise KeyError(name)


def section(file: str, title: str) -> str:
    """What stands under a heading of a file, without the heading.

    Raises:
        KeyError: If it has no such heading.
    """
    text = (ROOT / file).read_text(encoding="utf-8")
    found = re.search(
        rf"^(#+) {re.escape(title)}\n(.*?)(?=^\1 |\Z)", text, re.DOTALL | re.MULTILINE
    )
    if not found:
        raise KeyError(title)
    return found[2].strip()


def page_as_section(file: str) -> str:
    """A page as a section: its headings one level lower, its links to other files as text."""
    text = re.sub(r"^#", "##", (ROOT / file).read_text(encoding="utf-8"), flags=re.MULTILINE)
    return re.sub(r"(?<!!)\[([^\]]+)\]\((?!http|#)[^)]*\)", r"\1", text)


def filled(markdown: str) -> str:
    """A page of the repository whose numbers and tables are those of the results.

    Raises:
        KeyError: If a number or a table does not exist.
    """

    def told(found: re.Match[str]) -> str:
        comment = found[0][len(found[1]) :]
        return figure(found[2], found[3], found[4] or "") + comment

    def whole(found: re.Match[str]) -> str:
        return f"<!-- table: {found[1]} -->\n\n{table(found[1])}\n\n<!-- /table -->"

    return TABLE.sub(whole, FIGURE.sub(told, markdown))


def site_text(markdown: str) -> str:
    """The same page as the site has it: sections in place of links, and no comments.

    Raises:
        KeyError: If a number, a table or a section does not exist.
    """
    fillings: list[tuple[re.Pattern[str], Callable[[re.Match[str]], str]]] = [
        (FIGURE, lambda found: figure(found[2], found[3], found[4] or "")),
        (TABLE, lambda found: table(found[1])),
        (SECTION, lambda found: section(found[1], found[2])),
        (PAGE, lambda found: page_as_section(found[1])),
    ]
    for pattern, filling in fillings:
        markdown = pattern.sub(filling, markdown)
    return markdown
