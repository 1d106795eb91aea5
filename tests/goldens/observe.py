"""What an artefact gives: numbers and texts that a version of this package reads in it.

`then.json` beside each artefact in `artefacts/` is what the version that wrote it observed. This
file runs with all of these versions, so it calls only what every one of them has.

Noise and data are exact in binary, so that every machine hashes and rounds the same ones.
"""

from __future__ import annotations

import inspect
import json
import random
import warnings
from pathlib import Path

import torch

FOLDER = Path(__file__).parent / "artefacts"
THEN = "then.json"
#: Levels (a, b) of the starts.
LEVELS = {"noisy": (0.6, 0.8), "clean": (0.96, 0.28)}
PATHS = ("edm/polynomial_2", "edm/cosine", "ddpm/linear", "ddpm/cosine")
SIZES = (4, 3)  # of the molecules that start: a usual size, and one that borrows of others
SHAPE = (2, 3, 3)
DENSE = ("element", "low_rank", "full")
MOLECULES = ("size", "shape", "mixed", "mixed_order", "mixed_size")
PARTS = ("first", "second", "displacement")  # of complexes, a folder each


# -- exact numbers ---------------------------------------------------------------------------------


def dyadic(shape, seed):
    """Multiples of 1/64 in [-2, 2), float64, the same on every machine."""
    bits = random.Random(seed)
    count = torch.Size(shape).numel()
    values = [(bits.getrandbits(8) - 128) / 64 for _ in range(count)]
    return torch.tensor(values, dtype=torch.float64).reshape(*shape)


def noise_of(sizes, n_positions, n_features, seed):
    """Noise (B, N, C) and mask (B, N) of molecules whose positions add up to exactly zero."""
    mask = torch.arange(max(sizes)) < torch.tensor(sizes)[:, None]
    noise = dyadic((*mask.shape, n_positions + n_features), seed) * mask[..., None]
    for row, size in enumerate(sizes):
        noise[row, size - 1, :n_positions] -= noise[row, :, :n_positions].sum(0)
    return noise, mask


def to_json(value):
    """A text, or a tensor to 12 digits."""
    if isinstance(value, str):
        return value
    return {"shape": list(value.shape), "values": [float(f"{v:.12g}") for v in value.flatten()]}


def from_json(value):
    """The inverse of `to_json`."""
    if isinstance(value, str):
        return value
    return torch.tensor(value["values"], dtype=torch.float64).reshape(value["shape"])


def is_same(key, value, expected):
    """Whether a value is as stored, to a tolerance relative to its largest number.

    Numbers in float64 are stored with 12 digits, and other orders of sums cost closed forms a few
    of them: 6e-10 is the most between the versions here. Runs take a few steps in float32.
    """
    if isinstance(expected, str) or isinstance(value, str):
        return value == expected
    largest = float(expected.abs().max()) if expected.numel() else 0.0
    tolerance = (2e-4 if key == "run" else 1e-8) * largest + 1e-12
    return value.shape == expected.shape and bool(((value - expected).abs() <= tolerance).all())


# -- what is observed ------------------------------------------------------------------------------


def load(folder):
    """What is saved in a folder, as an object with `save_pretrained`."""
    folder = Path(folder)
    names = {file.name for file in folder.iterdir()}
    return next(read for marker, (read, _) in _KINDS.items() if marker in names)(folder)


def observe(folder):
    """Numbers and texts that are compared, by name."""
    folder = Path(folder)
    names = {file.name for file in folder.iterdir()}
    read, values = next(kind for marker, kind in _KINDS.items() if marker in names)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {
            name: value if isinstance(value, str) else torch.as_tensor(value, dtype=torch.float64)
            for name, value in values(read(folder))
        }


def _tried(function, *args):
    """What a function returns, or `None` where it refuses the statistics."""
    from gaga_adapter.errors import GAGAError

    try:
        return function(*args)
    except GAGAError:
        return None


def _read_stats(folder):
    from gaga_adapter import GAGAStats

    return GAGAStats.from_pretrained(folder)


def _of_stats(stats):
    from diffusers import DDPMScheduler, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler

    from gaga_adapter import named_path

    yield "digest", stats.to_dict()["digest"]
    yield "log_snr_star", stats.log_snr_star
    discrete = stats.to_dict()["moments"]["moments"] == "mixed"
    for name in ("flow/linear",) if discrete else (*PATHS, "flow/linear", "karras/edm"):
        yield f"t*/{name}", stats.t_star(named_path(name))
    for base in (DDPMScheduler, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler):
        scheduler = base(beta_schedule="scaled_linear") if "Flow" not in base.__name__ else base()
        try:
            yield f"t*/{base.__name__}", stats.t_star(scheduler)
        except ModuleNotFoundError:  # the first versions know paths alone
            break
    for size in getattr(stats.selection, "by_size", None) or {}:
        yield f"t*/size {size}", stats.at_size(size).log_snr_star
    for n_items, pair in (getattr(stats.selection, "by_items", None) or {}).items():
        yield f"selection/{n_items} items", pair
    for name, star in (getattr(stats.selection, "others", None) or {}).items():
        yield f"selection/{name}", star
    if getattr(stats.selection, "interval", None) is not None:
        yield "selection/interval", stats.selection.interval
    plain = () if getattr(stats, "refinement", None) is None else ("plain",)
    for kind in ("auto", *plain, "unit", "paper", "channel", *DENSE, *MOLECULES):
        reference = _tried(stats.reference, kind)
        if reference is not None:
            yield from _of_reference(kind, reference, stats.layout)
    for levels in getattr(stats, "levels", ()):
        yield f"levels/{levels.n_calls} calls", levels.log_snrs
        yield f"levels/{levels.n_calls} renoised", levels.n_renoised
        if hasattr(levels, "std_error"):
            yield f"levels/{levels.n_calls} distance", (levels.distance, levels.std_error)
        yield f"levels/{levels.n_calls} of", f"{levels.model.name} {levels.method}"


def _of_reference(kind, reference, layout, levels=LEVELS):
    """Starts from exact noise, and their log-density, of each molecule or event."""
    if hasattr(layout, "shape"):
        batches = [("event", dyadic((1, *layout.shape), seed=3), ())]
    else:
        n_positions = getattr(layout, "n_positions", 3)
        batches = []
        for size in SIZES:
            noise, mask = noise_of([size], n_positions, layout.n_channels - n_positions, seed=3)
            if kind.startswith("mixed") or reference.kind.startswith("mixed"):
                types = torch.nn.functional.one_hot((noise[..., 3] > 0).long(), 2)
                noise = torch.cat([noise[..., :3], types.double()], -1)
            batches.append((f"{size} atoms", noise, (mask,)))
    for level, (a, b) in levels.items():
        at_level = reference.at(a, b)
        for what, noise, mask in batches:
            x = _tried(at_level.transport, noise, *mask)
            if x is None:
                continue
            if level == "clean" and kind != "auto":
                continue
            yield f"start/{kind}/{level}/{what}", x[0]
            log_prob = _tried(at_level.log_prob, x, *mask)
            if log_prob is not None:
                yield f"log_prob/{kind}/{level}/{what}", log_prob[0]


def _read_states(folder):
    from gaga_adapter import FittedStates

    return FittedStates.from_pretrained(folder)


def _of_states(states):
    yield "digest", states.to_dict()["digest"]
    yield "level_star", states.level_star
    yield "levels", states.levels
    for one in states.measured:
        yield f"nats/{one.level:g}", (one.value, one.std_error, one.auc, one.n_held_out)
        reference = states.reference_at(one.level)
        noise, mask = noise_of([4], 3, 2, seed=3)
        given = (dyadic((1, *SHAPE), seed=3),)
        x = reference.transport(*(given if hasattr(states.layout, "shape") else (noise, mask)))
        yield f"start/{reference.kind}/measured/{one.level:g}", x[0]


def _read_joint(folder):
    from gaga_adapter.integrations.flat.joint import JointStats

    return JointStats.from_pretrained(folder)


def _of_joint(stats):
    yield "log_snr_star", stats.log_snr_star
    for name, part in zip(PARTS, stats.parts, strict=True):
        yield f"digest of {name}", part.to_dict()["digest"]
    # The two molecules, and the vector between them as a molecule of two atoms.
    x, mask = noise_of([4, 2, 2], 3, 2, seed=3)
    x[1, :, 4:], x[2, :, 3:] = 0, 0  # they have fewer features
    for kind in ("auto", "size", "channel"):
        at_level = stats.reference(kind).at(0.6, 0.8)
        start = at_level.transport(x, mask)
        yield f"start/{kind}", start
        yield f"log_prob/{kind}", at_level.log_prob(start, mask)


def network(seen, timestep):
    """Smooth, different at every timestep, and bounded: a stand-in for any network."""
    return torch.tanh(0.7 * seen + 0.1 * torch.sin(torch.as_tensor(timestep).double()))


def _read_scheduler(folder):
    from gaga_adapter import GAGAScheduler

    return GAGAScheduler.from_pretrained(str(folder))


def _of_scheduler(scheduler):
    from gaga_adapter.scheduler import HandoverError

    yield "class", type(scheduler).__name__
    yield "log_snr_star", scheduler.log_snr_star
    yield "digest", scheduler.stats.to_dict()["digest"]
    scheduler.set_timesteps(6)
    yield "timesteps", scheduler.timesteps
    try:
        yield "run", _run(scheduler)
    except HandoverError:
        yield "run", "a network is to be attached first"


def _run(scheduler):
    """What a loop over the grid makes of exact noise, (C, H, W)."""
    generator = torch.Generator().manual_seed(0)
    sample = dyadic((1, *SHAPE), seed=4).float() * scheduler.init_noise_sigma
    takes = "generator" in inspect.signature(scheduler.step).parameters
    for timestep in scheduler.timesteps:
        output = network(scheduler.scale_model_input(sample, timestep), timestep).to(sample)
        extra = {"generator": generator} if takes else {}
        sample = scheduler.step(output, timestep, sample, **extra).prev_sample
    return sample[0]


def _read_pipeline(folder):
    from diffusers import DDPMPipeline

    from gaga_adapter import MoleculePipeline

    about = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    if about["_class_name"] == "DDPMPipeline":
        pipe = DDPMPipeline.from_pretrained(folder, low_cpu_mem_usage=False)
    else:
        pipe = MoleculePipeline.load(str(folder))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _of_pipeline(pipe):
    yield "class", type(pipe.scheduler).__name__
    yield "log_snr_star", pipe.scheduler.log_snr_star
    trained = _trained(pipe.unet if hasattr(pipe, "unet") else pipe.denoiser)
    yield "trained", "whole path" if trained is None else trained
    options = {"num_inference_steps": 5, "generator": torch.Generator().manual_seed(0)}
    if hasattr(pipe, "unet"):
        yield "run", torch.as_tensor(pipe(output_type="np", **options).images)
    else:
        sizes = torch.tensor([4, 3])
        yield "run", pipe(n_atoms=sizes, output_type="tensor", **options).molecules


def _trained(model):
    """Log-SNR that a network was trained to, under either name of the room."""
    try:
        from gaga_adapter.trained import trained_log_snr
    except ModuleNotFoundError:
        from gaga_adapter.training import trained_log_snr
    return trained_log_snr(model)


class Weights:
    """A small network whose state dict says how far it was trained, saved as everybody does."""

    def __init__(self):
        torch.manual_seed(0)
        self.model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Tanh())

    def save_pretrained(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(self.model.state_dict(), folder / "weights.pt")


def _read_weights(folder):
    weights = Weights()
    weights.model.load_state_dict(torch.load(folder / "weights.pt", weights_only=True))
    weights.folder = folder
    return weights


def _of_weights(weights):
    yield "trained/file", _trained(torch.load(weights.folder / "weights.pt", weights_only=True))
    trained = _trained(weights.model)
    yield "trained/loaded", "whole path" if trained is None else trained
    metadata = dict(weights.model.state_dict()._metadata[""])
    metadata.pop("version", None)
    yield "metadata", json.dumps(metadata, sort_keys=True)


#: By a file that tells: how it is read, and what is observed.
_KINDS = {
    "model_index.json": (_read_pipeline, _of_pipeline),
    "weights.pt": (_read_weights, _of_weights),
    "scheduler_config.json": (_read_scheduler, _of_scheduler),
    "gaga_config.json": (_read_stats, _of_stats),
    "gaga_states.json": (_read_states, _of_states),
    PARTS[-1]: (_read_joint, _of_joint),
}
