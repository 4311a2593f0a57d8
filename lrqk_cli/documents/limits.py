"""Limits of the process that reads documents."""

from __future__ import annotations

from dataclasses import dataclass

from lrqk_cli.errors import UsageError


@dataclass(frozen=True, slots=True)
class ReadLimits:
    """Limits for reading a file or listing a folder.

    Attributes:
        timeout: seconds; a file gets one second more for each page that has been read, and 30 more for
            each that has been read by OCR.
        memory: bytes of the reading process.
    """

    timeout: float = 60.0
    memory: int = 2 << 30

    def __post_init__(self) -> None:
        for name, limit in (("read_timeout", self.timeout), ("read_memory", self.memory)):
            if limit <= 0:
                raise UsageError(f"`{name}` must be positive.")
