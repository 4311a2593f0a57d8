"""Headers of GGUF files: parsed once, as gguf does."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from lrqk_cli.errors import ModelError
from lrqk_cli.models import gguf as models_gguf
from lrqk_cli.models import gguf_reader
from lrqk_cli.models.gguf_reader import HeaderReader, freed_header, header_of, lent_header

# transformers asks for a reader in its own way.
pytestmark = pytest.mark.short

_BUILD = gguf.GGUFReader._build_fields


def test_a_header_says_what_gguf_reads(tiny_gguf: Path) -> None:
    expected, found = gguf.GGUFReader(tiny_gguf), HeaderReader(tiny_gguf)
    assert list(found.fields) == list(expected.fields)
    for name, field in expected.fields.items():
        assert found.fields[name].contents() == field.contents()
    for tensor, other in zip(found.tensors, expected.tensors, strict=True):
        assert (tensor.name, tensor.data_offset) == (other.name, other.data_offset)
        assert np.array_equal(tensor.data, other.data)


def test_a_file_is_parsed_once_and_forgotten(
    tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    parse = HeaderReader.__init__

    def counted(self: HeaderReader, *args: Any) -> None:
        made.append(args)
        parse(self, *args)

    def refuse(*_: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(HeaderReader, "__init__", counted)
    original = gguf.GGUFReader
    # What does not go through ours would go through this one.
    monkeypatch.setattr(original, "_build_fields", refuse)
    monkeypatch.setattr(HeaderReader, "_build_fields", _BUILD, raising=False)
    models_gguf.read_config(tiny_gguf)
    (tmp_path / "made").mkdir()
    models_gguf.prepare(tiny_gguf, tmp_path / "made", {}, lambda *_: None)
    assert len(made) == 1
    assert not gguf_reader._kept
    assert gguf.GGUFReader is original


@pytest.mark.parametrize("kind", [0, 5, 8, 9, 12])
def test_a_list_that_is_longer_than_the_file_has_an_end(tmp_path: Path, kind: int) -> None:
    key = b"tokenizer.ggml.scores"
    header = struct.pack("<4sIQQ", b"GGUF", 3, 0, 1) + struct.pack("<Q", len(key)) + key
    file = tmp_path / "endless.gguf"
    file.write_bytes(header + struct.pack("<IIQ", 9, kind, 2**60) + bytes(64))
    with pytest.raises((ValueError, IndexError, RecursionError)):
        header_of(file)


def test_another_file_or_another_version_is_parsed_anew(tiny_gguf: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.gguf"
    other.write_bytes(tiny_gguf.read_bytes())
    with freed_header():
        first = header_of(tiny_gguf)
        assert header_of(tiny_gguf) is first
        with lent_header(tiny_gguf):
            assert gguf.GGUFReader(str(tiny_gguf)) is first
            assert gguf.GGUFReader(other) is not first
        other.write_bytes(other.read_bytes() + b"\0")
        assert header_of(other) is not first
        assert header_of(tiny_gguf) is not first
    assert not gguf_reader._kept


def test_what_is_no_header_leaves_gguf_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "no.gguf"
    file.write_bytes(b"GGUF" + bytes(40))
    original = gguf.GGUFReader
    with pytest.raises(ModelError):
        models_gguf.read_config(file)
    assert gguf.GGUFReader is original
