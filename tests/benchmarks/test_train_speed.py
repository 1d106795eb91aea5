"""The benchmark of training speed, in miniature, and what its profile calls by which name."""

import json
from types import SimpleNamespace

import pytest
import torch

if not hasattr(torch.optim, "Muon"):
    pytest.skip("torch has its Muon from 2.9 on", allow_module_level=True)

import train_speed

NET = '{"width": 16, "pair_width": 4, "n_layers": 1, "n_vectors": 2, "n_heads": 2}'


def event(name, parent=None):
    return SimpleNamespace(name=name, cpu_parent=parent)


def test_an_optimizer_owns_the_products_that_it_calls():
    muon = event("Optimizer.step#Muon.step")
    graph = event("## Call CompiledFxGraph fjp3 ##")
    expected = {
        "optimizers": [muon, event("aten::mm", event("aten::matmul", muon))],
        "matrix products": [event("aten::addmm"), event("aten::mm", graph)],
        "fused kernels": [graph],
        "the rest": [event("aten::exp"), event("aten::exp", event("aten::softmax"))],
    }
    for part, events in expected.items():
        assert [train_speed.part_of(one) for one in events] == [part] * len(events)


@pytest.mark.data
def test_miniature(tmp_path, capsys):
    train_speed.main(
        [
            *("--variants", "plain", "bf16", "--batch-size", "8", "--molecules", "64"),
            *("--steps", "2", "--rounds", "2", "--warmup", "1", "--net", NET),
            *("--out", str(tmp_path / "found.json")),
        ]
    )
    rows = json.loads((tmp_path / "found.json").read_text())["rows"]
    assert [row["variant"] for row in rows] == ["plain", "bf16"]
    for row in rows:
        assert len(row["seconds"]) == 2
        assert row["molecules_per_second"] == pytest.approx(8 * row["steps_per_second"])
        assert sum(row["parts"].values()) == pytest.approx(1)
        assert row["parts"]["optimizers"] > 0
        assert row["parts"]["fused kernels"] == 0
    assert "| bf16 | 8 |" in capsys.readouterr().out
