"""Patch and unpatch in an order that nobody chose: at the end the model is as it was.

The machine keeps a list of what the model should be: the step that it starts at, what a `with`
block puts back, and how far the model was recorded to be trained. After every step the model agrees
with it, and once everything is removed, its class, attributes, hooks, state dict and samples are
those from before, bit for bit.
"""

import copy
import io
import pickle

import pytest
import torch
from fakes.cases import CASES
from gaga_adapter.integrations import apply_patch, patched, remove_patch
from gaga_adapter.integrations.patching.patch import state_of
from gaga_adapter.integrations.patching.subclass import original_class
from gaga_adapter.integrations.protocol import adapter_for
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from properties.cases import cases

from gaga_adapter import record_trained
from gaga_adapter.errors import StatsMismatchError, TruncationError, UnsupportedModelError
from gaga_adapter.layout import DenseLayout
from gaga_adapter.moments import DenseMoments
from gaga_adapter.stats import GAGAStats
from gaga_adapter.testing.adapter.case import left_behind, same
from gaga_adapter.trained import trained_log_snr

pytestmark = pytest.mark.filterwarnings("ignore::gaga_adapter.errors.GAGAWarning")
N_STEPS = 16
SIZES = (4, 3)
starts = st.integers(1, N_STEPS)


def images():
    """Statistics that no model of molecules can take."""
    moments = DenseMoments((2,))
    moments.update(torch.randn(5, 2, generator=torch.Generator().manual_seed(0)))
    return GAGAStats(DenseLayout((2,)), moments, 0.0)


class Patches(RuleBasedStateMachine):
    """One model, and what it should be."""

    @initialize(name=st.sampled_from(sorted(CASES)), options=st.sampled_from([{}, {"loss": "vlb"}]))
    def begin(self, name, options):
        self.case = CASES[name]
        self.model = self.case.model(N_STEPS, **options)
        self.adapter = adapter_for(self.model)
        self.stats = self.case.stats(self.model)
        self.before = left_behind(self.model)
        self.weights = {k: v.clone() for k, v in self.model.state_dict().items()}
        self.plain = self.case.sample(self.model, SIZES)
        self.handles = []  # with their steps, in the order in which they were made
        self.current = None  # the place in `handles` of the patch that the model has
        self.blocks = []  # open `with` blocks, with the patch from before each
        self.recorded = None  # the step up to which the model is said to be trained

    # -- what should be --------------------------------------------------------------------------

    @property
    def t_star(self):
        return None if self.current is None else self.handles[self.current][1]

    def take(self, handle):
        self.handles.append((handle, handle.t_star))
        self.current = len(self.handles) - 1

    def is_within_training(self):
        return self.recorded is None or (self.t_star or N_STEPS) <= self.recorded

    @invariant()
    def the_model_is_what_was_asked_last(self):
        if not hasattr(self, "model"):
            return
        assert self.adapter.n_steps(self.model) == (self.t_star or N_STEPS)
        state = state_of(self.model)
        if self.current is None:
            assert state is None
            assert type(self.model) is original_class(type(self.model))
            assert self.recorded is not None or left_behind(self.model)[:4] == self.before[:4]
        else:
            assert state is self.handles[self.current][0].state
            assert self.handles[self.current][0].t_star == self.t_star
            assert type(self.model) is not original_class(type(self.model))
        assert list(self.model.state_dict()) == self.before[4]
        assert not self.model.training

    # -- patches ---------------------------------------------------------------------------------

    @rule(t=st.one_of(st.none(), starts), reference=st.sampled_from(["auto", "size", "unit"]))
    def patch(self, t, reference):
        self.take(apply_patch(self.model, self.stats, t_star=t, reference=reference))
        assert t in (None, self.t_star)

    @rule(t=starts)
    def patch_without_statistics(self, t):
        self.take(apply_patch(self.model, None, t_star=t))

    @rule(wrong=st.sampled_from([0, -1, N_STEPS + 1]))
    def a_step_that_is_none(self, wrong):
        with pytest.raises(TruncationError):
            apply_patch(self.model, self.stats, t_star=wrong)

    @rule()
    def statistics_of_something_else(self):
        with pytest.raises(StatsMismatchError):
            apply_patch(self.model, images(), t_star=5)

    @rule(t=starts)
    def patch_that_waits(self, t):
        """Fitted when it is first asked for its step, which is at once here."""
        self.take(apply_patch(self.model, lambda model: self.stats, t_star=t))
        state = state_of(self.model)  # the patch that waited was replaced by the one that was made
        handle = copy.copy(self.handles[-1][0])
        object.__setattr__(handle, "state", state)
        self.handles[-1] = (handle, self.t_star)

    @rule()
    def remove_all(self):
        remove_patch(self.model)
        self.current = None

    @precondition(lambda self: self.handles)
    @rule(data=st.data())
    def remove_by_a_handle(self, data):
        place = data.draw(st.integers(0, len(self.handles) - 1))
        held = self.current is not None and (
            self.handles[place][0].state is self.handles[self.current][0].state
        )
        self.handles[place][0].remove()
        self.current = None if held else self.current

    @precondition(lambda self: len(self.blocks) < 3)
    @rule(t=starts)
    def enter_a_block(self, t):
        block, before = patched(self.model, self.stats, t_star=t), self.current
        self.take(block.__enter__())
        self.blocks.append((block, before))

    @precondition(lambda self: self.blocks)
    @rule(fails=st.booleans())
    def leave_a_block(self, fails):
        block, before = self.blocks.pop()
        if fails:
            error = ZeroDivisionError()
            assert not block.__exit__(ZeroDivisionError, error, None)
        else:
            block.__exit__(None, None, None)
        if before is None or self.current is not None:
            self.current = before

    # -- use -------------------------------------------------------------------------------------

    @rule()
    def sample(self):
        if not self.is_within_training() and self.current is not None:
            with pytest.raises(TruncationError, match="was trained"):
                self.case.sample(self.model, SIZES)
            return
        seen = []
        drawn = []
        seen = self.case.network_inputs(
            self.model, lambda: drawn.extend(self.case.sample(self.model, SIZES))
        )
        assert len(seen) == (self.t_star or N_STEPS) + 1
        if self.current is None:
            assert same(drawn, self.plain)

    @rule()
    def train_and_evaluate(self):
        losses = [self.case.loss(self.model.train(), SIZES)]
        losses.append(self.case.loss(self.model.eval(), SIZES))
        assert all(bool(loss.isfinite().all()) for loss in losses)

    @rule()
    def copy_deeply(self):
        twin, before = copy.deepcopy(self.model), self.adapter.n_steps(self.model)
        self.check_twin(twin)
        assert self.adapter.n_steps(self.model) == before

    @precondition(lambda self: self.current is not None)
    @rule()
    def copy_shallowly(self):
        with pytest.raises(UnsupportedModelError, match="shares its submodules"):
            copy.copy(self.model)

    @rule()
    def save_whole(self):
        self.check_twin(pickle.loads(pickle.dumps(self.model)))

    def check_twin(self, twin):
        """A copy is patched like the model, and by itself."""
        assert type(twin) is type(self.model)
        assert self.adapter.n_steps(twin) == (self.t_star or N_STEPS)
        remove_patch(twin)
        assert state_of(twin) is None
        assert self.adapter.n_steps(twin) == N_STEPS
        assert same(self.case.sample(twin, SIZES), self.plain)

    @rule()
    def save_and_load_weights(self):
        file = io.BytesIO()
        torch.save(self.model.state_dict(), file)
        file.seek(0)
        weights = torch.load(file, weights_only=False)  # our own bytes
        assert all(torch.equal(weights[name], value) for name, value in self.weights.items())
        self.model.load_state_dict(weights)
        fresh = self.case.model(N_STEPS)
        fresh.load_state_dict(weights, strict=False)
        assert (trained_log_snr(fresh) is None) == (self.recorded is None)

    # -- how far it was trained ------------------------------------------------------------------

    @precondition(lambda self: self.current is not None and self.t_star < N_STEPS)
    @rule()
    def say_how_far_it_was_trained(self):
        record_trained(self.model, self.handles[self.current][0].log_snr)
        self.recorded = self.t_star

    @rule()
    def say_that_it_was_trained_on_all(self):
        record_trained(self.model, None)
        self.recorded = None

    def teardown(self):
        if not hasattr(self, "model"):
            return
        while self.blocks:
            self.leave_a_block(False)
            self.the_model_is_what_was_asked_last()
        record_trained(self.model, None)
        apply_patch(self.model, self.stats, t_star=5).remove()
        assert left_behind(self.model) == self.before
        now = self.model.state_dict()
        assert now.keys() == self.weights.keys()
        assert all(torch.equal(now[name], value) for name, value in self.weights.items())
        assert not getattr(now, "_metadata", {}).get("", {}).keys() & {"t_star_log_snr"}
        assert same(self.case.sample(self.model, SIZES), self.plain)


def test_patches_in_random_order():
    run_state_machine_as_test(Patches, settings=cases(15, stateful_step_count=15))
