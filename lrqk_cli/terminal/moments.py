"""Times as a user reads them."""

from __future__ import annotations

from datetime import datetime


def local_time(seconds: float) -> datetime | None:
    """Return the local time of so many seconds since the epoch; None for a number that is no date."""
    try:
        return datetime.fromtimestamp(seconds).astimezone()
    except (ValueError, OverflowError, OSError):
        return None


def shown_time(seconds: float) -> str:
    """Return the date and the minute, or a dash for a number that is no date."""
    moment = local_time(seconds)
    return f"{moment:%Y-%m-%d %H:%M}" if moment is not None else "-"
