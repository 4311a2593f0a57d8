"""Chat templates of models that reason: short ones, with the mechanics of well-known families."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.utils.chat_template_utils import render_jinja_template

from lrqk_cli.models.rendering import Job, TemplateFailure

MARKS = (
    *("<|im_start|>", "<|im_end|>"),
    *("<think>", "</think>", "<|channel>", "<channel|>", "[THINK]", "[/THINK]"),
    *("<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|return|>"),
)
_LAST_USER = (
    "{% set ns = namespace(last=0) %}{% for m in messages %}"
    "{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
)
_TURN = "<|im_start|>{{ m.role }}\n"
_THOUGHT = "<think>\n{{ m.reasoning_content }}\n</think>\n\n"
_REASONED = "m.reasoning_content is defined and loop.index0 > ns.last"
_OFF = "{% if enable_thinking is defined and not enable_thinking %}"
_END = "<|im_end|>\n{% endfor %}"
_CHATML = "{% for m in messages %}" + _TURN
_PROMPT = "{% if add_generation_prompt %}<|im_start|>assistant\n"
_CUT = "{{ m.content.split('</think>')[-1] }}"

# Knows the tag only as a word of the system text.
THOUGHTLESS = (
    "<|im_start|>system\nYou <think>.<|im_end|>\n"
    + _CHATML
    + "{{ m.content }}"
    + _END
    + _PROMPT
    + "{% endif %}"
)


@dataclass(frozen=True)
class Thinking:
    """A template, and what is known of it.

    Attributes:
        start: the mark that the model writes; empty where the template opens the reasoning.
        end: the mark between reasoning and answer.
        direct: what the model writes before an answer without reasoning.
        keeps: the reasoning of earlier turns stays.
        always: it cannot be switched off.
        leaves_empty_thoughts: without reasoning, answers stay behind an empty thought, which the template
            itself leaves out of earlier turns.
        stop: ends an answer.
    """

    text: str
    start: str = "<think>"
    end: str = "</think>"
    direct: str = ""
    keeps: bool = False
    always: bool = False
    leaves_empty_thoughts: bool = True
    stop: str = "<|im_end|>"

    def render(
        self, tokenizer: PreTrainedTokenizerBase, messages: Sequence[dict[str, str]], thinks: bool = True
    ) -> str:
        """Return what transformers renders, up to the next answer."""
        effort: dict[str, Any] = {} if thinks else {"reasoning_effort": "low"}
        if "'high'" in self.text:
            effort = {"reasoning_effort": "high" if thinks else "none"}
        rendered = tokenizer.apply_chat_template(
            list(messages),
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=thinks,
            thinking=thinks,
            **effort,
        )
        assert isinstance(rendered, str)
        return rendered


TEMPLATES = {
    # Qwen3: the model opens the thought itself; off is an empty thought.
    "opened by the model": Thinking(
        _LAST_USER + _CHATML + "{% if " + _REASONED + " %}" + _THOUGHT + "{% endif %}{{ m.content }}"
        + _END + _PROMPT + _OFF + "<think>\n\n</think>\n\n{% endif %}{% endif %}"
    ),
    # Qwen3.5: the template opens it.
    "opened by the template": Thinking(
        _LAST_USER + _CHATML + "{% if " + _REASONED + " %}" + _THOUGHT + "{% endif %}{{ m.content }}"
        + _END + _PROMPT + _OFF + "<think>\n\n</think>\n\n{% else %}<think>\n{% endif %}{% endif %}",
        start="",
    ),
    # GLM-4.5: an empty thought before every earlier answer; off is said in the question, too.
    "empty thoughts": Thinking(
        _LAST_USER + "{% for m in messages %}<|im_start|>{{ m.role }}"
        "{% if m.role == 'user' %}\n{{ m.content }}" + _OFF + "/nothink{% endif %}"
        "{% elif " + _REASONED + " %}\n<think>{{ m.reasoning_content }}</think>\n"
        "{{ m.content }}{% else %}\n<think></think>\n{{ m.content }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant" + _OFF
        + "\n<think></think>{% endif %}{% endif %}",
        direct="<think></think>",
    ),
    # SmolLM3: reasoning is never rendered, and the system text says whether there is any.
    "said in the system text": Thinking(
        "<|im_start|>system\nMode: " + _OFF + "/no_think{% else %}/think{% endif %}<|im_end|>\n" + _CHATML
        + "{{ m.content }}" + _END + _PROMPT + _OFF + "<think>\n\n</think>\n{% endif %}{% endif %}"
    ),
    # DeepSeek-V3.1: a variable of another name; one tag or the other.
    "one tag or the other": Thinking(
        _CHATML + "{% if m.role == 'assistant' %}</think>{% endif %}" + _CUT + _END + _PROMPT
        + "{% if thinking is defined and thinking %}<think>{% else %}</think>{% endif %}{% endif %}",
        start="",
        leaves_empty_thoughts=False,
    ),
    # DeepSeek-R1, QwQ: always; earlier answers are cut.
    "always": Thinking(
        _CHATML + _CUT + _END + _PROMPT + "<think>\n{% endif %}",
        start="",
        always=True,
        leaves_empty_thoughts=False,
    ),
    # gpt-oss: channels, and an effort that has no end.
    "harmony": Thinking(
        "<|start|>system<|message|>Reasoning: {{ reasoning_effort or 'medium' }}<|end|>"
        "{% for m in messages %}"
        "{% if m.role != 'assistant' %}<|start|>{{ m.role }}<|message|>{{ m.content }}<|end|>"
        "{% elif loop.last and not add_generation_prompt %}"
        "{% if 'thinking' in m %}<|start|>assistant<|channel|>analysis<|message|>{{ m.thinking }}<|end|>"
        "{% endif %}<|start|>assistant<|channel|>final<|message|>{{ m.content }}<|return|>{% else %}"
        "<|start|>assistant<|channel|>final<|message|>{{ m.content }}<|end|>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|start|>assistant{% endif %}",
        start="<|channel|>analysis<|message|>",
        end="<|end|><|start|>assistant<|channel|>final<|message|>",
        direct="<|channel|>final<|message|>",
        always=True,
        leaves_empty_thoughts=False,
        stop="<|end|>",
    ),
    # Gemma 4: shows no reasoning of a finished turn, but an empty thought switches it off.
    "never rendered": Thinking(
        "{% if enable_thinking %}<|im_start|>system\n<|think|><|im_end|>\n{% endif %}" + _CHATML
        + "{{ m.content }}" + _END + _PROMPT
        + "{% if not enable_thinking %}<|channel>thought\n<channel|>{% endif %}{% endif %}",
        start="<|channel>thought",
        end="<channel|>",
    ),
    # Mistral 4: tags of its own, and an effort of none.
    "an effort of none": Thinking(
        "{% set effort = reasoning_effort or 'none' %}{% if effort not in ['none', 'high'] %}"
        "{{ raise_exception('no such effort') }}{% endif %}" + _CHATML
        + "{% if m.reasoning is defined %}[THINK]{{ m.reasoning }}[/THINK]{% endif %}{{ m.content }}" + _END
        + _PROMPT + "{% if effort == 'high' %}[THINK]{% endif %}{% endif %}",
        start="",
        end="[/THINK]",
        keeps=True,
    ),
}  # fmt: skip


# The templates, with reasoning and, where it stands in the context as the template says, without.
MODES = [
    (name, thinks)
    for name, template in TEMPLATES.items()
    for thinks in (True, False)
    if thinks or not template.leaves_empty_thoughts
]


def render_here(template: str, jobs: Sequence[Job]) -> list[str | TemplateFailure]:
    """Render as ``rendering.render`` does, but in this process, which takes less time."""
    rendered = list[str | TemplateFailure]()
    for messages, variables in jobs:
        settings = {"add_generation_prompt": True, **variables}
        try:
            rendered += render_jinja_template([messages], chat_template=template, **settings)[0]
        except Exception as error:
            rendered.append(TemplateFailure(str(error)))
    return rendered


def thinking_tokenizer(template: str) -> PreTrainedTokenizerFast:
    """Return a tokenizer whose tokens are bytes and marks."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({letter: number for number, letter in enumerate(letters)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_tokens([AddedToken(mark, special="|" in mark) for mark in MARKS])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>")
    tokenizer.chat_template = template
    return tokenizer
