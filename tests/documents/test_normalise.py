from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrqk_cli.documents.normalise import normalise


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("eﬃcient oﬀer, ﬁne ﬂow", "efficient offer, fine flow"),
        ("co\u00adoperate", "cooperate"),
        ("hyphen\u00ad \nation", "hyphenation"),
        ("a\r\nb\rc\fd\u2028e", "a\nb\nc\nd\ne"),
        ("12\u00a0000\u202f€", "12 000 €"),
        ("nul\0 and\x07 bell\ufeff", "nul and bell"),
        ("one  \n \t\n\n\n\ntwo\t \n", "one\n\ntwo"),
        ("e\u0301", "é"),
        ("x² stays", "x² stays"),
        ("    indented\n\tcode", "    indented\n\tcode"),
        ("half \ud83d pair", "half \ufffd pair"),
        ("whole \ud83d\ude00 pair", "whole 😀 pair"),
    ],
)
def test_text_is_cleaned(raw: str, clean: str) -> None:
    assert normalise(raw) == clean


@given(st.text(st.characters()) | st.text(" \t\n\r\u00ad\u00a0\0\u2028a\u0301ﬁ"))
def test_clean_text_stays_as_it_is_and_suits_a_tokenizer(raw: str) -> None:
    clean = normalise(raw)
    assert normalise(clean) == clean
    assert clean.encode("utf-8").decode("utf-8") == unicodedata.normalize("NFC", clean)
    assert "\0" not in clean
    assert "\n\n\n" not in clean
