"""``lrqk chat --session`` and ``--continue``: a conversation goes on in the next process."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from refused import fails_with

from lrqk_cli.chat.archive import Archive, SavedExchange, archive_json, read_archive
from lrqk_cli.chat.chat_session import ChatSession, open_chat_session
from lrqk_cli.chat.journal import Journal, SessionStore
from lrqk_cli.config import GenerationConfig, LrqkConfig
from lrqk_cli.errors import LrqkError, UsageError

WORDS = "The revenue of the year was 48.2 million, and the plant at Brannock employs 412 people. "
QUESTIONS = ("How much?", "Who works there?", "Where is that?")


pytestmark = pytest.mark.usefixtures("short_texts_are_stored")


@pytest.fixture
def document(tmp_path) -> Path:
    file = tmp_path / "report.txt"
    file.write_text(WORDS * 8, encoding="utf-8")
    return file


@pytest.fixture
def chat(run, tiny_model):
    def run_chat(*arguments, model=tiny_model):
        named = () if model is None else ("--model", model)
        return run("chat", *named, "--max-new-tokens", "8", "--segment", "32", *arguments)

    return run_chat


def asks(*questions: str) -> list[str]:
    return [word for question in questions for word in ("--prompt", question)]


def answers(result) -> list[dict]:
    assert result.code == 0, result.err
    one_a_line = [json.loads(line) for line in result.out.splitlines()] if result.out.count("\n{") else None
    return one_a_line or [json.loads(result.out)]


def test_a_conversation_keeps_the_type_of_its_rows(chat, document):
    first = answers(chat(document, "--kv-dtype", "int8", "--session", "talk", "--json", *asks(QUESTIONS[0])))
    assert first[0]["attention"]["kv_dtype"] == "int8"
    result = chat("--session", "talk", "--json", *asks(QUESTIONS[1]))
    (found,) = answers(result)
    assert found["attention"]["kv_dtype"] == "int8"
    assert found["timing"]["prefill_tokens"] < 60
    (exact,) = answers(chat("--session", "talk", "--kv-dtype", "bf16", "--json", *asks(QUESTIONS[2])))
    assert exact["attention"]["kv_dtype"] == "bf16"
    assert exact["timing"]["prefill_tokens"] > 60


@pytest.mark.parametrize(
    "options",
    [
        {"attention": "dense"},
        {"rank": 32, "hot": 1024},
        {"solver": "als", "als-iterations": 3, "als-penalties": "1,2,1,1"},
        {"kv-dtype": "int8", "attention": "offload"},
    ],
)
def test_a_conversation_keeps_the_settings_that_its_user_set(chat, document, options):
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    (first,) = answers(chat(document, *words, "--session", "talk", "--json", *asks(QUESTIONS[0])))
    for question in QUESTIONS[1:]:
        (found,) = answers(chat("--session", "talk", "--json", *asks(question)))
        assert found["attention"] == first["attention"]


def test_the_command_line_sets_others_for_a_conversation(chat, document):
    held = "--rank", "32", "--solver", "als", "--als-init", "top", "--kv-dtype", "int8"
    assert chat(document, *held, "--session", "talk", *asks(QUESTIONS[0])).code == 0
    again = "--session", "talk", "--json", *asks(QUESTIONS[1])
    (found,) = answers(chat(*again, "--als-iterations", "4"))
    assert (found["attention"]["als"]["init"], found["attention"]["als"]["iterations"]) == ("top", 4)
    fails_with(chat(*again, "--solver", "joint", "--als-iterations", "5"), 2, "--solver als")
    (found,) = answers(chat(*again, "--attention", "dense"))
    assert (found["attention"]["attention"], found["attention"]["kv_dtype"]) == ("dense", "bf16")
    fails_with(chat(*again, "--rank", "16"), 2, "--rank has no meaning without --attention lrqk")
    (found,) = answers(chat(*again, "--attention", "auto"))
    assert (found["attention"]["attention"], found["attention"]["rank"]) == ("lrqk", 32)


def test_what_nobody_set_is_chosen_anew(chat, document):
    for words in ((document, "--recent", "32"), ()):
        assert chat(*words, "--session", "talk", *asks(QUESTIONS[0])).code == 0
        saved = SessionStore().archive("talk")
        assert (saved.wanted, saved.attention["hot"]) == ({"recent": 32, "segment": 32}, LrqkConfig().hot)


def test_settings_of_a_conversation_that_cannot_be_had_are_named(chat, document):
    assert chat(document, "--attention", "offload", "--session", "talk", *asks(QUESTIONS[0])).code == 0
    result = chat("--session", "talk", "--ram", "100KiB", *asks(QUESTIONS[1]))
    fails_with(result, 5, "The conversation was held with --attention offload", "such as --attention auto.")


@pytest.mark.parametrize(
    "wanted", [{"rank": "x"}, {"rank": 3}, {"ranks": 3}, {"als": {"init": 3}}, {"tail": "long"}, []]
)
def test_damaged_settings_of_a_conversation_are_refused(wanted):
    plain = json.loads(archive_json(Archive("tiny", None, GenerationConfig(), {}, ())))
    with pytest.raises(UsageError, match="It is damaged"):
        read_archive({**plain, "wanted": wanted}, "It", "")


def test_a_new_chat_offers_the_last_conversation(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    told = list[str]()

    def begin(name: str | None = None, title: str | None = None) -> ChatSession:
        return open_chat_session(name, False, title, keeps=True, warn=told.append, note=told.append)

    with SessionStore().open("talk") as journal:
        journal.record(Archive("tiny", None, GenerationConfig(), {}, (SavedExchange("What?", None),)))
    begin("talk").close()
    assert told == []
    begin(title="report.pdf").close()
    assert told == ["To go on with the last conversation (talk) instead: lrqk chat --continue"]


def test_a_conversation_goes_on_where_it_stopped(chat, document):
    expected = answers(chat(document, "--json", "--session", "whole", *asks(*QUESTIONS)))
    found = answers(chat(document, "--session", "talk", "--json", *asks(QUESTIONS[0])))
    for question in QUESTIONS[1:]:
        result = chat("--session", "talk", "--json", *asks(question))
        found += answers(result)
        assert "restored" in result.err
        assert found[-1]["timing"]["prefill_tokens"] < 60
    assert [answer["answer"] for answer in found] == [answer["answer"] for answer in expected]
    assert [answer["prompt_tokens"] for answer in found] == [answer["prompt_tokens"] for answer in expected]
    recorded = SessionStore().archive("talk")
    assert [entry.question for entry in recorded.entries[1:]] == list(QUESTIONS)
    assert SessionStore().archive("whole").entries == recorded.entries


def test_the_newest_session_is_continued(chat, document):
    chat(document, "--session", "older", *asks("How much?"))
    chat(document, "--session", "newer", *asks("How much?"))
    assert chat("--continue", *asks("Who?")).code == 0
    turns = {info.name: info.exchanges for info in SessionStore().list()}
    assert turns == {"older": 1, "newer": 2}


def test_a_session_keeps_its_model_unless_another_is_named(chat, document, tiny_model, tmp_path):
    chat(document, "--session", "talk", *asks("How much?"))
    assert chat("--session", "talk", *asks("Who?"), model=None).code == 0
    assert SessionStore().find("talk").model == str(tiny_model)
    other = tmp_path / "other"
    other.symlink_to(tiny_model)
    assert chat("--session", "talk", *asks("Who?"), model=other).code == 0
    assert SessionStore().find("talk").model == str(other)


def test_documents_that_the_session_has_are_not_added_again(chat, document, tmp_path):
    other = tmp_path / "other.txt"
    other.write_text("Something else entirely.")
    chat(document, "--session", "talk", *asks("How much?"))
    assert chat(document, other, "--session", "talk", *asks("Who?")).code == 0
    titles = [saved.title for saved in SessionStore().archive("talk").documents]
    assert titles == ["report.txt", "other.txt"]


def test_without_a_session_questions_of_the_command_line_are_not_recorded(chat, document):
    chat(document, *asks("How much?"))
    assert SessionStore().list() == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--continue", "--prompt", "x"), "no session"),
        (("--continue", "--session", "a", "--prompt", "x"), "Choose one"),
        (("--no-history", "--session", "a", "--prompt", "x"), "records nothing"),
        (("--no-history", "--continue"), "records nothing"),
        (("--session", "../a", "--prompt", "x"), "not the name"),
        (("--session", "a", "--prompts-file", "questions.txt"), "one conversation"),
    ],
)
def test_what_cannot_be_gone_on_with_is_refused(chat, document, arguments, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "questions.txt").write_text("How much?\n")
    result = chat(document, *arguments)
    assert result.code == 2, result.err
    assert words in result.err
    assert "Traceback" not in result.err


def test_a_session_that_another_process_holds_is_refused(chat, document):
    chat(document, "--session", "talk", *asks("How much?"))
    with SessionStore().open("talk"):
        result = chat("--session", "talk", *asks("Who?"))
    assert result.code != 0
    assert "talk" in result.err
    assert SessionStore().find("talk").exchanges == 1


def test_a_failed_question_leaves_the_session_as_it_was(chat, document):
    chat(document, "--session", "talk", *asks("How much?"))
    result = chat("--session", "talk", *asks("Who? " * 2000))
    assert result.code in (5, 6)
    assert SessionStore().find("talk").exchanges == 1


@pytest.mark.skipif(os.name == "nt", reason="modes are those of POSIX")
def test_only_the_user_can_read_sessions(chat, document, tmp_path):
    chat(document, "--session", "talk", *asks("How much?"))
    for file in (tmp_path / "state").rglob("*sqlite3*"):
        assert file.stat().st_mode & 0o077 == 0


def test_damaged_sessions_are_moved_aside_and_the_chat_goes_on(chat, document, tmp_path):
    chat(document, "--session", "talk", *asks("How much?"))
    database = next((tmp_path / "state").rglob("sessions.sqlite3"))
    database.write_bytes(b"no database" * 1000)
    result = chat(document, "--session", "talk", *asks("Who?"))
    assert result.code == 0, result.err
    assert "were damaged" in result.err
    assert SessionStore().find("talk").exchanges == 1


def test_a_database_that_cannot_be_opened_ends_a_named_session_only(chat, document, tmp_path):
    (tmp_path / "state").write_text("not a folder")
    result = chat(document, "--session", "talk", *asks("Who?"))
    assert result.code != 0
    assert "Traceback" not in result.err
    assert chat(document, *asks("Who?")).code == 0


def test_answers_that_cannot_be_recorded_are_printed_and_recorded_later(chat, document, monkeypatch):
    failures, record = [LrqkError("The disk is full.")], Journal.record

    def fails_once(journal, archive):
        if failures:
            raise failures.pop()
        record(journal, archive)

    monkeypatch.setattr(Journal, "record", fails_once)
    result = chat(document, "--session", "talk", "--json", *asks(*QUESTIONS[:2]))
    assert len(answers(result)) == 2
    assert SessionStore().find("talk").exchanges == 2
    failures += [LrqkError("The disk is full.")] * 2
    result = chat("--session", "talk", "--json", *asks(*QUESTIONS[:2]))
    assert result.code == 1
    assert len(result.out.splitlines()) == 2
    assert "Error: The disk is full." in result.err
