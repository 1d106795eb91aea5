"""The forks of EDM and GeoLDM as cases of the contract, made of the checkout that one stands in.

Each is a few lines: what its class and its network are called with, and what its methods take
beyond those of EDM. Packages that a checkout imports and these models do not use may be missing.
"""

import dataclasses
import functools
import importlib
import itertools
import tempfile
from collections.abc import Mapping

import torch

from gaga_adapter import GAGAStats, testing
from gaga_adapter.testing.adapter.case import raises

#: Packages that the checkouts import, and that these models do not use.
UNUSED = (
    *("IPython", "torch_scatter", "torch_geometric", "torch_cluster", "torch_sparse", "sympy"),
    *("wandb", "imageio", "msgpack", "timm", "openbabel"),
)
ALL = frozenset({"schedule", "loss", "charges", "context"})


@dataclasses.dataclass
class Fork(testing.Case):
    """One fork.

    Attributes:
        module: Module of the class.
        networks: Module of the networks.
        kind: Name of the class.
        of_model: Options of the class beyond EDM's.
        of_network: Options of the network beyond EDM's.
        of_calls: What `sample`, `sample_chain` and `loss` take beyond EDM's, by their name; a
            tensor is one row, for each molecule.
        even: Whether a loss needs an even number of molecules.
        adapter: Name of the adapter that must take the model.
    """

    make: object = None
    module: str = "equivariant_diffusion.en_diffusion"
    networks: str = "egnn.models"
    kind: str = "EnVariationalDiffusion"
    of_model: Mapping = dataclasses.field(default_factory=dict)
    of_network: Mapping = dataclasses.field(default_factory=dict)
    of_calls: Mapping = dataclasses.field(default_factory=dict)
    even: bool = False
    adapter: str = ""

    def __post_init__(self):
        latent = self.kind == "EnLatentDiffusion"
        self.make = functools.partial(make_latent if latent else make, self)

    def more(self, model, method, n_samples):
        given = self.of_calls.get(method, {})
        if callable(given):
            given = given(self)
        return {
            name: value.expand(n_samples, *value.shape[1:]) if torch.is_tensor(value) else value
            for name, value in given.items()
        }

    def sample(self, model, sizes=testing.SIZES, seed=1, **options):
        with torch.enable_grad():  # as the scripts call it; an energy needs it
            drawn = self._run(model, "sample", sizes, seed, options)
        return tuple(tensor.detach() for tensor in drawn)

    def loss(self, model, sizes=testing.SIZES, seed=1):
        odd = self.even and len(sizes) % 2
        return super().loss(model, (*sizes, *sizes[:odd]), seed)

    def context(self, model, node_mask):
        given = self.of_calls.get("context")
        return super().context(model, node_mask) if given is None else given(node_mask)


def network(fork, n_in, n_context, **options):
    kind = importlib.import_module(fork.networks).EGNN_dynamics_QM9
    small = {"hidden_nf": 8, "n_layers": 1, "attention": True, "tanh": True, "inv_sublayers": 1}
    given = {"n_dims": 3, "device": "cpu", "context_node_nf": n_context, **small}
    return kind(in_node_nf=n_in + 1, **{**given, **fork.of_network, **options})


def make(fork, n_steps, schedule="polynomial_2", loss="l2", charges=True, context=0, **options):
    torch.manual_seed(0)
    features = options.pop("features", 5 + charges)
    shared = {"norm_values": (1.0, 4.0, 10.0), "include_charges": charges}
    given = {
        "dynamics": network(fork, features, context),
        "in_node_nf": features,
        "n_dims": 3,
        "timesteps": n_steps,
        "noise_schedule": schedule,
        "noise_precision": 1e-4,
        **shared,
        **fork.of_model,
        **options,
    }
    kind = getattr(importlib.import_module(fork.module), fork.kind)
    if fork.verbs & {"loss"} or "loss_type" in kind.__init__.__code__.co_varnames:
        given["loss_type"] = loss
    return kind(**given).eval()


def make_latent(fork, n_steps, charges=True, context=0, trainable=False, **options):
    torch.manual_seed(0)
    module, networks = map(importlib.import_module, (fork.module, fork.networks))
    coder = {
        "context_node_nf": context,
        "n_dims": 3,
        "device": "cpu",
        "hidden_nf": 8,
        "n_layers": 1,
        "include_charges": charges,
    }
    vae = module.EnHierarchicalVAE(
        encoder=networks.EGNN_encoder_QM9(in_node_nf=5 + charges, out_node_nf=2, **coder),
        decoder=networks.EGNN_decoder_QM9(in_node_nf=2, out_node_nf=5 + charges, **coder),
        in_node_nf=5 + charges,
        n_dims=3,
        latent_node_nf=2,
        kl_weight=0.01,
        include_charges=charges,
    )
    latent = {"vae": vae, "trainable_ae": trainable, "features": 2}
    return make(fork, n_steps, charges=charges, context=context, **latent, **options)


class Energy:
    """A linear energy of EEGSDE, which remembers the times that it was asked for."""

    def __init__(self):
        self.times = []

    def phi(self, z, t, node_mask, edge_mask):
        self.times.append(float(t.flatten()[0]))
        return 0.1 * (z * node_mask).sum((1, 2))[:, None]


def _columns(node_mask, n=1):
    return torch.linspace(-1, 1, n * len(node_mask)).view(-1, 1, n) * node_mask


_GUIDED = {"sample": lambda case: {"guidance": Energy(), "l": 0.5}, "context": _columns}
_TWICE = {
    "sample": lambda case: {"guidance": Energy(), "l": 0.5, "guidance2": Energy(), "l2": 0.2},
    "context": functools.partial(_columns, n=2),
}
_REP = {"rep": torch.linspace(-1, 1, 4)[None]}
_SAMPLES = frozenset({"sample", "fix_noise"})
_STEPS = {"sample": lambda case: {"timestep": case.n_steps}}

FORKS = {
    "paper": Fork(
        "GAGA (the paper)",
        of_calls={"loss": lambda case: {"max_t": case.n_steps}},
        adapter="paper",
    ),
    "unigem": Fork(
        "UniGEM",
        options=frozenset({"schedule", "loss", "charges"}),
        of_network={
            "mode": "DGAP",
            "n_layers": 2,
            "branch_layers_num": 1,
            "prediction_threshold_t": 2,
            "atom_type_pred": True,
            "property_pred": True,
        },
        of_model={
            "prediction_threshold_t": 2,
            "atom_type_pred": True,
            "property_pred": True,
            "sep_noisy_node": True,
        },
        of_calls={"loss": {"property_label": torch.zeros(1)}},
        even=True,
        loses_class=False,
        adapter="unigem",
    ),
    "georcg": Fork(
        "GeoRCG",
        options=ALL - {"context"},
        of_network={"rep_dropout_prob": 0.1, "cfg": 0.0, "rep_nf": 4, "attn_dropout": 0.0},
        of_model={"cfg": 0.0},
        of_calls=dict.fromkeys(("sample", "sample_chain", "loss"), _REP),
        adapter="georcg",
    ),
    "edpo": Fork("EDPO", of_calls=_STEPS, adapter="edpo"),
    "eegsde": Fork(
        "EEGSDE, one property",
        module="models_conditional.en_diffusion",
        networks="models_conditional.models",
        options=frozenset({"schedule"}),
        verbs=_SAMPLES,
        of_network={"context_node_nf": 1},
        of_calls=_GUIDED,
        adapter="eegsde",
    ),
    "symdiff": Fork("SymDiff", adapter="symdiff"),
    "chemguide": Fork(
        "ChemGuide",
        module="equivariant_diffusion.cond_en_diffusion_xtb",
        kind="EnLatentDiffusion",
        options=ALL | {"trainable"},
        adapter="chemguide",
    ),
}
#: More classes of the same repositories.
FORKS |= {
    "eegsde_two": dataclasses.replace(
        FORKS["eegsde"],
        name="EEGSDE, two properties",
        module="models_conditional.en_diffusion_multi",
        of_network={"context_node_nf": 2},
        of_calls=_TWICE,
    ),
    "eegsde_free": dataclasses.replace(
        FORKS["eegsde"],
        name="EEGSDE, unconditional",
        module="models_unconditional.en_diffusion",
        networks="models_unconditional.models",
        of_network={},
    ),
    "eegsde_fingerprint": dataclasses.replace(
        FORKS["eegsde"],
        name="EEGSDE, fingerprints",
        module="models_fingerprint.en_diffusion",
        networks="models_fingerprint.models",
        of_network={},
        of_calls={**_GUIDED, "context": functools.partial(_columns, n=1024)},
        options=frozenset({"schedule", "loss", "charges"}),
        verbs=_SAMPLES | {"loss"},
    ),
    "chemguide_plain": dataclasses.replace(
        FORKS["chemguide"],
        name="ChemGuide, without guidance",
        module="equivariant_diffusion.en_diffusion",
        adapter="geoldm",
    ),
}
REPOSITORIES = {
    **{name: f"GAGA_{name.split('_')[0].upper()}_REPO" for name in FORKS},
}


# -- what a fork has beyond the contract -----------------------------------------------------------


def more_checks(name):
    """Checks beyond the contract, and of what only this fork has, by name."""
    fits = (it_is_fitted_from_its_own_batches,) if "loss" in FORKS[name].verbs else ()
    return {check.__name__: check for check in (*fits, *_MORE.get(name, ()))}


def _patched(case, **options):
    from gaga_adapter.integrations import apply_patch

    model = case.model(**options)
    apply_patch(model, case.stats(model), t_star=11)
    return model


def _times(case, model, draw):
    return [
        round(float(t.flatten()[0]) * case.n_steps) for t, _ in case.network_inputs(model, draw)
    ]


def _given(case, model, sizes=(5, 7)):
    node_mask, edge_mask = case.masks(sizes)
    return len(sizes), max(sizes), node_mask, edge_mask, case.context(model, node_mask)


def it_is_fitted_from_its_own_batches(case):
    from gaga_adapter.integrations import apply_patch, fit_from

    model = case.model()
    loader = [case.batch(model, (5, 9, 7, 6, 8) * 8, seed) for seed in range(6)]
    stats = fit_from(
        model,
        loader,
        elements=("H", "C", "N", "O", "F"),
        criterion="cumulant",
        reference="size",
        tolerance=1000.0,
        log_snr=(0.0, -3.0),
        n_bootstrap=0,
    )
    with tempfile.TemporaryDirectory() as folder:
        stats.save_pretrained(folder)
        stats = GAGAStats.from_pretrained(folder)
    assert stats.moments.count == 240
    assert stats.layout.n_channels == case.noise(model).shape[-1]
    apply_patch(model, stats, t_star=11)
    case.sample(model)
    case.loss(model)


def the_shortcut_starts_at_t_star_from_the_fitted_gaussian(case):
    model = _patched(case)
    given = _given(case, model)
    torch.manual_seed(1)
    z = model.sample_combined_position_feature_noise(*given[:3])
    z = z * model.get_variance_t(0.848, 20).sqrt()
    torch.manual_seed(2)
    x, _ = model.sample_shortcut(*given, z=z, start_point=15)
    torch.manual_seed(2)
    assert torch.equal(x, model.sample(*given)[0])
    draw = functools.partial(model.sample_shortcut, *given, z=z, start_point=11)
    assert _times(case, model, draw) == list(range(11, -1, -1))
    for refused in ({"start_point": 8}, {"start_point": 11, "sampling_step_size": 2}):
        with raises(Exception, "does not start at t* = 11"):
            model.sample_shortcut(*given, z=z, **refused)


def weights_are_said_to_be_trained_up_to_a_step(case):
    from gaga_adapter.integrations import apply_patch, remove_patch, trained_to

    trained, model = case.model(), case.model()
    model.load_state_dict(trained.state_dict())
    trained_to(model, 11)
    apply_patch(model, case.stats(model), t_star=11)
    case.sample(model)
    apply_patch(model, case.stats(model), t_star=14)
    with raises(Exception, "knows nothing noisier"):
        case.sample(model)
    remove_patch(model)


def the_threshold_of_elements_is_a_step_of_the_whole_path(case):
    model, seen = _patched(case).train(), []
    inner = model.compute_loss
    model.compute_loss = lambda *a, **k: seen.append(inner(*a, **k)) or seen[-1]
    case.loss(model, sizes=(5,) * 256)
    _, found = seen[0]
    steps, elements = found["t"], found["atom_type_loss"]
    assert set(steps.int().tolist()) == set(range(12))
    assert torch.equal(elements > 0, steps <= model.prediction_threshold_t)
    del model.compute_loss


def fewer_steps_are_taken_from_t_star_on(case):
    from gaga_adapter.integrations.protocol import adapter_for

    model = _patched(case)
    given = _given(case, model)
    name, argument = {"georcg": ("ddim_sample", "S")}.get(case.adapter, ("sample_ddim", "timestep"))
    options = {**case.more(model, "sample", len(given[2])), argument: 5}
    draw = functools.partial(getattr(model, name), *given, **options)
    times = _times(case, model, draw)
    assert times[0] == 11
    assert times[-1] == 0
    assert len(times) <= 8
    assert all(a >= b for a, b in itertools.pairwise(times))
    assert adapter_for(model).n_steps(model) == 11


def a_trainer_must_ask_for_no_more_than_t_star(case):
    model = _patched(case)
    given = _given(case, model)
    for sampler in (model.sample_edpo, model.sample_ddim_edpo):
        with raises(Exception, "--num_train_timesteps 11"):
            sampler(*given, timestep=20)
    _, _, latents, _, steps, *_ = model.sample_edpo(*given, timestep=11)
    assert len(latents) == 13
    assert steps == [*range(10, -1, -1), 0]


def energies_get_the_times_that_they_were_trained_with(case):
    model = _patched(case)
    energies = {k: Energy() for k in case.more(model, "sample", 1) if "guidance" in k}
    strengths = {"l": 0.5, "l2": 0.2} if len(energies) > 1 else {"l": 0.5}
    model.sample(*_given(case, model), **energies, **strengths)
    for energy in energies.values():
        steps = [round(t * case.n_steps) for t in energy.times]
        assert steps == list(range(11, 0, -1))


def a_model_that_keeps_the_centre_of_mass_is_refused(case):
    from gaga_adapter.integrations import apply_patch

    model = case.model()
    model.com_free = False
    with raises(Exception, "com_free=False"):
        apply_patch(model, None, t_star=5)
    model = _patched(case)
    with raises(Exception, "cannot run truncated"):
        model.sample_p_zs_given_zt_backbone(None, None, None, None)


def guided_samplers_start_at_t_star(case):
    import os
    from argparse import Namespace
    from unittest import mock

    model, asked = _patched(case), []
    args = Namespace(
        package="xtb",
        use_neural_guidance=False,
        use_cond_geo=False,
        use_evolution=False,
        bilevel_opti=False,
        seed=0,
        num_beams=2,
        check_variants_interval=4,
    )

    def no_force(t, zt, **options):
        asked.append(t)
        return torch.zeros_like(zt)

    for evolution in (False, True):
        asked.clear()
        args.use_evolution = evolution
        guidance = {
            "guidance_steps": 5,
            "scale": 1.0,
            "grad_clip_threshold": 1.0,
            "property": "force",
            "every_n_step": 1,
            "use_hist_grad": False,
            "recurrent_times": 1,
            "max_core": 1,
            "target": None,
        }
        draw = functools.partial(
            model.cond_sample,
            *_given(case, model),
            cond_fn=no_force,
            guidance_kwargs=guidance,
            args=args,
        )
        with mock.patch.object(os, "makedirs"):
            model.select_best_evolution = lambda zs, **options: zs[:1]
            times = _times(case, model, draw)
        del model.select_best_evolution
        assert times[0] == 11
        assert sorted(set(times)) == list(range(12))
        assert asked[0] == 11


_MORE = {
    "paper": (
        the_shortcut_starts_at_t_star_from_the_fitted_gaussian,
        weights_are_said_to_be_trained_up_to_a_step,
    ),
    "unigem": (the_threshold_of_elements_is_a_step_of_the_whole_path,),
    "georcg": (fewer_steps_are_taken_from_t_star_on,),
    "edpo": (fewer_steps_are_taken_from_t_star_on, a_trainer_must_ask_for_no_more_than_t_star),
    "eegsde": (energies_get_the_times_that_they_were_trained_with,),
    "eegsde_two": (energies_get_the_times_that_they_were_trained_with,),
    "eegsde_free": (energies_get_the_times_that_they_were_trained_with,),
    "eegsde_fingerprint": (energies_get_the_times_that_they_were_trained_with,),
    "symdiff": (a_model_that_keeps_the_centre_of_mass_is_refused,),
    "chemguide": (guided_samplers_start_at_t_star,),
}
