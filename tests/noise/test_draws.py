"""The uniforms of a batch, one process at a time, against `frac(u + (i + r / W) / B)`."""

import itertools

import pytest
import torch
from fakes.device import SinglePrecision

from gaga_adapter.errors import DataError
from gaga_adapter.noise.draws import batch_uniforms, entries


def seeded(kind=torch.Generator):
    return kind().manual_seed(2)


def draws(count):
    """What the generator gives first, as Python's numbers."""
    return torch.rand(count, generator=seeded(), dtype=torch.float64).tolist()


class OnMeta(torch.Generator):
    """A generator of the device whose tensors hold nothing."""

    device = torch.device("meta")


class OnApple(torch.Generator):
    """A generator of a device without float64."""

    device = torch.device("mps")


@pytest.mark.parametrize(("n", "rank", "world"), [(1, 0, 1), (7, 0, 1), (1, 1, 2), (7, 2, 3)])
def test_one_offset_and_equal_steps_through_all_processes(as_process, n, rank, world):
    """A batch that is not shared is drawn as if there were one process."""
    as_process(rank, world)
    assert draws(1)[0] > 0.5  # so that some of the steps go round
    made = batch_uniforms(n, seeded())
    expected = [(draws(1)[0] + (i + rank / world) / n) % 1 for i in range(n)]
    assert made.dtype == torch.float64
    assert made.tolist() == pytest.approx(expected, abs=1e-15, rel=0)
    alone = [(draws(1)[0] + i / n) % 1 for i in range(n)]
    got = batch_uniforms(n, seeded(), sharded=False).tolist()
    assert got == pytest.approx(alone, abs=1e-15, rel=0)


@pytest.mark.parametrize("world", [1, 3])
def test_independent_draws_are_dealt_to_the_processes(as_process, world):
    dealt = []
    for rank in range(world):
        as_process(rank, world)
        dealt.append(batch_uniforms(5, seeded(), stratified=False).tolist())
    assert list(itertools.chain(*zip(*dealt, strict=True))) == draws(5 * world)
    assert batch_uniforms(5, seeded(), stratified=False, sharded=False).tolist() == draws(5)


def test_without_a_generator_torch_draws():
    torch.manual_seed(2)
    assert batch_uniforms(4, stratified=False).tolist() == draws(4)


def test_an_empty_batch_is_refused():
    for n in (0, -1):
        with pytest.raises(DataError, match=f"batch_size={n}, need at least one"):
            batch_uniforms(n)


@pytest.mark.parametrize("stratified", [True, False])
def test_numbers_are_made_on_the_device_of_the_generator(stratified):
    made = batch_uniforms(5, seeded(OnMeta), stratified)
    assert (made.device, made.dtype, made.shape) == (OnMeta.device, torch.float64, (5,))
    found = entries(torch.arange(3), made)
    assert (found.device, found.shape) == (OnMeta.device, (5,))


@pytest.mark.parametrize("stratified", [True, False])
def test_a_device_without_float64_draws_and_the_cpu_computes(monkeypatch, stratified):
    """The draws are those of the device in float32, and sums and shares are float64."""
    own = torch.rand

    def rand(*shape, generator, dtype, device):
        assert device == OnApple.device
        made = own(*shape, generator=generator, dtype=dtype).as_subclass(SinglePrecision)
        assert dtype == torch.float32
        return made

    monkeypatch.setattr(torch, "rand", rand)
    made = batch_uniforms(5, seeded(OnApple), stratified)
    assert type(made) is torch.Tensor
    assert (made.device.type, made.dtype) == ("cpu", torch.float64)
    drawn = own(1 if stratified else 5, generator=seeded()).tolist()
    expected = [(drawn[0] + i / 5) % 1 for i in range(5)] if stratified else drawn
    assert made.tolist() == pytest.approx(expected, abs=1e-15, rel=0)


def test_every_entry_of_a_table_has_the_same_share():
    """Entry `floor(u K)`; the share of each is closed below, and the last one's above, too."""
    table = torch.tensor([3.5, 1.0, 2.0, 9.0])
    u = torch.tensor([0, 0.2, 0.25, 0.5, 0.7, 0.75, 0.999, 1], dtype=torch.float64)
    assert entries(table, u).tolist() == [3.5, 3.5, 1.0, 2.0, 2.0, 9.0, 9.0, 9.0]
    assert entries(torch.tensor([7]), u[[0, -1]]).tolist() == [7, 7]
