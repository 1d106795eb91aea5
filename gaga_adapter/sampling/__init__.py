"""The sampling loop for sets of atoms, and the solvers that have names."""
