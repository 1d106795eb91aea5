"""The notebook runs as it stands, and what is stored in it is what its cells show."""

import ast
import base64
import io
import json
import re

import matplotlib as mpl
import pytest
import torch
from folders import DOCS, ROOT
from PIL import Image

from gaga_adapter.molecules.formats import read_molecules

NOTEBOOK = DOCS / "examples" / "qm9_in_twelve_calls.ipynb"
REPOSITORY = "https://github.com/gaga-adapter/gaga-adapter/blob/main/"
COLAB = "https://colab.research.google.com/github/gaga-adapter/gaga-adapter/blob/main/"
#: What the tests put into the cell of parameters.
SMALL = {"N": 6, "FULL_STEPS": 15}


def book():
    return json.loads(NOTEBOOK.read_text(encoding="utf-8"))


def cells(kind="code"):
    return [cell for cell in book()["cells"] if cell["cell_type"] == kind]


def source(cell):
    return "".join(cell["source"])


def tags(cell):
    return cell["metadata"].get("tags", [])


def printed(cell):
    """What the stored output prints."""
    streams = [out for out in cell["outputs"] if out["output_type"] == "stream"]
    return "".join("".join(out["text"]) for out in streams)


def pictures(cell):
    """The stored pictures."""
    shown = [out["data"] for out in cell["outputs"] if "data" in out]
    decoded = (base64.b64decode("".join(data["image/png"])) for data in shown)
    return [Image.open(io.BytesIO(png)) for png in decoded]


def words(text):
    """The words of each line, without numbers and spaces."""
    return [re.findall(r"[^\W\d_]+", line) for line in text.splitlines()]


def run_cell(cell, names):
    """Execute a cell as a kernel does; the value of its last expression."""
    tree = ast.parse(source(cell))
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, str(NOTEBOOK), "exec"), names)
    if last is None:
        return None
    return eval(compile(ast.Expression(last.value), str(NOTEBOOK), "eval"), names)


@pytest.mark.data
def test_it_runs_from_the_first_cell_to_the_last(tmp_path, monkeypatch, capsys):
    """With fewer molecules and steps. Words that are printed, and pictures, are those stored."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(mpl, "rcParams", mpl.rcParams.copy())
    names = {"__name__": "__main__"}
    with torch.random.fork_rng():
        for cell in cells():
            if "install" in tags(cell):
                continue
            shown = run_cell(cell, names)
            names |= {name: value for name, value in SMALL.items() if name in source(cell)}
            assert words(capsys.readouterr().out) == words(printed(cell)), source(cell)
            stored = pictures(cell)
            assert isinstance(shown, Image.Image) == bool(stored), source(cell)
            if stored:
                assert shown.width == stored[0].width
                assert len(shown.convert("RGB").getcolors(2**24)) > 20  # something is drawn
    for name, molecules in names["sets"].items():
        assert len(molecules) == SMALL["N"], name
    assert len(read_molecules(tmp_path / "samples.sdf")) == SMALL["N"]
    # The sets share their sizes, for they share the seed, and differ in how they were sampled.
    sizes = {tuple(molecules.n_atoms) for molecules in names["sets"].values()}
    assert len(sizes) == 1
    assert names["short"].n_calls == names["CALLS"] == 12
    assert names["cut"].n_calls < 200 == len(names["base"].timesteps)


def test_the_first_cell_installs_the_package_with_extras_that_exist():
    first, *others = cells()
    assert tags(first) == ["install"]
    found = re.fullmatch(r'%pip install -q "gaga-adapter\[([\w,]+)\]"', source(first))
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert 'name = "gaga-adapter"' in project
    for extra in found[1].split(","):
        assert re.search(rf"^{extra} = \[", project, re.MULTILINE), extra
    assert not any(re.search(r"^\s*[%!]", source(cell), re.MULTILINE) for cell in others)
    stated = {target.id for cell in others if "parameters" in tags(cell)
              for line in ast.parse(source(cell)).body for target in line.targets}  # fmt: skip
    assert set(SMALL) <= stated


def test_outputs_are_of_one_run_in_order_without_an_error():
    assert (book()["nbformat"], len({cell["id"] for cell in book()["cells"]})) == (
        4,
        len(book()["cells"]),
    )
    counts = [cell["execution_count"] for cell in cells()]
    assert counts == list(range(1, len(counts) + 1))
    outputs = [out for cell in cells() for out in cell["outputs"]]
    kinds = {out["output_type"] for out in outputs}
    assert kinds <= {"stream", "execute_result", "display_data"}
    assert all(out["name"] == "stdout" for out in outputs if out["output_type"] == "stream")
    for picture in (picture for cell in cells() for picture in pictures(cell)):
        picture.load()
        assert picture.width <= 1100
    assert sum(len(pictures(cell)) for cell in cells()) == 4
    assert NOTEBOOK.stat().st_size < 600_000


def test_it_names_no_place_on_a_machine():
    """Neither a path from the root, nor one of Windows, nor an address but ours and Colab's."""
    text = re.sub(r'"image/png": "[^"]*"', "", NOTEBOOK.read_text(encoding="utf-8"))
    assert not re.findall(
        r"(?<![\w.:/])/(?:home|root|tmp|work|Users|opt|usr|mnt|var|content)\b", text
    )
    assert not re.findall(r"[A-Za-z]:\\\\", text)
    hosts = set(re.findall(r"https?://([\w.-]+)", text))
    assert hosts == {"github.com", "colab.research.google.com"}


def test_its_links_lead_to_files_of_the_repository():
    text = "\n".join(source(cell) for cell in cells("markdown"))
    paths = re.findall(rf"{re.escape(REPOSITORY)}([\w/.-]+)", text)
    assert len(paths) >= 4
    for path in paths:
        assert (ROOT / path).is_file(), path
    assert f"{COLAB}{NOTEBOOK.relative_to(ROOT)}" in text


def test_the_row_of_qm9_is_that_of_the_full_table():
    results = ROOT / "benchmarks" / "results" / "few_calls.json"
    found = json.loads(results.read_text(encoding="utf-8"))["weights"]["embedded"]["held_out"]
    figures = {name: one["value"] for name, one in found["figures"].items()}
    (row,) = (line for cell in cells() for line in printed(cell).splitlines()
              if line.startswith("QM9 itself"))  # fmt: skip
    stable, valid, size = row.split()[-3:]
    assert stable == f"{100 * figures['molecule_stability']:.0f}"
    assert valid == f"{100 * figures['validity']:.0f}"
    assert size == f"{figures['v_x']:.2f}"


def test_few_molecules_are_as_few_as_the_text_says():
    """A share of a half to three quarters among 64 has a standard error of about six points."""
    (n,) = (int(found) for cell in cells() for found in re.findall(r"^N = (\d+)", source(cell)))
    assert n == 64
    for share in (0.5, 0.72):
        assert 100 * (share * (1 - share) / n) ** 0.5 == pytest.approx(6, abs=0.5)
