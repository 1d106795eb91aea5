"""Molecules with the model that ships with the package: in full, and from t* = 400.

The statistics of QM9 ship with the package, too; for molecules of your own see `gaga fit`.
"""

import torch

from gaga_adapter import GAGAScheduler, MoleculePipeline
from gaga_adapter.molecules.formats import write_sdf
from gaga_adapter.molecules.metrics import evaluate

pipe = MoleculePipeline.load()
pipe.set_progress_bar_config(disable=True)
full = pipe(16, num_inference_steps=100, generator=torch.Generator().manual_seed(0))

pipe.scheduler = GAGAScheduler.from_pretrained(pipe.scheduler, stats="qm9", t_star=400)
short = pipe(16, num_inference_steps=100, generator=torch.Generator().manual_seed(0))

for name, sampled in (("full", full), ("from t* = 400", short)):
    metrics = evaluate(sampled.molecules)
    print(
        f"{name:>14}: {sampled.network_calls} network calls, "
        f"{100 * metrics.atom_stability.value:.0f} % of the atoms stable"
    )
write_sdf(short.molecules, "molecules.sdf")
print("wrote molecules.sdf")
