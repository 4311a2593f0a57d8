"""The greedy answers of transformers' own full attention, for every family."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from tiny import FAMILIES, random_tokens, tiny_model
from transformers import PreTrainedModel

from lrqk_cli.config import GenerationConfig, LrqkConfig
from lrqk_cli.engine.generate import Engine
from lrqk_cli.models.support import spec_from_config

PROMPT, QUESTION, OTHER_QUESTION = (random_tokens(count, count).tolist() for count in (90, 20, 33))
ANSWER = 6


@cache
def model_of(family: str, _use: str = "engine") -> PreTrainedModel:
    return tiny_model(family)


@cache
def expected_answer(family: str, text: tuple[int, ...]) -> list[int]:
    model, prompt = model_of(family, "reference"), torch.tensor([text])
    model.set_attn_implementation("eager")
    answered = model.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=ANSWER, do_sample=False,
        pad_token_id=0, eos_token_id=None,
    )  # fmt: skip
    return answered[0, len(text) :].tolist()


def ask(engine: Engine, question: list[int], family: str) -> None:
    """Ask, and compare the answer with transformers'."""
    list(engine.prefill(question))
    text = engine.tokens
    answer = [step.token for step in engine.generate(GenerationConfig(max_new_tokens=ANSWER), stop_ids=())]
    assert answer == expected_answer(family, text)


@pytest.mark.parametrize("segment", [1, 7, 64])
@pytest.mark.parametrize("family", FAMILIES)
def test_answers_over_two_turns_one_of_them_replaced(family: str, segment: int) -> None:
    model = model_of(family)
    config = LrqkConfig(hot=256, top_k=64, recent=16, segment=segment)
    with Engine(model, spec_from_config(model.config, "tiny"), config, 400) as engine:
        beginning = engine.rewind_point()
        ask(engine, PROMPT, family)
        first_turn = engine.rewind_point()
        ask(engine, QUESTION, family)
        engine.rewind(first_turn)
        ask(engine, OTHER_QUESTION, family)
        engine.rewind(beginning)
        ask(engine, PROMPT[:-5], family)
