"""A request's messages as a dialogue, and a dialogue as a conversation that goes on."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from fake_chat import FakeDocument, FakePrompt
from hypothesis import given
from hypothesis import strategies as st

from lrqk_cli.chat.conversation import Conversation
from lrqk_cli.documents.limits import ReadLimits
from lrqk_cli.errors import DocumentError, LrqkError, UsageError
from lrqk_cli.server.dialogue import Dialogue, Turn, continued
from lrqk_cli.server.messages import dialogue_of
from lrqk_cli.server.requests import Message
from lrqk_cli.server.uploads import NoSuchFileError, TooManyFilesError, UploadedFiles

DOCUMENTS = FakeDocument("one", ["first"]), FakeDocument("two", ["second", "third"])


def text_of(tokens: list[int]) -> str:
    return "".join(map(chr, tokens))


def rendered(dialogue: Dialogue) -> str:
    """The whole conversation in the form of ``FakePrompt``, up to its last question."""
    turns = []
    for turn in dialogue.turns:
        documents = "".join(f"[{''.join(document.pages)}]" for document in turn.documents)
        turns.append(f"{documents}{turn.question}>{turn.answer or ''}")
    return f"{dialogue.system or ''}<" + "|".join(turns)


words = st.sampled_from(["", "a", "b", "ab"])
turns = st.builds(
    Turn,
    st.lists(st.sampled_from(DOCUMENTS), max_size=2).map(tuple),
    words,
    words,
)
dialogues = st.builds(
    lambda system, before, last: Dialogue(system, (*before, Turn(*last, None))),
    st.sampled_from([None, "s"]),
    st.lists(turns, max_size=3),
    st.tuples(st.lists(st.sampled_from(DOCUMENTS), max_size=1).map(tuple), words),
)


@given(st.lists(dialogues, min_size=1, max_size=5))
def test_a_conversation_has_the_tokens_of_its_messages_whatever_stood_before(given_: list[Dialogue]) -> None:
    standing = Conversation(FakePrompt())
    for dialogue in given_:
        before = text_of(standing.tokens)
        conversation = continued(standing, dialogue, FakePrompt)
        # The one before stays as it was: a failure may have to go back to it.
        assert text_of(standing.tokens) == before
        exchange = conversation.add_question(dialogue.question)
        assert text_of(conversation.tokens) == rendered(dialogue)
        conversation.tokens += map(ord, "ok")
        assert exchange.start <= len(conversation.tokens)
        standing = conversation


def test_what_agrees_keeps_its_entries_and_the_tokens_of_its_answers() -> None:
    first = Dialogue(None, (Turn((DOCUMENTS[0],), "Why?", "So."), Turn((), "And?", None)))
    standing = continued(Conversation(FakePrompt()), first, FakePrompt)
    standing.tokens[-3:] = map(ord, "?!.")  # other tokens of the same answer
    longer = Dialogue(None, (*first.turns[:1], Turn((), "And?", "Then."), Turn((), "More?", None)))
    again = continued(standing, longer, FakePrompt)
    assert again.entries[:2] == standing.entries
    assert text_of(again.tokens).startswith("<[first]Why?>?!.|And?>Then.")
    other = continued(again, Dialogue(None, (Turn((DOCUMENTS[0],), "Who?", None),)), FakePrompt)
    assert other.entries == standing.entries[:1]


@pytest.fixture
def files() -> UploadedFiles:
    return UploadedFiles(ReadLimits(), most=3)


def dialogue(files: UploadedFiles, *messages: dict[str, Any], owner: str = "me") -> Dialogue:
    return dialogue_of([Message(**message) for message in messages], files, owner)


def user(*content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content[0] if len(content) == 1 else list(content)}


def test_messages_become_turns(files: UploadedFiles) -> None:
    report = files.add("me", "report.txt", b"All is well.", "user_data")
    found = dialogue(
        files,
        {"role": "system", "content": "Be brief."},
        {"role": "developer", "content": [{"type": "text", "text": "In English."}]},
        user({"type": "file", "file": {"file_id": report.id}}, {"type": "text", "text": "How is it?"}),
        user("Tell me."),
        {"role": "assistant", "content": "Well."},
        user("And now?"),
    )
    assert found.system == "Be brief.\n\nIn English."
    assert found.turns == (
        Turn((report.document,), "How is it?\n\nTell me.", "Well."),
        Turn((), "And now?", None),
    )
    assert report.document.text == "All is well."


def test_the_same_content_is_the_same_document_for_its_owner_alone(files: UploadedFiles) -> None:
    data = "data:text/plain;base64," + base64.b64encode(b"All is well.").decode()
    part = {"type": "file", "file": {"file_data": data, "filename": "notes.txt"}}
    asked = user(part, {"type": "text", "text": "How?"})
    first, again, other = (dialogue(files, asked, owner=owner) for owner in ("me", "me", "you"))
    assert first.turns[0].documents[0] is again.turns[0].documents[0]
    assert first.turns[0].documents[0] is not other.turns[0].documents[0]
    uploaded = files.add("me", "notes.txt", b"All is well.", "user_data")
    assert uploaded.document is first.turns[0].documents[0]


@pytest.mark.parametrize(
    ("messages", "word"),
    [
        ([{"role": "assistant", "content": "Yes."}, user("Why?")], "before any question"),
        ([user("Why?"), {"role": "assistant", "content": "So."}], "end with a question"),
        ([{"role": "system", "content": "x"}], "end with a question"),
        ([user("Why?"), {"role": "system", "content": "x"}, user("Why?")], "within the conversation"),
        ([user({"type": "file", "file": {}}, {"type": "text", "text": "x"})], "either file_id or file_data"),
        ([user({"type": "file", "file": {"file_data": "%"}}, {"type": "text", "text": "x"})], "base64"),
        ([{"role": "system", "content": [{"type": "file", "file": {"file_id": "x"}}]}], "not a user's"),
    ],
)
def test_messages_without_a_sense_are_refused(
    files: UploadedFiles, messages: list[dict[str, Any]], word: str
) -> None:
    with pytest.raises(UsageError, match=word) as caught:
        dialogue(files, *messages)
    assert caught.value.hint


def test_files_belong_to_their_owners_and_are_limited(files: UploadedFiles) -> None:
    mine = files.add("me", "../../etc/notes\\b.txt", b"text", "user_data")
    assert mine.name == "b.txt"
    assert files.list("you") == []
    for act in (files.get, files.remove):
        with pytest.raises(NoSuchFileError):
            act("you", mine.id)
    files.add("me", "c.txt", b"text", "x")
    files.add("me", "d.txt", b"text", "x")
    with pytest.raises(TooManyFilesError):
        files.add("me", "e.txt", b"text", "x")
    assert files.remove("me", mine.id) is mine
    with pytest.raises(NoSuchFileError):
        files.get("me", mine.id)


@pytest.mark.parametrize("name", ["", "..", "/", "\0"])
def test_a_file_needs_a_name(files: UploadedFiles, name: str) -> None:
    with pytest.raises(DocumentError, match="no name"):
        files.add("me", name, b"text", "x")


def test_what_cannot_be_read_is_an_error(files: UploadedFiles) -> None:
    with pytest.raises(LrqkError, match=r"broken\.pdf"):
        files.add("me", "broken.pdf", b"%PDF-1.7 nothing", "x")
    assert files.list("me") == []
