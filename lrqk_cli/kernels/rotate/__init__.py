"""Rotary position embedding of one token."""
