"""Rows of a packed matrix as plain numbers."""
