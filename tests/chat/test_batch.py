from __future__ import annotations

import json

import pytest

from lrqk_cli.chat.batch import AnswersFile, read_questions, unanswered
from lrqk_cli.errors import UsageError


def test_questions_are_objects_or_texts_with_ids_or_numbers(tmp_path):
    file = tmp_path / "q.jsonl"
    file.write_text('{"id": "a", "prompt": " Who? ", "page": 3}\n\n"What?"\n{"prompt": "Where?"}\n')
    questions = read_questions(file)
    assert [(item.id, item.prompt) for item in questions] == [("a", "Who?"), ("3", "What?"), ("4", "Where?")]
    assert questions[0].fields == {"id": "a", "prompt": " Who? ", "page": 3}
    assert questions[1].fields == {"id": 3, "prompt": "What?"}


def test_any_other_line_is_a_question_as_it_stands(tmp_path):
    file = tmp_path / "q.txt"
    lines = ["\ufeffWho wrote it?", "  3  ", '"Who" said so?', "[1, 2]", '"Quoted?"', "null", ""]
    file.write_text("\r\n".join(lines), encoding="utf-8")
    questions = read_questions(file)
    assert [(item.id, item.prompt) for item in questions] == [
        ("1", "Who wrote it?"),
        ("2", "3"),
        ("3", '"Who" said so?'),
        ("4", "[1, 2]"),
        ("5", "Quoted?"),
        ("6", "null"),
    ]
    assert questions[2].fields == {"id": 3, "prompt": '"Who" said so?'}


def test_separators_within_a_string_end_no_line(tmp_path):
    """JSON leaves U+0085, U+2028 and U+2029 as they are, and models write them."""
    questions, file = tmp_path / "q.jsonl", tmp_path / "a.jsonl"
    text = "one\u2028two\u0085three\u2029four"
    questions.write_text(json.dumps({"id": 1, "prompt": text}, ensure_ascii=False), encoding="utf-8")
    assert [item.prompt for item in read_questions(questions)] == [text]
    AnswersFile(file).add(json.dumps({"id": 1, "answer": text}, ensure_ascii=False))
    assert AnswersFile(file).answered == {"1"}


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "no questions"),
        ("{", "Line 1 .* not valid JSON"),
        ("Who?\n {prompt: x}", "Line 2 .* not valid JSON"),
        ('"a"\n""', "Line 2"),
        ('{"prompt": ""}', "Line 1"),
        ('{"question": "Who?"}', "Line 1 .* has no question"),
        ('{"id": 1, "prompt": "a"}\n{"id": "1", "prompt": "b"}', "id '1'"),
    ],
)
def test_bad_questions_are_refused_by_line(tmp_path, text, word):
    file = tmp_path / "q.jsonl"
    file.write_text(text)
    with pytest.raises(UsageError, match=word):
        read_questions(file)


def test_answers_are_appended_and_a_torn_line_is_taken_away(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text('{"id": 1, "answer": "x"}\n{"id": 2, "error": "too long"}\n{"id": 3, "ans')
    answers = AnswersFile(file)
    assert answers.answered == {"1"}
    answers.add('{"id": 3, "answer": "z"}')
    assert [json.loads(line)["id"] for line in file.read_text().splitlines()] == [1, 2, 3]
    questions = tmp_path / "q.jsonl"
    questions.write_text('"a"\n"b"\n"c"\n')
    assert [item.id for item in unanswered(read_questions(questions), AnswersFile(file))] == ["2"]


def test_a_file_of_something_else_is_left_alone(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("my notes\n")
    with pytest.raises(UsageError, match="no answer"):
        AnswersFile(file)
    assert file.read_text() == "my notes\n"
    with pytest.raises(UsageError, match="cannot be kept"):
        AnswersFile(tmp_path)


def test_a_half_written_line_is_cut_off_without_writing_the_others_anew(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'{"id": "1", "answer": "\xc3\xa4"}\n{"id": "2", "ans\xc3')
    before = file.stat().st_ino
    assert AnswersFile(file).answered == {"1"}
    assert (file.read_bytes(), file.stat().st_ino) == (b'{"id": "1", "answer": "\xc3\xa4"}\n', before)


def test_an_answer_that_cannot_be_kept_is_a_sentence(tmp_path):
    answers = AnswersFile(tmp_path / "a.jsonl")
    (tmp_path / "a.jsonl").unlink()
    (tmp_path / "a.jsonl").mkdir()
    with pytest.raises(UsageError, match=r"Answers cannot be kept in .*: is a directory"):
        answers.add("{}")
