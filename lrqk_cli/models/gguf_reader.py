"""The header of a GGUF file, parsed once and shared with transformers' own readers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from lrqk_cli.models.gguf_index import FileVersion, read_index, version_of


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

    def _get(self, offset: int, dtype: Any, count: int = 1, *args: Any, **order: Any) -> np.ndarray[Any, Any]:
        """Return numbers of the file.

        Behind its end gguf's own finds none, without an error, as often as a damaged length says.

        Raises:
            ValueError: the file ends before them.
        """
        found = super()._get(offset, dtype, count, *args, **order)
        if len(found) < count:
            raise ValueError("it ends too early")
        return found


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


class HeaderValues:
    """The values in a header under the name of its architecture, and the shapes of the tensors.

    Attributes:
        architecture: its name.
        shapes: the shape of each tensor, rows first, by its name.
    """

    def __init__(self, file: Path) -> None:
        index = read_index(file)
        self._reader = header_of(file)
        self.architecture = index.architecture
        self.shapes = {tensor.name: tensor.shape for tensor in index.tensors}

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of ``<architecture>.<key>``; ``default`` if there is none."""
        return self._value(f"{self.architecture}.{key}", default)

    def __getitem__(self, key: str) -> Any:
        """Return the value of ``<architecture>.<key>``.

        Raises:
            ValueError: there is none.
        """
        if (value := self.get(key)) is None:
            raise ValueError(f"its header does not say {key}")
        return value

    def has(self, tensor: str) -> bool:
        """Return whether a layer, or the model, has a tensor of this name without its layer."""
        return any(name == tensor or name.endswith(f".{tensor}") for name in self.shapes)

    def listed(self, key: str, layers: int) -> list[Any]:
        """Return a value for each layer, whether the header has a list or one value for all.

        Raises:
            ValueError: there is none, or the list has another length.
        """
        value = self[key]
        found = value if isinstance(value, list) else [value] * layers
        if len(found) < layers:
            raise ValueError(f"its header says {key} of {len(found)} layers, not of {layers}")
        return found[:layers]

    def numbers(self, tensor: str) -> np.ndarray[Any, Any]:
        """Return the numbers of a tensor that is not packed."""
        return np.concatenate([each.data for each in self._reader.tensors if each.name == tensor])

    def token(self, kind: str) -> int | None:
        """Return the id of a special token, such as ``eos``; None if there is none."""
        found: int | None = self._value(f"tokenizer.ggml.{kind}_token_id", None)
        return found

    def tokenizer_flag(self, name: str) -> bool | None:
        """Return a switch of the tokenizer, such as ``add_bos_token``; None if the header does not say."""
        found: bool | None = self._value(f"tokenizer.ggml.{name}", None)
        return found

    @cached_property
    def tokens(self) -> list[str]:
        """The texts of the tokens, in the order of their ids."""
        found: list[str] = self._value("tokenizer.ggml.tokens", [])
        return found

    def tokens_of(self, kind: gguf.TokenType) -> dict[str, int]:
        """Return the ids of the tokens of a type, by their texts."""
        kinds: list[int] = self._value("tokenizer.ggml.token_type", [])
        listed = enumerate(zip(self.tokens, kinds, strict=False))
        return {token: number for number, (token, own) in listed if own == kind}

    @property
    def vocabulary_kind(self) -> str | None:
        """Return the name of the kind of vocabulary, such as ``gpt2`` for bytes; None if there is none."""
        found: str | None = self._value("tokenizer.ggml.model", None)
        return found

    @property
    def pre_tokenizer(self) -> str | None:
        """Return the name of the way in which text is split before it is encoded; None if there is none."""
        found: str | None = self._value("tokenizer.ggml.pre", None)
        return found

    def _value(self, key: str, default: Any) -> Any:
        field = self._reader.get_field(key)
        return default if field is None else field.contents()
