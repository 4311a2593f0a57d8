"""How templates of models that reason mark it, in short templates with the mechanics of theirs."""

from __future__ import annotations

import pytest
from thinking import MODES, TEMPLATES, THOUGHTLESS, render_here, thinking_tokenizer
from transformers import PreTrainedTokenizerFast

from lrqk_cli.errors import UsageError
from lrqk_cli.models.prompt import ChatPrompt

QUESTION, NEXT = {"role": "user", "content": "How many?"}, {"role": "user", "content": "Sure?"}
ANSWER = {"role": "assistant", "content": "Three."}


@pytest.fixture(autouse=True)
def quick_rendering(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lrqk_cli.models.template.render", render_here)


@pytest.mark.parametrize("name", TEMPLATES)
def test_marks_are_found_by_rendering(name: str):
    template = TEMPLATES[name]
    prompt = ChatPrompt(thinking_tokenizer(template.text), thinks=True)
    assert prompt.reasoning is not None
    marks = prompt.reasoning
    assert (marks.start.strip(), marks.end.strip()) == (template.start, template.end)
    assert marks.answer.strip() == template.direct
    assert marks.are_kept == template.keeps


@pytest.mark.parametrize("name", TEMPLATES)
def test_what_comes_ahead_of_reasoning_or_of_an_answer_can_be_written_for_the_model(name: str):
    template = TEMPLATES[name]
    tokenizer = thinking_tokenizer(template.text)
    prompt = ChatPrompt(tokenizer, thinks=True)
    assert tokenizer.decode(prompt.reasoning_start()).strip() == template.start
    end = tokenizer.decode(prompt.reasoning_end())
    assert tokenizer.decode(prompt.answer_start()) == end[len(end.rstrip()) :]
    direct = template.direct if template.always else ""
    assert tokenizer.decode(ChatPrompt(tokenizer).reasoning_start()).strip() == direct


@pytest.mark.parametrize(("name", "thinks"), MODES)
def test_an_answered_turn_is_what_the_template_renders(name: str, thinks: bool):
    template = TEMPLATES[name]
    tokenizer = thinking_tokenizer(template.text)
    prompt = ChatPrompt(tokenizer, thinks=thinks)
    tokens = prompt.opening() + prompt.text("How many?") + prompt.answered() + prompt.text("Three.")
    tokens += prompt.between() + prompt.text("Sure?") + prompt.closing()
    assert tokenizer.decode(tokens) == template.render(tokenizer, [QUESTION, ANSWER, NEXT], thinks)


@pytest.mark.parametrize("name", TEMPLATES)
def test_off_is_off_where_a_template_can_switch(name: str):
    template = TEMPLATES[name]
    prompt = ChatPrompt(thinking_tokenizer(template.text))
    assert (prompt.reasoning is not None) == template.always
    if not template.always:
        assert prompt.answered() == prompt.closing()


def test_the_part_of_an_end_mark_that_is_written_is_not_repeated():
    tokenizer = thinking_tokenizer(TEMPLATES["harmony"].text)
    prompt = ChatPrompt(tokenizer, thinks=True)
    end = "<|end|><|start|>assistant<|channel|>final<|message|>"
    assert tokenizer.decode(prompt.reasoning_end()) == end
    assert tokenizer.decode(prompt.reasoning_end("<|end|><|start|>")) == end.removeprefix("<|end|><|start|>")


@pytest.mark.parametrize("template", [None, THOUGHTLESS], ids=["none", "thoughtless"])
def test_a_template_without_reasoning_cannot_think(tokenizer: PreTrainedTokenizerFast, template: str | None):
    tokenizer.chat_template = template
    with pytest.raises(UsageError, match="does not reason") as refusal:
        ChatPrompt(tokenizer, thinks=True)
    assert "`think`" in refusal.value.hint
    assert ChatPrompt(tokenizer).reasoning is None


def test_marks_of_reasoning_in_a_text_are_no_marks():
    tokenizer = thinking_tokenizer(TEMPLATES["harmony"].text)
    prompt = ChatPrompt(tokenizer, thinks=True)
    tokens = prompt.text("<|end|><|start|>assistant<|channel|>final<|message|>")
    assert not {*tokens} & {*prompt.reasoning_end()} & {*tokenizer.added_tokens_decoder}
