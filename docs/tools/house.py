"""The picture of the house and the table of journeys in docs/architecture.md, from the code itself.

python docs/tools/house.py            write docs/house.svg and the table
python docs/tools/house.py --check    exit with 1 if either is out of date

The floors are the layer table of `tests/test_layers.py`. What a journey enters is measured: each
one runs in a fresh interpreter, which then lists the files of this package that it has loaded.
"""

from __future__ import annotations

import ast
import subprocess
import sys
import textwrap
from collections import Counter
from html import escape
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "architecture.md"
PICTURE = ROOT / "docs" / "house.svg"
BEGIN, END = "<!-- journeys:begin -->", "<!-- journeys:end -->"

#: What a user writes for each of the four verbs, with small data.
JOURNEYS = {
    "wrap": """
import diffusers, torch
from gaga_adapter import GAGAScheduler
scheduler = GAGAScheduler.from_pretrained(diffusers.DDIMScheduler(), stats="qm9")
scheduler.set_timesteps(10)
""",
    "fit": """
import torch, warnings
from gaga_adapter import DenseLayout, fit
warnings.simplefilter("ignore")
x = torch.randn(256, 2, 4, 4, generator=torch.Generator().manual_seed(0))
fit([x], DenseLayout((2, 4, 4)), criterion="cumulant", n_bootstrap=0)
""",
    "patch": """
from gaga_adapter import apply_patch
from fakes.edm_like import make_edm
apply_patch(make_edm(10, charges=False), "qm9").remove()
""",
    "select": """
from gaga_adapter import GAGAStats, named_path
from gaga_adapter.selection import select
stats = GAGAStats.from_pretrained("qm9")
select(stats.selection.curve, 0.5)
stats.t_star(named_path("edm/polynomial_2"))
""",
}
_LIST = """
import sys
for name, module in sorted(sys.modules.items()):
    if name.split(".")[0] == "gaga_adapter" and getattr(module, "__file__", None):
        print("MODULE", name)
"""

# -- journeys --------------------------------------------------------------------------------------


def modules_entered(code: str) -> list[str]:
    """Names of the modules of this package that some code has loaded when it ends."""
    done = subprocess.run(
        [sys.executable, "-c", code + _LIST],
        cwd=ROOT / "tests",
        capture_output=True,
        text=True,
        check=True,
    )
    lines = (line.split() for line in done.stdout.splitlines())
    return [words[1] for words in lines if words[:1] == ["MODULE"]]


def rooms_entered(modules: list[str]) -> Counter[str]:
    """Rooms (the first name below the package) with the number of files entered in each."""
    return Counter(name.split(".")[1] for name in modules if "." in name)


def journey_table() -> str:
    """One row a journey: the files that it enters, and in which rooms."""
    rows = ["| verb | files entered | rooms, with their files |", "|---|---|---|"]
    for verb, code in JOURNEYS.items():
        modules = modules_entered(code)
        rooms = ", ".join(f"{room} {n}" for room, n in sorted(rooms_entered(modules).items()))
        rows.append(f"| {verb} | {len(modules)} | {rooms} |")
    return "\n".join(rows) + "\n"


# -- the picture -----------------------------------------------------------------------------------


def floors() -> list[list[str]]:
    """The layer table, from the ground up."""
    tree = ast.parse((ROOT / "tests" / "test_layers.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "LAYERS":
            return [list(row) for row in ast.literal_eval(node.value)]
    raise LookupError("tests/test_layers.py has no table LAYERS.")


def _place(room: str) -> Path:
    return ROOT / room if room == "integrations" else ROOT / "gaga_adapter" / room


def subject(room: str) -> str:
    """First sentence of a room's docstring."""
    folder = _place(room)
    file = folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return text.split("\n\n")[0].replace("\n", " ").replace("`", "").rstrip(".")


def _count(room: str) -> int:
    folder = _place(room)
    return len(list(folder.rglob("*.py"))) if folder.is_dir() else 1


def picture() -> str:
    """The floors as a drawing; what is above may import what is below."""
    width, row_height, left, gap = 1000, 46, 20, 8
    rows = [row for row in reversed(floors()) if row != ["__main__"]]
    height = row_height * len(rows) + 50
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="system-ui, sans-serif" font-size="13">',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
    ]
    for number, row in enumerate(rows):
        y = 12 + number * row_height
        box = (width - 2 * left - gap * (len(row) - 1)) / len(row)
        for place, room in enumerate(row):
            x = left + place * (box + gap)
            side = room in ("molecules", "integrations")
            fill = "#fdf1e3" if side else "#e8eff8"
            parts.append(
                f'<rect x="{x:.1f}" y="{y}" width="{box:.1f}" height="{row_height - gap}" rx="4" '
                f'fill="{fill}" stroke="#5b6f86" stroke-width="0.8"/>'
            )
            files = _count(room)
            title = f"{room}/ ({files} files)" if _place(room).is_dir() else room
            limit = int(box / 6.1)
            about = subject(room)
            about = textwrap.shorten(about, limit, placeholder=" …")
            lines = [(title, 16, 600, "#1d2b3a")]
            if len(row) <= 4:
                lines.append((about, 31, 400, "#41556b"))
            else:
                lines = [(title, 23, 600, "#1d2b3a")]
            for text, down, weight, colour in lines:
                size = 13 if weight == 600 else 11
                parts.append(
                    f'<text x="{x + box / 2:.1f}" y="{y + down}" text-anchor="middle" '
                    f'font-weight="{weight}" font-size="{size}" fill="{colour}">'
                    f"{escape(text)}</text>"
                )
    parts.append(
        f'<text x="{left}" y="{height - 12}" font-size="12" fill="#41556b">'
        "Imports run downward only. The two side rooms (orange) know the core; the core does not "
        "know them.</text></svg>"
    )
    return "\n".join(parts) + "\n"


def page(text: str, table: str) -> str:
    """The page with a fresh table between its markers."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table}{END}{after}"


def main() -> None:
    """Write both, or check them."""
    text = PAGE.read_text(encoding="utf-8")
    fresh = {PAGE: page(text, journey_table()), PICTURE: picture()}
    stale = [
        path
        for path, new in fresh.items()
        if not path.is_file() or path.read_text(encoding="utf-8") != new
    ]
    if "--check" in sys.argv[1:]:
        if stale:
            raise SystemExit(f"out of date: {', '.join(path.name for path in stale)}.")
        return
    for path in stale:
        path.write_text(fresh[path], encoding="utf-8")
    print(f"wrote {', '.join(path.name for path in stale) or 'nothing new'}")


if __name__ == "__main__":
    main()
