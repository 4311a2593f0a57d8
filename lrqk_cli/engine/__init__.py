"""Prefill, decode and generation over one model and one cache."""
