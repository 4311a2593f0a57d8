"""Format sizes for people."""

from __future__ import annotations


def format_bytes(size: float) -> str:
    """Return bytes in binary units with three digits, such as ``1.94 GiB``."""
    units = ["GiB", "MiB", "KiB", "B"]
    while size >= 1000 and len(units) > 1:
        size /= 1024
        units.pop()
    unit = units[-1]
    decimals = 0 if size >= 100 or unit == "B" else 1 if size >= 10 else 2
    return f"{size:.{decimals}f} {unit}"
