"""The header of a GGUF file, parsed once for all who need it: ours, and transformers' own readers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from lrqk_cli.models.gguf_index import FileVersion, version_of


class HeaderReader(gguf.GGUFReader):
    """gguf's reader on a plain array.

    A vocabulary takes it a million slices, and those of a ``numpy.memmap`` take several times as long.
    """

    @property  # type: ignore[override]  # gguf promises the map itself
    def data(self) -> np.ndarray[Any, Any]:
        """Return the bytes of the file."""
        return self._bytes

    @data.setter
    def data(self, mapped: np.ndarray[Any, Any]) -> None:
        self._bytes = mapped.view(np.ndarray)


# The newest one, which takes some 100 MB as long as somebody needs it.
_kept: dict[tuple[Path, FileVersion], HeaderReader] = {}


def header_of(file: Path) -> HeaderReader:
    """Return the header of a file, parsed where it is not the newest one.

    Raises:
        OSError, ValueError, KeyError: the file is not there, or is none.
    """
    key = file, version_of(file)
    if key not in _kept:
        _kept.clear()
        _kept[key] = HeaderReader(file)
    return _kept[key]


@contextmanager
def freed_header() -> Iterator[None]:
    """Free the newest header after this context, which is the last that needs it."""
    try:
        yield
    finally:
        _kept.clear()


@contextmanager
def lent_header(file: Path) -> Iterator[None]:
    """Let transformers have the header of a file, inside this context, where it would parse it again.

    It asks gguf for a reader by name each time, and takes no other.
    """
    package: Any = gguf
    original = gguf.GGUFReader

    def reader(path: str | Path, *args: Any, **kwargs: Any) -> gguf.GGUFReader:
        is_same = Path(path) == file and not args and not kwargs
        return header_of(file) if is_same else original(path, *args, **kwargs)

    package.GGUFReader = reader
    try:
        yield
    finally:
        package.GGUFReader = original
