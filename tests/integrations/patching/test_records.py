"""A model that was trained to t* is never sampled from beyond it without a word.

Whatever the order in which it is patched, copied, loaded, trained, averaged, saved and unpatched.
"""

import copy
import io
import itertools
import random
import warnings

import pytest
import torch
from fakes.cases import CASES, make_edm
from gaga_adapter.integrations import apply_patch, as_pipeline, remove_patch
from gaga_adapter.integrations.patching.patch import state_of

from gaga_adapter.errors import GAGAWarning, TruncationError
from gaga_adapter.trained import KEY, record_trained, trained_extent, trained_log_snr

CASE = CASES["edm"]
TRAINED, BEYOND = 5, 9
STATS = CASE.stats(make_edm(20))


def fresh(seed=0):
    """A model that is a copy of no other; one of another seed has other weights."""
    model = make_edm(20)
    with torch.no_grad():
        for parameter in model.dynamics.parameters():
            parameter.add_(0.01 * seed)
    return model


def patch(model, t_star=TRAINED, kind="object"):
    """Patch a model as a script does, at once or when it is first used."""
    return apply_patch(model, STATS if kind == "object" else lambda model: STATS, t_star, "unit")


def sample(model):
    return CASE.sample(model, sizes=(3, 2))


def train(model, followers=()):
    """One step of training, after which averaged weights follow."""
    rate = 0.1
    CASE.loss(model.train(), sizes=(3, 3)).mean().backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= rate * parameter.grad
                parameter.grad = None
        for average in followers:
            for mine, new in zip(average.parameters(), model.parameters(), strict=True):
                mine.data = 0.5 * mine.data + 0.5 * new.data  # as EDM's EMA does
    model.eval()


def saved(state_dict):
    file = io.BytesIO()
    torch.save(state_dict, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def says_how_far(model, t_star=TRAINED):
    """The record is that of t*; beyond, a start is refused, and there it runs."""
    extent = trained_extent(model)
    assert extent is not None
    assert extent.time == t_star / 20
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GAGAWarning)
        remove_patch(model)
    patch(model, BEYOND)
    with pytest.raises(TruncationError, match="knows nothing noisier"):
        sample(model)
    patch(model, t_star)
    sample(model)


# -- until the training has begun ------------------------------------------------------------------

COPIES = {
    "deepcopy": copy.deepcopy,
    "load_state_dict": lambda model: _loaded(fresh(1), model.state_dict()),
    "averaged": torch.optim.swa_utils.AveragedModel,
}


def _loaded(model, state, **options):
    model.load_state_dict(state, **options)
    return model


@pytest.mark.parametrize("steps", list(itertools.permutations(["patch", "copy", "load"])))
@pytest.mark.parametrize("kind", ["object", "waiting"])
@pytest.mark.parametrize("how", COPIES)
def test_averaged_weights_are_recorded_with_the_model(steps, kind, how):
    model, averages = fresh(), []
    for step in steps:
        if step == "patch":
            patch(model, TRAINED, kind)
        elif step == "load":
            for each in (model, *averages):
                getattr(each, "module", each).load_state_dict(fresh(2).state_dict())
        else:
            averages.append(COPIES[how](model))
    average = getattr(averages[0], "module", averages[0])
    assert trained_extent(model) is None
    assert trained_extent(average) is None
    train(model, [average])
    train(model, [average])
    for each in (model, average, copy.deepcopy(average)):
        assert trained_extent(each).time == TRAINED / 20
        assert trained_log_snr(saved(each.state_dict())) == trained_log_snr(model)
        assert trained_log_snr(saved(each.dynamics.state_dict())) == trained_log_snr(model)
    says_how_far(average)


def test_a_model_that_was_patched_anew_before_it_trains_is_still_averaged():
    model = fresh()
    patch(model, 12)
    average = copy.deepcopy(model)
    remove_patch(model)
    patch(model, 12)
    apply_patch(model, None, t_star=TRAINED)
    train(model, [average])
    assert trained_extent(average).time == TRAINED / 20


def test_other_models_of_the_class_are_not_recorded():
    model, other = fresh(), fresh(1)
    patch(model)
    train(model)
    assert trained_extent(other) is None
    patch(other, BEYOND)
    sample(other)


def test_copies_that_stay_as_they_were_know_what_they_knew():
    base = fresh()
    longer = copy.deepcopy(base)
    patch(longer, 12)
    train(longer)
    closer = copy.deepcopy(longer)
    patch(closer)
    train(closer)
    assert trained_extent(base) is None
    assert trained_extent(longer).time == 12 / 20
    assert trained_extent(closer).time == TRAINED / 20
    assert trained_extent(copy.deepcopy(base)) is None
    train(longer, [base])
    assert trained_extent(base).time == TRAINED / 20  # the shortest of all its relatives
    assert trained_extent(closer).time == TRAINED / 20


# -- on the way to another process -----------------------------------------------------------------


@pytest.fixture(scope="module")
def trained():
    model = fresh()
    apply_patch(model, None, t_star=TRAINED)
    train(model)
    return model


WRAPPED = {
    "bare": lambda model: model,
    "module.": torch.nn.DataParallel,
    "_orig_mod.": lambda model: torch.compile(model, backend="eager"),
    "in a larger one": lambda model: torch.nn.ModuleDict({"diffusion": model}),
}


@pytest.mark.parametrize("patched", ["before", "waiting", "after"])
@pytest.mark.parametrize("wrap", WRAPPED)
@pytest.mark.parametrize("options", [{}, {"strict": False, "assign": True}], ids=str)
def test_weights_bring_their_record(trained, patched, wrap, options):
    state = saved(WRAPPED[wrap](trained).state_dict())
    assert trained_log_snr(state) == trained_log_snr(trained)
    model = fresh(1)
    if patched != "after":
        patch(model, BEYOND, {"before": "object"}.get(patched, patched))
    WRAPPED[wrap](model).load_state_dict(state, **options)
    if patched == "after":
        patch(model, BEYOND)
    with pytest.raises(TruncationError, match="knows nothing noisier"):
        sample(model)
    says_how_far(model)


def test_the_prefix_of_a_wrapper_may_be_taken_off(trained):
    state = saved(torch.nn.DataParallel(trained).state_dict())
    metadata = state._metadata
    torch.nn.modules.utils.consume_prefix_in_state_dict_if_present(state, "module.")
    says_how_far(_loaded(fresh(1), state))
    state._metadata = metadata  # not everyone takes it off the metadata as well
    says_how_far(_loaded(fresh(1), state))


def test_the_network_alone_brings_the_record(trained):
    model = fresh(1)
    model.dynamics.load_state_dict(saved(trained.dynamics.state_dict()))
    says_how_far(model)


def test_a_whole_model_brings_the_record(trained):
    file = io.BytesIO()
    torch.save(trained, file)
    file.seek(0)
    says_how_far(torch.load(file, weights_only=False))  # our own bytes


@pytest.mark.parametrize("patched", [False, True])
def test_only_whole_weights_that_say_so_lift_a_record(trained, patched):
    full = fresh(1).state_dict()
    model = copy.deepcopy(trained)
    if not patched:
        with pytest.warns(GAGAWarning, match="samples from the whole path"):
            remove_patch(model)
    network = {name: value for name, value in full.items() if name.startswith("dynamics.mlp.0")}
    model.load_state_dict(network, strict=False)
    assert trained_extent(model).time == TRAINED / 20
    model.load_state_dict(dict(full))  # without metadata: these may be of any training
    assert trained_extent(model).time == TRAINED / 20
    model.load_state_dict(full)
    assert trained_extent(model) is None
    assert trained_extent(trained).time == TRAINED / 20  # its weights are as they were


def test_weights_that_say_nothing_are_spoken_of(trained):
    state = {name.removeprefix("module."): v for name, v in trained.state_dict().items()}
    for order in ("load, patch", "patch, load"):
        model = fresh(1)
        for step in order.split(", "):
            if step == "patch":
                patch(model, BEYOND)
            else:
                model.load_state_dict(state)
        with pytest.warns(GAGAWarning, match="cannot say how far they were trained"):
            sample(model)
        record_trained(model, None)
        sample(model)
        record_trained(model, trained_log_snr(trained))
        with pytest.raises(TruncationError):
            sample(model)


def test_a_pipeline_of_loaded_weights_stays_within(trained):
    pipe = as_pipeline(_loaded(fresh(1), saved(trained.state_dict())))
    with pytest.raises(TruncationError, match="knows nothing noisier"):
        pipe(2, n_atoms=[3, 2])


# -- a training that goes on -----------------------------------------------------------------------


def test_training_beyond_is_spoken_of_once_and_recorded(trained):
    model = copy.deepcopy(trained)
    patch(model, BEYOND)
    with pytest.warns(GAGAWarning, match="t\\* = 9 of 20 from now on"):
        train(model)
    train(model)  # a second warning would be an error
    assert trained_extent(model).time == BEYOND / 20
    sample(model)
    assert trained_extent(trained).time == TRAINED / 20
    apply_patch(model, None, t_star=20)
    with pytest.warns(GAGAWarning, match="t\\* = 20 of 20 from now on"):
        train(model)
    assert trained_extent(model) is None


def test_training_closer_shortens_the_record(trained):
    model = copy.deepcopy(trained)
    patch(model, 3)
    train(model)
    says_how_far(model, 3)


def test_a_learned_schedule_is_judged_by_the_time_that_the_network_is_given():
    """Its log-SNRs move, and those of averaged weights lag behind."""
    model = make_edm(20, schedule="learned", loss="vlb")
    apply_patch(model, None, t_star=TRAINED)
    average = copy.deepcopy(model)
    for sign in (1, -1):
        with torch.no_grad():
            model.gamma.ends += sign
        train(model, [average])
        assert trained_extent(average) == trained_extent(model)
        sample(average)
    apply_patch(average, None, t_star=TRAINED + 1)
    with pytest.raises(TruncationError):
        sample(average)


def test_a_record_of_old_files_is_read(trained):
    """They have the log-SNR alone, in the metadata of the model alone."""
    state = saved(trained.state_dict())
    for entry in state._metadata.values():
        entry.pop("t_star_time", None)
    del state._metadata["dynamics"][KEY]
    model = _loaded(fresh(1), state)
    patch(model, TRAINED)
    sample(model)
    patch(model, BEYOND)
    with pytest.raises(TruncationError):
        sample(model)


# -- any order -------------------------------------------------------------------------------------


class Bench:
    """Models that are used in a random order, and what their weights know in truth."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.models = [fresh(seed % 3)]
        self.known = [20]  # last step that the weights were trained at
        self.copies = [set()]  # averages of each model
        self.begun = [False]

    def patch(self, i):
        t_star, kind = self.random.choice([3, 5, 9, 20]), self.random.choice(["object", "waiting"])
        patch(self.models[i], t_star, kind)
        return True

    def remove(self, i):
        """Without its patch a model is sampled from T."""
        patched = state_of(self.models[i]) is not None
        remove_patch(self.models[i])
        return not patched or self.known[i] == 20

    def train(self, i):
        if state_of(self.models[i]) is None:
            return True
        train(self.models[i], [self.models[j] for j in self.copies[i]])
        t_star = state_of(self.models[i]).t_star
        quiet = t_star <= self.known[i]
        self.known[i] = t_star
        self.begun[i] = True
        for j in self.copies[i]:
            self.known[j] = min(self.known[j], t_star)
            self.begun[j] = True
        return quiet

    def copy(self, i):
        how = self.random.choice(["deepcopy", "load_state_dict"])
        self.models.append(COPIES[how](self.models[i]))
        self.known.append(self.known[i])
        self.copies.append(set())
        self.begun.append(self.begun[i])
        if how == "deepcopy" or not self.begun[i]:
            self.copies[i].add(len(self.models) - 1)
        return True

    def load(self, i):
        j = self.random.randrange(len(self.models))
        self.models[i].load_state_dict(saved(self.models[j].state_dict()))
        self.known[i], self.begun[i] = self.known[j], self.begun[j]
        self.copies[i] = set()
        for copies in self.copies:
            copies.discard(i)
        return True

    def sample(self, i):
        state = state_of(self.models[i])
        if state is None:
            return True
        sample(self.models[i])
        return state_of(self.models[i]).t_star <= self.known[i]


@pytest.mark.parametrize("seed", range(8))
def test_no_order_of_operations_is_silent(seed):
    bench, history = Bench(seed), []
    for _ in range(25):
        verbs = ["patch", "remove", "train", "sample", "load"]
        verbs += ["copy"] if len(bench.models) < 4 else []
        verb, i = bench.random.choice(verbs), bench.random.randrange(len(bench.models))
        history.append((verb, i))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", GAGAWarning)
            try:
                right = getattr(bench, verb)(i)
            except TruncationError:
                assert verb == "sample", history
                continue
        assert right or caught, history


# -- gradients that are no training ----------------------------------------------------------------


def noised(n=4):
    """Noised molecules (2, n, 9) that want a gradient, and masks."""
    node_mask, edge_mask = CASE.masks((n, n))
    torch.manual_seed(3)
    return CASE.noise(fresh(), (n, n)).requires_grad_(), node_mask, edge_mask


def slope(model, how):
    """The slope of a prediction with respect to its input, as guidance takes it."""
    z, *masks = noised()
    total = model.phi(z, torch.full((2, 1), 0.5), *masks, None).square().sum()
    if how == "autograd.grad":
        return torch.autograd.grad(total, z)[0]
    total.backward(inputs=[z])
    return z.grad


@pytest.mark.parametrize("how", ["autograd.grad", "backward"])
@pytest.mark.parametrize("mode", [True, False])
def test_guidance_is_no_training(how, mode):
    model = fresh().train(mode)
    patch(model)
    assert float(slope(model, how).abs().max()) > 0
    assert trained_extent(model) is None
    patch(model.eval(), BEYOND)
    sample(model)
    patch(model)
    hooks = [len(p._backward_hooks or ()) for p in model.parameters()]
    train(model)
    assert trained_extent(model).time == TRAINED / 20
    assert [len(p._backward_hooks or ()) for p in model.parameters()] == hooks
    slope(model, how)  # the record of a training stays
    says_how_far(model)


def test_guidance_by_a_frozen_model_is_no_training():
    model = fresh().requires_grad_(False)
    patch(model)
    z, *masks = noised()
    model.phi(z, torch.full((2, 1), 0.5), *masks, None).sum().backward()
    assert trained_extent(model) is None


TRAININGS = {
    "in evaluation mode": lambda model: CASE.loss(model.eval()).mean().backward(),
    "one parameter": lambda model: torch.autograd.grad(
        CASE.loss(model.train()).mean(), list(model.dynamics.parameters())[-1:]
    ),
    "input and weights": lambda model: _of_both(model).backward(),
    "a replica": lambda model: CASE.loss(_replica(model)).mean().backward(),
    "compiled": lambda model: CASE.loss(torch.compile(model, backend="eager")).mean().backward(),
}


def _of_both(model):
    z, *masks = noised()
    return model.phi(z, torch.full((2, 1), 0.5), *masks, None).sum()


def _replica(model):
    """What `DataParallel` makes of a model: its weights are copies with a history."""
    replica = object.__new__(type(model))
    pairs = [(model, replica)]
    for old, new in pairs:
        new.__dict__ = {**old.__dict__, "_parameters": {}, "_modules": dict(old._modules)}
        new._is_replica = True
        copies = {name: weight * 1 for name, weight in old._parameters.items()}
        new.__dict__.update(copies, _former_parameters=copies)
        for name, child in old._modules.items():
            new._modules[name] = object.__new__(type(child))
            pairs.append((child, new._modules[name]))
    assert not list(replica.parameters())
    return replica


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # of torch.compile's own
@pytest.mark.parametrize("how", TRAININGS)
def test_every_gradient_of_weights_is_training(how):
    model = fresh()
    patch(model)
    average = copy.deepcopy(model)
    TRAININGS[how](model)
    assert trained_extent(model).time == TRAINED / 20
    with torch.no_grad():
        for parameter in average.parameters():
            parameter += 0.1
    assert trained_extent(average).time == TRAINED / 20
