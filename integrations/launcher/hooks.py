"""Changes of a running interpreter that end with a `with` block and leave nothing behind."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_MISSING = object()


@contextmanager
def replace_attribute(owner: Any, name: str, value: object) -> Iterator[None]:  # noqa: ANN401
    """Give an attribute of a module or a class another value."""
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
    """Let a package be imported that is not installed; one that is installed is taken.

    `contents` makes its names, when it is imported.
    """
    finder = _StandIn(name, contents)
    sys.meta_path.append(finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        if getattr(sys.modules.get(name), "__loader__", None) is finder:
            del sys.modules[name]


@contextmanager
def after_import(
    names: tuple[str, ...], change: Callable[[ModuleType], AbstractContextManager[None]]
) -> Iterator[None]:
    """Change modules right after they are imported, those that are there already at once."""
    with ExitStack() as changes:
        finder = _Watcher(names, lambda module: changes.enter_context(change(module)))
        for name in names:
            if name in sys.modules:
                finder.then(sys.modules[name])
        sys.meta_path.insert(0, finder)
        changes.callback(sys.meta_path.remove, finder)
        yield


@contextmanager
def exit_on_signals() -> Iterator[None]:
    """Let the signals that end a process raise `SystemExit`, so that what is under way can report.

    Its code is 128 + the number of the signal, as shells give it. Processes that are forked inside
    of the block, such as the workers of a loader, end as ever.
    """
    owner = os.getpid()

    def end(number: int, frame: object) -> None:
        if os.getpid() == owner:
            raise SystemExit(128 + number)
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    names = ("SIGTERM", "SIGHUP") if threading.current_thread() is threading.main_thread() else ()
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    # One that is ignored, as SIGHUP is under nohup, stays ignored.
    before = {n: signal.getsignal(n) for n in numbers if signal.getsignal(n) is not signal.SIG_IGN}
    try:
        for number in before:
            signal.signal(number, end)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _StandIn(MetaPathFinder, Loader):
    """The last finder: makes a package that no other finder knows."""

    def __init__(self, name: str, contents: Callable[[], dict[str, Any]]) -> None:
        self.name, self.contents = name, contents

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:  # noqa: ANN401
        return ModuleSpec(fullname, self, is_package=True) if fullname == self.name else None

    def exec_module(self, module: ModuleType) -> None:
        vars(module).update(self.contents())


class _Watcher(MetaPathFinder):
    """The first finder: lets modules load as ever, and then calls a function on them."""

    def __init__(self, names: tuple[str, ...], then: Callable[[ModuleType], None]) -> None:
        self.names, self.then = names, then

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:  # noqa: ANN401
        if fullname not in self.names:
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(fullname, path, target)
            if spec is not None and spec.loader is not None:
                self._watch(spec.loader)
                return spec
        return None

    def _watch(self, loader: Any) -> None:  # noqa: ANN401 - any loader
        load = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            del loader.exec_module
            load(module)
            self.then(module)

        loader.exec_module = exec_module
