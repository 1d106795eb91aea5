"""A classifier between noised data and draws of the reference."""
