"""The published statistics: Kolmogorov-Smirnov distances and mutual information."""
