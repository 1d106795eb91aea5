r"""What a reference samples is what it says the density of: normalisation, scale and place.

Of N draws x of a reference p, in D dimensions,

    E[q(x) / p(x)] = 1                              for every normalised q,
    E[d/ds log p(mu + s (x - mu))] = -D             at s = 1,
    E[d/de log p(x + e v)] = 0                      for every direction v of the subspace,

by integration by parts. The first fails for a wrong constant or sampler, the second for a wrong
scale, the third for a wrong mean. q is a Gaussian of 0.9 of the noise's variance around the mean
of other draws; with C the covariance of the data, by Jensen's inequality

    q / p <= M = 0.9^(-D/2) exp(a² tr C / (2 b²)),

and the levels are such that M is at most exp(3).

*False alarms.* At a rate ALARMS over all cases of a run together, Bonferroni: the first by
Bernstein's inequality in its empirical form (Maurer & Pontil 2009, Theorem 4), which needs no
central limit; the others by the normal law of a mean of `SAMPLES` terms that are nearly quadratic.
"""

import math

import pytest
import torch
from hypothesis import assume, event, given
from hypothesis import strategies as st
from properties.cases import MORE, cases
from properties.test_artefacts import KINDS, moments
from scipy.stats import norm

from gaga_adapter.moments import DenseMoments
from gaga_adapter.reference import make_reference
from gaga_adapter.reference.wishart import WishartShapeReference
from gaga_adapter.subspace import project

pytestmark = pytest.mark.filterwarnings("ignore::gaga_adapter.errors.GAGAWarning")
ALARMS = 1e-6
SAMPLES = 4000
N_CASES = 40
CHECKS = 3 * N_CASES * max(1, MORE)
#: Error of the logarithm of `shape` in nats, as its module states it, by the number of atoms.
SHAPE_ERROR = {1: 0.0, 2: 2e-3, 3: 2e-3, 4: 0.18, 5: 0.1, 6: 0.07, 7: 0.05}
STEP = 1e-4  # of the derivatives


@st.composite
def references(draw):
    """A reference at the level of the data, the argument of `sample`, and its dimension."""
    _, made = draw(moments(draw(st.sampled_from([k for k in KINDS if k != "refined"]))))
    if isinstance(made, DenseMoments):
        finer = {"element": ["element"], "low_rank": ["element", "low_rank"],
                 "full": ["element", "full"]}  # fmt: skip
        kind = draw(st.sampled_from(["unit", "paper", "channel", *finer.get(made.kind, [])]))
        shape = (SAMPLES, *made.shape)
        return make_reference(made, kind), shape, math.prod(made.shape), None
    kinds = ["unit", "paper", "channel", "size"]
    has_table = made.n_positions > 0 and made.table_size > 0
    kind = draw(st.sampled_from([*kinds, *(["shape", "shape", "wishart"] if has_table else [])]))
    reference = (
        WishartShapeReference("shape", made) if kind == "wishart" else make_reference(made, kind)
    )
    n = draw(st.sampled_from(sorted({int(n) for n in made.sizes})))
    dimension = made.n_positions * (n - 1) + made.n_features * n
    return reference, [n] * SAMPLES, dimension, n


def deviation(values, limit):
    """How far a mean may be off, by the normal law."""
    return limit * float(values.std()) / math.sqrt(len(values))


@cases(N_CASES)
@given(references(), st.floats(0.1, 0.35), st.floats(0.3, 3), st.integers(0, 2**31))
def test_samples_follow_the_density(case, ratio, b, seed):
    reference, size, dimension, n = case
    assume(0 < dimension <= 14)
    event(f"{type(reference).__name__} {reference.kind}")
    generator = torch.Generator().manual_seed(seed)

    def draw(one):
        return one.sample(size, generator=generator, dtype=torch.float64)

    clean = draw(reference)
    centre = clean.mean(0, keepdim=True)
    spread = 1.1 * float((clean - centre).square().flatten(1).sum(1).mean()) + 1e-300
    a = math.sqrt(ratio * dimension * b**2 / spread)
    assume(1e-6 < a < 1e6)
    at = reference.at(a, b)
    x, other = draw(at), draw(at)
    middle = other.mean(0, keepdim=True)
    density = at.log_prob(x)
    slack = 0.0
    if n is not None and reference.kind == "shape":
        slack = SHAPE_ERROR.get(n, 0.18)

    # normalisation
    variance = 0.9 * b**2
    away = (x - middle).square().flatten(1).sum(1)
    log_q = -0.5 * (away / variance + dimension * math.log(2 * math.pi * variance))
    share = (log_q - density).exp()
    # the mean of q is that of draws, a little off: it costs its square in the exponent
    most = 0.9 ** (-dimension / 2) * math.exp(0.5 * ratio * dimension + 1.0)
    chance = math.log(4 * CHECKS / ALARMS)
    allowed = math.sqrt(2 * float(share.var()) * chance / SAMPLES)
    allowed += 7 * most * chance / (3 * (SAMPLES - 1))
    assert math.exp(-slack) - allowed <= float(share.mean()) <= math.exp(slack) + allowed

    # scale
    limit = norm.isf(ALARMS / (2 * CHECKS))
    wide, narrow = (at.log_prob(middle + (1 + s) * (x - middle)) for s in (STEP, -STEP))
    slope = (wide - narrow) / (2 * STEP)
    rounding = 1e-6 * dimension + slack * 0.2
    assert abs(float(slope.mean()) + dimension) <= deviation(slope, limit) + rounding

    # place
    way = torch.randn(x.shape[1:], generator=generator, dtype=torch.float64)
    if n is not None:
        way = project(way[None], torch.ones(1, n, dtype=torch.bool), reference.n_positions)[0]
    way = way / way.norm() * b
    near, far = (at.log_prob(x + s * way) for s in (-STEP, STEP))
    slope = (far - near) / (2 * STEP)
    assert abs(float(slope.mean())) <= deviation(slope, limit) + 1e-6 + slack * 0.2


@cases(25)
@given(references(), st.floats(0.1, 0.35), st.floats(0.3, 3), st.floats(1.02, 1.5), st.booleans())
def test_the_checks_notice_a_density_that_is_off(case, ratio, b, factor, scaled):
    """A density of another scale, or with a constant too much: the test above would fail."""
    reference, size, dimension, n = case
    assume(2 <= dimension <= 14)
    assume(n is None or reference.kind != "shape")
    generator = torch.Generator().manual_seed(0)
    clean = reference.sample(size, generator=generator, dtype=torch.float64)
    spread = float((clean - clean.mean(0)).square().flatten(1).sum(1).mean()) + 1e-300
    a = math.sqrt(ratio * dimension * b**2 / spread)
    assume(1e-6 < a < 1e6)
    at = reference.at(a, b)
    x = at.sample(size, generator=generator, dtype=torch.float64)
    wrong = reference.at(factor**2 * a, factor**2 * b)
    middle = x.mean(0, keepdim=True)
    if scaled:
        wide, narrow = (wrong.log_prob(middle + (1 + s) * (x - middle)) for s in (STEP, -STEP))
        slope = (wide - narrow) / (2 * STEP)
        limit = norm.isf(ALARMS / (2 * 3 * N_CASES))
        is_seen = abs(float(slope.mean()) + dimension) > deviation(slope, limit) + 1e-6 * dimension
        # the scale of a chi square of D degrees is known to sqrt(2 / (D SAMPLES))
        seen_from = limit * math.sqrt(2 / (dimension * SAMPLES)) * 2.5
        assert is_seen or 1 - factor**-4 < seen_from
        return
    variance = 0.9 * b**2
    away = (x - middle).square().flatten(1).sum(1)
    log_q = -0.5 * (away / variance + dimension * math.log(2 * math.pi * variance))
    share = (log_q - at.log_prob(x) - math.log(3)).exp()  # a density three times too large
    most = 0.9 ** (-dimension / 2) * math.exp(0.5 * ratio * dimension + 1.0)
    chance = math.log(4 * 3 * N_CASES / ALARMS)
    allowed = math.sqrt(2 * float(share.var()) * chance / SAMPLES)
    allowed += 7 * most * chance / (3 * (SAMPLES - 1))
    assert abs(float(share.mean()) - 1) > allowed or most > 25
