"""Rows come from the host into hot slots."""
