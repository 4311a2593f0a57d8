"""Renders a chat template in a separate process, which is stopped if it takes too much time or memory.

A template is a program that comes with a model. transformers' sandbox keeps it from accessing anything else,
but not from computing for days or filling the memory, as a power of large numbers does. A template is
rendered once for each model, when it is split into pieces, which are kept as tokens.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from lrqk_cli.errors import ModelError
from lrqk_cli.limited_process import (
    EXIT_TOO_MUCH,
    FailedProcessError,
    TooMuchError,
    limit_resources,
    run_limited,
)

# The messages of a conversation, and the template's variables beside these.
Job = tuple[Sequence[Mapping[str, str]], Mapping[str, Any]]

# An ordinary template takes some milliseconds and writes some hundred characters.
_CPU_SECONDS = 5
_MEMORY_BYTES = 2 << 30
_CHARACTERS = 1 << 20
_TOO_MUCH = f"it takes more than {_CPU_SECONDS} seconds, 2 GiB of memory or a million characters"


@dataclass(frozen=True, slots=True)
class TemplateFailure:
    """The error of a template that refused a conversation or failed."""

    reason: str


def render(template: str, jobs: Sequence[Job]) -> list[str | TemplateFailure]:
    """Render conversations, each up to the start of an answer unless its variables say otherwise.

    Raises:
        ModelError: the template takes too much time or memory, or writes too much text.
    """
    request = json.dumps([template, jobs])
    return [TemplateFailure(text) if failed else text for failed, text in _render(request)]


@lru_cache(maxsize=16)
def _render(request: str) -> list[tuple[bool, str]]:
    try:
        output = run_limited(__name__, request, _CPU_SECONDS)
    except TooMuchError:
        raise ModelError(
            f"The model's chat template was stopped: {_TOO_MUCH}.",
            "Use a model with an ordinary chat template.",
        ) from None
    except FailedProcessError as error:
        raise ModelError(
            f"The process that renders the model's chat template failed: {error}.",
            "Check the installation: pip install --force-reinstall transformers jinja2.",
        ) from None
    rendered: list[tuple[bool, str]] = json.loads(output)
    return rendered


def main(cpu_seconds: int) -> None:
    """Render the conversations from stdin within limits; the entry point of the child process."""
    # Templates are written for transformers' environment, which closes known ways out of the sandbox.
    from transformers.utils.chat_template_utils import render_jinja_template

    template, jobs = json.loads(sys.stdin.buffer.read())
    limit_resources(cpu_seconds, _MEMORY_BYTES)
    answers: list[tuple[bool, str]] = []
    for conversation, variables in jobs:
        try:
            rendered: Any = render_jinja_template(
                [conversation], chat_template=template, **{"add_generation_prompt": True, **variables}
            )
            answers.append((False, rendered[0][0]))
        except MemoryError:
            sys.exit(EXIT_TOO_MUCH)
        except Exception as error:
            answers.append((True, str(error) or type(error).__name__))
    if sum(len(text) for _, text in answers) > _CHARACTERS:
        sys.exit(EXIT_TOO_MUCH)
    sys.stdout.write(json.dumps(answers))
