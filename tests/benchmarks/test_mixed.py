"""The page on discrete types says what was measured; the starts of its tables are what they say."""

import json

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
