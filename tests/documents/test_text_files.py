from __future__ import annotations

import codecs
from pathlib import Path

import pytest

from lrqk_cli.documents import PageSelection, read_documents
from lrqk_cli.documents.text import decode
from lrqk_cli.errors import DocumentError, UsageError

GREETING = "Grüße aus Köln, 5 €"


@pytest.mark.parametrize(
    "data",
    [
        GREETING.encode(),
        codecs.BOM_UTF8 + GREETING.encode(),
        GREETING.encode("utf-16"),
        codecs.BOM_UTF16_BE + GREETING.encode("utf-16-be"),
        GREETING.encode("utf-32"),
        codecs.BOM_UTF32_BE + GREETING.encode("utf-32-be"),
    ],
)
def test_unicode_is_decoded_without_a_warning(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "greeting.txt"
    path.write_bytes(data)
    (document,) = read_documents([path])
    assert document.text == GREETING
    assert document.warnings == ()
    assert not document.paginated


def test_other_encodings_are_guessed_with_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "greeting.txt"
    path.write_bytes(GREETING.encode("cp1252"))
    (document,) = read_documents([path])
    assert document.text == GREETING
    assert document.warnings == ("greeting.txt: it is not UTF-8 and was read as Windows-1252.",)


def test_bytes_that_windows_1252_lacks_are_latin_1() -> None:
    assert decode(b"\x81\xe9") == ("\x81é", "it is not UTF-8 and was read as Latin-1.")


def test_one_bad_byte_does_not_spoil_a_utf_8_file() -> None:
    text, warning = decode(GREETING.encode() + b"\xff")
    assert text == GREETING + "\ufffd"
    assert "1 place" in warning


def test_source_code_keeps_its_indentation(tmp_path: Path) -> None:
    path = tmp_path / "main.py"
    path.write_text("def f():\n    return 1\n")
    assert read_documents([path])[0].text == "def f():\n    return 1"


def test_binary_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR")
    with pytest.raises(DocumentError, match=r"picture\.png is not a text file") as caught:
        read_documents([path])
    assert "PDF" in caught.value.hint


@pytest.mark.parametrize("data", [b"", b" \n\n", codecs.BOM_UTF8])
def test_empty_files_are_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "empty.txt"
    path.write_bytes(data)
    with pytest.raises(DocumentError, match=r"empty\.txt is empty"):
        read_documents([path])


def test_pages_of_a_text_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "notes.md"
    path.write_text("# Notes\n")
    with pytest.raises(UsageError, match=r"notes\.md has no pages"):
        read_documents([path], pages=PageSelection.parse("2"))
