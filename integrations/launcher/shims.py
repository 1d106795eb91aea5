"""What the scripts of EDM and GeoLDM no longer find, and how their files are read safely.

The two codebases are of 2022 and 2023. Since then numpy has dropped `np.int` and refuses to split a
ragged list, and matplotlib has dropped `Axes3D.w_xaxis`; three packages are imported that many
scripts never use. Checkpoints are pickles, which can run anything when they are read.

Each shim is a small object with a name and a reason. It is in place while a script runs, reports
itself when the script first needs it, and leaves nothing behind.
"""

from __future__ import annotations

import functools
import itertools
import os
import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray

from .hooks import after_import, replaced, stand_in
from .pickles import load_plain

#: Called by a shim when it is needed.
Report = Callable[[], None]


@dataclass(frozen=True)
class Shim:
    """One repair.

    Attributes:
        name: what is repaired.
        why: what is wrong with it, and what is done instead.
        in_place: the repair, as a `with` block; it calls its argument when it is needed.
    """

    name: str
    why: str
    in_place: Callable[[Report], AbstractContextManager[None]]


@contextmanager
def shimmed(shims: Sequence[Shim], say: Callable[[str], None]) -> Iterator[None]:
    """Shims in place; each says once, in one line, that it is needed."""
    said: set[str] = set()

    def report(shim: Shim) -> None:
        if shim.name not in said:
            said.add(shim.name)
            say(f"{shim.name}: {shim.why}")

    with ExitStack() as stack:
        for shim in shims:
            stack.enter_context(shim.in_place(functools.partial(report, shim)))
        yield


# -- packages that are not installed ---------------------------------------------------------------


def _wandb(used: Report) -> AbstractContextManager[None]:
    def ignored(*args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - anything
        """Do nothing."""

    def contents() -> dict[str, Any]:
        used()
        return dict.fromkeys(("Settings", "init", "save", "log", "Image", "Video"), ignored)

    return stand_in("wandb", contents)


def _imageio(used: Report) -> AbstractContextManager[None]:
    def contents() -> dict[str, Any]:
        used()
        return {"imread": _read_picture, "imsave": _save_picture, "mimsave": _save_film}

    return stand_in("imageio", contents)


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


def _msgpack(used: Report) -> AbstractContextManager[None]:
    def contents() -> dict[str, Any]:
        used()
        return {}

    return stand_in("msgpack", contents)


# -- names that libraries have dropped -------------------------------------------------------------


@contextmanager
def _w_xaxis(module: ModuleType, used: Report) -> Iterator[None]:
    axes: Any = module.Axes3D
    if hasattr(axes, "w_xaxis"):
        yield
        return

    def w_xaxis(self: Any) -> Any:  # noqa: ANN401 - matplotlib's
        used()
        return self.xaxis

    with replaced(axes, "w_xaxis", property(w_xaxis)):
        yield


class _Numpy:
    """numpy with a few more names, each of which is reported when it is taken."""

    def __init__(self, more: dict[str, Any], used: Report) -> None:
        self._more, self._used = more, used

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - any of numpy's
        if name in self._more:
            self._used()
            return self._more[name]
        return getattr(np, name)


def _old_types(module: ModuleType, used: Report) -> AbstractContextManager[None]:
    dropped = {kind.__name__: kind for kind in (int, bool) if kind.__name__ not in vars(np)}
    return replaced(module, "np", _Numpy(dropped, used))


def _ragged_split(module: ModuleType, used: Report) -> AbstractContextManager[None]:
    def split(array: Any, ends: Sequence[int]) -> Any:  # noqa: ANN401 - as numpy's
        if not isinstance(array, list):
            return np.split(array, ends)
        used()
        limits = [0, *ends, len(array)]
        return [array[start:end] for start, end in itertools.pairwise(limits)]

    return replaced(module, "np", _Numpy({"split": split}, lambda: None))


# -- files that could run code ---------------------------------------------------------------------


def _plain_pickles(used: Report) -> AbstractContextManager[None]:
    def load(
        file: IO[bytes],
        *,
        fix_imports: bool = True,
        encoding: str = "ASCII",
        errors: str = "strict",
        buffers: Iterable[Any] | None = None,
    ) -> Any:  # noqa: ANN401 - whatever the file holds
        used()
        return load_plain(
            file, fix_imports=fix_imports, encoding=encoding, errors=errors, buffers=buffers
        )

    return replaced(pickle, "load", load)


def _cpu_without_cuda(used: Report) -> AbstractContextManager[None]:
    load = pickle.load

    @functools.wraps(load)
    def load_for_this_machine(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - those of load
        found = load(*args, **kwargs)
        if getattr(found, "cuda", False) is True and not torch.cuda.is_available():
            found.cuda = False
            used()
        return found

    return replaced(pickle, "load", load_for_this_machine)


@contextmanager
def _weights_only(used: Report) -> Iterator[None]:
    """Torch's own switch: it rules over what a call asks for, here and in child processes."""
    on, off = "TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
    before = {name: os.environ.pop(name) for name in (on, off) if name in os.environ}
    os.environ[on] = "1"
    used()
    try:
        yield
    finally:
        del os.environ[on]
        os.environ.update(before)


# -- the list --------------------------------------------------------------------------------------

#: In the order in which they are put in place.
SHIMS = (
    Shim("wandb", "not installed; nothing is logged to it", _wandb),
    Shim("imageio", "not installed; Pillow reads and writes the pictures", _imageio),
    Shim("msgpack", "not installed; only building GEOM from its source needs it", _msgpack),
    Shim(
        "Axes3D.w_xaxis",
        "matplotlib calls it xaxis now",
        lambda used: after_import(
            ("mpl_toolkits.mplot3d.axes3d",), lambda module: _w_xaxis(module, used)
        ),
    ),
    Shim(
        "np.int and np.bool",
        "dropped by numpy; they are Python's int and bool",
        lambda used: after_import(
            ("qm9.data.prepare.qm9", "qm9.data.prepare.md17"),
            lambda module: _old_types(module, used),
        ),
    ),
    Shim(
        "np.split",
        "numpy no longer splits a list of molecules of different sizes; it is sliced",
        lambda used: after_import(
            ("build_geom_dataset",), lambda module: _ragged_split(module, used)
        ),
    ),
    Shim("pickle.load", "reads plain values and argparse.Namespace, no code", _plain_pickles),
    Shim(
        "args.cuda",
        "the checkpoint was trained with CUDA, which is not here; it is read for the CPU",
        _cpu_without_cuda,
    ),
    Shim("torch.load", "reads weights, no code", _weights_only),
)
