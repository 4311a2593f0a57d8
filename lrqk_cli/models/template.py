"""The text that a chat template puts around the contents of messages."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lrqk_cli.errors import ModelError
from lrqk_cli.models.reasoning import (
    ReasoningMarks,
    empty_thought,
    marks_after,
    mentioned_tags,
    rendered_marks,
)
from lrqk_cli.models.rendering import Job, TemplateFailure, render

# Placeholders for contents in the rendered template: no template trims, escapes or contains them.
_SYSTEM, _USER, _ASSISTANT, _NEXT_USER, _REASONING = (
    f"lrqk{name}7f3a91" for name in ("system", "user", "answer", "next", "thought")
)
_ASK = {"role": "user", "content": _USER}
_ANSWER = {"role": "assistant", "content": _ASSISTANT}
_ASK_NEXT = {"role": "user", "content": _NEXT_USER}
# Templates read the reasoning of a message from one of these fields.
_REASONED = {**_ANSWER, "reasoning_content": _REASONING, "reasoning": _REASONING, "thinking": _REASONING}
_CONVERSATIONS = (
    [_ASK],
    [_ASK, _ANSWER, _ASK_NEXT],
    [{"role": "system", "content": _SYSTEM}, _ASK],
)
# Of templates whose effort cannot be none.
_LEAST_EFFORT = "low"
_Rendered = str | TemplateFailure


@dataclass(frozen=True, slots=True)
class TemplateText:
    """What a template writes around contents.

    Attributes:
        before: before the first user content, without a system text.
        closing: from the end of a user content to where the answer begins.
        answered: the same in an earlier turn, whose reasoning is gone.
        between: from the end of an answer to the next user content.
        around_system: before a system text, and from there to the user content; None without a system role.
        marks: how the model marks reasoning after ``closing``; None if it does not reason there.
        can_think: whether the template has reasoning at all.
    """

    before: str
    closing: str
    answered: str
    between: str
    around_system: tuple[str, str] | None
    marks: ReasoningMarks | None
    can_think: bool


def read_template(
    template: str, variables: Mapping[str, Any], control_words: re.Pattern[str] | None, *, thinks: bool
) -> TemplateText:
    """Render a template with placeholders, and cut the results at these.

    Args:
        variables: the template's variables beside the messages, such as the special tokens.
        control_words: a pattern for control tokens.
        thinks: switch reasoning on; otherwise off, if the template can.

    Raises:
        ModelError: the template cannot be rendered, or does not show each message once.
    """
    off, on = ({**variables, **switch} for switch in _switches(template))
    jobs: list[Job] = [(conversation, mode) for mode in (off, on) for conversation in _CONVERSATIONS]
    # Some templates show reasoning only in the last message of all.
    jobs += [([_ASK, _REASONED], {**on, "add_generation_prompt": False}), ([_ASK, _REASONED, _ASK_NEXT], on)]
    *rendered, reasoned, earlier = render(template, jobs)
    without, with_reasoning = rendered[: len(_CONVERSATIONS)], rendered[len(_CONVERSATIONS) :]
    single, several, with_system = with_reasoning if thinks else without
    before, closing = _split(_text_of(single), _USER)
    answered, after_answer = _split(_split(_text_of(several), _USER)[1], _ASSISTANT)
    around = _around_reasoning(template, without[0], with_reasoning[0], reasoned, control_words)
    marks = None
    if around is not None and (thinks or not _is_off(single, with_reasoning[0], off)):
        are_kept = _REASONING in _after_user(earlier)
        marks = marks_after(closing, around, answered, are_kept=are_kept, thinks=thinks)
    if marks is None or not marks.are_expected:
        # The answer of an earlier turn stays as it was generated, behind an empty thought if there was one.
        answered = closing
    between = _split(after_answer, _NEXT_USER)[0]
    return TemplateText(
        before, closing, answered, between, _around_system(with_system), marks, around is not None
    )


def _after_user(rendered: _Rendered) -> str:
    """Return what follows the first question; nothing of a conversation that was refused."""
    return "" if isinstance(rendered, TemplateFailure) else rendered.partition(_USER)[2]


def _switches(template: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the variables that switch reasoning off and on, by the names that templates give them."""
    off, on = ({"enable_thinking": value, "thinking": value} for value in (False, True))
    if "reasoning_effort" not in template:
        return off, on
    if re.search(r"""(["'])none\1""", template):
        return {**off, "reasoning_effort": "none"}, {**on, "reasoning_effort": "high"}
    return {**off, "reasoning_effort": _LEAST_EFFORT}, on


def _is_off(single: _Rendered, with_reasoning: _Rendered, off: Mapping[str, Any]) -> bool:
    """Whether a template has switched reasoning off: it renders a question otherwise than with reasoning.

    Args:
        off: the variables that switch it off, of which some only ask for little reasoning.
    """
    return single != with_reasoning and off.get("reasoning_effort") != _LEAST_EFFORT


def _around_reasoning(
    template: str,
    off: _Rendered,
    on: _Rendered,
    reasoned: _Rendered,
    control_words: re.Pattern[str] | None,
) -> tuple[str, str] | None:
    """Return the text from a question to its reasoning, and from there to the answer; None without any.

    Args:
        off, on: a question; reasoned: a question and an answer with reasoning.
    """
    closing = _after_user(on)
    return (
        rendered_marks(_after_user(reasoned), _REASONING, _ASSISTANT)
        or empty_thought(closing, _after_user(off), control_words)
        or mentioned_tags(template, closing)
    )


def _around_system(rendered: _Rendered) -> tuple[str, str] | None:
    if isinstance(rendered, TemplateFailure) or rendered.count(_SYSTEM) != 1:
        return None
    start, rest = _split(rendered, _SYSTEM)
    return start, _split(rest, _USER)[0]


def _text_of(rendered: _Rendered) -> str:
    if isinstance(rendered, TemplateFailure):
        raise ModelError(
            f"The model's chat template cannot be rendered: {rendered.reason.rstrip('.')}.",
            "Use a model whose template takes system, user and assistant messages.",
        )
    return rendered


def _split(rendered: str, sentinel: str) -> tuple[str, str]:
    before, found, after = rendered.partition(sentinel)
    if not found or sentinel in after:
        raise ModelError(
            "The model's chat template does not show each message once.",
            "Use a model with an ordinary chat template.",
        )
    return before, after
