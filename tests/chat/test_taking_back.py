"""Undo, drop, clear and their like: what is left is as if the rest had never been said."""

from __future__ import annotations

from itertools import count

import fake_chat
import pytest
from fake_chat import MARKS, FakeDocument, FakeEngine, FakePrompt
from hypothesis import given, settings
from hypothesis import strategies as st

from lrqk_cli.chat import context_sync
from lrqk_cli.chat.conversation import DocumentEntry, Exchange
from lrqk_cli.chat.events import Answer
from lrqk_cli.config import GenerationConfig
from lrqk_cli.errors import ContextLengthError, OutOfMemoryError, UsageError


def play(events) -> Answer:
    *_, last = events
    assert isinstance(last, Answer)
    return last


def test_undo_forgets_the_last_question_by_rewinding(fake_engine, fake_document, new_session):
    engine = fake_engine()
    session = new_session(engine, [fake_document("a.pdf", ["one"])])
    play(session.ask("A?"))
    play(session.ask("B?"))
    undone = session.undo()
    assert (undone.question, undone.answer.text) == ("B?", "Yes.")
    assert engine.text == "<[one]A?>Yes."
    session.undo()
    assert engine.text == "<[one]"
    assert (engine.rewinds, engine.resets) == (2, 0)
    play(session.ask("C?"))
    assert engine.text == "<[one]C?>Yes."
    assert session.transcript == engine.cached


def test_undo_needs_a_question_that_came_last(fake_engine, fake_document, new_session):
    session = new_session(fake_engine(), [fake_document("a.pdf", ["one"])])
    with pytest.raises(UsageError, match="Nothing has been asked"):
        session.undo()
    play(session.ask("A?"))
    session.add(fake_document("b.pdf", ["two"]))
    with pytest.raises(UsageError) as refusal:
        session.undo()
    assert "/drop" in refusal.value.hint


def test_a_document_can_come_in_the_middle(fake_engine, fake_document, new_session):
    engine = fake_engine()
    session = new_session(engine, [fake_document("a.pdf", ["one"])])
    play(session.ask("A?"))
    session.add(fake_document("b.pdf", ["two", "three"], first_page=4))
    assert session.unread == 11
    list(session.read())
    assert engine.text == "<[one]A?>Yes.|[twothree]"
    spans = [(span.document, span.page, engine.text[span.start : span.end]) for span in session.page_spans]
    assert spans == [(0, 1, "one"), (1, 4, "two"), (1, 5, "three")]
    play(session.ask("B?"))
    assert engine.text == "<[one]A?>Yes.|[twothree]B?>Yes."


def test_drop_forgets_whatever_came_last(fake_engine, fake_document, new_session):
    engine = fake_engine()
    session = new_session(engine, [fake_document("a.pdf", ["one"])])
    play(session.ask("A?"))
    session.add(fake_document("b.pdf", ["two"]))
    list(session.read())
    dropped = session.drop()
    assert isinstance(dropped, DocumentEntry)
    assert dropped.use.title == "b.pdf"
    assert engine.text == "<[one]A?>Yes."
    assert isinstance(session.drop(), Exchange)
    assert engine.text == "<[one]"
    session.drop()
    assert (engine.text, session.documents) == ("", [])
    with pytest.raises(UsageError):
        session.drop()
    play(session.ask("B?"))
    assert engine.text == "<B?>Yes."


def test_a_document_that_does_not_fit_leaves_no_trace(fake_engine, fake_document, new_session):
    engine = fake_engine(context=60)
    session = new_session(engine)
    play(session.ask("A?"))
    before = list(session.transcript)
    with pytest.raises(ContextLengthError) as refusal:
        session.add(fake_document("b.pdf", ["x" * 30, "y" * 30]))
    assert "page 1" in refusal.value.hint
    assert (session.transcript, session.documents) == (before, [])
    session.add(fake_document("c.pdf", ["x" * 20]))


def test_many_small_documents_are_read_in_few_pieces(fake_engine, fake_document, new_session):
    engine = fake_engine(segment=1000)
    session = new_session(engine, [fake_document(f"{n}.txt", ["x" * 10]) for n in range(30)])
    list(session.read())
    marked = [entry for entry in session.conversation.entries if entry.rewind_point is not None]
    assert marked == session.conversation.entries[-1:]
    session.drop()
    assert (engine.rewinds, engine.resets) == (1, 0)
    session.drop()  # there is no mark nearer than the beginning
    assert (engine.resets, session.unread) == (1, 1 + 28 * 12)
    play(session.ask("A?"))
    assert engine.text == "<" + "[xxxxxxxxxx]" * 28 + "A?>Yes."


def test_the_oldest_marks_go_first_and_what_follows_is_read_again(
    fake_engine, fake_document, new_session, monkeypatch
):
    monkeypatch.setattr(context_sync, "_REWIND_BYTES", 250)
    engine = fake_engine()
    session = new_session(engine, [fake_document("a.pdf", ["one"])])
    for question in "ABCD":
        play(session.ask(question))
    assert [entry.rewind_point is not None for entry in session.conversation.entries] == [False] * 3 + [
        True
    ] * 2
    session.undo()
    session.undo()
    assert engine.resets == 0
    session.undo()
    assert engine.resets == 1
    play(session.ask("E"))
    assert engine.text == "<[one]A>Yes.|E>Yes."


def test_without_marks_everything_is_read_again(fake_engine, new_session):
    engine = fake_engine()
    session = new_session(engine)
    session.keep_no_rewind_points()
    play(session.ask("A?"))
    play(session.ask("B?"))
    session.undo()
    play(session.ask("C?"))
    assert engine.text == "<A?>Yes.|C?>Yes."
    assert engine.resets == 1


def test_another_system_text_moves_everything(fake_engine, fake_document, new_session):
    engine = fake_engine()
    session = new_session(engine, [fake_document("a.pdf", ["one"])])
    play(session.ask("A?"))
    session.set_system("Be short.")
    assert session.unread == len(session.transcript)
    play(session.ask("B?"))
    assert engine.text == "Be short.<[one]A?>Yes.|B?>Yes."
    span = session.page_spans[0]
    assert engine.text[span.start : span.end] == "one"
    assert session.conversation.exchanges[0].answer.text == "Yes."
    with pytest.raises(ContextLengthError):
        session.set_system("x" * 1000)
    # It fits, and leaves no room for a question.
    room = engine.context - len(session.transcript)
    with pytest.raises(ContextLengthError):
        session.set_system("x" * (room + len("Be short.")))
    assert engine.text == "Be short.<[one]A?>Yes.|B?>Yes."
    session.set_system(None)
    play(session.ask("C?"))
    assert engine.text == "<[one]A?>Yes.|B?>Yes.|C?>Yes."


def test_clear_keeps_the_documents_unless_told_otherwise(fake_engine, fake_document, new_session):
    engine = fake_engine()
    session = new_session(engine, [fake_document("a.pdf", ["one"])])
    play(session.ask("A?"))
    session.add(fake_document("b.pdf", ["two"]))
    play(session.ask("B?"))
    session.clear()
    assert engine.text == "<[one]"
    assert [use.title for use in session.documents] == ["a.pdf", "b.pdf"]
    assert session.history.totals.steps == 0
    play(session.ask("C?"))
    assert engine.text == "<[one][two]C?>Yes."
    session.clear(documents=True)
    assert (engine.text, session.documents) == ("", [])


def test_one_answer_can_be_drawn_differently(fake_engine, new_session):
    session = new_session(fake_engine())
    assert play(session.ask("A?", generation=GenerationConfig(max_new_tokens=2))).text == "Ye"
    assert play(session.ask("A?")).text == "Yes."


ACTIONS = ["ask", "ask", "document", "read", "undo", "drop", "clear", "system"]


@settings(max_examples=200, deadline=None)
@given(
    actions=st.lists(st.sampled_from(ACTIONS), max_size=12),
    looks=st.lists(st.integers(0, 12) | st.none(), min_size=12, max_size=12),
    mark_bytes=st.sampled_from([1, 1 << 29, 1 << 31]),
    thinks=st.booleans(),
)
def test_the_engine_holds_a_beginning_of_what_was_said(actions, looks, mark_bytes, thinks) -> None:
    """Whatever is said, interrupted and taken back; at the end an answer comes after exactly that."""
    said = "{hm}Yes.$" if thinks else "Yes.$"
    engine, numbers = FakeEngine(said, segment=3, mark_bytes=mark_bytes, context=10_000), count()
    prompt, generation = FakePrompt(marks=MARKS, thinks=thinks), GenerationConfig(think=None if thinks else 0)
    session = fake_chat.new_session(engine, (), generation, trained_context=10_000, prompt=prompt)

    def cancelled(limit: int | None):
        seen = count()
        return lambda: limit is not None and next(seen) >= limit

    for action, limit in zip(actions, looks, strict=False):
        try:
            if action == "ask":
                play(session.ask(f"question {next(numbers)}?", cancelled(limit)))
            elif action == "document":
                session.add(FakeDocument(f"{next(numbers)}.pdf", ["page"] * 3))
            elif action == "read":
                list(session.read(cancelled(limit)))
            elif action == "system":
                session.set_system(f"system {next(numbers)}")
            else:
                getattr(session, action)()
        except UsageError:
            assert action in ("undo", "drop")
        assert engine.cached == session.transcript[: engine.length]
    expected = session.conversation.with_prompt(session.conversation.prompt).tokens
    assert session.transcript == expected
    play(session.ask("last?"))
    if thinks:
        assert "".join(map(chr, session.transcript)).endswith("last?=Yes.")
        list(session.read())
    else:
        assert engine.text.endswith("last?>Yes.")
    assert engine.cached == session.transcript


def test_after_a_failure_all_is_read_again_and_can_be_taken_back(
    fake_engine, fake_document, new_session, monkeypatch
):
    engine = fake_engine()
    session = new_session(engine, [fake_document("a.pdf", ["one"])])
    play(session.ask("A?"))

    def fail(*_: object) -> None:
        # As an engine does when memory runs out on the way.
        engine.reset()
        raise OutOfMemoryError("The device has not enough free memory for this.")

    with monkeypatch.context() as patch:
        patch.setattr(engine, "generate", fail)
        with pytest.raises(OutOfMemoryError):
            play(session.ask("B?"))
    assert engine.text == ""
    # The engine knows the earlier points no more.
    assert [entry.rewind_point for entry in session.conversation.entries] == [None, None]
    play(session.ask("C?"))
    assert session.transcript == engine.cached
    session.undo()
    session.undo()
    assert engine.text in ("", "<[one]")
    play(session.ask("D?"))
    assert engine.text == "<[one]D?>Yes."


def test_undo_reads_again_where_a_rewind_needs_more_memory_than_there_is(
    fake_engine, fake_document, new_session, monkeypatch
):
    engine = fake_engine()
    session = new_session(engine, [fake_document("a.pdf", ["one"])])
    play(session.ask("A?"))

    def fail(_):
        engine.reset()
        raise OutOfMemoryError("This machine has not enough free memory for this.")

    monkeypatch.setattr(engine, "rewind", fail)
    assert session.undo().question == "A?"
    play(session.ask("B?"))
    assert engine.text == "<[one]B?>Yes."
