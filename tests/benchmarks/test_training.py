"""The benchmark of truncated training, in miniature: resumed, complete, and drawn."""

import json

import pytest
import torch

if not hasattr(torch.optim, "Muon"):
    pytest.skip("torch has its Muon from 2.9 on", allow_module_level=True)

import training
from qm9_training import validate

from gaga_adapter.molecules.encoding import encode
from gaga_adapter.molecules.pipeline import MoleculePipeline
from gaga_adapter.molecules.qm9.data import load_qm9

pytestmark = pytest.mark.data
NET = '{"width": 16, "pair_width": 4, "n_layers": 1, "n_vectors": 2, "n_heads": 2}'


def small(tmp_path, *more):
    return [
        *("--steps", "4", "--judged", "2", "4", "--seeds", "0", "--t-star", "400"),
        *("--sampled", "8", "--calls", "5", "--held-out", "16", "--batch-size", "8", "--net", NET),
        *("--molecules", "200", "--against", "100"),
        *("--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "training.json"), *more),
    ]


def test_miniature(tmp_path, capsys):
    training.main(small(tmp_path))
    found = json.loads((tmp_path / "training.json").read_text())
    of_full = {(c["start"], c["step"]) for c in found["cells"].values() if c["trained"] == "full"}
    assert of_full == {(None, 2), (None, 4), (400, 2), (400, 4)}
    cut = [cell for cell in found["cells"].values() if cell["trained"] == "truncated at 400"]
    assert [(c["start"], c["step"]) for c in cut] == [(400, 2), (400, 4)]
    full = next(cell for cell in found["cells"].values() if cell["start"] is None)
    assert full["samples"]["network_calls"] == 5 > cut[0]["samples"]["network_calls"]
    assert set(full["losses"]) == {"400"}
    assert (tmp_path / "training.png").read_bytes().startswith(b"\x89PNG")
    assert "truncated at 400" in capsys.readouterr().out

    with_hole = dict(found["cells"])
    last = list(with_hole)[-1]
    lost = with_hole.pop(last)
    (tmp_path / "training.json").write_text(json.dumps(found | {"cells": with_hole}))
    training.main(small(tmp_path))  # only the judging is left to do
    again = json.loads((tmp_path / "training.json").read_text())["cells"][last]
    assert again == lost
    with pytest.raises(SystemExit, match="Pass --replace"):
        training.main(small(tmp_path, "--lr", "0.5"))


def test_a_trained_net_goes_on_in_both_ways(tmp_path, capsys):
    more = ("--from", "qm9", "--t-star", "501", "--judged", "2", "--steps", "2")
    more += ("--solver", "few-step", "--recipe", '{"warmup": 1, "cooldown": 1}')
    training.main(small(tmp_path, *more))
    found = json.loads((tmp_path / "training.json").read_text())
    cells = {(c["trained"], c["step"], c["start"]): c for c in found["cells"].values()}
    assert set(cells) == {
        *(("not at all", 0, None), ("not at all", 0, 501), ("full", 2, None), ("full", 2, 501)),
        ("truncated at 501", 2, 501),
    }
    losses = [cell["losses"]["501"]["valid_position"] for cell in cells.values()]
    assert max(losses) < 1.2 * min(losses)  # two steps change little of a trained net
    net = MoleculePipeline.from_pretrained("qm9").denoiser
    held_out = encode(load_qm9("valid").subset(slice(16)), net.layout)
    as_shipped = validate(net, *held_out, 501)["valid_position"]
    assert losses[0] == losses[1] == pytest.approx(as_shipped, rel=1e-6)
    assert losses[2] != losses[0]
    assert all(cell["samples"]["network_calls"] == 5 for cell in cells.values())
    assert "[0, 501]" in training.markdown(found)
    capsys.readouterr()
