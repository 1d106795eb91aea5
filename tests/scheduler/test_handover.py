"""The machine of the hand-over: its table, every order of events, and the places of a grid."""

import copy
import itertools
import pickle
import random
import warnings
from functools import partial

import pytest
import torch
from diffusers import (
    CMStochasticIterativeScheduler,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    PNDMScheduler,
)
from scheduler.loops import SHAPE, noise, run, wrap
from scheduler.test_exactness import EVERY_CLASS, gaussian_stats, proteina, repaint, truncate

from gaga_adapter.errors import GAGAError, GAGAWarning, HandoverError, TruncationError
from gaga_adapter.noise.conventions import convention_of
from gaga_adapter.scheduler import GAGAScheduler
from gaga_adapter.scheduler import start as start_module
from gaga_adapter.scheduler.families import family_of
from gaga_adapter.scheduler.fractions import moved_entry, warn_of_fractions
from gaga_adapter.scheduler.handover import ADVICE, TRANSITIONS, Event, State
from gaga_adapter.scheduler.start import exchange, is_part
from gaga_adapter.scheduler.watch import is_white, watch

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array:DeprecationWarning"),  # numpy 2 in diffusers
    pytest.mark.filterwarnings("ignore:.*steps are left from t:gaga_adapter.errors.GAGAWarning"),
]

# -- the table -------------------------------------------------------------------------------------


def test_every_state_is_reached_and_every_grid_begins_anew():
    assert set(TRANSITIONS) == set(State)
    reached, todo = set(), [State.NO_GRID]
    while todo:
        state = todo.pop()
        if state not in reached:
            reached.add(state)
            todo += TRANSITIONS[state].values()
    assert reached == set(State)
    for state in State:
        assert TRANSITIONS[state][Event.ASK] is State.NO_GRID
    assert {e for events in TRANSITIONS.values() for e in events} == set(Event)


def test_a_run_begins_from_handed_noise_or_data_alone():
    begins = {s for s, events in TRANSITIONS.items() if events.get(Event.FIRST) is State.RUNNING}
    assert begins == {State.MAPPED, State.SHOWN, State.DATA}


@pytest.mark.parametrize(
    ("state", "event"),
    [(s, e) for s in State for e in Event if e not in TRANSITIONS[s]],
    ids=lambda x: x.name,
)
def test_what_is_not_in_the_table_raises(state, event):
    start = start_module.Start(state=state)
    with pytest.raises(HandoverError) as caught:
        start.move(event)
    assert start.state is state
    assert state.value in str(caught.value)
    assert event.value in str(caught.value)
    assert ADVICE.get(event, 'Use handover="step".') in str(caught.value)


# -- every order of events -------------------------------------------------------------------------


class Loop:
    """A loop whose noise and start are known: what its network sees is the start, or it failed."""

    def __init__(self, base, handover):
        stats = gaussian_stats(-1.0, torch.full((3, 1, 1), 3.0), torch.full((3, 1, 1), 0.2))
        self.scheduler = GAGAScheduler.from_pretrained(base, stats, handover=handover)
        self.sample = self.noise = None
        self.count = 0

    def ask(self, n):
        self.scheduler.set_timesteps(n, device="cpu")

    def draw(self):
        self.count += 1
        self.noise = noise(seed=self.count)
        self.sample = self.noise

    def multiply(self):
        if self.sample is not None:
            self.sample = self.sample * self.scheduler.init_noise_sigma

    def sample_all(self):
        """The loop; the sample of its first step is checked against the closed form."""
        scheduler, x = self.scheduler, self.sample
        if x is None or not hasattr(scheduler, "timesteps"):
            return False
        first = scheduler._gaga_at().entry
        for t in scheduler.timesteps:
            seen = scheduler.scale_model_input(x, t)
            if first is not None and float(t) == first.timestep:
                expected = first.reference.transport(self.noise)
                norm = 1.0
                if isinstance(scheduler, EulerDiscreteScheduler):
                    norm = (float(scheduler.sigmas[scheduler.step_index or 0]) ** 2 + 1) ** 0.5
                torch.testing.assert_close(seen * norm, expected, rtol=1e-4, atol=1e-4)
            x = scheduler.step(0.1 * seen, t, x).prev_sample
        self.sample = x
        return first is not None


ORDERS = list(itertools.product(range(5), repeat=4))


@pytest.mark.parametrize("handover", ["auto", "init", "step", "scale"])
@pytest.mark.parametrize("base", [DDIMScheduler, EulerDiscreteScheduler])
def test_in_every_order_the_network_sees_the_start_or_there_is_an_error(base, handover):
    """All orders of five events in four places, each followed by a loop."""
    draws, n_right, n_refused = random.Random(0), 0, 0
    for order in draws.sample(ORDERS, 120):
        loop = Loop(base(), handover)
        events = [loop.draw, loop.multiply, partial(loop.ask, 10), partial(loop.ask, 12)]
        events.append(loop.sample_all)
        try:
            loop.draw()
            for event in order:
                events[event]()
                if event == 4:
                    loop.draw()
            n_right += loop.sample_all()
        except GAGAError:
            n_refused += 1
    assert n_right > 5
    assert n_refused > 5


@pytest.mark.parametrize("base", [DDIMScheduler, EulerDiscreteScheduler])
@pytest.mark.parametrize("handover", ["auto", "scale"])
def test_a_start_is_mapped_once_across_grids(base, handover):
    """The same grid again: the start stands. Another grid: it is made again, from its noise."""
    expected, seen = run(wrap(base(), handover="init"), noise())
    gaga = wrap(base(), handover="auto")
    gaga.set_timesteps(20, device="cpu")
    x = noise() * gaga.init_noise_sigma
    gaga.set_timesteps(20, device="cpu")
    first = gaga.scale_model_input(x, gaga.timesteps[0])
    torch.testing.assert_close(first, seen[0], rtol=1e-5, atol=1e-5)
    gaga.set_timesteps(7, device="cpu")
    x = noise() * gaga.init_noise_sigma
    gaga.set_timesteps(20, device="cpu")
    result = x
    for t in gaga.timesteps:
        result = gaga.step(0.1 * gaga.scale_model_input(result, t), t, result).prev_sample
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("handover", ["auto", "init", "step", "scale"])
@pytest.mark.parametrize("base", [DDIMScheduler, EulerDiscreteScheduler])
def test_a_start_that_was_mapped_and_kept_is_not_noise(base, handover):
    """It is handed to the next run, to another scheduler, and to one in another process."""
    first = wrap(base(), handover="init")
    first.set_timesteps(20, device="cpu")
    start = noise(16) * first.init_noise_sigma
    again = [first, wrap(base(), handover=handover), pickle.loads(pickle.dumps(first))]
    t = first.timesteps[0]
    first.step(0.1 * first.scale_model_input(start, t), t, start)
    for scheduler in again:
        with pytest.raises(HandoverError, match=r"mapped already"):
            run(scheduler, start.clone())


def test_unit_noise_is_hardly_ever_taken_for_a_start():
    """The false-alarm rate is exp(-30) by Markov's inequality; here a bound that can be seen."""
    gaga = wrap(DDIMScheduler(), handover="init")
    gaga.set_timesteps(20, device="cpu")
    start = gaga._gaga_at()
    z = torch.randn(4000, 1, *SHAPE, generator=torch.Generator().manual_seed(5))
    nats = torch.tensor([start._nats_over_noise(x) for x in z])
    # P(nats >= c) <= exp(-c): at c = 2 at most 541 of 4000 are expected, and 5 standard errors
    assert int((nats >= 2).sum()) <= 4000 * 0.1354 + 5 * (4000 * 0.1354 * 0.8646) ** 0.5
    assert float(nats.max()) < start_module.LIKELIER


def test_noise_of_a_run_that_broke_off_does_not_count_for_the_next():
    gaga = wrap(DDIMScheduler())
    gaga.set_timesteps(20, device="cpu")
    _ = noise(seed=1) * gaga.init_noise_sigma  # and then the network fails
    gaga.set_timesteps(20, device="cpu")
    with pytest.raises(HandoverError, match="without handing over its noise"):
        gaga.step(noise(), gaga.timesteps[0], noise(seed=2))


def test_the_product_is_what_the_loop_goes_on_with():
    gaga = wrap(DDIMScheduler(), handover="init")
    gaga.set_timesteps(20, device="cpu")
    z = noise()
    _ = z * gaga.init_noise_sigma
    with pytest.raises(HandoverError, match="goes on with its noise and not with the product"):
        gaga.step(0.1 * z, gaga.timesteps[0], z)


def test_a_start_of_the_first_entry_is_not_taken_by_a_later_one():
    gaga = wrap(DDIMScheduler(), handover="init")
    gaga.set_timesteps(20, device="cpu")
    x = noise() * gaga.init_noise_sigma
    with pytest.raises(HandoverError, match=r"Begin at the first entry of scheduler\.timesteps"):
        gaga.step(0.1 * x, gaga.timesteps[2], x)


def test_a_failed_grid_leaves_none():
    gaga = wrap(DDIMScheduler())
    gaga.set_timesteps(20, device="cpu")
    with pytest.raises(ValueError, match="cannot be larger than"):
        gaga.set_timesteps(2000)
    x = noise()
    with pytest.raises(HandoverError, match="without a grid"):
        gaga.step(x, gaga.timesteps[0], x)


def test_latents_before_the_grid_are_caught_by_scale_and_by_step():
    """As ConsistencyModelPipeline makes them, with the base's own number; twice."""
    base = CMStochasticIterativeScheduler()
    expected = run(wrap(base, handover="init"), noise(seed=1), n=6)[0]
    for handover in ("auto", "step"):
        gaga = wrap(base, handover=handover)
        for _ in range(2):
            x = noise(seed=1) * gaga.init_noise_sigma
            gaga.set_timesteps(6, device="cpu")
            torch.manual_seed(0)
            for t in gaga.timesteps:
                x = gaga.step(0.1 * gaga.scale_model_input(x, t), t, x).prev_sample
            assert x.shape == expected.shape
            assert torch.isfinite(x).all()


@pytest.mark.parametrize("handover", ["auto", "step", "scale"])
@pytest.mark.parametrize("base", [DDIMScheduler, EulerDiscreteScheduler])
def test_noise_beside_noised_data_is_noise(base, handover):
    """As pipelines do that noise a reference image for the network, beside their own sample."""
    z = noise()
    expected, _ = run(wrap(base(), handover="init"), z)
    gaga = wrap(base(), handover=handover)
    gaga.set_timesteps(20, device="cpu")
    x, n_lead = z, int(handover == "step")
    for entry, t in enumerate(gaga.timesteps):
        if entry == n_lead:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", GAGAWarning)
                gaga.add_noise(torch.ones(4, *SHAPE), noise(seed=9), t.repeat(4))
        x = gaga.step(0.1 * gaga.scale_model_input(x, t), t, x).prev_sample
    torch.testing.assert_close(x, expected, rtol=1e-4, atol=1e-4)


def test_data_at_the_extra_timestep_have_the_level_of_the_first_entry():
    """Before the loop has come to it, and after."""
    gaga = wrap(DDIMScheduler(), handover="step")
    gaga.set_timesteps(20, device="cpu")
    lead, first = gaga.timesteps[:1], gaga.timesteps[1:2]
    data, z = torch.ones(4, *SHAPE), noise()
    with pytest.warns(GAGAWarning, match="a strength counts from t"):
        expected = gaga.add_noise(data, z, first)
    assert torch.equal(gaga.add_noise(data, z, lead), expected)
    gaga.step(z, lead[0], expected)
    assert torch.equal(gaga.add_noise(data, z, lead), expected)


def test_noise_beside_noised_data_is_noise_to_a_watched_network():
    class Net(torch.nn.Module):
        def forward(self, sample, timestep):
            return sample

    pipe = type("Pipe", (), {})()
    pipe.unet = Net()
    gaga = wrap(DDIMScheduler())
    gaga.attach(pipe)
    gaga.set_timesteps(20, device="cpu")
    t, z = gaga.timesteps[0], noise()
    with pytest.warns(GAGAWarning, match="a strength counts from t"):
        data = gaga.add_noise(torch.full((4, *SHAPE), 3.0), noise(seed=9), t.repeat(4))
    assert torch.equal(pipe.unet(data, t), data)
    entry = gaga._gaga_at().entry
    torch.testing.assert_close(pipe.unet(z, t), entry.reference.transport(z), rtol=1e-6, atol=1e-6)


def test_data_blended_with_noise_before_the_first_step_are_told():
    gaga = wrap(DDIMScheduler(), handover="scale")
    gaga.set_timesteps(20, device="cpu")
    t = gaga.timesteps[0]
    with pytest.warns(GAGAWarning):
        noised = gaga.add_noise(torch.full((4, *SHAPE), 3.0), noise(), t.repeat(4))
    gaga._gaga_at().has_warned = False
    mixed = torch.cat([noised[..., :3], noise(seed=3)[..., 3:]], -1)
    with pytest.warns(GAGAWarning, match="neither noise nor what add_noise gave"):
        gaga.scale_model_input(mixed, t)


@pytest.mark.parametrize("handover", ["auto", "step", "scale"])
def test_a_loop_that_breaks_off_and_begins_again_on_its_grid(handover):
    device = None if handover == "auto" else "cpu"
    gaga = wrap(DDIMScheduler(), handover=handover)
    expected, _ = run(wrap(DDIMScheduler(), handover="init"), noise(seed=2))
    gaga.set_timesteps(20, device=device)
    for seed, n_steps in ((1, 4), (2, None)):
        x = noise(seed=seed)
        for t in gaga.timesteps[:n_steps]:
            seen = gaga.scale_model_input(x, t) if handover == "scale" else x
            x = gaga.step(0.1 * seen, t, x).prev_sample
    torch.testing.assert_close(x, expected, rtol=1e-4, atol=1e-4)


def test_a_batch_in_parts_over_an_extra_timestep():
    expected, _ = run(wrap(DDIMScheduler(), handover="init"), noise(8))
    gaga = wrap(DDIMScheduler(), handover="step")
    gaga.set_timesteps(20, device="cpu")
    parts = list(noise(8).chunk(4))
    for t in gaga.timesteps:
        parts = [gaga.step(0.1 * x, t, x).prev_sample for x in parts]
    torch.testing.assert_close(torch.cat(parts), expected, rtol=1e-4, atol=1e-4)


def test_copies_in_a_batch_are_one_event():
    """One seed for every prompt: the evidence is that of a single event."""
    refused = 0
    for seed in range(60):
        gaga = wrap(DDIMScheduler(), handover="init")
        gaga.set_timesteps(20, device="cpu")
        z = noise(1, seed).repeat(64, 1, 1, 1)
        try:
            _ = z * gaga.init_noise_sigma
        except HandoverError:
            refused += 1
        assert is_white(z) == is_white(z[:1])
    assert refused == 0


def test_buffers_zeros_and_graphs():
    gaga = wrap(DDIMScheduler(), handover="init")
    gaga.set_timesteps(20, device="cpu")
    with pytest.raises(HandoverError, match="root mean square of 0;"):
        _ = torch.zeros(4, *SHAPE) * gaga.init_noise_sigma
    z = noise().requires_grad_()
    start = z * gaga.init_noise_sigma
    copy.deepcopy(gaga)
    t = gaga.timesteps[0]
    gaga.step(0.1 * start, t, start)
    buffer = start.detach()
    held = gaga._gaga_at().earlier[0][0]()
    assert held is start
    buffer.copy_(noise(seed=4))  # the same storage, with new noise
    gaga.set_timesteps(20, device="cpu")
    _ = buffer * gaga.init_noise_sigma


# -- places of the grid ----------------------------------------------------------------------------


@pytest.mark.parametrize("handover", ["init", "step"])
@pytest.mark.filterwarnings("ignore:Should have t[ab][<>]=t")  # torchsde, of a rounded end
@pytest.mark.parametrize("case", [c for c in EVERY_CLASS if c.loop is not repaint], ids=repr)
def test_entries_belong_to_their_step_throughout(case, handover):
    """`timesteps[i]`, `sigmas[i]` and `sigmas[i + 1]` are those of step i, also in callbacks."""
    call = {"num_inference_steps": case.n, **case.call}
    call = {n: v for n, v in call.items() if v is not None or n != "num_inference_steps"}
    plain, gaga = case.make(), truncate(case.make(), 0.4, handover=handover, spacing="suffix")
    plain.set_timesteps(**call)
    gaga.set_timesteps(**call, device="cpu")
    if case.loop is proteina and handover == "step":
        pytest.skip("its loop passes flat samples, and these statistics are of others")
    n_lead = int(handover == "step")
    n_cut = len(plain.timesteps) - (len(gaga.timesteps) - n_lead)
    assert n_cut > 0
    has_sigmas = "sigmas" in family_of(gaga).arrays
    passed = []

    def see(x, t):
        passed.append(float(t))
        assert gaga.timesteps[: len(passed)].tolist() == passed
        if has_sigmas:
            assert len(gaga.sigmas) - len(gaga.timesteps) == len(plain.sigmas) - len(
                plain.timesteps
            )
            ours, theirs = gaga.sigmas[n_lead:], plain.sigmas[n_cut:]
            torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)
        index = getattr(gaga, "step_index", None)
        if len(passed) > 1 + n_lead and index is not None:
            assert index == len(passed) - 1
        return 0.1 * x

    x = torch.randn(2, 3, 1, 1, generator=torch.Generator().manual_seed(0))
    if handover == "init":
        x = x * gaga.init_noise_sigma
    case.loop(gaga, x, see)
    assert len(passed) == len(gaga.timesteps) - convention_of(gaga).row.tail


@pytest.mark.parametrize("name", ["timesteps", "sigmas"])
def test_a_grid_that_is_replaced_by_hand_is_an_error_where_the_solver_has_another(name):
    gaga = wrap(EulerDiscreteScheduler(), handover="step")
    gaga.set_timesteps(20, device="cpu")
    x = gaga.step(noise(), gaga.timesteps[0], noise()).prev_sample
    setattr(gaga, name, getattr(gaga, name).clone())
    with pytest.raises(HandoverError, match=rf"scheduler\.{name} was replaced after set_timest"):
        gaga.scale_model_input(x, gaga.timesteps[1])


# -- fractions of the loop -------------------------------------------------------------------------


def test_where_an_entry_of_the_whole_grid_stands():
    whole, cut = [900.0, 700.0, 500.0, 300.0, 100.0], [500.0, 300.0, 100.0]
    places = [moved_entry(x, whole, cut) for x in (0, 1.5, 2, 2.5, 3, 4, 5)]
    assert places == [0, 0, 0, 0.5, 1, 2, 3]
    rising = [-t for t in whole], [-t for t in cut]
    assert [moved_entry(x, *rising) for x in (0, 1.5, 2, 2.5, 3, 4, 5)] == places


@pytest.mark.parametrize(
    ("given", "pattern"),
    [
        ({"control_guidance_end": 0.8}, r"pass control_guidance_end=0\.667\."),
        ({"control_guidance_end": [0.8, 0.4]}, r"pass control_guidance_end=\[0\.667, 0\]\."),
        ({"adapter_conditioning_factor": 0.8}, r"pass adapter_conditioning_factor=0\.4\."),
    ],
)
def test_the_value_to_pass_for_a_fraction(given, pattern):
    whole, cut = [900.0, 700.0, 500.0, 300.0, 100.0], [500.0, 300.0, 100.0]
    with pytest.warns(GAGAWarning, match=pattern):
        warn_of_fractions(given, whole, cut, 5)


def test_fractions_that_are_the_whole_loop_are_not_told():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        given = {"control_guidance_start": 0.0, "control_guidance_end": [1.0], "guess": 0.5}
        warn_of_fractions(given, [2.0, 1.0], [1.0], 2)
        warn_of_fractions({"skip_layer_guidance_stop": 0.2}, [2.0, 1.0], [1.0], 2)


# -- levels that are none --------------------------------------------------------------------------


@pytest.mark.parametrize("sigmas", [[80.0, 20.0, 0.1], [float("nan"), 0.5]])
def test_sigmas_of_another_family(sigmas):
    with pytest.raises(TruncationError, match=r"a flow's sigmas lie in \[0, 1\]"):
        wrap(FlowMatchEulerDiscreteScheduler()).set_timesteps(sigmas=sigmas)


def test_entries_that_do_not_fall():
    with pytest.raises(TruncationError, match="do not fall from noise to data"):
        wrap(FlowMatchEulerDiscreteScheduler()).set_timesteps(sigmas=[0.2, 0.6, 0.9])
    with pytest.raises(TruncationError, match="has no room for so many steps"):
        wrap(DPMSolverMultistepScheduler(timestep_spacing="leading")).set_timesteps(1000)


@pytest.mark.parametrize("base", [DDIMScheduler, PNDMScheduler, EulerDiscreteScheduler])
def test_stable_diffusions_configuration_at_a_thousand_steps(base):
    """Its first entry lies beyond the table (`steps_offset=1`), and is cut off."""
    given = {"steps_offset": 1, "timestep_spacing": "leading"}
    given |= {"skip_prk_steps": True} if base is PNDMScheduler else {}
    gaga = wrap(base(**given), handover="init")
    gaga.set_timesteps(1000, device="cpu")
    assert 300 < len(gaga.timesteps) < 500
    if base is DDIMScheduler:
        with pytest.raises(TruncationError, match="steps_offset pushes it out"):
            wrap(base(**given), spacing="respace").set_timesteps(1000)


def test_a_grid_that_is_not_cut_costs_nothing():
    """A flow's grid begins at pure noise; where t* lies there, the run is the base's own."""
    for n in (1, 4):
        gaga = wrap(FlowMatchEulerDiscreteScheduler(), t_star=1000.0)
        plain = FlowMatchEulerDiscreteScheduler()
        gaga.set_timesteps(n)
        plain.set_timesteps(n)
        assert gaga.timesteps.tolist() == plain.timesteps.tolist()
        assert gaga.n_calls == n
    gaga = wrap(FlowMatchEulerDiscreteScheduler())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gaga.set_timesteps(1)
    assert gaga.n_calls == 1


def test_few_steps_of_a_solver_with_a_memory():
    gaga = wrap(DPMSolverMultistepScheduler(use_karras_sigmas=True))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        gaga.set_timesteps(5, device="cpu")
    n_left = len(gaga.timesteps)
    (told,) = [str(w.message) for w in caught if "order 1" in str(w.message)]
    assert told.startswith(f"{n_left} of 5 steps are left from t* on")
    with warnings.catch_warnings():
        warnings.simplefilter("error", GAGAWarning)
        gaga.set_timesteps(20, device="cpu")
        wrap(DPMSolverMultistepScheduler(), spacing="respace").set_timesteps(4, device="cpu")
        wrap(DDIMScheduler()).set_timesteps(5, device="cpu")


# -- contents --------------------------------------------------------------------------------------


def test_a_part_of_a_sample_is_exchanged():
    old, new = torch.randn(2, 3, 4), torch.ones(2, 3, 4)
    beside = torch.zeros(2, 2, 4)
    for copies in (1, 2):
        many = [beside.repeat(copies, 1, 1), old.repeat(copies, 1, 1)]
        for order in (many, many[::-1]):
            result = exchange(torch.cat(order, 1), old, new)
            assert float(result.sum()) == 24 * copies
    pairs = old.repeat_interleave(2, 0)
    assert torch.equal(exchange(pairs, old, new), torch.ones(4, 3, 4))
    assert exchange(old + 1, old, new) is None
    assert exchange(torch.randn(2, 3, 4, 1), old, new) is None
    assert exchange(old.bfloat16(), old, new).dtype == torch.bfloat16


def test_parts_of_a_start_in_any_order():
    start = torch.randn(2, 4, 6)
    assert is_part(start.permute(0, 2, 1).reshape(2, 3, 8), start)
    assert is_part(start[:, 1:], start)
    assert is_part(start.bfloat16(), start)
    assert not is_part(start[:, 1:] + 1, start)
    assert not is_part(torch.randn(2, 4, 6), start)


def test_white_noise_and_what_is_not():
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(2, 4, 16, 16, generator=generator)
    assert is_white(z)
    assert is_white(80 * z)
    assert is_white(z.reshape(2, 64, 16).bfloat16())
    smooth = torch.nn.functional.avg_pool2d(z, 3, 1, 1)
    half = torch.cat([z[:, :2], torch.ones(2, 2, 16, 16)], 1)
    for other in (smooth, half, z + 1, torch.zeros_like(z), z.long(), None, z[0, 0, 0, :4]):
        assert not is_white(other)


def test_a_watched_pipeline_gets_its_own_methods_back():
    class Net(torch.nn.Module):
        def forward(self, sample, timestep):
            return sample

    class Encoder(torch.nn.Module):
        def forward(self, sample):
            return sample

    class Pipe:
        def __init__(self):
            self.unet, self.controlnet, self.vae = Net(), Net(), Encoder()

        def prepare_latents(self, latents=None):
            return noise() if latents is None else latents

    pipe, seen = Pipe(), []
    watched = watch(
        pipe,
        show=lambda x, t: seen.append("show") or x,
        begin=lambda: seen.append("begin"),
        prepare=lambda x: seen.append("prepare") or x.mul_(2),
        n_steps=lambda n: n,
    )
    own = noise()
    assert torch.equal(pipe.prepare_latents(own), 2 * own)
    assert torch.equal(own, noise())  # what the caller passed is as it was
    for network in (pipe.unet, pipe.controlnet, pipe.vae):
        network(own, *([torch.tensor(1)] if isinstance(network, Net) else []))
    assert seen == ["begin", "prepare", "show", "show"]
    assert copy.deepcopy(watched) is watched
    watched.remove()
    assert "prepare_latents" not in vars(pipe)
    assert not pipe.unet._forward_pre_hooks
    assert not pipe.controlnet._forward_pre_hooks
