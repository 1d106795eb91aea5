"""Patches a model in memory, reversibly, so that it starts at t*."""
