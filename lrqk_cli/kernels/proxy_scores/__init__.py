"""Scores of all tokens by the low-rank index."""
