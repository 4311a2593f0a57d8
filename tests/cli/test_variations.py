"""``--vary``: names, values and what they change."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from lrqk_cli.cli.variations import parse_variations
from lrqk_cli.config import AlsConfig, LrqkConfig
from lrqk_cli.errors import UsageError

BASE = LrqkConfig(hot=4096, top_k=1024, index_bits=8, rank=32)


def test_one_setting_changes_at_a_time():
    assert parse_variations(["rank=16,48", "tail=none"], BASE) == {
        "rank=16": replace(BASE, rank=16),
        "rank=48": replace(BASE, rank=48),
        "tail=none": replace(BASE, tail="none"),
    }


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("index-bits=16", "index_bits", 16),
        ("recent = 128", "recent", 128),
        ("top-k=2k", "top_k", 2048),
        ("segment=1024", "segment", 1024),
        ("solver=als", "solver", "als"),
        ("grouping=head", "grouping", "head"),
        ("hot-policy=exact", "hot_policy", "exact"),
    ],
)
def test_values_read_as_their_options_do(text, name, value):
    (changed,) = parse_variations([text], BASE).values()
    assert changed == replace(BASE, **{name: value})


@pytest.mark.parametrize(
    ("text", "als"),
    [("als-init=top", AlsConfig(init="top")), ("als-tolerance=0.5", AlsConfig(tolerance=0.5))],
)
def test_what_only_one_solver_reads_is_varied_with_it(text, als):
    base = replace(BASE, solver="als")
    assert parse_variations([text], base) == {text: replace(base, als=als)}
    with pytest.raises(UsageError, match="has no meaning without `solver` als"):
        parse_variations([text], BASE)
    als_default = parse_variations(["als-tolerance=0.01", "lookup=0"], base)
    assert list(als_default.values()) == [base, replace(base, lookup=0)]


def test_every_field_of_the_settings_can_be_varied():
    with pytest.raises(UsageError) as caught:
        parse_variations(["?=1"], BASE)
    for field in fields(LrqkConfig):
        if field.name not in ("attention", "als"):
            assert field.name.replace("_", "-") in caught.value.hint
    assert "als-penalties-query" in caught.value.hint


def test_top_k_follows_hot_unless_it_was_given():
    assert parse_variations(["hot=512"], BASE) == {"hot=512": replace(BASE, hot=512, top_k=128)}
    own = parse_variations(["hot=2k"], BASE, top_k_follows=False)
    assert own == {"hot=2k": replace(BASE, hot=2048)}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ranks=8", "Did you mean rank?"),
        ("attention=dense", "No setting 'attention'"),
        ("rank", "'' is not"),
        ("rank=", "'' is not"),
        ("rank=8,", "'' is not"),
        ("rank=wide", "'wide' is not"),
        ("rank=0", "`rank` must be at least 1"),
        ("rank=-4", "`rank` must be at least 1"),
        ("tail=nome", "Did you mean none?"),
        ("index-bits=7", "Choose from"),
        ("top-k=8k", "cannot be resident"),
        ("als-tolerance=much", "'much' is not a number"),
    ],
)
def test_what_cannot_be_is_refused(text, words):
    with pytest.raises(UsageError) as caught:
        parse_variations([text], BASE)
    assert words in f"{caught.value.message} {caught.value.hint}"
