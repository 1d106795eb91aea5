"""Freezes what a rearrangement of the house must not move: `python tests/goldens/frozen.py PART`.

The parts are `signatures` (every public name with how it is called) and `numbers` (the start of
every reference on noise that is exact in binary, and ten seeded runs). Artefacts, which are written
once and then only read, are made by `artefacts.py`.
"""

import inspect
import json
import sys
from importlib import import_module
from pathlib import Path

import diffusers
import torch

from gaga_adapter import GAGAScheduler, GAGAStats, MoleculePipeline
from gaga_adapter.hashing import stream
from gaga_adapter.subspace import mask_from_sizes, project

FOLDER = Path(__file__).parent
#: Packages whose `__all__` is what users import from.
PUBLIC = (
    "gaga_adapter",
    "gaga_adapter.criteria",
    "gaga_adapter.integrations",
    "gaga_adapter.molecules.formats",
    "gaga_adapter.moments",
    "gaga_adapter.reference",
    "gaga_adapter.scheduler",
    "gaga_adapter.testing",
    "gaga_adapter.training",
)
DENSE_KINDS = ("channel", "element", "low_rank", "full")
MOLECULE_KINDS = ("unit", "paper", "channel", "size", "shape")
SHAPE = (2, 3, 3)
SIZES = torch.tensor([4, 8, 2, 4])
#: A run of each: the scheduler, what it is made with, and the number of steps.
RUNS = {
    "DDPMScheduler": ({}, 20),
    "DDIMScheduler": ({}, 20),
    "DPMSolverMultistepScheduler": ({"use_karras_sigmas": True}, 10),
    "UniPCMultistepScheduler": ({"prediction_type": "v_prediction"}, 10),
    "EulerDiscreteScheduler": ({}, 10),
    "HeunDiscreteScheduler": ({}, 10),
    "PNDMScheduler": ({"skip_prk_steps": True}, 10),
    "EDMDPMSolverMultistepScheduler": ({}, 10),
    "FlowMatchEulerDiscreteScheduler": ({"shift": 3.0}, 10),
}


# -- signatures ------------------------------------------------------------------------------------


def _members(owner):
    """Public methods and properties that a class of this package adds to its bases."""
    for name in sorted(vars(owner)):
        if not name.startswith("_"):
            yield name, inspect.getattr_static(owner, name)


def _signature_lines(title, value):
    if isinstance(value, property):
        yield f"{title}: property"
    elif isinstance(value, classmethod | staticmethod):
        yield f"{title}{inspect.signature(value.__func__)}"
    elif inspect.isclass(value):
        try:
            yield f"{title}{inspect.signature(value)}"
        except (TypeError, ValueError):
            yield title
        for name, member in _members(value):
            yield from _signature_lines(f"{title}.{name}", member)
    elif inspect.isfunction(value):
        yield f"{title}{inspect.signature(value)}"


def signatures():
    """Every public name with its signature, one a line."""
    lines = []
    for package in PUBLIC:
        module = import_module(package)
        for name in sorted(module.__all__):
            lines += _signature_lines(f"{package}.{name}", getattr(module, name))
    # where Python 3.13 defines the class
    return "\n".join(lines).replace("pathlib._local.Path", "pathlib.Path") + "\n"


# -- numbers ---------------------------------------------------------------------------------------


def dyadic(shape, seed):
    """Numbers of a uniform law in [-2, 2) that are multiples of 1/64: exact in every arithmetic."""
    count = torch.Size(shape).numel()
    bits = stream(seed, count) >> 56  # -128 ... 127
    return (bits.to(torch.float64) / 64).reshape(*shape)


def load(name):
    """One of the frozen artefacts."""
    return GAGAStats.from_pretrained(FOLDER / "artefacts" / name)


def starts():
    """Start of every reference at a = 0.8, b = 0.6, on noise that is exact in binary."""
    for kind in DENSE_KINDS:
        reference = load(f"dense_{kind}").reference(kind).at(0.8, 0.6)
        yield f"dense/{kind}", reference.transport(dyadic((2, *SHAPE), seed=3))
    stats, mask = load("molecules"), mask_from_sizes(SIZES)
    noise = project(dyadic((*mask.shape, 5), seed=3), mask)
    for kind in MOLECULE_KINDS:
        yield f"molecules/{kind}", stats.reference(kind).at(0.8, 0.6).transport(noise, mask)
    exact = load("molecules_tensors").reference("shape").at(0.8, 0.6)
    yield "molecules/shape_tensors", exact.transport(noise, mask)


def network(seen, timestep):
    """Smooth, different at every timestep, and bounded: a stand-in for any network."""
    return torch.tanh(0.7 * seen + 0.1 * torch.sin(torch.as_tensor(timestep).double()))


def dense_run(name):
    """One wrapped run on the channel statistics."""
    options, n_steps = RUNS[name]
    base = getattr(diffusers, name)(**options)
    scheduler = GAGAScheduler.from_pretrained(base, stats=load("dense_channel"), handover="init")
    generator = torch.Generator().manual_seed(0)
    scheduler.set_timesteps(n_steps)
    sample = torch.randn(2, *SHAPE, generator=generator) * scheduler.init_noise_sigma
    extra = {"generator": generator} if name == "DDPMScheduler" else {}
    for timestep in scheduler.timesteps:
        seen = sample
        if hasattr(scheduler, "scale_model_input"):
            seen = scheduler.scale_model_input(sample, timestep)
        output = network(seen, timestep).to(seen)
        sample = scheduler.step(output, timestep, sample, **extra).prev_sample
    return sample


def molecule_run():
    """Four small molecules of the embedded model, from the `size` reference."""
    pipe = MoleculePipeline.load()
    base = diffusers.DDIMScheduler.from_config(pipe.scheduler.config)
    pipe.scheduler = GAGAScheduler.from_pretrained(base, stats="qm9", reference="size")
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    made = pipe(
        n_atoms=[5, 9, 9, 3], num_inference_steps=10, generator=generator, output_type="tensor"
    )
    return made.molecules


def runs():
    """Ten seeded runs."""
    for name in RUNS:
        yield name, dense_run(name)
    yield "MoleculePipeline", molecule_run()


def numbers():
    """All that `numbers.json` holds."""
    named = {"starts": dict(starts()), "runs": dict(runs())}
    return {
        group: {
            name: {
                "shape": list(value.shape),
                "values": [float(f"{v:.13g}") for v in value.flatten().tolist()],
            }
            for name, value in members.items()
        }
        for group, members in named.items()
    }


if __name__ == "__main__":
    parts = set(sys.argv[1:])
    if not parts or parts - {"signatures", "numbers"}:
        raise SystemExit(__doc__)
    if "signatures" in parts:
        (FOLDER / "signatures.txt").write_text(signatures(), encoding="utf-8")
    if "numbers" in parts:
        text = json.dumps(numbers(), separators=(",", ":"))
        (FOLDER / "numbers.json").write_text(text + "\n", encoding="utf-8")
    print(f"wrote {', '.join(sorted(parts))} to {FOLDER}")
