from __future__ import annotations

import json
import stat
from dataclasses import dataclass

import pytest
from fake_chat import FakePrompt

from lrqk_cli.chat.archive import load, make_archive, save
from lrqk_cli.chat.events import AnswerSources, SourcePage
from lrqk_cli.chat.export import to_json, to_markdown
from lrqk_cli.config import GenerationConfig, LrqkConfig
from lrqk_cli.errors import UsageError


@pytest.fixture
def session(fake_engine, fake_document, new_session):
    session = new_session(fake_engine(), [fake_document("a.pdf", ["one", "two"])])
    list(session.ask("What is\nit?"))
    session.add(fake_document("b.txt", ["three"], first_page=None))
    list(session.ask("And?", lambda: "And?>Ye" in session.engine.text))
    session.set_system("Be short.")
    return session


def archive_of(session, tokenizer=None, **changes):
    generation, config = GenerationConfig(seed=3), LrqkConfig(**changes)
    return make_archive(session.conversation, "tiny", generation, config, tokenizer)


@dataclass(frozen=True)
class Folding(FakePrompt):
    """A tokenizer with two encodings of a text, of which ``text`` gives the one in capitals."""

    def with_system(self, system):
        return Folding(system)

    def text(self, text, after=()):
        return super().text(text.upper())


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


def test_exports_name_the_sources_of_an_answer(session):
    (use, _), (exchange, _) = session.documents, session.conversation.exchanges
    exchange.sources = AnswerSources([SourcePage(use, 2, 0.731, "It is so.")], [])
    written = to_markdown(session.conversation, "tiny")
    assert "## Answer\n\nYes.\n\n*Sources: a.pdf, page 2 (73%)*\n\n*b.txt" in written
    messages = json.loads(to_json(session.conversation, "tiny"))["messages"]
    assert messages[2]["sources"] == [
        {"document": use.path, "page": 2, "share": 0.731, "passage": "It is so.", "by_ocr": False}
    ]
    assert "sources" not in messages[5]


def test_an_answer_keeps_its_tokens_where_the_tokenizer_is_the_same(session, tmp_path):
    save(archive_of(session, "one"), tmp_path / "x.json")
    archive = load(tmp_path / "x.json")
    assert archive == archive_of(session, "one")
    assert [entry.tokens for entry in archive.entries if hasattr(entry, "tokens")] == [
        tuple(map(ord, "Yes.")),
        tuple(map(ord, "Ye")),
    ]
    prompt = Folding()
    for tokenizer, text in (("one", "Be short."), ("two", None), (None, None)):
        restored = "".join(map(chr, archive.restore(prompt, tokenizer).tokens))
        assert (">Yes.|" in restored, ">YES.|" in restored) == (text is not None, text is None)
        assert restored.endswith(">Ye" if text else ">YE")


def test_answers_that_were_cut_off_have_tokens_too(session):
    session.engine.answer = "Nothing more.$"
    list(session.ask("Now?", lambda: session.engine.text.endswith("Now?>")))
    archive = archive_of(session, "one")
    assert archive.restore(FakePrompt(), "one").tokens == session.transcript
    assert archive_of(session).entries[-1].tokens is None


def test_tokens_that_do_not_spell_the_answer_are_not_taken(session, tmp_path):
    file = tmp_path / "x.json"
    save(archive_of(session, "one"), file)
    plain = json.loads(file.read_text())
    plain["entries"][1]["tokens"] = list(map(ord, "No."))
    file.write_text(json.dumps(plain))
    assert load(file).restore(FakePrompt(), "one").tokens == session.transcript


@pytest.mark.parametrize("tokens", ["text", [1.0], [True], [-1], [2**31], [[1]], {"a": 1}, 7])
def test_tokens_of_a_wrong_kind_are_refused(session, tmp_path, tokens):
    file = tmp_path / "x.json"
    save(archive_of(session, "one"), file)
    plain = json.loads(file.read_text())
    plain["entries"][1]["tokens"] = tokens
    file.write_text(json.dumps(plain))
    with pytest.raises(UsageError, match="damaged"):
        load(file)


def test_a_file_from_before_the_tokens_loads(session, tmp_path):
    file = tmp_path / "x.json"
    save(archive_of(session), file)
    plain = json.loads(file.read_text())
    del plain["tokenizer"]
    for entry in plain["entries"]:
        entry.pop("tokens", None)
        for part in entry.get("parts", []):
            del part["by_ocr"]
    file.write_text(json.dumps(plain))
    assert load(file) == archive_of(session)
    plain["tokenizer"] = 3
    file.write_text(json.dumps(plain))
    with pytest.raises(UsageError, match="'tokenizer'"):
        load(file)
