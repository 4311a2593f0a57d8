"""Decode attention over the resident rows, with the tail correction."""
