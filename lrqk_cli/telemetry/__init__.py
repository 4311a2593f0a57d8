"""Counters of the decode steps."""
