"""`fit_levels` on Gaussian data with the exact denoiser, and what it refuses."""

import math

import pytest
import torch
from torch import nn

from gaga_adapter import FewStepScheduler, GAGAScheduler, GAGAStats, fit_levels, record_trained
from gaga_adapter.errors import (
    DataError,
    GAGAWarning,
    StatsMismatchError,
    TruncationError,
    UnsupportedModelError,
)
from gaga_adapter.layout import DenseLayout, MoleculeLayout
from gaga_adapter.level_fitting.rollouts import Rollouts
from gaga_adapter.level_fitting.search import Family
from gaga_adapter.moments import DenseMoments, ExchangeableMoments
from gaga_adapter.noise.fitted import ModelMark

V = 0.5


class Exact(nn.Module):
    """The best denoiser of N(0, V)."""

    def __init__(self):
        super().__init__()
        self.v = nn.Parameter(torch.tensor(V))

    def forward(self, noisy, sigma, mask=None):
        return self.v / (self.v + sigma**2) * noisy


def gaussian(n=200, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return math.sqrt(V) * torch.randn(n, 2, 8, generator=generator)


@pytest.fixture(scope="module")
def stats():
    moments = DenseMoments((2, 8))
    moments.update(gaussian(2000, seed=9))
    return GAGAStats(DenseLayout((2, 8)), moments, -1.0)


@pytest.fixture(scope="module")
def fitted(stats):
    steps = []
    model = Exact().eval()
    found = fit_levels(
        model,
        stats,
        4,
        gaussian(),
        method="search",
        n_items=48,
        seed=3,
        progress=lambda *step: steps.append(step),
    )
    return found, steps, model


def test_a_fit_says_what_it_found(fitted, stats):
    found, steps, model = fitted
    assert found.n_calls == 4
    assert found.log_snrs[0] == pytest.approx(-1.0, abs=1e-12)
    assert found.model == ModelMark.of(model)
    assert (found.n_items, found.seed, found.method) == (48, 3, "search")
    assert found.reference == stats.reference().kind
    assert 0 < found.distance <= 1
    assert found.std_error >= 0
    assert [step[0] for step in steps] == ["levels"] * len(steps)
    assert [step[1] for step in steps] == list(range(1, len(steps) + 1))
    assert steps[-1][1] <= steps[-1][2]


def test_a_fit_is_the_same_again_and_leaves_randomness_alone(fitted, stats):
    before = torch.get_rng_state()
    again = fit_levels(Exact().eval(), stats, 4, gaussian(), method="search", n_items=48, seed=3)
    assert again == fitted[0]
    assert torch.equal(torch.get_rng_state(), before)


def test_the_levels_are_used_where_they_are_for_the_number_of_steps(fitted, stats):
    found, _, _ = fitted
    known = stats.with_levels(found)
    base = FewStepScheduler(log_snr_max=5.0)
    wrapped = GAGAScheduler.from_pretrained(base, known)
    assert wrapped.spacing == "auto"
    wrapped.set_timesteps(4)
    # Entries of a table of 1000 lie less than 0.1 apart here, and the start is at or beyond t*.
    reached = [-2 * math.log(r) for r in wrapped.ratios[-4:].tolist()]
    assert reached == pytest.approx(found.log_snrs, abs=0.06, rel=0)
    assert wrapped.renoised == found.n_renoised
    wrapped.set_timesteps(5)
    assert wrapped.renoised is None
    assert -2 * math.log(wrapped.ratios[-1]) == pytest.approx(5.0, abs=0.06, rel=0)

    plain = GAGAScheduler.from_pretrained(base, known, spacing="log_snr")
    plain.set_timesteps(4)
    assert plain.renoised is None
    assert GAGAScheduler.from_pretrained(base, stats).spacing == "log_snr"


def test_fitted_levels_alone_are_an_error_for_other_numbers_of_steps(fitted, stats):
    known = stats.with_levels(fitted[0])
    wrapped = GAGAScheduler.from_pretrained(FewStepScheduler(), known, spacing="fitted")
    with pytest.raises(TruncationError, match=r"for 5 calls .* Fitted numbers of calls: 4\."):
        wrapped.set_timesteps(5)
    wrapped.set_timesteps(4)
    none = GAGAScheduler.from_pretrained(FewStepScheduler(), stats, spacing="fitted")
    with pytest.raises(TruncationError, match="Fitted numbers of calls: none"):
        none.set_timesteps(4)
    elsewhere = GAGAScheduler.from_pretrained(FewStepScheduler(), known, t_star=300)
    elsewhere.set_timesteps(4)  # fitted for another start: even levels
    assert elsewhere.renoised is None


def test_fitted_levels_are_for_few_steps_only(fitted, stats):
    from diffusers import DDIMScheduler

    wrapped = GAGAScheduler.from_pretrained(
        DDIMScheduler(), stats.with_levels(fitted[0]), spacing="fitted"
    )
    with pytest.raises(TruncationError, match="for the steps of a FewStepScheduler"):
        wrapped.set_timesteps(4)


def test_a_wrapped_scheduler_takes_its_levels_to_disk(fitted, stats, tmp_path):
    wrapped = GAGAScheduler.from_pretrained(FewStepScheduler(), stats.with_levels(fitted[0]))
    wrapped.save_pretrained(tmp_path)
    again = GAGAScheduler.from_pretrained(tmp_path)
    for scheduler in (wrapped, again):
        scheduler.set_timesteps(4)
    assert again.stats.levels == (fitted[0],)
    assert again.timesteps.tolist() == wrapped.timesteps.tolist()
    assert again.renoised == wrapped.renoised


def test_another_network_is_told(fitted, stats):
    found, _, model = fitted
    wrapped = GAGAScheduler.from_pretrained(FewStepScheduler(), stats.with_levels(found))
    wrapped.check_levels(model, n_calls=4)
    wrapped.check_levels(Exact().half(), n_calls=4)  # the same in another precision
    other = Exact()
    other.v.data *= 1.1
    wrapped.check_levels(other, n_calls=5)  # even levels, which are anybody's
    with pytest.warns(GAGAWarning, match="levels for 4 calls were fitted to another network"):
        wrapped.check_levels(other, n_calls=4)
    wrapped.check_levels(other, model)  # a pipeline of several networks
    with pytest.warns(GAGAWarning, match="another network"):
        wrapped.check_levels(nn.Linear(1, 1))


def test_rollouts_match_moments_where_the_wrapped_scheduler_does(stats, monkeypatch):
    """Of these data it matches none."""
    seen, sample = [], Rollouts.sample
    monkeypatch.setattr(
        Rollouts, "sample", lambda self, plan: (seen.append(self.scheduler), sample(self, plan))[1]
    )
    fit_levels(Exact().eval(), stats, 3, gaussian(), n_items=16)
    wrapped = GAGAScheduler.from_pretrained(FewStepScheduler(), stats)
    assert seen
    assert all(one.moments is wrapped.moments for one in seen)


def test_the_bound_chooses_without_samples(stats):
    found = fit_levels(Exact().eval(), stats, 5, gaussian(), n_items=32)
    assert found.method == "bound"
    assert found.n_calls == 5


def test_a_network_that_was_trained_less_far_is_refused(stats):
    model = Exact().eval()
    record_trained(model, 0.0)
    with pytest.raises(TruncationError, match="trained"):
        fit_levels(model, stats, 3, gaussian(), n_items=32)


def test_a_network_with_its_scheduler_is_asked_by_timestep(stats):
    from diffusers import DDPMScheduler

    scheduler = DDPMScheduler(num_train_timesteps=200)
    abar = scheduler.alphas_cumprod

    class Epsilon(nn.Module):
        def forward(self, sample, timestep):
            a, b = abar[timestep].sqrt(), (1 - abar[timestep]).sqrt()
            return b * sample / (a**2 * V + b**2)

    found = fit_levels(
        Epsilon().eval(), stats, 3, gaussian(), scheduler=scheduler, n_items=32, method="bound",
        t_star=100,
    )  # fmt: skip
    star = float((abar[100] / (1 - abar[100])).log())
    assert found.log_snrs[0] == pytest.approx(star, abs=1e-4, rel=0)


def test_ends_of_the_family_leave_room():
    assert Family(1.5, 6.0, 8).ends() == [4.5, 5.0, 5.5, 6.0, 6.5]
    assert Family(5.5, 6.0, 8).ends() == [6.5]
    assert Family(5.9, 6.0, 9).ends() == [6.0]
    assert Family(1.5, 6.0, 2).switches() == [0, 1]


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"n_calls": 1}, TruncationError, "n_calls=1 is out of range"),
        ({"method": "guess"}, DataError, "Known: bound, search"),
        ({"n_items": 3}, DataError, "n_items=3"),
        ({"seed": -1}, DataError, "seed"),
        ({"data": gaussian(5)}, DataError, "found 5 items, need at least 16"),
        ({"data": gaussian()[:, :1]}, StatsMismatchError, "the statistics describe"),
        ({"data": [[1.0]]}, DataError, "pass a tensor"),
        ({"data": (gaussian(), torch.ones(200, 2, dtype=torch.bool))}, StatsMismatchError, "dense"),
        ({"data": gaussian() * math.nan}, DataError, "not finite"),
        ({"model": "qm9"}, UnsupportedModelError, "a denoiser is a callable"),
        ({"model": lambda y, sigma, mask: y[:1]}, UnsupportedModelError, "for an input"),
        ({"t_star": 5000}, TruncationError, "t_star"),
    ],
)
def test_wrong_inputs_are_refused(stats, changed, error, message):
    named = {"model": Exact().eval(), "n_calls": 3, "data": gaussian(), "n_items": 32} | changed
    model, n_calls, data = (named.pop(name) for name in ("model", "n_calls", "data"))
    with pytest.raises(error, match=message):
        fit_levels(model, stats, n_calls, data, **named)


def test_padding_in_front_of_the_atoms_loses_none_of_them():
    sizes = torch.arange(60) % 3 + 2
    mask = torch.arange(4) < sizes[:, None]
    x = torch.randn(60, 4, 8, generator=torch.Generator().manual_seed(1)) * mask[..., None]
    moments = ExchangeableMoments(5)
    moments.update(x, mask)
    stats = GAGAStats(MoleculeLayout(("H", "C", "N", "O", "F")), moments, -1.0)
    front = [torch.roll(row, 4 - n, 0) for row, n in zip(x, sizes.tolist(), strict=True)]
    plain, moved = (
        fit_levels(Exact().eval(), stats, 3, data, method="search", n_items=40)
        for data in ((x, mask), (torch.stack(front), mask.flip(1)))
    )
    assert moved.log_snrs == pytest.approx(plain.log_snrs, rel=1e-9)
    assert moved.distance == pytest.approx(plain.distance, rel=1e-9)


def test_molecules_without_their_mask_are_refused():
    x = torch.randn(40, 4, 8)
    x = x - x.mean(1, keepdim=True)
    moments = ExchangeableMoments(5)
    moments.update(x, torch.ones(40, 4, dtype=torch.bool))
    stats = GAGAStats(MoleculeLayout(("H", "C", "N", "O", "F")), moments, 0.0)
    with pytest.raises(StatsMismatchError, match=r"Pass x alone for dense data, and \(x, mask\)"):
        fit_levels(Exact().eval(), stats, 3, x)
