"""What a shortened structure predictor promises: one list of checks.

They are those of the stand-ins and of the real classes, and import nothing of pytest, so that they
also run where the real codebases are. Targets are the two dumbbells of `fakes.structures`, whose
exact posterior mean is the network. `report` is what a runner prints.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from fakes.structures import LENGTHS
from gaga_adapter.integrations.structures import apply_patch, patched, remove_patch

from gaga_adapter import RigidTarget
from gaga_adapter.errors import UnsupportedModelError
from gaga_adapter.testing import NotApplicable
from gaga_adapter.testing.report import report_of

TARGET = RigidTarget.from_structure(torch.tensor([[0.0, 0, 0], [max(LENGTHS), 0, 0]]))


@dataclass(frozen=True)
class Run:
    """Samples (B, 2, 3), the levels of all network calls, and the first input (B, 2, 3)."""

    samples: torch.Tensor
    seen: list[float]
    first: torch.Tensor


@dataclass(frozen=True)
class Case:
    """A codebase: its class, and `run(n_samples, n_steps, **options)` after a seed was set.

    Its network first sees `lift` times the first sigma of the list.
    """

    name: str
    sampler: Any
    run: Callable[..., Run]
    lift: float = 1.0
    calls_per_step: int = 1
    steers: bool = False

    def seeded(self, n_samples, n_steps, **options):
        torch.manual_seed(0)
        return self.run(n_samples, n_steps, **options)


def same(one, two):
    return torch.equal(one.samples, two.samples) and one.seen == two.seen


def removal_leaves_nothing(case):
    attributes, before = dict(vars(case.sampler)), case.seeded(4, 20)
    apply_patch(case.sampler, 20.0)
    assert len(case.seeded(4, 20).seen) < len(before.seen)
    remove_patch(case.sampler)
    remove_patch(case.sampler)
    assert dict(vars(case.sampler)) == attributes
    assert same(case.seeded(4, 20), before)


def an_exception_leaves_nothing(case):
    attributes = dict(vars(case.sampler))
    try:
        with patched(case.sampler, 20.0):
            raise KeyError
    except KeyError:
        pass
    assert dict(vars(case.sampler)) == attributes


def a_patch_replaces_the_one_before(case):
    first = apply_patch(case.sampler, 20.0)
    seen = case.seeded(4, 40).seen
    second = apply_patch(case.sampler, 5.0)
    first.remove()
    assert len(case.seeded(4, 40).seen) < len(seen)
    with patched(case.sampler, 20.0):
        assert case.seeded(4, 40).seen == seen
    assert len(case.seeded(4, 40).seen) < len(seen)
    second.remove()
    assert len(case.seeded(4, 40).seen) > len(seen)


def what_a_block_removes_stays_removed(case):
    whole = case.seeded(4, 40).seen
    for before in (False, True):
        if before:
            apply_patch(case.sampler, 20.0)
        with patched(case.sampler, 60.0) as handle:
            remove_patch(case.sampler)
            handle.remove()
        assert case.seeded(4, 40).seen == whole


def a_family_is_patched_once(case):
    """A class that inherits methods under a patch is refused, and so is the other way round."""
    one, own = case.sampler, type("Own", (case.sampler,), {})
    for first, second in ((one, own), (own, one)):
        with patched(first, 20.0):
            attributes = dict(vars(second))
            message = refused(lambda second=second: apply_patch(second, 60.0))
            assert f"{first.__name__} is patched" in message
            assert f"remove_patch({first.__name__})" in message
            assert dict(vars(second)) == attributes
    with patched(one, 20.0):
        assert f"Call remove_patch({one.__name__})" in refused(lambda: remove_patch(own))
    remove_patch(own)
    with patched(own, 20.0):
        remove_patch(one)


def refused(action):
    try:
        action()
    except UnsupportedModelError as error:
        return str(error)
    raise AssertionError("not refused")


def nothing_is_cut_at_the_first_level(case):
    whole = case.seeded(4, 30)
    with patched(case.sampler, whole.seen[0]):
        assert same(case.seeded(4, 30), whole)


def the_levels_are_the_last_of_the_list(case):
    """The same floats, from the last one at or beyond sigma* on; and a step later none is."""
    whole = case.seeded(2, 200).seen
    for sigma_star in (700.0, 60.0, 9.0):
        with patched(case.sampler, sigma_star):
            seen = case.seeded(2, 200).seen
        assert seen == whole[-len(seen) :]
        assert (len(whole) - len(seen)) % case.calls_per_step == 0
        # Churn of Chai-1 is not counted, so its first call may be higher, by 1.41 at most.
        slack = 1.42 if case.lift == 1 else 1.0
        assert sigma_star <= seen[0] * (1 + 1e-5)
        assert seen[case.calls_per_step] < sigma_star * slack


def respacing_keeps_the_number_of_calls(case):
    whole = case.seeded(2, 50).seen
    with patched(case.sampler, 100.0, "respace"):
        seen = case.seeded(2, 50).seen
    assert len(seen) == len(whole)
    assert math.isclose(seen[0], 100.0, rel_tol=1e-4)


def the_start_is_noise_of_the_first_level(case):
    """In the subspace that the loop centres on: three coordinates of the vector between two atoms.

    The variance of 3 · 5000 numbers, to five standard errors: false with probability 6e-7.
    """
    with patched(case.sampler, 300.0):
        run = case.seeded(5000, 30)
    between = (run.first[:, 0] - run.first[:, 1]) / math.sqrt(2)
    ratio = float(between.double().var() / run.seen[0] ** 2)
    assert abs(ratio - 1) < 5 * math.sqrt(2 / 15000) + 0.006  # noise scaled by 1.003


def long_share(samples):
    """Share of the longer dumbbell, and how far samples are from either."""
    length = (samples[:, 0] - samples[:, 1]).double().norm(dim=1)
    off = torch.stack([(length - one).abs() for one in LENGTHS]).amin(0)
    return float((length > sum(LENGTHS) / 2).double().mean()), float(off.max())


def the_law_is_that_of_the_whole_run(case):
    """Shares of two conformers in 4000 runs each: false with probability 2e-6.

    At 1e-3 nats, where no start matters, and at the 0.5 nats that are the default: so much could
    change the shares, but the loops forget their starts.
    """
    n = 4000
    whole = case.seeded(n, 100)
    share, off = long_share(whole.samples)
    for nats in (1e-3, 0.5):
        torch.manual_seed(1)
        with patched(case.sampler, TARGET.sigma_star(nats)):
            cut = case.run(n, 100)
        other, other_off = long_share(cut.samples)
        assert abs(share - other) < 4.9 * math.sqrt(2 * 0.25 / n)
        assert max(off, other_off) < 0.2
        assert len(cut.seen) < 0.6 * len(whole.seen)
    with patched(case.sampler, TARGET.sigma_star(20.0)):  # far too late, which this test sees
        late = case.seeded(n, 100)
    assert abs(long_share(late.samples)[0] - share) > 0.15


def steering_is_refused(case):
    if not case.steers:
        raise NotApplicable("it does not steer")
    contacts = {"contact_pair_index": torch.zeros(1, 2, 3, dtype=torch.long)}
    templates = {"template_force": torch.tensor([[False, True]])}
    acting = [
        ({"fk_steering": True}, {}),
        ({"physical_guidance_update": True}, {}),
        ({"contact_guidance_update": True}, contacts),
        ({"contact_guidance_update": True}, templates),
    ]
    with patched(case.sampler, 20.0):
        for steering, features in acting:
            assert "step_idx / num_sampling_steps" in refusal(case, steering, features)


def refusal(case, steering, features):
    """What a run is refused with."""
    return refused(lambda: case.seeded(2, 10, steering=steering, features=features))


def guidance_without_a_contact_passes(case):
    """`boltz predict` asks for contact guidance of every input."""
    if not case.steers:
        raise NotApplicable("it does not steer")
    features = {
        "contact_pair_index": torch.zeros(1, 2, 0, dtype=torch.long),
        "contact_union_index": torch.zeros(1, 0, dtype=torch.long),
        "contact_negation_mask": torch.zeros(1, 0, dtype=torch.bool),
        "contact_thresholds": torch.zeros(1, 0),
        "template_force": torch.tensor([[False]]),
        "template_mask_cb": torch.zeros(1, 1, 2),
    }
    with patched(case.sampler, 20.0):
        guided = case.seeded(4, 20, steering={"contact_guidance_update": True}, features=features)
        assert same(guided, case.seeded(4, 20))


CHECKS = {
    check.__name__: check
    for check in (
        removal_leaves_nothing,
        an_exception_leaves_nothing,
        a_patch_replaces_the_one_before,
        what_a_block_removes_stays_removed,
        a_family_is_patched_once,
        nothing_is_cut_at_the_first_level,
        the_levels_are_the_last_of_the_list,
        respacing_keeps_the_number_of_calls,
        the_start_is_noise_of_the_first_level,
        the_law_is_that_of_the_whole_run,
        steering_is_refused,
        guidance_without_a_contact_passes,
    )
}

#: Protein chains by their number of residues: 7.8 heavy atoms each, Rg = 2.2 L^0.38 angstrom.
LENGTHS_OF_CHAINS = (50, 100, 200, 400, 800, 1600)


def protein(residues):
    return RigidTarget.from_size(round(7.8 * residues), 2.2 * residues**0.38)


def report(case, codebase):
    """The verdict on a real class, as one line of JSON."""
    checks = report_of(codebase, CHECKS, case).to_dict()
    whole, rows = len(case.seeded(1, 200).seen), []
    for residues in LENGTHS_OF_CHAINS:
        target = protein(residues)
        row = {"residues": residues, "n_atoms": target.n_atoms, "rg": target.radius_of_gyration}
        for nats in (0.5, 0.05):
            sigma_star = target.sigma_star(nats)
            with patched(case.sampler, sigma_star):
                seen = case.seeded(1, 200).seen
            row[str(nats)] = {"sigma_star": sigma_star, "calls": len(seen)}
        rows.append(row)
    calls = [whole, next(row for row in rows if row["residues"] == 200)["0.5"]["calls"]]
    return json.dumps({"codebase": codebase, "checks": checks, "calls": calls, "table": rows})
