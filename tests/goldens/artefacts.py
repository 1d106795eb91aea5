"""Freezes what this package has ever written to disk, with the numbers that it gave then.

    cd tests && python -m goldens.artefacts NAME

makes `goldens/artefacts/NAME`, once, with whatever version of the package is imported, and puts
`then.json` beside it, what that version observes in it (`observe.py`). To add a new kind, write its
maker below and run this at the commit that introduces it. To make an old one again, take the commit
of its row from a clone,

    git clone . ../then && git -C ../then checkout COMMIT
    ln -sn ../integrations ../then/gaga_adapter/integrations
    cd tests && PYTHONPATH=../../then:SITE_PACKAGES python -S -m goldens.artefacts NAME

where SITE_PACKAGES has the libraries, and the package itself is not installed in an editable way.

    python -m goldens.artefacts --then NAME    writes `then.json` of a folder that is there already
    python -m goldens.artefacts --now NAME     adds what today's version gives otherwise; why it may
                                               is said in `test_old_artefacts.py`

`dense_...`, `molecules` and `..._order_4` were made by `frozen.py` at 0cb5fe3, which is version
0.1.0, `molecules_tensors` by that of 1fc54c2, and `states` by the tests of `noised_states`.
`..._order_4` hold the sums for cumulants that version 0.1 could stream with `max_order=4`, and
`molecules` was written when draws of `shape` scattered around the tensors that `molecules_tensors`
keeps exactly.
"""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from contextlib import contextmanager, suppress
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import torch
from goldens.observe import (
    FOLDER,
    SHAPE,
    THEN,
    Weights,
    dyadic,
    from_json,
    is_same,
    noise_of,
    observe,
    to_json,
)

#: Log-SNRs of the curves, few so that they are small.
CURVE = (4.0, 2.0, 0.0, -2.0, -4.0)


# -- data ------------------------------------------------------------------------------------------


def molecules(n_of_size, layout=None, seed=1):
    """One batch (x, mask), float32, with so many molecules of each size."""
    sizes = [n for n, count in n_of_size.items() for _ in range(count)]
    n_features = 2 if layout is None else layout.n_features
    x, mask = noise_of(sizes, 3, n_features, seed)
    x[..., :3] *= torch.tensor([1.5, 1.0, 0.5])
    if hasattr(layout, "elements"):
        n_types = len(layout.elements)
        types = (x[..., 3] > 0).long() % n_types
        x[..., 3 : 3 + n_types] = torch.nn.functional.one_hot(types, n_types) / layout.onehot_scale
        if layout.charge_scale is not None:
            x[..., -1] = (1.0 + 5 * types) / layout.charge_scale  # H and C
        x = x * mask[..., None]
    x[..., :3] -= x[..., :3].sum(1, keepdim=True) / mask.sum(1)[:, None, None]
    return (x * mask[..., None]).float(), mask


def images(n_images=128, shape=SHAPE):
    """Dense data (B, C, H, W) with channels of two spreads and a common brightness."""
    x = dyadic((n_images, *shape), seed=2)
    scale = torch.tensor([0.5, 2.0]).reshape(2, *[1] * (len(shape) - 1))
    return (scale * (x + x.flatten(1)[:, :1].reshape(-1, *[1] * len(shape)))).float()


# -- how each was made -----------------------------------------------------------------------------


@contextmanager
def _few_rows(n_rows):
    """Moments that keep so many molecules of each size, unless they are told otherwise."""
    from gaga_adapter.moments import ExchangeableMoments

    makers = [ExchangeableMoments.__init__]
    with suppress(ModuleNotFoundError):
        makers.append(import_module("gaga_adapter.moments.mixed").MixedMoments.__init__)
    before = [maker.__defaults__ for maker in makers]
    for maker in makers:
        names = list(inspect.signature(maker).parameters)[-len(maker.__defaults__) :]
        known = dict(zip(names, maker.__defaults__, strict=True))
        maker.__defaults__ = tuple((known | {"table_size": n_rows}).values())
    try:
        yield
    finally:
        for maker, defaults in zip(makers, before, strict=True):
            maker.__defaults__ = defaults


def _fit(data, layout, n_rows=6, **options):
    """`fit` with those options that it has, on few levels; its moments keep few rows a size."""
    from gaga_adapter import fit

    usual = {"log_snr": CURVE, "n_criterion": 400, "n_bootstrap": 0}
    known = inspect.signature(fit).parameters
    options = {k: v for k, v in (usual | options).items() if k in known}
    with _few_rows(n_rows):
        return fit(data, layout, **options)


N_OF_SIZE = {3: 30, 4: 240, 6: 20, 9: 10}


def made_molecules(layout=None, n_of_size=None, **options):
    from gaga_adapter.layout import MoleculeLayout

    layout = layout or MoleculeLayout(("H", "C"))
    return _fit([molecules(n_of_size or N_OF_SIZE, layout)], layout, **options)


def made_images(channels=0, **options):
    from gaga_adapter.layout import DenseLayout

    x = images()
    x = x.movedim(1, channels).contiguous() if channels else x
    shape = tuple(x.shape[1:])
    layout = DenseLayout(shape, channels=channels) if channels else DenseLayout(shape)
    return _fit([x], layout, **options)


def atoms(n_features, **options):
    from gaga_adapter.layout import AtomLayout

    return made_molecules(AtomLayout(n_features), **options)


def charges(**options):
    from gaga_adapter.layout import MoleculeLayout

    return made_molecules(MoleculeLayout(("H", "C"), 2.0, 4.0, 10.0), **options)


def tokens():
    from gaga_adapter.layout import TokenLayout

    x, mask = noise_of([3] * 30 + [4] * 240, 0, 2, seed=7)
    return _fit([(x.float(), mask)], TokenLayout(2), tolerance=0.05)


def without_table():
    return made_molecules(reference="size", n_rows=0)


def without_curve():
    return replace(made_molecules(), selection=None, log_snr_star=0.5, provenance={"by": "hand"})


def mixed(kind):
    from gaga_adapter.layout import MoleculeLayout

    layout = MoleculeLayout(("H", "C"), 1.0, 1.0)
    return made_molecules(layout, {3: 30, 4: 240, 9: 30}, reference=kind)


def refined(*without):
    """Refined by both methods, without one of them if it is named."""
    both = made_molecules(n_of_size={3: 400, 4: 1000}, refine=["em", "tilt"], n_refine=1000)
    return replace(both, refinement=replace(both.refinement, **dict.fromkeys(without)))


def states_of_images():
    from gaga_adapter import DenseLayout, fit_states

    def at(level):
        return (1 - level) * images(256) + level * dyadic((256, *SHAPE), seed=9).float()

    return fit_states(at, (0.25, 0.75), DenseLayout(SHAPE), towards="noise", tolerance=5.0)


def joint():
    from gaga_adapter.integrations.flat.joint import fit_joint

    def complexes():
        n = 128
        one, two = dyadic((n * 4, 5), seed=5).float(), dyadic((n * 2, 4), seed=6).float()
        indices = torch.arange(n).repeat_interleave(4), torch.arange(n).repeat_interleave(2)
        yield (one, indices[0]), (two, indices[1])

    with _few_rows(6):
        return fit_joint(complexes, (2, 1), log_snr=CURVE, n_bootstrap=0, tolerance=1.0)


def scheduler(name="DDIMScheduler", base=None, trained=None, levels=False, **options):
    import diffusers

    from gaga_adapter import GAGAScheduler

    stats = replace(made_images(), provenance={})
    if levels:
        stats = stats.with_levels(fitted_levels(stats))
    inner = getattr(diffusers, name)(**(base or {}))
    if options.pop("few_step", False):
        from gaga_adapter import FewStepScheduler

        inner = FewStepScheduler.from_scheduler(inner)
    made = GAGAScheduler.from_pretrained(inner, stats=stats, **options)
    if trained is not None:
        made.keep_within(trained)
    return made


def fitted_levels(stats, **numbers):
    """Levels as a fit of levels gives them, in whatever fields the version has."""
    try:
        from gaga_adapter.noise.fitted import FittedLevels, ModelMark
    except ModuleNotFoundError:
        from gaga_adapter.fitted_levels import FittedLevels, ModelMark
    known = FittedLevels.__dataclass_fields__
    star = stats.log_snr_star
    values = {
        "log_snrs": (star, star + 1.25, star + 2.5, star + 4.0, star + 5.5, star + 7.0),
        "n_renoised": 2, "model": ModelMark("Toy", 12, (0.5, 0.25)), "distance": 0.75,
        "std_error": 0.125, "even_distance": 2.0, "gain": 1.25, "gain_error": 0.25,
        "reference": stats.reference().kind, "n_items": 64, "seed": 3, "method": "search",
    }  # fmt: skip
    return FittedLevels(**{name: value for name, value in values.items() if name in known})


def with_fitted_levels():
    stats = replace(made_images(), provenance={})
    return stats.with_levels(fitted_levels(stats))


def image_pipeline(**options):
    from diffusers import DDPMPipeline, UNet2DModel

    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=4, in_channels=1, out_channels=1, layers_per_block=1, norm_num_groups=1,
        block_out_channels=(2,), down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",),
        add_attention=False,
    )  # fmt: skip
    from gaga_adapter.layout import DenseLayout

    stats = _fit([dyadic((128, 1, 4, 4), seed=2).float()], DenseLayout((1, 4, 4)))
    from diffusers import DDPMScheduler

    from gaga_adapter import GAGAScheduler

    wrapped = GAGAScheduler.from_pretrained(DDPMScheduler(), stats=stats, handover="step")
    return DDPMPipeline(unet, wrapped)


def molecule_pipeline(trained=True, few_step=False):
    from gaga_adapter import GAGAScheduler, MoleculeDenoiser, MoleculePipeline
    from gaga_adapter.molecules.pipeline import edm_scheduler

    torch.manual_seed(0)
    denoiser = MoleculeDenoiser(
        elements=("H", "C"), width=4, pair_width=2, n_vectors=1, n_layers=1, n_heads=1, n_radial=2
    )
    base = edm_scheduler(n_steps=50)
    if few_step:
        from gaga_adapter import FewStepScheduler

        base = FewStepScheduler.from_scheduler(base)
    # The reference `shape` hashes the bits of the noise, and machines round its mean differently.
    wrapped = GAGAScheduler.from_pretrained(base, stats=made_molecules(), reference="channel")
    if trained:
        from gaga_adapter.training import record_trained

        record_trained(denoiser, wrapped.log_snr_star - 1.0)
    return MoleculePipeline(denoiser, wrapped, [0, 0, 0, 1, 3])


def weights(time=None):
    made = Weights()
    if time is not None:
        from gaga_adapter import trained

        trained.record_training([made.model], trained.Extent(0.5, time), made)
        return made
    from gaga_adapter.training import record_trained

    record_trained(made.model, 0.5)
    return made


V_0_1 = "e530b82"  # version 0.1.0
#: Commit and maker of each artefact. Its numbers of then are by the same commit; but those of
#: `mixed...` are by 700afec, as 4216ea3 could write them and not read them.
MAKERS = {
    "0_0_molecules": ("5635145", made_molecules),
    "0_0_dense": ("5635145", made_images),
    "0_1_molecules": (V_0_1, lambda: made_molecules(by_size=True, n_bootstrap=40)),
    "0_1_charges": (V_0_1, charges),
    "0_1_atoms": (V_0_1, lambda: atoms(1, criterion="cumulant")),
    "0_1_p_values": (V_0_1, lambda: made_molecules(criterion="ks_mi", n_of_size={4: 240, 5: 60})),
    "0_1_no_table": (V_0_1, without_table),
    "0_1_no_curve": (V_0_1, without_curve),
    "0_1_weights": (V_0_1, weights),
    "0_1_image_pipeline": (V_0_1, image_pipeline),
    "0_1_molecule_pipeline": (V_0_1, molecule_pipeline),
    "0_1_scheduler_suffix": (V_0_1, scheduler),
    "0_1_scheduler_respace": (
        V_0_1, lambda: scheduler("EulerDiscreteScheduler", spacing="respace", handover="scale")
    ),
    "0_1_scheduler_hook": (V_0_1, lambda: scheduler("PNDMScheduler", handover="hook")),
    "0_1_scheduler_trained": (
        V_0_1,
        lambda: scheduler(
            "DPMSolverMultistepScheduler", handover="init", t_star=500.0, trained=-3.0,
            reference="paper",
        ),
    ),
    "0_0_scheduler": ("886dd05", lambda: scheduler("DDPMScheduler", handover="step")),
    "several_bounds": ("b54fc28", lambda: made_molecules(criterion=["two_sample", "cumulant"])),
    "channels_last": ("5711619", lambda: made_images(channels=-1)),
    "tokens": ("5711619", tokens),
    "weights_with_time": ("f349496", lambda: weights(0.25)),
    "refined_scattered": ("3cba11f", lambda: refined("weights")),
    "tensors_as_schema_1": ("7559ce9", made_molecules),
    "refined_em": ("e86e49d", lambda: refined("tilt")),
    "refined_tilt": ("e86e49d", lambda: refined("weights")),
    "refined_both": ("e86e49d", refined),
    "levels_of_search": ("5f2acd9", with_fitted_levels),
    "levels": ("3a63430", with_fitted_levels),
    "scheduler_log_snr": (
        "102fbcd", lambda: scheduler("EulerDiscreteScheduler", spacing="log_snr")
    ),
    "scheduler_few_step": ("3a63430", lambda: scheduler(few_step=True, levels=True)),
    "scheduler_fitted": (
        "3a63430", lambda: scheduler(few_step=True, levels=True, spacing="fitted")
    ),
    "few_step_pipeline": (
        "3a63430", lambda: molecule_pipeline(trained=False, few_step=True)
    ),
    "positions": ("ceef7e9", lambda: atoms(0)),
    "mixed": ("4216ea3", lambda: mixed("mixed")),
    "mixed_order": ("4216ea3", lambda: mixed("mixed_order")),
    "mixed_size": ("4216ea3", lambda: mixed("mixed_size")),
    "states_dense": ("2259cd2", states_of_images),
    "joint": ("ceef7e9", joint),
}  # fmt: skip


def main(arguments):
    import gaga_adapter

    flags = {one for one in arguments if one.startswith("--")}
    version = subprocess.run(
        ["git", "describe", "--always", "--abbrev=7"],
        cwd=Path(gaga_adapter.__file__).parent, capture_output=True, text=True,
    ).stdout.strip()  # fmt: skip
    for name in [one for one in arguments if one not in flags]:
        folder = FOLDER / name
        if not folder.is_dir() and not flags:
            MAKERS[name][1]().save_pretrained(folder)
        values = observe(folder)
        document = {"commit": version, "values": {k: to_json(v) for k, v in values.items()}}
        if "--now" in flags:
            document = json.loads((folder / THEN).read_text(encoding="utf-8"))
            changed = {
                key: to_json(values[key])
                for key, value in document["values"].items()
                if not is_same(key, values[key], from_json(value))
            }
            document = {**document, "now": changed} if changed else document
        text = json.dumps(document, separators=(",", ":")).replace('},"', '},\n"')
        (folder / THEN).write_text(text + "\n", encoding="utf-8", newline="\n")
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        print(f"{name}: {size:,} bytes, {len(values)} numbers and texts, by {version}")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    main(sys.argv[1:])
