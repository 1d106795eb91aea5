"""How many cases a property is tried on: the same few in every run, or many new ones.

    GAGA_CASES=30 python -m pytest tests/properties --hypothesis-show-statistics

In every run the cases are those of a fixed seed; hypothesis also tries the constants of the modules
that are loaded, so other tests beside them can change some. With `GAGA_CASES` there are that many
times more, and other ones each time; what fails then is kept as an `@example`.
"""

import os

from hypothesis import HealthCheck, Phase, settings

MORE = float(os.environ.get("GAGA_CASES", "1"))


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
