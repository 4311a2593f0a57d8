from __future__ import annotations

import codecs
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrqk_cli.documents import PageSelection, read_documents
from lrqk_cli.documents.text import decode, is_binary
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


TEXTS = {
    "Japanese": (
        "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。何でも薄暗いじめじめした所で"
        "ニャーニャー泣いていた事だけは記憶している。"
    ),
    "Russian": (
        "Все счастливые семьи похожи друг на друга, каждая несчастливая семья несчастлива по-своему. "
        "Все смешалось в доме Облонских."
    ),
    "German": (
        "Als Gregor Samsa eines Morgens aus unruhigen Träumen erwachte, fand er sich in seinem Bett zu einem "
        "ungeheueren Ungeziefer verwandelt. Er lag auf seinem harten Rücken und sah „sich“ an."
    ),
    "French": "Parfois, à peine ma bougie éteinte, mes yeux se fermaient si vite… « Je m’endors. »",
    "Greek": "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα.",
    "Chinese": "話說天下大勢，分久必合，合久必分。周末七國分爭，并入于秦。及秦滅之後，楚、漢分爭。",
    "Korean": "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.",
}


@pytest.mark.parametrize(
    ("language", "encoding", "name"),
    [
        ("Japanese", "shift_jis", "Shift-JIS"),
        ("Japanese", "euc_jp", "EUC-JP"),
        ("Russian", "koi8_r", "KOI8-R"),
        ("Russian", "cp1251", "Windows-1251"),
        ("German", "cp1252", "Windows-1252"),
        ("French", "cp1252", "Windows-1252"),
        ("Greek", "cp1253", "Windows-1253"),
        ("Chinese", "big5", "Big5"),
        ("Chinese", "gb18030", "GB 18030"),
        ("Korean", "euc_kr", "EUC-KR"),
    ],
)
def test_the_encodings_of_many_countries_are_guessed(language: str, encoding: str, name: str) -> None:
    text = TEXTS[language]
    assert decode(text.encode(encoding)) == (text, f"it is not UTF-8 and was read as {name}.")


@pytest.mark.parametrize("order", ["le", "be"])
@pytest.mark.parametrize("text", [*TEXTS.values(), "Plain words."])
def test_utf_16_needs_no_mark(tmp_path: Path, text: str, order: str) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(f"1. {text}\n".encode(f"utf-16-{order}"))
    (document,) = read_documents([path])
    assert (document.text, document.warnings) == (f"1. {text}", ())


@given(st.binary(max_size=300) | st.text(max_size=80).map(lambda text: text.encode("utf-16-le", "ignore")))
def test_whatever_the_bytes_are_they_are_refused_or_decoded(data: bytes) -> None:
    if not is_binary(data):
        text, _ = decode(data)
        assert isinstance(text, str)


@pytest.mark.parametrize(
    "data",
    [
        b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x03\0\x3e\0",
        b"\x01\0\x02\0\x03\0\x04\0" * 20,  # numbers of 16 bits
        b"a\0b\0" + b"\0c\0d",
    ],
)
def test_zeros_alone_make_no_utf_16(data: bytes) -> None:
    assert is_binary(data)


def test_bytes_that_windows_1252_lacks_are_latin_1() -> None:
    assert decode(b"caf\xe9 \x81") == ("café \x81", "it is not UTF-8 and was read as Latin-1.")


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
