"""Limits of fetching and reading documents."""

from __future__ import annotations

from dataclasses import dataclass

from lrqk_cli.errors import UsageError


@dataclass(frozen=True, slots=True)
class ReadLimits:
    """Limits for fetching a document, reading a file or listing a folder.

    Attributes:
        timeout: seconds; a file gets one second more for each page that has been read, and 30 more for
            each that has been read by OCR. To fetch it may take as long, before.
        memory: bytes of the reading process.
        fetch_size: bytes of a document that is fetched, after decompression.
    """

    timeout: float = 60.0
    memory: int = 2 << 30
    fetch_size: int = 256 << 20

    def __post_init__(self) -> None:
        limits = {
            "read_timeout": self.timeout,
            "read_memory": self.memory,
            "fetch_size": self.fetch_size,
        }
        for name, limit in limits.items():
            if limit <= 0:
                raise UsageError(f"`{name}` must be positive.")
