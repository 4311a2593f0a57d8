"""Damaged input for everything that lrqk reads, from fixed seeds: ``cd tests; python -m fuzz pdf``."""
