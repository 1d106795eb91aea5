"""Empty modules in the place of packages that are imported and not used."""

import contextlib
import importlib.util
import sys
from importlib.machinery import ModuleSpec


class EmptyModules:
    """Finder and loader of modules that have every name, and nothing behind it."""

    def __init__(self, packages):
        self.packages = packages

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in self.packages:
            return ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        def anything(name):
            if name.startswith("__"):
                raise AttributeError(name)
            return type(name, (), {})

        module.__getattr__ = anything


@contextlib.contextmanager
def stand_ins(packages):
    """Empty modules for those packages that are not installed; gone afterwards."""
    finder = EmptyModules([name for name in packages if importlib.util.find_spec(name) is None])
    sys.meta_path.append(finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name in sys.modules if name.split(".")[0] in finder.packages]:
            del sys.modules[name]
