"""Memory runs out in a conversation with a real engine: all is read again in shorter segments."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from fake_chat import FakeDocument, FakePrompt, FakeStream
from tiny import tiny_model
from torch.utils._python_dispatch import TorchDispatchMode

from lrqk_cli.chat.events import Answer, Notice
from lrqk_cli.chat.session import Session
from lrqk_cli.config import GenerationConfig, LrqkConfig
from lrqk_cli.engine.generate import Engine
from lrqk_cli.errors import OutOfMemoryError
from lrqk_cli.models.support import spec_from_config

LEAST = 32
# All rows stay resident, so the length of segments does not change an answer.
SETTINGS = LrqkConfig(hot=1000, top_k=100, recent=8, rank=8, segment=4 * LEAST)
DOCUMENT = FakeDocument("a.pdf", [f"page {number} of the text, " * 2 for number in range(4)])


class Scarce(TorchDispatchMode):
    """Counts torch's allocations, and raises as a full GPU does where ``fails`` says so."""

    def __init__(self, fails: Callable[[int, Any], bool] = lambda *_: False) -> None:
        super().__init__()
        self.calls = 0
        self._fails = fails

    def __torch_dispatch__(self, operation, types, arguments=(), keywords=None):
        made = operation(*arguments, **keywords or {})
        if not allocates(made, arguments):
            return made
        self.calls += 1
        if self._fails(self.calls, made):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return made


def allocates(made: Any, arguments: tuple[Any, ...]) -> bool:
    """Return whether an operation has made a tensor, and no view of its arguments."""
    if not isinstance(made, torch.Tensor):
        return False
    given = [one for one in arguments if isinstance(one, torch.Tensor)]
    return made.untyped_storage().data_ptr() not in [one.untyped_storage().data_ptr() for one in given]


@pytest.fixture(autouse=True)
def _short_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lrqk_cli.engine.adjusting.LEAST_SEGMENT", LEAST)


@contextmanager
def conversation(family: str = "llama") -> Iterator[tuple[Engine, Session]]:
    model = tiny_model(family, vocab_size=128)
    with Engine(model, spec_from_config(model.config, "tiny"), SETTINGS, 600) as engine:
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
    with conversation(family) as (_, session), Scarce() as counted:
        expected = ask(session, "What is it?")[0], ask(session, "And then?")[0]
    for point in range(1, counted.calls, 1 + counted.calls // 5):
        with conversation(family) as (engine, session):
            with Scarce(lambda call, _, point=point: call == point):
                first, notices = ask(session, "What is it?")
                then, more = ask(session, "And then?")
            assert (first, then) == expected
            assert len(notices + more) == 1
            assert "read again in shorter segments" in (notices + more)[0]
            assert engine.config.segment == engine.cache.config.segment == 2 * LEAST
            assert list(engine.tokens) == session.transcript
            engine.adjust(engine.config)


def test_segments_are_shortened_until_they_fit_and_that_is_said_once() -> None:
    def is_wide(_: int, made: Any) -> bool:
        return made.dim() == 3 and len(made) == 1 and made.shape[1] > LEAST * 3 // 2  # of a segment

    with conversation() as (_, session):
        expected = ask(session, "What is it?")[0]
    with conversation() as (engine, session), Scarce(is_wide):
        text, notices = ask(session, "What is it?")
    assert text == expected
    assert notices == ["Memory ran out, so the text is read again in shorter segments."]
    assert engine.config.segment == LEAST


def test_where_nothing_helps_the_question_fails_and_the_conversation_goes_on() -> None:
    with conversation() as (_, session):
        expected = ask(session, "What is it?")[0]
    with conversation() as (_, session):
        with Scarce(lambda call, _: call > 50), pytest.raises(OutOfMemoryError):
            ask(session, "What is it?")
        assert session.conversation.exchanges == []
        assert ask(session, "What is it?")[0] == expected
