"""The header of a GGUF file, parsed once and shared with transformers' own readers."""

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

    Reading a vocabulary takes a million slices, which are several times slower on a ``numpy.memmap``.
    """

    @property  # type: ignore[override]  # gguf declares a ``memmap``
    def data(self) -> np.ndarray[Any, Any]:
        """Return the bytes of the file."""
        return self._bytes

    @data.setter
    def data(self, mapped: np.ndarray[Any, Any]) -> None:
        self._bytes = mapped.view(np.ndarray)


# The newest header only: it takes about 100 MB.
_kept: dict[tuple[Path, FileVersion], HeaderReader] = {}


def header_of(file: Path) -> HeaderReader:
    """Return the header of a file; parse it unless it is the kept one.

    Raises:
        OSError, ValueError, KeyError: the file is missing, or is no GGUF.
    """
    key = file, version_of(file)
    if key not in _kept:
        _kept.clear()
        _kept[key] = HeaderReader(file)
    return _kept[key]


@contextmanager
def freed_header() -> Iterator[None]:
    """Free the kept header at the end of this context."""
    try:
        yield
    finally:
        _kept.clear()


@contextmanager
def lent_header(file: Path) -> Iterator[None]:
    """Let transformers use the parsed header of a file inside this context, instead of parsing it again.

    transformers imports the reader class from gguf at each use, so this replaces the class.
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
