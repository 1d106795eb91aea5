"""How many cases a property is tried on: the same few in every run, or many new ones.

    GAGA_CASES=30 python -m pytest tests/properties --hypothesis-show-statistics

In every run the cases are those of a fixed seed, and nothing else: hypothesis would also try the
constants of the modules that happen to be loaded. With `GAGA_CASES` there are that many
times more, and other ones each time; what fails then is kept as an `@example`.
"""

import os

from hypothesis import HealthCheck, Phase, settings

MORE = float(os.environ.get("GAGA_CASES", "1"))


def _leave_out_constants_of_modules():
    """Other tests that run beside a property must not change its cases."""
    try:
        from hypothesis.internal.conjecture import providers

        none = type(providers._local_constants)()
    except (ImportError, AttributeError, TypeError):
        return  # a version that does not look at them, or looks in another way
    providers._get_local_constants = lambda: none


if MORE <= 1:
    _leave_out_constants_of_modules()


def cases(number, **options):
    """Settings of a test that tries `number` cases, or `GAGA_CASES` times as many."""
    return settings(
        max_examples=max(1, int(number * MORE)),
        derandomize=MORE <= 1,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
        phases=[Phase.explicit, Phase.generate, Phase.shrink],  # to explain takes minutes
        **options,
    )
