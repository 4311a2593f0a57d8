"""The QA suite: its files, its scores and their intervals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrqk_cli.bench.qa import results
from lrqk_cli.bench.qa.data import AskedDocument, DocumentQuestion, Metric, read_set
from lrqk_cli.bench.qa.metrics import score
from lrqk_cli.bench.qa.results import MarkedAnswer, SetResult, mean_interval
from lrqk_cli.errors import DocumentError

LEVAL = {
    "instructions": ["Who?", "Where?"],
    "outputs": ["Ann", "at home"],
    "input": "Ann is at home.",
    "source": "tales",
    "evaluation": "f1",
}
LONGBENCH = {"dataset": "hotpotqa", "input": "Who?", "context": "Ann is at home.", "answers": ["Ann", "Anne"]}


def file_of(folder: Path, *lines: Any) -> Path:
    path = folder / "tales.jsonl"
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("\n".join(texts) + "\n\n", encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("metric", "answer", "references", "expected"),
    [
        ("choice", "(B) They were late.", ["(B) They were late."], 1.0),
        ("choice", "B", ["(B) They were late."], 1.0),
        ("choice", "The answer is (B).", ["(B)"], 1.0),
        ("choice", "(A) or (B)", ["(B)"], 0.0),
        ("choice", "(A)\n(B) is wrong.", ["(A)"], 1.0),
        ("choice", "A and C", ["(A) one (C)"], 0.0),
        ("choice", "A, C", ["AC is no option; (A) (C)"], 1.0),
        ("choice", "", ["(A)"], 0.0),
        ("choice", "I think that Bob did it.", ["(B)"], 0.0),
        ("f1", "The Cat, sat!", ["a cat sat"], 1.0),
        # Two of three words are common, of five: 2 · 2/3 · 2/5 / (2/3 + 2/5).
        ("f1", "red red house", ["red house on green hill"], 0.5),
        ("f1", "blue", ["red", "blue car"], 2 / 3),
        ("f1", "", ["red"], 0.0),
        ("rouge_l", "the police killed the gunman", ["police kill the gunman"], 2 * 3 / 9),
        ("rouge_l", "gunman the killed police", ["police killed the gunman"], 2 * 1 / 8),
        ("rouge_l", "", ["x"], 0.0),
    ],
)
def test_answers_are_scored_as_published(
    metric: Metric, answer: str, references: list[str], expected: float
) -> None:
    assert score(metric, answer, references) == pytest.approx(expected)


@given(st.text(max_size=40), st.text(max_size=40), st.sampled_from(["choice", "f1", "rouge_l"]))
def test_scores_are_shares(answer: str, reference: str, metric: Metric) -> None:
    assert 0.0 <= score(metric, answer, [reference]) <= 1.0
    if metric != "choice" and len(reference.split()) > 1:
        assert score("rouge_l", reference, [answer, reference]) == 1.0


def test_both_forms_are_read(tmp_path: Path) -> None:
    who = DocumentQuestion("Who?", ("Ann",), "f1")
    where = DocumentQuestion("Where?", ("at home",), "f1")
    found = read_set(file_of(tmp_path, LEVAL))
    assert found.name == "tales"
    assert found.documents == (AskedDocument("Ann is at home.", (who, where)),)
    # LongBench repeats the text with each question.
    found = read_set(file_of(tmp_path, LONGBENCH, {**LONGBENCH, "input": "Really?"}))
    (document,) = found.documents
    assert [question.text for question in document.questions] == ["Who?", "Really?"]
    assert document.questions[0].answers == ("Ann", "Anne")
    summary = {**LONGBENCH, "dataset": "gov_report_e", "input": ""}
    (question,) = read_set(file_of(tmp_path, summary)).documents[0].questions
    assert (question.metric, question.text) == ("rouge_l", "Write a one-page summary of the text.")


def test_a_document_without_questions_is_left_out(tmp_path: Path) -> None:
    found = read_set(file_of(tmp_path, {**LEVAL, "input": "B", "instructions": [], "outputs": []}, LEVAL))
    assert [document.text for document in found.documents] == ["Ann is at home."]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["{"], "Line 1 of"),
        (["[1]"], "Line 1 of"),
        ([LEVAL, "7"], "Line 2 of"),
        ([{**LEVAL, "outputs": ["one"]}], "Line 1 of"),
        ([{**LEVAL, "input": 5}], "Line 1 of"),
        ([{**LEVAL, "evaluation": "dance"}], "the set 'tales', whose metric is not here"),
        ([{**LONGBENCH, "dataset": "lcc"}], "the set 'lcc', whose metric is not here"),
        ([{**LONGBENCH, "answers": "Ann"}], "Line 1 of"),
        ([""], "has no questions"),
        ([{**LEVAL, "instructions": [], "outputs": []}], "has no questions"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, lines: list[Any], message: str) -> None:
    with pytest.raises(DocumentError, match=message):
        read_set(file_of(tmp_path, *lines))


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match="no such file"):
        read_set(tmp_path / "none.jsonl")
    with pytest.raises(DocumentError, match="directory"):
        read_set(tmp_path)
    (tmp_path / "tales.jsonl").write_bytes(b"\xff\xfe{}")
    with pytest.raises(DocumentError, match="UTF-8"):
        read_set(tmp_path / "tales.jsonl")


def answers_of(scores: dict[int, list[float]]) -> tuple[MarkedAnswer, ...]:
    return tuple(
        MarkedAnswer(document, "?", str(number), ("!",), "f1", value)
        for document, of in scores.items()
        for number, value in enumerate(of)
    )


def test_the_interval_is_over_documents() -> None:
    """Questions about one document stand and fall together, so that many of them say no more than one."""
    single = answers_of({number: [float(number % 2)] for number in range(12)})
    many = answers_of({number: [float(number % 2)] * 50 for number in range(12)})
    expected = mean_interval(single, [answer.score for answer in single])
    assert mean_interval(many, [answer.score for answer in many]) == pytest.approx(expected)
    mean, low, high = expected
    assert mean == 50.0
    # The standard deviation of a mean of 12 is 14.4.
    assert (low, high) == pytest.approx((50 - 1.96 * 14.4, 50 + 1.96 * 14.4), abs=6.0)


def test_a_difference_is_paired() -> None:
    full = answers_of({0: [1.0, 0.0], 1: [0.0], 2: [1.0]})
    own = answers_of({0: [0.5, 0.0], 1: [0.0], 2: [1.0]})
    made = [
        SetResult("tales", mode, 100, score=score, answers=answers)
        for mode, score, answers in (("lrqk", 37.5, own), ("dense", 50.0, full))
    ]
    (found,) = results.differences([*made, SetResult("other", "lrqk", 100, skipped="why")])
    assert (found.mode, found.score, found.full_score, found.difference) == ("lrqk", 37.5, 50.0, -12.5)
    assert found.difference_low <= -12.5 <= found.difference_high <= 0.0
    assert found.same == 1.0
    assert "difference -12.5" in results.sentence(found)
