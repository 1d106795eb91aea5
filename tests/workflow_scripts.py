"""The scripts of .github, as modules."""

import importlib.util
import sys

from folders import ROOT

FOLDER = ROOT / ".github"


def script(name):
    """One of them, imported from where it lies."""
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
