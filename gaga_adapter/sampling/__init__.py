"""The sampling loop for sets of atoms, and the solvers that have names."""

#: Default number of steps of a full trajectory: a fifth of the 1000 of the training table, at which
#: the stability of the molecules is that of 1000 steps within two standard errors
#: (`benchmarks/SAMPLING.md`). An `EDMPipeline` walks its checkpoint's own table instead.
DEFAULT_STEPS = 200
#: Default number of network calls under a `FewStepScheduler`.
FEW_STEPS = 20
