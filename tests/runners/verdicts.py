"""What the runners share: they put real classes to a list of checks, and say it in one line."""

import contextlib
import io
from dataclasses import replace

import torch
from gaga_adapter.integrations import patched

from gaga_adapter.testing.report import report_of

#: Options of a fit whose t* does not matter.
QUICK = {
    "criterion": "cumulant",
    "reference": "size",
    "tolerance": 3.0,
    "log_snr": (0.0, -3.0, -6.0),
    "n_bootstrap": 0,
}


def checks_of(codebase, checks, case):
    """Outcome of each check by name; what upstream prints meanwhile is shown to nobody."""
    with contextlib.redirect_stdout(io.StringIO()):
        return report_of(codebase, checks, case).to_dict()


def network_calls(case, sizes=(3,)):
    """Calls of the network for one sample of a thousand steps, from T and from t* = 550."""
    calls = []
    with contextlib.redirect_stdout(io.StringIO()):
        case = replace(case, n_steps=1000)
        model = case.model()
        for t_star in (1000, 550):
            with patched(model, None, t_star=t_star):
                calls.append(len(case.network_inputs(model, lambda: case.sample(model, sizes))))
    return calls


def molecules():
    """Six hundred random molecules in the form in which EDM and its kin keep QM9."""
    generator = torch.Generator().manual_seed(3)
    n_atoms = torch.randint(4, 10, (600,), generator=generator)
    mask = torch.arange(9) < n_atoms[:, None]
    numbers = torch.tensor([1, 6, 7, 8, 9])[torch.randint(5, mask.shape, generator=generator)]
    return {
        "num_atoms": n_atoms,
        "charges": numbers * mask,
        "positions": torch.randn(600, 9, 3, generator=generator) * mask[..., None],
    }


def findings_of_states(codebase, checks, study):
    """What a study of noised states finds, with the outcome of each check."""
    torch.set_num_threads(1)
    return {
        "codebase": codebase,
        "checks": checks_of(codebase, checks, study),
        "calls": study.calls,
        "level_star": study.stats.level_star,
        "curve": {str(one.level): [one.value, one.std_error] for one in study.stats.measured},
        "naive_over_measured": study.ratios,
    }
