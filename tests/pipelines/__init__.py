"""Pipelines of diffusers, unmodified and tiny, and what a truncated scheduler does in each.

`case.py` says what a case is, the files of builders make the pipelines, `levels.py` works out what
a network should see, `measure.py` runs a pipeline and says what it did see, `table.py` writes the
table of the documentation.
"""
