"""Methods of the literature: their loops, against other code and in closed form; their table."""

import json
import math
import sys
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import related
import torch
import verdicts
from other_starts import BareNoise
from torch import Tensor

from gaga_adapter import GAGAStats
from gaga_adapter.molecules.pipeline import MoleculePipeline
from gaga_adapter.molecules.qm9.data import load_qm9
from gaga_adapter.noise.timesteps import timestep_log_snr
from gaga_adapter.subspace import mask_from_sizes, project

SETTING = {"seed": 0, "chunk": 2, "batch_size": 64}


class Few(verdicts.HeldOut):
    """Forty molecules of the test split, and none that training has seen."""

    molecules = load_qm9("test").subset(slice(40))
    smiles = frozenset()


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chunks")
    return related.Bench("embedded", SETTING, folder, None, Few(), compiled=False)


# -- teleportation ---------------------------------------------------------------------------------


def test_teleportation_is_the_transport_of_the_start():
    """The probability flow of a Gaussian's score, from far out, ends where `size` begins.

    The flow `dy / d log r = -r² grad log q_r(y)` of y = x / a, with q_r the Gaussian of the data
    plus noise r, is integrated by Runge-Kutta with the gradient of the log-density.
    """
    reference = GAGAStats.from_pretrained("qm9").reference("size")
    mask = mask_from_sizes(torch.tensor([12, 19]))
    noise = torch.randn(2, 19, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    noise = project(noise, mask)

    def slope(y: Tensor, log_r: float) -> Tensor:
        r = math.exp(log_r)
        y = y.detach().requires_grad_()
        score = torch.autograd.grad(reference.at(1.0, r).log_prob(y, mask).sum(), y)[0]
        return -(r**2) * project(score, mask)

    log_snr = 1.57
    times = np.linspace(math.log(300.0), -log_snr / 2, 80)
    y = 300.0 * noise
    for here, there in pairwise(times.tolist()):
        h = there - here
        k_1 = slope(y, here)
        k_2 = slope(y + h / 2 * k_1, here + h / 2)
        k_3 = slope(y + h / 2 * k_2, here + h / 2)
        y = y + h / 6 * (k_1 + 2 * k_2 + 2 * k_3 + slope(y + h * k_3, there))
    start = reference.at(1.0, math.exp(-log_snr / 2)).transport(noise, mask)
    torch.testing.assert_close(y, start, rtol=1e-3, atol=1e-3)


# -- loops -----------------------------------------------------------------------------------------


def test_the_own_loop_is_the_solver_of_diffusers(bench):
    pipe, row = bench.pipeline, related.Row("dpm++", 5, "size", 300)
    base, pipe.scheduler = pipe.scheduler, bench.scheduler(row)
    known = pipe(3, num_inference_steps=5, generator=torch.Generator().manual_seed(1)).molecules
    levels = [timestep_log_snr(base, int(t)) for t in pipe.scheduler.timesteps]
    pipe.scheduler = base
    calls = [related.Call(*pair) for pair in pairwise([*levels, math.inf])]
    start = bench.stats.reference("size")
    own = related.own_loop(pipe, calls, start, 3, torch.Generator().manual_seed(1))
    np.testing.assert_array_equal(own.atomic_numbers, known.atomic_numbers)
    np.testing.assert_allclose(own.positions, known.positions, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("first", [-4.6, 1.57])
@pytest.mark.parametrize("n", related.CALLS)
def test_restart_has_as_many_calls_and_each_begins_where_the_last_one_ends(n, first):
    calls = related.restart_calls(n, first)
    assert (len(calls), calls[0].log_snr, calls[-1].to) == (n, first, math.inf)
    for here, there in pairwise(calls):
        assert there.log_snr == pytest.approx(here.to if here.up_to is None else here.up_to)
        assert here.to > here.log_snr
    (turn,) = [call for call in calls if call.up_to is not None]
    clean, noisy = related.RESTART
    assert turn.up_to == noisy < clean <= turn.to


class Zero(torch.nn.Module):
    """A denoiser of molecules that are all at the origin, which keeps what it was shown."""

    def __init__(self, layout):
        super().__init__()
        self.layout, self.seen = layout, []
        self.layers = torch.nn.ModuleList(torch.nn.Identity() for _ in range(3))

    def forward(self, sample, sigma, mask):
        self.seen.append((sample, sigma))
        return SimpleNamespace(sample=torch.zeros_like(sample))


def test_restart_is_at_the_level_that_the_network_is_told():
    """Data at the origin are noise at every level; what is fresh of it follows from the levels.

    The 64 molecules have some 6,000 numbers of features. Their spread is within 7 of its standard
    errors, and the correlation within 5 of its own: a false alarm in a million runs.
    """
    pipe = MoleculePipeline.load("qm9")
    pipe.set_progress_bar_config(disable=True)
    zero = Zero(pipe.denoiser.layout)
    stand_in = SimpleNamespace(denoiser=zero, config=pipe.config, progress_bar=pipe.progress_bar)
    calls = related.restart_calls(12, 1.57)
    generator = torch.Generator().manual_seed(0)
    related.own_loop(stand_in, calls, BareNoise(), 64, generator)
    assert len(zero.seen) == len(calls)
    filled = zero.seen[0][0][..., 3:].abs() > 0
    error = 5 / math.sqrt(filled.sum())
    for (seen, sigma), call in zip(zero.seen, calls, strict=True):
        assert sigma == pytest.approx(math.exp(-call.log_snr / 2))
        assert seen[..., 3:][filled].std() == pytest.approx(sigma, rel=error, abs=0)
    place = next(k for k, call in enumerate(calls) if call.up_to is not None)
    pair = torch.stack([zero.seen[k][0][..., 3:][filled] for k in (place, place + 1)])
    kept = math.exp(-(calls[place].to - calls[place].up_to) / 2)
    assert torch.corrcoef(pair)[0, 1] == pytest.approx(kept, abs=error)


def test_cached_layers_add_what_they_added_before(bench):
    """On the input of the call before, a cached call gives the same; on others it does not."""
    denoiser = bench.pipeline.denoiser
    layers, mask = denoiser.layers, mask_from_sizes(torch.tensor([9, 12]))
    x = project(torch.randn(2, 12, 8, generator=torch.Generator().manual_seed(0)), mask)
    with torch.no_grad():
        plain = [denoiser(x, sigma, mask).sample for sigma in (0.8, 0.5)]
        with related.cached_layers(denoiser) as holder:
            whole = denoiser(x, 0.8, mask).sample
            holder["is_cached"] = True
            same, other = (denoiser(x, sigma, mask).sample for sigma in (0.8, 0.5))
    torch.testing.assert_close(whole, plain[0])
    torch.testing.assert_close(same, plain[0], rtol=1e-4, atol=1e-4)
    assert (other - plain[1]).abs().max() > 1e-3
    assert denoiser.layers is layers


@pytest.mark.parametrize("n", related.CALLS)
def test_cached_calls_cost_as_much_as_whole_ones(n):
    """Seven layers, of which a cached call has two, counted layer by layer."""
    calls = related.cached_calls(n, 1.57, 7)
    layers = sum(2 if call.is_cached else 7 for call in calls)
    assert layers / 7 == pytest.approx(related.cost(calls, 7))
    assert abs(layers / 7 - n) <= 1 / 3
    assert len(calls) > n
    assert not any(here.is_cached and there.is_cached for here, there in pairwise(calls))
    assert not any(call.is_cached for call in calls[len(calls) // 2 :])


# -- the rows --------------------------------------------------------------------------------------


def test_a_row_has_the_levels_that_its_name_says(bench):
    """From noise the whole list; from t* as many calls, none of them beyond it."""
    base = bench.pipeline.scheduler
    for row in related.ROWS:
        if row.rule != "dpm++" or row.calls != 12:
            continue
        scheduler = bench.scheduler(row)
        scheduler.set_timesteps(12)
        levels = [timestep_log_snr(base, int(t)) for t in scheduler.timesteps[-12:]]
        assert len(levels) == 12, row.name
        if row.t_star is not None:
            star = timestep_log_snr(base, row.t_star)
            assert star - 0.3 < levels[0] <= star + 1e-6, row.name
        elif row.levels == "even":
            assert levels[0] == pytest.approx(related.FIRST, abs=0.1)
        elif row.levels == "leading":
            assert -4.6 < levels[0] < -3  # not the last timestep
        else:
            assert levels[0] < -11


def test_a_gain_is_that_of_pairs():
    ours, theirs = np.array([1.0, 1, 0, 1]), np.array([0.0, 1, 0, 0])
    found = related.gain(ours, theirs)
    assert found["value"] == 0.5
    assert found["std_error"] == pytest.approx(math.sqrt(1 / 3) / 2)


@pytest.mark.data
def test_rows_are_resumed_and_judged(tmp_path, monkeypatch):
    rows = [
        related.Row("dpm++", 3),
        related.Row("dpm++", 3, "shape", 300),
        related.Row("dpm++", 3, "shape", 300, "karras"),
        related.Row("cached", 3, "shape", 300),
    ]
    monkeypatch.setattr(related, "ROWS", rows)
    monkeypatch.setattr(related, "HeldOut", Few)

    def run(*more):
        out = tmp_path / "related.json"
        argv = ["related.py", "-n", "4", "--chunk", "2", "--no-compile"]
        argv += ["--chunks", str(tmp_path), "--out", str(out), *more]
        monkeypatch.setattr(sys, "argv", argv)
        related.main()
        return json.loads(out.read_text()) if out.exists() else None

    assert run("--shard", "0/2", "--sample-only") is None
    assert run("--merge")["rows"] == {}
    found = run()
    assert list(found["rows"]) == [row.name for row in rows]
    assert {row["n"] for row in found["rows"].values()} == {4}
    calls = [row["network_calls"] for row in found["rows"].values()]
    assert calls[:3] == [3, 3, 3]
    assert abs(calls[3] - 3) <= 1 / 3
    assert ["gain" in row for row in found["rows"].values()] == [False, True, False, False]
    assert run("--merge")["rows"] == found["rows"]
    monkeypatch.setattr(related, "LINES", [("even", "noise", "dpm++ {}, noise")])
    monkeypatch.setattr(related, "CALLS", (3, 20))
    assert "| even | noise | 0.0 ± " in related.markdown(found)
