"""The tokens of the model as bytes, and constraints that keep an answer to a JSON schema."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from llguidance import LLMatcher, LLTokenizer
from llguidance.hf import from_tokenizer
from torch import Tensor

from lrqk_cli.errors import UsageError
from lrqk_cli.server.schema_check import check_schema, grammar_of, limits, one_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# A larger schema takes long to compile, and nobody writes one.
_MOST_CHARACTERS = 1 << 18


class GrammarConstraint:
    """Allows the tokens with which an answer can obey its schema; see ``engine.sampling.TokenConstraint``.

    Where the answer is complete, or the grammar has hit a limit of its library, only stop tokens are allowed.

    Args:
        matcher: at the beginning of an answer.
    """

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher

    def allowed(self) -> Tensor:
        """See ``TokenConstraint``."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        return torch.from_numpy(np.unpackbits(bits, bitorder="little")).bool()

    def accept(self, token: int) -> None:
        """See ``TokenConstraint``."""
        self._matcher.consume_token(token)

    def check(self) -> None:
        """Refuse an answer that has ended too early.

        Raises:
            UsageError: the grammar has hit a limit.
        """
        if self._matcher.is_error():
            raise UsageError(
                f"The answer became too complex for its schema: {one_line(self._matcher.get_error())}.",
                "Simplify the schema.",
            )


class Vocabulary:
    """The tokens of a model. All methods may be called from any thread.

    Args:
        stop_ids: tokens that end an answer.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop_ids: Collection[int]) -> None:
        self._tokenizer = tokenizer
        self._stop_ids = sorted(token for token in stop_ids if token < len(tokenizer))
        self._known: LLTokenizer | None = None
        self._lock = Lock()

    def constraint(self, schema: Mapping[str, Any]) -> GrammarConstraint:
        """Return a constraint for one answer.

        Raises:
            UsageError: the schema is not valid or not supported, or takes too much to compile; or the
                tokenizer is not supported.
        """
        try:
            text = json.dumps(schema)
        except RecursionError:
            raise UsageError("The JSON schema is nested too deeply.", "Simplify the schema.") from None
        if len(text) > _MOST_CHARACTERS:
            raise UsageError(
                f"The JSON schema has more than {_MOST_CHARACTERS:,} characters.", "Send a smaller one."
            )
        tokens = self._tokens()
        check_schema(text)
        matcher = LLMatcher(tokens, grammar_of(text), log_level=0, limits=limits())
        constraint = GrammarConstraint(matcher)
        constraint.check()
        return constraint

    def check(self) -> None:
        """Refuse a tokenizer that is not supported.

        Raises:
            UsageError: it does not tell the bytes of its tokens, or no token ends a text.
        """
        self._tokens()

    def bytes_of(self, token: int) -> bytes:
        """Return the bytes of a token, which may be a part of a character.

        Raises:
            UsageError: the tokenizer is not supported.
        """
        tokens = self._tokens()
        return tokens.decode_bytes([token]) if token < tokens.vocab_size else b""

    def _tokens(self) -> LLTokenizer:
        """Return the tokens as the library knows them, which takes a second at the first time."""
        with self._lock:
            if self._known is None:
                try:
                    self._known = from_tokenizer(
                        self._tokenizer,  # type: ignore[arg-type]
                        eos_token=self._stop_ids,
                        slices=LLTokenizer.json_slices(),
                    )
                except ValueError:
                    raise UsageError(
                        "Forms of answers and log probabilities do not work with this model's tokenizer.",
                        "Leave response_format and logprobs out, or serve another model.",
                    ) from None
            return self._known
