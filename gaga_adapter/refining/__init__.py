"""Learning what refines the `shape` start, and asking whether it helps."""
