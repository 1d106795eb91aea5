"""The periodic table: chemical symbols and atomic numbers."""

from __future__ import annotations

from collections.abc import Iterable

from gaga_adapter.errors import DataError

SYMBOLS = (
    "",  # padding: no atom has the number 0
    *"H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn".split(),
    *"Ga Ge As Se Br Kr Rb Sr Y Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba".split(),
    *"La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu Hf Ta W Re Os Ir Pt Au Hg Tl Pb".split(),
    *"Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf Es Fm Md No Lr Rf Db Sg Bh Hs".split(),
    *"Mt Ds Rg Cn Nh Fl Mc Lv Ts Og".split(),
)
"""Chemical symbol of each atomic number; entry 0 is the empty symbol of padding."""

_NUMBERS = {symbol: number for number, symbol in enumerate(SYMBOLS) if number}


def atomic_number(symbol: str) -> int:
    """Atomic number of a chemical symbol such as `Cl` (a numeral such as `17` is taken as it is).

    Raises:
        DataError: If there is no such element.
    """
    is_number = symbol.isascii() and symbol.isdecimal() and len(symbol) <= 3
    number = int(symbol) if is_number else _NUMBERS.get(symbol.capitalize(), 0)
    if not 0 < number < len(SYMBOLS):
        raise DataError(
            f"unknown element {symbol[:40]!r}. Allowed: chemical symbols or numbers 1 to 118."
        )
    return number


def atomic_numbers(symbols: Iterable[str]) -> tuple[int, ...]:
    """Atomic numbers of several chemical symbols; see `atomic_number`."""
    return tuple(atomic_number(symbol) for symbol in symbols)
