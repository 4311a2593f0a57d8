from __future__ import annotations

import pytest

from lrqk_cli.chat.events import Answer, Notice, PageSpan, TextDelta
from lrqk_cli.config import GenerationConfig
from lrqk_cli.engine.events import PrefillProgress
from lrqk_cli.errors import ContextLengthError


class Countdown:
    """Cancels at the n-th look."""

    def __init__(self, looks: int) -> None:
        self.looks = looks

    def __call__(self) -> bool:
        self.looks -= 1
        return self.looks < 0


def answer_of(events) -> Answer:
    *_, last = events
    assert isinstance(last, Answer)
    return last


def test_a_question_follows_the_documents_and_the_answer_streams(fake_engine, fake_document, new_session):
    engine = fake_engine()
    session = new_session(engine, [fake_document("a.pdf", ["one", "two"])])
    events = list(session.ask("Q?"))
    assert engine.text == "<[onetwo]Q?>Yes."
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == "Yes."
    answer = events[-1]
    assert (answer.text, answer.finish_reason) == ("Yes.", "stop")
    assert (answer.prompt_tokens, answer.new_tokens) == (12, 4)
    assert answer.timing.prefill_tokens == 12
    assert answer.timing.ttft_s is not None


def test_progress_begins_at_zero_and_ends_at_the_total(fake_engine, fake_document, new_session):
    session = new_session(fake_engine(), [fake_document("a.pdf", ["x" * 30])])
    done = [event.done for event in session.read() if isinstance(event, PrefillProgress)]
    assert done[0] == 0
    assert done[-1] == 33
    assert done == sorted(done)


def test_the_first_token_is_not_counted_as_a_decode_step(fake_engine, new_session):
    answer = answer_of(new_session(fake_engine()).ask("Q?"))
    assert answer.cache.steps == 4  # three letters after the first, and the stop token
    assert answer.cache.miss_rate == pytest.approx(0.1)
    assert answer.cache.tokens_per_second == pytest.approx(10)


def test_turns_are_joined_by_the_format(fake_engine, new_session):
    engine = fake_engine()
    session = new_session(engine)
    answer_of(session.ask("A?"))
    second = answer_of(session.ask("B?"))
    assert engine.text == "<A?>Yes.|B?>Yes."
    assert second.timing.prefill_tokens == 4
    assert session.transcript == engine.cached


def test_spans_of_pages_point_at_their_text(fake_engine, fake_document, new_session):
    engine = fake_engine()
    documents = [fake_document("a.pdf", ["one", "two"]), fake_document("b.pdf", ["three"], first_page=7)]
    session = new_session(engine, documents)
    list(session.read())
    assert session.page_spans == [PageSpan(0, 1, 2, 5), PageSpan(0, 2, 5, 8), PageSpan(1, 7, 10, 15)]
    assert [engine.text[span.start : span.end] for span in session.page_spans] == ["one", "two", "three"]
    assert [(use.title, use.pages, use.tokens) for use in session.documents] == [
        ("a.pdf", 2, 8),
        ("b.pdf", 1, 7),
    ]


@pytest.mark.parametrize("looks", range(12))
def test_an_interrupted_reading_is_finished_by_the_next_question(
    fake_engine, fake_document, new_session, looks
):
    engine = fake_engine(segment=3)
    session = new_session(engine, [fake_document("a.pdf", ["0123456789"] * 2)])
    list(session.read(Countdown(looks)))
    assert engine.length == min(23, 3 * looks)
    answer_of(session.ask("Q?"))
    assert engine.text == "<[01234567890123456789]Q?>Yes."


@pytest.mark.parametrize("looks", range(13))
def test_an_interrupted_question_is_dropped_or_kept_whole(fake_engine, fake_document, new_session, looks):
    engine = fake_engine(segment=3)
    session = new_session(engine, [fake_document("a.pdf", ["0123456789"])])
    first = answer_of(session.ask("first?", Countdown(looks)))
    assert first.finish_reason == "interrupted"
    answer_of(session.ask("second?"))
    dropped = "<[0123456789]second?>Yes."
    if engine.text != dropped:
        assert engine.text == f"<[0123456789]first?>{first.text}|second?>Yes."
    # The document takes five segments, and ends one; then nothing of the question is in.
    assert (engine.text == dropped) == (looks <= 5)
    assert session.transcript == engine.cached


def test_an_interrupted_answer_stays_as_far_as_it_was_shown(fake_engine, new_session):
    engine = fake_engine(answer="abcdefgh$", segment=100)
    session = new_session(engine)
    answer = answer_of(session.ask("Q?", Countdown(5)))
    assert answer.finish_reason == "interrupted"
    assert 0 < len(answer.text) < 8
    shown = answer.text
    answer_of(session.ask("R?"))
    assert engine.text == f"<Q?>{shown}|R?>abcdefgh"


def test_the_limit_of_new_tokens_is_reported_and_the_chat_goes_on(fake_engine, new_session):
    engine = fake_engine()
    session = new_session(engine, generation=GenerationConfig(max_new_tokens=2))
    assert answer_of(session.ask("A?")).finish_reason == "length"
    answer_of(session.ask("B?"))
    assert engine.text == "<A?>Ye|B?>Ye"


def test_a_text_that_does_not_fit_is_refused_before_anything_goes_in(fake_engine, fake_document, new_session):
    engine = fake_engine(context=400)
    session = new_session(engine, [fake_document("a.pdf", ["x" * 100] * 5, first_page=3)])
    with pytest.raises(ContextLengthError) as refusal:
        list(session.ask("Q?"))
    assert engine.length == 0
    assert "506 tokens" in refusal.value.message
    assert "holds 400" in refusal.value.message
    # "<[" + 3 pages of 100 + "]Q?>" + one token of the answer = 307; a fourth page is too much.
    assert "`pages` 3-5" in refusal.value.hint


@pytest.mark.parametrize(("context", "fits"), [(56, False), (57, True)])
def test_the_last_token_of_the_context_is_enough_for_an_answer(
    fake_engine, fake_document, new_session, context, fits
):
    session = new_session(fake_engine(context=context), [fake_document("a.pdf", ["x" * 10] * 5)])
    if fits:
        assert answer_of(session.ask("Q?")).text
    else:
        with pytest.raises(ContextLengthError):
            list(session.ask("Q?"))


def test_the_pages_named_do_fit(fake_engine, fake_document, new_session):
    pages = ["x" * size for size in (50, 90, 30, 140, 40, 80)]
    for context in range(80, 430, 7):
        session = new_session(fake_engine(context=context), [fake_document("a.pdf", pages)])
        with pytest.raises(ContextLengthError) as refusal:
            list(session.ask("Q?"))
        last = int(refusal.value.hint.split("`pages` ")[1].split(",")[0].split("-")[-1])
        kept = new_session(fake_engine(context=context), [fake_document("a.pdf", pages[:last])])
        answer_of(kept.ask("Q?"))
        # Some tokens are kept for a longer header, so one page more is too much but for those.
        more = new_session(fake_engine(context=context - 16), [fake_document("a.pdf", pages[: last + 1])])
        with pytest.raises(ContextLengthError):
            list(more.ask("Q?"))


def test_documents_that_fit_whole_are_named(fake_engine, fake_document, new_session):
    documents = [fake_document("a.pdf", ["x" * 10]), fake_document("b.pdf", ["y" * 100] * 3)]
    session = new_session(fake_engine(context=150), documents)
    with pytest.raises(ContextLengthError, match="tokens") as refusal:
        list(session.ask("Q?"))
    assert refusal.value.hint.startswith("Only a.pdf and page 1 of b.pdf would fit")


def test_a_document_without_pages_is_measured_in_percent(fake_engine, fake_document, new_session):
    session = new_session(fake_engine(context=50), [fake_document("a.txt", ["x" * 98], first_page=None)])
    with pytest.raises(ContextLengthError) as refusal:
        list(session.ask("Q?"))
    assert "% of a.txt" in refusal.value.hint


def test_explicit_room_for_the_answer_is_kept(fake_engine, new_session):
    session = new_session(fake_engine(context=50), generation=GenerationConfig(max_new_tokens=48))
    with pytest.raises(ContextLengthError, match="48 for the answer"):
        list(session.ask("Q?"))


def test_a_full_context_refuses_the_next_question_and_keeps_the_conversation(fake_engine, new_session):
    engine = fake_engine(context=12)
    session = new_session(engine)
    answer_of(session.ask("A?"))
    before = list(session.transcript)
    with pytest.raises(ContextLengthError) as refusal:
        list(session.ask("a longer question?"))
    assert "earlier questions" in refusal.value.hint
    assert session.transcript == before == engine.cached


def test_a_full_conversation_is_taken_up_and_a_question_taken_back_makes_room(fake_engine, new_session):
    saved = new_session(fake_engine(context=26))
    for question in ("A?", "B?", "C?"):
        answer_of(saved.ask(question))
    session = new_session(fake_engine(context=len(saved.transcript)))
    session.adopt(saved.conversation.copy())
    with pytest.raises(ContextLengthError) as refusal:
        list(session.ask("D?"))
    assert "`undo`" in refusal.value.hint
    assert session.transcript == saved.transcript
    session.undo()
    assert answer_of(session.ask("E?")).text
    shorter = new_session(fake_engine(context=len(saved.transcript) - 1))
    with pytest.raises(ContextLengthError):
        shorter.adopt(saved.conversation.copy())


def test_a_text_beyond_the_trained_length_is_warned_of_once(fake_engine, new_session):
    session = new_session(fake_engine(), trained_context=6)
    first = [event for event in session.ask("long enough?") if isinstance(event, Notice)]
    second = [event for event in session.ask("again?") if isinstance(event, Notice)]
    assert len(first) == 1
    assert "trained on at most 6" in first[0].message
    assert second == []
