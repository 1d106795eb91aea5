"""The loop that trains the compact denoiser: deterministic, and indifferent to being killed.

What a step does follows from the seed and the number of the step alone: the molecules of the
batch, the noise levels, the noise. Several processes cut the same global batch between them and
average their gradients. The state is replaced as a whole every `save_every` steps, and a run that
finds one goes on from there; lines of metrics behind it are written again.

The loss is the error of the predicted clean molecule: positions weighted by 1 / c_out^2 (Karras et
al. 2022), elements by cross-entropy. Noise levels are half uniform in t of `edm/polynomial_2`,
stratified over the batch, and half log-normal in sigma, which spends more on the scale of bond
lengths; `truncated` cuts both laws at t*, and changes nothing else.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from gaga_adapter.distributed import n_processes, process_index
from gaga_adapter.files.atomic import replacing
from gaga_adapter.molecules.denoiser import MoleculeDenoiser
from gaga_adapter.noise.paths import named_path
from gaga_adapter.subspace import remove_mean
from gaga_adapter.training import TruncatedTimesteps, record_trained

PATH = named_path("edm/polynomial_2")
STEPS = 1000  # of the path, in which t* is counted
STATE, METRICS = "state.pt", "metrics.jsonl"
AVERAGED, BEST = "averaged.safetensors", "best.safetensors"
#: The mean of ln sigma and its standard deviation, of the log-normal half.
LOG_SIGMA = (-1.6, 1.2)

Log = Callable[[dict[str, float]], None]


@dataclass(frozen=True)
class Recipe:
    """All that decides the weights.

    Attributes:
        steps: optimizer steps, over which the rate falls.
        t_star: noisiest step of 1000 that is trained; `None` for the full path.
        seed: of weights, batches, levels and noise.
        batch_size: molecules in a step, of all processes together.
        lr: of AdamW.
        muon_lr: of the matrices between hidden streams, by Muon; 0 trains all with AdamW.
        weight_decay: of both.
        warmup: steps of the linear rise.
        cooldown: last steps, over which the rate falls; `None` lets it fall from the rise on.
        clip: largest norm of the gradient.
        ema: decay of the averaged weights.
        element_weight: of the cross-entropy.
        bf16: autocast.
        net: options of `MoleculeDenoiser`.
        began_with: what the initial weights were called; `None` for random ones.
    """

    steps: int = 20_000
    t_star: int | None = None
    seed: int = 0
    batch_size: int = 64
    lr: float = 1.5e-3
    muon_lr: float = 3e-3
    weight_decay: float = 1e-2
    warmup: int = 300
    cooldown: int | None = None
    clip: float = 2.0
    ema: float = 0.999
    element_weight: float = 0.5
    bf16: bool = False
    net: dict[str, Any] = field(default_factory=dict)
    began_with: str | None = None

    @property
    def trained_log_snr(self) -> float | None:
        """Log-SNR of the noisiest level in training; `None` for the full path."""
        return None if self.t_star is None else float(PATH.log_snr(self.t_star / STEPS))


# -- one step --------------------------------------------------------------------------------------


class NoiseLevels:
    """Sigma = b / a: half uniform in t and stratified, half log-normal; cut at t*, if there is one.

    The same random numbers go into both laws with and without t*.
    """

    def __init__(self, t_star: int | None) -> None:
        end = 1.0 if t_star is None else t_star / STEPS
        sigma_star = math.inf if t_star is None else self._sigma(torch.tensor(end)).item()
        self.in_time = TruncatedTimesteps.uniform(end, sharded=False)
        self.in_sigma = TruncatedTimesteps.log_normal(
            sigma_star, *LOG_SIGMA, stratified=False, sharded=False
        )

    def draw(self, batch: int, generator: torch.Generator) -> Tensor:
        """Levels (B,) of a global batch of two or more."""
        uniform = self._sigma(self.in_time.sample(batch // 2, generator))
        normal = self.in_sigma.sample(batch - batch // 2, generator)
        return torch.cat([uniform, normal]).clamp_min(2e-3)

    @staticmethod
    def _sigma(t: Tensor) -> Tensor:
        return torch.exp(-0.5 * PATH.log_snr(t.double())).float()


def losses(
    model: MoleculeDenoiser,
    x0: Tensor,
    mask: Tensor,
    sigma: Tensor,
    noise: Tensor,
    position_std: float,
) -> tuple[Tensor, Tensor]:
    """Weighted squared error of positions per degree of freedom, cross-entropy per atom.

    Args:
        model: the denoiser, compiled or not.
        x0: clean molecules (B, N, 3+F).
        mask: (B, N).
        sigma: noise levels (B,).
        noise: standard normal (B, N, 3+F), of any mean, padding included.
        position_std: of the model's configuration.

    Returns:
        two means over the batch, ().
    """
    noise = noise * mask[..., None]
    noise = torch.cat([remove_mean(noise[..., :3], mask), noise[..., 3:]], -1)
    predicted = model(x0 + sigma[:, None, None] * noise, sigma, mask)
    c_out_square = (sigma * position_std).square() / (sigma.square() + position_std**2)
    error = (predicted.sample[..., :3].float() - x0[..., :3]).square().sum((1, 2))
    n_atoms = mask.sum(1)
    position = (error / c_out_square / (3 * (n_atoms - 1).clamp_min(1))).mean()
    element = x0[..., 3 : 3 + predicted.logits.shape[-1]].argmax(-1)
    entropy = torch.nn.functional.cross_entropy(
        predicted.logits.float().transpose(1, 2), element, reduction="none"
    )
    return position, ((entropy * mask).sum(1) / n_atoms).mean()


class Batches:
    """Batches of molecules of nearly one size, the same for the same seed and step."""

    def __init__(self, n_atoms: Tensor, batch_size: int, seed: int, pool: int = 32) -> None:
        self.n_atoms, self.batch_size, self.seed, self.pool = n_atoms, batch_size, seed, pool
        self._epoch, self._rows = -1, torch.empty(0, dtype=torch.long)

    def __len__(self) -> int:
        return len(self.n_atoms) // self.batch_size

    def rows(self, step: int) -> Tensor:
        """Molecules of one step, (batch_size,)."""
        epoch, index = divmod(step, len(self))
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(self.seed * 7919 + epoch)
            order = torch.randperm(len(self.n_atoms), generator=generator)
            order = order[: len(self) * self.batch_size]
            chunks = order.split(self.batch_size * self.pool)
            by_size = torch.cat([c[self.n_atoms[c].argsort(stable=True)] for c in chunks])
            batches = by_size.view(-1, self.batch_size)
            self._rows = batches[torch.randperm(len(batches), generator=generator)]
            self._epoch = epoch
        return self._rows[index]


def learning_rate(step: int, recipe: Recipe, spent: float | None = None) -> float:
    """Factor of the base rate: a linear rise, then a fall to 1%.

    The fall is a cosine over all that is left, or, with a `cooldown`, one minus the square root of
    the progress through the last steps alone (Hägele et al. 2024): such a run can be made longer
    while its rate is still constant. A run of a given time has the last third of it as cooldown.

    Args:
        step: Number of the step, from 0.
        recipe: Recipe of the run.
        spent: Share of its time that is over, for a run of a given time.
    """
    if step < recipe.warmup:
        return (step + 1) / recipe.warmup
    if spent is not None:
        progress = 3 * spent - 2
    elif recipe.cooldown is not None:
        progress = 1 - (recipe.steps - step) / max(1, recipe.cooldown)
    else:
        progress = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
        return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return 0.01 + 0.99 * (1 - math.sqrt(min(1.0, max(0.0, progress))))


def optimizers_of(model: MoleculeDenoiser, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the matrices between hidden streams, AdamW for everything else."""
    hidden, rest = [], []
    for name, parameter in model.named_parameters():
        is_hidden = parameter.ndim == 2 and name.startswith("layers")
        (hidden if is_hidden and recipe.muon_lr else rest).append(parameter)
    decay = recipe.weight_decay
    made: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(rest, lr=recipe.lr, betas=(0.9, 0.98), weight_decay=decay)
    ]
    if hidden:
        from batched_muon import BatchedMuon  # its base is in torch from 2.9 on

        made.append(
            BatchedMuon(
                hidden, lr=recipe.muon_lr, weight_decay=decay, adjust_lr_fn="match_rms_adamw"
            )
        )
    for optimizer in made:
        for group in optimizer.param_groups:
            group["base_lr"] = group["lr"]
    return made


# -- the run ---------------------------------------------------------------------------------------


class Run:
    """A training run in a folder.

    Args:
        recipe: Recipe that decides its weights.
        folder: Folder of the run. Where it holds a state, the run goes on from it.
        device: Device that it is trained on.
        initial: Network of the same sizes to begin with, where the folder holds no state.

    Attributes:
        recipe: what decides its weights.
        folder: holds `state.pt` and `metrics.jsonl`.
        model: the network, at the latest step.
        average: its averaged weights, by name.
        step: optimizer steps done.
    """

    def __init__(
        self,
        recipe: Recipe,
        folder: Path,
        device: torch.device,
        initial: MoleculeDenoiser | None = None,
    ) -> None:
        if recipe.batch_size % n_processes():
            raise SystemExit(
                f"a batch of {recipe.batch_size} cannot be cut between {n_processes()} processes. "
                "Choose a multiple."
            )
        self.recipe, self.folder, self.device = recipe, folder, device
        torch.manual_seed(recipe.seed)  # initial weights; everything else has its own generator
        self.model = MoleculeDenoiser(**recipe.net).to(device)
        if initial is not None:
            if _options(initial.config) != _options(self.model.config):
                raise SystemExit("the weights to begin with are those of a network of other sizes.")
            self.model.load_state_dict(initial.float().state_dict())
        self.average = {n: p.detach().clone() for n, p in self.model.named_parameters()}
        self.optimizers = optimizers_of(self.model, recipe)
        self.step = 0
        self._nothing = torch.zeros(2, dtype=torch.float64, device=device)
        self._running, self._since = self._nothing.clone(), 0
        if (folder / STATE).exists():
            self._resume()
        elif left := [name for name in (BEST, AVERAGED) if (folder / name).exists()]:
            raise SystemExit(
                f"{folder} holds {left[0]} of a run without its state, which this one would "
                f"replace. Choose another folder; --from {folder / left[0]} begins with them."
            )
        if process_index() == 0:
            folder.mkdir(parents=True, exist_ok=True)
            for left in folder.glob(f".{STATE}.*.tmp"):
                left.unlink()
            self._cut_metrics()

    def train(
        self,
        x: Tensor,
        mask: Tensor,
        log: Log = lambda line: None,
        until: int | None = None,
        minutes: float | None = None,
        save_every: int = 500,
        log_every: int = 100,
        judge: Callable[[Run], dict[str, float]] | None = None,
        judge_every: int = 1000,
        keep_every: float = math.inf,
        compiled: bool = False,
    ) -> None:
        """Go on to the last step.

        Args:
            x: encoded molecules (M, N, 3+F); they stay on the device of the run.
            mask: real atoms (M, N).
            log: gets the lines of metrics on the first process.
            until: stop after this step; the recipe's last one by default.
            minutes: stop after so long, whatever the recipe's steps; one process only. The rate
                falls over the last third, in which nothing is judged but its end.
            save_every: steps between two states.
            log_every: steps between two lines.
            judge: what else to measure every `judge_every` steps, on the first process; of the
                averaged weights that it judged, those of the least held-out loss stay in
                `best.safetensors`.
            judge_every: a multiple of `log_every`.
            keep_every: seconds between two files of averaged weights, `averaged.safetensors`.
            compiled: use `torch.compile` for the layers.
        """
        recipe, rank, world = self.recipe, process_index(), n_processes()
        if minutes is not None and world > 1:
            raise SystemExit("a run of so many minutes has one process; give --steps instead.")
        if recipe.batch_size > len(x):
            raise SystemExit(
                f"a batch of {recipe.batch_size} is larger than the {len(x)} molecules."
            )
        if compiled:  # one layer is compiled, and serves all: in a minute and not in several
            torch._dynamo.config.recompile_limit = 64  # beyond it, layers would silently be eager
            for layer in self.model.layers:
                layer.compile(dynamic=True)
        n_atoms = mask.sum(1).cpu()
        x, mask = x.to(self.device), mask.to(self.device)
        batches = Batches(n_atoms, recipe.batch_size, recipe.seed)
        levels = NoiseLevels(recipe.t_star)
        began, timed = time.perf_counter(), 0
        start = kept = began
        bound = recipe.steps if minutes is None else math.inf
        bound = bound if until is None else min(bound, until)
        spent: float | None = None
        while self.step < bound:
            if minutes is not None:
                spent = (time.perf_counter() - start) / (60 * minutes)
                if spent >= 1:
                    break
            rows = batches.rows(self.step)
            width = int(n_atoms[rows].max())
            seed = recipe.seed * 1_000_003 + self.step
            generator = torch.Generator().manual_seed(seed)
            sigma = levels.draw(len(rows), generator).to(self.device)
            if self.device.type == "cuda":  # the host would be too slow
                generator = torch.Generator(self.device).manual_seed(seed)
            noise = torch.randn(
                *(len(rows), width, x.shape[-1]), generator=generator, device=self.device
            )
            rows = rows.to(self.device)
            part = [
                whole[rank::world] for whole in (x[rows, :width], mask[rows, :width], sigma, noise)
            ]
            with torch.autocast(self.device.type, torch.bfloat16, enabled=recipe.bf16):
                position, element = losses(self.model, *part, self.model.config.position_std)
                loss = position + recipe.element_weight * element
            self._update(loss, spent)
            self.step += 1
            self._running += torch.stack([position.detach(), element.detach()])
            self._since, timed = self._since + 1, timed + 1
            is_last = minutes is None and self.step == recipe.steps
            if self.step % log_every == 0 or is_last:
                is_falling = spent is not None and spent > 2 / 3  # which needs all of its time
                is_judged = is_last or (self.step % judge_every == 0 and not is_falling)
                self._report(timed, began, judge if is_judged else None, log)
                began, timed = time.perf_counter(), 0
            if self.step % save_every == 0 or self.step == bound:
                self.save()
            if rank == 0 and time.perf_counter() - kept > keep_every:
                write_averaged(self.state(), self.folder / AVERAGED)
                kept = time.perf_counter()
        if minutes is not None:  # which step is the last one is known only now
            if self._since or judge is not None:
                self._report(timed, began, judge, log)
            self.save()
        if rank == 0 and math.isfinite(keep_every):
            write_averaged(self.state(), self.folder / AVERAGED)

    def _report(
        self,
        timed: int,
        began: float,
        judge: Callable[[Run], dict[str, float]] | None,
        log: Log,
    ) -> None:
        """A line of metrics: of the last `timed` steps, since `began`."""
        line: dict[str, float] = {"step": self.step}
        if self._since:
            line["position"], line["element"] = self._means()  # which waits for the device
            line["steps_per_second"] = timed / (time.perf_counter() - began)
        if process_index():
            return
        if judge is not None:
            line |= self._judged(judge)
        with (self.folder / METRICS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        log(line)

    def averaged(self) -> MoleculeDenoiser:
        """A network of its own with the averaged weights, that knows how far it was trained."""
        return averaged(self.state())

    def _judged(self, judge: Callable[[Run], dict[str, float]]) -> dict[str, float]:
        """What `judge` finds; the averaged weights are kept if none before had less loss."""
        found = judge(self)
        loss = found["valid_position"] + self.recipe.element_weight * found["valid_element"]
        best = self.folder / BEST
        before = float(metadata_of(best)["loss"]) if best.exists() else math.inf
        if loss < before:
            write_averaged(self.state(), best, loss=loss)
        return found

    def state(self) -> dict[str, Any]:
        """Everything that a run needs to go on."""
        return {
            "step": self.step,
            "config": _options(self.model.config),
            "recipe": asdict(self.recipe),
            "trained_log_snr": self.recipe.trained_log_snr,
            "model": self.model.state_dict(),
            "average": self.average,
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "running": self._running,
            "since": self._since,
        }

    def save(self) -> None:
        """Replace the state file, from the first process; on disk before it takes the name."""
        if n_processes() > 1:  # the sums of all: every process goes on from this file
            dist.all_reduce(self._running)
            self._running /= n_processes()
        if process_index() == 0:
            with replacing(self.folder / STATE) as temporary, temporary.open("wb") as file:
                torch.save(self.state(), file)
                file.flush()
                os.fsync(file.fileno())
        if n_processes() > 1:
            dist.barrier()

    def _update(self, loss: Tensor, spent: float | None = None) -> None:
        """Gradients, averaged over the processes; one step of the weights and of their average."""
        recipe = self.recipe
        rate = learning_rate(self.step, recipe, spent)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["base_lr"] * rate
            optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if n_processes() > 1:
            gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
            together = torch.cat([gradient.flatten() for gradient in gradients])
            dist.all_reduce(together)
            together /= n_processes()
            pieces = together.split([gradient.numel() for gradient in gradients])
            for gradient, piece in zip(gradients, pieces, strict=True):
                gradient.copy_(piece.view_as(gradient))
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), recipe.clip)
        for optimizer in self.optimizers:
            optimizer.step()
        decay = min(recipe.ema, (2 + self.step) / (11 + self.step))
        with torch.no_grad():
            values = [value for _, value in self.model.named_parameters()]
            torch._foreach_lerp_(list(self.average.values()), values, 1 - decay)

    def _means(self) -> list[float]:
        """Mean losses since the last line, over all processes."""
        if n_processes() > 1:
            dist.all_reduce(self._running)
        means: list[float] = (self._running / (n_processes() * self._since)).tolist()
        self._running, self._since = self._nothing.clone(), 0
        return means

    def _resume(self) -> None:
        file = self.folder / STATE
        state = torch.load(file, map_location=self.device, weights_only=True)
        kept, asked = state.get("recipe", {}), asdict(self.recipe)
        own = ("steps", "cooldown", "net", "began_with")  # a longer run; judged below; a name
        other = [k for k in kept if k not in own and kept[k] != asked[k]]
        if _options(state["config"]) != _options(self.model.config):
            other.append("net")
        if other:
            raise SystemExit(
                f"{file} was trained with another {', '.join(other)}. Go on with the same options, "
                "or choose another folder."
            )
        self.model.load_state_dict(state["model"])
        self.average = state["average"]
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step = state["step"]
        self._running = state.get("running", self._running).to(self.device)
        self._since = state.get("since", 0)

    def _cut_metrics(self) -> None:
        """Drop the lines behind the state, and half a line at the end."""
        file = self.folder / METRICS
        if not file.exists():
            return
        lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if line.endswith("\n")]
        kept = [line for line in kept if json.loads(line)["step"] <= self.step]
        if kept != lines:
            with replacing(file) as temporary:
                temporary.write_text("".join(kept), encoding="utf-8")


def averaged(state: Mapping[str, Any]) -> MoleculeDenoiser:
    """The network of a state with the averaged weights, that knows how far it was trained."""
    model = MoleculeDenoiser(**state["config"])
    model.load_state_dict(state["average"])
    record_trained(model, state.get("trained_log_snr"))
    return model


def write_averaged(state: Mapping[str, Any], file: Path, **about: float) -> None:
    """The averaged weights in half precision: all that a shipped model needs of a state.

    Args:
        state: State of a run.
        file: File to write. It is replaced as a whole.
        **about: Numbers that its metadata say besides.
    """
    told = {name: state.get(name) for name in ("step", "config", "trained_log_snr")} | about
    metadata = {name: json.dumps(value) for name, value in told.items()}
    weights = {name: value.half().cpu().contiguous() for name, value in state["average"].items()}
    with replacing(file) as temporary:
        temporary.write_bytes(save(weights, metadata=metadata))


def metadata_of(file: Path) -> dict[str, Any]:
    """What `write_averaged` noted in a file."""
    with safe_open(file, "pt") as opened:
        return {name: json.loads(value) for name, value in opened.metadata().items()}


def read_averaged(file: Path) -> dict[str, Any]:
    """What `averaged` needs, from a state or from a file of `write_averaged`."""
    if file.suffix == ".safetensors":
        return metadata_of(file) | {"average": load_file(file)}
    state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    return state


@torch.no_grad()
def validate(
    model: MoleculeDenoiser, x: Tensor, mask: Tensor, t_star: int | None, batch_size: int = 64
) -> dict[str, float]:
    """Losses on held-out molecules, with the same levels up to t* and the same noise every time.

    Args:
        model: the network.
        x: encoded molecules (M, N, 3+F).
        mask: real atoms (M, N).
        t_star: of the levels, whatever the network was trained on.
        batch_size: molecules in one call.
    """
    generator, levels = torch.Generator().manual_seed(0), NoiseLevels(t_star)
    device, total = next(model.parameters()).device, torch.zeros(2)
    for x0, atoms in zip(x.split(batch_size), mask.split(batch_size), strict=True):
        sigma = levels.draw(len(x0), generator)
        noise = torch.randn(x0.shape, generator=generator)
        part = (whole.to(device) for whole in (x0, atoms, sigma, noise))
        found = losses(model, *part, model.config.position_std)
        total += torch.stack(found).cpu() * len(x0)
    position, element = (total / len(x)).tolist()
    return {"valid_position": position, "valid_element": element}


def sizes_of(model: MoleculeDenoiser) -> dict[str, int]:
    """Options of a network that are sizes, as `Recipe.net` has them."""
    names = ("width", "pair_width", "n_layers", "n_vectors", "n_heads")
    return {name: model.config[name] for name in names}


def _options(config: Mapping[str, Any]) -> dict[str, Any]:
    """What makes a network of the same kind, however far it was trained."""
    kept = {k: v for k, v in config.items() if not k.startswith("_") and k != "t_star_log_snr"}
    return kept | {"elements": list(kept["elements"])}
