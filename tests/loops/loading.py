"""Libraries without the heavy parts that their samplers never touch."""

import sys
import types

import pytest


class Nothing(types.ModuleType):
    """A module that has every name, for imports at the top of files that are not run."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *args, **kwargs: None


def loaded(library, *unused):
    """A library, or a skip; what it does not use may be missing while it is imported.

    Optimal transport (`ot`) is used by matchers that pair noise with data, and `torchvision` by
    data sets: a truncated run has neither.
    """
    stubs = {}
    for name in unused:
        try:
            __import__(name)
        except (ImportError, RuntimeError):  # not installed, or built for another torch
            stubs[name] = Nothing(name)
    if "torchvision" in stubs:
        stubs["torchvision.transforms"] = stubs["torchvision"].transforms = Nothing("transforms")
    sys.modules.update(stubs)
    try:
        why = f"needs {library.split('.')[0]}: see the Makefile for how it is installed"
        return pytest.importorskip(library, reason=why)
    finally:
        for name in stubs:
            sys.modules.pop(name)
