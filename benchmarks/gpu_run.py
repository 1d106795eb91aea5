"""The parts of `gpu.sh`, one after the other, each in a process and a time of its own.

    python benchmarks/gpu_run.py OUT --device cuda --minutes 9 --data qm9.npz

Writes OUT/gpu.json (card, driver, versions, and what each part found or why it failed), OUT/log.txt
and OUT/training with the averaged weights of the last minute, the best ones and the metrics. All of
it stays small enough to be carried away: a state with its optimizer's moments is left out where it
is larger than 16 MiB.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).parent
MOST_BYTES = 16 * 2**20
#: Share of the time that a part may take at most; the training gets what is left.
SHARES = {"data": 0.08, "sampling": 0.27, "fit": 0.15}
#: Seconds that are kept for the end of the training, and for what is written after it.
SPARE = 20.0
#: Options of the parts in the rehearsal, where everything is small.
TINY = {
    "sampling": "--batches 2 --molecules 2 --ways plain bf16",
    "fit": "--molecules 1000 --items 600 --densities 2 --criteria cumulant",
    "training": "--width 16 --pair-width 8 --layers 1 --vectors 2 --batch-size 8 --molecules 64"
    " --sample-size 2 --valid-every 20 --log-every 10",
}
TRAINING = (
    "--bf16 --batch-size 1024 --sample-size 512 --valid-every 1000 --save-every 1000000 --compile"
)
#: The network that is trained where no weights are given to begin with: 6 MB in half precision.
NETWORK = "--width 192 --pair-width 48 --layers 8 --vectors 12"


def main() -> None:
    """All parts."""
    args = arguments()
    if torch.device(args.device).type == "cuda" and not torch.cuda.is_available():
        raise SystemExit(
            "gpu_run: this PyTorch sees no GPU. Run it where there is one, or rehearse with "
            "--device cpu --minutes 1 --tiny."
        )
    args.out.mkdir(parents=True, exist_ok=True)
    run = GPURun(args)
    with tempfile.TemporaryDirectory() as scratch:
        run.environment["GAGA_CACHE"] = run.environment.get("GAGA_CACHE", scratch)
        if args.data is not None:
            run.environment["GAGA_CACHE"] = scratch
            run.part("data", ["qm9_array.py", str(args.data), "--cache", scratch])
        for name, script in (("sampling", "throughput.py"), ("fit", "gpu_fit.py")):
            if name in args.parts:
                run.measure(name, script)
        if "training" in args.parts:
            run.train()
    run.tell()
    failed = [name for name, part in run.result["parts"].items() if part["status"] != "done"]
    if failed:
        raise SystemExit(f"gpu_run: not done: {', '.join(failed)}. See {args.out / 'log.txt'}.")


class GPURun:
    """What was found so far, and the time that is left."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.began = float(os.environ.get("GPU_BEGAN", time.time()))
        self.environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        self.log = args.out / "log.txt"
        self.log.write_text("", encoding="utf-8")
        self.result: dict[str, Any] = {
            "minutes": args.minutes,
            "tiny": args.tiny,
            "machine": machine(),
            "parts": {},
        }
        self.write()

    @property
    def left(self) -> float:
        """Seconds left of all."""
        return self.began + 60 * self.args.minutes - time.time()

    def write(self) -> None:
        """Replace gpu.json."""
        draft = self.args.out / "gpu.json.tmp"
        draft.write_text(json.dumps(self.result, indent=1) + "\n", encoding="utf-8")
        draft.replace(self.args.out / "gpu.json")

    def part(self, name: str, command: Sequence[str], seconds: float | None = None) -> None:
        """Run one script; it is stopped when its time is over."""
        share = SHARES.get(name, 1.0) * 60 * self.args.minutes
        seconds = min(share, self.left - SPARE) if seconds is None else seconds
        found: dict[str, Any] = {"command": " ".join(command), "seconds_allowed": round(seconds, 1)}
        self.result["parts"][name] = found
        began = time.time()
        if seconds <= 0:
            found["status"] = "no time was left"
            self.write()
            return
        with self.log.open("a", encoding="utf-8") as log:
            log.write(f"\n== {name}: {' '.join(command)}\n")
            log.flush()
            process = subprocess.Popen(
                [sys.executable, str(HERE / command[0]), *command[1:]],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self.environment,
                cwd=HERE.parent,
                start_new_session=True,
            )
            try:
                code = process.wait(seconds)
                found["status"] = "done" if code == 0 else f"failed with code {code}"
            except subprocess.TimeoutExpired:
                found["status"] = "stopped when its time was over"
                stop(process)
            except BaseException:
                stop(process)
                raise
        found["seconds"] = round(time.time() - began, 1)
        print(f"{name}: {found['status']} in {found['seconds']:.0f} s", flush=True)
        if found["status"] != "done":
            found["end_of_log"] = self.log.read_text(encoding="utf-8").splitlines()[-15:]
        self.write()

    def options(self, name: str) -> list[str]:
        """Options of a part: those of the rehearsal, or the caller's."""
        own = {"sampling": "", "fit": "", "training": TRAINING}
        return shlex.split(TINY[name] if self.args.tiny else own[name])

    def measure(self, name: str, script: str) -> None:
        """A script that writes one json, which becomes a part of gpu.json."""
        file = self.args.out / f"{name}.json"
        seconds = max(1.0, min(SHARES[name] * 60 * self.args.minutes, self.left - SPARE) - 8)
        command = [script, "--device", self.args.device, "--out", str(file.resolve())]
        command += ["--seconds", f"{seconds:.0f}", *self.options(name)]
        if name == "sampling":
            command += ["--model", self.args.model]
        self.part(name, command)
        if file.exists():
            self.result["parts"][name]["found"] = json.loads(file.read_text(encoding="utf-8"))
            file.unlink()
        self.write()

    def train(self) -> None:
        """Training for the rest of the time."""
        folder = self.args.out / "training"
        seconds = self.left - SPARE
        # what the script needs before its first step and after its last one
        minutes = min(max(0.05, (seconds - self.args.overhead) / 60), self.args.training_minutes)
        command = ["train_qm9.py", "--out", str(folder.resolve()), "--device", self.args.device]
        command += ["--minutes", f"{minutes:.3f}", "--keep-every-minutes", "1"]
        if self.args.initial is not None:
            command += ["--from", self.args.initial]
        elif not self.args.tiny:
            command += shlex.split(NETWORK)
        command += [*self.options("training"), *shlex.split(self.args.train)]
        self.part("training", command, seconds + SPARE / 2)
        found = self.result["parts"]["training"]
        if found["status"].startswith("failed") and "--compile" in command:
            self.result["parts"]["training, compiled"] = found  # no compiler there, perhaps
            command.remove("--compile")
            seconds = self.left - SPARE
            minutes = min(max(0.05, (seconds - self.args.overhead) / 60), minutes)
            command[command.index("--minutes") + 1] = f"{minutes:.3f}"
            shutil.rmtree(folder, ignore_errors=True)
            self.part("training", command, seconds + SPARE / 2)
            found = self.result["parts"]["training"]
        metrics = folder / "metrics.jsonl"
        if metrics.exists():
            lines = metrics.read_text(encoding="utf-8").splitlines()
            found["lines"] = len(lines)
            found["last"] = json.loads(lines[-1]) if lines else None
        for file in sorted(folder.glob("*")):
            if file.stat().st_size > MOST_BYTES or file.suffix == ".tmp":
                found.setdefault("left_out", []).append(file.name)
                shutil.rmtree(file) if file.is_dir() else file.unlink()
        self.write()

    def tell(self) -> None:
        """A short table on the screen, last."""
        card = self.result["machine"]
        print(f"\n{card['device'] or card['processor']}, torch {card['torch']}")
        sampling = self.result["parts"].get("sampling", {}).get("found", {})
        for kind in ("network", "pipeline"):
            for way, lines in sampling.get(kind, {}).items():
                for line in lines if isinstance(lines, list) else [lines]:
                    if "rate" in line:
                        print(f"{kind:9}{way:24}batch {line['batch']:6d}{line['rate']:14,.0f}")
        for name, criterion in (
            self.result["parts"].get("fit", {}).get("found", {}).get("criteria", {}).items()
        ):
            print(f"{name:12}apart by {criterion['apart']:.2g}")
        last = self.result["parts"].get("training", {}).get("last")
        if last:
            print("training  " + " ".join(f"{k}={v:.4g}" for k, v in last.items()))


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process and those that it started; first politely."""
    for kind, seconds in ((signal.SIGTERM, 3), (signal.SIGKILL, 10)):
        try:
            os.killpg(process.pid, kind)
            process.wait(seconds)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue
        return


def machine() -> dict[str, Any]:
    """Card, driver and versions."""
    found: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
    }
    for name in ("diffusers", "rdkit", "numpy", "gaga-adapter"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    if torch.cuda.is_available():
        about = torch.cuda.get_device_properties(0)
        found["memory_gb"] = about.total_memory / 1e9
        found["multiprocessors"] = about.multi_processor_count
    for key, command in (
        ("driver", ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]),
        ("commit", ["git", "-C", str(HERE), "describe", "--always", "--dirty", "--exclude", "*"]),
    ):
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
            found[key] = done.stdout.strip() or None
        except (OSError, subprocess.TimeoutExpired):
            found[key] = None
    return found


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path, help="folder for the results")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--minutes", type=float, default=9.0, help="of all parts together")
    parser.add_argument("--data", type=Path, default=None, help="file that qm9_array.py wrote")
    parser.add_argument("--model", default="qm9", help="pipeline whose sampling is measured")
    parser.add_argument("--from", dest="initial", help="weights to train on from")
    parser.add_argument("--train", default="", help='options of train_qm9.py: --train="--seed 1"')
    parser.add_argument(
        "--parts",
        nargs="*",
        default=["sampling", "fit", "training"],
        choices=["sampling", "fit", "training"],
    )
    parser.add_argument(
        "--overhead", type=float, default=45.0, help="seconds of the training that are no steps"
    )
    parser.add_argument(
        "--training-minutes", type=float, default=math.inf, help="most minutes of steps"
    )
    parser.add_argument("--tiny", action="store_true", help="small sizes, for the rehearsal")
    args = parser.parse_args(argv)
    if not 0 < args.minutes < math.inf:
        parser.error(f"--minutes {args.minutes:g} is no time. Give 9, or 1 for the rehearsal.")
    if args.data is not None and not args.data.is_file():
        parser.error(f"there is no file {args.data}. Make it with qm9_array.py.")
    if args.data is not None:  # the parts run elsewhere
        args.data = args.data.resolve()
    for name in ("model", "initial"):
        given = getattr(args, name)
        if given is not None and Path(given).exists():
            setattr(args, name, str(Path(given).resolve()))
    try:
        torch.device(args.device)
    except RuntimeError:
        parser.error(f"--device {args.device} is no device of PyTorch. Give cuda or cpu.")
    return args


if __name__ == "__main__":
    main()
