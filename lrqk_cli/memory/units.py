"""Sizes as people read them."""

from __future__ import annotations


def format_bytes(size: float) -> str:
    """Bytes in binary units, with three digits: ``1.94 GiB``."""
    units = ["GiB", "MiB", "KiB", "B"]
    while size >= 1000 and len(units) > 1:
        size /= 1024
        units.pop()
    unit = units[-1]
    decimals = 0 if size >= 100 or unit == "B" else 1 if size >= 10 else 2
    return f"{size:.{decimals}f} {unit}"
