"""``lrqk chat`` reads a document once: the second time only the question, and the answer is the same."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from lrqk_cli.engine import prefix

WORDS = "The revenue of the year was 48.2 million, and the plant at Brannock employs 412 people. "


pytestmark = pytest.mark.usefixtures("short_texts_are_stored")


@pytest.fixture
def document(tmp_path) -> Path:
    file = tmp_path / "report.txt"
    file.write_text(WORDS * 12, encoding="utf-8")
    return file


@pytest.fixture
def ask(run, tiny_model):
    """Ask a question, and return the answer's JSON and what was said on stderr."""

    def run_chat(*arguments, model=tiny_model):
        result = run(
            *("chat", "--model", model, "--max-new-tokens", "8", "--segment", "32", "--json"), *arguments
        )
        assert result.code == 0, result.err
        return json.loads(result.out), result.err

    return run_chat


def stored(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache" / "documents").glob("*"))


def test_the_second_chat_reads_the_question_alone(ask, document, tmp_path):
    first, told = ask(document, "--prompt", "How much?")
    assert "is stored for the next time" in told
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in stored(tmp_path))
    second, told = ask(document, "--prompt", "How much?")
    assert second["answer"] == first["answer"]
    assert "tokens were read before and are restored" in told
    assert first["timing"]["prefill_tokens"] == first["prompt_tokens"]
    assert second["timing"]["prefill_tokens"] < 40
    other, _ = ask(document, "--prompt", "Where is the plant?")
    assert other["timing"]["prefill_tokens"] < 60


def test_without_the_cache_the_document_is_read_again(ask, document, tmp_path):
    first, _ = ask(document, "--prompt", "How much?", "--no-cache")
    assert stored(tmp_path) == []
    ask(document, "--prompt", "How much?")
    second, told = ask(document, "--prompt", "How much?", "--no-cache")
    assert "restored" not in told
    assert second["timing"]["prefill_tokens"] == first["timing"]["prefill_tokens"]


def test_a_changed_tail_reuses_the_beginning_and_a_changed_beginning_nothing(ask, document):
    first, _ = ask(document, "--prompt", "How much?")
    document.write_text(WORDS * 11 + "The end is another one.")
    second, told = ask(document, "--prompt", "How much?")
    assert "restored" in told
    assert 40 < second["timing"]["prefill_tokens"] < first["timing"]["prefill_tokens"] // 2
    document.write_text("Another beginning. " + WORDS * 11)
    assert "restored" not in ask(document, "--prompt", "How much?")[1]


def test_documents_in_another_order_reuse_what_is_equal_at_the_front(ask, document, tmp_path):
    others = [tmp_path / name for name in ("b.txt", "c.txt")]
    for number, other in enumerate(others):
        other.write_text(f"Text {number}. " + WORDS[::-1] * 5)
    ask(document, *others, "--prompt", "How much?")
    same, _ = ask(document, *others, "--prompt", "How much?")
    swapped, told = ask(document, *reversed(others), "--prompt", "How much?")
    assert same["timing"]["prefill_tokens"] < 40
    assert "restored" in told
    assert swapped["timing"]["prefill_tokens"] > same["timing"]["prefill_tokens"]
    assert "restored" not in ask(*others, document, "--prompt", "How much?")[1]


@pytest.mark.parametrize("option", [("--dtype", "bfloat16"), ("--grouping", "head")])
def test_rows_of_another_kind_are_not_reused(ask, document, option):
    ask(document, "--prompt", "How much?", "--dtype", "float32")
    arguments = option if option[0] == "--dtype" else ("--dtype", "float32", *option)
    assert "restored" not in ask(document, "--prompt", "How much?", *arguments)[1]


def test_another_model_reuses_nothing(ask, document, tiny_model, tmp_path):
    """The same model with one changed byte in its weights."""
    ask(document, "--prompt", "How much?")
    weights = next(Path(tiny_model).glob("*.safetensors"))
    before = weights.read_bytes()
    changed = tmp_path / "changed"
    changed.mkdir()
    for file in Path(tiny_model).iterdir():
        (changed / file.name).write_bytes(file.read_bytes())
    (changed / weights.name).write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    assert "restored" not in ask(document, "--prompt", "How much?", model=changed)[1]
    (changed / weights.name).write_bytes(before)
    assert "restored" in ask(document, "--prompt", "How much?", model=changed)[1]


@pytest.mark.parametrize(("ending", "hot"), [(".block", 2048), (".state", 256)])
def test_a_damaged_file_costs_a_warning(ask, document, tmp_path, ending, hot):
    """Only texts that are larger than the hot set have states."""
    question = (document, "--prompt", "How much?", "--hot", str(hot), "--top-k", "64")
    first, _ = ask(*question)
    assert any(path.name.endswith(".state") for path in stored(tmp_path)) == (hot == 256)
    damaged = next(path for path in stored(tmp_path) if path.name.endswith(ending))
    data = bytearray(damaged.read_bytes())
    # Of a row, or of a code. Of the sums before the rows only those of the newest block are read.
    data[len(data) * 3 // 4 if ending == ".block" else len(data) // 4] ^= 1
    damaged.write_bytes(data)
    second, told = ask(*question)
    assert "damaged" in told
    assert second["new_tokens"] == first["new_tokens"]
    if hot == 2048:  # without a state other rows are resident
        assert second["answer"] == first["answer"]
    third, told = ask(*question)
    assert "damaged" not in told
    assert third["timing"]["prefill_tokens"] < 40


def test_a_folder_that_cannot_be_written_costs_a_note(ask, document, tmp_path):
    (tmp_path / "cache").mkdir(exist_ok=True)
    (tmp_path / "cache" / "documents").write_text("not a folder")
    answer, told = ask(document, "--prompt", "How much?")
    assert answer["new_tokens"]
    assert "not stored for the next time" in told


@pytest.mark.skipif(os.name == "nt", reason="modes are those of POSIX")
def test_questions_of_a_file_share_the_document(run, tiny_model, document, tmp_path):
    questions = tmp_path / "questions.txt"
    questions.write_text("How much?\nWhere?\n")
    command = ("chat", "--model", tiny_model, "--max-new-tokens", "8", document, "--prompts-file", questions)
    first, second = run(*command), run(*command)
    assert first.code == second.code == 0, first.err + second.err
    answers = [[json.loads(line)["answer"] for line in run_.out.splitlines()] for run_ in (first, second)]
    assert answers[0] == answers[1]
    assert "restored" in second.err


def test_another_version_of_the_format_reuses_nothing(ask, document, monkeypatch):
    ask(document, "--prompt", "How much?")
    monkeypatch.setattr(prefix, "_FORMAT", "another")
    assert "restored" not in ask(document, "--prompt", "How much?")[1]


def test_other_pages_of_a_document_reuse_nothing(ask):
    """The first line of a document in the prompt names its pages."""
    report = Path(__file__).parents[2] / "docs" / "samples" / "report.pdf"
    first, _ = ask(report, "--pages", "1-2", "--prompt", "How much?")
    same, _ = ask(report, "--pages", "1-2", "--prompt", "How much?")
    assert same["answer"] == first["answer"]
    assert same["timing"]["prefill_tokens"] < 40
    for pages in ("1-3", "2-3", "1"):
        other, told = ask(report, "--pages", pages, "--prompt", "How much?")
        assert "restored" not in told
        assert other["timing"]["prefill_tokens"] == other["prompt_tokens"]
