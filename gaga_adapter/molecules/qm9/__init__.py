"""The QM9 data set: geometries, and properties."""
