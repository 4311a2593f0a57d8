"""The differences between releases of transformers; no other module depends on versions."""

from __future__ import annotations

import re
from functools import cache
from importlib.metadata import PackageNotFoundError, version

# The range in pyproject.toml, from the oldest to the newest tested minor release.
OLDEST_TESTED = (5, 23)
NEWEST_TESTED = (5, 24)

# The release that renamed the models' argument for the KV cache; 5.40 removes the old name.
_RENAMED = (5, 24)
CACHE_NAMES = ("cache", "past_key_values")


def installed_version(distribution: str) -> str | None:
    """Return the version of an installed distribution, without importing it; None if not installed."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


@cache
def transformers_release() -> tuple[int, int] | None:
    """Return the major and minor version of transformers, without importing it; None if not installed."""
    found = re.match(r"(\d+)\.(\d+)", installed_version("transformers") or "")
    return (int(found[1]), int(found[2])) if found else None


def cache_argument() -> str:
    """Return the name under which a model takes a KV cache, one of ``CACHE_NAMES``."""
    release = transformers_release()
    return CACHE_NAMES[0] if release is None or release >= _RENAMED else CACHE_NAMES[1]


def requirement() -> str:
    """Return the requirement with which pip installs a tested release."""
    (major, oldest), (newest_major, newest) = OLDEST_TESTED, NEWEST_TESTED
    return f"transformers>={major}.{oldest},<{newest_major}.{newest + 1}"


def untested_warning() -> str | None:
    """Return a warning in one sentence if the installed transformers is untested, else None."""
    release = transformers_release()
    if release is None or OLDEST_TESTED <= release <= NEWEST_TESTED:
        return None
    oldest, newest = (".".join(map(str, minor)) for minor in (OLDEST_TESTED, NEWEST_TESTED))
    return (
        f"transformers {installed_version('transformers')} is not among the versions that lrqk was tested "
        f"with, {oldest} to {newest}: expect failures, or run: pip install '{requirement()}'"
    )
