"""Checks a client's JSON schema in a separate process, before this one compiles it.

The library that compiles schemas has limits, but not for all of its work: a schema of some hundred characters
can keep it busy for minutes, and a long chain of references overflows its stack, which ends the process.
"""

from __future__ import annotations

import json
import sys
import threading
from functools import lru_cache

from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper

from lrqk_cli.errors import LrqkError, UsageError
from lrqk_cli.limited_process import (
    EXIT_TOO_MUCH,
    FailedProcessError,
    TooMuchError,
    limit_resources,
    run_limited,
)

# An ordinary schema takes some milliseconds.
_CPU_SECONDS = 2
_MEMORY_BYTES = 1 << 30
# Less than any thread of the server has, so that what this process can compile does not overflow that one.
_STACK_BYTES = 512 << 10
# Between two signs: a small model would otherwise write blanks without end.
_BLANKS = r" |\n{1,2}[ \t]{0,40}"
_WORDS = 200


def check_schema(schema: str) -> None:
    """Refuse a JSON schema that cannot be compiled.

    Raises:
        UsageError: it is not valid or not supported, or takes too much to compile.
        LrqkError: the process cannot run.
    """
    if (fault := _fault(schema)) is not None:
        raise UsageError(fault, "Simplify the schema.")


def grammar_of(schema: str) -> str:
    """Return the grammar of a schema, for the library."""
    return LLMatcher.grammar_from_json_schema(schema, overrides={"whitespace_pattern": _BLANKS})


def limits() -> LLParserLimits:
    """Return limits of compiling and obeying a grammar; the states take about 2 KiB each."""
    return LLParserLimits(max_lexer_states=50_000, verbose_errors=False)


def one_line(words: str) -> str:
    """Return the library's words as a part of a sentence."""
    return " ".join(words.split())[:_WORDS].rstrip(".")


@lru_cache(maxsize=64)
def _fault(schema: str) -> str | None:
    try:
        words: str = json.loads(run_limited(__name__, schema, _CPU_SECONDS))
    except TooMuchError:
        most = f"{_CPU_SECONDS} seconds, 1 GiB of memory or half a MiB of stack"
        return f"The JSON schema takes more than {most} to compile."
    except FailedProcessError as error:
        raise LrqkError(
            f"The process that checks JSON schemas failed: {error}.",
            "Check the installation: pip install --force-reinstall llguidance.",
        ) from None
    return f"The JSON schema cannot be used: {one_line(words)}." if words else None


class _ByteTokenizer:
    """A token for each byte, and one that ends a text."""

    eos_token_id = 256
    bos_token_id = None
    tokens = (*(bytes([value]) for value in range(256)), b"<end>")
    special_token_ids = (256,)

    def __call__(self, text: bytes) -> list[int]:
        return [*text]


def main(cpu_seconds: int) -> None:
    """Compile the schema from stdin, and write what is wrong with it; the entry point of a child process."""
    schema, words = sys.stdin.read(), list[str]()
    limit_resources(cpu_seconds, _MEMORY_BYTES)
    threading.stack_size(_STACK_BYTES)
    thread = threading.Thread(target=lambda: words.append(_compiled(schema)))
    thread.start()
    thread.join()
    if not words:  # the library has failed
        sys.exit(EXIT_TOO_MUCH)
    sys.stdout.write(json.dumps(words[0]))


def _compiled(schema: str) -> str:
    """Return what is wrong with a schema, in the library's words; empty if it is right."""
    tokenizer = LLTokenizer(TokenizerWrapper(_ByteTokenizer()))
    try:
        matcher = LLMatcher(tokenizer, grammar_of(schema), log_level=0, limits=limits())
    except ValueError as error:
        return str(error) or "it is no JSON"
    matcher.compute_bitmask()
    return matcher.get_error()
