"""Codebases whose positions flow and whose types are discrete."""
