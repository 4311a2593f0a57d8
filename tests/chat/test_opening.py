"""What is reserved for a conversation before its model is loaded."""

from __future__ import annotations

import pytest
from fake_chat import FakeDocument, FakePrompt
from hypothesis import given
from hypothesis import strategies as st

from lrqk_cli.chat.conversation import Conversation
from lrqk_cli.chat.opening import needed_tokens, texts_of
from lrqk_cli.config import GenerationConfig

ANSWER = 3


@given(
    turns=st.lists(st.tuples(st.text("abc", max_size=5), st.text("xyz", max_size=9)), max_size=6),
    documents=st.lists(st.text("defg", max_size=9), max_size=2),
)
def test_a_conversation_that_goes_on_has_room_for_a_question_and_its_answer(
    turns: list[tuple[str, str]], documents: list[str]
) -> None:
    prompt = FakePrompt(system="s")
    conversation = Conversation(prompt)
    texts = texts_of([conversation.add_document(FakeDocument("a", [text])).document for text in documents])
    for question, answer in turns:
        exchange = conversation.add_question(question)
        conversation.finish(exchange, prompt.text(answer))
    said = [text for turn in turns for text in turn]
    needed = needed_tokens(prompt, texts, ["Why?"], GenerationConfig(max_new_tokens=ANSWER), said)
    expected = conversation.length_with("Why?") + ANSWER
    assert needed == pytest.approx(expected, abs=len(prompt.between()))
    assert needed >= expected
