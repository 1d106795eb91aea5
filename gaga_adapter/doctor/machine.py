"""The machine: devices that really work, folders that can be written, and access to the hub."""

from __future__ import annotations

import os
import shutil
import warnings
from typing import Any

from gaga_adapter.doctor.section import Section, first_line
from gaga_adapter.errors import WriteError
from gaga_adapter.files.atomic import check_writable
from gaga_adapter.files.cache import cache_folder

_GIB = 2**30
_SIZE = 64  # rows of the matrices that are multiplied


def devices() -> Section:
    """The devices that torch sees, each with a small matrix product that is really worked out."""
    try:
        import torch
    except Exception as error:  # the section of libraries says what to do
        reason = first_line(error)
        return Section("Devices", (("examined", f"no, {reason}"),), {"examined": False})
    lines, problems, notes = [], [], []
    n_cores, n_usable, n_threads = os.cpu_count() or 1, usable_cores(), torch.get_num_threads()
    load = machine_load()
    facts: dict[str, Any] = {
        "threads": n_threads,
        "cores": n_cores,
        "usable_cores": n_usable,
        "load": load,
    }
    found = [("cpu", f"{n_cores} cores, {n_threads} of them used by torch")]
    if n_usable < n_cores:
        found = [("cpu", f"{n_cores} cores, {n_usable} for this process, {n_threads} threads")]
    if load is not None:
        advice = advice_on_threads(load, n_cores, n_usable, n_threads)
        notes += [advice] if advice else []
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        has_cuda = torch.cuda.is_available()
    if has_cuda:
        for k in range(torch.cuda.device_count()):
            about = torch.cuda.get_device_properties(k)
            found.append((f"cuda:{k}", f"{about.name}, {about.total_memory / _GIB:.0f} GiB"))
    elif shutil.which("nvidia-smi"):
        reason = f" ({first_line(said[0].message)})" if said else ""  # type: ignore[arg-type]
        if torch.version.cuda is None:
            notes.append(
                "This machine has the tools of an NVIDIA GPU, and this torch is built without "
                "CUDA, so models run on the CPU. Builds with CUDA: https://pytorch.org/get-started"
            )
        else:
            problems.append(
                f"torch is built for CUDA {torch.version.cuda} and finds no GPU{reason}, though "
                "nvidia-smi is here. Check that `nvidia-smi` lists one, and that the driver is new "
                "enough for this torch."
            )
    if torch.backends.mps.is_available():
        found.append(("mps", "Apple GPU"))
    facts["cuda_build"] = torch.version.cuda
    facts["devices"] = {}
    for name, text in found:
        fault = product_error(name)
        facts["devices"][name] = {"about": text, "error": fault}
        lines.append((name, f"{text}; a matrix product {'is right' if fault is None else 'fails'}"))
        if fault is not None:
            problems.append(
                f"A small matrix product on {name} fails ({fault}). Models cannot run there: take "
                "another device, such as cpu, or install a torch that is built for this one."
            )
    if load is not None:
        lines.append(("load", f"{load:.1f} processes ran or waited, on average over a minute"))
    build = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
    lines.append(("torch", build))
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        lines.append(("CUDA_VISIBLE_DEVICES", chosen or "empty: no GPU is seen"))
        facts["visible"] = chosen
    return Section("Devices", tuple(lines), facts, tuple(problems), tuple(notes))


def usable_cores() -> int:
    """The number of cores on which the system lets this process run."""
    try:
        return len(os.sched_getaffinity(0))
    except (AttributeError, OSError):  # macOS and Windows have no such call
        return os.cpu_count() or 1


def machine_load() -> float | None:
    """Number of processes that ran or waited, on average over a minute; `None` on Windows."""
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return None


def advice_on_threads(load: float, n_cores: int, n_usable: int, n_threads: int) -> str | None:
    """What to do if torch has more threads than there are free cores; `None` if it has not.

    The threads of one operation wait for the slowest of them. Where they have to share a core,
    several are slower than one.

    Args:
        load: Number of cores that other work keeps busy.
        n_cores: Number of cores of the machine.
        n_usable: Number of cores on which this process may run.
        n_threads: Number of threads that torch starts for one operation.
    """
    n_free = max(1, min(n_usable, n_cores - round(load)))
    if n_threads <= n_free:
        return None
    return (
        f"torch uses {n_threads} threads, which is more than there are free cores, and threads "
        "that share a core can be several times slower together than one alone: while other work "
        f"goes on, set OMP_NUM_THREADS={n_free}."
    )


def product_error(device: str) -> str | None:
    """What goes wrong in a small matrix product on a device; `None` if the result is exact.

    The entries are small whole numbers, so that the product is exact in TF32 and bfloat16, too.
    """
    import torch

    try:
        entries = torch.arange(_SIZE * _SIZE).reshape(_SIZE, _SIZE)
        one, other = entries % 5 - 2, entries % 7 - 3
        got = (one.float().to(device) @ other.float().to(device)).cpu()
    except Exception as error:  # whatever a driver raises
        return first_line(error)
    return None if torch.equal(got.long(), one @ other) else "its result is wrong"


def places() -> Section:
    """The folders of caches, and whether the hub would know the user."""
    folder, problem = cache_folder(), None
    try:
        check_writable(folder, folder)
    except WriteError as error:
        problem = (
            f"The cache cannot be written, so that QM9 is parsed in every run ({error}). Set "
            "GAGA_CACHE to a folder of yours."
        )
    lines = [("cache", f"{folder}, {'can' if problem is None else 'cannot'} be written")]
    facts: dict[str, Any] = {"cache": str(folder), "cache_is_writable": problem is None}
    try:
        from huggingface_hub import constants, get_token

        has_token, is_offline = get_token() is not None, bool(constants.HF_HUB_OFFLINE)
        facts |= {"hub_token": has_token, "hub_is_offline": is_offline}
        token = "there is one" if has_token else "none; only `gaga push` and private files need it"
        lines.append(("hub token", token))
        if is_offline:
            lines.append(("HF_HUB_OFFLINE", "set: only earlier downloads are used"))
    except Exception as error:  # the section of libraries says what to do
        lines.append(("hub token", f"not examined, {first_line(error)}"))
    return Section("Places", tuple(lines), facts, () if problem is None else (problem,))
