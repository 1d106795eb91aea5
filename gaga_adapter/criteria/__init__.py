"""Criteria of Gaussianity: one file each, one protocol, one registry."""
