"""Runs the scripts of a checkout unedited: `gaga run`."""
