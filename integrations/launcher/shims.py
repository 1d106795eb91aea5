"""Repairs for what the scripts of EDM, GeoLDM and their forks do not find, and for unsafe files.

The first two are of 2022 and 2023. Since then numpy has dropped `np.int` and refuses to split a
ragged list, and matplotlib has dropped `Axes3D.w_xaxis`; many scripts import three packages that
they never use. Checkpoints are pickles, which can run anything when they are read.

Each shim is a small object with a name and a reason. It is in place while a script runs, reports
itself when the script first needs it, and leaves nothing behind.
"""

from __future__ import annotations

import argparse
import functools
import inspect
import itertools
import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gaga_adapter.errors import UnsupportedModelError

from .hooks import after_import, replace_attribute, stand_in
from .pickles import after_load, load_plain

Report = Callable[[], None]  # a shim calls it when the shim is needed
Repair = Callable[[Report], AbstractContextManager[None]]  # in place for a `with` block


@dataclass(frozen=True)
class Shim:
    """One repair."""

    name: str
    why: str  # what is wrong, and what is done instead
    in_place: Repair


@contextmanager
def apply_shims(shims: Sequence[Shim], say: Callable[[str], None]) -> Iterator[None]:
    """Put shims in place; each says once, in one line, that it is needed."""
    names: set[str] = set()

    def report(shim: Shim) -> None:
        if shim.name not in names:
            names.add(shim.name)
            say(f"{shim.name}: {shim.why}")

    with ExitStack() as stack:
        for shim in shims:
            stack.enter_context(shim.in_place(functools.partial(report, shim)))
        yield


# -- packages that are not installed ---------------------------------------------------------------


def _package(name: str, instead: str, **contents: object) -> Shim:
    def fill(report: Report) -> dict[str, Any]:
        report()
        return contents

    why = f"not installed; {instead}"
    return Shim(name, why, lambda report: stand_in(name, functools.partial(fill, report)))


def _unused(package: str, *inner: str, why: str) -> Shim:
    """A package with inner modules that a fork imports for models of other kinds."""

    def anything(name: str) -> type[Any]:
        if name.startswith("__"):
            raise AttributeError(name)

        def refuse(self: object, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
            raise UnsupportedModelError(f"{package} is not installed, and this needs its {name}.")

        return type(name, (), {"__init__": refuse})

    @contextmanager
    def in_place(report: Report) -> Iterator[None]:
        def fill() -> dict[str, Any]:
            report()
            return {"__getattr__": anything}

        with ExitStack() as stack:
            for name in (package, *(f"{package}.{module}" for module in inner)):
                stack.enter_context(stand_in(name, fill))
            yield

    return Shim(package, f"not installed; {why}", in_place)


def _ignore(*args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - anything
    """Do nothing."""


def _create_folders(args: Any) -> None:  # noqa: ANN401 - a namespace
    Path("outputs", args.exp_name).mkdir(parents=True, exist_ok=True)


def _read_picture(path: str) -> NDArray[np.uint8]:
    from PIL import Image

    with Image.open(path) as picture:
        return np.asarray(picture)


def _save_picture(path: str, pixels: NDArray[np.uint8]) -> None:
    from PIL import Image

    Image.fromarray(pixels).save(path)


def _save_film(path: str, frames: Sequence[NDArray[np.uint8]], subrectangles: bool) -> None:
    """A GIF of pictures whose sizes may differ by a few pixels."""
    from PIL import Image

    pictures = [Image.fromarray(frame).convert("RGB") for frame in frames]
    size = (max(p.width for p in pictures), max(p.height for p in pictures))
    film = [Image.new("RGB", size) for _ in pictures]
    for sheet, picture in zip(film, pictures, strict=True):
        sheet.paste(picture)
    film[0].save(path, save_all=True, append_images=film[1:], duration=100, loop=0)


# -- names that libraries have dropped -------------------------------------------------------------


def _inside(
    change: Callable[[ModuleType, Report], AbstractContextManager[None]], *modules: str
) -> Repair:
    """The change of modules, once they are imported."""
    return lambda report: after_import(modules, lambda module: change(module, report))


def _w_xaxis(module: ModuleType, report: Report) -> AbstractContextManager[None]:
    def w_xaxis(self: Any) -> Any:  # noqa: ANN401 - matplotlib's
        report()
        return self.xaxis

    if hasattr(module.Axes3D, "w_xaxis"):
        return nullcontext()
    return replace_attribute(module.Axes3D, "w_xaxis", property(w_xaxis))


class _Numpy:
    """numpy with a few more names, each of which is reported when it is taken."""

    def __init__(self, more: dict[str, Any], report: Report) -> None:
        self._more, self._report = more, report

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - any of numpy's
        if name in self._more:
            self._report()
            return self._more[name]
        return getattr(np, name)


def _old_types(module: ModuleType, report: Report) -> AbstractContextManager[None]:
    old = {kind.__name__: kind for kind in (int, bool) if kind.__name__ not in vars(np)}
    return replace_attribute(module, "np", _Numpy(old, report))


def _ragged_split(module: ModuleType, report: Report) -> AbstractContextManager[None]:
    def split(array: Any, ends: Sequence[int]) -> Any:  # noqa: ANN401 - as numpy's
        if not isinstance(array, list):
            return np.split(array, ends)
        report()
        limits = [0, *ends, len(array)]
        return [array[start:end] for start, end in itertools.pairwise(limits)]

    return replace_attribute(module, "np", _Numpy({"split": split}, lambda: None))


# -- faults of the paper's scripts -----------------------------------------------------------------


class _Ignored:
    """A default of an attribute that instances may have, and that nothing depends on."""

    def __init__(self, report: Report) -> None:
        self._report = report

    def __get__(self, instance: object, owner: type[Any]) -> str:
        self._report()
        return "DDPM"


def _sampling_name(report: Report) -> AbstractContextManager[None]:
    return replace_attribute(argparse.Namespace, "sampling_name", _Ignored(report))


def _sampling_name_of_shortcuts(module: ModuleType, report: Report) -> AbstractContextManager[None]:
    sample = getattr(module, "shortcut_sample", None)
    if sample is None or "sampling_name" in inspect.signature(sample).parameters:
        return nullcontext()

    @functools.wraps(sample)
    def shortcut_sample(*args: Any, sampling_name: str = "", **kwargs: Any) -> Any:  # noqa: ANN401
        if sampling_name:
            report()
        return sample(*args, **kwargs)

    return replace_attribute(module, "shortcut_sample", shortcut_sample)


# -- files that could run code ---------------------------------------------------------------------


def _plain_pickles(report: Report) -> AbstractContextManager[None]:
    @functools.wraps(load_plain)
    def load(*args: Any, **options: Any) -> Any:  # noqa: ANN401 - those of load
        report()
        return load_plain(*args, **options)

    return replace_attribute(pickle, "load", load)


def _cpu_without_cuda(report: Report) -> AbstractContextManager[None]:
    def correct(file: object, value: Any) -> None:  # noqa: ANN401 - whatever the file holds
        if getattr(value, "cuda", False) is True and not torch.cuda.is_available():
            value.cuda = False
            report()

    return after_load(correct)


@contextmanager
def _weights_only(report: Report) -> Iterator[None]:
    """Torch's own switch: it rules over what a call asks for, here and in child processes."""
    on, off = "TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
    before = {name: os.environ.pop(name) for name in (on, off) if name in os.environ}
    os.environ[on] = "1"
    report()
    try:
        yield
    finally:
        del os.environ[on]
        os.environ.update(before)


def _flow_for_resume(report: Report) -> AbstractContextManager[None]:
    inner = torch.load

    @functools.wraps(inner)
    def load(file: Any, *args: Any, **options: Any) -> Any:  # noqa: ANN401 - torch's own
        path = Path(file) if isinstance(file, str | os.PathLike) else Path()
        if path.name == "flow.npy" and not path.exists():
            report()
            file = path.with_name("generative_model.npy")
        return inner(file, *args, **options)

    return replace_attribute(torch, "load", load)


# -- the list --------------------------------------------------------------------------------------

#: In the order in which they are put in place.
SHIMS = (
    _package(
        "wandb",
        "nothing is logged to it",
        **dict.fromkeys(("Settings", "init", "save", "log", "Image", "Video"), _ignore),
    ),
    _package(
        "imageio",
        "Pillow reads and writes the pictures",
        imread=_read_picture,
        imsave=_save_picture,
        mimsave=_save_film,
    ),
    _package("IPython", "nothing of it is used", embed=_ignore),
    _package("msgpack", "only building GEOM from its source needs it"),
    _unused("torch_scatter", why="only UniGEM's pre-training and its other networks use it"),
    _unused("torch_cluster", why="only UniGEM's other networks use it"),
    _unused("torch_sparse", why="only UniGEM's other networks use it"),
    _unused("torch_geometric", "nn", "nn.inits", why="only UniGEM's other networks use it"),
    _unused(
        "timm", "models", "models.vision_transformer", why="only SymDiff's transformers use it"
    ),
    _package(
        "utils",
        "EDPO left this file of EDM out; folders are made as it did",
        create_folders=_create_folders,
    ),
    Shim(
        "sampling_name",
        "GAGA_test.py reads an option that is not there; nothing depends on it",
        _sampling_name,
    ),
    Shim(
        "shortcut_sample",
        "it takes no sampling_name, which the scripts of the paper pass; nothing depends on it",
        _inside(_sampling_name_of_shortcuts, "qm9.sampling"),
    ),
    Shim(
        "Axes3D.w_xaxis",
        "matplotlib calls it xaxis now",
        _inside(_w_xaxis, "mpl_toolkits.mplot3d.axes3d"),
    ),
    Shim(
        "np.int and np.bool",
        "dropped by numpy; they are Python's int and bool",
        _inside(_old_types, "qm9.data.prepare.qm9", "qm9.data.prepare.md17"),
    ),
    Shim(
        "np.split",
        "numpy no longer splits a list of molecules of different sizes; it is sliced",
        _inside(_ragged_split, "build_geom_dataset"),
    ),
    Shim("pickle.load", "reads plain values and argparse.Namespace, no code", _plain_pickles),
    Shim(
        "args.cuda",
        "the checkpoint was trained with CUDA, which is not here; it is read for the CPU",
        _cpu_without_cuda,
    ),
    Shim("torch.load", "reads weights, no code", _weights_only),
    Shim(
        "flow.npy",
        "--resume asks for it and nothing writes it; generative_model.npy is read",
        _flow_for_resume,
    ),
)
