from __future__ import annotations

import pytest

from lrqk_cli.cli.values import (
    parse_bytes,
    parse_integer,
    parse_names,
    parse_number,
    parse_penalties,
    parse_think,
    parse_tokens,
)
from lrqk_cli.config import AlsPenalties
from lrqk_cli.errors import UsageError


@pytest.mark.parametrize(
    ("text", "tokens"),
    [("64k", 65_536), ("64K", 65_536), (" 1m ", 1_048_576), ("1.5k", 1536), ("65536", 65_536), (8192, 8192)],
)
def test_tokens(text, tokens):
    assert parse_tokens(text) == tokens


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("12GiB", 12 << 30),
        ("12G", 12 << 30),
        ("12g", 12 << 30),
        ("12GB", 12_000_000_000),
        ("1.5 MiB", 3 << 19),
        ("1024", 1024),
        ("24B", 24),
        ("1TB", 10**12),
    ],
)
def test_bytes(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize(
    "text",
    ["", "k", "64kb", "64g", "-3", "0", "1.2.3", "1e3", "64 k 3", "٣", "9" * 400],
)
def test_what_is_no_number_of_tokens_is_refused_with_a_hint(text):
    with pytest.raises(UsageError) as refusal:
        parse_tokens(text)
    assert "64k" in refusal.value.hint


@pytest.mark.parametrize(
    ("text", "think"), [("on", None), ("ON", None), ("off", 0), ("0", 0), (0, 0), ("2k", 2048), (500, 500)]
)
def test_reasoning_is_a_word_or_a_number_of_tokens(text, think):
    assert parse_think(text) == think


@pytest.mark.parametrize("text", ["maybe", "", "-1", True])
def test_what_is_neither_is_refused_with_the_words(text):
    with pytest.raises(UsageError) as refusal:
        parse_think(text)
    assert "on, off" in refusal.value.hint


@pytest.mark.parametrize("text", ["12X", "GiB", "0", "0.1", "-1G"])
def test_what_is_no_number_of_bytes_is_refused(text):
    with pytest.raises(UsageError):
        parse_bytes(text)


@pytest.mark.parametrize("text", ["24", " 1023 ", "1.5", 8])
def test_a_few_bytes_without_a_unit_were_meant_to_have_one(text):
    with pytest.raises(UsageError) as refusal:
        parse_bytes(text)
    assert refusal.value.hint == f"Did you mean {str(text).strip()}GiB?"


@pytest.mark.parametrize("text", ["x", "1.5", ""])
def test_what_is_no_whole_number_is_refused(text):
    with pytest.raises(UsageError):
        parse_integer(text)


@pytest.mark.parametrize("text", ["x", "nan", "inf", ""])
def test_what_is_no_number_is_refused(text):
    with pytest.raises(UsageError):
        parse_number(text)


def test_numbers_are_read_from_text_and_from_numbers():
    assert (parse_integer("32"), parse_integer(32), parse_number("0.5"), parse_number(1)) == (
        32,
        32,
        0.5,
        1.0,
    )


def test_penalties_are_four_weights_in_their_order():
    assert parse_penalties("1,0.5, 2,0") == AlsPenalties(query=1.0, key=0.5, new=2.0, active=0.0)
    assert parse_penalties(AlsPenalties(key=3.0)) == AlsPenalties(key=3.0)


@pytest.mark.parametrize("text", ["1", "1,1,1", "1,1,1,1,1", "1,1,1,x", "1,1,1,-1", ""])
def test_what_is_not_four_weights_is_refused(text):
    with pytest.raises(UsageError):
        parse_penalties(text)


def test_names_are_read_once_each_and_none_where_nothing_is_said():
    assert parse_names("vt, cwe,vt") == ("vt", "cwe")
    assert parse_names(None) == parse_names("") == ()
