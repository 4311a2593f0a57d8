"""Renders a chat template in a separate process, which is stopped if it takes too much time or memory.

A template is a program that comes with a model. transformers' sandbox keeps it from accessing anything else,
but not from computing for days or filling the memory: a power of large numbers does not return to Python
before it is done, so only the operating system can stop it. A template is rendered once for each model, when
it is split into pieces, which are kept as tokens.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from lrqk_cli.errors import ModelError

# The messages of a conversation, and the template's variables beside these.
Job = tuple[Sequence[Mapping[str, str]], Mapping[str, Any]]

# An ordinary template takes some milliseconds and writes some hundred characters.
_CPU_SECONDS = 5
_MEMORY_BYTES = 2 << 30
_CHARACTERS = 1 << 20
# For systems without resource limits; includes the start of the process.
_WALL_SECONDS = 60
_EXIT_TOO_MUCH = 3
_TOO_MUCH = f"it takes more than {_CPU_SECONDS} seconds, 2 GiB of memory or a million characters"

# The child gets the paths of this process: isolated mode would ignore PYTHONPATH, and any other mode would
# search the current folder first, which may hold untrusted modules.
_START = "import sys; sys.path[:] = {!r}; from lrqk_cli.models.rendering import main; main({})"


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
    command = [sys.executable, "-I", "-c", _START.format(sys.path, _CPU_SECONDS)]
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}  # more threads would reserve memory
    try:
        done = subprocess.run(
            command,
            input=request,
            capture_output=True,
            encoding="utf-8",
            env=environment,
            timeout=_WALL_SECONDS,
            check=False,
        )
        code, output = done.returncode, done.stdout
    except subprocess.TimeoutExpired:
        code = _EXIT_TOO_MUCH
    # A resource limit of the system ends the process by a signal.
    if code == _EXIT_TOO_MUCH or code < 0:
        raise ModelError(
            f"The model's chat template was stopped: {_TOO_MUCH}.",
            "Use a model with an ordinary chat template.",
        )
    if code != 0:
        reason = (done.stderr.strip().splitlines() or ["no reason was given"])[-1]
        raise ModelError(
            f"The process that renders the model's chat template failed: {reason}.",
            "Check the installation: pip install --force-reinstall transformers jinja2.",
        )
    rendered: list[tuple[bool, str]] = json.loads(output)
    return rendered


def main(cpu_seconds: int) -> None:
    """Render the conversations from stdin within limits; the entry point of the child process."""
    # Templates are written for transformers' environment, which closes known ways out of the sandbox.
    from transformers.utils.chat_template_utils import render_jinja_template

    template, jobs = json.loads(sys.stdin.buffer.read())
    _limit(cpu_seconds)
    answers: list[tuple[bool, str]] = []
    for conversation, variables in jobs:
        try:
            rendered: Any = render_jinja_template(
                [conversation], chat_template=template, **{"add_generation_prompt": True, **variables}
            )
            answers.append((False, rendered[0][0]))
        except MemoryError:
            sys.exit(_EXIT_TOO_MUCH)
        except Exception as error:
            answers.append((True, str(error) or type(error).__name__))
    if sum(len(text) for _, text in answers) > _CHARACTERS:
        sys.exit(_EXIT_TOO_MUCH)
    sys.stdout.write(json.dumps(answers))


def _limit(cpu_seconds: int) -> None:
    with contextlib.suppress(ImportError):  # Windows has no such module
        import resource

        used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
        for kind, limit in (
            (resource.RLIMIT_CPU, int(used) + cpu_seconds),
            (resource.RLIMIT_AS, _MEMORY_BYTES),
            (resource.RLIMIT_CORE, 0),
        ):
            # The system may have a lower limit, or not support this one.
            with contextlib.suppress(ValueError, OSError):
                resource.setrlimit(kind, (limit, limit))
