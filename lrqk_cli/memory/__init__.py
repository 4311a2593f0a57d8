"""Bytes: what things will take, what there is, and tensors made accordingly."""
