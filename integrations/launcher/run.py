"""Run a script of EDM, GeoLDM or a fork of theirs as it is, its models started at t*.

The script runs as `__main__` inside of its checkout. The function that makes its diffusion model
hands the model through `apply_patch` on the way; nothing else of it changes. What the script prints
and how it ends pass through. Afterwards the interpreter is as it was before: modules of the
checkout, arguments, search path, shims.
"""

from __future__ import annotations

import functools
import inspect
import sys
import traceback
import warnings
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import IO, Any
from urllib.error import URLError

import torch

from gaga_adapter.errors import DataError, GAGAError, GAGAWarning, TruncationError
from gaga_adapter.stats import GAGAStats

from ..patching.fitting import Context
from ..patching.patch import PatchHandle, apply_patch
from ..protocol import Model, adapter_for
from .cached_stats import CachedStats
from .call_counter import CallCounter
from .checkouts import Codebase, require_checkout
from .hooks import after_import, exit_on_signals, replace_attribute
from .options import Options, ProgressBar, Say
from .pickles import after_load
from .shims import SHIMS, apply_shims

_MOVING_LATENT = (
    "with --trainable_ae and no --ae_path the latent is random when training starts, so statistics "
    "and t* of it mean nothing later. Three ways work: start at a step of your own from N(0, I), "
    "gaga run geoldm --stats none --t-star N -- main_qm9.py ...; train the autoencoder first, and "
    "pass its folder as --ae_path; or train as upstream does, and start at t* afterwards, "
    "gaga run geoldm -- eval_analyze.py ..."
)


def run_script(
    kind: str, command: Sequence[str], options: Options, say: Say, progress: ProgressBar
) -> int:
    """Run a script of the working directory, a checkout of this kind, and return its exit code.

    The code is 1 after an exception of the script, whose traceback is printed. A `GAGAError`, of
    the checkout, the statistics, the patch or the reader of pickles, is raised; so is one after
    the traceback of a download that failed, with the command that writes the files.
    """
    checkout = Path.cwd()
    codebase = require_checkout(checkout, kind)
    script = _script(checkout, command)
    run = _Run(codebase, script, options, say, progress)
    code = 1
    try:
        with (
            exit_on_signals(),
            apply_shims(SHIMS, say),
            run.in_place(),
            _as_main(checkout, script, command) as main,
        ):
            code = _exit_code(script, main)
    finally:
        run.report(code)
    return code


class _Run:
    """One run: the models that it patches, and the facts that it needs for that."""

    def __init__(
        self, codebase: Codebase, script: Path, options: Options, say: Say, progress: ProgressBar
    ) -> None:
        self.codebase, self.script, self.options = codebase, script, options
        self.say, self.progress = say, progress
        self.trains = script.name.startswith("main_")
        if options.stats not in ("auto", "none"):
            self.stats = GAGAStats.from_pretrained(options.stats)
        self.counter = CallCounter(say)
        self.handles: list[PatchHandle] = []
        self.folders: list[tuple[Namespace, Path]] = []  # arguments, and where they were read from
        self.stack = ExitStack()

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Patch models as the script makes them, until the end of the block."""
        with (
            self.stack,
            after_load(self._note_folder),
            after_import(self.codebase.modules, self._patch_factory),
        ):
            try:
                yield
            finally:
                with warnings.catch_warnings():  # nobody samples from these models afterwards
                    warnings.simplefilter("ignore", GAGAWarning)
                    for handle in self.handles:
                        handle.remove()

    def report(self, code: int) -> None:
        """Say how many network calls the samples took."""
        if not self.handles and code == 0:
            self.say(f"{self.script.name} made no diffusion model; it ran as it is")
        for line in self.counter.lines():
            self.say(line)

    def _note_folder(self, file: IO[bytes], value: object) -> None:
        if isinstance(value, Namespace):
            self.folders.append((value, Path(file.name).parent))

    def _patch_factory(self, models: ModuleType) -> AbstractContextManager[None]:
        """The factory of a module with a patch around its model."""
        factory = getattr(models, self.codebase.factory)
        signature = inspect.signature(factory)

        @functools.wraps(factory)
        def make(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - upstream's own
            result = factory(*args, **kwargs)
            model, properties = result[0], result[2]
            call = signature.bind(*args, **kwargs).arguments
            handle = self._patch(model, call["args"], call["dataloader_train"], properties)
            parallel = getattr(call["args"], "dp", False) and torch.cuda.device_count() > 1
            if self.trains and parallel:
                model.to(call["device"])
                handle.settle()  # replicas of a model cannot be fitted
            return result

        return replace_attribute(models, self.codebase.factory, make)

    def _patch(self, model: Model, args: Namespace, loader: Any, properties: Any) -> PatchHandle:  # noqa: ANN401
        """Patch a model that a script has just made; its weights may come later."""
        options = replace(self.options, t_star=self._t_star(args))
        if not self.handles:
            self.stack.enter_context(self.counter.watch(model, adapter_for(model)))
        stats: Callable[[Model], Any] | None = None
        if options.stats not in ("auto", "none"):
            stats = lambda model: self.stats  # noqa: E731 - weights come later, so the patch waits
        elif options.stats == "auto":
            if self.trains and getattr(args, "trainable_ae", False) and args.ae_path is None:
                raise GAGAError(_MOVING_LATENT)
            # Where the arguments of the model were read from: it was trained before, so it is
            # evaluated, or its training is resumed. Else the folder of its experiment.
            folders = [folder for namespace, folder in self.folders if namespace is args]
            own = Path("outputs", args.exp_name)
            stats = CachedStats(
                own if self.trains or not folders else folders[0],
                folders[0] if folders else None if self.trains else own,
                options,
                self.trains,
                loader,
                f"{args.dataset}, as {self.codebase.name} loads it to train",
                self._context(model, args, properties),
                self.progress,
                self.say,
            )
        how = options.t_star, options.reference, options.fix_last_class
        self.handles.append(apply_patch(model, stats, *how))
        return self.handles[-1]

    def _t_star(self, args: Namespace) -> int | None:
        """The step to start at: the one asked for, or the last that the paper's code trains."""
        last, t_star = getattr(args, "max_t", None), self.options.t_star
        if not isinstance(last, int) or last >= args.diffusion_steps:
            return t_star
        if t_star is None:
            self.say(f"--max_t={last}: the model is trained up to this step, and starts there")
            return last
        if t_star > last:
            raise TruncationError(
                f"--t-star {t_star} is beyond --max_t={last}, the last step that this model is "
                f"trained at. Pass {last} or less, or leave --t-star out."
            )
        return t_star

    def _context(self, model: Model, args: Namespace, properties: Any) -> Context | None:  # noqa: ANN401
        """The function that makes the context of a batch, for an autoencoder that takes one."""
        if not args.conditioning or not hasattr(model, "vae"):
            return None

        def context(batch: Any) -> torch.Tensor:  # noqa: ANN401 - of upstream's loader
            if properties.normalizer is None:
                raise DataError(
                    "the script has not set the norms of its properties before the model is "
                    "used. Fit from a script that does, such as eval_analyze.py."
                )
            prepare = sys.modules["qm9.utils"].prepare_context
            tensor: torch.Tensor = prepare(args.conditioning, batch, properties.normalizer)
            return tensor.to(next(model.parameters()))

        return context


def _script(checkout: Path, command: Sequence[str]) -> Path:
    """The script of a command, if the checkout has it."""
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

    def modules() -> dict[str, ModuleType]:
        return {name: m for name, m in sys.modules.items() if name.partition(".")[0] in own}

    main = ModuleType("__main__")
    main.__file__ = str(script)
    before = {**modules(), "__main__": sys.modules["__main__"]}
    argv, path = sys.argv, list(sys.path)
    for name in before:
        del sys.modules[name]
    sys.modules["__main__"] = main
    sys.argv = [*command]
    sys.path.insert(0, str(script.parent))
    try:
        yield main
    finally:
        for name in modules():
            del sys.modules[name]
        sys.modules.update(before)
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
        if _is_of_a_download(error):
            raise DataError(
                f"{script.name} could not download its data ({error}). If they are QM9, `gaga "
                "prepare qm9 --into .` writes them without a network."
            ) from error
        return 1
    return 0


def _is_of_a_download(error: Exception) -> bool:
    """Whether a script of the checkout failed to get the data that it prepares."""
    files = (Path(frame.filename) for frame in traceback.extract_tb(error.__traceback__))
    is_there = any(file.parts[-4:-1] == ("qm9", "data", "prepare") for file in files)
    return is_there and isinstance(error, URLError | ConnectionError | TimeoutError)
