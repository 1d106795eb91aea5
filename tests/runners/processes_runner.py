"""Groups of processes under gloo, each going through the same scenes; see `test_distributed.py`.

    python tests/runners/processes_runner.py FOLDER

One interpreter imports everything once and forks the groups one after the other. Process r of W
leaves what it saw in `FOLDER/W-r.pt`; a process that is killed leaves nothing.
"""

import os
import signal
import sys
import traceback
from pathlib import Path

import torch
import torch.distributed as dist

from gaga_adapter import GAGAScheduler, GAGAStats, TruncatedTimesteps, compare, distributed, fit
from gaga_adapter.criteria import Cumulant
from gaga_adapter.distributed import Processes
from gaga_adapter.errors import DataError
from gaga_adapter.layout import DenseLayout, MoleculeLayout
from gaga_adapter.molecules.data import MoleculeSet
from gaga_adapter.molecules.denoiser import MoleculeDenoiser
from gaga_adapter.molecules.metrics.evaluate import evaluate
from gaga_adapter.molecules.pieces import sample_sdf
from gaga_adapter.molecules.pipeline import MoleculePipeline, edm_scheduler
from gaga_adapter.streaming import collect
from gaga_adapter.subspace import mask_from_sizes, project

distributed._EVERY = 0.005  # seconds between two meetings: many of them in every scene
SCENES = {}
COUNTS = (1, 2, 3)


def scene(function):
    SCENES[function.__name__] = function
    return function


# -- the material --------------------------------------------------------------------------------


def batches(n_batches=7):
    """Batches of molecules, uneven in number and in width."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for k in range(n_batches):
        sizes = torch.randint(3, 5 + k % 3, (90 + 10 * k,), generator=generator)
        mask = mask_from_sizes(sizes)
        x = torch.randn(*mask.shape, 8, generator=generator, dtype=torch.float64)
        made.append((project(x**3 / 3, mask).float(), mask))
    return made


def dense_batches(n_batches=5):
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(400, 2, 3, generator=generator) * 3 - 1 for _ in range(n_batches)]


def pipeline():
    torch.manual_seed(0)
    denoiser = MoleculeDenoiser(width=16, pair_width=8, n_layers=1, n_vectors=2, n_heads=2)
    made = MoleculePipeline(denoiser, edm_scheduler(), [0, 0, 0, 5, 5, 5])
    made.scheduler = GAGAScheduler.from_pretrained(made.scheduler, stats=statistics())
    return made


def statistics():
    found = collect(batches(), MoleculeLayout(), 10, sharing="alone")
    return GAGAStats(MoleculeLayout(), found.moments, 0.0)


def molecules():
    generator = torch.Generator().manual_seed(2)
    pairs = []
    for k in range(25):
        n = 2 + k % 4
        x = torch.arange(n)[:, None] * torch.tensor([1.1, 0, 0])
        x = x + 0.1 * torch.randn(n, 3, generator=generator)
        pairs.append((x.numpy(), [6, 1, 8, 1, 1][:n]))
    return MoleculeSet.from_list(pairs)


def told(error):
    """An error as what it is, what it says, and what caused it."""
    return type(error).__name__, str(error), str(error.__cause__)


def failing(work):
    """The error of some work, which must have one."""
    try:
        work()
    except Exception as error:
        return told(error)
    return None


# -- the scenes ----------------------------------------------------------------------------------


@scene
def moments(folder):
    """Dealt from one stream, or read as a share of one's own."""
    run = Processes.of_the_run()
    found = {}
    for sharing in ("deal", "own"):
        data = iter(batches())
        if sharing == "own":
            data = batches()[run.index :: run.count]
        generator = torch.Generator().manual_seed(3)
        whole = collect(data, MoleculeLayout(), 100, generator=generator, sharing=sharing)
        if whole is not None:
            found[sharing] = (whole.moments.state_dict(), whole.x, whole.mask)
    return found


@scene
def few_batches(folder):
    """One batch for all: the others have none."""
    whole = collect(batches(1), MoleculeLayout(), 10, generator=torch.Generator().manual_seed(3))
    return None if whole is None else whole.moments.state_dict()


@scene
def layout_of_one(folder):
    """Only the first process has a batch to read the layout off."""
    run = Processes.of_the_run()
    whole = collect(batches(1)[run.index :: run.count], None, 10, sharing="own")
    return None if whole is None else (whole.layout.n_features, whole.moments.count)


@scene
def no_batches(folder):
    return failing(lambda: collect([], MoleculeLayout(), 10))


@scene
def fitted(folder):
    """Curve, t* and interval, the same on all."""
    heard = []
    stats = fit(
        dense_batches(),
        DenseLayout((2, 3)),
        criterion=Cumulant(),
        n_criterion=1000,
        tolerance=0.5,
        seed=5,
        progress=lambda what, done, total: heard.append((what, done)),
    )
    return stats.to_dict(), stats.moments.state_dict(), heard


@scene
def compared(folder):
    """One criterion that can judge these data, and one that cannot."""
    found = compare(dense_batches(), DenseLayout((2, 3)), [Cumulant(), "ks_mi"], n_criterion=1000)
    return {
        name: (v.reason, v.curve.to_dict() if v.curve else None)
        for name, v in found.verdicts.items()
    }


@scene
def alone(folder):
    """One process works by itself: nobody else comes."""
    if process_is(0):
        whole = collect(batches(2), MoleculeLayout(), 10, sharing="alone")
        return whole.moments.count
    return None


@scene
def bad_data(folder):
    """A batch that one process reads is not finite."""
    data = batches()
    data[1][0][3, 0, 0] = torch.nan
    return failing(lambda: collect(data, MoleculeLayout(), 10))


@scene
def broken_reader(folder):
    """What reads the last process's share has a fault of its own."""

    def stream():
        for k, batch in enumerate(batches()):
            if k == 4 and process_is(-1):
                raise OSError("the disk is gone")
            yield batch

    return failing(lambda: collect(stream(), MoleculeLayout(), 10))


@scene
def failing_criterion(folder):
    """The first process alone draws the curve: its failure is everybody's."""
    few = [batch[:2] for batch in dense_batches()]
    return failing(lambda: fit(few, DenseLayout((2, 3)), criterion=Cumulant(), n_criterion=10))


@scene
def failing_merge(folder):
    def merge(one, other):
        raise DataError("cannot be merged")

    return failing(lambda: Processes.of_the_run().merged(1, merge))


@scene
def order(folder):
    """Whatever is merged is merged in the order of the ranks."""
    run = Processes.of_the_run()
    gathered = distributed.gathered(torch.full((2, 1), run.index))
    return run.everyones(run.index), run.merged(str(run.index), str.__add__), gathered


@scene
def uneven_work(folder):
    """Each process has other amounts to do; the first hears of all of it."""
    run = Processes.of_the_run()
    heard = []
    with run.in_step(heard.append) as tick:
        for done in range(1, 40 * run.index + 2):
            torch.randn(20_000)
            tick(done)
    return heard


@scene
def long_conclusion(folder):
    """Those who wait hear from the first process while it works."""

    def work(beat):
        for _ in range(50):
            torch.randn(20_000)
            beat()
        return "done"

    return Processes.of_the_run().by_first(work)


@scene
def timesteps(folder):
    """One generator seed on all processes, one global batch."""
    generator = torch.Generator().manual_seed(7)
    n_steps = 64 // distributed.n_processes()
    continuous = TruncatedTimesteps.uniform(0.5).sample(n_steps, generator)
    weighted = TruncatedTimesteps.uniform(0.5, importance=True)
    for _ in range(3):
        t = weighted.sample(n_steps, torch.Generator().manual_seed(8))
        weighted.update(t, t.double())
    scheduler = pipeline().scheduler
    table = scheduler.sample_timesteps(n_steps, generator)
    return continuous, table, weighted.weights(torch.linspace(0.01, 0.5, 9)), generator.get_state()


@scene
def sampled(folder):
    """Three pieces, and what a killed run left of them."""
    out = folder / f"{distributed.n_processes()}.sdf"
    done = sample_sdf(pipeline(), out, 21, 4, seed=9, batch_size=2)
    return done, out.read_text(), sorted(path.name for path in folder.glob("*.parts"))


@scene
def sampled_again(folder):
    """A run that is stopped half way, one with other settings, and the first once more."""
    run = Processes.of_the_run()
    out = folder / f"again-{run.count}.sdf"

    def stop(what, done, total):
        if 2 * done > total:
            raise DataError("stopped")

    stopped = failing(lambda: sample_sdf(pipeline(), out, 21, 4, 9, 2, stop))
    parts = out.with_name(f"{out.name}.parts")
    left = run.everyones([int(file.name.split("-")[0]) for file in parts.glob("*.sdf")])[0]
    other = failing(lambda: sample_sdf(pipeline(), out, 21, 5, 9, 2)) if left else None
    done = sample_sdf(pipeline(), out, 21, 4, 9, 2)
    return stopped, left, other, done, out.read_text()


@scene
def different_models(folder):
    """Processes that do not sample from the same model."""
    seed = Processes.of_the_run().index
    return failing(lambda: sample_sdf(pipeline(), folder / "none.sdf", 4, 4, seed))


@scene
def evaluated(folder):
    run = Processes.of_the_run()
    return (
        evaluate(molecules(), {"C"}, run).to_dict(),
        evaluate(molecules().subset([0]), None, run).to_dict(),
    )


def process_is(rank):
    return distributed.process_index() == rank % distributed.n_processes()


# -- processes that die --------------------------------------------------------------------------


def killed_at_work(folder):
    """The last process is killed between two batches, while the others go on."""

    def stream():
        for batch in batches() * 1000:
            if process_is(-1):
                os.kill(os.getpid(), signal.SIGKILL)
            yield batch

    collect(stream(), MoleculeLayout(), 10)


def killed_while_others_wait(folder):
    """The first process is killed while it draws the curve."""

    def work(beat):
        os.kill(os.getpid(), signal.SIGKILL)

    Processes.of_the_run().by_first(work)


def killed_while_sampling(folder):
    """The first process is killed in one of its pieces, when others have ended theirs."""

    def kill(what, done, total):
        if 3 * done > 2 * total:
            os.kill(os.getpid(), signal.SIGKILL)

    sample_sdf(pipeline(), folder / "killed.sdf", 53, 4, 9, 2, kill)


def sampled_after_the_kill(folder):
    """One process finishes what three began."""
    done = sample_sdf(pipeline(), folder / "killed.sdf", 53, 4, 9, 2)
    whole = sample_sdf(pipeline(), folder / "unhurt.sdf", 53, 4, 9, 2)
    same = (folder / "killed.sdf").read_text() == (folder / "unhurt.sdf").read_text()
    return done, whole, same


# -- the groups ----------------------------------------------------------------------------------


def play(rank, n, folder, scenes):
    """One process of a group: all scenes, then leave."""
    if n > 1:
        store = folder / f"{n}-{'-'.join(scenes)[:40]}"
        dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=n)
        dist.barrier()  # or a process that dies at once is gone before the others have met it
    seen = {}
    for name, act in scenes.items():
        seen[name] = failing(lambda: act(folder)) if act in DEATHS else act(folder)  # noqa: B023
    title = f"{n}-{rank}" if scenes is SCENES else f"{'-'.join(scenes)}-{rank}"
    torch.save(seen, folder / f"{title}.pt")


def group(n, folder, scenes):
    """Fork `n` processes and wait for them; how each of them ended."""
    children = []
    for rank in range(n):
        child = os.fork()
        if not child:
            status = 1
            try:
                play(rank, n, folder, scenes)
                status = 0
            except BaseException:
                traceback.print_exc()
            sys.stderr.flush()
            os._exit(status)
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


DEATHS = (killed_at_work, killed_while_others_wait, killed_while_sampling)

if __name__ == "__main__":
    torch.set_num_threads(1)
    place = Path(sys.argv[1])
    for n in COUNTS:
        if any(group(n, place, SCENES)):
            sys.exit(f"a process of {n} failed")
    endings = {act.__name__: group(3, place, {act.__name__: act}) for act in DEATHS}
    after = sampled_after_the_kill
    endings[after.__name__] = group(1, place, {after.__name__: after})
    torch.save(endings, place / "endings.pt")
