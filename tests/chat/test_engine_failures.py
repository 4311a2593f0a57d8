"""A real engine that fails within a layer: what was said before is read again, and nothing else is left."""

from __future__ import annotations

import pytest
from fake_chat import FakeDocument, FakePrompt, FakeStream
from tiny import tiny_model

from lrqk_cli.chat.events import Answer
from lrqk_cli.chat.session import Session
from lrqk_cli.config import GenerationConfig, LrqkConfig
from lrqk_cli.engine.generate import Engine
from lrqk_cli.models.support import spec_from_config

SETTINGS = LrqkConfig(hot=24, top_k=8, recent=8, rank=8, segment=16)


class Failure:
    """Raises in the second layer of a model once it has been called so often; 0 for never."""

    def __init__(self, model) -> None:
        self.countdown = 0
        model.model.layers[1].register_forward_pre_hook(self._count)

    def _count(self, *_: object) -> None:
        self.countdown -= 1
        if self.countdown == 0:
            raise RuntimeError("the device is lost")


@pytest.mark.parametrize("calls", [1, 3, 6, 9], ids=["first segment", "last segment", "early", "late"])
def test_the_next_answer_is_that_of_a_conversation_that_is_read_again(calls):
    def play(*, fails: bool) -> tuple[list[str], list[int]]:
        model = tiny_model("llama", vocab_size=128)
        failure = Failure(model)
        with Engine(model, spec_from_config(model.config, "tiny"), SETTINGS, 600) as engine:
            session = Session(
                engine,
                FakePrompt(),
                [FakeDocument("a.pdf", ["one " * 20, "two " * 20])],
                GenerationConfig(max_new_tokens=12),
                stop_ids=(),
                trained_context=2048,
                max_context=2048,
                new_stream=FakeStream,
            )
            texts = [_answer(session, "First?")]
            if fails:
                failure.countdown = calls
                with pytest.raises(RuntimeError, match="the device is lost"):
                    _answer(session, "A second question, of some segments?")
            else:
                session.adopt(session.conversation)
            texts.append(_answer(session, "Third?"))
            assert list(engine.tokens) == session.transcript
            return texts, session.transcript

    assert play(fails=True) == play(fails=False)


def _answer(session: Session, question: str) -> str:
    *_, last = session.ask(question)
    assert isinstance(last, Answer)
    return last.text
