"""The fence of a rearrangement: what users call, and what came out of it.

What they saved is in `test_old_artefacts.py`.
"""

import json

import pytest
import torch
from goldens import frozen

MAKE = "If this is meant, run `python tests/goldens/frozen.py signatures` (or numbers) and say why."
NUMBERS = json.loads((frozen.FOLDER / "numbers.json").read_text(encoding="utf-8"))

pytestmark = [
    pytest.mark.filterwarnings("ignore:the grid of .* begins at timestep"),
    pytest.mark.filterwarnings("ignore:.* steps are left from t"),
    pytest.mark.filterwarnings("ignore:t. was chosen for the 'shape' reference"),
]


def close(name, group, value, tolerance):
    """As stored, to `tolerance` of the largest number: kernels of other CPUs round differently."""
    golden = NUMBERS[group][name]
    expected = torch.tensor(golden["values"], dtype=torch.float64).reshape(golden["shape"])
    largest = float(expected.abs().max())
    torch.testing.assert_close(
        value.double(), expected, rtol=0, atol=tolerance * largest, msg=lambda m: f"{m}\n{MAKE}"
    )


def test_public_signatures():
    golden = (frozen.FOLDER / "signatures.txt").read_text(encoding="utf-8")
    assert frozen.signatures().splitlines() == golden.splitlines(), MAKE


@pytest.mark.parametrize("name", NUMBERS["starts"])
def test_the_start_of_every_reference(name):
    """In float64: 1e-9 is far above its rounding, and far below any other start."""
    close(name, "starts", dict(frozen.starts())[name], 1e-9)


@pytest.mark.parametrize("name", frozen.RUNS)
def test_a_seeded_run(name):
    """In float32 over at most 20 steps, each of which rounds to 1e-7."""
    close(name, "runs", frozen.dense_run(name), 2e-4)


def test_seeded_molecules():
    """In float32 through a network; the reference `size` hashes no bits of the noise."""
    close("MoleculePipeline", "runs", frozen.molecule_run(), 5e-3)
