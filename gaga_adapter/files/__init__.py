"""What is on disk and on the hub: whole files or none."""
