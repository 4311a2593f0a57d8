"""``lrqk bench --suite lookup`` through its entry point, on a tiny random model."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean

import pytest

KINDS = ["quote"] * 5 + ["table"] + ["free"] * 3


@pytest.fixture
def lookup(run, tiny_model):
    small = ("--hot", 2048, "--top-k", 16, "--rank", 4, "--dtype", "float32", "--quiet")
    return lambda *arguments: run("bench", "--suite", "lookup", "--model", tiny_model, *small, *arguments)


@pytest.fixture
def book(tmp_path: Path) -> Path:
    path = tmp_path / "book.txt"
    path.write_text("".join(f"Line {n} of the book tells of {n * n} ships. " for n in range(400)))
    return path


def test_each_question_is_answered_with_and_without_and_all_is_reported(lookup, book):
    result = lookup("--haystack", book, "--ctx", "2k", "--new-tokens", "48", "--output", "json")
    assert result.code == 0, result.err
    report = json.loads(result.out)
    facts = {"name": "lookup", "haystack": "book.txt", "seed": 0, "new_tokens": 48, "drafts": 3}
    assert report["suite"] == facts
    results = report["results"]
    assert [found["kind"] for found in results] == KINDS
    for found in results:
        assert found["identical"]  # all rows are resident
        assert found["common"] == found["tokens"] <= 48
        assert found["prompt_tokens"] + found["tokens"] <= found["ctx"] == 2048
        assert 0 <= found["accepted"] <= found["offered"]
        assert found["ratio"] > 0
    quote = report["summary"][0]
    own = [found for found in results if found["kind"] == "quote"]
    assert (quote["kind"], quote["questions"], quote["identical"]) == ("quote", 5, 1.0)
    assert quote["ratio"] == pytest.approx(fmean(found["ratio"] for found in own))


def test_made_up_sentences_are_the_default_and_the_table_has_a_line_for_each_kind(lookup):
    result = lookup("--ctx", "2k", "--new-tokens", "8")
    assert result.code == 0, result.err
    lines = [line.split() for line in result.out.splitlines()]
    assert [line[0] for line in lines[1:]] == ["quote", "table", "free"]


def test_there_is_nothing_to_measure_without_drafts(lookup):
    result = lookup("--lookup", "0")
    assert result.code == 2
    assert "no drafts to measure" in result.err
    assert "--lookup 3" in result.err


def test_a_context_without_room_is_refused(lookup):
    result = lookup("--ctx", "512", "--new-tokens", "500")
    assert result.code == 2
    assert "Raise --ctx" in result.err
