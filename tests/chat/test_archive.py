from __future__ import annotations

import json
import stat

import pytest

from lrqk_cli.chat.archive import load, make_archive, save
from lrqk_cli.chat.export import to_json, to_markdown
from lrqk_cli.config import GenerationConfig, LrqkConfig
from lrqk_cli.errors import UsageError


@pytest.fixture
def session(fake_engine, fake_document, new_session):
    session = new_session(fake_engine(), [fake_document("a.pdf", ["one", "two"])])
    list(session.ask("What is\nit?"))
    session.add(fake_document("b.txt", ["three"], first_page=None))
    list(session.ask("And?", lambda: "And?>Y" in session.engine.text))
    session.set_system("Be short.")
    return session


def archive_of(session, **changes):
    return make_archive(session.conversation, "tiny", GenerationConfig(seed=3), LrqkConfig(**changes))


def test_a_conversation_comes_back_as_it_was(session, tmp_path):
    (tmp_path / "folder").mkdir()
    file = tmp_path / "folder" / "chat.json"
    save(archive_of(session), file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert list(file.parent.iterdir()) == [file]
    archive = load(file)
    assert archive == archive_of(session)
    restored = archive.restore(session.conversation.prompt.with_system(None))
    assert restored.tokens == session.transcript
    assert restored.page_spans == session.page_spans
    assert [exchange.answer for exchange in restored.exchanges] == [
        exchange.answer for exchange in session.conversation.exchanges
    ]
    session.adopt(restored)
    list(session.ask("More?"))
    assert session.engine.text.startswith("Be short.<[onetwo]What is\nit?>Yes.|[three]And?>")
    assert session.engine.text.endswith("|More?>Yes.")


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("{", "not a saved"),
        ("[]", "not a saved"),
        ('{"format": "other"}', "not a saved"),
        ('{"format": "lrqk-conversation", "version": 9}', "another version"),
        ('{"format": "lrqk-conversation", "version": 1}', "damaged"),
    ],
)
def test_other_files_are_refused(tmp_path, text, word):
    file = tmp_path / "x.json"
    file.write_text(text)
    with pytest.raises(UsageError, match=word):
        load(file)


@pytest.mark.parametrize("where", [("generation", "temperature"), ("entries", 0, "title"), ("system",)])
def test_a_damaged_field_is_refused(session, tmp_path, where):
    file = tmp_path / "x.json"
    save(archive_of(session), file)
    plain = json.loads(file.read_text())
    *path, last = where
    place = plain
    for step in path:
        place = place[step]
    place[last] = {"no": "text"}
    file.write_text(json.dumps(plain))
    with pytest.raises(UsageError, match="damaged"):
        load(file)


def test_a_missing_file_and_a_place_that_cannot_be_written(session, tmp_path):
    with pytest.raises(UsageError, match="cannot be read"):
        load(tmp_path / "none.json")
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        save(archive_of(session), tmp_path / "file" / "x.json")


def test_markdown_shows_questions_answers_and_what_was_read(session):
    assert to_markdown(session.conversation, "tiny") == (
        "# A conversation with tiny\n\nInstructions: Be short.\n\n*a.pdf, 2 pages, 8 tokens*\n\n"
        "## Question\n\n> What is\n> it?\n\n## Answer\n\nYes.\n\n*b.txt, 7 tokens*\n\n"
        "## Question\n\n> And?\n\n## Answer\n\nYe\n\n*The answer was interrupted.*\n"
    )


def test_json_is_a_list_of_messages(session):
    plain = json.loads(to_json(session.conversation, "tiny"))
    assert (plain["model"], plain["system"]) == ("tiny", "Be short.")
    assert [item["role"] for item in plain["messages"]] == [
        "document", "user", "assistant", "document", "user", "assistant",
    ]  # fmt: skip
    assert plain["messages"][5] == {"role": "assistant", "content": "Ye", "finish_reason": "interrupted"}
