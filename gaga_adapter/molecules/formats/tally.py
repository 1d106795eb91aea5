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
        n_ions: molecules given whose source states a net charge, which is dropped.
        n_periodic: molecules given whose source states a cell, which is dropped.
        examples: the first that were left out, and why.
    """

    n_molecules: int = 0
    n_malformed: int = 0
    n_not_embedded: int = 0
    n_ions: int = 0
    n_periodic: int = 0
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
        dropped = {"a net charge": self.n_ions, "a periodic cell": self.n_periodic}
        for what, count in dropped.items():
            if count:
                said.append(f"{count:,} molecules have {what} in the file, which is not used.")
        return " ".join(said) or None
