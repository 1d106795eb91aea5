"""PoseBusters' checks of single molecules (Buttenschoen, Morris and Deane 2024), config `mol`.

A molecule passes if it passes every check: it sanitises, is one connected piece without radicals,
has bond lengths, angles and distances within the bounds of distance geometry, flat aromatic rings
and double bonds, no flat saturated rings, and no more than 100 times the energy of its relaxed
conformers. A check that cannot be computed does not count as passed; such checks are counted apart.
The ratio of energies means little for molecules of a few atoms: water and methane have no strain
left when relaxed, and their DFT geometries fail.

The checks take the bonds as they are: those of the file where it states them, and else those of
EDM's distance rule.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gaga_adapter.distributed import Tick
from gaga_adapter.errors import DataError, MissingExtraError
from gaga_adapter.molecules.metrics.estimate import Estimate, estimate_ratio

#: Largest molecules that are checked in seconds each; one of 200 atoms takes most of a minute.
MOST_ATOMS = 150


@dataclass(frozen=True)
class Check:
    """One check on all molecules."""

    passed: Estimate  # share of the molecules
    n_not_computable: int  # molecules for which there is no answer; they do not count as passed


@dataclass(frozen=True)
class Plausibility:
    """What PoseBusters says of a set of molecules."""

    n_molecules: int
    passed: Estimate  # share of the molecules that pass all checks
    checks: Mapping[str, Check]  # by PoseBusters' name

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self)


def has_posebusters() -> bool:
    """Whether PoseBusters is installed."""
    return find_spec("posebusters") is not None


def answers(mols: Iterable[Any], tick: Tick = lambda done: None) -> dict[str, NDArray[np.float64]]:
    """PoseBusters' answers (M,) by check: 1 passed, 0 failed, NaN not computable.

    The rdkit molecules have one conformer each and are not changed; `tick` gets the number of those
    that are done.

    Raises:
        MissingExtraError: If PoseBusters is not installed.
    """
    try:
        from posebusters import PoseBusters
    except ImportError as error:
        raise MissingExtraError("posebusters", "posebusters") from error
    from rdkit import Chem

    buster = PoseBusters(config="mol")
    modules = [one for one in buster.config["modules"] if "chosen_binary_test_output" in one]
    buster.config["modules"] = modules  # the energies are there a second time, without an answer
    results: dict[str, list[float]] = {}
    with _silent():
        for done, mol in enumerate(mols, 1):
            table = buster.bust([Chem.Mol(mol)])  # a copy: some checks change what they see
            for name in table.columns:
                value = table[name].iloc[0]
                known = isinstance(value, bool | np.bool_)
                results.setdefault(str(name), []).append(float(value) if known else np.nan)
            tick(done)
    return {name: np.array(values) for name, values in results.items()}


def plausibility(results: Mapping[str, NDArray[np.float64]]) -> Plausibility:
    """Shares of molecules that pass, with standard errors, from what `answers` returned."""
    table = np.array(list(results.values()))
    if not table.size:
        raise DataError("no molecules to check. Pass at least one.")
    checks = {
        name: Check(_share(values == 1), int(np.isnan(values).sum()))
        for name, values in results.items()
    }
    return Plausibility(table.shape[1], _share((table == 1).all(axis=0)), checks)


@contextmanager
def _silent() -> Iterator[None]:
    """Keep PoseBusters, which sends rdkit's messages to Python's loggers, off the screen.

    PoseBusters changes the stream of rdkit's handler now and then, and loses an answer if that
    stream is closed. Afterwards rdkit writes as before.
    """
    import rdkit
    from rdkit import rdBase

    loggers: list[Any] = [rdkit.log_handler, logging.getLogger("posebusters")]
    levels = [one.level for one in loggers]
    rdkit.log_handler.stream = sys.stderr
    rdBase.LogToPythonLogger()
    for one in loggers:
        one.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for one, level in zip(loggers, levels, strict=True):
            one.setLevel(level)
        rdBase.LogToCppStreams()


def _share(passed: NDArray[np.bool_]) -> Estimate:
    return estimate_ratio(passed, np.ones(len(passed)))
