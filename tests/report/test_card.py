"""The card: says the artefact's own figures, runs, and leaves what people wrote."""

import re
import sys
from dataclasses import replace
from types import SimpleNamespace

import diffusers
import pytest
import torch
import yaml
from toys import dense_stats

from gaga_adapter import named_path
from gaga_adapter.cli import main
from gaga_adapter.errors import ArtefactError, DataError
from gaga_adapter.report.card import BEGIN, END, PICTURE, card_section, merge_card, write_card


@pytest.fixture(scope="module")
def dense():
    return dense_stats()


def code(card, language):
    return re.findall(rf"```{language}\n(.*?)```", card, re.DOTALL)


def test_what_a_new_card_says(qm9, tmp_path):
    write_card(qm9, tmp_path, "me/qm9-gaga", license="cc0-1.0")
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    _, header, body = card.split("---\n", 2)
    assert yaml.safe_load(header) == {
        "library_name": "gaga-adapter",
        "tags": ["gaga", "diffusion", "sampling"],
        "license": "cc0-1.0",
    }
    assert body.startswith(f"\n# qm9-gaga\n\n{BEGIN}\n")
    assert body.endswith(f"\n{END}\n")
    for row in (
        "| data | qm9 |",
        "| items | 130,831 |",
        f"| log-SNR\\* | **{qm9.log_snr_star:.3f}** |",
        "| tolerance | 0.5 nats |",
        "| criterion | `two_sample`, on 12,000 items |",
    ):
        assert row in body
    for name in ("edm/polynomial_2", "ddpm/linear"):
        path = named_path(name)
        step = round(qm9.t_star(path) * path.n_steps)
        assert f"| `{name}` | timestep {step} |" in body
    assert f"sigma = {qm9.sigma_star:.3f}" in body
    assert f"]({PICTURE})" in body
    assert (tmp_path / PICTURE).read_bytes().startswith(b"\x89PNG")


def test_the_interval_and_the_sizes(qm9):
    chosen = replace(qm9.selection, interval=(-0.25, 0.5), by_size={9: 0.75, 29: -0.125})
    text = card_section(replace(qm9, selection=chosen), "me/it", has_picture=False)
    assert "| 90 % interval | -0.250 to 0.500 |" in text
    assert "log-SNR\\* of 2 sizes (9 atoms: 0.75, 29 atoms: -0.12)" in text


def test_without_matplotlib_the_curve_is_a_table(qm9, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    write_card(qm9, tmp_path, "me/qm9-gaga")
    assert [file.name for file in tmp_path.iterdir()] == ["README.md"]
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (-?[\d.]+) \| (\S+) \| (\S+) \| (Gaussian)? ?\|$", card, re.MULTILINE)
    curve = qm9.selection.curve
    assert [float(row[0]) for row in rows] == [round(level, 2) for level in curve.log_snr]
    assert [float(row[1]) for row in rows] == pytest.approx(curve.value, rel=6e-3)
    marked = [bool(row[3]) for row in rows]
    assert marked == [level <= qm9.log_snr_star for level in curve.log_snr]


def test_a_value_that_could_not_be_computed(qm9):
    curve = qm9.selection.curve
    holed = replace(curve, value=(float("nan"), *curve.value[1:]))
    stats = replace(qm9, selection=replace(qm9.selection, curve=holed))
    assert "| 2.50 | not computable |" in card_section(stats, "me/it", has_picture=False)


def test_p_values_are_no_distance(qm9):
    curve = replace(qm9.selection.curve, unit="p-value", value=(0.5,) * 15)
    chosen = replace(qm9.selection, curve=curve, tolerance=0.05)
    text = card_section(replace(qm9, selection=chosen), "me/it", has_picture=False)
    assert "not how far apart they are" in text
    assert "nats" not in text.split("## Limits")[1]


def test_the_python_of_molecules_runs(qm9, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    qm9.save_pretrained("me/qm9-gaga")  # a folder of that name stands for the hub
    (block,) = code(card_section(qm9, "me/qm9-gaga", has_picture=True), "python")
    names = {}
    exec(block, names)
    pipe = names["pipe"]
    pipe.set_progress_bar_config(disable=True)
    out = pipe(2, n_atoms=[5, 5], num_inference_steps=4, generator=torch.Generator().manual_seed(0))
    assert len(out.molecules) == 2
    assert out.network_calls < 4


def test_the_python_of_dense_data_runs(dense, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    dense.save_pretrained("me/images")
    pipeline, karras = code(card_section(dense, "me/images", has_picture=True), "python")
    sigmas = torch.linspace(80, 0.01, 30)
    names = {"pipe": SimpleNamespace(scheduler=diffusers.DDIMScheduler()), "sigmas": sigmas}
    exec(pipeline, names)
    assert names["pipe"].scheduler.log_snr_star == -1.0
    exec(karras, names)
    assert names["x"].shape == (16, 3, 4, 4)
    assert len(names["sigmas"]) < 30


def test_the_commands_exist(qm9, dense, monkeypatch, capsys):
    for stats, names in ((qm9, ["show", "sample"]), (dense, ["show"])):
        install, shell = code(card_section(stats, "me/it", has_picture=True), "sh")
        assert install == "pip install gaga-adapter\n"
        assert [line.split()[1] for line in shell.splitlines()] == names
    for line in code(card_section(qm9, "me/it", has_picture=True), "sh")[1].splitlines():
        monkeypatch.setattr(sys, "argv", [*line.split()[:2], "--help"])
        with pytest.raises(SystemExit):
            main()
        printed = capsys.readouterr().out
        for option in re.findall(r"(?<= )--?[a-z-]+", line):
            assert option in printed


def test_a_star_that_was_given(dense):
    text = card_section(dense, "me/images", has_picture=False)
    assert "was given by hand; no curve was drawn" in text
    assert "was not measured" in text
    assert "dense 3x4x4" in text


def test_a_schedule_that_is_never_that_noisy(dense):
    text = card_section(replace(dense, log_snr_star=-9.5), "me/images", has_picture=False)
    assert "| `karras/edm` | never that noisy | – |" in text


def test_text_from_elsewhere_is_only_text(dense):
    name = f"a|b\n{END}\n<script>`*_[x](y)"
    text = card_section(replace(dense, provenance={"data": name}), "me/images", has_picture=False)
    assert END not in text
    assert "<script" not in text
    (row,) = re.findall(r"^\| data \| (.*) \|$", text, re.MULTILINE)
    assert re.search(r"(?<!\\)[|`*_\[]", row) is None
    assert merge_card(text, "me/images").count(END) == 1


# -- what people wrote ---------------------------------------------------------------------------

OLD = merge_card("old figures", "me/it")
NEW = "new figures"


def test_the_same_twice():
    assert merge_card("old figures", "me/it", OLD) == OLD


@pytest.mark.parametrize(
    "edit",
    [
        lambda card: card.replace("# it\n", "# It\n\nWhat I measured, | and ~~why~~.\n"),
        lambda card: card + "\n## Citation\n\n```\n---\nkey: value\n---\n```\n",
        lambda card: card.replace("library_name: gaga-adapter", "language: nb\nlicense: mit"),
        lambda card: card.replace("gaga:begin - made", "gaga:begin - Made"),
        lambda card: card.replace("\n# it\n\n", ""),
    ],
    ids=["title", "end", "header", "marker", "no title"],
)
def test_all_else_stays(edit):
    mine = edit(OLD)
    kept = re.sub(r"<!-- gaga:begin.*gaga:end -->", "X", mine, flags=re.DOTALL)
    after = merge_card(NEW, "me/it", mine)
    assert re.sub(r"<!-- gaga:begin.*gaga:end -->", "X", after, flags=re.DOTALL) == kept
    assert NEW in after
    assert "old figures" not in after


@pytest.mark.parametrize("header", ["", "---\nlicense: mit\n---\n"])
def test_a_card_without_markers_gets_them_at_its_end(header):
    mine = f"{header}# My data\n\nAll of it by hand.\n"
    after = merge_card(NEW, "me/it", mine)
    assert after.endswith(f"All of it by hand.\n\n{BEGIN}\n\n{NEW}\n\n{END}\n")
    if header:
        assert after.startswith(mine)
    else:
        assert after.startswith("---\nlibrary_name: gaga-adapter\n")


def test_a_repository_made_on_the_page_has_a_header_alone():
    after = merge_card(NEW, "me/it", "---\nlicense: cc-by-4.0\n---\n")
    assert after.startswith("---\nlicense: cc-by-4.0\n---\n\n# it\n")


def test_a_licence_replaces_the_one_there():
    after = merge_card(NEW, "me/it", "---\nlicense: mit\ntags:\n- own\n---\ntext\n", "cc0-1.0")
    assert yaml.safe_load(after.split("---\n")[1]) == {"tags": ["own"], "license": "cc0-1.0"}
    for wrong in ("", "my own", "mit\ntags: x", "MIT: yes"):
        with pytest.raises(DataError, match="is no identifier"):
            merge_card(NEW, "me/it", None, wrong)


@pytest.mark.parametrize(
    "broken",
    [
        OLD.replace(END, ""),
        OLD.replace(BEGIN, ""),
        OLD + OLD,
        OLD.replace(BEGIN, "?").replace(END, BEGIN).replace("?", END),
    ],
    ids=["no end", "no begin", "two", "swapped"],
)
def test_markers_that_are_no_pair(broken):
    with pytest.raises(ArtefactError, match=r"Leave one of each .* in this order"):
        merge_card(NEW, "me/it", broken)
