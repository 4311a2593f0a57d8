"""Scores of answers, and intervals around them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrqk_cli.bench.ruler.scoring import recall, wilson_interval


def test_every_reference_counts_alike_whatever_its_case() -> None:
    assert recall("vt", "They are abcde and FGHIJ.", ("ABCDE", "fghij", "KLMNO", "PQRST")) == 0.5
    assert recall("cwe", "", ("apple",)) == 0.0


@pytest.mark.parametrize("task", ["qa_1", "qa_2"])
def test_one_of_the_answers_to_a_question_is_enough(task: str) -> None:
    assert recall(task, "It was in PARIS.", ("Lyon", "Paris")) == 1.0
    assert recall(task, "It was in Rome.", ("Lyon", "Paris")) == 0.0


def test_wilsons_interval() -> None:
    # Newcombe (1998), table I: 81 of 263.
    assert wilson_interval([1.0] * 81 + [0.0] * 182) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    low, high = wilson_interval([1.0] * 25)
    assert (low, high) == pytest.approx((0.8668, 1.0), abs=5e-5)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=50))
def test_the_interval_holds_the_mean(recalls: list[float]) -> None:
    low, high = wilson_interval(recalls)
    mean = sum(recalls) / len(recalls)
    assert 0.0 <= low <= mean + 1e-9
    assert mean - 1e-9 <= high <= 1.0
    assert low < high
