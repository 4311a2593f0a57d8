"""What identifies a model: the contents of its weights, whatever they are called."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from lrqk_cli.errors import ModelError
from lrqk_cli.models import fingerprint
from lrqk_cli.models.fingerprint import weights_digest


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LRQK_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def stamped(*files: Path) -> dict[Path, list[int]]:
    return {file: fingerprint._stamp(file) for file in files}


def write(file: Path, content: bytes) -> Path:
    file.write_bytes(content)
    return file


def test_equal_contents_have_one_hash_and_others_another(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a", b"weights" * 1000), write(tmp_path / "b", b"weights" * 1000)
    c = write(tmp_path / "c", b"weights" * 999 + b"Weights")
    assert weights_digest(stamped(a)) == weights_digest(stamped(b)) != weights_digest(stamped(c))
    assert weights_digest(stamped(a, c)) != weights_digest(stamped(c, a))


def test_a_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "a", b"weights")
    first = weights_digest(stamped(file))
    monkeypatch.setattr(fingerprint, "_digest_file", lambda _: pytest.fail("it was read again"))
    assert weights_digest(stamped(file)) == first


def test_a_file_of_the_same_size_and_time_is_still_another(tmp_path: Path) -> None:
    file = write(tmp_path / "a", b"weights")
    first, status = weights_digest(stamped(file)), file.stat()
    write(file, b"Weights")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert weights_digest(stamped(file)) != first


def test_weights_that_change_after_the_loading_are_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "a", b"weights")
    stamps = stamped(file)
    weights_digest(stamps)
    write(file, b"other weights")
    with pytest.raises(ModelError, match="have changed"):
        weights_digest(stamps)


@pytest.mark.parametrize("content", ["", "[" * 200_000, "[1]", json.dumps({"x": 1}), "\udcff"])
def test_a_damaged_list_of_hashes_is_made_anew(tmp_path: Path, own_cache: Path, content: str) -> None:
    file = write(tmp_path / "a", b"weights")
    first = weights_digest(stamped(file))
    known = own_cache / "fingerprints.json"
    known.write_text(content, encoding="utf-8", errors="surrogateescape")
    assert weights_digest(stamped(file)) == first
    assert str(file) in json.loads(known.read_text())


def test_a_list_of_hashes_that_cannot_be_written_is_done_without(tmp_path: Path, own_cache: Path) -> None:
    own_cache.write_text("not a folder")
    assert weights_digest(stamped(write(tmp_path / "a", b"weights")))
