"""Normalisation by the root mean square."""
