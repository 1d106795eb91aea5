"""What a fit may add to the `shape` reference: fitted mixing weights, and a tilt."""
