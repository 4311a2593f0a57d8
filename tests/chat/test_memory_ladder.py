"""Memory runs out in a conversation with a real engine: all is read again with less of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from fake_chat import FakeDocument, FakePrompt, FakeStream
from scarce import Scarce
from tiny import tiny_model

from lrqk_cli.chat.events import Answer, Notice
from lrqk_cli.chat.session import Session
from lrqk_cli.config import GenerationConfig, LrqkConfig
from lrqk_cli.engine.generate import Engine
from lrqk_cli.errors import OutOfMemoryError
from lrqk_cli.memory.planner import LEAST_HOT
from lrqk_cli.models.support import spec_from_config

LEAST = 32
# All rows stay resident, so the length of segments does not change an answer.
SETTINGS = LrqkConfig(hot=1000, top_k=100, recent=8, rank=8, segment=4 * LEAST)
DOCUMENT = FakeDocument("a.pdf", [f"page {number} of the text, " * 2 for number in range(4)])


@pytest.fixture(autouse=True)
def _short_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lrqk_cli.engine.adjusting.LEAST_SEGMENT", LEAST)


@contextmanager
def conversation(family: str = "llama", least_hot: int = LEAST_HOT) -> Iterator[tuple[Engine, Session]]:
    model = tiny_model(family, vocab_size=128)
    spec = spec_from_config(model.config, "tiny")
    with Engine(model, spec, SETTINGS, 600, least_hot=least_hot) as engine:
        yield (
            engine,
            Session(
                engine,
                FakePrompt(),
                [DOCUMENT],
                GenerationConfig(max_new_tokens=12),
                stop_ids=(),
                trained_context=2048,
                max_context=2048,
                new_stream=FakeStream,
            ),
        )


def ask(session: Session, question: str) -> tuple[str, list[str]]:
    events = list(session.ask(question))
    assert isinstance(events[-1], Answer)
    return events[-1].text, [event.message for event in events if isinstance(event, Notice)]


# Sampled evenly, so that reading, seeding, solving and steps are all met.
@pytest.mark.parametrize("family", ["llama", "lfm2"])
def test_wherever_memory_runs_out_once_the_answers_are_the_same(family: str) -> None:
    with conversation(family) as (_, session), Scarce(of="torch") as counted:
        expected = ask(session, "What is it?")[0], ask(session, "And then?")[0]
    for point in range(1, counted.calls, 1 + counted.calls // 5):
        with conversation(family) as (engine, session):
            with Scarce(lambda call, _, point=point: call == point, of="torch"):
                first, notices = ask(session, "What is it?")
                then, more = ask(session, "And then?")
            assert (first, then) == expected
            assert len(notices + more) == 1
            assert "read again in shorter segments" in (notices + more)[0]
            assert engine.config.segment == engine.cache.config.segment == 2 * LEAST
            assert list(engine.tokens) == session.transcript
            engine.adjust(engine.config)


def test_segments_are_shortened_until_they_fit_and_that_is_said_once() -> None:
    def is_wide(_: int, made: torch.Tensor) -> bool:
        return made.dim() == 3 and len(made) == 1 and made.shape[1] > LEAST * 3 // 2  # of a segment

    with conversation() as (_, session):
        expected = ask(session, "What is it?")[0]
    with conversation() as (engine, session), Scarce(is_wide, "torch"):
        text, notices = ask(session, "What is it?")
    assert text == expected
    assert notices == ["Memory ran out, so the text is read again in shorter segments."]
    assert engine.config.segment == LEAST


def test_where_nothing_helps_the_question_fails_and_the_conversation_goes_on() -> None:
    with conversation() as (_, session):
        expected = ask(session, "What is it?")[0]
    with conversation() as (_, session):
        with Scarce(lambda call, _: call > 50, "torch"), pytest.raises(OutOfMemoryError):
            ask(session, "What is it?")
        assert session.conversation.exchanges == []
        assert ask(session, "What is it?")[0] == expected


@pytest.mark.parametrize("wants_sources", [False, True])
def test_where_the_shortest_segments_do_not_help_the_hot_set_shrinks(wants_sources: bool) -> None:
    with conversation() as (_, session):
        expected = ask(session, "What is it?")[0], ask(session, "And then?")[0]
    with conversation(least_hot=290) as (engine, session):
        session.note_sources(wants_sources)
        [layer, *_] = engine.cache.lrqk_layers
        with Scarce(lambda call, _: call > 400 and layer.hot.size > 300, "torch"):
            text, notices = ask(session, "What is it?")
        assert notices == [
            "Memory ran out, so the text is read again in shorter segments.",
            "Memory ran out, so the text is read again with fewer hot rows, which may cost some quality.",
        ]
        # The text has fewer tokens than that, so the answers are the same.
        assert (engine.config.hot, engine.cache.config, layer.hot.size) == (290, engine.config, 290)
        engine.adjust(engine.config)
        assert (text, ask(session, "And then?")[0]) == expected


def test_a_hot_set_that_the_context_does_not_fill_has_nothing_to_give() -> None:
    with conversation(least_hot=592) as (engine, session):
        with Scarce(lambda call, _: call > 50, "torch"), pytest.raises(OutOfMemoryError) as caught:
            ask(session, "What is it?")
        assert engine.config.hot == SETTINGS.hot
    assert "`context`" in caught.value.hint


def test_hot_sets_that_cannot_be_allocated_are_when_there_is_memory() -> None:
    with conversation() as (_, session):
        expected = ask(session, "What is it?")[0]
    with conversation(least_hot=290) as (engine, session):
        with Scarce(lambda call, _: call > 50, "torch"), pytest.raises(OutOfMemoryError):
            ask(session, "What is it?")
        assert engine.config.hot == 290
        assert ask(session, "What is it?")[0] == expected
