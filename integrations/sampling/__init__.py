"""A model of the EDM lineage as a diffusers pipeline."""
