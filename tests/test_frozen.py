"""The fence of a rearrangement: what users call, what they saved, and what came out of it."""

import json

import pytest
import torch
from goldens import frozen
from safetensors.torch import load_file

from gaga_adapter import GAGAStats

MAKE = "If this is meant, run `python tests/goldens/frozen.py signatures` (or numbers) and say why."
NUMBERS = json.loads((frozen.FOLDER / "numbers.json").read_text(encoding="utf-8"))
ARTEFACTS = sorted(folder.name for folder in (frozen.FOLDER / "artefacts").iterdir())

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


#: Version 0.1 could stream sums for cumulants of order 3 and 4. Nothing reads them any more: they
#: are dropped on loading, so what is left has another digest. The tensor that shrinks, by artefact.
HIGHER_SUMS = {"dense_order_4": ("sums", 2), "molecules_order_4": ("atoms", 0)}


@pytest.mark.parametrize("name", ARTEFACTS)
def test_an_old_artefact_loads_and_keeps_its_tensors(name, tmp_path):
    old = json.loads(
        (frozen.FOLDER / "artefacts" / name / "gaga_config.json").read_text(encoding="utf-8")
    )
    stats = frozen.load(name)
    if name in HIGHER_SUMS:
        tensors = load_file(frozen.FOLDER / "artefacts" / name / "gaga_stats.safetensors")
        shrunk, length = HIGHER_SUMS[name]
        state = stats.moments.state_dict()
        tensors[shrunk] = tensors[shrunk][:length].reshape(state[shrunk].shape)
        assert tensors.keys() == state.keys()
        assert all(torch.equal(tensors[key], tensor) for key, tensor in state.items())
    else:
        assert stats.to_dict()["digest"] == old["digest"]
    assert stats.log_snr_star == old["log_snr_star"]
    stats.save_pretrained(tmp_path)
    again = GAGAStats.from_pretrained(tmp_path)
    assert again.to_dict() == stats.to_dict()


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
