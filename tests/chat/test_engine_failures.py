"""A real engine that fails within a layer: what was said before is read again, and nothing else is left."""

from __future__ import annotations

import pytest
import torch
from constraints import Allowed
from fake_chat import FakeDocument, FakePrompt, FakeStream
from tiny import tiny_model

from lrqk_cli.chat.events import Answer
from lrqk_cli.chat.session import Session
from lrqk_cli.config import GenerationConfig, LrqkConfig
from lrqk_cli.engine.generate import Engine
from lrqk_cli.errors import ModelError
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


def new_session(engine: Engine, generation: GenerationConfig) -> Session:
    return Session(
        engine,
        FakePrompt(),
        [FakeDocument("a.pdf", ["one " * 20, "two " * 20])],
        generation,
        stop_ids=(),
        trained_context=2048,
        max_context=2048,
        new_stream=FakeStream,
    )


@pytest.mark.parametrize("calls", [1, 3, 6, 9], ids=["first segment", "last segment", "early", "late"])
def test_the_next_answer_is_that_of_a_conversation_that_is_read_again(calls):
    def play(*, fails: bool) -> tuple[list[str], list[int]]:
        model = tiny_model("llama", vocab_size=128)
        failure = Failure(model)
        with Engine(model, spec_from_config(model.config, "tiny"), SETTINGS, 600) as engine:
            session = new_session(engine, GenerationConfig(max_new_tokens=12))
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


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize(
    ("settings", "asked"),
    [
        ({}, {}),
        ({"temperature": 1.0, "top_p": 0.9, "seed": 1}, {}),
        ({"repetition_penalty": 1.3}, {"top_logprobs": 3}),
        ({}, {"constraint": Allowed(128, [65, 66])}),
    ],
    ids=["greedy", "sampled", "logprobs", "constraint"],
)
def test_after_numbers_that_are_not_finite_the_conversation_goes_on(value, settings, asked):
    model = tiny_model("llama", vocab_size=128)
    broken = [False]

    def overflow(_, __, output: torch.Tensor) -> torch.Tensor:
        return output.index_fill(-1, torch.tensor([3]), value) if broken[0] else output

    model.model.layers[0].mlp.register_forward_hook(overflow)
    with Engine(model, spec_from_config(model.config, "tiny"), SETTINGS, 600) as engine:
        session = new_session(engine, GenerationConfig(max_new_tokens=12, **settings))
        first = _answer(session, "First?")
        broken[0] = True
        with pytest.raises(ModelError, match="not finite"):
            list(session.ask("Second?", **asked))
        assert len(session.conversation.exchanges) == 1
        broken[0] = False
        session.undo()
        assert _answer(session, "First?") == first


def _answer(session: Session, question: str) -> str:
    *_, last = session.ask(question)
    assert isinstance(last, Answer)
    return last.text
