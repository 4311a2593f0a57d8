"""Files of tensors in the safetensors layout, with a checksum for each tensor.

A file is written in a stream and read in place, so no copy of it is ever in memory. The last tensor,
``checksums``, holds the XXH3 hash of the header and of each tensor in file order.
"""

from __future__ import annotations

import errno
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

import xxhash

from lrqk_cli.errors import LrqkError

if TYPE_CHECKING:
    from torch import Tensor

_CHECKSUMS = "checksums"
_HASH_BYTES = 8
# A larger header is not one of ours.
_MAX_HEADER_BYTES = 1 << 24
# safetensors' names of torch's types. torch itself is imported late: listing files does not need it.
_NAMES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3",
    "int64": "I64",
    "int32": "I32",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}
_DTYPES = {name: dtype for dtype, name in _NAMES.items()}


class DamagedFileError(LrqkError):
    """A file of tensors is not as it was written.

    Attributes:
        path: the file.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path} is damaged: {reason}.", "Remove it.")
        self.path = path


class _Entry(NamedTuple):
    """What a header says of a tensor; ``begin`` and ``end`` are bytes behind the header."""

    dtype: str
    shape: list[int]
    begin: int
    end: int


class WritingStopped(Exception):  # noqa: N818 - not a failure
    """The caller stopped a file while it was written; nothing of it is left."""


def write_tensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    is_stopped: Callable[[], bool] = lambda: False,
) -> int:
    """Write a file whole or not at all, with mode 0600; its folder must exist.

    Args:
        tensors: may be views and may be on a device; at most one row of the first dimension is copied at a
            time.
        is_stopped: asked between two pieces of a tensor.

    Returns:
        The bytes written.

    Raises:
        WritingStopped: ``is_stopped`` returned true.
        OSError: the file cannot be written, for example because the disk is full.
    """
    # Large numbers first, so that each tensor of the mapped file is aligned to its numbers.
    ordered = sorted(tensors.items(), key=lambda item: -item[1].element_size())
    header = _header(ordered, metadata)
    handle, name = tempfile.mkstemp(prefix=path.name[:32], suffix=".part", dir=path.parent)
    part = Path(name)
    try:
        with os.fdopen(handle, "wb", buffering=0) as file:
            _write_all(file, header)
            hashes = [xxhash.xxh3_64_digest(header)]
            for _, tensor in ordered:
                digest = xxhash.xxh3_64()
                for piece in _pieces(tensor):
                    if is_stopped():
                        raise WritingStopped
                    view = _bytes_of(piece.to("cpu").contiguous())
                    digest.update(view)
                    _write_all(file, view)
                hashes.append(digest.digest())
            _write_all(file, b"".join(hashes))
            os.fsync(file.fileno())
            size = file.tell()
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    return size


class TensorFile:
    """An open file of tensors; several threads may read from it.

    Attributes:
        path: of the file; metadata: as written.

    Raises:
        DamagedFileError: the header is not as written, or the file is shorter or longer than it says.
        OSError: the file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = Lock()
        self._file = path.open("rb", buffering=0)
        try:
            self._read_header()
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            self._file.close()
            raise DamagedFileError(path, "its header cannot be read") from None
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> TensorFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _read_header(self) -> None:
        size = os.fstat(self._file.fileno()).st_size
        start = self._file.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or not 0 < length <= min(_MAX_HEADER_BYTES, size - 8):
            raise DamagedFileError(self.path, "its header cannot be read")
        header = self._file.read(length)
        entries: dict[str, Any] = json.loads(header)
        self.metadata: dict[str, str] = entries.pop("__metadata__")
        self._first = 8 + length
        self._entries = {name: _read_entry(entry) for name, entry in entries.items()}
        self._order = {name: number for number, name in enumerate(entries, 1)}
        begin, end = self._entries[_CHECKSUMS][2:]
        is_within = all(entry.end <= end for entry in self._entries.values())
        if not is_within or self._first + end != size or end - begin != _HASH_BYTES * len(entries):
            raise DamagedFileError(self.path, "it is not as long as it was written")
        self._file.seek(self._first + begin)
        self._hashes = self._file.read(end - begin)
        self._check(0, xxhash.xxh3_64_digest(start + header))

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def tensor(self, name: str) -> Tensor:
        """Return a tensor in memory of its own.

        Raises:
            DamagedFileError: there is no such tensor, or its checksum differs.
        """
        import torch

        entry = self._entry(name)
        try:
            dtype = getattr(torch, _DTYPES[entry.dtype])
            # Without memory yet, so that a shape that the file is too short for does not ask for any.
            is_whole = torch.empty(entry.shape, dtype=dtype, device="meta").nbytes == entry.end - entry.begin
        except (KeyError, TypeError, ValueError, RuntimeError):
            raise DamagedFileError(self.path, f"{name} has no shape or no type") from None
        if not is_whole:
            raise DamagedFileError(self.path, f"{name} has another size than its shape")
        found = torch.empty(entry.shape, dtype=dtype)
        self.read_into(name, found)
        return found

    def read_into(self, name: str, target: Tensor) -> None:
        """Read a tensor into ``target``, which may be a view and may be on a device.

        Raises:
            DamagedFileError: there is no such tensor of this shape and type, or its checksum differs. What is
                in ``target`` is then undefined.
        """
        import torch

        entry = self._entry(name)
        if entry.dtype != _name(target) or entry.shape != list(target.shape):
            raise DamagedFileError(self.path, f"{name} has another shape or type than expected")
        offset = self._first + entry.begin
        digest = xxhash.xxh3_64()
        for piece in _pieces(target):
            is_in_place = piece.device.type == "cpu" and piece.is_contiguous()
            local = piece if is_in_place else torch.empty(piece.shape, dtype=piece.dtype)
            view = _bytes_of(local)
            self._read_all(offset, view)
            digest.update(view)
            offset += len(view)
            if local is not piece:
                piece.copy_(local)
        self._check(self._order[name], digest.digest())

    def _entry(self, name: str) -> _Entry:
        entry = self._entries.get(name)
        if entry is None:
            raise DamagedFileError(self.path, f"it has no {name}")
        return entry

    def _read_all(self, offset: int, view: memoryview) -> None:
        done = 0
        while done < len(view):
            try:
                with self._lock:
                    self._file.seek(offset + done)
                    count = self._file.readinto(view[done:])
            except OSError as error:
                if error.errno == errno.ENOMEM:
                    raise
                raise DamagedFileError(self.path, "it cannot be read") from None
            if not count:
                raise DamagedFileError(self.path, "it ends too early")
            done += count

    def _check(self, number: int, digest: bytes) -> None:
        if self._hashes[_HASH_BYTES * number : _HASH_BYTES * (number + 1)] != digest:
            raise DamagedFileError(self.path, "a checksum differs")


def read_metadata(path: Path) -> dict[str, str]:
    """Return the metadata of a file; raise as ``TensorFile`` does."""
    with TensorFile(path) as file:
        return file.metadata


def _header(tensors: list[tuple[str, Tensor]], metadata: Mapping[str, str]) -> bytes:
    entries: dict[str, Any] = {"__metadata__": dict(metadata)}
    offset = 0
    for name, tensor in tensors:
        entries[name] = _entry_of(_name(tensor), list(tensor.shape), offset, tensor.nbytes)
        offset += tensor.nbytes
    count = _HASH_BYTES * (len(tensors) + 1)
    entries[_CHECKSUMS] = _entry_of("U8", [count], offset, count)
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _name(tensor: Tensor) -> str:
    return _NAMES[str(tensor.dtype).removeprefix("torch.")]


def _entry_of(dtype: str, shape: list[int], offset: int, size: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + size]}


def _read_entry(entry: Any) -> _Entry:
    """Return an entry of a header.

    Raises:
        ValueError, KeyError, TypeError: it is none.
    """
    begin, end = entry["data_offsets"]
    shape = entry["shape"]
    if not isinstance(shape, list) or not all(
        type(size) is int and size >= 0 for size in (*shape, begin, end)
    ):
        raise ValueError(entry)
    if not isinstance(entry["dtype"], str) or begin > end:
        raise ValueError(entry)
    return _Entry(entry["dtype"], shape, begin, end)


def _pieces(tensor: Tensor) -> Iterator[Tensor]:
    """Return the tensor in parts, in order: all of a contiguous one, else its rows."""
    if tensor.dim() < 2 or (tensor.is_contiguous() and tensor.device.type == "cpu"):
        return iter((tensor,))
    return iter(tensor)


def _bytes_of(tensor: Tensor) -> memoryview:
    """Return the memory of a contiguous tensor on the CPU."""
    import torch

    return tensor.reshape(-1).view(torch.uint8).numpy().data


def _write_all(file: Any, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]
