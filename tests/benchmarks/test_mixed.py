"""The page on discrete types says what was measured; the starts of its tables are what they say."""

import json
import sys

import mixed
import pytest
import torch


def test_the_page_has_the_tables():
    report = json.loads(mixed.RESULT.read_text(encoding="utf-8"))
    page = mixed.PAGE.read_text(encoding="utf-8")
    begin, end = (page.index(mark) for mark in mixed.MARKS)
    assert page[begin + len(mixed.MARKS[0]) : end].strip() == mixed.tables(report)
    gains = [
        {name: gain for name, (gain, _) in laws.items()}
        for size in report["likelihood"]["by_size"].values()
        for laws in size["gain_std_error"].values()
    ]
    assert min(g["types"] for g in gains) >= 0.295
    assert max(g["types"] for g in gains) < 1.05
    assert max(g["types and centres"] - g["types"] for g in gains) < 0.025
    assert min(g["places"] for g in gains) > 3.45
    assert max(g["places"] for g in gains) < 15.85


def test_t_star_of_all_rows_is_on_one_grid():
    """Unit noise alone is far from the data at every time, so it has fewer."""
    report = json.loads(mixed.RESULT.read_text(encoding="utf-8"))
    for name, rows in report["sets"].items():
        grids = {row: tuple(point["t"] for point in found["curve"]) for row, found in rows.items()}
        assert mixed.t_star(rows["unit noise"]["curve"]) == 0
        assert set(grids.pop("unit noise")) <= set(mixed.TIMES[name])
        assert set(grids.values()) == {mixed.TIMES[name]}
        text = ", ".join(f"{t:g}" for t in sorted(mixed.TIMES[name])[:-1])
        page = " ".join(mixed.PAGE.read_text(encoding="utf-8").split())
        assert f"{text} and {max(mixed.TIMES[name]):g} for" in page


@pytest.fixture
def small(monkeypatch, tmp_path):
    """The script on a few molecules, with files of its own; returns it, and the judged points."""
    asked = []

    def encoded(heavy, start, stop):
        mask = torch.ones(60, 5, dtype=torch.bool)
        kinds = torch.arange(5).expand(60, -1) % (4 if heavy else 5)
        x = torch.randn(60, 5, 3, generator=torch.Generator().manual_seed(start))
        one_hot = torch.nn.functional.one_hot(kinds, 4 if heavy else 5)
        return torch.cat([x, one_hot], -1), mask

    def judged(reference, x, mask, t, ordered):
        asked.append(t)
        return {
            "t": t, "kl": t, "kl_std_error": 0.0, "auc": 0.5, "auc_std_error": 0.0, "saturated": 0.0
        }  # fmt: skip

    page = tmp_path / "page.md"
    page.write_text(f"before\n{mixed.MARKS[0]}\nold\n{mixed.MARKS[1]}\nafter\n")
    for name, value in (
        ("encoded", encoded), ("judged", judged), ("PAGE", page), ("RESULT", tmp_path / "r.json"),
        ("provenance", lambda: {"commit": "abc"}),
    ):  # fmt: skip
        monkeypatch.setattr(mixed, name, value)
    monkeypatch.setattr(torch, "set_num_threads", lambda n: None)

    def run(*arguments):
        asked.clear()
        monkeypatch.setattr(sys, "argv", ["mixed.py", *arguments])
        mixed.main()
        return len(asked)

    return run


def test_a_run_keeps_the_likelihoods_and_writes_the_page(small):
    assert small() == 5 * (7 + 9) + 2 * 4
    first = json.loads(mixed.RESULT.read_text())
    mixed.RESULT.write_text(json.dumps({**first, "likelihood": {"by_size": {}}}))
    small()
    report = json.loads(mixed.RESULT.read_text())
    assert report == {**first, "likelihood": {"by_size": {}}, "cpu_seconds": report["cpu_seconds"]}
    text = mixed.PAGE.read_text()
    assert text.startswith("before")
    assert text.endswith("after\n")
    assert mixed.tables(report) in text
    assert "old" not in text


def test_a_look_writes_nothing_and_missing_points_are_all_that_is_judged(small):
    small()
    whole, page = mixed.RESULT.read_text(), mixed.PAGE.read_text()
    mixed.PAGE.write_text(page + "more\n")
    assert small("-n", "50") > 0
    assert mixed.RESULT.read_text() == whole
    assert mixed.PAGE.read_text() == page + "more\n"
    report = json.loads(whole)
    dropped = report["sets"]["all atoms"]["independent types"]["curve"].pop(3)
    mixed.RESULT.write_text(json.dumps(report))
    assert small("--missing") == 1
    again = json.loads(mixed.RESULT.read_text())
    assert again["sets"]["all atoms"]["independent types"]["curve"][3] == dropped
    assert again["completed"]["commit"] == "abc"
    with pytest.raises(SystemExit):
        small("--missing", "-n", "50")


def test_t_star_is_the_last_time_that_holds():
    rows = [
        {"t": t, "kl": kl, "kl_std_error": 0.01} for t, kl in ((0.3, 0.1), (0.7, 0.2), (0.5, 0.49))
    ]
    assert mixed.t_star(rows) == 0.3
    assert mixed.t_star(rows[1:2]) == 0.7


@pytest.mark.parametrize("row", ["composition", "independent types", "unit noise"])
def test_starts_beside_the_mixed_ones(row):
    mask = torch.ones(300, 6, dtype=torch.bool)
    kinds = torch.tensor([0, 0, 0, 1, 2, 2]).expand(300, -1)
    x = torch.randn(300, 6, 3, generator=torch.Generator().manual_seed(0))
    moments = mixed.MixedMoments(3)
    moments.update(torch.cat([x, torch.nn.functional.one_hot(kinds, 3)], -1), mask)
    start = mixed.starts(moments)[row].at(1.0, 0.0)
    drawn = start.sample([6] * 500, torch.Generator().manual_seed(1))
    counts = drawn[..., 3:].sum(1)
    assert (len(counts.unique(dim=0)) == 1) == (row == "composition")
    share = 1 / 3 if row == "unit noise" else 0.5
    assert abs(float(drawn[..., 3].mean()) - share) < 5 * 0.5 / 3000**0.5
