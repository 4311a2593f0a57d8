"""Words that were split at line ends."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrqk_cli.documents.hyphens import join_words
from lrqk_cli.documents.pdf import read_pdf
from lrqk_cli.documents.source import ReadOptions, SourceFile

from .conftest import MakePdf


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The inhabi-\ntants left. Inhabitants stay.", "The inhabitants\nleft. Inhabitants stay."),
        ("The inhabi\u2010\ntants left. inhabitants", "The inhabitants\nleft. inhabitants"),
        ("ends in inhabi-\ntants\ninhabitants", "ends in inhabitants\n\ninhabitants"),
        ("inhabi-\ntants, and inhabitants", "inhabitants\n, and inhabitants"),
        # The whole word is not known, or the hyphen belongs to it, or another word begins.
        ("The inhabi-\ntants left.", "The inhabi-\ntants left."),
        (
            "a well-\nknown man, wellknown, well-known, well-known",
            "a well-\nknown man, wellknown, well-known, well-known",
        ),
        ("Baden-\nBaden and badenbaden", "Baden-\nBaden and badenbaden"),
        ("from 10-\nto 12, 10to", "from 10-\nto 12, 10to"),
        ("a -\nb ab", "a -\nb ab"),
        ("-\nb b", "-\nb b"),
        ("x-", "x-"),
        # One line is the second part of a word, and has the first part of the next.
        ("re-\npub-\nlic republic republic", "re-\npub-\nlic republic republic"),
        ("con-\ntent ab-\nout content about", "content\nabout\ncontent about"),
    ],
)
def test_a_word_is_joined_where_the_text_has_it(text: str, expected: str) -> None:
    assert join_words([text]) == [expected]


def test_other_pages_have_the_word_too() -> None:
    assert join_words(["an exam-\nple", "one example", "", "Exam-\nple"]) == [
        "an example\n",
        "one example",
        "",
        "Example\n",
    ]


@given(st.lists(st.text("ab-\u2010\n A1", max_size=60), max_size=4))
def test_nothing_but_hyphens_and_blanks_is_lost(texts: list[str]) -> None:
    def letters(text: str) -> str:
        return "".join(char for char in text if char.isalnum())

    joined = join_words(texts)
    assert [letters(text) for text in joined] == [letters(text) for text in texts]
    assert all(len(new) <= len(old) for new, old in zip(joined, texts, strict=True))


def test_a_pdf_file_is_joined_as_a_whole(make_pdf: MakePdf) -> None:
    path = make_pdf(["An exam-) Tj 0 -14 Td (ple of it.", "The example."])
    document = read_pdf(SourceFile(path, path.name, path.read_bytes()), ReadOptions())
    assert [page.text for page in document.pages] == ["An example\nof it.", "The example."]
