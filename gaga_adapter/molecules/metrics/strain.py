"""How strained molecules are: the energy that a relaxation frees, in kcal/mol an atom.

Stability counts bonds and does not see whether they are stretched; samples of few network calls
often are. A molecule is relaxed from where it is, to the next minimum of

- `mmff94`: the force field MMFF94 of rdkit (Halgren 1996), in milliseconds;
- `gfn2`: the semi-empirical method GFN2-xTB of the package `tblite` (Bannwarth et al. 2019), which
  knows no bonds, in tenths of a second to many seconds.

The median is reported: a single pair of atoms too close can free more than all others together.
Molecules that were relaxed by another method, such as the DFT of QM9, are strained for each of
these, so a strain says something only beside that of the data.

Only molecules that rdkit can sanitise and that are in one piece are relaxed: for the others there
is no bond to stretch, or a relaxation drives the pieces apart. Molecules that lack a hydrogen which
their bonds imply are left out, too: rdkit would give the atom its force constants all the same, and
most of what such a molecule frees is the bond that was not found. `gfn2` takes the sum of formal
charges as the charge, and one unpaired electron where the number of electrons is odd.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gaga_adapter.distributed import Tick
from gaga_adapter.errors import DataError, MissingExtraError
from gaga_adapter.molecules.metrics.estimate import Estimate, estimate_median, estimate_ratio

#: Most molecules that are relaxed where nobody says how many, by method.
MOST_ITEMS = {"mmff94": 1000, "gfn2": 100}
_BOHR = 0.529177210903  # angstrom (CODATA 2018)
_HARTREE = 627.5094740631  # kcal/mol
_MOST_STEPS = 5000  # of a force field
_MOST_CALLS = 500  # of a semi-empirical method
_LARGEST_FORCE = 5e-4  # hartree per bohr, where a semi-empirical relaxation ends
#: Why a molecule was not relaxed, by the code in the second column of `relaxations`.
REASONS = (
    "not sanitised",
    "in several pieces",
    "hydrogens missing",
    "not parameterised",
    "not converged",
)
_RELAXED = -1


@dataclass(frozen=True)
class Strain:
    """Energy that a relaxation frees from a set of molecules.

    Attributes:
        method: Name of the energy, `mmff94` or `gfn2`.
        n_molecules: Number of molecules that were to be relaxed.
        energy: Median over those that were relaxed, kcal/mol an atom; None where there is none.
        relaxed: Share of the molecules that were relaxed.
        n_not_relaxed: Number of the others, by reason.
    """

    method: str
    n_molecules: int
    energy: Estimate | None
    relaxed: Estimate
    n_not_relaxed: Mapping[str, int]

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self)


def check_method(method: str) -> str:
    """A method whose package is installed.

    Raises:
        DataError: If there is no such method.
        MissingExtraError: If `tblite` is not installed.
    """
    if method not in MOST_ITEMS:
        raise DataError(f"method={method!r}. Allowed: {', '.join(MOST_ITEMS)}.")
    if method == "gfn2" and find_spec("tblite") is None:
        raise MissingExtraError("tblite", "xtb")
    return method


def strain(mols: Iterable[Any], method: str = "mmff94") -> Strain:
    """Strain of rdkit molecules, which have one conformer each and are not changed.

    Args:
        mols: Molecules with all their hydrogens, such as `to_rdkit(molecules)`.
        method: Name of the energy, `mmff94` or `gfn2`.

    Raises:
        DataError: If there is no such method, or no molecule.
        MissingExtraError: If `tblite` is not installed.
    """
    return summarised(relaxations(mols, method), method)


def relaxations(
    mols: Iterable[Any], method: str = "mmff94", tick: Tick = lambda done: None
) -> dict[str, NDArray[np.float64]]:
    """Energy freed (M,), kcal/mol an atom, and the reason why it is NaN, a place in `REASONS`.

    Arguments and errors are those of `strain`; `tick` gets the number of molecules that are done.
    """
    relax = _ENERGIES[check_method(method)]
    freed: list[float] = []
    reasons: list[int] = []
    for mol in mols:
        energy = _freed(mol, relax)
        freed.append(energy if isinstance(energy, float) else np.nan)
        reasons.append(_RELAXED if isinstance(energy, float) else REASONS.index(energy))
        tick(len(freed))
    return {"freed": np.array(freed), "reason": np.array(reasons, np.float64)}


def summarised(found: Mapping[str, NDArray[np.float64]], method: str) -> Strain:
    """The strain of a set, from what `relaxations` returned."""
    freed, reasons = found["freed"], found["reason"]
    if not len(freed):
        raise DataError("no molecules to relax. Pass at least one.")
    known = np.isfinite(freed)
    return Strain(
        method,
        len(freed),
        estimate_median(freed[known]),
        estimate_ratio(known, np.ones(len(known))),
        {name: int((reasons == code).sum()) for code, name in enumerate(REASONS)},
    )


def _freed(mol: Any, relax: Callable[[Any], float | str]) -> float | str:  # noqa: ANN401
    """Energy that one molecule frees, kcal/mol an atom, or why there is none."""
    from rdkit import Chem, rdBase

    own = Chem.Mol(mol)
    with rdBase.BlockLogs():
        try:
            Chem.SanitizeMol(own)
        except ValueError:  # rdkit's AtomValenceException, KekulizeException, ...
            return "not sanitised"
        if len(Chem.GetMolFrags(own)) != 1:
            return "in several pieces"
        if any(atom.GetTotalNumHs() for atom in own.GetAtoms()):  # those that are no atoms
            return "hydrogens missing"
        energy = relax(own)
    return energy / own.GetNumAtoms() if isinstance(energy, float) else energy


def _mmff94(mol: Any) -> float | str:  # noqa: ANN401
    """Energy that MMFF94 frees, kcal/mol; it moves the molecule."""
    from rdkit.Chem import rdForceFieldHelpers as helpers

    if not helpers.MMFFHasAllMoleculeParams(mol):
        return "not parameterised"
    field = helpers.MMFFGetMoleculeForceField(mol, helpers.MMFFGetMoleculeProperties(mol))
    if field is None:
        return "not parameterised"
    before = field.CalcEnergy()
    if field.Minimize(maxIts=_MOST_STEPS) != 0:
        return "not converged"
    return float(before - field.CalcEnergy())


def _gfn2(mol: Any) -> float | str:  # noqa: ANN401
    """Energy that GFN2-xTB frees, kcal/mol."""
    from rdkit import Chem
    from scipy.optimize import minimize
    from tblite.exceptions import TBLiteRuntimeError, TBLiteValueError
    from tblite.interface import Calculator

    numbers = np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()])
    start = mol.GetConformer().GetPositions() / _BOHR
    charge = Chem.GetFormalCharge(mol)
    unpaired = int(numbers.sum() - charge) % 2
    try:
        calculator = Calculator("GFN2-xTB", numbers, start, charge=charge, uhf=unpaired)
        calculator.set("verbosity", 0)
    except (TBLiteRuntimeError, TBLiteValueError):  # an element beyond radon, atoms that coincide
        return "not parameterised"
    result = None

    def energy(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        nonlocal result
        calculator.update(positions=flat.reshape(-1, 3))
        result = calculator.singlepoint(result)  # from the charges of the last one
        return float(result.get("energy")), result.get("gradient").ravel()

    try:
        before = energy(start.ravel())[0]
        end = minimize(
            energy,
            start.ravel(),
            jac=True,
            method="L-BFGS-B",
            options={"gtol": _LARGEST_FORCE, "ftol": 0, "maxfun": _MOST_CALLS},
        )
    except (TBLiteRuntimeError, TBLiteValueError):  # its charges do not converge
        return "not converged"
    if not end.success:
        return "not converged"
    return (before - float(end.fun)) * _HARTREE


_ENERGIES: dict[str, Callable[[Any], float | str]] = {"mmff94": _mmff94, "gfn2": _gfn2}
