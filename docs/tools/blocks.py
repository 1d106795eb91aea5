"""The code blocks of a page: found, run in order, and compared with what the page says they print.

python docs/tools/blocks.py docs/tutorial.md            run
python docs/tools/blocks.py docs/tutorial.md --write    run, and write what it printed into it

A page is a script. Its `python` and `sh` fences run in the order of the page, in one namespace and
one working folder. A `text` fence right after a block is what that block prints. In comments, which
no reader sees:

    <!-- setup                      python that stands in for what the reader has
    model = ...
    -->
    <!-- not run: the reason -->    the next block is only compiled, or its options checked
    <!-- numbers vary -->           before what is printed: another machine gets other numbers
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import re
import shlex
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
WIDTH = 80  # of what commands print

_PARTS = re.compile(
    r"^<!-- setup\n(?P<setup>.*?)^-->$"
    r"|^<!-- not run: (?P<reason>[^\n]+) -->$"
    r"|^(?P<indent> *)```(?P<language>\w+)(?P<options>[^\n]*)\n(?P<code>.*?)^(?P=indent)```$",
    re.DOTALL | re.MULTILINE,
)
_VARIES = "<!-- numbers vary -->"
_NUMBER = re.compile(r"(?<![\w.])[-+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?")


@dataclass(frozen=True)
class Block:
    """One block of a page.

    Attributes:
        language: `python`, `sh` or another.
        code: its text, not indented.
        line: of the page where it begins, from 1.
        reason: why it is not run; `None` where it is.
        printed: what the page says it prints, or `None`.
        varies: only the words of what is printed are compared, not the numbers.
        span: where the text that it prints lies in the page.
        hidden: no reader sees it.
    """

    language: str
    code: str
    line: int
    reason: str | None = None
    printed: str | None = None
    varies: bool = False
    span: tuple[int, int] = (0, 0)
    hidden: bool = False


def blocks(text: str) -> list[Block]:
    """The blocks of a page, in its order."""
    found: list[Block] = []
    reason, end_of_code = None, -1
    for match in _PARTS.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        if match["setup"] is not None:
            found.append(Block("python", match["setup"], line, hidden=True))
        elif match["reason"] is not None:
            reason = match["reason"]
        elif (
            match["language"] == "text"
            and end_of_code >= 0
            and text[end_of_code : match.start()].strip() in ("", _VARIES)
        ):
            last = found.pop()
            found.append(
                Block(
                    last.language,
                    last.code,
                    last.line,
                    last.reason,
                    textwrap.dedent(match["code"]),
                    _VARIES in text[end_of_code : match.start()],
                    match.span("code"),
                )
            )
            end_of_code = -1
        else:
            found.append(Block(match["language"], textwrap.dedent(match["code"]), line, reason))
            reason, end_of_code = None, match.end()
        if match["language"] is None:
            end_of_code = -1
    return found


def commands(code: str) -> list[list[str]]:
    """The commands of a shell block, one per line, without comments."""
    lines = code.replace("\\\n", " ").splitlines()
    return [words for words in (shlex.split(line, comments=True) for line in lines) if words]


def run_page(path: Path) -> Iterator[tuple[Block, str]]:
    """Run the blocks of a page in the working folder; each with what it printed.

    Raises:
        RuntimeError: a command that cannot be run here.
    """
    names: dict[str, Any] = {"__name__": path.stem, "__file__": str(path)}
    for block in blocks(path.read_text(encoding="utf-8")):
        printed = io.StringIO()
        if block.reason is None and block.language in ("python", "sh"):
            where = f"{path.name}, line {block.line}"
            with contextlib.redirect_stdout(printed), _named(where):
                if block.language == "python":
                    # Padded, so that a traceback names the line of the page.
                    code = "\n" * block.line + block.code
                    exec(compile(code, str(path), "exec"), names)
                else:
                    for words in commands(block.code):
                        run_command(words)
        yield block, printed.getvalue()


@contextlib.contextmanager
def _named(where: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        error.add_note(f"in {where}")
        raise


def run_command(words: list[str]) -> None:
    """Run `gaga ...` in this process.

    Raises:
        RuntimeError: another command, or one that failed.
    """
    if words[0] != "gaga":
        raise RuntimeError(f"`{words[0]}` cannot run here: mark its block with the reason.")
    from gaga_adapter.cli import app, console

    console.out.width = WIDTH
    code = app(words[1:], standalone_mode=False)
    if code:
        raise RuntimeError(f"{shlex.join(words)} ended with code {code}")


def check_command(words: list[str]) -> None:
    """See that a command that is not run exists, with these options.

    Raises:
        RuntimeError: it does not.
    """
    words = words[len(words) - words[::-1].index("|") :] if "|" in words else words  # into it
    while "=" in words[0]:  # VARIABLE=value
        words = words[1:]
    if words[0] in ("accelerate", "torchrun") and "gaga_adapter" in words:
        words = ["gaga", *words[words.index("gaga_adapter") + 1 :]]
    program, rest = words[0], words[1:]
    known: dict[str, Callable[[list[str]], None]] = {
        "gaga": _check_gaga,
        "make": _check_make,
        "python": _check_script,
        "pip": _check_extras,
    }
    if program in known:
        known[program](rest)
    elif program not in ("cd", "git", "export", "torchrun"):
        raise RuntimeError(f"nobody knows how to check `{program}`")


def _check_gaga(words: list[str]) -> None:
    import typer

    from gaga_adapter.cli import app

    group: Any = typer.main.get_command(app)
    command = group.commands.get(words[0])
    if command is None:
        raise RuntimeError(f"there is no command `gaga {words[0]}`: {', '.join(group.commands)}")
    command.make_context(words[0], list(words[1:]))


def _check_make(words: list[str]) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    if not re.search(rf"^{words[0]}:", makefile, re.MULTILINE):
        raise RuntimeError(f"the Makefile has no target {words[0]!r}")


def _check_script(words: list[str]) -> None:
    if words[0].startswith(("benchmarks/", "docs/")) and not (ROOT / words[0]).is_file():
        raise RuntimeError(f"there is no {words[0]}")


def _check_extras(words: list[str]) -> None:
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for extras in re.findall(r"gaga-adapter\[([^\]]+)\]", " ".join(words)):
        for extra in extras.split(","):
            if not re.search(rf"^{extra} = \[", pyproject, re.MULTILINE):
                raise RuntimeError(f"pyproject.toml has no extra {extra!r}")


def same(said: str, printed: str, relative: float = 0.05, absolute: float = 0.03) -> bool:
    """Whether two texts agree: the words exactly, the numbers within a tolerance.

    What is drawn around them, and how wide, does not count. A line `...` leaves lines out.
    """
    if re.search(r"^\.\.\.$", said, re.MULTILINE):
        parts = re.split(r"^\.\.\.\n", said, flags=re.MULTILINE)
        lines = printed.splitlines(keepends=True)
        first, last = parts[0].splitlines(), parts[-1].splitlines()
        return same(parts[0], "".join(lines[: len(first)]), relative, absolute) and same(
            parts[-1], "".join(lines[len(lines) - len(last) :]), relative, absolute
        )
    words = [" ".join(re.sub(r"[─-╿]", " ", _NUMBER.sub("#", t)).split()) for t in (said, printed)]
    numbers = [[float(n.replace(",", "")) for n in _NUMBER.findall(t)] for t in (said, printed)]
    return (
        words[0] == words[1]
        and len(numbers[0]) == len(numbers[1])
        and all(
            math.isclose(x, y, rel_tol=relative, abs_tol=absolute)
            for x, y in zip(*numbers, strict=True)
        )
    )


def write(path: Path) -> None:
    """Run a page and write what its blocks print into it."""
    import tempfile

    page = path.read_text(encoding="utf-8")
    path, home = path.resolve(), Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            found = list(run_page(path))
        finally:
            os.chdir(home)
    for block, printed in reversed(found):
        if block.printed is not None and block.reason is None and "...\n" not in block.printed:
            text = "\n".join(line.rstrip() for line in printed.splitlines()) + "\n"
            begin, end = block.span
            fence = page[page.rfind("\n", 0, begin - 1) + 1 : begin]
            text = textwrap.indent(text, " " * (len(fence) - len(fence.lstrip())))
            page = page[:begin] + text + page[end:]
    path.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    for name in [word for word in sys.argv[1:] if word != "--write"]:
        if "--write" in sys.argv:
            write(Path(name))
        else:
            for _block, output in run_page(Path(name).resolve()):
                print(output, end="")
