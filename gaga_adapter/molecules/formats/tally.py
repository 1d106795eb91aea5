"""What a pass over molecules left out or dropped."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Tally:
    """What one pass met, of the share of this process.

    Attributes:
        n_molecules: molecules given.
        n_malformed: left out with `skip_bad`.
        n_not_embedded: graphs for which ETKDG found no geometry, left out.
        n_charged: molecules given whose source states charges of atoms, which are dropped.
        n_periodic: molecules given whose source states a cell, which is dropped.
        n_bare: molecules given that lack the hydrogens which their bonds imply.
        examples: the first that were left out, and why.
    """

    n_molecules: int = 0
    n_malformed: int = 0
    n_not_embedded: int = 0
    n_charged: int = 0
    n_periodic: int = 0
    n_bare: int = 0
    examples: tuple[str, ...] = ()

    def describe(self) -> str | None:
        """What was left out or dropped, in one sentence or two; None if nothing was."""
        said = []
        left_out = self.n_malformed + self.n_not_embedded
        if left_out:
            parts = [f"{self.n_malformed:,} malformed"] if self.n_malformed else []
            parts += [f"{self.n_not_embedded:,} not embedded"] if self.n_not_embedded else []
            more = f"; and {left_out - len(self.examples):,} more" * (left_out > len(self.examples))
            said.append(
                f"skipped {left_out:,} of {left_out + self.n_molecules:,} molecules "
                f"({', '.join(parts)}): {'; '.join(self.examples)}{more}."
            )
        dropped = {"formal charges": self.n_charged, "a periodic cell": self.n_periodic}
        for what, count in dropped.items():
            if count:
                said.append(f"{count:,} molecules have {what} in the file; dropped.")
        if 2 * self.n_bare > self.n_molecules:
            said.append(
                f"{self.n_bare:,} molecules have no hydrogens, though their bonds imply some: "
                "--hydrogens add puts them there, --hydrogens remove says that this is meant."
            )
        return " ".join(said) or None
