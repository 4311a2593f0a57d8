"""Text that makes a careless pattern take the square of its length: minutes for each of these."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrqk_cli.documents import Document, Page
from lrqk_cli.documents.hyphens import join_words
from lrqk_cli.documents.normalise import normalise
from lrqk_cli.documents.office import sniff_office
from lrqk_cli.documents.pdf_paths import without_paths

_MANY = 400_000
_JOINER = "\u034f"


@contextmanager
def quick() -> Iterator[None]:
    """Seconds of this process, so that a busy machine does not count."""
    start = time.process_time()
    yield
    assert time.process_time() - start < 10.0


@pytest.mark.parametrize(
    "text",
    ["a" + " " * _MANY + "b", "a" + " \t" * _MANY + "b", "\u00ad" + " " * _MANY + "b", "\u00ad \t" * _MANY],
    ids=["blanks", "blanks and tabs", "a soft hyphen", "soft hyphens"],
)
def test_blanks_are_cleaned_in_linear_time(text: str) -> None:
    with quick():
        normalise(text)


@pytest.mark.parametrize("piece", ["a", "a-", "a-\n", "ab-\nab ", "\u2010", "-\na"])
def test_split_words_are_joined_in_linear_time(piece: str) -> None:
    with quick():
        join_words([piece * _MANY])


@pytest.mark.parametrize("marks", ["\u0301\u0323", "\u0344\u0323", "\u0f73\u0f71"])
def test_marks_without_end_are_ordered_in_linear_time(marks: str) -> None:
    with quick():
        text = normalise("a" + marks * _MANY)
    assert re.fullmatch(rf"(?:[^{_JOINER}]{{1,31}}{_JOINER})+[^{_JOINER}]{{1,31}}", text)
    assert normalise(text) == text


@pytest.mark.parametrize("letter", ["a", "é", "\u0958", "가"])
def test_marks_that_a_language_may_need_are_kept_as_they_are(letter: str) -> None:
    assert _JOINER not in normalise("Latin " + letter + "\u0323\u0301" * 14)


@given(st.text("a\u0301\u0323\u0344\u0f73\u0958é가", min_size=25, max_size=120))
def test_bounded_marks_stay_as_they_are(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


@pytest.mark.parametrize("before", [b"\n", b"\xef\xbb\xbf \n"])
def test_html_is_told_in_linear_time(before: bytes) -> None:
    with quick():
        assert sniff_office(before * _MANY + b"<html>") == ".html"
        assert sniff_office(before * _MANY) is None
        assert sniff_office(b"<?xml >" + before * _MANY) is None


@pytest.mark.parametrize("text", ["<" + " " * _MANY, "</" + " " * _MANY, "< /" * _MANY])
def test_delimiters_are_looked_for_in_linear_time(text: str) -> None:
    with quick():
        Document(Path("a"), "a", (Page(None, text),)).sections()


@pytest.mark.parametrize(
    "piece", [b"1 ", b"(", b"(a", b"\\(", b"((a) ", b"<4", b"/F ", b"1 m ", b"[", b"() "]
)
def test_paths_are_left_out_in_linear_time(piece: bytes) -> None:
    with quick():
        without_paths(piece * _MANY)
        without_paths(b"(" + piece * _MANY)
