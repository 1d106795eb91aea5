"""Changes of a running interpreter that end with a `with` block and leave nothing behind."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_MISSING = object()


@contextmanager
def replaced(owner: Any, name: str, value: object) -> Iterator[None]:  # noqa: ANN401 - any object
    """An attribute of a module or a class has another value."""
    before = vars(owner).get(name, _MISSING)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if before is _MISSING:
            delattr(owner, name)
        else:
            setattr(owner, name, before)


@contextmanager
def stand_in(name: str, contents: Callable[[], dict[str, Any]]) -> Iterator[None]:
    """A package can be imported although it is not installed; one that is installed is taken.

    Args:
        name: of the package.
        contents: makes its names, when it is imported.
    """
    finder = _StandIn(name, contents)
    sys.meta_path.append(finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        if finder.module is not None and sys.modules.get(name) is finder.module:
            del sys.modules[name]


@contextmanager
def after_import(
    names: tuple[str, ...], changed: Callable[[ModuleType], AbstractContextManager[None]]
) -> Iterator[None]:
    """Modules are changed right after they are imported, those that are there already at once.

    Args:
        names: of the modules.
        changed: the change of one module.
    """
    with ExitStack() as changes:

        def change(module: ModuleType) -> None:
            changes.enter_context(changed(module))

        for name in names:
            if name in sys.modules:
                change(sys.modules[name])
        finder = _Watcher(names, change)
        sys.meta_path.insert(0, finder)
        changes.callback(sys.meta_path.remove, finder)
        yield


class _StandIn(MetaPathFinder, Loader):
    """The last finder: makes a package that no other one has found."""

    def __init__(self, name: str, contents: Callable[[], dict[str, Any]]) -> None:
        self.name, self.contents = name, contents
        self.module: ModuleType | None = None

    def find_spec(
        self,
        fullname: str,
        path: Any = None,  # noqa: ANN401 - importlib's own
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname == self.name else None

    def exec_module(self, module: ModuleType) -> None:
        vars(module).update(self.contents())
        self.module = module


class _Watcher(MetaPathFinder, Loader):
    """The first finder: has modules loaded as ever, and then calls a function on them."""

    def __init__(self, names: tuple[str, ...], then: Callable[[ModuleType], None]) -> None:
        self.names, self.then = names, then
        self.loaders: dict[str, Any] = {}

    def find_spec(
        self,
        fullname: str,
        path: Any = None,  # noqa: ANN401 - importlib's own
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        if fullname not in self.names:
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(fullname, path, target)
            if spec is not None and spec.loader is not None:
                self.loaders[fullname], spec.loader = spec.loader, self
                return spec
        return None

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        made: ModuleType | None = self.loaders[spec.name].create_module(spec)
        return made

    def exec_module(self, module: ModuleType) -> None:
        loader = self.loaders[module.__name__]
        module.__loader__ = loader
        if module.__spec__ is not None:
            module.__spec__.loader = loader
        loader.exec_module(module)
        self.then(module)
