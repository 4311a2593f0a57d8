"""Measure the speed and the memory of prefill and decode in each mode."""
