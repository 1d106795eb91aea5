"""Contributions: averages, errors and resamples of rows, against numpy and scipy.

Statistical bounds are at 4.9 standard errors, a one-sided false-alarm rate of 5e-7 per assertion.
"""

import math

import pytest
import torch
from scipy.stats import norm
from toys import generator, normal

from gaga_adapter.criteria.contributions import Contributions
from gaga_adapter.errors import DataError


def test_rows_of_one_item_average_to_the_mean_with_its_standard_error():
    values = normal(300, 4)
    value, error = Contributions.of_items(values, None).value_and_error("nats")
    torch.testing.assert_close(value, values.mean(0))
    torch.testing.assert_close(error, values.std(0) / 300**0.5)


def test_rows_weigh_as_the_items_they_stand_for():
    values = normal(3, 2)
    weight = torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64)
    parts = Contributions(values, weight)
    assert parts.n_items == 8
    repeated = values.repeat_interleave(weight.long(), 0)
    torch.testing.assert_close(parts.value_and_error("nats")[0], repeated.mean(0))


def test_errors_and_resamples_vary_inside_of_the_sizes_only():
    """Sizes far apart add nothing; the standard error is the spread over 2,000 resamples."""
    size = torch.arange(5).repeat_interleave(40)
    noise = normal(200, 2)
    parts = Contributions(noise + 100 * size[:, None], torch.ones(200).double(), size)
    _, error = parts.value_and_error("nats")
    expected = torch.stack([noise[size == s].var(0) for s in range(5)]).mean(0) / 200
    torch.testing.assert_close(error, expected.sqrt())
    source = generator(1)
    again = torch.stack(
        [parts.rows(parts.resample(source)).value_and_error("nats")[0] for _ in range(2000)]
    )
    # A resample divides by M and not M - 1, here 40 of 39; a standard deviation of 2,000 draws
    # has a relative error of 1 / sqrt(4000).
    ratio = again.std(0) / error * math.sqrt(40 / 39)
    assert float((ratio - 1).abs().max()) < 4.9 / math.sqrt(4000)


def test_a_resample_keeps_the_count_of_every_size():
    size = torch.tensor([7, 3, 3, 7, 3, 9, 9, 7])
    parts = Contributions(normal(8, 1), torch.ones(8).double(), size)
    rows = parts.resample(generator())
    assert torch.equal(parts.size[rows].sort().values, size.sort().values)
    assert len(rows.unique()) < 8


def test_a_size_of_one_row_joins_its_nearest_neighbour():
    size = torch.tensor([3, 3, 4, 9, 9, 9])
    strata = Contributions(normal(6, 1), torch.ones(6).double(), size).strata
    assert strata.tolist() == [0, 0, 0, 1, 1, 1]
    alone = Contributions(normal(3, 1), torch.ones(3).double(), torch.tensor([1, 2, 3])).strata
    assert len(alone.unique()) == 1


def test_p_values_are_the_upper_tail_of_the_standardised_sum():
    values = normal(50, 3) + torch.tensor([0.0, 0.3, -0.2], dtype=torch.float64)
    value, error = Contributions.of_items(values, None).value_and_error("p-value")
    expected = torch.from_numpy(norm.sf(values.sum(0).numpy() / math.sqrt(50)))
    torch.testing.assert_close(value, expected)
    assert not error.any()


def test_one_row_has_no_error_and_what_is_not_computable_stays_so():
    _, error = Contributions.of_items(normal(1, 2), None).value_and_error("nats")
    assert bool(error.isnan().all())
    values = normal(5, 2)
    values[3, 1] = math.nan
    value, _ = Contributions.of_items(values, None).value_and_error("nats")
    assert value.isnan().tolist() == [False, True]


@pytest.mark.parametrize(
    ("values", "weight", "size"),
    [
        (torch.zeros(0, 2), torch.zeros(0), None),
        (torch.zeros(3), torch.ones(3), None),
        (torch.zeros(3, 2), torch.ones(2), None),
        (torch.zeros(3, 2), torch.ones(3), torch.ones(2)),
    ],
)
def test_shapes_that_do_not_agree(values, weight, size):
    with pytest.raises(DataError, match=r"contributions are|sizes are"):
        Contributions(values, weight, size)
