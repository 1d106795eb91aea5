"""Run a script of EDM or GeoLDM as it is, its models started at t*.

The script runs as `__main__` inside of its checkout. The function that makes its diffusion model
hands the model through `apply_patch` on the way; nothing else of it changes. What the script prints
and how it ends pass through. Afterwards the interpreter is as it was before: modules of the
checkout, arguments, search path, shims.
"""

from __future__ import annotations

import functools
import inspect
import pickle
import sys
import traceback
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from gaga_adapter.distributed import Progress
from gaga_adapter.errors import DataError, GAGAError
from gaga_adapter.stats import GAGAStats

from ..patching.fitting import Context
from ..patching.patch import PatchHandle, apply_patch
from ..protocol import Model, adapter_for
from .cached_stats import Kept, ProgressBar
from .call_counter import NetworkCalls
from .checkouts import Codebase, require_checkout
from .hooks import after_import, replaced
from .shims import SHIMS, shimmed

Say = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """How the models of a script are to start; as in `apply_patch` where nothing else is said.

    Attributes:
        stats: `auto`: kept beside the model, fitted from the script's own loader where there are
            none; `none`: N(0, I) at `t_star`; or a folder, a hub id, an embedded name.
        t_star: the step to start at.
        reference: kind of the Gaussian.
        fix_last_class: give samples their last element class.
        criterion: of Gaussianity, if t* is chosen here.
        tolerance: nats that may remain at t*, or the least p-value.
        refit: fit although there are statistics beside the model.
    """

    stats: str = "auto"
    t_star: int | None = None
    reference: str = "auto"
    fix_last_class: bool = False
    criterion: str = "two_sample"
    tolerance: float | None = None
    refit: bool = False


def _no_progress() -> AbstractContextManager[Progress]:
    return nullcontext(lambda what, done, total: None)


def run_script(
    kind: str,
    command: Sequence[str],
    options: Options = Options(),
    say: Say = lambda line: None,
    progress: ProgressBar = _no_progress,
) -> int:
    """Run a script of the checkout that is the working directory.

    Args:
        kind: `edm` or `geoldm`.
        command: the script and its arguments.
        options: how its models start.
        say: reports one line.
        progress: shows how far a fit is.

    Returns:
        The exit code of the script; 1 after an exception, whose traceback is printed.

    Raises:
        GAGAError: another checkout, no such script, statistics that cannot be read, or what the
            patch or the reading of a pickle refuses.
    """
    checkout = Path.cwd()
    codebase = require_checkout(checkout, kind)
    script = _script(checkout, command)
    run = _Run(codebase, script, options, say, progress)
    with shimmed(SHIMS, say), run.in_place(), _as_main(checkout, script, command) as main:
        code = _exit_code(script, main)
    run.report(code)
    return code


class _Run:
    """One run: what was read, patched and counted."""

    def __init__(
        self,
        codebase: Codebase,
        script: Path,
        options: Options,
        say: Say,
        progress: ProgressBar,
    ) -> None:
        self.codebase, self.script, self.options = codebase, script, options
        self.say, self.progress = say, progress
        self.trains = script.name.startswith("main_")
        self.named = None
        if options.stats not in ("auto", "none"):
            self.named = GAGAStats.from_pretrained(options.stats)
        self.calls = NetworkCalls(say)
        self.handles: list[PatchHandle] = []
        self.read: list[tuple[Namespace, Path]] = []
        self.stack = ExitStack()

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Models are patched as they are made, until the end of the block."""
        with (
            self.stack,
            replaced(pickle, "load", self._remembering(pickle.load)),
            after_import(("qm9.models",), self._patching),
        ):
            try:
                yield
            finally:
                for handle in self.handles:
                    handle.remove()

    def report(self, code: int) -> None:
        """Say what was done."""
        if not self.handles and code == 0:
            self.say(f"{self.script.name} made no diffusion model; it ran as it is")
        for line in self.calls.lines():
            self.say(line)

    def _remembering(self, load: Callable[..., Any]) -> Callable[..., Any]:
        """`pickle.load` that knows which folder the arguments of a script came from."""

        @functools.wraps(load)
        def remembering(file: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - those of load
            found = load(file, **kwargs)
            if isinstance(found, Namespace):
                self.read.append((found, Path(file.name).parent))
            return found

        return remembering

    def _patching(self, models: ModuleType) -> AbstractContextManager[None]:
        """The factory of `qm9.models` with a patch around its model."""
        factory = getattr(models, self.codebase.factory)
        signature = inspect.signature(factory)

        @functools.wraps(factory)
        def make(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - upstream's own
            made = factory(*args, **kwargs)
            given = signature.bind(*args, **kwargs).arguments
            handle = self._patch(made[0], given["args"], given["dataloader_train"], made[2])
            if (
                self.trains
                and getattr(given["args"], "dp", False)
                and torch.cuda.device_count() > 1
            ):
                made[0].to(given["device"])
                handle.settle()  # replicas of a model cannot be fitted
            return made

        return replaced(models, self.codebase.factory, make)

    def _patch(
        self,
        model: Model,
        args: Namespace,
        loader: Any,  # noqa: ANN401 - upstream's
        properties: Any,  # noqa: ANN401
    ) -> PatchHandle:
        """Patch a model that a script has just made; its weights may come later."""
        options = self.options
        if not self.handles:
            self.stack.enter_context(self.calls.of(model, adapter_for(model)))
        stats: Callable[[Model], GAGAStats] | None
        if options.stats == "none":
            stats = None
        elif self.named is not None:
            named = self.named
            stats = lambda model: named  # noqa: E731 - weights come later, so it waits
        else:
            self._refuse_moving_latent(args)
            stats = Kept(
                folder=self._folder(args),
                trains=self.trains,
                loader=loader,
                data=f"{args.dataset}, as {self.codebase.name} loads it to train",
                context=self._context(model, args, properties),
                t_star=options.t_star,
                criterion=options.criterion,
                tolerance=options.tolerance,
                reference=options.reference,
                refit=options.refit,
                progress=self.progress,
                say=self.say,
            )
        handle = apply_patch(
            model, stats, options.t_star, options.reference, options.fix_last_class
        )
        self.handles.append(handle)
        return handle

    def _folder(self, args: Namespace) -> Path:
        """Where a model is kept: the folder its arguments were read from, or its experiment's."""
        if not self.trains:
            for namespace, folder in self.read:
                if namespace is args:
                    return folder
        return Path("outputs", args.exp_name)

    def _refuse_moving_latent(self, args: Namespace) -> None:
        if self.trains and getattr(args, "trainable_ae", False) and args.ae_path is None:
            raise GAGAError(
                "with --trainable_ae and no --ae_path the latent is random when training starts, "
                "so statistics and t* of it mean nothing later. Train as upstream does and start "
                "at t* afterwards (gaga run geoldm -- eval_analyze.py ...), or train the "
                "autoencoder first and pass --ae_path."
            )

    def _context(self, model: Model, args: Namespace, properties: Any) -> Context | None:  # noqa: ANN401
        """Makes the context of a batch for an autoencoder that takes one."""
        if not args.conditioning or not hasattr(model, "vae"):
            return None

        def context(batch: Any) -> torch.Tensor:  # noqa: ANN401 - of upstream's loader
            if properties.normalizer is None:
                raise DataError(
                    "the script has not set the norms of its properties before the model is "
                    "used. Fit from a script that does, such as eval_analyze.py."
                )
            prepare = sys.modules["qm9.utils"].prepare_context
            made: torch.Tensor = prepare(args.conditioning, batch, properties.normalizer)
            return made.to(next(model.parameters()))

        return context


def _script(checkout: Path, command: Sequence[str]) -> Path:
    """The script of a command.

    Raises:
        GAGAError: there is none.
    """
    script = checkout / command[0] if command else checkout
    if script.suffix != ".py" or not script.is_file():
        known = sorted(p.name for p in checkout.glob("*.py") if p.name[:5] in ("main_", "eval_"))
        raise GAGAError(
            f"no script {' '.join(command[:1])!r} in {checkout}. Known: {', '.join(known)}."
        )
    return script


@contextmanager
def _as_main(checkout: Path, script: Path, command: Sequence[str]) -> Iterator[ModuleType]:
    """The module `__main__`, arguments and search path of a script.

    Modules of the checkout are imported anew, and forgotten afterwards.
    """
    own = {p.stem for p in checkout.glob("*.py")} | {p.parent.name for p in checkout.glob("*/*.py")}

    def loaded() -> dict[str, ModuleType]:
        return {name: m for name, m in sys.modules.items() if name.partition(".")[0] in own}

    main = ModuleType("__main__")
    main.__file__ = str(script)
    hidden = {**loaded(), "__main__": sys.modules["__main__"]}
    argv, path = sys.argv, list(sys.path)
    for name in hidden:
        del sys.modules[name]
    sys.modules["__main__"] = main
    sys.argv = [*command]
    sys.path.insert(0, str(script.parent))
    try:
        yield main
    finally:
        for name in loaded():
            del sys.modules[name]
        sys.modules.update(hidden)
        sys.argv, sys.path[:] = argv, path


def _exit_code(script: Path, main: ModuleType) -> int:
    """Run a script in the module `__main__`, and end it as Python would."""
    try:
        exec(compile(script.read_bytes(), str(script), "exec"), vars(main))
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        sys.stderr.write(f"{end.code}\n")  # as Python does for the script
        return 1
    except KeyboardInterrupt:
        return 130
    except GAGAError:
        raise
    except Exception as error:
        frames = error.__traceback__
        while frames is not None and frames.tb_frame.f_code.co_filename != str(script):
            frames = frames.tb_next
        traceback.print_exception(type(error), error, frames)
        return 1
    return 0
