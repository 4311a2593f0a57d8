"""A file of tensors comes back as it was written, or is told to be damaged."""

from __future__ import annotations

import errno
import json
import os
import stat
import threading
from pathlib import Path

import pytest
import torch
import xxhash
from safetensors import safe_open

from lrqk_cli.prefix_cache import tensor_file
from lrqk_cli.prefix_cache.tensor_file import (
    DamagedFileError,
    TensorFile,
    WritingStopped,
    read_metadata,
    write_tensors,
)

METADATA = {"format": "1", "label": '{"title": "ü"}'}
DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.int64,
    torch.int32,
    torch.int8,
    torch.uint8,
    torch.bool,
]


def numbers(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    made = torch.randn(shape, generator=torch.Generator().manual_seed(1)) * 9
    return (made > 0) if dtype == torch.bool else made.abs().to(dtype)


def same(found: torch.Tensor, expected: torch.Tensor) -> bool:
    is_alike = found.dtype == expected.dtype and found.shape == expected.shape
    return is_alike and torch.equal(
        found.contiguous().view(-1).view(torch.uint8), expected.contiguous().view(-1).view(torch.uint8)
    )


def tensors() -> dict[str, torch.Tensor]:
    every = {str(dtype): numbers(dtype, 3, 5) for dtype in DTYPES}
    wide = numbers(torch.float32, 4, 6, 8)
    return {
        **every,
        "rows": wide[:, 1:3],
        "transposed": wide.transpose(0, 2),
        "strided": wide[0, 0, ::3],
        "expanded": wide[:1].expand(3, 6, 8),
        "number": torch.tensor(3.5),
        "empty": torch.empty(0, 4),
        "thin": torch.empty(4, 0),
        "line": numbers(torch.int8, 7),
    }


@pytest.fixture
def path(tmp_path):
    return tmp_path / "some.block"


@pytest.fixture
def small(path):
    """A file of a few hundred bytes."""
    write_tensors(path, {"a": numbers(torch.float32, 2, 3), "b": numbers(torch.int8, 3)}, {"label": "x"})
    return path


def read_all(path: Path) -> dict[str, torch.Tensor]:
    with TensorFile(path) as file:
        assert file.metadata == {"label": "x"}
        return {name: file.tensor(name) for name in ("a", "b")}


def test_all_types_and_views_come_back(path):
    written = tensors()
    assert write_tensors(path, written, METADATA) == path.stat().st_size
    assert read_metadata(path) == METADATA
    with TensorFile(path) as file:
        assert file.metadata == METADATA
        for name, tensor in written.items():
            assert same(file.tensor(name), tensor), name


def test_tensors_are_read_into_views(path):
    written = tensors()
    write_tensors(path, written, METADATA)
    with TensorFile(path) as file:
        for name, tensor in written.items():
            wide = torch.zeros([2 * size for size in tensor.shape], dtype=tensor.dtype)
            target = wide[tuple(slice(size) for size in tensor.shape)]
            file.read_into(name, target)
            assert same(target, tensor), name
            # Nothing beside the view has changed.
            target.zero_()
            assert not wide.float().any(), name
        turned = torch.empty(8, 6, 4).transpose(0, 1).contiguous().transpose(0, 1)
        file.read_into("transposed", turned)
        assert torch.equal(turned, written["transposed"])


def test_the_library_reads_it(path):
    written = tensors()
    write_tensors(path, written, METADATA)
    with safe_open(path, "pt") as file:
        assert file.metadata() == METADATA
        assert set(file.keys()) == {*written, "checksums"}
        for name, tensor in written.items():
            assert same(file.get_tensor(name), tensor), name


def test_every_tensor_is_aligned_to_its_numbers(path):
    write_tensors(path, tensors(), METADATA)
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    assert length % 8 == 0
    sizes = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2}
    for name, entry in json.loads(content[8 : 8 + length]).items():
        if name != "__metadata__":
            assert entry["data_offsets"][0] % sizes.get(entry["dtype"], 1) == 0


def test_only_the_owner_can_read_it(small):
    assert stat.S_IMODE(small.stat().st_mode) == 0o600


def test_it_replaces_a_file_whole(small):
    write_tensors(small, {"c": torch.ones(2)}, {})
    with TensorFile(small) as file:
        assert torch.equal(file.tensor("c"), torch.ones(2))
    assert list(small.parent.iterdir()) == [small]


def test_every_flipped_bit_is_detected(small):
    content = small.read_bytes()
    assert len(content) < 500
    for at in range(8 * len(content)):
        flipped = bytearray(content)
        flipped[at // 8] ^= 1 << at % 8
        small.write_bytes(flipped)
        with pytest.raises(DamagedFileError, match="is damaged") as refusal:
            read_all(small)
        assert refusal.value.path == small
        assert refusal.value.hint


def test_every_truncation_and_every_longer_file_is_detected(small):
    content = small.read_bytes()
    for length in range(len(content)):
        small.write_bytes(content[:length])
        with pytest.raises(DamagedFileError):
            TensorFile(small)
    for more in (b"\0", content):
        small.write_bytes(content + more)
        with pytest.raises(DamagedFileError):
            TensorFile(small)
    small.write_bytes(content)
    read_all(small)


def test_a_file_that_shrinks_while_it_is_open_is_detected(small):
    with TensorFile(small) as file:
        os.truncate(small, small.stat().st_size // 2)
        with pytest.raises(DamagedFileError, match="ends too early"):
            file.tensor("b")


def forged(header: object, data: bytes = b"", *, length: int | None = None) -> bytes:
    """Return a file with this header and the checksum of it alone as its last 8 bytes."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    start = (len(text) if length is None else length).to_bytes(8, "little") + text
    return start + data + xxhash.xxh3_64_digest(start)


def entry(shape: list[int], begin: object, end: object, dtype: str = "U8") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


MANY = {f"{number:x}": 0 for number in range(16)}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff" * 7,
        b"\xff" * 64,
        bytes(64),
        forged(b"[" * 100_000),
        forged([]),
        forged("text"),
        forged({}),
        forged({"__metadata__": {}}),
        forged({"__metadata__": {}, "checksums": 3}),
        forged({"__metadata__": {}, "checksums": {"data_offsets": [0]}}),
        forged({"__metadata__": {}, "checksums": {"data_offsets": ["0", "8"]}}),
        forged({"__metadata__": {}, "checksums": {"data_offsets": [0.0, 8.0]}}),
        forged({"__metadata__": {}, "checksums": {"data_offsets": [1e999, 1e999]}}),
        forged(b'{"__metadata__": {}, "checksums": {"data_offsets": [' + b"9" * 5000 + b", 8]}}"),
        forged({"__metadata__": {}, **MANY, "checksums": {"data_offsets": [8 - 8 * 17, 8]}}),
        forged(b"\xff\xfe"),
        forged({"__metadata__": {}, "a": 3, "checksums": entry([8], 0, 8)}),
        forged(
            {"__metadata__": {}, "a": entry([1], 0, 1) | {"data_offsets": 3}, "checksums": entry([8], 0, 8)}
        ),
        forged({"__metadata__": {}, "a": entry([1], 0, "1"), "checksums": entry([8], 0, 8)}),
        forged({"__metadata__": {}, "a": entry([1], 0, 1 << 70), "checksums": entry([8], 0, 8)}),
        forged({"__metadata__": {}, "a": entry([-1], 0, 1), "checksums": entry([8], 0, 8)}),
    ],
    ids=range(22),
)
def test_what_is_no_such_file_is_told_as_damaged(path, content):
    path.write_bytes(content)
    with pytest.raises(DamagedFileError):
        TensorFile(path)


def test_checksums_before_the_file_are_told_as_damaged(path):
    # More tensors than the header has bytes for, at 8 bytes a checksum.
    names = [chr(code) for code in range(33, 127) if chr(code) not in '"\\']
    count = len(names) + 1
    header = dict.fromkeys(names, 0) | {"checksums": {"data_offsets": [8 - 8 * count, 8]}, "__metadata__": {}}
    content = forged(json.dumps(header, separators=(",", ":")).encode())
    assert len(content) < 8 * count
    path.write_bytes(content)
    with pytest.raises(DamagedFileError):
        TensorFile(path)


@pytest.mark.parametrize(
    ("found", "name", "target"),
    [
        (entry([4], 0, 4), "b", torch.empty(4, dtype=torch.uint8)),
        (entry([4], 0, 4), "a", torch.empty(5, dtype=torch.uint8)),
        (entry([4], 0, 4), "a", torch.empty(4, dtype=torch.int8)),
        (entry([4], 0, 4), "checksums", torch.empty(2, dtype=torch.uint8)),
    ],
)
def test_another_name_shape_or_type_is_told_as_damaged(path, found, name, target):
    write_tensors(path, {"a": torch.zeros(4, dtype=torch.uint8)}, {})
    with TensorFile(path) as file, pytest.raises(DamagedFileError):
        file.read_into(name, target)


def test_a_file_that_is_not_there_is_no_damaged_one(path):
    with pytest.raises(FileNotFoundError):
        TensorFile(path)


@pytest.mark.parametrize("stop_at", range(5))
def test_a_stopped_file_leaves_nothing(path, stop_at):
    asked = []

    def is_stopped() -> bool:
        asked.append(0)
        return len(asked) > stop_at

    # Four rows of a view, then a whole tensor.
    some = {"rows": numbers(torch.float32, 4, 6)[:, :2], "whole": numbers(torch.int8, 3)}
    with pytest.raises(WritingStopped):
        write_tensors(path, some, {}, is_stopped)
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError()], ids=["interrupt", "memory"])
@pytest.mark.parametrize("call", [0, 1, 2, 3])
def test_an_interrupted_file_leaves_nothing_and_an_older_one_stays(small, monkeypatch, error, call):
    write_all, calls = tensor_file._write_all, []

    def interrupt(file, data):
        write_all(file, data)
        calls.append(data)
        if len(calls) > call:
            raise error

    before = small.read_bytes()
    monkeypatch.setattr(tensor_file, "_write_all", interrupt)
    with pytest.raises(type(error)):
        write_tensors(small, {"a": torch.ones(3, 3), "b": torch.ones(2)}, {})
    assert list(small.parent.iterdir()) == [small]
    assert small.read_bytes() == before


class FullDisk:
    """A file that takes only so many bytes, a few at a time."""

    def __init__(self, file, room: int) -> None:
        self._file = file
        self._room = room

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __getattr__(self, name: str):
        return getattr(self._file, name)

    def write(self, data) -> int:
        count = self._file.write(memoryview(data)[: min(self._room, 7)])
        if not count:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._room -= count
        return count


@pytest.mark.parametrize("room", [0, 5, 100, 250])
def test_a_full_disk_leaves_nothing(path, monkeypatch, room):
    fdopen = os.fdopen
    monkeypatch.setattr(tensor_file.os, "fdopen", lambda *args, **kw: FullDisk(fdopen(*args, **kw), room))
    with pytest.raises(OSError, match="No space left") as refusal:
        write_tensors(path, {"a": torch.ones(10, 10)}, METADATA)
    assert refusal.value.errno == errno.ENOSPC
    assert list(path.parent.iterdir()) == []


def test_a_file_that_is_written_in_parts_is_whole(path, monkeypatch):
    fdopen = os.fdopen
    with monkeypatch.context() as patch:
        patch.setattr(tensor_file.os, "fdopen", lambda *args, **kw: FullDisk(fdopen(*args, **kw), 1 << 20))
        written = write_tensors(path, tensors(), METADATA)
    assert written == path.stat().st_size
    with TensorFile(path) as file:
        assert all(same(file.tensor(name), tensor) for name, tensor in tensors().items())


def test_a_folder_that_refuses_is_told(path, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tensor_file.os, "fsync", refuse)
    with pytest.raises(OSError, match="No space left"):
        write_tensors(path, {"a": torch.ones(2)}, {})
    with pytest.raises(FileNotFoundError):
        write_tensors(path.parent / "absent" / "some.block", {"a": torch.ones(2)}, {})
    assert list(path.parent.iterdir()) == []


def test_threads_read_one_file(path):
    written = {str(number): numbers(torch.float32, 64, 64) + number for number in range(8)}
    write_tensors(path, written, {})
    wrong = []
    with TensorFile(path) as file:

        def read(name: str) -> None:
            for _ in range(20):
                if not torch.equal(file.tensor(name), written[name]):
                    wrong.append(name)

        threads = [threading.Thread(target=read, args=(name,)) for name in written]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_a_file_for_which_there_is_no_memory_is_not_damaged(small, monkeypatch):
    error = RuntimeError("DefaultCPUAllocator: can't allocate memory")
    with TensorFile(small) as file:
        name = next(iter(file._entries))
        empty = torch.empty

        def fail(*shape, device=None, **settings):
            if device is None:
                raise error
            return empty(*shape, device=device, **settings)

        monkeypatch.setattr(torch, "empty", fail)
        with pytest.raises(RuntimeError, match="can't allocate"):
            file.tensor(name)
